// SPDX-License-Identifier: Apache-2.0
// Means, correlation of ranks, resampling.
#include "hydra/base/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"

namespace hydra {

MeanError MeanOf(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  if (values.empty()) return {};
  MeanError out{.mean = std::accumulate(values.begin(), values.end(), 0.0) / n};
  if (values.size() < 2) return out;
  double squares = 0;
  for (const double x : values) squares += (x - out.mean) * (x - out.mean);
  out.error = std::sqrt(squares / (n - 1) / n);
  return out;
}

std::vector<double> RanksOf(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return values[i]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double shared = static_cast<double>(begin + end + 1) / 2;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = shared;
  }
  return ranks;
}

double Spearman(std::span<const double> a, std::span<const double> b) {
  HYDRA_CHECK(a.size() == b.size(), a.size(), " and ", b.size());
  if (a.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> x = RanksOf(a), y = RanksOf(b);
  const double mean = static_cast<double>(a.size() + 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : std::numeric_limits<double>::quiet_NaN();
}

MeanInterval BootstrapMean(std::span<const SampleGroup> groups, int draws, uint64_t seed) {
  HYDRA_CHECK(draws >= 1, draws);
  constexpr double kTail = 0.025;
  double sum = 0;
  int64_t n = 0;
  for (const SampleGroup& group : groups) sum += group.sum, n += group.n;
  MeanInterval out;
  out.mean = out.low = out.high = n > 0 ? sum / static_cast<double>(n) : std::numeric_limits<double>::quiet_NaN();
  if (n == 0) return out;
  Rng rng(seed);
  std::vector<double> means;
  for (int draw = 0; draw < draws; ++draw) {
    double drawn = 0;
    int64_t values = 0;
    for (size_t i = 0; i < groups.size(); ++i) {
      const SampleGroup& group = groups[rng.Below(groups.size())];
      drawn += group.sum, values += group.n;
    }
    if (values > 0) means.push_back(drawn / static_cast<double>(values));
  }
  if (means.empty()) return out;
  std::ranges::sort(means);
  const auto at = [&](double share) {
    return means[static_cast<size_t>(share * static_cast<double>(means.size() - 1) + 0.5)];
  };
  out.low = at(kTail), out.high = at(1 - kTail);
  return out;
}

}  // namespace hydra
