// SPDX-License-Identifier: Apache-2.0
// Small statistics of measured numbers: means with their errors, correlation of ranks.
#pragma once

#include <span>
#include <vector>

namespace hydra {

struct MeanError {
  double mean = 0, error = 0;  // error: standard error of the mean; 0 of fewer than two values
};
[[nodiscard]] MeanError MeanOf(std::span<const double> values);

// Ranks 1 .. n; equal values share the mean of their ranks.
[[nodiscard]] std::vector<double> RanksOf(std::span<const double> values);
// Spearman's correlation of ranks, -1 to 1; NaN of fewer than two pairs, or where one side is constant.
[[nodiscard]] double Spearman(std::span<const double> a, std::span<const double> b);

}  // namespace hydra
