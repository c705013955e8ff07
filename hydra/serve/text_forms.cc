// SPDX-License-Identifier: Apache-2.0
// A short list of grammars, the last used first.
#include "hydra/serve/text_forms.h"

#include <algorithm>

namespace hydra::serve {

std::shared_ptr<GrammarMasks> TextForms::Get(const std::string& key, const std::function<Grammar()>& make) {
  const auto find = [&] { return std::ranges::find(known_, key, [](const auto& each) { return each.first; }); };
  {
    const std::lock_guard lock(mutex_);
    if (const auto at = find(); at != known_.end()) {
      known_.splice(known_.begin(), known_, at);
      return at->second;
    }
  }
  auto made = std::make_shared<GrammarMasks>(std::make_shared<const Grammar>(make()), trie_);  // may take a while
  const std::lock_guard lock(mutex_);
  if (const auto at = find(); at != known_.end()) return at->second;  // another thread was faster
  known_.emplace_front(key, made);
  if (known_.size() > kMost) known_.pop_back();
  return made;
}

size_t TextForms::size() const {
  const std::lock_guard lock(mutex_);
  return known_.size();
}

}  // namespace hydra::serve
