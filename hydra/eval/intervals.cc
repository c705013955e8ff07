// SPDX-License-Identifier: Apache-2.0
// Intervals, shuffles, crossovers.
#include "hydra/eval/intervals.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "hydra/base/error.h"
#include "hydra/eval/task.h"

namespace hydra::eval {
namespace {

constexpr double kNormal = 1.959963984540054;  // its two-sided 95% point

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Half of the width that differences between seeds give.
double HalfWidth(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double mean = Mean(values), n = static_cast<double>(values.size());
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return StudentT(static_cast<int64_t>(values.size()) - 1) * std::sqrt(squares / (n - 1) / n);
}

Interval Around(std::span<const double> values, std::span<const double> errors) {
  double variance = 0;
  for (const double e : errors) variance += e * e;
  const double n = static_cast<double>(values.size()), mean = Mean(values);
  const double half = std::max(HalfWidth(values), kNormal * std::sqrt(variance) / n);
  return {mean, mean - half, mean + half};
}

}  // namespace

Share ShareOf(std::span<const int64_t> asked, std::span<const int64_t> right, std::span<const double> nats) {
  HYDRA_CHECK(asked.size() == right.size() && asked.size() == nats.size(), asked.size(), " documents");
  Share out;
  double all = 0;
  for (size_t i = 0; i < asked.size(); ++i) {
    out.documents += asked[i] > 0 ? 1 : 0;
    out.asked += asked[i];
    out.right += right[i];
    all += nats[i];
  }
  if (out.asked == 0) return out;
  out.loss = all / static_cast<double>(out.asked);
  if (out.documents < 2) return out;
  // Ratio estimators: sums over documents divided by the sum of their questions.
  double squares = 0, loss_squares = 0;
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto n = static_cast<double>(asked[i]);
    squares += std::pow(static_cast<double>(right[i]) - out.share() * n, 2);
    loss_squares += std::pow(nats[i] - out.loss * n, 2);
  }
  const auto documents = static_cast<double>(out.documents);
  const double factor = std::sqrt(documents / (documents - 1)) / static_cast<double>(out.asked);
  out.error = factor * std::sqrt(squares);
  out.loss_error = factor * std::sqrt(loss_squares);
  return out;
}

Interval Wilson(double share, double n) {
  if (n <= 0) return {share, 0, 1};
  const double z2 = kNormal * kNormal;
  const double middle = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kNormal / (1 + z2 / n) * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n));
  return {share, std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

double StudentT(int64_t freedom) {
  constexpr std::array kPoints{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228};
  HYDRA_CHECK(freedom >= 1, "freedom ", freedom);
  if (freedom <= static_cast<int64_t>(kPoints.size())) return kPoints[static_cast<size_t>(freedom) - 1];
  // Hill's expansion, good to three digits from here on.
  const double n = static_cast<double>(freedom), z = kNormal, z3 = z * z * z;
  return z + (z3 + z) / (4 * n) + (5 * z3 * z * z + 16 * z3 + 3 * z) / (96 * n * n);
}

Interval OverSeeds(std::span<const Share> seeds) {
  HYDRA_CHECK(!seeds.empty(), "no seeds");
  std::vector<double> values;
  double variance = 0, documents = 0;
  for (const Share& s : seeds) {
    values.push_back(s.share());
    variance += s.error * s.error;
    documents += static_cast<double>(s.documents);
  }
  const double mean = Mean(values), n = static_cast<double>(values.size()), half = HalfWidth(values);
  // So many independent draws would have this error.
  const double error2 = variance / (n * n);
  const double draws = error2 > 0 ? mean * (1 - mean) / error2 : documents;
  const Interval wilson = Wilson(mean, draws);
  return {mean, std::max(0.0, std::min(wilson.low, mean - half)), std::min(1.0, std::max(wilson.high, mean + half))};
}

Interval OverSeeds(std::span<const Measured> seeds) {
  HYDRA_CHECK(!seeds.empty(), "no seeds");
  std::vector<double> values, errors;
  for (const Measured& m : seeds) {
    values.push_back(m.value);
    errors.push_back(m.error);
  }
  return Around(values, errors);
}

Interval Difference(std::span<const Share> a, std::span<const Share> b) {
  HYDRA_CHECK(a.size() == b.size() && !a.empty(), a.size(), " and ", b.size(), " seeds");
  std::vector<double> values, errors;
  for (size_t i = 0; i < a.size(); ++i) {
    values.push_back(a[i].share() - b[i].share());
    errors.push_back(std::hypot(a[i].error, b[i].error));
  }
  return Around(values, errors);
}

double Median(std::vector<double> values) {
  HYDRA_CHECK(!values.empty(), "a median of nothing");
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Interval MedianOf(std::vector<double> values) {
  const double median = Median(values);
  std::ranges::sort(values);
  const size_t n = values.size();
  // The true median lies outside of the k-th smallest and largest with twice the chance of fewer than k heads in n
  // throws.
  size_t k = 0;
  double tail = 0, term = std::ldexp(1.0, -static_cast<int>(n));
  for (size_t heads = 0; heads < n / 2; ++heads) {
    tail += term;
    if (2 * tail > 0.05) break;
    k = heads;
    term *= static_cast<double>(n - heads) / static_cast<double>(heads + 1);
  }
  return {median, values[k], values[n - 1 - k]};
}

double MutualInformation(const std::vector<std::vector<double>>& counts) {
  double all = 0;
  std::vector<double> of_row(counts.size()), of_column(counts.empty() ? 0 : counts[0].size());
  for (size_t r = 0; r < counts.size(); ++r)
    for (size_t c = 0; c < counts[r].size(); ++c) {
      of_row[r] += counts[r][c];
      of_column[c] += counts[r][c];
      all += counts[r][c];
    }
  double information = 0;
  for (size_t r = 0; r < counts.size(); ++r)
    for (size_t c = 0; c < counts[r].size(); ++c)
      if (counts[r][c] > 0)
        information += counts[r][c] / all * std::log(counts[r][c] * all / (of_row[r] * of_column[c]));
  return information;
}

Shuffled InformationUnderShuffles(const std::vector<std::vector<double>>& counts, const std::vector<int>& labels,
                                  int n_labels, int64_t shuffles, Rng& rng) {
  HYDRA_CHECK(counts.size() == labels.size() && !counts.empty(), counts.size(), " and ", labels.size(), " documents");
  const auto information = [&](const std::vector<int>& of) {
    std::vector<std::vector<double>> table(static_cast<size_t>(n_labels), std::vector<double>(counts[0].size()));
    for (size_t d = 0; d < counts.size(); ++d)
      for (size_t c = 0; c < counts[d].size(); ++c) table[static_cast<size_t>(of[d])][c] += counts[d][c];
    return MutualInformation(table);
  };
  Shuffled out{.information = information(labels)};
  std::vector<int> shuffled = labels;
  int64_t as_much = 1;  // the true labels themselves
  for (int64_t i = 0; i < shuffles; ++i) {
    Shuffle(rng, &shuffled);
    const double value = information(shuffled);
    out.mean += value / static_cast<double>(shuffles);
    out.most = std::max(out.most, value);
    as_much += value >= out.information ? 1 : 0;
  }
  out.p = static_cast<double>(as_much) / static_cast<double>(shuffles + 1);
  return out;
}

double Crossover(std::span<const double> x, std::span<const double> y) {
  HYDRA_CHECK(x.size() == y.size() && !x.empty(), x.size(), " and ", y.size(), " points");
  size_t below = y.size();  // the last point that is
  while (below > 0 && y[below - 1] >= 1) --below;
  if (below == y.size()) return std::numeric_limits<double>::infinity();
  if (below == 0) return 0;
  const double a = std::log(y[below - 1]), b = std::log(y[below]);
  const double share = b > a ? -a / (b - a) : 1;
  return std::exp(std::log(x[below - 1]) + share * std::log(x[below] / x[below - 1]));
}

double LogSlope(std::span<const double> x, std::span<const double> y) {
  HYDRA_CHECK(x.size() == y.size() && x.size() > 1, x.size(), " and ", y.size(), " points");
  const double n = static_cast<double>(x.size());
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double a = std::log(x[i]), b = std::log(y[i]);
    sx += a, sy += b, sxx += a * a, sxy += a * b;
  }
  return (n * sxy - sx * sy) / (n * sxx - sx * sx);
}

}  // namespace hydra::eval
