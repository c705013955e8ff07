// SPDX-License-Identifier: Apache-2.0
// The known split patterns as hand-written scanners, several times faster than a regular expression; tests hold them
// to PCRE2 on random text. Not here: patterns at large (pretokenizer_regex.h).
#pragma once

#include <string_view>

#include "hydra/base/utf8.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {

enum class SplitPattern {
  kGpt2,    // GPT-2, and every ByteLevel with use_regex
  kLlama3,  // Llama 3, also GPT-4's cl100k
  kQwen2,   // Llama 3's with digits one by one
};

inline constexpr std::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace internal {

// A place in valid UTF-8 text and the class of the character there.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : end_(text.data() + text.size()), classes_(CharClasses::Get()) {}

  [[nodiscard]] const char* end() const { return end_; }
  [[nodiscard]] CharClass ClassAt(const char* p) const {
    const auto byte = static_cast<unsigned char>(*p);
    return byte < 0x80 ? classes_.Ascii(byte) : classes_.Of(DecodeUtf8(p).value);
  }
  // Past the run of class `c` that starts at or before `p`.
  [[nodiscard]] const char* SkipRun(const char* p, CharClass c) const {
    while (p < end_) {
      const auto byte = static_cast<unsigned char>(*p);
      if (byte < 0x80) {
        if (classes_.Ascii(byte) != c) break;
        ++p;
      } else {
        const CodePoint code_point = DecodeUtf8(p);
        if (classes_.Of(code_point.value) != c) break;
        p += code_point.bytes;
      }
    }
    return p;
  }
  // The end of the piece `\s+(?!\S)|\s+` finds at whitespace `p` whose run ends at `run_end`: the last character of a
  // run goes with the word that follows.
  [[nodiscard]] const char* EndOfSpaces(const char* p, const char* run_end) const {
    if (run_end == end_) return run_end;
    const char* last = run_end;
    do --last;
    while ((static_cast<unsigned char>(*last) & 0xC0) == 0x80);
    return last > p ? last : run_end;
  }

 private:
  const char* end_;
  const CharClasses& classes_;
};

// Past "'s", "'re" and so on at the apostrophe `p`, or nullptr.
inline const char* SkipContraction(const char* p, const char* end) {
  const auto left = end - p;
  if (left < 2) return nullptr;
  const char c = p[1];
  if (c == 's' || c == 't' || c == 'm' || c == 'd') return p + 2;
  if (left < 3) return nullptr;
  const bool two = ((c == 'r' || c == 'v') && p[2] == 'e') || (c == 'l' && p[2] == 'l');
  return two ? p + 3 : nullptr;
}

// The same without regard to case. U+017F (long s) is an s to case folding.
inline const char* SkipContractionAnyCase(const char* p, const char* end) {
  const auto left = end - p;
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; };
  if (left < 2) return nullptr;
  const char c = lower(p[1]);
  if (c == 's' || c == 't' || c == 'm' || c == 'd') return p + 2;
  if (left < 3) return nullptr;
  if (p[1] == '\xC5' && p[2] == '\xBF') return p + 3;
  const char d = lower(p[2]);
  const bool two = ((c == 'r' || c == 'v') && d == 'e') || (c == 'l' && d == 'l');
  return two ? p + 3 : nullptr;
}

inline const char* NextGpt2(const Scanner& scan, const char* p) {
  const char* const end = scan.end();
  if (*p == '\'') {
    if (const char* past = SkipContraction(p, end)) return past;
  }
  const char* start = *p == ' ' && p + 1 < end ? p + 1 : p;
  const CharClass c = scan.ClassAt(start);
  if (c != CharClass::kSpace) return scan.SkipRun(start, c);
  return scan.EndOfSpaces(p, scan.SkipRun(p, CharClass::kSpace));
}

// Past at most `n` numbers.
inline const char* SkipNumbers(const Scanner& scan, const char* p, int n) {
  for (; n > 0 && p < scan.end() && scan.ClassAt(p) == CharClass::kNumber; --n) p += Utf8Length(*p);
  return p;
}

template <int kMaxDigits>
const char* NextLlama3(const Scanner& scan, const char* p) {
  const char* const end = scan.end();
  const auto is_newline = [](char c) { return c == '\r' || c == '\n'; };
  if (*p == '\'') {
    if (const char* past = SkipContractionAnyCase(p, end)) return past;
  }
  const CharClass c = scan.ClassAt(p);
  if (c == CharClass::kLetter) return scan.SkipRun(p, c);
  if (c == CharClass::kNumber) return SkipNumbers(scan, p, kMaxDigits);
  const char* const next = p + Utf8Length(*p);
  const bool more = next < end;
  if (more && !is_newline(*p) && scan.ClassAt(next) == CharClass::kLetter)
    return scan.SkipRun(next, CharClass::kLetter);
  if (c == CharClass::kOther || (*p == ' ' && more && scan.ClassAt(next) == CharClass::kOther)) {
    const char* q = scan.SkipRun(next, CharClass::kOther);
    while (q < end && is_newline(*q)) ++q;
    return q;
  }
  const char* const run_end = scan.SkipRun(p, CharClass::kSpace);
  for (const char* q = run_end; q > p; --q) {
    if (is_newline(q[-1])) return q;
  }
  return scan.EndOfSpaces(p, run_end);
}

template <const char* (*kNext)(const Scanner&, const char*), class Emit>
void ScanAll(std::string_view text, Emit&& emit) {
  const Scanner scan(text);
  for (const char* p = text.data(); p < scan.end();) {
    const char* const past = kNext(scan, p);
    emit(std::string_view(p, static_cast<size_t>(past - p)));
    p = past;
  }
}

}  // namespace internal

// Calls emit(std::string_view) with the pieces of `text` (valid UTF-8), in order; together they are the whole text.
template <class Emit>
void ScanPieces(SplitPattern pattern, std::string_view text, Emit&& emit) {
  switch (pattern) {
    case SplitPattern::kGpt2: return internal::ScanAll<internal::NextGpt2>(text, emit);
    case SplitPattern::kLlama3: return internal::ScanAll<internal::NextLlama3<3>>(text, emit);
    case SplitPattern::kQwen2: return internal::ScanAll<internal::NextLlama3<1>>(text, emit);
  }
}

}  // namespace hydra
