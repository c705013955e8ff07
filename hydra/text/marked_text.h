// SPDX-License-Identifier: Apache-2.0
// Text that knows which of its bytes came from outside: what users say in a conversation must never become a special
// token, whatever a template makes of it. Not here: templates (jinja.h), tokens (tokenizer.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hydra {

// Bytes [begin, end) that came from outside; `source` says where from (in a chat: the number of the message).
struct TextMark {
  size_t begin = 0, end = 0;
  int32_t source = 0;
  friend bool operator==(const TextMark&, const TextMark&) = default;
};

class MarkedText {
 public:
  MarkedText() = default;
  explicit MarkedText(std::string plain) : bytes_(std::move(plain)) {}
  MarkedText(std::string bytes, int32_t source) : bytes_(std::move(bytes)) { MarkAll(source); }

  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  // Ascending, apart from each other or of different sources, none empty.
  [[nodiscard]] const std::vector<TextMark>& marks() const { return marks_; }
  [[nodiscard]] bool marked() const { return !marks_.empty(); }
  // Of the first mark; -1 for plain text.
  [[nodiscard]] int32_t source() const { return marks_.empty() ? -1 : marks_[0].source; }

  void Append(std::string_view plain) { bytes_ += plain; }
  void Append(std::string_view bytes, int32_t source);
  // A part of another text with its marks.
  void Append(const MarkedText& other, size_t begin = 0, size_t n = std::string::npos);
  [[nodiscard]] MarkedText Part(size_t begin, size_t n = std::string::npos) const;
  // All of it, in place of the marks it has.
  void MarkAll(int32_t source);
  void Clear() { bytes_.clear(), marks_.clear(); }

 private:
  void Add(const TextMark& mark);

  std::string bytes_;
  std::vector<TextMark> marks_;
};

}  // namespace hydra
