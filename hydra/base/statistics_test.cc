// SPDX-License-Identifier: Apache-2.0
// Statistics against values worked out by hand; intervals against what was drawn from.
#include "hydra/base/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hydra/base/rng.h"

namespace hydra {
namespace {

TEST(Statistics, MeansAndTheirErrors) {
  const std::vector<double> values{1, 2, 3, 6};
  EXPECT_DOUBLE_EQ(MeanOf(values).mean, 3);
  EXPECT_DOUBLE_EQ(MeanOf(values).error, std::sqrt(14.0 / 3 / 4));
  EXPECT_DOUBLE_EQ(MeanOf(std::vector<double>{5}).mean, 5);
  EXPECT_DOUBLE_EQ(MeanOf(std::vector<double>{5}).error, 0);
  EXPECT_DOUBLE_EQ(MeanOf({}).mean, 0);
}

TEST(Statistics, EqualValuesShareTheirRanks) {
  EXPECT_EQ(RanksOf(std::vector<double>{3, 1, 3, 2}), (std::vector<double>{3.5, 1, 3.5, 2}));
  EXPECT_EQ(RanksOf(std::vector<double>{7, 7, 7}), (std::vector<double>{2, 2, 2}));
}

TEST(Statistics, SpearmanSeesOrderAlone) {
  const std::vector<double> a{1, 2, 3, 4, 5}, b{1, 4, 9, 16, 100}, down{5, 4, 3, 2, 1};
  EXPECT_DOUBLE_EQ(Spearman(a, b), 1);
  EXPECT_DOUBLE_EQ(Spearman(a, down), -1);
  EXPECT_DOUBLE_EQ(Spearman(a, std::vector<double>{2, 1, 4, 3, 5}), 0.8);  // 1 - 6 * 4 / (5 * 24)
  EXPECT_TRUE(std::isnan(Spearman(a, std::vector<double>(5, 1.0))));
  EXPECT_TRUE(std::isnan(Spearman({}, {})));
}

TEST(Statistics, IntervalsHoldTheTrueMean) {
  const std::vector<SampleGroup> alike(20, SampleGroup{3, 4});
  const MeanInterval exact = BootstrapMean(alike, 200, 1);
  EXPECT_EQ(exact.mean, 0.75);
  EXPECT_EQ(exact.low, 0.75);
  EXPECT_EQ(exact.high, 0.75);
  EXPECT_TRUE(std::isnan(BootstrapMean({}, 10, 1).mean));
  // Of 200 samples about 95% have an interval that holds the true mean. Ten equal values of a group count as one.
  int holds = 0, pretends = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Rng rng(seed, 7);
    std::vector<SampleGroup> groups, apart;
    for (int i = 0; i < 100; ++i) {
      const double value = rng.Uniform() < 0.3 ? 1 : 0;
      groups.push_back({10 * value, 10});
      for (int k = 0; k < 10; ++k) apart.push_back({value, 1});
    }
    const MeanInterval grouped = BootstrapMean(groups, 200, seed), each = BootstrapMean(apart, 200, seed);
    holds += grouped.low <= 0.3 && 0.3 <= grouped.high ? 1 : 0;
    pretends += each.low <= 0.3 && 0.3 <= each.high ? 1 : 0;
    EXPECT_EQ(grouped.low, BootstrapMean(groups, 200, seed).low);
  }
  EXPECT_GE(holds, 175);
  EXPECT_LE(holds, 199);
  EXPECT_LT(pretends, 130);
}

}  // namespace
}  // namespace hydra
