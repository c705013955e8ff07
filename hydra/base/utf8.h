// SPDX-License-Identifier: Apache-2.0
// UTF-8: checked, mended, decoded, written and streamed. Not here: classes of characters, NFC (tokenizer_text.h).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

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
