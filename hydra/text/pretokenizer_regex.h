// SPDX-License-Identifier: Apache-2.0
// The regular expressions of tokenizer.json, run by PCRE2 with limits. They are written for Oniguruma, so what the two
// read differently is translated or refused. Not here: what is done with the matches (pretokenizer.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace hydra {

// `pattern` (Oniguruma, as the `tokenizers` library reads it) in PCRE2's syntax with the same matches on text of
// assigned characters, U+180E aside. Throws kFormat "WHERE: ..." for a construct with no sure equivalent.
[[nodiscard]] std::string TranslateRegex(std::string_view pattern, const std::string& where);

// A compiled pattern: UTF, Unicode properties, JIT where PCRE2 has it, match limits. Immutable and thread-safe.
class Regex {
 public:
  struct Span {
    size_t begin, end;  // bytes
  };

  // `where` names file and field in messages. Throws kFormat for a bad pattern, or one that exceeds the match limit on
  // a few short probes, as exponential patterns do.
  Regex(std::string_view pattern, std::string where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // Calls `found` with each match from left to right in `text`, which must be valid UTF-8. A match may be empty; one
  // that directly follows another match is left out, as Oniguruma's iterator does. Throws kData past the match limit.
  void ForEachMatch(std::string_view text, const std::function<void(Span)>& found) const;

  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  struct Code;
  void Probe() const;
  std::unique_ptr<Code> code_;
  std::string where_;
};

}  // namespace hydra
