// SPDX-License-Identifier: Apache-2.0
// Ends a stream of text at the first stop string, holding back what may become one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hydra {

// Not thread-safe. Without stop strings, text passes at once.
class StopStrings {
 public:
  // Throws Error(kUsage) for an empty one.
  explicit StopStrings(std::vector<std::string> stops);
  // Text that may be shown now: all before a stop string, or before a tail that could still become one.
  [[nodiscard]] std::string Feed(std::string_view text);
  // What was held back when the stream ended without a stop.
  [[nodiscard]] std::string Finish();
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace hydra
