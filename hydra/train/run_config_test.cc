// SPDX-License-Identifier: Apache-2.0
// run.toml: every field is read, written and compared; bad files give one clear line.
#include "hydra/train/run_config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hydra/base/error.h"
#include "hydra/train/testing.h"

namespace hydra::train {
namespace {

using testing::ErrorText;

constexpr const char* kText = R"(
[model]
preset = "hydra-nano"
vocab_size = 512
num_experts = 4
[data]
dir = "data/x"
[optim]
steps = 100
lr = 3e-3
schedule = "wsd"
betas = [0.8, 0.99]
batch_rows = [[0, 4], [0.5, 8]]
[guard]
sigma = 0
)";

TEST(RunConfig, ReadsFileSettingsAndModelKeys) {
  const RunConfig run = ParseRunConfig(
      kText, "run.toml", {"optim.lr=1e-4", "model.mamba_d_state=16", "data.dir=other dir", "optim.seed=9"});
  EXPECT_EQ(run.optim.lr, 1e-4);
  EXPECT_EQ(run.optim.seed, 9);
  EXPECT_EQ(run.data.dir, "other dir");
  EXPECT_EQ(run.optim.schedule, LrShape::kWsd);
  EXPECT_EQ(run.optim.betas[1], 0.99);
  EXPECT_EQ(run.optim.batch_rows.At(60, run.TotalSteps()), 8);
  EXPECT_EQ(run.guard.sigma, 0);
  const ModelConfig model = ResolveModel(run);
  EXPECT_EQ(model.vocab_size, 512);
  EXPECT_EQ(model.moe.n_experts, 4);
  EXPECT_EQ(model.ssm.d_state, 16);
  EXPECT_EQ(model.d_model, HydraNano().d_model);
}

TEST(RunConfig, TextRoundTrips) {
  const RunConfig run = ParseRunConfig(kText, "run.toml", {"data.dir=a \"quoted\"\\path"});
  const RunConfig again = ParseRunConfig(RunToml(run), "again");
  EXPECT_EQ(again, run) << RunToml(run);
  EXPECT_EQ(RunToml(again), RunToml(run));
  EXPECT_EQ(ParseRunConfig(RunToml(RunConfig{}), "defaults"), RunConfig{});
}

// Each key, changed alone, is seen by the reader, the writer and the comparison.
TEST(RunConfig, EveryKeyIsReadWrittenAndCompared) {
  const RunConfig defaults;
  for (const std::string& key : RunConfigKeys()) {
    SCOPED_TRACE(key);
    RunConfig changed;
    for (const char* value : {"7", "0.25", "[0.5, 0.5]", "wsd", "adafactor", "true", "hydra-nano"}) {
      if (key == "optim.tokens" && std::string(value) != "7") continue;
      try {
        changed = ParseRunConfig("", "run", {key + "=" + value});
      } catch (const Error&) {
        continue;
      }
      if (!(changed == defaults)) break;
    }
    EXPECT_FALSE(changed == defaults);
    EXPECT_EQ(ParseRunConfig(RunToml(changed), "run"), changed);
    if (key.rfind("model.", 0) != 0) {
      const auto lines = CompareRunConfigs(defaults, changed);
      ASSERT_EQ(lines.size(), 1U);
      EXPECT_EQ(lines[0].rfind(key + ": ", 0), 0U) << lines[0];
    }
  }
}

TEST(RunConfig, BadFilesNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {"[optim]\nlearning_rate = 1", "unknown key optim.learning_rate"},
      {"[optim]\nstep = 1", "unknown key optim.step (did you mean optim.steps?)"},
      {"[optin]\nlr = 1", "unknown section [optin] (did you mean optim?)"},
      {"[optim]\nlr = \"fast\"", "optim.lr = \"fast\""},
      {"[optim]\nlr = -1", "optim.lr = -1: must be 0 to 100"},
      {"[optim]\nsteps = 1.5", "optim.steps = 1.5"},
      {"[optim]\nschedule = \"linear\"", "must be cosine, wsd or wsd_exp"},
      {"[optim]\nbatch_rows = 0", "optim.batch_rows = 0: must be 1 to 1048576"},
      {"[optim]\nbetas = [0.9]", "optim.betas"},
      {"[optim]\nsteps = 5\ntokens = 5", "only one can be given"},
      {"[optim]\nbatch_rows = 1048576\nseq_len = 1048576", "at most 2^31 tokens"},
      {"[model]\npreset = \"a\"\nconfig = \"b\"", "only one can be given"},
      {"[optim\nlr = 1", "run.toml:1: "},
      {"lr = 1", "unknown section [lr]"},
      {"[log]\nevery = 1979-05-27", "dates and times"},
      {"[[stage]]\nname = \"x\"", "stage[1].share"},
      {"[optim]\nlr = 1\nlr = 2", "run.toml:3: "},
      {"[optim]\nlr = inf", "run.toml: optim.lr = inf: must be a finite number"},
      {"[optim]\nclip = -inf", "run.toml: optim.clip = -inf: must be a finite number"},
      {"[optim]\nbetas = [0.9, nan]", "run.toml: optim.betas[1] = nan: must be a finite number"},
      {"[optim]\nbatch_rows = [[0, 4], [inf, 8]]", "run.toml: optim.batch_rows[1][0] = inf"},
      {"[optim]\nclip = \"inf\"", "run.toml: optim.clip = inf: must be a finite number"},
      {"[optim]\nclip = 1e16", "run.toml: optim.clip = 1e+16: must be at most 1e+15"},
      {"[optim]\neps = 1e-50", "run.toml: optim.eps = 1e-50: is too small"},
      {"[optim]\nsteps = 0x10", "run.toml: optim.steps = 16, written in another base: must be a decimal number"},
      {"[model]\npreset = \"hydra-nano\"\nrms_norm_eps = nan", "run.toml: model.rms_norm_eps = nan"},
      {"[model]\npreset = \"hydra-nano\"\nrope_theta = inf", "run.toml: model.rope_theta = inf"},
      {"[model]\npreset = \"hydra-nan\"",
       "run.toml: model.preset = \"hydra-nan\": unknown (did you mean hydra-nano?)"}};
  for (const auto& [text, want] : cases) {
    const std::string got = ErrorText([&] { (void)ParseRunConfig(text, "run.toml"); });
    EXPECT_NE(got.find(want), std::string::npos) << text << "\n" << got;
    EXPECT_EQ(got.find('\n'), std::string::npos) << got;
  }
  EXPECT_NE(ErrorText([] { (void)ParseRunConfig("", "x", {"lr=1"}); }).find("did you mean optim.lr"),
            std::string::npos);
  EXPECT_NE(ErrorText([] { (void)ParseRunConfig("", "x", {"optim.lr"}); }).find("KEY=VALUE"), std::string::npos);
  EXPECT_NE(ErrorText([] {
              (void)ResolveModel(ParseRunConfig("[model]\npreset=\"hydra-nano\"\nnum_expert=3", "x"));
            }).find("num_expert"),
            std::string::npos);
  EXPECT_NE(ErrorText([] { (void)ResolveModel(RunConfig{}); }).find("model.preset"), std::string::npos);
  EXPECT_NE(ErrorText([] { (void)RunConfig{}.TotalSteps(); }).find("optim.steps"), std::string::npos);
}

TEST(RunConfig, SettingsObeyTheSameRuleForNumbers) {
  for (const char* bad : {"optim.lr=inf", "optim.lr=nan", "optim.lr=-inf", "optim.lr=0x10", "optim.steps=0b1",
                          "optim.eps=1e-50", "model.rope_theta=nan", "optim.betas=[0.9, inf]"}) {
    const std::string got = ErrorText([&] { (void)ParseRunConfig("", "run.toml", {bad}); });
    EXPECT_EQ(got.rfind("--set", 0), 0U) << bad << ": " << got;
    EXPECT_NE(got.find(std::string(bad).substr(0, std::string(bad).find('='))), std::string::npos) << got;
  }
  EXPECT_EQ(ErrorText([] {
              (void)ParseRunConfig("[model]\npreset=\"hydra-29m\"", "x", {"model.preset=hydra-nan"});
            }).rfind("--set model.preset=hydra-nan: model.preset", 0),
            0U);
  // What a later setting replaces is not looked at.
  EXPECT_EQ(ParseRunConfig("[model]\npreset=\"hydra-nan\"", "x", {"model.preset=hydra-29m"}).model.preset, "hydra-29m");
}

TEST(RunConfig, KeysOfManyPartsAreRefused) {
  for (const int parts : {20, 900, 5000, 1000000}) {
    std::string key = "a";
    for (int i = 0; i < parts; ++i) key += ".a";
    const std::string got = ErrorText([&] { (void)ParseRunConfig("[optim]\n" + key + " = 1", "run.toml"); });
    EXPECT_NE(got.find(parts > 1000 ? "run.toml:2: more than 1000 dots" : "nested deeper than 16 levels"),
              std::string::npos)
        << parts << ": " << got;
  }
}

// The one key that may be infinite.
TEST(RunConfig, InfinityIsAWordOfTheModel) {
  const RunConfig run = ParseRunConfig("[model]\npreset = \"hydra-nano\"\ntime_step_limit = [0.0, inf]", "x");
  EXPECT_TRUE(std::isinf(ResolveModel(run).ssm.dt_limit[1]));
  EXPECT_EQ(ParseRunConfig(RunToml(run), "again"), run);
}

TEST(RunConfig, ManyKeysTakeLinearTime) {
  constexpr int kKeys = 200000;  // a look through all keys for each would be 20 thousand million comparisons
  std::string text = "[model]\npreset = \"hydra-nano\"\n";
  for (int i = 0; i < kKeys; ++i) text += StrCat("key_", i, " = 1\n");
  const RunConfig run = ParseRunConfig(text, "many.toml", {"optim.lr=1e-4"});
  EXPECT_EQ(ParseRunConfig(RunToml(run), "again"), run);
  const std::string got = ErrorText([&] { (void)ResolveModel(run, nullptr, "many.toml: [model]"); });
  EXPECT_EQ(got.rfind("many.toml: [model]: ", 0), 0U) << got;
}

TEST(RunConfig, ALaterModelReplacesAnEarlierOne) {
  const RunConfig run = ParseRunConfig(kText, "run.toml", {"model.config=\"some/folder\""});
  EXPECT_EQ(run.model.preset, "");
  EXPECT_EQ(run.model.config, "some/folder");
}

}  // namespace
}  // namespace hydra::train
