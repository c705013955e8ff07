// SPDX-License-Identifier: Apache-2.0
// Added tokens: texts that become a token wherever they stand, before any other step. Not here: the vocabulary.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hydra/text/marked_text.h"
#include "hydra/text/pretokenizer_regex.h"

namespace hydra {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;      // skipped by skip_special, not parsed where parse_special is off
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the whitespace before it
  bool rstrip = false;       // takes the whitespace after it
  bool normalized = false;   // looked for in the normalized text
  friend bool operator==(const AddedToken&, const AddedToken&) = default;
};

// Finds added tokens: the leftmost first, of several there the longest. Immutable and thread-safe.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  // `texts[i]` is what to look for in place of tokens[i].content (its normalized form).
  AddedTokenFinder(std::vector<AddedToken> tokens, const std::vector<std::string>& texts);

  [[nodiscard]] bool empty() const { return tokens_.empty(); }
  [[nodiscard]] bool has_special() const { return std::ranges::any_of(tokens_, &AddedToken::special); }

  // Calls found(part, id) for the parts of `text` in order: id -1 for text between tokens (never empty). With
  // parse_special off, special tokens are text. A token that lies in the white space that the token before it took by
  // rstrip is found too, as `tokenizers` does; its part may then be empty. `strange`: bytes of the text that no special
  // token touches.
  template <class Found>
  void Split(std::string_view text, bool parse_special, std::span<const TextMark> strange, Found&& found) const {
    size_t done = 0;
    auto mark = strange.begin();
    for (size_t at = NextStart(text, 0); at < text.size();) {
      while (mark != strange.end() && mark->end <= at) ++mark;
      const Match match = LongestAt(text, at, mark == strange.end() ? text.size() : std::max(mark->begin, at));
      if (match.token < 0) {
        at = NextStart(text, at + 1);
        continue;
      }
      size_t begin = at, end = at + match.bytes;
      at = NextStart(text, end);
      if (!Admit(static_cast<size_t>(match.token), parse_special, text, done, begin, end)) continue;
      if (done < begin) found(text.substr(done, begin - done), -1);
      found(text.substr(begin, std::max(begin, end) - begin), tokens_[static_cast<size_t>(match.token)].id);
      done = end;
    }
    if (done < text.size()) found(text.substr(done), -1);
  }

 private:
  struct Match {
    int token;  // -1: none
    size_t bytes;
  };
  // The first place from `at` on where a token may start; the text's size where there is none.
  [[nodiscard]] size_t NextStart(std::string_view text, size_t at) const;
  // A special token ends at `special_end` at the latest.
  [[nodiscard]] Match LongestAt(std::string_view text, size_t at, size_t special_end) const;
  // Whether the token counts at [begin, end), which lstrip and rstrip then widen, lstrip not before `done`.
  [[nodiscard]] bool Admit(size_t token, bool parse_special, std::string_view text, size_t done, size_t& begin,
                           size_t& end) const;

  std::vector<AddedToken> tokens_;
  // A trie: edges_ maps node << 8 | byte to a node; ends_[node] is the token that ends there, or -1.
  std::unordered_map<uint64_t, int> edges_;
  std::vector<int> ends_;
  std::vector<bool> starts_;           // bytes that begin a token
  int only_start_ = -1;                // that byte, where all begin with the same: memchr finds it
  std::shared_ptr<const Regex> word_;  // a word character, for single_word
};

}  // namespace hydra
