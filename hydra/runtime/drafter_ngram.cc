// SPDX-License-Identifier: Apache-2.0
// Guesses from what the text repeats.
#include <algorithm>

#include "hydra/runtime/drafter.h"

namespace hydra {
namespace {

// Of the `size` tokens before `end`.
uint64_t HashBefore(std::span<const int32_t> text, size_t end, size_t size) {
  uint64_t hash = size;
  for (size_t i = end - size; i < end; ++i) {
    hash = (hash ^ static_cast<uint32_t>(text[i])) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  }
  return hash;
}

// Tokens that are the same before two places.
size_t SameBefore(std::span<const int32_t> text, size_t a, size_t b, size_t most) {
  size_t n = 0;
  while (n < most && n < std::min(a, b) && text[a - 1 - n] == text[b - 1 - n]) ++n;
  return n;
}

}  // namespace

int NgramDrafter::Look(std::span<const int32_t> text) {
  if (text.size() < text_.size() || !std::ranges::equal(text_, text.first(text_.size()))) {
    text_.clear();
    for (Places& places : places_) places.clear();
    last_found_ = 0;
  }
  for (const int32_t id : text.subspan(text_.size())) {
    for (size_t size = kLeast; size <= std::min(kMost, text_.size()); ++size)
      places_[size - kLeast][HashBefore(text_, text_.size(), size)] = text_.size();
    text_.push_back(id);
  }
  found_ = Find(kMost);
  if (found_ == 0) found_ = Find(kLeast);
  if (found_ == 0) {
    found_ = FindAgain();
    return found_ == 0 ? -1 : 4;
  }
  last_found_ = found_, last_end_ = text_.size();
  constexpr size_t kLong = 8, kMiddle = 4;
  const size_t same = SameBefore(text_, found_, text_.size(), kLong);
  return same >= kLong ? 3 : same >= kMiddle ? 2 : same >= kMost ? 1 : 0;
}

size_t NgramDrafter::Find(size_t size) const {
  if (text_.size() < size) return 0;
  const Places& places = places_[size - kLeast];
  const auto at = places.find(HashBefore(text_, text_.size(), size));
  if (at == places.end() || SameBefore(text_, at->second, text_.size(), size) < size) return 0;  // another's hash
  return at->second;
}

size_t NgramDrafter::FindAgain() const {
  constexpr size_t kNear = 8;  // tokens that were put in, left out or changed
  const size_t since = text_.size() - last_end_, expected = last_found_ + since;
  if (last_found_ == 0 || since > kNear) return 0;
  for (size_t d = 0; d <= kNear; ++d)
    for (const size_t place : {expected + d, expected - d})
      if (place > last_found_ && place < last_end_ && text_[place - 1] == text_.back()) return place;
  return 0;
}

std::span<const int32_t> NgramDrafter::Draft(int n) {
  draft_.clear();
  for (size_t at = found_; static_cast<int>(draft_.size()) < n; ++at)  // what repeats may be shorter than n
    draft_.push_back(at < text_.size() ? text_[at] : draft_[at - text_.size()]);
  return draft_;
}

int64_t NgramDrafter::bytes() const {
  int64_t sum = static_cast<int64_t>((text_.capacity() + draft_.capacity()) * sizeof(text_[0]));
  for (const Places& places : places_)  // a node and a bucket each, as the usual library has them
    sum += static_cast<int64_t>(places.size() * (sizeof(Places::value_type) + sizeof(void*)) +
                                places.bucket_count() * sizeof(void*));
  return sum;
}

}  // namespace hydra
