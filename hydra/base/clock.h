// SPDX-License-Identifier: Apache-2.0
// The clock that durations are measured with, and what is done every few seconds. Not here: dates and times of day.
#pragma once

#include <chrono>
#include <limits>

namespace hydra {

// Seconds of a clock that only goes forward, from a start of its own: only differences mean something.
[[nodiscard]] inline double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Lets through what shall be shown at most once in `seconds`. Not thread-safe.
class Pace {
 public:
  explicit Pace(double seconds) : seconds_(seconds) {}
  // True the first time, and then whenever `seconds` have gone by since it was last true.
  [[nodiscard]] bool Due(double now = Seconds()) {
    if (now < next_) return false;
    next_ = now + seconds_;
    return true;
  }

 private:
  double seconds_;
  double next_ = -std::numeric_limits<double>::infinity();
};

}  // namespace hydra
