// SPDX-License-Identifier: Apache-2.0
// What a provisional pass keeps aside: new keys and values, and the inputs of every state's update. A provisional pass
// gives each of its tokens the logits of a single step, to the bit, and leaves the state as it was; Model::Commit then
// takes the first m tokens. Not here: sizes and places (model/kept_layout.h), what is kept (part_*.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "hydra/base/buffer.h"
#include "hydra/model/kept_layout.h"
#include "hydra/runtime/sequence_state.h"

namespace hydra {

// The most tokens of a provisional pass.
inline constexpr int64_t kProvisionalTokens = 32;

// Memory for one sequence at a time; made once and used for pass after pass. Not thread-safe.
class Provisional {
 public:
  // For passes of up to `tokens` (1 to kProvisionalTokens) tokens over states like this one.
  Provisional(const SequenceState& state, int64_t tokens);

  [[nodiscard]] int64_t tokens() const { return tokens_; }
  [[nodiscard]] int64_t bytes() const { return memory_.bytes() + undo_.bytes(); }
  // Tokens of the last pass that wait for Commit; 0 when there is none.
  [[nodiscard]] int64_t waiting() const { return static_cast<int64_t>(ids_.size()); }

  // For the forward pass: begins a pass over `ids` behind what the state holds.
  void Begin(SequenceState& state, std::span<const int32_t> ids);
  template <class T = float>
  [[nodiscard]] T* At(int64_t offset) const {
    return reinterpret_cast<T*>(memory_.data() + offset);
  }
  [[nodiscard]] const KeptOffsets& offsets(int layer) const { return layout_->blocks[static_cast<size_t>(layer)]; }
  // Remembers n bytes of the state before the pass changes them; Undo puts all of them back.
  void Remember(void* at, int64_t n);
  void Undo();
  // Whether the pass that waits was made over this state as it is now.
  [[nodiscard]] bool Fits(const SequenceState& state) const { return waiting() > 0 && state.Has(stamp_); }
  [[nodiscard]] std::span<const int32_t> ids() const { return ids_; }
  void Forget() { ids_.clear(); }

 private:
  struct Old {
    std::byte* at;
    int64_t n, from;  // bytes, and where in undo_ they are
  };
  void LayOut(const SequenceState& state);

  int64_t tokens_;
  std::shared_ptr<const StateLayout> of_;  // that layout_ was made for
  std::optional<KeptLayout> layout_;
  Buffer<std::byte> memory_, undo_;
  std::vector<Old> old_;
  int64_t undo_used_ = 0;
  SequenceState::Stamp stamp_;  // of the state in the pass that waits
  std::vector<int32_t> ids_;
};

}  // namespace hydra
