// SPDX-License-Identifier: Apache-2.0
// Everything that one sequence carries from token to token: recurrent and convolution states, key-value rings and
// landmarks, routing sums, workspace, position, controls. Sizes and places are those of model/state_layout.h.
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
#include "hydra/model/state_layout.h"
#include "hydra/runtime/model.h"

namespace hydra {

class MemoryOverlay;  // memory_overlay.h

// Throws kUsage for more tokens than a sequence may have (kMaxSequenceTokens of accounting.h).
void CheckSequenceLength(int64_t tokens);

// Not thread-safe; its model's weights must outlive it (it shares them). Moves; copying is the explicit Fork().
class SequenceState {
 public:
  // `plan` may give KV heads of the model's attention other caches than its config does.
  explicit SequenceState(const Model& model, const Controls& controls = {}, const KvPlan& plan = nullptr);
  ~SequenceState();
  SequenceState(SequenceState&&) noexcept;
  SequenceState& operator=(SequenceState&&) noexcept;

  // An equal state that goes its own way.
  [[nodiscard]] SequenceState Fork() const;
  // The same as it was at a snapshot of this sequence; or, without a copy of what came behind them, at the first n
  // tokens. Throws as Restore and Truncate do.
  [[nodiscard]] SequenceState ForkAt(std::span<const std::byte> snapshot) const;
  [[nodiscard]] SequenceState ForkAt(int64_t n) const;
  // As new: position 0, initial values. Controls stay.
  void Reset();
  // One part in all layers: as at the start, or zero; what was read stays read. kKv is for Reset and Truncate (kUsage).
  // Of the experts' routing it is the mean that routes the next chunk; the open chunk keeps its experts.
  enum class PartValue { kInitial, kZero };
  void SetPart(StatePart part, PartValue value);

  // The part of the state that does not grow, and the position, in the caller's memory. Restore goes back to it,
  // forgetting what came since; the first tokens must be those that it was taken with (kUsage).
  [[nodiscard]] int64_t SnapshotBytes() const;
  void Snapshot(std::span<std::byte> out) const;
  void Restore(std::span<const std::byte> snapshot);
  // Forgets all tokens but the first n, without a copy: where the state has only caches that still hold what they held
  // then. kUsage for states that cannot go back so; those need a snapshot.
  void Truncate(int64_t n);
  [[nodiscard]] bool CanTruncate(int64_t n) const;

  // Exact to the bit. The file is safetensors: ids read and pending, controls, each buffer, a fingerprint of model and
  // dtypes, a checksum. Load throws Error for a file that is cut, of another version, model or dtype, or whose checksum
  // is wrong.
  void Save(const std::string& path) const;
  // `plan`, `memory`: what the state had when it was saved; kUsage for others.
  [[nodiscard]] static SequenceState Load(const std::string& path, const Model& model, const KvPlan& plan = nullptr,
                                          std::shared_ptr<const MemoryOverlay> memory = nullptr);
  // KvPlan::length of a saved state: which one Load wants; 0: none.
  [[nodiscard]] static int64_t PlanLengthIn(const std::string& path);

  [[nodiscard]] int64_t pos() const { return static_cast<int64_t>(ids_.size()); }  // tokens read
  [[nodiscard]] std::span<const int32_t> ids() const { return ids_; }              // which ones
  // Tokens of the text that are to be read next: the last one picked. Forked and saved with the rest; Forward ignores
  // them.
  [[nodiscard]] std::span<const int32_t> pending() const { return pending_; }
  void SetPending(std::vector<int32_t> ids) { pending_ = std::move(ids); }
  [[nodiscard]] const Controls& controls() const { return controls_; }
  // What holds in a layer.
  [[nodiscard]] const Controls& controls(int layer) const {
    return of_layers_.empty() ? controls_ : of_layers_[static_cast<size_t>(layer)];
  }
  // Routing controls act from the next chunk, others from the next token. path_scale between 0 and non-zero, and
  // landmarks, only at position 0; a new pin only before the end of its chunk is read (kUsage).
  void SetControls(const Controls& controls);
  // Memory packs that this sequence reads, from the next token on; null: none. Forks have them too.
  void SetMemory(std::shared_ptr<const MemoryOverlay> memory);
  [[nodiscard]] const std::shared_ptr<const MemoryOverlay>& memory() const { return memory_; }
  // Bytes held for this sequence: buffers as CountState() and KvBytesPerToken() say, without ids and scratch.
  [[nodiscard]] int64_t bytes() const;
  // Of them keys and values: of a plan 2 * width * rows of its rings, of full attention those of a full context.
  [[nodiscard]] int64_t kv_bytes() const;
  // Of those, what is in use once n tokens have come.
  [[nodiscard]] int64_t BytesAt(int64_t n) const;
  [[nodiscard]] const StateLayout& layout() const { return *layout_; }
  [[nodiscard]] const std::shared_ptr<const StateLayout>& shared_layout() const { return layout_; }
  [[nodiscard]] const ModelWeights& weights() const { return *weights_; }
  [[nodiscard]] const KvPlan& plan() const { return plan_; }
  // A pass over the state failed half way: everything but Reset and Restore throws kUsage.
  [[nodiscard]] bool broken() const { return broken_; }
  void CheckWhole() const;

  // For the forward pass. Reserve makes room for n tokens more, best all that are known to come: caches that these fill
  // at least by half go into huge pages where they have not been written yet. Between the two other calls, which do not
  // throw, the state counts as broken.
  void Reserve(size_t n);
  void BeginPass();
  void EndPass(std::span<const int32_t> ids);
  // Names what the state's memory holds now: no other state ever has it, nor this one after a change. A provisional
  // pass is a change, because its rows may lie in a cache that grows.
  struct Stamp {
    std::weak_ptr<const std::byte> memory;
    uint64_t changes = 0;
  };
  Stamp NewStamp() { return {data_, ++changes_}; }
  [[nodiscard]] bool Has(const Stamp& stamp) const {
    return stamp.changes == changes_ && !stamp.memory.owner_before(data_) && !data_.owner_before(stamp.memory);
  }
  // A buffer of a block.
  template <class T = float>
  [[nodiscard]] T* At(int64_t offset) {
    return reinterpret_cast<T*>(data_.get() + offset);
  }
  int32_t& pool_size(int layer) { return counts_[static_cast<size_t>(layer)][0]; }    // landmarks in the pool
  int32_t& route_count(int layer) { return counts_[static_cast<size_t>(layer)][1]; }  // experts of the open chunk

 private:
  SequenceState(std::shared_ptr<const ModelWeights> weights, std::shared_ptr<const StateLayout> layout,
                const Controls& controls, const KvPlan& plan);
  // A new state with what this one's buffers hold of the first n tokens.
  [[nodiscard]] SequenceState CopyOf(int64_t n) const;
  // The layer and buffer that keep Truncate(n) from working; "" where nothing does.
  [[nodiscard]] std::string WhyNotTruncate(int64_t n) const;
  void CheckTruncate(int64_t n) const;
  void CheckSnapshot(std::span<const std::byte> snapshot) const;
  // What a plan makes the heads keep, for a person and for files; "" without one.
  [[nodiscard]] std::string PlanText() const;
  // What is in use of a buffer, part after part: what a file holds of it.
  [[nodiscard]] std::vector<std::byte> Packed(const StateBuffer& buffer) const;
  void Unpack(const StateBuffer& buffer, std::span<const std::byte> bytes);
  // Before so many tokens are written.
  void ChoosePages(int64_t tokens);

  std::shared_ptr<const ModelWeights> weights_;  // keeps them, and names the model
  std::shared_ptr<const StateLayout> layout_;
  std::shared_ptr<std::byte> data_;             // mapped: pages of caches that grow are taken when first written
  int64_t huge_from_ = 0;                       // tokens from which on huge pages are asked for; 0: they have been
  std::vector<std::array<int32_t, 2>> counts_;  // of each block: pool_size, route_count
  std::vector<int32_t> ids_, pending_;
  Controls controls_;
  std::vector<Controls> of_layers_;  // of each, where some have their own
  KvPlan plan_;
  std::shared_ptr<const MemoryOverlay> memory_;
  uint64_t changes_ = 0;
  bool broken_ = false;
};

}  // namespace hydra
