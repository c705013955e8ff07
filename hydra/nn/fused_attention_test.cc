// SPDX-License-Identifier: Apache-2.0
// Window + landmark attention in one function against its twin of torch operators in fp64: outputs and all gradients on
// every SIMD level, documents, head groups, sizes around the vectors. Not here: the twin against a dense mask
// (layers_test.cc) and finite differences (functions_test.cc).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hydra/kernels/testing.h"
#include "hydra/nn/attention.h"
#include "hydra/nn/testing.h"

namespace hydra::nn::fused_attention_test {  // tests share units
namespace {

using testing::Difference;
using testing::Randn;
using torch::Tensor;

struct Shape {
  std::string name;
  int64_t A, Akv, Dh, C, W;
  int64_t budget, per_chunk;  // 0: no landmarks
};

std::vector<Shape> Shapes() {
  return {{"nano", 6, 6, 32, 16, 64, 20, 2},
          {"window only", 3, 3, 8, 8, 11, 0, 0},
          {"grouped heads", 6, 2, 19, 8, 11, 5, 2},
          {"one key head", 4, 1, 16, 4, 1, 3, 1},
          {"window of the row", 2, 2, 5, 8, 999, 0, 0},
          {"many landmarks", 2, 1, 24, 16, 8, 40, 5}};
}

struct Case {
  Shape shape;
  Layout layout;
  Tensor pools;
  std::vector<Tensor> tensors;  // q, k, v, score, lambda: fp64 of fp32's numbers

  Case(const Shape& s, const Batch& batch, uint64_t seed) : shape(s), layout(Layout::Make(batch, s.C)) {
    const int64_t B = layout.B, T = layout.T;
    tensors = {Randn({B, T, s.A, s.Dh}, seed), Randn({B, T, s.Akv, s.Dh}, seed + 1),
               Randn({B, T, s.Akv, s.Dh}, seed + 2), Randn({B, T}, seed + 3), Randn({s.A}, seed + 4).abs() + 0.3};
    for (Tensor& x : tensors) x = x.to(torch::kFloat32).to(torch::kFloat64);
    if (s.budget == 0) return;
    AttentionConfig config;
    config.landmark_budget = s.budget;
    config.landmarks_per_chunk = s.per_chunk;
    pools = LandmarkPools(config, tensors[3], layout);
  }
};

struct Result {
  Tensor out;
  std::vector<Tensor> gradients;  // of sum(out * weight over real tokens), of all or of q, k, v
};

Result Evaluate(const Case& c, torch::Dtype dtype, bool own, const Tensor& weight) {
  std::vector<Tensor> leaves;
  for (const Tensor& x : c.tensors) leaves.push_back(x.detach().to(dtype).clone().requires_grad_());
  const bool far = c.pools.defined();
  Result r;
  const Tensor out = (own ? &SparseAttention : &composite::SparseAttention)(
      leaves[0], leaves[1], leaves[2], far ? torch::log_sigmoid(leaves[3]) : Tensor(), far ? leaves[4] : Tensor(),
      c.pools, c.layout, c.shape.W);
  const Tensor real = c.layout.real.unsqueeze(-1).unsqueeze(-1);
  (out * (weight * real).to(dtype)).sum().backward();
  r.out = out.detach() * real;
  for (size_t i = 0; i < (far ? 5U : 3U); ++i) r.gradients.push_back(leaves[i].grad());
  return r;
}
Tensor Weight(const Case& c) { return Randn(c.tensors[0].sizes().vec(), 99); }

Batch OneDocument(int64_t rows, int64_t T, int64_t C) {
  return Batch::OneDocumentPerRow(testing::RandomIds(rows, T, 61, 1), C);
}
Batch Packed(const std::vector<int64_t>& lengths, int64_t C, int64_t row_len) {
  return Batch::Pack(testing::RandomDocuments(lengths, 61, 1), C, row_len);
}

// Sums of at most a few hundred products of numbers of order 1, relative to the largest.
void ExpectTwins(const Case& c, const std::string& what) {
  static constexpr const char* kNames[] = {"q", "k", "v", "score", "lambda"};
  const Tensor weight = Weight(c);
  const Result got = Evaluate(c, torch::kFloat32, true, weight), want = Evaluate(c, torch::kFloat64, false, weight);
  ASSERT_EQ(got.out.scalar_type(), torch::kFloat32);
  EXPECT_LT(Difference(got.out, want.out), 1e-5) << what;
  ASSERT_EQ(got.gradients.size(), want.gradients.size());
  for (size_t i = 0; i < got.gradients.size(); ++i) {
    EXPECT_LT(Difference(got.gradients[i], want.gradients[i]), 2e-5) << what << ": " << kNames[i];
    EXPECT_GT(want.gradients[i].abs().max().item<double>(), 0) << what << ": " << kNames[i];
  }
}

TEST(FusedAttention, EqualsItsTwinOnEveryTarget) {
  kernels::ForEachTarget([&](const std::string& target) {
    uint64_t seed = 0;
    for (const Shape& s : Shapes()) {
      seed += 10;
      ExpectTwins(Case(s, OneDocument(2, 176, s.C), seed), target + ", " + s.name);
      const Batch rows =
          Batch::Stack({Packed({40, 7, 100}, s.C, 176), Packed({176}, s.C, 176), Packed({3, 3, 8, 90}, s.C, 176)});
      ExpectTwins(Case(s, rows, seed), target + ", " + s.name + ", documents");
    }
  });
}

// Large scores: exponents are differences from the largest before they are taken.
TEST(FusedAttention, LargeScoresStayFinite) {
  Case c(Shapes()[0], OneDocument(1, 176, 16), 7);
  c.tensors[0] *= 64;
  ExpectTwins(c, "large scores");
}

// Not only close: each document's outputs and gradients have the bits that it has alone.
TEST(FusedAttention, PackedDocumentsHaveTheBitsThatEachHasAlone) {
  const Shape shape = Shapes()[0];
  const std::vector<int64_t> lengths = {40, 100, 5, 150};
  const Case packed(shape, Packed(lengths, shape.C, 0), 3);
  const Tensor weight = Weight(packed);
  const Result all = Evaluate(packed, torch::kFloat32, true, weight);
  int64_t at = 0;
  for (const int64_t length : lengths) {
    const int64_t room = (length + shape.C - 1) / shape.C * shape.C;
    Case alone(shape, Packed({length}, shape.C, 0), 3);
    for (size_t i = 0; i < 4; ++i) alone.tensors[i] = packed.tensors[i].narrow(1, at, room).contiguous();
    AttentionConfig config;
    config.landmark_budget = shape.budget;
    config.landmarks_per_chunk = shape.per_chunk;
    alone.tensors[4] = packed.tensors[4];
    alone.pools = LandmarkPools(config, alone.tensors[3], alone.layout);
    const Result its = Evaluate(alone, torch::kFloat32, true, weight.narrow(1, at, room));
    EXPECT_TRUE(torch::equal(all.out.narrow(1, at, room), its.out)) << "document at " << at;
    for (size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(torch::equal(all.gradients[i].narrow(1, at, room), its.gradients[i]))
          << "document at " << at << ", input " << i;
    at += room;
  }
}

TEST(FusedAttention, SumsDoNotDependOnThreads) {
  const Case c(Shapes()[0], Batch::Stack({Packed({100, 70}, 16, 192), Packed({176}, 16, 192)}), 5);
  const Tensor weight = Weight(c);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Result one = Evaluate(c, torch::kFloat32, true, weight);
  at::set_num_threads(2);
  const Result two = Evaluate(c, torch::kFloat32, true, weight);
  at::set_num_threads(before);
  EXPECT_TRUE(torch::equal(one.out, two.out));
  for (size_t i = 0; i < one.gradients.size(); ++i)
    EXPECT_TRUE(torch::equal(one.gradients[i], two.gradients[i])) << "input " << i;
}

}  // namespace
}  // namespace hydra::nn::fused_attention_test
