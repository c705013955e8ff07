// SPDX-License-Identifier: Apache-2.0
// Finding added tokens in text. Not here: reading them from the file (tokenizer_file.cc).
#include "hydra/text/tokenizer_added.h"

#include <algorithm>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {
namespace {

bool IsSpaceAt(std::string_view text, size_t at) {
  return CharClasses::Get().Of(DecodeUtf8(text.data() + at).value) == CharClass::kSpace;
}

size_t CharBefore(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool Matches(const Regex& regex, std::string_view text) {
  bool found = false;
  regex.ForEachMatch(text, [&](Regex::Span) { found = true; });
  return found;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens, const std::vector<std::string>& texts)
    : tokens_(std::move(tokens)), ends_(1, -1), starts_(256, false) {
  HYDRA_CHECK(tokens_.size() == texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].empty()) continue;
    const auto first = static_cast<unsigned char>(texts[i][0]);
    only_start_ = only_start_ == -1 || only_start_ == first ? first : -2;
    starts_[first] = true;
    int node = 0;
    for (const char byte : texts[i]) {
      const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
      const auto [found, is_new] = edges_.try_emplace(edge, static_cast<int>(ends_.size()));
      if (is_new) ends_.push_back(-1);
      node = found->second;
    }
    if (ends_[static_cast<size_t>(node)] < 0) ends_[static_cast<size_t>(node)] = static_cast<int>(i);
    // Word characters as `tokenizers` has them here: those of a split pattern and the two joiners.
    if (tokens_[i].single_word && !word_) word_ = std::make_shared<Regex>("[\\w\\u200C\\u200D]", "single_word");
  }
}

size_t AddedTokenFinder::NextStart(std::string_view text, size_t at) const {
  if (tokens_.empty() || at >= text.size()) return text.size();
  if (only_start_ >= 0) {
    const void* found = std::memchr(text.data() + at, only_start_, text.size() - at);
    return found == nullptr ? text.size() : static_cast<size_t>(static_cast<const char*>(found) - text.data());
  }
  while (at < text.size() && !starts_[static_cast<unsigned char>(text[at])]) ++at;
  return at;
}

AddedTokenFinder::Match AddedTokenFinder::LongestAt(std::string_view text, size_t at, size_t special_end) const {
  Match best{-1, 0};
  int node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto edge = edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const int token = ends_[static_cast<size_t>(node)];
    if (token >= 0 && (i < special_end || !tokens_[static_cast<size_t>(token)].special)) best = {token, i + 1 - at};
  }
  return best;
}

bool AddedTokenFinder::Admit(size_t token, bool parse_special, std::string_view text, size_t done, size_t& begin,
                             size_t& end) const {
  const AddedToken& t = tokens_[token];
  if (t.special && !parse_special) return false;
  if (t.single_word) {
    const auto is_word = [&](size_t at) {
      return Matches(*word_, text.substr(at, static_cast<size_t>(Utf8Length(text[at]))));
    };
    if (begin > 0 && is_word(CharBefore(text, begin))) return false;
    if (end < text.size() && is_word(end)) return false;
  }
  if (t.lstrip) {
    while (begin > done) {
      const size_t before = CharBefore(text, begin);
      if (!IsSpaceAt(text, before)) break;
      begin = before;
    }
    begin = std::max(begin, done);
  }
  if (t.rstrip) {
    while (end < text.size() && IsSpaceAt(text, end)) end += static_cast<size_t>(Utf8Length(text[end]));
  }
  return true;
}

}  // namespace hydra
