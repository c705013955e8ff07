// SPDX-License-Identifier: Apache-2.0
// Finds texts among tokens.
#include "hydra/runtime/pins.h"

#include <algorithm>
#include <string>

namespace hydra {

std::vector<int64_t> PositionsOf(std::string_view text, std::span<const int32_t> ids, int64_t first,
                                 const Tokenizer& tokenizer) {
  std::string all;
  std::vector<size_t> ends;  // of each token in `all`
  for (const int32_t id : ids) {
    if (id < tokenizer.vocab_size()) all += tokenizer.TokenBytes(id);
    ends.push_back(all.size());
  }
  std::vector<int64_t> positions;
  for (size_t at = all.find(text); !text.empty() && at != std::string::npos; at = all.find(text, at + 1)) {
    auto token = static_cast<size_t>(std::ranges::upper_bound(ends, at) - ends.begin());
    for (; token < ends.size() && (token == 0 ? 0 : ends[token - 1]) < at + text.size(); ++token)
      positions.push_back(first + static_cast<int64_t>(token));
  }
  std::ranges::sort(positions);
  const auto again = std::ranges::unique(positions);
  positions.erase(again.begin(), again.end());
  return positions;
}

Controls WithPins(Controls controls, std::span<const int64_t> positions) {
  std::vector<int64_t>& pins = controls.pins;
  pins.insert(pins.end(), positions.begin(), positions.end());
  std::ranges::sort(pins);
  const auto again = std::ranges::unique(pins);
  pins.erase(again.begin(), again.end());
  return controls;
}

}  // namespace hydra
