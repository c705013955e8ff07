// SPDX-License-Identifier: Apache-2.0
// The trie, in the order of a walk through it.
#include "hydra/text/token_trie.h"

#include <algorithm>
#include <utility>

namespace hydra {

TokenTrie::TokenTrie(const Tokenizer& tokenizer, int64_t vocab)
    : tokenizer_(tokenizer), vocab_(std::min<int64_t>(vocab, tokenizer.vocab_size())) {
  std::vector<std::pair<std::string_view, int32_t>> sorted;
  for (int32_t id = 0; id < vocab_; ++id)
    if (const std::string_view bytes = BytesOf(id); !bytes.empty()) sorted.emplace_back(bytes, id);
  std::ranges::sort(sorted);
  std::vector<int32_t> open;  // nodes on the way to the last token
  std::string_view before;
  for (const auto& [bytes, id] : sorted) {
    const auto same = std::ranges::mismatch(bytes, before).in1 - bytes.begin();
    for (; static_cast<std::ptrdiff_t>(open.size()) > same; open.pop_back())
      nodes_[static_cast<size_t>(open.back())].end = static_cast<int32_t>(nodes_.size());
    for (size_t i = open.size(); i < bytes.size(); ++i) {
      open.push_back(static_cast<int32_t>(nodes_.size()));
      const auto at = static_cast<int32_t>(tokens_.size());
      nodes_.push_back({static_cast<uint8_t>(bytes[i]), 0, at, at});
    }
    tokens_.push_back(id);
    nodes_[static_cast<size_t>(open.back())].tokens_end = static_cast<int32_t>(tokens_.size());
    longest_ = std::max(longest_, static_cast<int32_t>(bytes.size()));
    before = bytes;
  }
  for (const int32_t node : open) nodes_[static_cast<size_t>(node)].end = static_cast<int32_t>(nodes_.size());
}

std::string_view TokenTrie::BytesOf(int32_t id) const {
  return tokenizer_.IsSpecial(id) ? std::string_view() : tokenizer_.TokenBytes(id);
}

}  // namespace hydra
