// SPDX-License-Identifier: Apache-2.0
// Routed experts in one function against its twin of torch operators in fp64: outputs and all gradients on every SIMD
// level, experts without rows, rows of several experts. Not here: routing (layers_test.cc).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hydra/kernels/testing.h"
#include "hydra/nn/moe.h"
#include "hydra/nn/testing.h"

namespace hydra::nn::experts_test {  // tests share units
namespace {

using testing::Difference;
using testing::Randn;
using torch::Tensor;

struct Case {
  std::vector<Tensor> tensors;  // u, weights, gate_up, down: fp64 of fp32's numbers
  Tensor rows, places;
  std::vector<int64_t> n_rows;

  Case(int64_t N, int64_t D, int64_t F, const std::vector<int64_t>& counts, uint64_t seed) : n_rows(counts) {
    const auto E = static_cast<int64_t>(counts.size());
    int64_t M = 0;
    for (const int64_t n : counts) M += n;
    tensors = {Randn({N, D}, seed), Randn({5}, seed + 1), Randn({E, 2 * F, D}, seed + 2), Randn({E, D, F}, seed + 3)};
    for (Tensor& x : tensors) x = x.to(torch::kFloat32).to(torch::kFloat64);
    rows = testing::RandomIds(1, M, N, seed + 4)[0];  // some twice
    places = testing::RandomIds(1, M, 5, seed + 5)[0];
  }
};

struct Result {
  Tensor out;
  std::vector<Tensor> gradients;
};

Result Evaluate(const Case& c, torch::Dtype dtype, bool own) {
  std::vector<Tensor> x;
  for (const Tensor& t : c.tensors) x.push_back(t.detach().to(dtype).clone().requires_grad_());
  const Tensor out =
      (own ? &RoutedExperts : &composite::RoutedExperts)(x[0], x[1], x[2], x[3], c.rows, c.places, c.n_rows);
  (out * Randn(out.sizes().vec(), 99).to(dtype)).sum().backward();
  Result r{out.detach(), {}};
  for (const Tensor& leaf : x) r.gradients.push_back(leaf.grad());
  return r;
}

TEST(RoutedExpertsTest, EqualsItsTwinOnEveryTarget) {
  kernels::ForEachTarget([&](const std::string& target) {
    uint64_t seed = 0;
    for (const auto& [N, D, F] : {std::array<int64_t, 3>{40, 24, 16}, {7, 5, 19}, {30, 9, 1}, {100, 16, 67}})
      for (const std::vector<int64_t>& counts : {std::vector<int64_t>{20, 0, 33, 1}, {17}}) {
        const Case c(N, D, F, counts, seed += 10);
        const Result got = Evaluate(c, torch::kFloat32, true), want = Evaluate(c, torch::kFloat64, false);
        ASSERT_EQ(got.out.scalar_type(), torch::kFloat32);
        EXPECT_LT(Difference(got.out, want.out), 1e-5) << target << ", F " << F;
        for (size_t i = 0; i < want.gradients.size(); ++i) {
          EXPECT_LT(Difference(got.gradients[i], want.gradients[i]), 2e-5) << target << ", F " << F << ", input " << i;
          EXPECT_GT(want.gradients[i].abs().max().item<double>(), 0) << target << ", F " << F << ", input " << i;
        }
      }
  });
}

TEST(RoutedExpertsTest, WithoutRowsGivesZeros) {
  Case c(6, 4, 3, {0, 0}, 1);
  const Result got = Evaluate(c, torch::kFloat32, true);
  EXPECT_EQ(got.out.abs().max().item<float>(), 0);
  for (const Tensor& gradient : got.gradients) EXPECT_EQ(gradient.abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace hydra::nn::experts_test
