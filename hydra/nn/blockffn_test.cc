// SPDX-License-Identifier: Apache-2.0
// The layer and its losses against the golden values of specs/blockffn.md, both forms against one another, gradients
// against finite differences. Not here: models with such layers (model_test.cc).
#include "hydra/nn/blockffn.h"

#include <gtest/gtest.h>

#include <functional>

#include "hydra/nn/testing.h"

namespace hydra::nn::blockffn_test {  // tests share units
namespace {

using testing::Randn;
using torch::Tensor;

Tensor Rows(const std::vector<std::vector<double>>& rows) {
  std::vector<Tensor> all;
  for (const auto& row : rows) all.push_back(torch::tensor(row, torch::kFloat64));
  return torch::stack(all);
}

const Tensor kRaw =
    Rows({{.50, -.20, 1.00, -.10}, {.30, .10, .80, -.40}, {-.20, .40, .60, -.10}, {.02, -.30, .90, .01}});

// The layer of the goldens: the identity as input, so that the router's scores are kRaw.
BlockFfnWeights Golden() {
  const Tensor k = torch::arange(32, torch::kFloat64);
  return {.router = kRaw.t().contiguous(),
          .router_scale = torch::tensor({1.0, -0.5, 0.75, 1.25}, torch::kFloat64),
          .up = ((k.remainder(7) - 3) / 4).view({8, 4}),
          .down = ((k.remainder(5) - 2) / 4).view({4, 8})};
}

void ExpectRows(const Tensor& got, const std::vector<std::vector<double>>& want) {
  EXPECT_LT((got - Rows(want)).abs().max().item<double>(), 5.1e-7) << got;
}

// One row of documents of these lengths, back to back; the tokens past them are pads.
Layout Documents(const std::vector<int64_t>& lengths, int64_t T) {
  Batch batch;
  batch.ids = torch::zeros({1, T}, torch::kInt64);
  batch.seq_idx = torch::full({1, T}, -1, torch::kInt64);
  batch.pos = torch::zeros({1, T}, torch::kInt64);
  int64_t at = 0;
  for (size_t d = 0; d < lengths.size(); ++d)
    for (int64_t i = 0; i < lengths[d]; ++i, ++at) {
      batch.seq_idx[0][at] = static_cast<int64_t>(d);
      batch.pos[0][at] = i;
    }
  for (int64_t i = lengths.empty() ? 0 : lengths.back(); at < T; ++at, ++i) batch.pos[0][at] = i;
  return Layout::Make(batch, 1);
}

TEST(BlockFfn, GoldenGatesAndOutputs) {
  BlockFfnWeights w = Golden();
  const Tensor x = torch::eye(4, torch::kFloat64);
  const BlockRoutes routes = RouteBlock({}, w, x, 1e-5);
  EXPECT_TRUE(torch::allclose(routes.raw, kRaw));
  ExpectRows(routes.gates / w.router_scale, {{0.894413, 0, 1.788826, 0},
                                             {0.697467, 0.232489, 1.859912, 0},
                                             {0, 1.109358, 1.664037, 0},
                                             {0.044430, 0, 1.999334, 0.022215}});
  const std::vector<std::vector<double>> want = {{-0.338945, 0.179900, -0.043623, 0.134530},
                                                 {0.164581, 0.000152, 0.090400, -0.345369},
                                                 {0.238863, -0.092264, 0.037928, -0.073945},
                                                 {0.314545, -0.039305, -0.192312, 0.032881}};
  ExpectRows(BlockFfnDense(w, x, routes.gates), want);
  ExpectRows(BlockFfnLists(w, x, routes), want);
  ExpectRows(BlockFfn(w, x, routes), want);
}

TEST(BlockFfn, WithNobodyActiveItIsZero) {
  const BlockFfnWeights w = Golden();
  const Tensor x = torch::zeros({2, 3, 4}, torch::kFloat64);
  const BlockRoutes routes = RouteBlock({}, w, x, 1e-5);
  EXPECT_EQ(BlockFfnDense(w, x, routes.gates).abs().max().item<double>(), 0);
  EXPECT_EQ(BlockFfnLists(w, x, routes).abs().max().item<double>(), 0);
}

// Outputs and gradients of both forms, in layers from nearly empty to nearly dense.
TEST(BlockFfn, ListsAreExact) {
  constexpr int64_t D = 12, E = 6, F = 5;
  for (const double shift : {-2.0, -0.7, 0.0, 1.5}) {
    std::vector<std::vector<Tensor>> gradients;
    std::vector<Tensor> outputs;
    for (const bool lists : {false, true}) {
      BlockFfnWeights w{Randn({E, D}, 1) * 0.3, Randn({E}, 2), Randn({E * F, D}, 3), Randn({D, E * F}, 4)};
      Tensor x = Randn({2, 7, D}, 5);
      w.router.select(1, 0).fill_(shift);
      x.select(2, 0).fill_(1);  // the router's bias
      std::vector<Tensor> leaves = {x, w.router, w.router_scale, w.up, w.down};
      for (Tensor& leaf : leaves) leaf.requires_grad_(true);
      const BlockRoutes routes = RouteBlock({}, w, x, 1e-5);
      const Tensor y = lists ? BlockFfnLists(w, x, routes) : BlockFfnDense(w, x, routes.gates);
      (y * Randn(y.sizes().vec(), 6)).sum().backward();
      outputs.push_back(y.detach());
      gradients.emplace_back();
      for (const Tensor& leaf : leaves) gradients.back().push_back(leaf.grad());
    }
    EXPECT_LT(testing::Difference(outputs[0], outputs[1]), 1e-12) << shift;
    for (size_t i = 0; i < gradients[0].size(); ++i)
      EXPECT_LT(testing::Difference(gradients[0][i], gradients[1][i]), 1e-12) << shift << ", input " << i;
  }
}

// f's gradient at x against central differences.
void ExpectGradient(const std::function<Tensor(const Tensor&)>& f, const Tensor& at) {
  const Tensor x = at.detach().clone().requires_grad_(true);
  f(x).backward();
  const torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  for (int64_t i = 0; i < x.numel(); ++i) {
    Tensor above = at.clone(), below = at.clone();
    above.view({-1})[i] += kStep;
    below.view({-1})[i] -= kStep;
    const double want = (f(above) - f(below)).item<double>() / (2 * kStep);
    EXPECT_NEAR(x.grad().view({-1})[i].item<double>(), want, 1e-5 * std::max(1.0, std::abs(want))) << i;
  }
}

TEST(BlockFfnLosses, GoldenLocality) {
  const Tensor raw = kRaw.unsqueeze(0);
  const Layout one = Documents({4}, 4), two = Documents({3, 1}, 4);
  Tensor leaf = raw.clone().requires_grad_(true);
  const Tensor loss = LocalityLoss(leaf, one, 100);
  EXPECT_NEAR(loss.item<double>(), 9.577298, 5.1e-7);
  loss.backward();
  ExpectRows(leaf.grad()[0].slice(0, 0, 1), {{0, -8.332955, 0, 0.000378}});
  ExpectRows(leaf.grad()[0].slice(0, 3, 4), {{17.498931, 0, 0, 16.384328}});
  EXPECT_NEAR(LocalityLoss(raw, two, 100).item<double>(), 6.250125, 5.1e-7);
  EXPECT_EQ(LocalityLoss(raw, Documents({1, 1, 1, 1}, 4), 100).item<double>(), 0);  // no pair
  ExpectGradient([&](const Tensor& x) { return LocalityLoss(x, two, 100); }, raw);
  // Scores that would overflow exp.
  EXPECT_TRUE(LocalityLoss(raw * 1e4, one, 100).isfinite().item<bool>());
}

TEST(BlockFfnLosses, GoldenChunks) {
  const Tensor raw = kRaw.unsqueeze(0);
  Tensor leaf = raw.clone().requires_grad_(true);
  const Tensor loss = ChunkLoss(leaf, Documents({4}, 4), 4);
  EXPECT_NEAR(loss.item<double>(), 0.492493, 5.1e-7);
  loss.backward();
  ExpectRows(leaf.grad()[0].slice(0, 1, 2), {{0.090915, 0.080013, -0.044094, 0}});
  EXPECT_NEAR(ChunkLoss(raw, Documents({3}, 4), 4).item<double>(), 0.476368, 5.1e-7);  // the last token is a pad
  EXPECT_NEAR(ChunkLoss(raw, Documents({3, 1}, 4), 2).item<double>(), 0.289338, 5.1e-7);
  ExpectGradient([&](const Tensor& x) { return ChunkLoss(x, Documents({3, 1}, 4), 2); }, raw);
  // Rows of a batch are counted together, chunk by chunk.
  const Layout both =
      Layout::Make(Batch::Stack({Batch::Pack({{1, 1, 1}}, 1, 4), Batch::Pack({{1, 1, 1, 1}}, 1, 4)}), 1);
  const double first = ChunkLoss(raw, Documents({3}, 4), 4).item<double>();
  EXPECT_NEAR(ChunkLoss(torch::cat({raw, raw}), both, 4).item<double>(), (first + 0.492493) / 2, 1e-6);
}

}  // namespace
}  // namespace hydra::nn::blockffn_test
