// SPDX-License-Identifier: Apache-2.0
// What a pass and a sequence may take: working memory by the tokens of a pass, tokens a sequence.
#include "hydra/base/testing.h"
#include "hydra/kernels/ops.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

// Working memory after a prompt of some tokens.
int64_t ScratchBytes(const Model& model, int64_t tokens, ThreadPool& pool) {
  SequenceState state(model);
  ForwardScratch scratch;
  const std::vector<int32_t> ids = testing::RandomIds(tokens, model.config().vocab_size, 2);
  const Segment segment{&state, ids};
  (void)model.Forward({&segment, 1}, pool, scratch);
  return scratch.bytes();
}
int64_t ScratchBytes(const ModelConfig& config, int64_t tokens, ThreadPool& pool) {
  return ScratchBytes(testing::BuildModel(testing::RandomSource(config, 1)), tokens, pool);
}

ModelConfig Mamba(int64_t scan_chunk) {
  ModelConfig config = MambaNano();
  config.layers.resize(1);
  config.vocab_size = 64;
  config.ssm.scan_chunk = scan_chunk;
  return config;
}

TEST(Limits, ScratchFollowsTheTokensOfAPass) {
  ThreadPool pool(2);
  const int64_t most = ScratchBytes(Mamba(kPassTokens), 600, pool);
  EXPECT_EQ(ScratchBytes(Mamba(1 << 16), 600, pool), most);
  EXPECT_EQ(ScratchBytes(Mamba(1 << 16), 40, pool), ScratchBytes(Mamba(40), 40, pool));
  EXPECT_LT(ScratchBytes(Mamba(1 << 16), 40, pool), most / 4);
}

// The formula of the accounting against what was allocated: every kind of part, types of weights, tokens, threads.
TEST(Limits, TheAccountingCountsTheScratchThatIsTaken) {
  std::vector<testing::Case> cases = testing::Cases();
  cases.push_back({"a chunk of any length", Mamba(1 << 16)});
  for (const testing::Case& c : cases)
    for (const bool int8 : {false, true}) {
      const WeightType type = int8 ? WeightType::kQ8_0 : WeightType::kF32;
      const Model model = testing::BuildModel(testing::RandomSource(c.config, 1, type),
                                              {.ctx_size = 600, .act = int8 ? Activations::kQ8 : Activations::kF32});
      for (const int64_t tokens : {40, 512})
        for (const int threads : {1, 3}) {
          if (kSanitized && threads == 1) continue;
          SCOPED_TRACE(StrCat(c.name, int8 ? ", int8, " : ", f32, ", tokens, " tokens, ", threads, " threads"));
          ThreadPool pool(threads);
          const auto taken = static_cast<double>(ScratchBytes(model, tokens, pool));
          const auto counted = static_cast<double>(
              CountRun(c.config, {.ctx = tokens, .kv = KvDtype::kF16, .threads = threads, .int8 = int8}).scratch);
          if (c.config.HasFfn(FfnKind::kBlockFfn)) {  // counted as if all experts ran: here about a half do
            EXPECT_LT(taken, 1.05 * counted);
            EXPECT_GT(taken, 0.4 * counted);
            continue;
          }
          EXPECT_NEAR(counted / taken, 1, tokens < 100 ? 0.5 : 0.15);
        }
    }
}

TEST(Limits, TheAccountingCountsWhatProvisionalPassesKeep) {
  for (const testing::Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    const Model model = testing::BuildModel(testing::RandomSource(c.config, 1));
    const Provisional kept(SequenceState(model), 8);
    const int64_t counted = CountRun(c.config, {.ctx = 512, .kv = KvDtype::kF32, .provisional = 8}).provisional;
    EXPECT_LE(counted, kept.bytes());
    EXPECT_LT(kept.bytes(), counted + 2 * 4096);  // whole pages
  }
}

TEST(Limits, ALargeScanChunkChangesNoBit) {
  ThreadPool pool(1);
  std::vector<float> logits[2];
  for (int i = 0; i < 2; ++i) {
    const Model model = testing::BuildModel(testing::RandomSource(Mamba(i == 0 ? 512 : 1 << 16), 1));
    SequenceState state(model);
    const std::vector<int32_t> ids = testing::RandomIds(300, 64, 2);
    logits[i] = testing::LogitsInPieces(model, state, ids, {300}, pool);
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST(Limits, ASequenceHasAtMostTwoToThe31Tokens) {
  EXPECT_NO_THROW(CheckSequenceLength(int64_t{1} << 31));
  ExpectError([] { CheckSequenceLength((int64_t{1} << 31) + 1); }, ErrorCode::kUsage, {"2147483649", "2147483648"});
  ExpectError(
      [] { (void)testing::BuildModel(testing::RandomSource(Mamba(64), 1), {.ctx_size = (int64_t{1} << 31) + 1}); },
      ErrorCode::kUsage, {"--ctx-size 2147483649"});
}

}  // namespace
}  // namespace hydra
