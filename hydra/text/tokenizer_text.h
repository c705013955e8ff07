// SPDX-License-Identifier: Apache-2.0
// Text as the tokenizer needs it: character classes, the byte-level alphabet, NFC. Not here: UTF-8 itself (utf8.h),
// splitting into words (pretokenizer.h), tokens (tokenizer.h).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace hydra {

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

}  // namespace hydra
