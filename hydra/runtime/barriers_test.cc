// SPDX-License-Identifier: Apache-2.0
// Barriers of a pass: each family's number in a step, and that the parts of one block wait together.
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::BuildModel;
using testing::RandomIds;
using testing::RandomSource;

// Of one step behind 20 tokens, on two threads. A region of one task is none: the caller does it.
int64_t BarriersOfAStep(const ModelConfig& config) {
  const Model model = BuildModel(RandomSource(config, 5), {.ctx_size = 64});
  ThreadPool pool(2);
  ForwardScratch scratch;
  SequenceState state(model);
  (void)model.Prefill(state, RandomIds(20, config.vocab_size, 1), pool, scratch);
  const int64_t before = pool.regions();
  (void)model.Step(state, 3, pool, scratch);
  return pool.regions() - before;
}

// hydra-nano with `layers` blocks of these paths and without memories.
ModelConfig Blocks(const LayerConfig& layer, size_t layers) {
  ModelConfig c = HydraNano();
  c.vocab_size = 128;
  c.layers.assign(layers, layer);
  return c;
}

// The head and the blocks of another depth go out of the count.
int64_t BarriersOfABlock(const LayerConfig& layer) {
  return BarriersOfAStep(Blocks(layer, 2)) - BarriersOfAStep(Blocks(layer, 1));
}

TEST(Barriers, OfAStep) {
  constexpr int64_t kHead = 1;
  // Queries, keys and values; attention; its output; gate and up; down.
  EXPECT_EQ(BarriersOfAStep(TransformerNano()), 5 * TransformerNano().n_layers() + kHead);
  // Input; convolution beside dt; state; output.
  EXPECT_EQ(BarriersOfAStep(MambaNano()), 4 * MambaNano().n_layers() + kHead);
}

TEST(Barriers, PartsOfABlockWaitTogether) {
  const LayerConfig all{.ssm = true, .attention = AttentionKind::kSparse, .ffn = FfnKind::kChunkMoe};
  LayerConfig ssm = all, sga = all, moe = all;
  ssm.attention = moe.attention = AttentionKind::kNone;
  ssm.ffn = sga.ffn = FfnKind::kNone;
  sga.ssm = moe.ssm = false;
  const int64_t alone[] = {BarriersOfABlock(ssm), BarriersOfABlock(sga), BarriersOfABlock(moe)};
  EXPECT_EQ(alone[0], 4);
  EXPECT_EQ(alone[1], 3);
  EXPECT_EQ(alone[2], 2);
  EXPECT_EQ(BarriersOfABlock(all), 4);
}

}  // namespace
}  // namespace hydra
