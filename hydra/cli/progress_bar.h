// SPDX-License-Identifier: Apache-2.0
// A bar for work that takes more than a moment: drawn in place on a terminal, with -v elsewhere a line for each tenth.
#pragma once

#include <string>

#include "hydra/base/clock.h"
#include "hydra/cli/cli.h"

namespace hydra::cli {

// "42 s", "25 min", "3.2 h".
[[nodiscard]] std::string DurationText(double seconds);

class ProgressBar {
 public:
  explicit ProgressBar(const CommonFlags& flags) : flags_(flags) {}
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // "NAME  [=====>    ] TEXT  ETA 25 min": share is 0 to 1 of all work; that of the first call was done before.
  void Show(const std::string& name, double share, const std::string& text);
  // Seconds that are left by the pace so far; negative where that is not known yet.
  [[nodiscard]] double Left(double share) const;

 private:
  const CommonFlags flags_;
  Pace pace_{0.2};
  double begin_ = -1, first_ = 0;
  int tenth_ = 0;
  bool drawn_ = false;
};

}  // namespace hydra::cli
