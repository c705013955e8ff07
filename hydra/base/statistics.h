// SPDX-License-Identifier: Apache-2.0
// Small statistics of measured numbers: means with their errors, correlation of ranks, intervals by resampling.
#pragma once

#include <cstdint>
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

// Values that are not drawn apart from one another, such as the questions about one text.
struct SampleGroup {
  double sum = 0;
  int64_t n = 0;
};
// The mean of all values, and between which bounds 95% of the means lie that groups drawn anew, with repetition, have.
struct MeanInterval {
  double mean = 0, low = 0, high = 0;
};
// Equal seeds give equal intervals. NaN without a value.
[[nodiscard]] MeanInterval BootstrapMean(std::span<const SampleGroup> groups, int draws, uint64_t seed);

}  // namespace hydra
