// SPDX-License-Identifier: Apache-2.0
// Memory of provisional passes, and the way back from what they changed. Model::Commit is in forward.cc.
#include "hydra/runtime/provisional.h"

#include <cstring>

#include "hydra/base/error.h"
#include "hydra/runtime/weights.h"

namespace hydra {

Provisional::Provisional(const SequenceState& state, int64_t tokens) : tokens_(tokens) {
  HYDRA_CHECK(1 <= tokens && tokens <= kProvisionalTokens, "tokens ", tokens);
  ids_.reserve(static_cast<size_t>(tokens));
  LayOut(state);
}

void Provisional::LayOut(const SequenceState& state) {
  if (of_ == state.shared_layout()) return;
  of_ = nullptr;  // should what follows fail
  layout_.emplace(state.weights().config, state.layout(), tokens_);
  memory_.Get(layout_->bytes);
  undo_.Get(layout_->undo_bytes);
  of_ = state.shared_layout();
}

void Provisional::Begin(SequenceState& state, std::span<const int32_t> ids) {
  HYDRA_CHECK(!ids.empty() && static_cast<int64_t>(ids.size()) <= tokens_, ids.size(), " tokens, room for ", tokens_);
  Forget();
  LayOut(state);
  old_.clear();
  undo_used_ = 0;
  ids_.assign(ids.begin(), ids.end());
  stamp_ = state.NewStamp();
}

void Provisional::Remember(void* at, int64_t n) {
  HYDRA_CHECK(undo_used_ + n <= layout_->undo_bytes, "room to remember ", layout_->undo_bytes, " bytes");
  auto* bytes = static_cast<std::byte*>(at);
  old_.push_back({bytes, n, undo_used_});
  std::memcpy(undo_.data() + undo_used_, bytes, static_cast<size_t>(n));
  undo_used_ += n;
}

void Provisional::Undo() {
  for (; !old_.empty(); old_.pop_back()) {
    const Old& last = old_.back();
    std::memcpy(last.at, undo_.data() + last.from, static_cast<size_t>(last.n));
  }
}

}  // namespace hydra
