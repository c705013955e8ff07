// SPDX-License-Identifier: Apache-2.0
// How sure a figure is: shares of right answers over documents, means over seeds, medians of repeated timings, and what
// labels that are shuffled give. Torch-free. Not here: what follows from an interval (claims.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hydra/base/rng.h"

namespace hydra::eval {

struct Interval {
  double value = 0, low = 0, high = 0;
};

// Right answers to questions, several of which may be of one document: those are not independent of each other.
struct Share {
  int64_t documents = 0, asked = 0, right = 0;
  double error = 0;                 // standard error of share(), from the differences between documents
  double loss = 0, loss_error = 0;  // nats a question, summed over its answer; and the standard error of that
  [[nodiscard]] double share() const { return asked > 0 ? static_cast<double>(right) / static_cast<double>(asked) : 0; }
};
// Of documents with `asked` questions each, `right` of them answered, with losses of `nats` together.
[[nodiscard]] Share ShareOf(std::span<const int64_t> asked, std::span<const int64_t> right,
                            std::span<const double> nats);

// Wilson's 95% interval for `share` of `n` independent draws; n need not be whole.
[[nodiscard]] Interval Wilson(double share, double n);
// The two-sided 97.5% point of Student's t; freedom >= 1.
[[nodiscard]] double StudentT(int64_t freedom);

// 95% intervals over seeds. Two things make a mean unsure: seeds differ (Student's t over their values; none for a
// single seed), and each seed's figure comes from a limited number of documents. The wider of the two counts.
// Shares: at all documents right or wrong the second is Wilson's interval of as many draws as there are documents.
[[nodiscard]] Interval OverSeeds(std::span<const Share> seeds);
// Of values with a standard error each.
struct Measured {
  double value = 0, error = 0;
};
[[nodiscard]] Interval OverSeeds(std::span<const Measured> seeds);
// Of differences, seed by seed; both sides have the same seeds.
[[nodiscard]] Interval Difference(std::span<const Share> a, std::span<const Share> b);

// The median, and the two order statistics that enclose the true one with at least 95%: the second from either end of
// nine or more values. Of fewer than six no two do; then the smallest and the largest.
[[nodiscard]] Interval MedianOf(std::vector<double> values);
[[nodiscard]] double Median(std::vector<double> values);

// Mutual information in nats of counts [rows][columns].
[[nodiscard]] double MutualInformation(const std::vector<std::vector<double>>& counts);
// Of labels and what documents counted: counts[d][column] of document d with labels[d] in 0 .. n_labels - 1.
struct Shuffled {
  double information = 0;     // of the true labels
  double mean = 0, most = 0;  // over shuffles of the labels among documents
  double p = 1;               // share of the shuffles and the true labels together that give as much
};
[[nodiscard]] Shuffled InformationUnderShuffles(const std::vector<std::vector<double>>& counts,
                                                const std::vector<int>& labels, int n_labels, int64_t shuffles,
                                                Rng& rng);

// Where y, given at ascending x > 0, crosses 1 from below for good, by a line over the logarithms of both; 0: it is
// above from the first x on; infinity: it is not at the last.
[[nodiscard]] double Crossover(std::span<const double> x, std::span<const double> y);
// The slope of a least-squares line over the logarithms.
[[nodiscard]] double LogSlope(std::span<const double> x, std::span<const double> y);

}  // namespace hydra::eval
