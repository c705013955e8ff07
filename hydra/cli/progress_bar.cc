// SPDX-License-Identifier: Apache-2.0
// Draws bars.
#include "hydra/cli/progress_bar.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace hydra::cli {

std::string DurationText(double seconds) {
  if (seconds < 100) return fmt::format("{:.0f} s", seconds);
  if (seconds < 6000) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

ProgressBar::~ProgressBar() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
}

double ProgressBar::Left(double share) const {
  const double done = share - first_;
  return begin_ < 0 || done <= 0 ? -1 : (Seconds() - begin_) / done * (1 - share);
}

void ProgressBar::Show(const std::string& name, double share, const std::string& text) {
  share = std::clamp(share, 0.0, 1.0);
  if (begin_ < 0) begin_ = Seconds(), first_ = share;
  if (flags_.quiet) return;
  constexpr int kWidth = 20;
  const int filled = static_cast<int>(share * kWidth);
  std::string bar(static_cast<size_t>(kWidth), ' ');
  std::fill_n(bar.begin(), filled, '=');
  if (filled < kWidth) bar[static_cast<size_t>(filled)] = '>';
  const double left = Left(share);
  const std::string line =
      fmt::format("{}  [{}] {}{}", name, bar, text, left >= 0 ? "  ETA " + DurationText(left) : "");
  if (StderrIsTerminal()) {
    if (!pace_.Due()) return;
    fmt::print(stderr, "\r\x1b[K{}", line.substr(0, 118));
    std::fflush(stderr);
    drawn_ = true;
  } else if (flags_.verbose && static_cast<int>(share * 10) > tenth_) {
    tenth_ = static_cast<int>(share * 10);
    fmt::print(stderr, "{}\n", line);
  }
}

}  // namespace hydra::cli
