// SPDX-License-Identifier: Apache-2.0
// Text as the tokenizer needs it: UTF-8 checked, mended and streamed, character classes, the byte-level alphabet, NFC.
// Not here: splitting into words (pretokenizer.h), tokens (tokenizer.h).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hydra {

inline constexpr std::string_view kReplacementChar = "\xEF\xBF\xBD";  // U+FFFD

// The length of the longest prefix that is valid UTF-8 (no surrogates, nothing above U+10FFFF, shortest forms).
[[nodiscard]] size_t ValidUtf8Prefix(std::string_view text);

// `text` itself where it is valid UTF-8. Else a copy in `buffer` with U+FFFD for each maximal invalid part, as the
// Unicode Standard recommends (3.9) and as Rust, Python and browsers do.
[[nodiscard]] std::string_view MendUtf8(std::string_view text, std::string& buffer);

struct CodePoint {
  char32_t value;
  int bytes;
};

// The code point at `p`, which must start a valid sequence.
[[nodiscard]] inline CodePoint DecodeUtf8(const char* p) {
  const auto at = [p](int i) { return static_cast<char32_t>(static_cast<unsigned char>(p[i])); };
  const char32_t lead = at(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (at(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (at(1) & 0x3F) << 6 | (at(2) & 0x3F), 3};
  return {(lead & 0x07) << 18 | (at(1) & 0x3F) << 12 | (at(2) & 0x3F) << 6 | (at(3) & 0x3F), 4};
}

// The bytes of the sequence that starts with `lead`, the first byte of valid UTF-8.
[[nodiscard]] inline int Utf8Length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

void AppendUtf8(char32_t code_point, std::string& out);

// The four classes that the split patterns tell apart: \p{L}, \p{N}, \s (White_Space) and the rest.
enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace };

// Classes by table for the basic plane, by utf8proc beyond. Immutable, so shared by all threads.
class CharClasses {
 public:
  [[nodiscard]] static const CharClasses& Get();
  [[nodiscard]] CharClass Ascii(unsigned char byte) const { return static_cast<CharClass>(table_[byte]); }
  [[nodiscard]] CharClass Of(char32_t c) const { return c < 0x10000 ? static_cast<CharClass>(table_[c]) : Compute(c); }

 private:
  CharClasses();
  [[nodiscard]] static CharClass Compute(char32_t c);
  std::array<uint8_t, 0x10000> table_{};
};

// GPT-2's map of bytes to printable characters: bytes that are printable in Latin-1 stand for themselves, the others
// for U+0100, U+0101, ... in order.
[[nodiscard]] char32_t ByteLevelChar(uint8_t byte);
// Its inverse; -1 for a character outside the alphabet.
[[nodiscard]] int ByteLevelByte(char32_t c);
// The bytes spelled by `token` in that alphabet; false, with `bytes` unspecified, where a character is outside it.
[[nodiscard]] bool FromByteLevel(std::string_view token, std::string& bytes);
[[nodiscard]] std::string ToByteLevel(std::string_view bytes);

// Normalization form C of valid UTF-8 as `tokenizers` has it (the tables of Unicode 9), in time n log n for any text.
[[nodiscard]] std::string Nfc(std::string_view text);

// Joins pieces of bytes into whole characters: Push returns what is complete and holds back the start of a character
// that may still be finished; invalid bytes become U+FFFD. Finish returns U+FFFD for what was still held back.
// The concatenation of all results equals MendUtf8 of the concatenation of all bytes.
class Utf8Stream {
 public:
  [[nodiscard]] std::string Push(std::string_view bytes);
  [[nodiscard]] std::string Finish();

 private:
  std::string held_;  // at most 3 bytes: a proper prefix of a valid sequence
};

}  // namespace hydra
