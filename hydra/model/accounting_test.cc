// SPDX-License-Identifier: Apache-2.0
// The golden numbers of specs/hydra.md 8 and 10, those of a known Llama model, and that estimates move as they should.
#include "hydra/model/accounting.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "hydra/base/error.h"

namespace hydra {
namespace {

constexpr int64_t kLongContext = 1 << 20;  // every pool is full

struct Golden {
  const char* name;
  int64_t total, active, diagonal, scan, step, state;
  std::map<Component, int64_t> parts;
};

const Golden kGolden[] = {
    {"hydra-1.6b",
     1625378106,
     744672570,
     1557108666,
     1585027700,
     1574804084,
     77170880,
     {{Component::kEmbedding, 77266944},
      {Component::kSsm, 351421824},
      {Component::kBlockNorms, 36936},
      {Component::kAttention, 75511912},
      {Component::kMoe, 906283008},
      {Component::kWorkspace, 6967560},
      {Component::kPkmSite, 6561794},
      {Component::kPkmTable, 201326592},
      {Component::kFinalNorm, 1536}}},
    {"hydra-29m",
     29211723,
     15417419,
     27562795,
     35750038,
     35291286,
     4172864,
     {{Component::kEmbedding, 1572864},
      {Component::kSsm, 7550240},
      {Component::kBlockNorms, 3096},
      {Component::kAttention, 1180686},
      {Component::kMoe, 17720832},
      {Component::kWorkspace, 494468},
      {Component::kPkmSite, 164865},
      {Component::kPkmTable, 524288},
      {Component::kFinalNorm, 384}}},
    {"hydra-nano",
     3151515,
     2422939,
     2827971,
     5603638,
     5517622,
     637744,
     {{Component::kEmbedding, 393216},
      {Component::kSsm, 1430616},
      {Component::kBlockNorms, 1170},
      {Component::kAttention, 295438},
      {Component::kMoe, 894528},
      {Component::kWorkspace, 29346},
      {Component::kPkmSite, 41473},
      {Component::kPkmTable, 65536},
      {Component::kFinalNorm, 192}}},
};

TEST(Accounting, HydraPresetsHaveTheGoldenNumbers) {
  for (const Golden& g : kGolden) {
    SCOPED_TRACE(g.name);
    ModelConfig config = Preset(g.name);
    const ParamCounts counts = CountParams(config);
    EXPECT_EQ(counts.total, g.total);
    EXPECT_EQ(counts.active, g.active);
    EXPECT_EQ(counts.by_component.size(), g.parts.size());
    for (const auto& [component, value] : g.parts) EXPECT_EQ(counts.Of(component), value) << ComponentName(component);
    EXPECT_EQ(FlopsPerToken(config, kLongContext, FlopForm::kScan).total(), g.scan);
    EXPECT_EQ(FlopsPerToken(config, kLongContext, FlopForm::kStep).total(), g.step);
    EXPECT_EQ(FlopsPerToken(config, kLongContext, FlopForm::kScan).linear, 2 * g.active);
    EXPECT_EQ(CountState(config, KvDtype::kF16).total(), g.state);
    EXPECT_EQ(KvBytesPerToken(config, KvDtype::kF16), 0);
    const StateBytes f32 = CountState(config, KvDtype::kF16),
                     bf16 = CountState(config, KvDtype::kF16, StateDtype::kBF16);
    EXPECT_EQ(2 * bf16.ssm, f32.ssm);
    EXPECT_EQ(f32.total() - bf16.total(), bf16.ssm);  // nothing else has that type
    const RunOptions three{.ctx = 64, .batch = 3}, rounded{.ctx = 64, .batch = 3, .state = StateDtype::kBF16};
    EXPECT_EQ(CountRun(config, three).state - CountRun(config, rounded).state, 3 * bf16.ssm);
    config.ssm.kind = SsmKind::kDiagonal;
    EXPECT_EQ(CountParams(config).total, g.diagonal);
    EXPECT_EQ(CountState(config, KvDtype::kF16).ssm, config.n_layers() * config.d_model * 4);
    EXPECT_EQ(CountState(config, KvDtype::kF16, StateDtype::kBF16).ssm, config.n_layers() * config.d_model * 4);
    EXPECT_EQ(CountState(config, KvDtype::kF16).conv, 0);
  }
}

TEST(Accounting, BuffersAreNotParameters) {
  EXPECT_EQ(CountParams(HydraNano()).buffers, 3 * 8);  // balance_bias [E] of three MoE blocks
}

TEST(Accounting, ControlsHaveTheGoldenSizesAndMatch) {
  const std::map<std::string, int64_t> sizes = {{"transformer-29m", 28975616}, {"transformer-29m-active", 15440256},
                                                {"transformer-nano", 3160512}, {"transformer-nano-active", 2386368},
                                                {"mamba2-29m", 29438014},      {"mamba2-nano", 3157004}};
  for (const auto& [name, size] : sizes) {
    const ParamCounts counts = CountParams(Preset(name));
    EXPECT_EQ(counts.total, size) << name;
    EXPECT_EQ(counts.active, size) << name;
  }
  EXPECT_NEAR(28975616.0 / 29211723 - 1, -0.0081, 1e-4);
}

// Every preset whose name is listed is counted, here or in blockffn_config_test.cc: a new one cannot be forgotten.
TEST(Accounting, EveryPresetIsCounted) { EXPECT_EQ(PresetNames().size(), 16u); }

// HuggingFaceTB/SmolLM2-135M: the numbers of specs/interfaces.md 5.
ModelConfig SmolLm2() {
  ModelConfig config = TransformerNano();
  config.dtype = DType::kBF16;
  config.vocab_size = 49152;
  config.d_model = 576;
  config.d_ff = 1536;
  config.layers.assign(30, config.layers.front());
  config.attention.n_heads = 9;
  config.attention.n_kv_heads = 3;
  config.attention.head_dim = 64;
  return config;
}

TEST(Accounting, SmolLm2) {
  const ModelConfig config = SmolLm2();
  const ParamCounts counts = CountParams(config);
  EXPECT_EQ(counts.total, 134515008);
  EXPECT_EQ(counts.Of(Component::kEmbedding), 28311552);
  EXPECT_EQ(counts.Of(Component::kAttention), 26542080);
  EXPECT_EQ(counts.Of(Component::kDense), 79626240);
  EXPECT_EQ(counts.Of(Component::kBlockNorms) + counts.Of(Component::kFinalNorm), 35136);
  const Flops flops = FlopsPerToken(config, 8192, FlopForm::kStep);
  EXPECT_EQ(flops.linear, 268959744);
  EXPECT_EQ(flops.attention, 566231040);
  EXPECT_EQ(flops.scan + flops.workspace, 0);
  const RunBytes run = CountRun(config, {.ctx = 8192});
  EXPECT_EQ(run.weights, 269100288);
  EXPECT_EQ(run.state, 0);
  EXPECT_EQ(run.snapshot, 0);
  EXPECT_EQ(run.kv, 188743680);
  EXPECT_EQ(run.kv_per_token, 23040);
  EXPECT_EQ(run.read_per_token, 457843968);
}

// Counted key by key.
TEST(Accounting, PlansCountTheKeysOfTheirSpans) {
  ModelConfig config = TransformerNano();
  config.attention.n_kv_heads = 2;
  const KvPlan plan = [](int layer, int64_t head) {
    return head == 0 ? KeepSpan(64 + 64 * layer, 64) : KeepSpan(192, 64, {64, 128, 192});
  };
  const int64_t n = 700, per_key = 4 * config.attention.head_dim;
  int64_t last = 0, all = 0;
  for (int layer = 0; layer < config.n_layers(); ++layer)
    for (int64_t h = 0; h < config.attention.n_heads; ++h) {
      const int64_t window = h < 3 ? 64 + 64 * layer : 64 * (h - 2);
      for (int64_t t = 0; t < n; ++t) {
        int64_t seen = 0;
        for (int64_t p = 0; p <= t; ++p) seen += p < 64 || t - p < window ? 1 : 0;
        all += seen;
        if (t == n - 1) last += seen;
      }
    }
  EXPECT_EQ(FlopsPerToken(config, n, FlopForm::kStep, plan).attention, per_key * last);
  const double without = static_cast<double>(FlopsPerToken(config, n, FlopForm::kScan).linear);
  EXPECT_NEAR((MeanForwardFlops(config, n, plan) - without) * n, static_cast<double>(per_key * all), 1e-3 * n);
  // A plan of all keys is none.
  const KvPlan whole = [](int, int64_t) { return KeepAll(); };
  EXPECT_EQ(FlopsPerToken(config, n, FlopForm::kStep, whole).attention,
            FlopsPerToken(config, n, FlopForm::kStep).attention);
  EXPECT_NEAR(MeanForwardFlops(config, n, whole), MeanForwardFlops(config, n), 1);
  ModelConfig hydra = HydraNano();
  const KvPlan own = [&](int, int64_t) { return KeepRing(hydra.attention.window); };
  EXPECT_NEAR(MeanForwardFlops(hydra, n, own), MeanForwardFlops(hydra, n), 1);
  EXPECT_EQ(FlopsPerToken(hydra, n, FlopForm::kScan, own).attention,
            FlopsPerToken(hydra, n, FlopForm::kScan).attention);
}

TEST(Accounting, MeanForwardFlopsUseTheKeysThatTokensSee) {
  const auto millions = [](const char* preset, int64_t tokens) {
    return std::lround(MeanForwardFlops(Preset(preset), tokens) / 1e6);
  };
  EXPECT_EQ(millions("hydra-29m", 512), 34);
  EXPECT_EQ(millions("hydra-29m", 8192), 35);
  EXPECT_EQ(millions("hydra-29m", 65536), 36);
  EXPECT_EQ(millions("transformer-29m", 512), 62);
  EXPECT_EQ(millions("transformer-29m", 8192), 125);
  EXPECT_EQ(millions("transformer-29m", 65536), 595);
  for (const int64_t tokens : {512, 8192, 65536}) EXPECT_EQ(millions("mamba2-29m", tokens), 65) << tokens;
}

TEST(Accounting, LandmarksCountOnlyOnceTheyLeaveTheWindow) {
  const ModelConfig config = HydraNano();
  const double linear = static_cast<double>(FlopsPerToken(config, 1, FlopForm::kScan).linear);
  const double first = MeanForwardFlops(config, 1);  // one token sees one key in each of two blocks
  EXPECT_DOUBLE_EQ(first,
                   linear + 2.0 * 4 * 6 * 32 + 6.0 * (2 * 32 * 32 + 2 * 32 * 384 + 4 * 32 * 384) + 8.0 * 32 * 32);
  ModelConfig window_only = config;
  window_only.attention.landmark_budget = 0;
  const auto attention = [](const ModelConfig& c, int64_t t) {
    return MeanForwardFlops(c, t) - static_cast<double>(FlopsPerToken(c, 1, FlopForm::kScan).linear);
  };
  EXPECT_DOUBLE_EQ(attention(config, 64), attention(window_only, 64));  // W = 64: nothing lies beyond
  EXPECT_GT(attention(config, 128), attention(window_only, 128));
}

TEST(Accounting, DocumentsOfARowAddUpByTheirOwnLengths) {
  for (const char* preset : {"hydra-29m", "transformer-29m", "mamba2-29m"}) {
    const ModelConfig config = Preset(preset);
    const DocumentFlops flops(config, 2048);
    for (const int64_t tokens : {1, 2, 255, 256, 257, 700, 2048})
      EXPECT_NEAR(flops(tokens) / (static_cast<double>(tokens) * MeanForwardFlops(config, tokens)), 1, 1e-12)
          << preset << " " << tokens;
    if (config.HasAttention(AttentionKind::kFull) || config.HasAttention(AttentionKind::kSparse)) {
      EXPECT_LT(8 * flops(256), 0.99 * flops(2048)) << preset;  // eight short ones ask for less than a long one
    } else {
      EXPECT_NEAR(8 * flops(256) / flops(2048), 1, 1e-12) << preset;
    }
  }
}

TEST(Accounting, WeightBytesFollowTheDtypes) {
  ModelConfig config = HydraNano();
  const ParamCounts counts = CountParams(config);
  config.dtype = DType::kF32;
  EXPECT_EQ(WeightBytes(TensorTable(config)), 4 * (counts.total + counts.buffers));
  config.dtype = DType::kBF16;
  const int64_t half = WeightBytes(TensorTable(config));
  EXPECT_LT(half, 4 * counts.total);
  EXPECT_GT(half, 2 * counts.total);
}

TEST(Accounting, AStepReadsTheUnionOfTheChosenExperts) {
  ModelConfig config = HydraNano();
  config.dtype = DType::kF32;
  const TensorTable table(config);
  const ParamCounts counts = CountParams(config);
  EXPECT_EQ(StepWeightBytes(config, table, 1), 4 * (counts.active + counts.buffers));
  int64_t last = 0;
  for (const int64_t batch : {1, 2, 4, 64, 4096}) {
    const int64_t bytes = StepWeightBytes(config, table, batch);
    EXPECT_GT(bytes, last);
    EXPECT_LE(bytes, WeightBytes(table));
    last = bytes;
  }
  EXPECT_EQ(last, WeightBytes(table));
}

TEST(Accounting, UntiedEmbeddingIsLookedUpNotMultiplied) {
  ModelConfig tied = TransformerNano(), untied = tied;
  untied.tie_embeddings = false;
  EXPECT_EQ(CountParams(untied).total, CountParams(tied).total + tied.vocab_size * tied.d_model);
  EXPECT_EQ(CountParams(untied).active, CountParams(tied).active);
  EXPECT_EQ(FlopsPerToken(untied, 1, FlopForm::kStep).linear, FlopsPerToken(tied, 1, FlopForm::kStep).linear);
  EXPECT_EQ(StepWeightBytes(untied, TensorTable(untied), 1),
            StepWeightBytes(tied, TensorTable(tied), 1) + tied.d_model * DTypeSize(tied.dtype));
}

TEST(Accounting, KvRowsOfEveryType) {
  EXPECT_EQ(KvRowBytes(KvDtype::kF32, 64), 256);
  EXPECT_EQ(KvRowBytes(KvDtype::kBF16, 64), 128);
  EXPECT_EQ(KvRowBytes(KvDtype::kQ8_0, 64), 68);
  EXPECT_EQ(KvRowBytes(KvDtype::kQ8_0, 33), 68);
  EXPECT_EQ(ParseKvDtype("q8_0", "--kv-dtype"), KvDtype::kQ8_0);
  EXPECT_THROW((void)ParseKvDtype("q4_0", "--kv-dtype"), Error);
  EXPECT_EQ(ParseStateDtype("bf16", "--state-dtype"), StateDtype::kBF16);
  EXPECT_THROW((void)ParseStateDtype("f16", "--state-dtype"), Error);
}

TEST(Accounting, FitAdvisesOneFlagThatHelps) {
  const ModelConfig config = SmolLm2();
  const RunOptions options{.ctx = 8192, .batch = 2};
  const int64_t need = CheckFit(config, options, int64_t{1} << 40).need;
  EXPECT_TRUE(CheckFit(config, options, need).ok);
  EXPECT_EQ(CheckFit(config, options, need).advice, "");
  EXPECT_EQ(CheckFit(config, options, need - 1).advice, "--kv-dtype q8_0");

  const Fit tight = CheckFit(config, options, need - 300'000'000);
  ASSERT_EQ(tight.advice.rfind("--ctx ", 0), 0u) << tight.advice;
  RunOptions advised = options;
  advised.ctx = std::stoll(tight.advice.substr(6));
  EXPECT_TRUE(CheckFit(config, advised, tight.have).ok);
  advised.ctx += 256;
  EXPECT_FALSE(CheckFit(config, advised, tight.have).ok);

  EXPECT_EQ(CheckFit(config, options, 1000).advice, "");  // the weights alone are larger
  // A model of constant state: fewer sequences are what helps.
  const ModelConfig mamba = MambaNano();
  const RunOptions many{.ctx = 8192, .batch = 8};
  const Fit crowded = CheckFit(mamba, many, CountRun(mamba, {.ctx = 8192, .batch = 5}).total(5));
  EXPECT_FALSE(crowded.ok);
  EXPECT_EQ(crowded.advice, "--batch 5");
}

TEST(Accounting, TrainingMemoryCountsTheTableSparsely) {
  const ModelConfig config = HydraNano();
  const ParamCounts counts = CountParams(config);
  const int64_t table = counts.Of(Component::kPkmTable);
  const TrainMemory one = CountTrainMemory(config, {.tokens = 16});
  EXPECT_EQ(one.weights, 4 * (counts.total + counts.buffers));
  EXPECT_EQ(one.gradients, 4 * (counts.total - table) + 16 * 8 * (64 * 4 + 8));  // 2 heads x 4 rows a token
  EXPECT_EQ(one.moments, 8 * counts.total + 4 * 1024);
  const TrainMemory more = CountTrainMemory(config, {.tokens = 1 << 20});
  EXPECT_EQ(more.gradients, 4 * (counts.total - table) + 1024 * (64 * 4 + 8));
  EXPECT_EQ(more.activations, one.activations * ((1 << 20) / 16));  // linear in tokens
  const TrainMemory kept = CountTrainMemory(config, {.tokens = 1 << 20, .checkpoint_blocks = true});
  EXPECT_LT(kept.activations, more.activations / 2);
  EXPECT_EQ(kept.moments, more.moments);
  int64_t factored = 0;  // of vectors, and of each matrix of experts its own
  const TensorTable tensors(config);
  for (const TensorSpec& spec : tensors.specs()) {
    if (!spec.parameter) continue;
    const std::vector<int64_t>& shape = spec.shape;
    if (spec.role == TensorRole::kPkmTable || shape.size() == 1)
      factored += shape[0];
    else if (shape.size() == 2)
      factored += shape[0] + shape[1];
    else if (shape.size() == 3)
      factored += shape[0] * (shape[1] + shape[2]);
    else
      factored += shape[0] * shape[1] * (shape[2] + shape[3]);  // sub-keys
  }
  const TrainMemory adafactor = CountTrainMemory(config, {.tokens = 16, .factored_moments = true});
  EXPECT_EQ(adafactor.moments, 4 * factored + 4 * 1024);
}

}  // namespace
}  // namespace hydra
