// SPDX-License-Identifier: Apache-2.0
// What a pass and a sequence may take: working memory by the tokens of a pass, tokens a sequence.
#include "hydra/base/testing.h"
#include "hydra/kernels/ops.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

// Working memory after a prompt of some tokens.
int64_t ScratchBytes(const ModelConfig& config, int64_t tokens, ThreadPool& pool) {
  const Model model = testing::BuildModel(testing::RandomSource(config, 1));
  SequenceState state(model);
  ForwardScratch scratch;
  const std::vector<int32_t> ids = testing::RandomIds(tokens, config.vocab_size, 2);
  const Segment segment{&state, ids};
  (void)model.Forward({&segment, 1}, pool, scratch);
  return scratch.bytes();
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

TEST(Limits, TheAccountingCountsTheScratchOfEachThread) {
  for (const int64_t chunk : {5, 64, 512, 1 << 16}) {
    const ModelConfig config = Mamba(chunk);
    const SsmConfig& s = config.ssm;
    const int64_t one = CountRun(config, {.threads = 1}).scratch, five = CountRun(config, {.threads = 5}).scratch;
    EXPECT_EQ(five - one, 4 * 4 * kernels::SsdScratchFloats(std::min(chunk, kPassTokens), s.head_dim, s.d_state));
    EXPECT_EQ(CountRun(TransformerNano(), {.threads = 5}).scratch, CountRun(TransformerNano(), {}).scratch);
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
