// SPDX-License-Identifier: Apache-2.0
// Character classes, the byte-level alphabet and NFC. Not here: anything that knows tokens.
#include "hydra/text/tokenizer_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"

namespace hydra {
namespace {

constexpr bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct ByteAlphabet {
  std::array<char32_t, 256> to_char{};
  std::array<int16_t, 0x144> to_byte{};
};

constexpr ByteAlphabet MakeByteAlphabet() {
  ByteAlphabet alphabet;
  for (auto& byte : alphabet.to_byte) byte = -1;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.to_char[static_cast<size_t>(byte)] = c;
    alphabet.to_byte[c] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr ByteAlphabet kByteAlphabet = MakeByteAlphabet();

// Combining marks, and one pair that composes, which Unicode 10 to 14 added. The `tokenizers` library normalizes by the
// tables of Unicode 9, to which they are plain characters; so they are to us, or ids would differ.
constexpr std::array<std::pair<int32_t, int32_t>, 34> kNewerMarks = {{
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},   {0x0C3C, 0x0C3C},
    {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
    {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
}};

bool IsNewerMark(int32_t c) {
  const auto past = std::upper_bound(kNewerMarks.begin(), kNewerMarks.end(), c,
                                     [](int32_t value, const auto& range) { return value < range.first; });
  return past != kNewerMarks.begin() && c <= std::prev(past)->second;
}

// Appends the canonical decomposition of `c`.
void Decompose(int32_t c, std::vector<int32_t>& out) {
  std::array<utf8proc_int32_t, 32> parts{};
  int boundary = 0;
  const auto n = utf8proc_decompose_char(c, parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
                                         UTF8PROC_DECOMPOSE, &boundary);
  HYDRA_CHECK(n >= 0 && n <= static_cast<utf8proc_ssize_t>(parts.size()), "utf8proc_decompose_char gave ", n);
  out.insert(out.end(), parts.begin(), parts.begin() + n);
}

int CombiningClass(int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Puts each run of combining marks in the order of their classes, equal ones as they came. utf8proc_decompose does
// it by exchanges, in quadratic time for a long run.
void SortMarks(std::vector<int32_t>& chars) {
  const auto less = [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); };
  for (size_t i = 0; i < chars.size();) {
    if (CombiningClass(chars[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < chars.size() && CombiningClass(chars[end]) != 0) ++end;
    std::stable_sort(chars.begin() + static_cast<ptrdiff_t>(i), chars.begin() + static_cast<ptrdiff_t>(end), less);
    i = end;
  }
}

// Sorts and composes what was decomposed, appends it to `out` and empties it.
void ComposeInto(std::vector<int32_t>& chars, std::string& out) {
  SortMarks(chars);
  const auto length = utf8proc_normalize_utf32(chars.data(), static_cast<utf8proc_ssize_t>(chars.size()),
                                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  HYDRA_CHECK(length >= 0, "utf8proc_normalize_utf32 gave ", length);
  for (utf8proc_ssize_t i = 0; i < length; ++i) AppendUtf8(static_cast<char32_t>(chars[static_cast<size_t>(i)]), out);
  chars.clear();
}

}  // namespace

const CharClasses& CharClasses::Get() {
  static const CharClasses classes;
  return classes;
}

CharClasses::CharClasses() {
  for (size_t c = 0; c < table_.size(); ++c) table_[c] = static_cast<uint8_t>(Compute(static_cast<char32_t>(c)));
}

CharClass CharClasses::Compute(char32_t c) {
  if ((c >= 0x09 && c <= 0x0D) || c == 0x85) return CharClass::kSpace;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return CharClass::kNumber;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return CharClass::kSpace;
    default: return CharClass::kOther;
  }
}

char32_t ByteLevelChar(uint8_t byte) { return kByteAlphabet.to_char[byte]; }

int ByteLevelByte(char32_t c) { return c < kByteAlphabet.to_byte.size() ? kByteAlphabet.to_byte[c] : -1; }

bool FromByteLevel(std::string_view token, std::string& bytes) {
  bytes.clear();
  for (size_t i = 0; i < token.size();) {
    const CodePoint c = DecodeUtf8(token.data() + i);
    const int byte = ByteLevelByte(c.value);
    if (byte < 0) return false;
    bytes.push_back(static_cast<char>(byte));
    i += static_cast<size_t>(c.bytes);
  }
  return true;
}

std::string ToByteLevel(std::string_view bytes) {
  std::string token;
  for (const char byte : bytes) AppendUtf8(ByteLevelChar(static_cast<uint8_t>(byte)), token);
  return token;
}

std::string Nfc(std::string_view text) {
  // Below U+0300 nothing composes or decomposes in form C; lead bytes below CC stay below it.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; })) {
    return std::string(text);
  }
  std::vector<int32_t> chars;
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i);
    const auto value = static_cast<int32_t>(c.value);
    if (IsNewerMark(value)) {
      ComposeInto(chars, out);
      AppendUtf8(c.value, out);
    } else {
      Decompose(value, chars);
    }
    i += static_cast<size_t>(c.bytes);
  }
  ComposeInto(chars, out);
  return out;
}

}  // namespace hydra
