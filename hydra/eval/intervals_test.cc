// SPDX-License-Identifier: Apache-2.0
// Intervals against known values and against what they promise, the rules of verdicts on intervals to either side.
#include "hydra/eval/intervals.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "hydra/eval/claims.h"

namespace hydra::eval {
namespace {

TEST(Intervals, WilsonAndStudent) {
  const Interval i = Wilson(0.9, 100);  // by the closed form
  EXPECT_NEAR(i.low, 0.8256, 1e-4);
  EXPECT_NEAR(i.high, 0.9448, 1e-4);
  EXPECT_EQ(Wilson(1, 50).high, 1);
  EXPECT_LT(Wilson(1, 50).low, 0.94);
  EXPECT_EQ(Wilson(0, 50).low, 0);
  EXPECT_NEAR(StudentT(1), 12.706, 1e-3);
  EXPECT_NEAR(StudentT(2), 4.303, 1e-3);
  EXPECT_NEAR(StudentT(20), 2.086, 2e-3);
  EXPECT_NEAR(StudentT(1000), 1.962, 1e-3);
}

TEST(Intervals, QuestionsOfOneDocumentAreNotIndependent) {
  // Ten documents of ten questions: all right or all wrong, and the same share spread evenly.
  std::vector<int64_t> asked(10, 10), together = {10, 10, 10, 10, 10, 0, 0, 0, 0, 0}, even(10, 5);
  const std::vector<double> nats(10, 3);
  const Share a = ShareOf(asked, together, nats), b = ShareOf(asked, even, nats);
  EXPECT_EQ(a.share(), 0.5);
  EXPECT_EQ(b.share(), 0.5);
  EXPECT_NEAR(a.error, std::sqrt(0.25 / 9), 1e-12);  // of ten draws, not of a hundred
  EXPECT_EQ(b.error, 0);
  EXPECT_NEAR(a.loss, 0.3, 1e-12);
  EXPECT_NEAR(a.loss_error, 0, 1e-12);
  EXPECT_EQ(ShareOf(std::vector<int64_t>(3), std::vector<int64_t>(3), std::vector<double>(3)).documents, 0);
}

// Of 2,000 experiments with a known share, at least 94% of intervals cover it (three standard errors below 95%).
TEST(Intervals, OfSeedsCoverTheTruth) {
  Rng rng(3);
  for (const double spread : {0.0, 0.05}) {
    int covered = 0;
    constexpr int kTimes = 2000;
    for (int time = 0; time < kTimes; ++time) {
      std::vector<Share> seeds;
      for (int seed = 0; seed < 3; ++seed) {
        const double p = 0.7 + spread * rng.Normal();
        std::vector<int64_t> asked(200, 1), right(200);
        for (int64_t& r : right) r = rng.Uniform() < p ? 1 : 0;
        seeds.push_back(ShareOf(asked, right, std::vector<double>(200)));
      }
      const Interval i = OverSeeds(seeds);
      covered += i.low <= 0.7 && 0.7 <= i.high ? 1 : 0;
      EXPECT_GE(i.value, i.low);
      EXPECT_LE(i.value, i.high);
    }
    EXPECT_GE(covered, 0.935 * kTimes) << spread;
  }
}

TEST(Intervals, OfPerfectScoresAreNotPoints) {
  const Share perfect{.documents = 100, .asked = 100, .right = 100};
  const Interval i = OverSeeds(std::vector<Share>(3, perfect));
  EXPECT_EQ(i.value, 1);
  EXPECT_LT(i.low, 1);
  EXPECT_GT(i.low, 0.98);
}

TEST(Intervals, OfDifferencesArePaired) {
  // Both sides move together from seed to seed: the difference is sure although neither side is.
  std::vector<Share> a, b;
  for (const int64_t right : {500, 700, 900}) {
    a.push_back({.documents = 1000, .asked = 1000, .right = right + 50, .error = 0.001});
    b.push_back({.documents = 1000, .asked = 1000, .right = right, .error = 0.001});
  }
  const Interval i = Difference(a, b);
  EXPECT_NEAR(i.value, 0.05, 1e-12);
  EXPECT_GT(i.low, 0.045);
  EXPECT_LT(OverSeeds(a).low, 0.4);
}

TEST(Intervals, OfMediansAreOrderStatistics) {
  const Interval ten = MedianOf({10, 9, 8, 7, 6, 5, 4, 3, 2, 1});
  EXPECT_EQ(ten.value, 5.5);
  EXPECT_EQ(ten.low, 2);
  EXPECT_EQ(ten.high, 9);
  const Interval three = MedianOf({3, 1, 2});
  EXPECT_EQ(three.low, 1);
  EXPECT_EQ(three.high, 3);
  // Ten draws: the second and the ninth enclose the median in 97.9% of cases.
  Rng rng(5);
  int covered = 0;
  for (int time = 0; time < 4000; ++time) {
    std::vector<double> draws(10);
    for (double& x : draws) x = rng.Normal();
    const Interval i = MedianOf(draws);
    covered += i.low <= 0 && 0 <= i.high ? 1 : 0;
  }
  EXPECT_NEAR(covered / 4000.0, 0.979, 0.01);
}

TEST(Intervals, InformationOfLabels) {
  EXPECT_NEAR(MutualInformation({{10, 0}, {0, 10}}), std::log(2.0), 1e-12);
  EXPECT_NEAR(MutualInformation({{5, 5}, {5, 5}}), 0, 1e-12);
  // Twenty documents of two kinds whose counts tell the kind, or do not.
  std::vector<std::vector<double>> telling, silent;
  std::vector<int> labels;
  Rng draw(1);
  for (int d = 0; d < 20; ++d) {
    labels.push_back(d % 2);
    telling.push_back(d % 2 == 0 ? std::vector<double>{9, 1} : std::vector<double>{1, 9});
    const double n = static_cast<double>(draw.Below(11));
    silent.push_back({n, 10 - n});
  }
  Rng rng(2);
  const Shuffled yes = InformationUnderShuffles(telling, labels, 2, 999, rng);
  EXPECT_LE(yes.p, 0.002);
  EXPECT_GT(yes.information, yes.mean);
  const Shuffled no = InformationUnderShuffles(silent, labels, 2, 999, rng);
  EXPECT_GT(no.p, 0.005);
  EXPECT_GE(no.most, no.mean);
}

TEST(Intervals, CrossoversAndSlopes) {
  const std::vector<double> x = {1, 2, 4, 8};
  EXPECT_NEAR(Crossover(x, std::vector<double>{0.5, 2, 4, 8}), std::sqrt(2.0), 1e-12);
  EXPECT_EQ(Crossover(x, std::vector<double>{1, 2, 3, 4}), 0);
  EXPECT_EQ(Crossover(x, std::vector<double>{2, 2, 2, 0.9}), std::numeric_limits<double>::infinity());
  // For good: the last time.
  EXPECT_NEAR(Crossover(x, std::vector<double>{2, 0.5, 2, 2}), std::exp(0.5 * std::log(8.0)), 1e-12);
  EXPECT_NEAR(LogSlope(x, std::vector<double>{3, 6, 12, 24}), 1, 1e-12);
  EXPECT_NEAR(LogSlope(x, std::vector<double>{1, 4, 16, 64}), 2, 1e-12);
}

Verdict Of(const Rule& rule, double low, double high) { return rule.decide({(low + high) / 2, low, high}); }

TEST(Claims, RulesDecideByTheWholeInterval) {
  EXPECT_EQ(Of(AtLeast(3), 3, 4), Verdict::kHolds);
  EXPECT_EQ(Of(AtLeast(3), 2, 2.9), Verdict::kDoesNotHold);
  EXPECT_EQ(Of(AtLeast(3), 2, 4), Verdict::kUndecided);
  EXPECT_EQ(Of(AtMost(3), 2, 3), Verdict::kHolds);
  EXPECT_EQ(Of(AtMost(3), 3.1, 4), Verdict::kDoesNotHold);
  EXPECT_EQ(Of(AtMost(3), 2, 4), Verdict::kUndecided);
  EXPECT_EQ(Of(AtMost(3), 2, std::numeric_limits<double>::infinity()), Verdict::kUndecided);
  EXPECT_EQ(Of(GainsOver(0, 0.05), 0.01, 0.02), Verdict::kHolds);
  EXPECT_EQ(Of(GainsOver(0, 0.05), -0.01, 0.04), Verdict::kDoesNotHold);
  EXPECT_EQ(Of(GainsOver(0, 0.05), -0.01, 0.06), Verdict::kUndecided);
  EXPECT_EQ(Of(GainsOver(0, 0.05), 0, 0.01), Verdict::kDoesNotHold);
  EXPECT_EQ(Of(GainsOver(1, 0), 1.01, 2), Verdict::kHolds);
  EXPECT_EQ(Of(GainsOver(1, 0), 0.9, 1), Verdict::kDoesNotHold);
  EXPECT_EQ(Of(GainsOver(1, 0), 0.9, 1.1), Verdict::kUndecided);
  EXPECT_EQ(Of(NoWorseBy(0.02), -0.019, 0.1), Verdict::kHolds);
  EXPECT_EQ(Of(NoWorseBy(0.02), -0.1, -0.03), Verdict::kDoesNotHold);
  EXPECT_EQ(Of(NoWorseBy(0.02), -0.03, 0.01), Verdict::kUndecided);
  EXPECT_EQ(Of(Within(2, 2), 2, 2), Verdict::kHolds);
  EXPECT_EQ(Of(Within(2, 2), 2.1, 2.2), Verdict::kDoesNotHold);
  EXPECT_EQ(Of(Within(2, 2), 2, 2.2), Verdict::kUndecided);
}

TEST(Claims, NothingFollowsFromWhatIsMissingOrNotLearned) {
  const auto judge = [](const Evidence& evidence) { return Judge("a.b", "text", "measure", AtLeast(0.5), evidence); };
  EXPECT_EQ(judge({.interval = Interval{0.7, 0.6, 0.8}}).verdict, Verdict::kHolds);
  EXPECT_EQ(judge({}).verdict, Verdict::kNotRun);
  EXPECT_EQ(judge({.interval = Interval{0.1, 0.05, 0.2}, .learned = false}).verdict, Verdict::kNotLearned);
  EXPECT_EQ(judge({.interval = Interval{0.1, 0.05, 0.2}, .learned = std::nullopt}).verdict, Verdict::kNotRun);
  const Claim one = judge({.interval = Interval{0.7, 0.6, 0.8}, .seeds = 1});
  EXPECT_EQ(one.verdict, Verdict::kHolds);
  EXPECT_NE(one.note.find("1 seed"), std::string::npos);
}

}  // namespace
}  // namespace hydra::eval
