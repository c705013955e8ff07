// SPDX-License-Identifier: Apache-2.0
// Python's rules for characters and literals, over utf8proc.
#include "hydra/text/jinja_chars.h"

#include <utf8proc.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"

namespace hydra::jinja {
namespace {

utf8proc_category_t CategoryOf(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

bool IsPrintable(char32_t c) {
  switch (CategoryOf(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return c == ' ';
    default: return true;
  }
}

// Capital letters of several characters: the few of Unicode's SpecialCasing.txt that texts have.
constexpr std::array<std::pair<char32_t, const char*>, 9> kLongUpper = {{{0xDF, "SS"},
                                                                         {0x149, "\xCA\xBCN"},
                                                                         {0xFB00, "FF"},
                                                                         {0xFB01, "FI"},
                                                                         {0xFB02, "FL"},
                                                                         {0xFB03, "FFI"},
                                                                         {0xFB04, "FFL"},
                                                                         {0xFB05, "ST"},
                                                                         {0xFB06, "ST"}}};

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void AppendEscaped(char32_t c, std::string* out) {
  constexpr const char* kHex = "0123456789abcdef";
  const int digits = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
  *out += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) *out += kHex[(c >> shift) & 15];
}

}  // namespace

bool IsSpace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t CharBefore(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

size_t SpaceAt(std::string_view text, size_t at) {
  const size_t begin = at;
  while (at < text.size()) {
    const CodePoint c = DecodeUtf8(text.data() + at);
    if (!IsSpace(c.value)) break;
    at += static_cast<size_t>(c.bytes);
  }
  return at > begin ? at - begin : 0;
}

size_t SpaceBefore(std::string_view text, size_t end) {
  size_t at = end;
  while (at > 0) {
    const size_t before = CharBefore(text, at);
    if (!IsSpace(DecodeUtf8(text.data() + before).value)) break;
    at = before;
  }
  return end - at;
}

size_t CharCount(std::string_view text) {
  size_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

size_t CharOffset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += static_cast<size_t>(Utf8Length(text[at]));
  return at;
}

bool IsUpper(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_LU; }
bool IsLower(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_LL; }
bool IsLetter(char32_t c) {
  const auto category = CategoryOf(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}
bool IsDecimal(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_ND; }

void AppendUpper(char32_t c, std::string* out) {
  for (const auto& [lower, upper] : kLongUpper)
    if (c == lower) {
      *out += upper;
      return;
    }
  AppendUtf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), *out);
}

void AppendLower(char32_t c, std::string* out) {
  if (c == 0x130) {
    *out += "i\xCC\x87";
    return;
  }
  AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), *out);
}

const char* Unescape(std::string_view literal, std::string* out) {
  constexpr std::string_view kLetters = "\\'\"abfnrtv", kMeanings = "\\'\"\a\b\f\n\r\t\v";
  out->clear();
  for (size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      *out += literal[i];
      continue;
    }
    const char c = literal[++i];
    if (c == '\n') continue;
    if (const size_t letter = kLetters.find(c); letter != std::string_view::npos) {
      *out += kMeanings[letter];
    } else if (c >= '0' && c <= '7') {
      char32_t value = 0;
      size_t end = i;
      for (; end < i + 3 && end < literal.size() && literal[end] >= '0' && literal[end] <= '7'; ++end)
        value = value * 8 + static_cast<char32_t>(literal[end] - '0');
      AppendUtf8(value, *out);
      i = end - 1;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      if (literal.size() - i - 1 < digits) return "an escape \\x, \\u or \\U lacks digits";
      char32_t value = 0;
      for (size_t d = 1; d <= digits; ++d) {
        const int digit = HexDigit(literal[i + d]);
        if (digit < 0) return "an escape \\x, \\u or \\U lacks digits";
        value = value * 16 + static_cast<char32_t>(digit);
      }
      if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) return "an escape \\u or \\U is no character";
      AppendUtf8(value, *out);
      i += digits;
    } else if (c == 'N') {
      return "characters by name (\\N) are not supported";
    } else if ((c & 0x80) != 0) {  // Jinja goes through ASCII: the character's own escape loses its backslash
      const CodePoint point = DecodeUtf8(literal.data() + i);
      AppendEscaped(point.value, out);
      i += static_cast<size_t>(point.bytes) - 1;
    } else {
      *out += '\\';
      *out += c;
    }
  }
  return nullptr;
}

std::string Repr(std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos, twice = text.find('"') != std::string_view::npos;
  const char quote = single && !twice ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i);
    if (c.value == static_cast<char32_t>(quote) || c.value == '\\') {
      out += '\\';
      out += static_cast<char>(c.value);
    } else if (c.value == '\n' || c.value == '\r' || c.value == '\t') {
      out += c.value == '\n' ? "\\n" : c.value == '\r' ? "\\r" : "\\t";
    } else if (!IsPrintable(c.value)) {
      AppendEscaped(c.value, &out);
    } else {
      out += text.substr(i, static_cast<size_t>(c.bytes));
    }
    i += static_cast<size_t>(c.bytes);
  }
  return out += quote;
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (text[0] == '-') {
    out += '-';
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  int exponent = 0;
  const size_t sign = text[e + 1] == '+' ? 1 : 0;
  std::from_chars(text.data() + e + 1 + sign, text.data() + text.size(), exponent);
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  const auto n = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (n > 1) out += StrCat(".", digits.substr(1));
    const int size = std::abs(exponent);
    return out + (exponent < 0 ? "e-" : "e+") + (size < 10 ? "0" : "") + std::to_string(size);
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (n <= exponent + 1) return out + digits + std::string(static_cast<size_t>(exponent + 1 - n), '0') + ".0";
  return out + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<size_t>(exponent) + 1);
}

void AppendJsonText(std::string_view text, bool ascii, std::string* out) {
  constexpr std::string_view kPlain = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
  constexpr const char* kHex = "0123456789abcdef";
  const auto unit = [&](char32_t c) {
    *out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) *out += kHex[(c >> shift) & 15];
  };
  *out += '"';
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i);
    const size_t letter = c.value < 0x80 ? kPlain.find(static_cast<char>(c.value)) : std::string_view::npos;
    if (letter != std::string_view::npos) {
      *out += '\\';
      *out += kLetters[letter];
    } else if (c.value < 0x20 || (ascii && c.value >= 0x7F && c.value < 0x10000)) {
      unit(c.value);
    } else if (ascii && c.value >= 0x10000) {
      unit(0xD800 + ((c.value - 0x10000) >> 10));
      unit(0xDC00 + ((c.value - 0x10000) & 0x3FF));
    } else {
      *out += text.substr(i, static_cast<size_t>(c.bytes));
    }
    i += static_cast<size_t>(c.bytes);
  }
  *out += '"';
}

namespace {

// Without white space around it and underscores between digits, as int() and float() take it; none where these stand
// elsewhere.
std::optional<std::string> PlainNumber(std::string_view text) {
  text.remove_prefix(SpaceAt(text, 0));
  text.remove_suffix(SpaceBefore(text, text.size()));
  const auto is_digit = [](char c) { return HexDigit(c) >= 0; };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1])) {
      return std::nullopt;
    }
  }
  return out;
}

}  // namespace

std::optional<int64_t> ParseInt(std::string_view text, int base) {
  const auto plain = PlainNumber(text);
  if (!plain || plain->empty()) return std::nullopt;
  const bool negative = (*plain)[0] == '-';
  size_t at = negative || (*plain)[0] == '+' ? 1 : 0;
  if (plain->size() > at + 1 && (*plain)[at] == '0') {
    const char letter = static_cast<char>((*plain)[at + 1] | 0x20);
    if ((base == 16 && letter == 'x') || (base == 8 && letter == 'o') || (base == 2 && letter == 'b')) at += 2;
  }
  if (at == plain->size() || HexDigit((*plain)[at]) < 0) return std::nullopt;
  const std::string digits = (negative ? "-" : "") + plain->substr(at);
  int64_t value = 0;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || stop != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> ParseFloat(std::string_view text) {
  auto plain = PlainNumber(text);
  if (!plain || plain->empty()) return std::nullopt;
  for (char& c : *plain)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
  const bool negative = (*plain)[0] == '-';
  const std::string_view digits = std::string_view(*plain).substr(negative || (*plain)[0] == '+' ? 1 : 0);
  double value = 0;
  if (digits == "inf" || digits == "infinity") {
    value = HUGE_VAL;
  } else if (digits == "nan") {
    value = NAN;
  } else {
    if (digits.empty() || (digits[0] != '.' && HexDigit(digits[0]) < 0)) return std::nullopt;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error == std::errc::invalid_argument || stop != digits.data() + digits.size()) return std::nullopt;
    if (error == std::errc::result_out_of_range) value = digits.find("e-") == std::string_view::npos ? HUGE_VAL : 0;
  }
  return negative ? -value : value;
}

size_t Find(std::string_view text, std::string_view what, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (what.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, what.data(), what.size());
  return found == nullptr ? std::string_view::npos : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

}  // namespace hydra::jinja
