// SPDX-License-Identifier: Apache-2.0
// Random numbers: known values, exact restoring, no bias, permutations that are permutations.
#include "hydra/base/rng.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

TEST(Rng, IsXoshiro256StarStar) {
  Rng rng(0);
  rng.set_state({1, 2, 3, 4});
  // First outputs of the authors' C code from the state 1, 2, 3, 4.
  for (const uint64_t want : {uint64_t{11520}, uint64_t{0}, uint64_t{1509978240}, uint64_t{1215971899390074240}})
    EXPECT_EQ(rng(), want);
}

TEST(Rng, SavedStateGoesOnExactly) {
  Rng rng(7, 3);
  for (int i = 0; i < 10; ++i) (void)rng.Normal();
  Rng copy = Rng::Parse(rng.Text(), "state.json: rng");
  EXPECT_EQ(copy, rng);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(copy.Normal(), rng.Normal());
  EXPECT_NE(Rng(7, 3)(), Rng(7, 4)());
  EXPECT_NE(Rng(7, 3)(), Rng(8, 3)());
  EXPECT_NE(Rng(0, 1)(), Rng(1, 0)());
}

TEST(Rng, BadStatesAreRefusedByName) {
  for (const std::string& text : {std::string(), std::string(63, '1'), std::string(64, 'g'), std::string(64, '0'),
                                  std::string(65, '1'), " " + std::string(63, '1')})
    ExpectError([&] { (void)Rng::Parse(text, "state.json: rng"); }, ErrorCode::kFormat, {"state.json: rng"});
}

TEST(Rng, BelowIsUniform) {
  Rng rng(1);
  std::vector<int> counts(6);
  for (int i = 0; i < 60000; ++i) ++counts[rng.Below(6)];
  // Chi squared, 5 degrees of freedom: above 30 has a probability of 1.5e-5; the seed is fixed.
  double chi = 0;
  for (const int n : counts) chi += (n - 10000.0) * (n - 10000.0) / 10000.0;
  EXPECT_LT(chi, 30);
  EXPECT_EQ(rng.Below(1), 0u);
  // 3 * 2^62 of 2^64: a modulo would put twice the weight on the lowest third.
  const uint64_t n = uint64_t{3} << 62;
  int low = 0;
  for (int i = 0; i < 3000; ++i) low += rng.Below(n) < n / 3 ? 1 : 0;
  EXPECT_NEAR(low, 1000, 130);  // 5 sigma
}

TEST(Rng, UniformAndNormalHaveTheirMoments) {
  Rng rng(2);
  const int n = 40000;
  double sum = 0, normal = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = rng.Uniform();
    const float f = rng.UniformF();
    ASSERT_TRUE(u >= 0 && u < 1 && f >= 0 && f < 1);
    sum += u;
    const double z = rng.Normal();
    ASSERT_TRUE(std::isfinite(z));
    normal += z;
    squares += z * z;
  }
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(normal / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));
}

TEST(Permutation, TakesEachValueOnce) {
  for (const uint64_t n : {1u, 2u, 3u, 4u, 5u, 16u, 17u, 1000u, 4096u, 4097u}) {
    const Permutation order(n, /*seed=*/n);
    std::vector<uint64_t> values;
    for (uint64_t i = 0; i < n; ++i) values.push_back(order(i));
    std::ranges::sort(values);
    for (uint64_t i = 0; i < n; ++i) ASSERT_EQ(values[i], i) << n;
  }
  const Permutation huge(UINT64_MAX, 1);
  EXPECT_NE(huge(0), huge(1));
}

TEST(Permutation, SeedsGiveDifferentOrders) {
  std::set<std::vector<uint64_t>> orders;
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const Permutation order(4, seed);
    orders.insert({order(0), order(1), order(2), order(3)});
  }
  EXPECT_EQ(orders.size(), 24u);  // every order of four occurs
}

}  // namespace
}  // namespace hydra
