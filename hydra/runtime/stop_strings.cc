// SPDX-License-Identifier: Apache-2.0
// Search for stop strings across pieces of text.
#include "hydra/runtime/stop_strings.h"

#include <algorithm>
#include <utility>

#include "hydra/base/error.h"

namespace hydra {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_)
    if (stop.empty()) throw Error(ErrorCode::kUsage, "--stop: must not be empty");
}

std::string StopStrings::Feed(std::string_view text) {
  if (stopped_) return "";
  held_ += text;
  size_t first = held_.npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != held_.npos) {
    stopped_ = true;
    std::string out = held_.substr(0, first);
    held_.clear();
    return out;
  }
  size_t keep = 0;  // longest tail that begins a stop string
  for (const std::string& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) keep = n;
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopStrings::Finish() { return stopped_ ? "" : std::exchange(held_, {}); }

}  // namespace hydra
