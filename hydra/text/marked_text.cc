// SPDX-License-Identifier: Apache-2.0
// Pieces of text put together with their marks.
#include "hydra/text/marked_text.h"

#include <algorithm>

namespace hydra {

void MarkedText::Add(const TextMark& mark) {
  if (mark.begin >= mark.end) return;
  if (!marks_.empty() && marks_.back().end == mark.begin && marks_.back().source == mark.source) {
    marks_.back().end = mark.end;
  } else {
    marks_.push_back(mark);
  }
}

void MarkedText::Append(std::string_view bytes, int32_t source) {
  const size_t begin = bytes_.size();
  bytes_ += bytes;
  Add({begin, bytes_.size(), source});
}

void MarkedText::Append(const MarkedText& other, size_t begin, size_t n) {
  begin = std::min(begin, other.bytes_.size());
  const size_t end = begin + std::min(n, other.bytes_.size() - begin), at = bytes_.size();
  bytes_.append(other.bytes_, begin, end - begin);
  auto mark = std::ranges::partition_point(other.marks_, [&](const TextMark& m) { return m.end <= begin; });
  for (; mark != other.marks_.end() && mark->begin < end; ++mark)
    Add({at + std::max(mark->begin, begin) - begin, at + std::min(mark->end, end) - begin, mark->source});
}

MarkedText MarkedText::Part(size_t begin, size_t n) const {
  MarkedText part;
  part.Append(*this, begin, n);
  return part;
}

void MarkedText::MarkAll(int32_t source) {
  marks_.clear();
  Add({0, bytes_.size(), source});
}

}  // namespace hydra
