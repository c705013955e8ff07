// SPDX-License-Identifier: Apache-2.0
// Where a provisional pass keeps what its tokens would change in a state, and how large it is, from config and layout
// alone: the runtime allocates by it and the accounting counts by it. Not here: the memory (runtime/provisional.h).
#pragma once

#include <cstdint>
#include <vector>

#include "hydra/model/state_layout.h"

namespace hydra {

// Buffers of a block, in bytes from the start; -1 = the block has none. T tokens at most.
struct KeptOffsets {
  int64_t conv = -1;          // [T, conv_dim] f32: inputs of the convolution
  int64_t conv_state = -1;    // [K - 1, conv_dim] f32: a copy that the pass moves on
  int64_t xbc = -1;           // [T, conv_dim] f32: x, B, C behind the convolution
  int64_t dt = -1;            // [T, H] f32
  int64_t y = -1;             // [d_inner], or [T, D] when diagonal: outputs that Commit has no use for
  int64_t params = -1;        // [T, 4, D] f32 when diagonal
  int64_t ssm_state = -1;     // [D] f32 when diagonal: a copy that the pass moves on
  std::vector<int64_t> k, v;  // of each KV head [T] rows; -1: they stand in the cache, which grows
  int64_t scores = -1;        // [T] f32: landmarks' scores
  int64_t u = -1;             // [T, D] f32: what routed experts read
  int64_t moe = -1;           // sum, mean, ids, weights: a copy that the pass moves on
  int64_t route_ids = -1, route_weights = -1, route_counts = -1;  // [chunks, moe_k] twice, [chunks]: new routes
  int64_t workspace = -1;                                         // M, acc, sum, max: a copy that the pass moves on
  int64_t write_logits = -1, write_values = -1;                   // [T, S], [T, r] f32
  int64_t slots = -1;                                             // [chunks, S, r] f32: M after each chunk's end
};

struct KeptLayout {
  KeptLayout(const ModelConfig& config, const StateLayout& state, int64_t tokens);
  std::vector<KeptOffsets> blocks;
  int64_t bytes = 0;       // of all buffers, each aligned to 64
  int64_t undo_bytes = 0;  // what landmarks' pools are restored from
  int64_t tokens;
  int64_t chunks;  // that `tokens` tokens can begin, or end
};

}  // namespace hydra
