// SPDX-License-Identifier: Apache-2.0
// Where each buffer of a sequence's state lies and how large it is, from the config alone: the runtime allocates by it
// and the accounting counts by it. Not here: the memory itself (runtime/sequence_state.h).
#pragma once

#include <cstdint>
#include <vector>

#include "hydra/model/config.h"
#include "hydra/tensor/cache_dtype.h"
#include "hydra/tensor/dtype.h"

namespace hydra {

// Where each buffer of a block lies in the state's memory, in bytes; -1 = the block has none.
struct BlockOffsets {
  int64_t conv = -1;  // [K - 1, conv_dim] f32, oldest first
  int64_t ssm = -1;   // [H, P, N] state dtype, or [D] f32 when diagonal
  int64_t k = -1;     // [Akv, rows, Dh] KV dtype; rows = window (position p in row p mod window) or ctx_size
  int64_t v = -1;
  int64_t ring_scores = -1;                 // [window] f32, beside the ring
  int64_t pool_k = -1, pool_v = -1;         // [Akv, budget, Dh] KV dtype, in any order
  int64_t pool_scores = -1, pool_pos = -1;  // [budget] f32, int32
  int64_t moe_sum = -1, moe_mean = -1;      // [D] f32
  int64_t moe_ids = -1, moe_weights = -1;   // [top_k] int32, f32
  int64_t ws_M = -1, ws_acc = -1;           // [S, r] f32
  int64_t ws_sum = -1, ws_max = -1;         // [S] f32
};

// What a buffer belongs to, as StateBytes (accounting.h) sums them.
enum class StatePart { kSsm, kConv, kKv, kLandmarks, kMoe, kWorkspace };

// One buffer of a block, for saving and for counting.
struct StateBuffer {
  const char* name = nullptr;
  int64_t offset = 0, bytes = 0;
  DType dtype = DType::kF32;
  StatePart part = StatePart::kSsm;
  int64_t growing_heads = 0;  // > 0: full attention's cache, [heads][ctx_size] rows, of which the first pos() are used
};

struct StateLayout {
  // moe_k: experts of a chunk that there is room for; what the model says, or more where controls ask for it.
  StateLayout(const ModelConfig& config, KvDtype kv, StateDtype state, int64_t ctx_size, int64_t moe_k);
  std::vector<BlockOffsets> blocks;
  std::vector<std::vector<StateBuffer>> buffers;  // of each block
  int64_t bytes = 0;                              // of all buffers, each aligned to 64
  int64_t constant_bytes = 0;                     // of the buffers that do not grow, without padding
  KvDtype kv;
  StateDtype state;
  int64_t ctx_size, moe_k;

 private:
  int64_t Add(int block, StatePart part, const char* name, int64_t bytes, DType dtype, int64_t growing_heads = 0);
};

}  // namespace hydra
