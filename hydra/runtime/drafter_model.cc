// SPDX-License-Identifier: Apache-2.0
// Guesses of a cheaper model. Not here: models made of a part of another (drafter_self.cc).
#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/runtime/drafter.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/weights.h"

namespace hydra {

ModelDrafter::ModelDrafter(std::string name, const Model& model, const Controls& controls, int most, int64_t vocab,
                           ThreadPool& pool, ForwardScratch& scratch)
    : name_(std::move(name)),
      model_(model),
      vocab_(vocab),
      pool_(pool),
      scratch_(scratch),
      state_(model, controls),
      kept_(state_, std::min<int64_t>(kProvisionalTokens, 2 * (most + 1))) {}

int ModelDrafter::Look(std::span<const int32_t> text) {
  // What it holds, and of what it tried last the tokens that came true.
  const auto held = [&](std::span<const int32_t> ids, size_t from) {
    if (from > text.size()) return size_t{0};
    const auto [mine, theirs] = std::ranges::mismatch(ids, text.subspan(from));
    return static_cast<size_t>(mine - ids.begin());
  };
  const size_t read = state_.ids().size();
  if (held(state_.ids(), offset_) < read || offset_ + read >= text.size()) {
    state_.Reset();
    kept_.Forget();
    offset_ = text.size() - std::min(text.size(), kCatchUp);
  } else if (kept_.waiting() > 0) {
    // The last token of the text is always left to read: its successor is asked for.
    const size_t most = text.size() - offset_ - read - 1;
    const size_t m = std::min(held(kept_.ids(), offset_ + read), most);
    model_.Commit(state_, kept_, static_cast<int64_t>(m), pool_, scratch_);
  }
  if (text.size() - offset_ - state_.ids().size() > kCatchUp) {
    state_.Reset();
    offset_ = text.size() - kCatchUp;
  }
  const auto rest = text.subspan(offset_ + state_.ids().size());
  unread_.assign(rest.begin(), rest.end());
  return unread_.empty() || state_.layout().most_tokens <= state_.pos() ? -1 : 0;
}

void ModelDrafter::Read(std::span<const int32_t> text) {
  if (Look(text) >= 0) (void)CatchUp();
}

bool ModelDrafter::CatchUp() {
  if (static_cast<int64_t>(unread_.size()) > Room()) return false;
  const Segment segment{&state_, std::span<const int32_t>(unread_).first(unread_.size() - 1), LogitsOf::kNone};
  if (!segment.ids.empty()) (void)model_.Forward({&segment, 1}, pool_, scratch_);
  unread_.erase(unread_.begin(), unread_.end() - 1);
  return true;
}

std::span<const int32_t> ModelDrafter::Draft(int n) {
  draft_.clear();
  // More than a provisional pass takes is read first.
  if (static_cast<int64_t>(unread_.size()) + n > kept_.tokens() && !CatchUp()) return draft_;
  std::vector<int32_t> ids = unread_;
  while (static_cast<int>(draft_.size()) < n && static_cast<int64_t>(ids.size()) <= Room()) {
    draft_.push_back(Best(ids));
    ids.push_back(draft_.back());
  }
  return draft_;
}

int32_t ModelDrafter::Best(std::span<const int32_t> ids) {
  const Segment segment{.state = &state_, .ids = ids, .kept = &kept_};
  return BestId(model_.Forward({&segment, 1}, pool_, scratch_), vocab_);
}

}  // namespace hydra
