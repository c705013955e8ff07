// SPDX-License-Identifier: Apache-2.0
// The golden metrics of specs/blockffn.md 5, and windows, pairs and dead experts by hand.
#include "hydra/model/sparsity.h"

#include <gtest/gtest.h>

#include <cmath>

namespace hydra {
namespace {

// Where the golden scores are above 0.
constexpr uint8_t kActive[4][4] = {{1, 0, 1, 0}, {1, 1, 1, 0}, {0, 1, 1, 0}, {1, 0, 1, 1}};

TEST(Sparsity, GoldenOfOneDocumentAndOfTwo) {
  SparsityCounter one(4), two(4);
  for (int t = 0; t < 4; ++t) {
    one.Add(kActive[t]);
    if (t == 3) two.BeginDocument();
    two.Add(kActive[t]);
  }
  EXPECT_NEAR(one.token_sparsity(), 0.375, 1e-12);
  EXPECT_NEAR(one.chunk_sparsity(1), 0.375, 1e-12);
  EXPECT_NEAR(one.chunk_sparsity(2), 0.125, 1e-12);
  EXPECT_NEAR(one.chunk_sparsity(4), 0, 1e-12);
  EXPECT_NEAR(one.reuse(), 0.722222, 5.1e-7);
  EXPECT_NEAR(one.union_growth(2), 1.4, 1e-12);
  EXPECT_TRUE(std::isnan(one.chunk_sparsity(8)));
  EXPECT_NEAR(two.token_sparsity(), 0.375, 1e-12);
  EXPECT_NEAR(two.chunk_sparsity(2), 0.25, 1e-12);
  EXPECT_NEAR(two.reuse(), 0.833333, 5.1e-7);
  EXPECT_TRUE(std::isnan(two.chunk_sparsity(4)));
  EXPECT_EQ(one.histogram(), (std::vector<int64_t>{0, 0, 2, 2, 0}));
}

TEST(Sparsity, TokensThatAreNotValidSpoilTheirWindowAndPairs) {
  SparsityCounter counter(4);
  for (int t = 0; t < 4; ++t) counter.Add(kActive[t], t != 1);
  EXPECT_EQ(counter.tokens(), 3);
  EXPECT_NEAR(counter.token_sparsity(), 1 - 7.0 / 12, 1e-12);
  EXPECT_NEAR(counter.chunk_sparsity(2), 1 - 4.0 / 4, 1e-12);  // tokens 2 and 3 only
  EXPECT_NEAR(counter.reuse(), 0.5, 1e-12);                    // from 2 to 3 only
}

TEST(Sparsity, DeadExpertsAreThoseWithoutUseForSoLong) {
  SparsityCounter counter(4);
  EXPECT_TRUE(std::isnan(counter.token_sparsity()));
  EXPECT_EQ(counter.dead(1), 0);  // nothing is known yet
  for (int i = 0; i < 10; ++i) counter.Add(kActive[i < 3 ? 3 : 0]);
  EXPECT_EQ(counter.dead(10), 1);  // expert 1 never
  EXPECT_EQ(counter.dead(7), 2);   // 3 not since the third token
  EXPECT_EQ(counter.dead(8), 1);
  EXPECT_EQ(counter.dead(11), 0);
}

}  // namespace
}  // namespace hydra
