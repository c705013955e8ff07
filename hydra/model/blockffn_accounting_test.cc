// SPDX-License-Identifier: Apache-2.0
// What BlockFFN's models cost by the formulas of the accounting: the golden weight traffic of specs/blockffn.md 6, the
// caches of every preset, working memory that grows with the widths. Not here: parameter counts
// (blockffn_config_test.cc), what is read and taken in truth (runtime/blockffn_test.cc, runtime/limits_test.cc).
#include <gtest/gtest.h>

#include <cmath>

#include "hydra/model/accounting.h"

namespace hydra::blockffn_accounting_test {  // tests share units
namespace {

constexpr double kQ8 = 1.0625, kQ4 = 0.5625;  // bytes of a weight

// Bytes of a step's weights as the table of the specification has them: without norms, the row of the embedding, and
// what the absorbed key maps of latent attention take beyond the type of their tensor.
double TrafficMb(const ModelConfig& config, double w, double active) {
  const TensorTable table(config);
  const TensorBytes bytes = [&](const TensorSpec& spec) {
    return spec.matmul ? std::llround(static_cast<double>(spec.size()) * w) : spec.size() * kF32Bytes;
  };
  auto sum = static_cast<double>(StepWeightBytes(config, table, 1, bytes, active));
  const LatentConfig& l = config.attention.latent;
  for (const TensorSpec& spec : table.specs()) {
    if (spec.shape.size() == 1) sum -= static_cast<double>(bytes(spec));
    if (spec.role == TensorRole::kEmbedding) sum -= static_cast<double>(bytes(spec) / spec.shape[0]);
    if (spec.role == TensorRole::kLatentKvUp && w < 2)
      sum -= static_cast<double>(spec.size()) * static_cast<double>(l.d_nope) /
             static_cast<double>(l.d_nope + l.d_value) * (2 - w);
  }
  return sum / 1e6;
}

TEST(BlockFfnAccounting, TrafficIsTheGoldenOne) {
  const auto union_of_4 = [](double a, double r) { return 1 - (1 - a) * std::pow(1 - a * (1 - r) / (1 - a), 3); };
  struct Golden {
    const char* preset;
    double w, a, u4, u8;
    long mb[4];
  };
  const double large = union_of_4(.1595, .8713), xlarge = union_of_4(.1819, .8957);
  for (const Golden& g : {Golden{"blockffn-large", 2, .1595, large, .2621, {2016, 1001, 1073, 1125}},
                          {"blockffn-large", kQ8, .1595, large, .2621, {1075, 536, 575, 602}},
                          {"blockffn-large", kQ4, .1595, large, .2621, {574, 288, 309, 323}},
                          {"blockffn-xlarge", 2, .1819, xlarge, .2722, {2822, 1351, 1451, 1513}},
                          {"blockffn-xlarge", kQ8, .1819, xlarge, .2722, {1506, 724, 777, 811}},
                          {"blockffn-xlarge", kQ4, .1819, xlarge, .2722, {804, 390, 418, 436}},
                          {"blockffn-3b", 2, .1245, .20, .3086, {5925, 1695, 2060, 2585}},
                          {"blockffn-3b", kQ8, .1245, .20, .3086, {3166, 918, 1112, 1391}},
                          {"blockffn-3b", kQ4, .1245, .20, .3086, {1694, 504, 606, 754}}}) {
    const double shares[] = {1, g.a, g.u4, g.u8};
    for (size_t i = 0; i < 4; ++i)
      EXPECT_EQ(std::lround(TrafficMb(Preset(g.preset), g.w, shares[i])), g.mb[i])
          << g.preset << ", " << g.w << " bytes a weight, share " << shares[i];
  }
}

// Keys and values of a token in f16: 320 numbers a layer of latent attention, else those of all KV heads.
TEST(BlockFfnAccounting, CachesOfThePresets) {
  struct Golden {
    const char* preset;
    int64_t bytes;
  };
  for (const Golden& g : {Golden{"blockffn-small", 16 * 640},
                          {"blockffn-medium", 27 * 640},
                          {"blockffn-large", 32 * 640},
                          {"blockffn-xlarge", 35 * 640},
                          {"blockffn-3b", 36 * 2048},
                          {"blockffn-30m", 8 * 1024},
                          {"blockffn-nano", 6 * 512}}) {
    const ModelConfig config = Preset(g.preset);
    EXPECT_EQ(KvBytesPerToken(config, KvDtype::kF16), g.bytes) << g.preset;
    EXPECT_EQ(KvBytesPerToken(config, KvDtype::kF32), 2 * g.bytes) << g.preset;
    const RunBytes run = CountRun(config, {.ctx = 4096});
    EXPECT_EQ(run.kv, 4096 * g.bytes) << g.preset;
    EXPECT_EQ(run.state, 0) << g.preset;
    EXPECT_EQ(run.snapshot, 0) << g.preset;
    // A step reads less where fewer experts are active, and its memory is that of all of them.
    const RunBytes sparse = CountRun(config, {.ctx = 4096, .active = 0.1});
    EXPECT_LT(sparse.read_per_token, run.read_per_token) << g.preset;
    EXPECT_EQ(sparse.total(1), run.total(1)) << g.preset;
  }
}

TEST(BlockFfnAccounting, ScratchGrowsWithTheModel) {
  int64_t last = 0;
  for (const char* preset : {"blockffn-small", "blockffn-medium", "blockffn-large", "blockffn-xlarge"}) {
    const RunBytes run = CountRun(Preset(preset), {.ctx = 4096, .threads = 2, .int8 = true});
    EXPECT_GT(run.scratch, last) << preset;
    EXPECT_LT(run.scratch, run.weights / 2) << preset;
    last = run.scratch;
  }
}

}  // namespace
}  // namespace hydra::blockffn_accounting_test
