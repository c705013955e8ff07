// SPDX-License-Identifier: Apache-2.0
// Mamba-2 between its projections in one function against its twin of torch operators in fp64: outputs and all
// gradients on every SIMD level, documents, sizes around the vectors. Not here: the model around it (model_test.cc,
// gradient_test.cc).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hydra/kernels/testing.h"
#include "hydra/nn/ssm.h"
#include "hydra/nn/testing.h"

namespace hydra::nn::mamba2_test {  // tests share units
namespace {

using testing::Difference;
using testing::Randn;
using torch::Tensor;

struct Shape {
  std::string name;
  int64_t H, P, G, N, K, Q, Gn;
  bool conv_bias = true;
  std::array<double, 2> dt_limit{0.0, SsmConfig::kInfinity};
};

std::vector<Shape> Shapes() {
  return {{"nano", 12, 32, 1, 32, 4, 32, 1},
          {"two groups", 4, 16, 2, 16, 4, 16, 2},
          {"odd sizes", 6, 5, 3, 7, 3, 9, 2},
          {"wider than a vector", 2, 19, 1, 37, 4, 67, 1},
          {"one of each", 1, 1, 1, 1, 1, 1, 1},
          {"two taps, no bias", 4, 8, 1, 9, 2, 5, 4, false},
          {"dt clamped", 4, 8, 2, 8, 4, 8, 1, true, {0.3, 0.9}}};
}

struct Case {
  ModelConfig config;
  std::vector<Tensor> tensors;  // projected, conv_w, conv_b, A_log, D, dt_bias, norm: fp64
  Layout layout;

  Case(const Shape& s, const Batch& batch, int64_t chunk_len, uint64_t seed) : layout(Layout::Make(batch, chunk_len)) {
    SsmConfig& c = config.ssm;
    c.n_heads = s.H, c.head_dim = s.P, c.n_groups = s.G, c.d_state = s.N, c.d_conv = s.K, c.scan_chunk = s.Q;
    c.norm_groups = s.Gn, c.conv_bias = s.conv_bias, c.dt_limit = s.dt_limit;
    const double taps = 1 / std::sqrt(static_cast<double>(s.K));
    tensors = {Randn({layout.B, layout.T, c.in_proj_dim()}, seed),
               Randn({c.conv_dim(), 1, s.K}, seed + 1) * taps,
               Randn({c.conv_dim()}, seed + 2) * 0.3,
               Randn({s.H}, seed + 3) - 1,
               Randn({s.H}, seed + 4) + 1,
               Randn({s.H}, seed + 5) - 1,
               Randn({c.d_inner()}, seed + 6) * 0.3 + 1};
    for (Tensor& x : tensors)
      x = x.to(torch::kFloat32).to(torch::kFloat64);  // so that both types have the same numbers
  }
};

constexpr const char* kNames[] = {"projected", "conv_w", "conv_b", "A_log", "D", "dt_bias", "norm"};

struct Result {
  Tensor out;
  std::vector<Tensor> gradients;  // of sum(out * weight over real tokens)
};

Result Evaluate(const Case& c, torch::Dtype dtype, bool own) {
  std::vector<Tensor> leaves;
  for (const Tensor& x : c.tensors) leaves.push_back(x.detach().to(dtype).clone().requires_grad_());
  SsmWeights w;
  w.conv_w = leaves[1], w.A_log = leaves[3], w.D = leaves[4], w.dt_bias = leaves[5], w.norm = leaves[6];
  if (c.config.ssm.conv_bias) w.conv_b = leaves[2];
  Result r;
  const Tensor out = (own ? &Mamba2Core : &composite::Mamba2Core)(c.config, w, leaves[0], c.layout);
  const Tensor weight = Randn(out.sizes().vec(), 99) * c.layout.real.unsqueeze(-1);
  (out * weight.to(dtype)).sum().backward();
  r.out = out.detach();
  for (size_t i = 0; i < leaves.size(); ++i)
    if (i != 2 || c.config.ssm.conv_bias) r.gradients.push_back(leaves[i].grad());
  return r;
}

Batch OneDocument(int64_t rows, int64_t T, int64_t chunk_len) {
  return Batch::OneDocumentPerRow(testing::RandomIds(rows, T, 61, 1), chunk_len);
}
Batch Packed(const std::vector<int64_t>& lengths, int64_t chunk_len, int64_t row_len) {
  return Batch::Pack(testing::RandomDocuments(lengths, 61, 1), chunk_len, row_len);
}

// Everything that is compared is a sum of at most about T products of numbers of order 1, relative to the largest.
void ExpectTwins(const Case& c, const std::string& what) {
  const Result got = Evaluate(c, torch::kFloat32, true), want = Evaluate(c, torch::kFloat64, false);
  ASSERT_EQ(got.out.scalar_type(), torch::kFloat32);
  EXPECT_LT(Difference(got.out, want.out), 1e-5) << what;
  ASSERT_EQ(got.gradients.size(), want.gradients.size());
  for (size_t i = 0; i < got.gradients.size(); ++i) {
    const size_t name = got.gradients.size() == 7 || i < 2 ? i : i + 1;
    EXPECT_LT(Difference(got.gradients[i], want.gradients[i]), 2e-5) << what << ": " << kNames[name];
    if (c.layout.T > 1 || name != 3) {  // one token has no state before it to decay
      EXPECT_GT(want.gradients[i].abs().max().item<double>(), 0) << what << ": " << kNames[name];
    }
  }
}

TEST(Mamba2, EqualsItsTwinOnEveryTarget) {
  kernels::ForEachTarget([&](const std::string& target) {
    uint64_t seed = 0;
    for (const Shape& s : Shapes()) {
      seed += 10;
      for (const int64_t T : {1, 3, 35, 100})
        ExpectTwins(Case(s, OneDocument(2, T, 1), 1, seed), target + ", " + s.name + ", T " + std::to_string(T));
      const Batch rows =
          Batch::Stack({Packed({40, 7, 100}, 8, 176), Packed({176}, 8, 176), Packed({3, 3, 8, 30}, 8, 176)});
      ExpectTwins(Case(s, rows, 8, seed), target + ", " + s.name + ", documents");
    }
  });
}

// Decays from none to all of the state between two tokens: exp of the sums must not meet inf, and gradients stay
// finite.
TEST(Mamba2, DecaysOfEverySizeEqualItsTwin) {
  Case c({"", 4, 8, 1, 8, 4, 16, 1}, OneDocument(1, 80, 1), 1, 7);
  c.tensors[3] = torch::tensor({-12.0, 0.0, 3.0, 8.0}, torch::kFloat64);
  c.tensors[5] = torch::tensor({0.0, 5.0, 5.0, 25.0}, torch::kFloat64);
  ExpectTwins(c, "decays");
}

// Not only close: each document's outputs and gradients have the bits that it has alone.
TEST(Mamba2, PackedDocumentsHaveTheBitsThatEachHasAlone) {
  const std::vector<int64_t> lengths = {40, 5, 33, 16, 70};
  const Shape shape{"", 6, 8, 2, 8, 4, 16, 2};
  const Case packed(shape, Packed(lengths, 8, 200), 8, 3);
  const auto run = [](const Case& c, const Tensor& weight) {
    const Tensor projected = c.tensors[0].to(torch::kFloat32).requires_grad_();
    SsmWeights w;
    const auto f32 = [&](size_t i) { return c.tensors[i].to(torch::kFloat32); };
    w.conv_w = f32(1), w.conv_b = f32(2), w.A_log = f32(3), w.D = f32(4), w.dt_bias = f32(5), w.norm = f32(6);
    const Tensor out = Mamba2Core(c.config, w, projected, c.layout);
    (out * weight * c.layout.real.unsqueeze(-1)).sum().backward();  // pads behind the last document are nobody's
    return std::pair(out.detach(), projected.grad());
  };
  const Tensor weight = Randn({1, 200, 48}, 9, torch::kFloat32);
  const auto [out, gradient] = run(packed, weight);
  int64_t at = 0;
  for (const int64_t length : lengths) {
    const int64_t room = (length + 7) / 8 * 8;
    Case alone(shape, Packed({length}, 8, 0), 8, 3);
    alone.tensors[0] = packed.tensors[0].narrow(1, at, room).contiguous();
    const auto [its_out, its_gradient] = run(alone, weight.narrow(1, at, room));
    EXPECT_TRUE(torch::equal(out.narrow(1, at, room), its_out)) << "document at " << at;
    EXPECT_TRUE(torch::equal(gradient.narrow(1, at, room), its_gradient)) << "document at " << at;
    at += room;
  }
}

TEST(Mamba2, SumsDoNotDependOnThreads) {
  const Case c(Shapes()[0], Batch::Stack({Packed({100, 70}, 8, 176), Packed({176}, 8, 176)}), 8, 5);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Result one = Evaluate(c, torch::kFloat32, true);
  at::set_num_threads(2);
  const Result two = Evaluate(c, torch::kFloat32, true);
  at::set_num_threads(before);
  EXPECT_TRUE(torch::equal(one.out, two.out));
  for (size_t i = 0; i < one.gradients.size(); ++i)
    EXPECT_TRUE(torch::equal(one.gradients[i], two.gradients[i])) << kNames[i];
}

TEST(Mamba2, OtherTypesAndMoreTapsTakeTheTwin) {
  const Case c(Shapes()[1], OneDocument(1, 20, 1), 1, 6);
  EXPECT_TRUE(torch::equal(Evaluate(c, torch::kFloat64, true).out, Evaluate(c, torch::kFloat64, false).out));
  Shape five = Shapes()[1];
  five.K = 5;
  const Case taps(five, OneDocument(1, 20, 1), 1, 6);
  EXPECT_TRUE(torch::equal(Evaluate(taps, torch::kFloat32, true).out, Evaluate(taps, torch::kFloat32, false).out));
}

}  // namespace
}  // namespace hydra::nn::mamba2_test
