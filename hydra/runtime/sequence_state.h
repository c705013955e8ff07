// SPDX-License-Identifier: Apache-2.0
// Everything that one sequence carries from token to token: recurrent and convolution states, key-value rings and
// landmarks, routing sums, workspace, position, controls. Sizes are those of model/accounting.h.
// Not here: what changes it (forward.cc).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hydra/model/controls.h"
#include "hydra/runtime/model.h"

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

// One buffer of a block, for saving.
struct StateBuffer {
  const char* name = nullptr;
  int64_t offset = 0, bytes = 0;
  DType dtype = DType::kF32;
  int64_t growing_heads = 0;  // > 0: full attention's cache, [heads][ctx_size] rows, of which the first pos() are used
};

struct StateLayout {
  // moe_k: experts of a chunk that there is room for; what the model says, or more where controls ask for it.
  StateLayout(const ModelConfig& config, KvDtype kv, StateDtype state, int64_t ctx_size, int64_t moe_k);
  std::vector<BlockOffsets> blocks;
  std::vector<std::vector<StateBuffer>> buffers;  // of each block
  int64_t bytes = 0;                              // of all buffers, each aligned to 64
  int64_t constant_bytes = 0;  // of the buffers that do not grow, without padding: what CountState() promises
  KvDtype kv;
  StateDtype state;
  int64_t ctx_size, moe_k;

 private:
  int64_t Add(int block, const char* name, int64_t bytes, DType dtype, int64_t growing_heads = 0);
};

// Not thread-safe; its model's weights must outlive it (it shares them). Moves; copying is the explicit Fork().
class SequenceState {
 public:
  explicit SequenceState(const Model& model, const Controls& controls = {});
  ~SequenceState();
  SequenceState(SequenceState&&) noexcept;
  SequenceState& operator=(SequenceState&&) noexcept;

  // An equal state that goes its own way.
  [[nodiscard]] SequenceState Fork() const;
  // As new: position 0, initial values. Controls stay.
  void Reset();

  // Exact to the bit. The file is safetensors: ids read and pending, controls, each buffer, a fingerprint of model and
  // dtypes, a checksum. Load throws Error for a file that is cut, of another version, model or dtype, or whose checksum
  // is wrong.
  void Save(const std::string& path) const;
  [[nodiscard]] static SequenceState Load(const std::string& path, const Model& model);

  [[nodiscard]] int64_t pos() const { return static_cast<int64_t>(ids_.size()); }  // tokens read
  [[nodiscard]] std::span<const int32_t> ids() const { return ids_; }              // which ones
  // Tokens of the text that are to be read next: the last one picked. Forked and saved with the rest; Forward ignores
  // them.
  [[nodiscard]] std::span<const int32_t> pending() const { return pending_; }
  void SetPending(std::vector<int32_t> ids) { pending_ = std::move(ids); }
  [[nodiscard]] const Controls& controls() const { return controls_; }
  // Routing controls act from the next chunk, others from the next token. path_scale between 0 and non-zero, and
  // landmarks, only at position 0 (kUsage).
  void SetControls(const Controls& controls);
  // Bytes held for this sequence: buffers as CountState() and KvBytesPerToken() say, without ids and scratch.
  [[nodiscard]] int64_t bytes() const;
  [[nodiscard]] const StateLayout& layout() const { return *layout_; }

  // For the forward pass: a buffer of a block.
  template <class T = float>
  [[nodiscard]] T* At(int64_t offset) {
    return reinterpret_cast<T*>(data_.get() + offset);
  }
  int32_t& pool_size(int layer) { return counts_[static_cast<size_t>(layer)][0]; }    // landmarks in the pool
  int32_t& route_count(int layer) { return counts_[static_cast<size_t>(layer)][1]; }  // experts of the open chunk
  void Append(std::span<const int32_t> ids) { ids_.insert(ids_.end(), ids.begin(), ids.end()); }
  ForwardScratch& scratch();

 private:
  SequenceState(std::shared_ptr<const ModelWeights> weights, const Controls& controls);
  void Allocate();
  // What a buffer's bytes are in a file: all of it, or of a growing one the rows in use, head after head.
  [[nodiscard]] std::vector<std::byte> Packed(const StateBuffer& buffer) const;
  void Unpack(const StateBuffer& buffer, std::span<const std::byte> bytes);

  std::shared_ptr<const ModelWeights> weights_;  // keeps them, and names the model
  std::shared_ptr<const StateLayout> layout_;
  std::shared_ptr<std::byte> data_;             // mapped: pages of full attention's cache are taken when first written
  std::vector<std::array<int32_t, 2>> counts_;  // of each block: pool_size, route_count
  std::vector<int32_t> ids_, pending_;
  Controls controls_;
  std::unique_ptr<ForwardScratch> scratch_;
};

}  // namespace hydra
