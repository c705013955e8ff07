// SPDX-License-Identifier: Apache-2.0
// [[stage]] of run.toml: every field is read, written and compared; rules name stage, key and value; the default
// curricula of the presets. What a run does with stages is in curriculum_test.cc.
#include "hydra/train/stage.h"

#include <gtest/gtest.h>

#include "hydra/train/run_config.h"
#include "hydra/train/testing.h"

namespace hydra::train {
namespace {

using testing::ErrorText;

constexpr const char* kStages = R"(
[optim]
tokens = 100_000
batch_rows = 4
seq_len = 256
[[stage]]
name = "backbone"
share = 0.25
seq_len = 128
parts = ["ssm", "moe"]
router = { mode = "round_robin" }
[[stage]]
name = "attention"
share = 0.5
path_scale.sga = [0.0, 1.0]
landmarks_from = 0.5
router = { mode = "learned", temperature = [2, 1.0], balance = 0.01 }
lr = { scale = [1.0, 0.5], pkm_table = 4.0, moe = 0.5 }
bias = { workspace = [-4.0, -1.0], pkm = -3 }
data = [{ path = "a", share = 0.7 }, { path = "b", share = 0.3 }]
[[stage.watch]]
metric = "moe.load_cv"
below = 0.3
stop = true
[[stage.watch]]
metric = "off/sga"
above = 0
[[stage]]
name = "joint"
share = 0.25
bias = { }
)";

TEST(Stage, FieldsAreReadAndWritten) {
  const RunConfig run = ParseRunConfig(kStages, "run.toml");
  ASSERT_EQ(run.stages.size(), 3U);
  const Stage& attention = run.stages[1];
  EXPECT_EQ(run.stages[0].router_mode, RouterMode::kRoundRobin);
  EXPECT_EQ(run.stages[0].parts, (std::vector<std::string>{"ssm", "moe"}));
  EXPECT_EQ(attention.path_scale[1], Ramp(0, 1));
  EXPECT_EQ(attention.path_scale[0], Ramp(1));
  EXPECT_EQ(attention.router_temperature, Ramp(2, 1));
  EXPECT_EQ(attention.router_balance, Ramp(0.01));
  EXPECT_EQ(attention.lr_scale, Ramp(1, 0.5));
  EXPECT_EQ(attention.lr_parts[2], 0.5);
  EXPECT_EQ(attention.lr_pkm_table, 4);
  EXPECT_EQ(attention.workspace_bias, Ramp(-4, -1));
  EXPECT_EQ(attention.pkm_bias, Ramp(-3));
  ASSERT_EQ(attention.data.size(), 2U);
  EXPECT_EQ(attention.data[1], (DataShare{"b", 0.3}));
  ASSERT_EQ(attention.watches.size(), 2U);
  EXPECT_EQ(attention.watches[0], (WatchRule{"moe/load_cv", std::nullopt, 0.3, true}));
  EXPECT_EQ(attention.watches[1], (WatchRule{"off/sga", 0.0, std::nullopt, false}));
  EXPECT_EQ(ParseRunConfig(RunToml(run), "again"), run) << RunToml(run);
  EXPECT_FALSE(attention.watches[1].Holds(0));
  EXPECT_TRUE(attention.watches[1].Holds(0.1));
  EXPECT_DOUBLE_EQ(Ramp(2, 1).At(0.25), 1.75);
}

TEST(Stage, SpansFollowFromSharesOfTokensOrSteps) {
  RunConfig run = ParseRunConfig(kStages, "run.toml");
  // 25,000 tokens at 8 x 128, 50,000 and 25,000 at 4 x 256: steps of 1,024 tokens.
  std::vector<StageSpan> spans = run.StageSpans();
  EXPECT_EQ(spans[0].rows, 8);
  EXPECT_EQ(spans[0].seq_len, 128);
  EXPECT_EQ(spans[1].rows, 4);
  EXPECT_EQ(spans[0].steps, 24);
  EXPECT_EQ(spans[1].first, 24);
  EXPECT_EQ(spans[1].steps, 49);
  EXPECT_EQ(run.TotalSteps(), 97);
  run.optim.tokens = 0;
  run.optim.steps = 10;
  spans = run.StageSpans();
  EXPECT_EQ(spans[0].steps, 3);  // 2.5 and 7.5 are rounded
  EXPECT_EQ(spans[2].first, 8);
  EXPECT_EQ(run.TotalSteps(), 10);
  run.optim.steps = 1;
  EXPECT_NE(ErrorText([&] { (void)run.StageSpans(); }).find("\"backbone\""), std::string::npos);
}

TEST(Stage, CurriculumByNameAndStagesReplaceOneAnother) {
  EXPECT_EQ(ParseRunConfig("curriculum = \"default\"", "run").curriculum, "default");
  EXPECT_EQ(ParseRunConfig("curriculum = \"default\"", "run", {"curriculum=none"}), RunConfig{});
  const RunConfig run = ParseRunConfig(kStages, "run", {"curriculum=default"});
  EXPECT_EQ(run.curriculum, "default");
  EXPECT_TRUE(run.stages.empty());
  EXPECT_EQ(ParseRunConfig(RunToml(run), "again"), run);
}

TEST(Stage, ErrorsNameStageKeyAndValue) {
  const std::pair<const char*, const char*> cases[] = {
      {"stage = 3", "stage = 3: must be tables [[stage]]"},
      {"[[stage]]\nshare = 1", "stage[1].name: missing"},
      {"[[stage]]\nname = \"a\"\nshare = 0", "stage[1].share = 0"},
      {"[[stage]]\nname = \"a\"\nshare = 0.4", "add up to 0.4"},
      {"[[stage]]\nname = \"a\"\nshare = 1.5", "stage[1].share = 1.5"},
      {"[[stage]]\nname = \"a\"\nshare = 0.5\n[[stage]]\nname = \"a\"\nshare = 0.5", "another stage has this name"},
      {"[[stage]]\nname = \"a\"\nshare = 1\nseqlen = 3", "unknown key seqlen (did you mean seq_len?)"},
      {"[[stage]]\nname = \"a\"\nshare = 1\nlr.sgaa = 3", "unknown key lr.sgaa"},
      {"[[stage]]\nname = \"a\"\nshare = 1\npath_scale.sga = [1, 2, 3]", "stage[1].path_scale.sga"},
      {"[[stage]]\nname = \"a\"\nshare = 1\nrouter.mode = \"x\"", "must be learned or round_robin"},
      {"[[stage]]\nname = \"a\"\nshare = 1\nrouter.temperature = [2, 0]", "stage[1].router.temperature = 0"},
      {"[[stage]]\nname = \"a\"\nshare = 1\ndata = [{ path = \"x\" }]", "stage[1].data[0].share: missing"},
      {"[[stage]]\nname = \"a\"\nshare = 1\ndata = [{ path = \"x\", share = 0.5 }]", "the shares add up to 0.5"},
      {"[[stage]]\nname = \"a\"\nshare = 1\nwatch = [{ below = 1 }]", "stage[1].watch[0].metric: missing"},
      {"[[stage]]\nname = \"a\"\nshare = 1\nwatch = [{ metric = \"moe.loadcv\", below = 1 }]",
       "did you mean moe/load_cv"},
      {"[[stage]]\nname = \"a\"\nshare = 1\nwatch = [{ metric = \"moe.load_cv\" }]", "must have above or below"},
      {"curriculum = \"mine\"", "curriculum = \"mine\": must be default or none"},
      {"curriculum = \"default\"\n[[stage]]\nname = \"a\"\nshare = 1", "only one can be given"},
      {"curriculum = \"default\"\n[optim]\nseq_len = [[0, 64], [5, 128]]", "optim.seq_len"}};
  for (const auto& [text, part] : cases) {
    const std::string error = ErrorText([&, text = text] { (void)ParseRunConfig(text, "bad.toml"); });
    EXPECT_NE(error.find(part), std::string::npos) << error;
    EXPECT_EQ(error.find("bad.toml: "), 0U) << error;
  }
  EXPECT_NE(ErrorText([] { (void)ParseRunConfig("", "run", {"stage.a.share=1"}); }).find("[[stage]]"),
            std::string::npos);
}

TEST(Stage, RulesBetweenStagesAndModel) {
  const ModelConfig model = testing::TinyConfig();
  const auto check = [&](const std::string& stage) {
    return ErrorText([&] {
      const RunConfig run = ParseRunConfig("[[stage]]\nname = \"a\"\nshare = 1\n" + stage, "x.toml");
      CheckStages(run.stages, model, "x.toml");
    });
  };
  for (const auto& [text, part] :
       {std::pair("seq_len = 30", "seq_len = 30: must be a multiple of model_chunk_size = 8"),
        {"parts = [\"sgb\"]", "\"sgb\": must be ssm, sga, moe, workspace or pkm"},
        {"parts = [\"workspace\"]", "no path is on"},
        {"parts = [\"ssm\", \"moe\"]", "sga is not on"},
        {"path_scale.sga = [0, 0.5]", "path_scale.sga ends at 0.5"},
        {"router.mode = \"round_robin\"", "router.mode"},
        {"router.temperature = 2", "router.temperature ends at 2"},
        {"landmarks_from = 1", "landmarks_from = 1"}}) {
    const std::string error = check(text);
    EXPECT_NE(error.find(part), std::string::npos) << error;
    EXPECT_EQ(error.find("x.toml: stage 1 \"a\": "), 0U) << error;
  }
  const RunConfig run = ParseRunConfig("[[stage]]\nname = \"a\"\nshare = 1\nbias.pkm = -2", "x");
  ModelConfig without = model;
  for (LayerConfig& layer : without.layers) layer.pkm = false;
  EXPECT_NO_THROW(CheckStages(run.stages, model, "x"));
  EXPECT_NE(ErrorText([&] { CheckStages(run.stages, without, "x"); }).find("pkm is not on"), std::string::npos);
}

TEST(Stage, TheDefaultCurriculumFitsEveryHydraPreset) {
  for (const std::string& name : PresetNames()) {
    SCOPED_TRACE(name);
    const ModelConfig model = Preset(name);
    if (model.wiring != Wiring::kParallel) {
      EXPECT_NE(ErrorText([&] { (void)DefaultCurriculum(model); }).find("is for Hydra models"), std::string::npos);
      continue;
    }
    RunConfig run = ParseRunConfig("curriculum = \"default\"\n[optim]\ntokens = 400_000_000", "run");
    ResolveCurriculum(model, &run);
    ASSERT_EQ(run.stages.size(), 6U);
    EXPECT_EQ(run.stages[0].parts, (std::vector<std::string>{"ssm", "moe"}));
    EXPECT_EQ(run.stages[5].parts.size(), 5U);
    EXPECT_GT(run.TotalSteps(), 100);
    EXPECT_EQ(ParseRunConfig(RunToml(run), "again"), run);
  }
  EXPECT_EQ(DefaultCurriculum(Hydra1600M())[0].seq_len, 2048);
  EXPECT_EQ(DefaultCurriculum(Hydra1600M())[5].seq_len, 16384);
  EXPECT_EQ(DefaultCurriculum(Hydra29M())[2].seq_len, 2048);  // C is half
  EXPECT_EQ(DefaultCurriculum(HydraNano())[0].seq_len, 128);  // C and Gm are a quarter each
  ModelConfig without = HydraNano();
  for (LayerConfig& layer : without.layers) layer.workspace = false;
  const std::vector<Stage> fewer = DefaultCurriculum(without);
  ASSERT_EQ(fewer.size(), 5U);
  EXPECT_NEAR(fewer[0].share, 0.1 / 0.85, 1e-12);
  EXPECT_NO_THROW(CheckStages(fewer, without, "x"));
}

TEST(Stage, ComparisonNamesStageAndKey) {
  const RunConfig a = ParseRunConfig(kStages, "run");
  RunConfig b = a;
  b.stages[1].landmarks_from = 0.25;
  EXPECT_EQ(CompareRunConfigs(a, b), (std::vector<std::string>{"stage.attention.landmarks_from: 0.5 != 0.25"}));
  b.stages.pop_back();
  EXPECT_EQ(CompareRunConfigs(a, b).size(), 1U);
}

}  // namespace
}  // namespace hydra::train
