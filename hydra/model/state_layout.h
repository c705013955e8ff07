// SPDX-License-Identifier: Apache-2.0
// Where each buffer of a sequence's state lies and how large it is, from the config alone: the runtime allocates by it
// and the accounting counts by it. Not here: the memory itself (runtime/sequence_state.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hydra/model/config.h"
#include "hydra/model/kv_filling.h"
#include "hydra/tensor/cache_dtype.h"
#include "hydra/tensor/dtype.h"

namespace hydra {

// The cache of one KV head: rows of keys and of values. A value may be a part of its key's row (v within the row of k).
struct KvCacheLayout {
  std::shared_ptr<const KvFilling> filling;
  int64_t k = -1, v = -1;              // row 0, in bytes from the start of the state's memory
  int64_t k_stride = 0, v_stride = 0;  // bytes from row to row
  [[nodiscard]] bool value_in_key() const { return v >= k && v < k + k_stride; }
  // Of a position.
  [[nodiscard]] int64_t row_bytes() const { return k_stride + (value_in_key() ? 0 : v_stride); }
};

// Where each buffer of a block lies in the state's memory, in bytes; -1 = the block has none.
struct BlockOffsets {
  int64_t conv = -1;                        // [K - 1, conv_dim] f32, oldest first
  int64_t ssm = -1;                         // [H, P, N] state dtype, or [D] f32 when diagonal
  std::vector<KvCacheLayout> caches;        // [Akv] keys and values of positions: all, or a ring; of latent attention
                                            // one, of latent vectors
  std::vector<KvCacheLayout> pools;         // [Akv] those of landmarks
  int64_t ring_scores = -1;                 // [window] f32, position p in number p mod window
  int64_t pool_scores = -1, pool_pos = -1;  // [budget] f32, int32
  int64_t moe_sum = -1, moe_mean = -1;      // [D] f32
  int64_t moe_ids = -1, moe_weights = -1;   // [top_k] int32, f32
  int64_t ws_M = -1, ws_acc = -1;           // [S, r] f32
  int64_t ws_sum = -1, ws_max = -1;         // [S] f32
};

// What a buffer belongs to, as StateBytes (accounting.h) sums them.
enum class StatePart { kSsm, kConv, kKv, kLandmarks, kMoe, kWorkspace };

// One buffer of a block, for saving and for counting. A cache's buffer has a part for each KV head.
struct StateBuffer {
  struct Head {
    std::shared_ptr<const KvFilling> filling;
    int64_t bytes = 0, stride = 0;  // of all rows, of one
  };
  const char* name = nullptr;
  int64_t offset = 0, bytes = 0;
  DType dtype = DType::kF32;
  StatePart part = StatePart::kSsm;
  std::vector<Head> heads = {};  // empty: no cache

  // Of the heads whose caches grow with the sequence; of those in whose layers the context bounds it, which spans of a
  // plan are too.
  [[nodiscard]] int64_t growing_bytes() const;
  [[nodiscard]] int64_t bounded_bytes() const;
  // f(offset in the buffer, bytes) for what is in use once pos tokens have come.
  template <class F>
  void ForUsed(int64_t pos, F&& f) const {
    if (heads.empty()) return f(int64_t{0}, bytes);
    int64_t at = 0;
    for (const Head& head : heads) {
      f(at, head.filling->UsedRows(pos, head.bytes / head.stride) * head.stride);
      at += head.bytes;
    }
  }
  [[nodiscard]] int64_t UsedBytes(int64_t pos) const;
};

struct StateLayout {
  // moe_k: experts of a chunk that there is room for; what the model says, or more where controls ask for it. Throws
  // kUsage for a plan that a layer cannot follow: one with landmarks needs a window of a chunk at least, and no sinks.
  StateLayout(const ModelConfig& config, KvDtype kv, StateDtype state, int64_t ctx_size, int64_t moe_k,
              const KvPlan& plan = nullptr);
  std::vector<BlockOffsets> blocks;
  std::vector<std::vector<StateBuffer>> buffers;  // of each block
  int64_t bytes = 0;                              // of all buffers, each aligned to 64
  int64_t constant_bytes = 0;                     // of the buffers that do not grow, without padding
  KvDtype kv;
  StateDtype state;
  int64_t ctx_size, moe_k;
  int64_t most_tokens = INT64_MAX;  // of a sequence: as the smallest cache allows

  // Of SequenceState::Snapshot: its head, two counts of each block, and what does not grow.
  [[nodiscard]] int64_t snapshot_bytes() const {
    return kSnapshotHead + static_cast<int64_t>(blocks.size()) * 8 + constant_bytes;
  }
  static constexpr int64_t kSnapshotHead = 24;

 private:
  int64_t Add(int block, StatePart part, const char* name, int64_t bytes, DType dtype,
              std::vector<StateBuffer::Head> heads = {});
  // Buffers of keys and values, a part for each head's filling.
  // Without v_name values lie in the rows of their keys.
  std::vector<KvCacheLayout> AddCaches(int block, const char* k_name, const char* v_name, int64_t head_dim,
                                       std::span<const std::shared_ptr<const KvFilling>> fillings);
};

}  // namespace hydra
