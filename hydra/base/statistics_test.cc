// SPDX-License-Identifier: Apache-2.0
// Statistics against values worked out by hand.
#include "hydra/base/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

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

}  // namespace
}  // namespace hydra
