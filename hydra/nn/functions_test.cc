// SPDX-License-Identifier: Apache-2.0
// Own autograd functions: against their plain twins, and their gradients against finite differences in fp64
// (specs/hydra.md 13, test 12). A function of functions.h without a row in Rows() fails the last test.
#include "hydra/nn/functions.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <limits>
#include <regex>
#include <set>

#include "hydra/nn/attention.h"
#include "hydra/nn/ssm.h"
#include "hydra/nn/testing.h"

namespace hydra::nn {
namespace {

using testing::Difference;
using testing::kTolF64;
using testing::Randn;
using torch::Tensor;
using Inputs = std::vector<Tensor>;
using Function = std::function<Tensor(const Inputs&)>;

struct Row {
  std::string function;  // its name in the header
  std::string what;
  Inputs inputs;          // differentiable, fp64
  Function own, twin;     // twin: nullptr where there is none
  bool products = false;  // of a library, which may part a sum by the number of threads
};

Tensor Ids(const std::vector<int64_t>& values) { return torch::tensor(values, torch::kInt64); }

void AddScan(std::vector<Row>& rows, const std::string& what, const std::vector<int64_t>& a,
             const std::vector<int64_t>& b) {
  rows.push_back({"LinearScan",
                  what,
                  {torch::sigmoid(Randn(a, 1)), Randn(b, 2)},
                  [](const Inputs& x) { return LinearScan(x[0], x[1]); },
                  [](const Inputs& x) { return composite::LinearScan(x[0], x[1]); }});
}

void AddConv(std::vector<Row>& rows, const std::string& what, int64_t T, int64_t K, const Tensor& start, bool bias) {
  Inputs inputs = {Randn({2, T, 3}, 3), Randn({3, K}, 4)};
  if (bias) inputs.push_back(Randn({3}, 5));
  const auto of = [start](auto f) {
    return [start, f](const Inputs& x) { return f(x[0], x[1], x.size() > 2 ? x[2] : Tensor(), start); };
  };
  rows.push_back({"CausalConvSilu", what, inputs, of(&CausalConvSilu), of(&composite::CausalConvSilu)});
}

// Rows of documents with pads, for attention: B = 2, T = 24, C = 4.
Layout AttentionLayout() {
  const Batch a = Batch::Pack(testing::RandomDocuments({18, 3}, 9, 1), 4, 24),
              b = Batch::Pack(testing::RandomDocuments({24}, 9, 2), 4, 24);
  return Layout::Make(Batch::Stack({a, b}), 4);
}

void AddAttention(std::vector<Row>& rows, int64_t key_heads, bool landmarks) {
  const Layout layout = AttentionLayout();
  AttentionConfig config;
  config.landmark_budget = 3;
  config.landmarks_per_chunk = 1;
  const Tensor score = Randn({2, 24}, 6);
  const Tensor pools = landmarks ? LandmarkPools(config, score, layout) : Tensor();
  Inputs inputs = {Randn({2, 24, 4, 2}, 7), Randn({2, 24, key_heads, 2}, 8), Randn({2, 24, key_heads, 2}, 9)};
  if (landmarks) inputs.insert(inputs.end(), {torch::log_sigmoid(score), torch::rand({4}, torch::kFloat64) + 0.5});
  const Tensor real = layout.real.view({2, 24, 1, 1}).to(torch::kFloat64);  // outputs on pads are nobody's
  rows.push_back({"SparseAttention", landmarks ? "landmarks" : "window only", inputs,
                  [=](const Inputs& x) {
                    const bool far = x.size() > 3;
                    return SparseAttention(x[0], x[1], x[2], far ? x[3] : Tensor(), far ? x[4] : Tensor(), pools,
                                           layout, 6) *
                           real;
                  },
                  nullptr});
}

std::vector<Row> Rows() {
  std::vector<Row> rows;
  AddScan(rows, "as SSD uses it", {2, 5, 2, 3}, {2, 5, 2, 4, 3, 2});
  AddScan(rows, "as the diagonal SSM uses it", {2, 9, 1, 5}, {2, 9, 1, 1, 5, 1});
  AddScan(rows, "one step", {1, 1, 1, 2}, {1, 1, 1, 1, 2, 3});
  const Tensor none = torch::zeros({2, 11}, torch::kInt64);
  AddConv(rows, "one document", 11, 4, none, true);
  AddConv(rows, "no bias", 11, 4, none, false);
  AddConv(rows, "shorter than its taps", 2, 4, torch::zeros({2, 2}, torch::kInt64), true);
  AddConv(rows, "one tap", 5, 1, torch::zeros({2, 5}, torch::kInt64), true);
  AddConv(rows, "documents", 11, 3,
          Ids({0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 10}).view({2, 11}), true);
  AddConv(rows, "several blocks of rows", 300, 4, torch::zeros({2, 300}, torch::kInt64), true);
  const auto norm = [&](const std::string& what, const Tensor& x, const Tensor& w) {
    rows.push_back({"RmsNorm",
                    what,
                    {x, w},
                    [](const Inputs& i) { return RmsNorm(i[0], i[1], 1e-5); },
                    [](const Inputs& i) { return composite::RmsNorm(i[0], i[1], 1e-5); }});
  };
  norm("rows", Randn({3, 5, 7}, 10), Randn({7}, 11));
  norm("groups", Randn({3, 4, 2, 7}, 12), Randn({2, 7}, 13));
  norm("one number", Randn({6, 1}, 14), Randn({1}, 15));
  norm("many rows", Randn({333, 3}, 16), Randn({3}, 17));
  const auto head = [&](const std::string& what, int64_t M, int64_t D, int64_t V) {
    const Tensor targets = testing::RandomIds(1, M, V, 23)[0];
    rows.push_back({"LinearCrossEntropy",
                    what,
                    {Randn({M, D}, 24), Randn({V, D}, 25)},
                    [=](const Inputs& x) { return LinearCrossEntropy(x[0], x[1], targets); },
                    [=](const Inputs& x) { return composite::LinearCrossEntropy(x[0], x[1], targets); },
                    /*products=*/true});
  };
  head("one row", 1, 3, 5);
  head("rows", 7, 4, 11);
  head("several blocks of rows", 300, 6, 4100);
  const Tensor some = Ids({4, 0, 4, 2, 4, 1, 0});
  rows.push_back({"GatherRows",
                  "repeated rows",
                  {Randn({6, 3}, 18)},
                  [=](const Inputs& x) { return GatherRows(x[0], some); },
                  [=](const Inputs& x) { return composite::GatherRows(x[0], some); }});
  rows.push_back({"GatherRows",
                  "no rows",
                  {Randn({6, 3}, 18)},
                  [=](const Inputs& x) { return GatherRows(x[0], Ids({})); },
                  [=](const Inputs& x) { return composite::GatherRows(x[0], Ids({})); }});
  rows.push_back({"ScatterAddRows",
                  "repeated rows",
                  {Randn({7, 3}, 19)},
                  [=](const Inputs& x) { return ScatterAddRows(x[0], some, 6); },
                  [=](const Inputs& x) { return composite::ScatterAddRows(x[0], some, 6); }});
  for (const int64_t key_heads : {4, 2, 1})
    for (const bool landmarks : {true, false}) AddAttention(rows, key_heads, landmarks);
  return rows;
}

std::string Name(const Row& row) { return row.function + ", " + row.what; }

Inputs Leaves(const Inputs& inputs) {
  Inputs leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.detach().clone().requires_grad_());
  return leaves;
}

// Gradients of sum(f(x) * weight) with fixed random weights.
Inputs Gradients(const Function& f, const Inputs& inputs, const Tensor& weight) {
  const Inputs leaves = Leaves(inputs);
  (f(leaves) * weight).sum().backward();
  Inputs gradients;
  for (const Tensor& leaf : leaves) gradients.push_back(leaf.grad().defined() ? leaf.grad() : torch::zeros_like(leaf));
  return gradients;
}

TEST(Functions, EqualTheirTwins) {
  for (const Row& row : Rows()) {
    if (!row.twin) continue;
    SCOPED_TRACE(Name(row));
    torch::NoGradGuard no_grad;
    const Tensor want = row.twin(row.inputs);
    EXPECT_LT(Difference(row.own(row.inputs), want), 1e-12);
    Inputs f32;
    for (const Tensor& x : row.inputs) f32.push_back(x.to(torch::kFloat32));
    EXPECT_LT(Difference(row.own(f32), want), 1e-5);
  }
}

TEST(Functions, GradientsEqualTheirTwins) {
  for (const Row& row : Rows()) {
    if (!row.twin) continue;
    const Tensor weight = Randn(row.own(row.inputs).sizes().vec(), 20);
    const Inputs got = Gradients(row.own, row.inputs, weight), want = Gradients(row.twin, row.inputs, weight);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_LT(Difference(got[i], want[i]), 1e-11) << Name(row) << " input " << i;
  }
}

// Central differences: error h^2 f''' / 6 + eps f / h, about 1e-9 with h = 1e-5; the allowance is 1e-6.
void ExpectFiniteDifferences(const std::string& name, const Function& f, const Inputs& inputs) {
  constexpr double kStep = 1e-5, kAllowed = 1e-6;
  torch::manual_seed(1);
  const Tensor weight = Randn(f(inputs).sizes().vec(), 21);
  const Inputs gradients = Gradients(f, inputs, weight);
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool decays_nothing = name.find("one step") != name.npos && i == 0;
    EXPECT_EQ(gradients[i].abs().max().item<double>() > 0, !decays_nothing) << name << " input " << i;
    const int64_t n = inputs[i].numel(), stride = std::max<int64_t>(1, n / 97);
    for (int64_t at = 0; at < n; at += stride) {
      Inputs moved = inputs;
      const auto value = [&](double by) {
        moved[i] = inputs[i].clone().contiguous();
        moved[i].view({-1})[at] += by;
        return (f(moved) * weight).sum().item<double>();
      };
      const double numeric = (value(kStep) - value(-kStep)) / (2 * kStep);
      const double analytic = gradients[i].contiguous().view({-1})[at].item<double>();
      EXPECT_NEAR(numeric, analytic, kAllowed * std::max(1.0, std::abs(analytic)))
          << name << " input " << i << " number " << at;
    }
  }
}

TEST(Functions, GradientsMatchFiniteDifferences) {
  for (const Row& row : Rows()) {
    if (row.inputs[0].numel() > 1500 || row.what == "no rows") continue;  // the twins cover long and empty inputs
    ExpectFiniteDifferences(Name(row), row.own, row.inputs);
  }
}

// The two scans are made of these functions; their masks and exponents have gradients of their own.
TEST(Functions, ScansMatchFiniteDifferences) {
  const Tensor seq = Ids({0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 3}).view({1, 11});
  for (const int64_t Q : {1, 4, 11})
    for (const bool documents : {false, true})
      ExpectFiniteDifferences("SsdScan Q " + std::to_string(Q),
                              [=](const Inputs& x) {
                                const SsdOut out =
                                    SsdScan(x[0], x[1], -torch::exp(x[2]), x[3], x[4], documents ? seq : Tensor(), Q);
                                return torch::cat({out.y.reshape({-1}), out.state.reshape({-1})});
                              },
                              {Randn({1, 11, 4, 2}, 1), torch::rand({1, 11, 4}, torch::kFloat64) + 0.1, Randn({4}, 2),
                               Randn({1, 11, 2, 3}, 3), Randn({1, 11, 2, 3}, 4)});
  const Layout layout = AttentionLayout();
  const Tensor real = layout.real.unsqueeze(-1).to(torch::kFloat64);
  ModelConfig config;
  config.ssm.n_heads = 4, config.ssm.head_dim = 2, config.ssm.n_groups = 2, config.ssm.d_state = 3,
  config.ssm.scan_chunk = 5;
  config.ssm.norm_groups = 2;
  const auto mamba = [=](const Inputs& x) {
    SsmWeights w;
    w.conv_w = x[1], w.conv_b = x[2], w.A_log = x[3], w.D = x[4], w.dt_bias = x[5], w.norm = x[6];
    return Mamba2Core(config, w, x[0], layout) * real;
  };
  const int64_t channels = config.ssm.conv_dim();
  ExpectFiniteDifferences("Mamba2Core", mamba,
                          {Randn({2, 24, config.ssm.in_proj_dim()}, 7), Randn({channels, 1, 4}, 8),
                           Randn({channels}, 9), Randn({4}, 10), Randn({4}, 11), Randn({4}, 12), Randn({8}, 13)});
  ExpectFiniteDifferences("DiagonalScan", [=](const Inputs& x) { return DiagonalScan(x[0], x[1], layout) * real; },
                          {Randn({2, 24, 12}, 5), Randn({3}, 6)});
}

TEST(Functions, ParallelLoopsTakeAllThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> calls = 0;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) { ++calls; });
  at::set_num_threads(before);
  EXPECT_EQ(calls, 2);
}

TEST(Functions, SumsDoNotDependOnThreads) {
  const int before = at::get_num_threads();
  for (const Row& row : Rows()) {
    if (row.products) continue;
    const Tensor weight = Randn(row.own(row.inputs).sizes().vec(), 22);
    at::set_num_threads(1);
    const Tensor one = row.own(row.inputs);
    const Inputs g1 = Gradients(row.own, row.inputs, weight);
    at::set_num_threads(2);
    EXPECT_TRUE(torch::equal(row.own(row.inputs), one)) << Name(row);
    const Inputs g2 = Gradients(row.own, row.inputs, weight);
    for (size_t i = 0; i < g1.size(); ++i) EXPECT_TRUE(torch::equal(g1[i], g2[i])) << Name(row) << " input " << i;
  }
  at::set_num_threads(before);
}

TEST(Functions, AddRowsKeepsWhatWasThere) {
  Tensor to = torch::ones({3, 2});
  AddRowsInto(torch::tensor({1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F}).view({3, 2}), Ids({2, 0, 2}), to);
  EXPECT_TRUE(torch::equal(to, torch::tensor({4.0F, 5.0F, 1.0F, 1.0F, 7.0F, 9.0F}).view({3, 2})));
}

TEST(Functions, TopKIsAStableSort) {
  for (const uint64_t seed : {1, 2, 3})
    for (const int64_t k : {1, 2, 5, 17}) {
      Tensor scores = Randn({4, 9, 17}, seed).mul(2).round();  // many ties
      const Tensor want = scores.argsort(/*stable=*/true, -1, /*descending=*/true).narrow(-1, 0, k);
      EXPECT_TRUE(torch::equal(TopK(scores, k), want)) << "seed " << seed << " k " << k;
      EXPECT_TRUE(torch::equal(composite::TopK(scores, k), want)) << "seed " << seed << " k " << k;
      EXPECT_TRUE(torch::equal(TopK(scores.to(torch::kFloat32), k), want));
    }
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const Tensor odd = torch::tensor({nan, -inf, 1.0, nan, inf}, torch::kFloat64);
  EXPECT_TRUE(torch::equal(TopK(odd, 3), Ids({4, 2, 1})));
  EXPECT_TRUE(torch::equal(TopK(odd, 5), Ids({4, 2, 1, 0, 3})));
  EXPECT_THROW((void)TopK(odd, 6), std::logic_error);
}

TEST(Functions, EveryDifferentiableFunctionOfTheHeaderHasARow) {
  std::set<std::string> rows = {"TopK"};  // no gradient
  for (const Row& row : Rows()) rows.insert(row.function);
  std::ifstream file("hydra/nn/functions.h");
  ASSERT_TRUE(file) << "run in the root of the sources";
  const std::regex declaration(R"(^torch::Tensor (\w+)\()");
  size_t found = 0;
  for (std::string line; std::getline(file, line);)
    if (std::smatch match; std::regex_search(line, match, declaration)) {
      ++found;
      EXPECT_TRUE(rows.contains(match[1])) << match[1] << " has no row in Rows()";
    }
  EXPECT_GE(found, 6u);
}

}  // namespace
}  // namespace hydra::nn
