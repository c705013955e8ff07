// SPDX-License-Identifier: Apache-2.0
// UTF-8: checked, mended, written and streamed.
#include "hydra/base/utf8.h"

#include <cstdint>
#include <cstring>

namespace hydra {
namespace {

// What stands at the start of `text` (not empty): a valid sequence, or the maximal part of one that is cut or broken.
struct Sequence {
  int bytes;  // of the sequence, or of the invalid part to replace
  bool valid;
  bool at_end;  // invalid only because the text ends here: more bytes could complete it
};

Sequence NextSequence(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte is narrower after E0 (shortest form), ED (surrogates), F0 (shortest form) and F4 (U+10FFFF).
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) == text.size()) return {i, false, true};
    const unsigned byte = at(static_cast<size_t>(i));
    if (i == 1 ? (byte < low || byte > high) : (byte < 0x80 || byte > 0xBF)) return {i, false, false};
  }
  return {length, true, false};
}

}  // namespace

size_t ValidUtf8Prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    while (i + 8 <= text.size()) {  // eight ASCII bytes at a time
      uint64_t word;
      std::memcpy(&word, text.data() + i, 8);
      if (word & 0x8080808080808080u) break;
      i += 8;
    }
    if (i == text.size()) break;
    const Sequence next = NextSequence(text.substr(i));
    if (!next.valid) return i;
    i += static_cast<size_t>(next.bytes);
  }
  return i;
}

std::string_view MendUtf8(std::string_view text, std::string& buffer) {
  size_t valid = ValidUtf8Prefix(text);
  if (valid == text.size()) return text;
  buffer.clear();
  while (!text.empty()) {
    buffer.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    buffer.append(kReplacementChar);
    text.remove_prefix(static_cast<size_t>(NextSequence(text).bytes));
    valid = ValidUtf8Prefix(text);
  }
  return buffer;
}

void AppendUtf8(char32_t c, std::string& out) {
  const auto tail = [&](int shift) { out.push_back(static_cast<char>(0x80 | ((c >> shift) & 0x3F))); };
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.push_back(static_cast<char>(0xC0 | (c >> 6)));
    tail(0);
  } else if (c < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | (c >> 12)));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xF0 | (c >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string Utf8Stream::Push(std::string_view bytes) {
  held_.append(bytes);
  std::string out;
  std::string_view rest = held_;
  while (!rest.empty()) {
    const size_t valid = ValidUtf8Prefix(rest);
    out.append(rest.substr(0, valid));
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    const Sequence next = NextSequence(rest);
    if (next.at_end) break;
    out.append(kReplacementChar);
    rest.remove_prefix(static_cast<size_t>(next.bytes));
  }
  held_ = std::string(rest);
  return out;
}

std::string Utf8Stream::Finish() {
  const bool cut = !held_.empty();
  held_.clear();
  return cut ? std::string(kReplacementChar) : std::string();
}

}  // namespace hydra
