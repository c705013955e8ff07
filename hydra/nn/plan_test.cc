// SPDX-License-Identifier: Apache-2.0
// Plans by masks: heads with spans of their own against explicit masks, packed documents, groups, windows beside
// landmarks; the dense plan is the model without one.
#include <cmath>
#include <limits>
#include <vector>

#include "hydra/nn/attention.h"
#include "hydra/nn/testing.h"

namespace hydra::nn {
namespace {

using testing::Difference;
using testing::kTolF64;
using testing::LogitsOf;
using testing::Randn;
using testing::RandomDocuments;
using testing::RandomModel;
using torch::Tensor;

// softmax over an explicit T x T mask of each head; seq, pos [B, T] of the layout.
Tensor MaskedSpans(const Tensor& q, const Tensor& k, const Tensor& v, const Layout& layout,
                   const std::vector<SeenSpan>& spans) {
  const int64_t A = q.size(2), group = A / k.size(2);
  std::vector<Tensor> heads;
  const Tensor age = layout.pos.unsqueeze(2) - layout.pos.unsqueeze(1);  // [B, T, T]
  const Tensor same = layout.scan_seq.unsqueeze(2) == layout.scan_seq.unsqueeze(1);
  for (int64_t h = 0; h < A; ++h) {
    const SeenSpan& span = spans[static_cast<size_t>(h)];
    const Tensor seen = same & (age >= 0) & ((age < span.window) | (layout.pos.unsqueeze(1) < span.sinks));
    const Tensor scores = torch::matmul(q.select(2, h), k.select(2, h / group).transpose(1, 2)) /
                          std::sqrt(static_cast<double>(q.size(3)));
    const Tensor shares =
        torch::softmax(scores.masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity()), -1);
    heads.push_back(torch::matmul(shares, v.select(2, h / group)));
  }
  return torch::stack(heads, 2);
}

TEST(Plan, TilesOfSpansMatchExplicitMasks) {
  constexpr int64_t A = 6, Dh = 5, C = 8;
  const std::vector<SeenSpan> spans{{1, 0}, {16, 16}, {130, 16}, {64, 64}, {1000, 0}, {40, 16}};
  for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{304}, {200, 40, 8}}) {
    const Batch batch = Batch::Pack(RandomDocuments(lengths, 50, 1), C);
    const Layout layout = Layout::Make(batch, C);
    for (const int64_t Akv : {6, 3, 1}) {
      const int64_t T = layout.T;
      const Tensor q = Randn({1, T, A, Dh}, 1), k = Randn({1, T, Akv, Dh}, 2), v = Randn({1, T, Akv, Dh}, 3);
      EXPECT_LT(Difference(SpanAttention(q, k, v, layout, spans), MaskedSpans(q, k, v, layout, spans)), kTolF64)
          << Akv << " key heads, " << lengths.size() << " documents";
    }
  }
}

// Two layers, 6 heads, 3 KV heads.
ModelConfig GroupedLlama() {
  ModelConfig c = TransformerNano();
  c.attention.n_kv_heads = 3;
  c.layers.resize(2);
  c.vocab_size = 64;
  return c;
}

AttentionPlan Narrow(const ModelConfig& config, PlanUnit unit) {
  AttentionPlan plan = AttentionPlan::Dense(config);
  plan.unit = unit;
  const int64_t heads = unit == PlanUnit::kHead ? config.attention.n_heads : config.attention.n_kv_heads;
  for (LayerPlan& layer : plan.layers) {
    if (layer.rules.empty()) continue;
    layer.rules.clear();
    for (int64_t h = 0; h < heads; ++h) layer.rules.push_back({.alpha = 64.0 * static_cast<double>(h), .beta = 0.0});
  }
  return plan;
}

TEST(Plan, TheDensePlanIsTheModelWithoutOne) {
  ModelConfig hydra = testing::NanoWithEviction();
  hydra.attention.window = 256;
  for (const ModelConfig& config : {GroupedLlama(), hydra}) {
    Model model = RandomModel(config, 3);
    const int64_t n = 300;
    const Batch batch = Batch::OneDocumentPerRow(testing::RandomIds(2, n, config.vocab_size, 4), config.chunk_len);
    const AttentionPlan dense = AttentionPlan::Dense(config), narrow = Narrow(config, PlanUnit::kKvHead);
    const Tensor want = LogitsOf(model, batch);
    const auto with = [&](const AttentionPlan& plan) {
      ForwardOptions options;
      options.plan = &plan;
      options.plan_length = n;
      return LogitsOf(model, batch, options);
    };
    EXPECT_LT(Difference(with(dense), want), kTolF64);
    EXPECT_GT(Difference(with(narrow), want), 1e-3);
  }
}

// The ring of a group shows all of it what its widest head asks for; own spans show each head its own.
TEST(Plan, QueryHeadsSeeTheirRingOrTheirOwnSpan) {
  const ModelConfig config = GroupedLlama();
  const AttentionPlan plan = Narrow(config, PlanUnit::kHead);
  ForwardOptions options;
  options.plan = &plan;
  options.plan_length = 512;
  const auto windows = [&] {
    std::vector<int64_t> all;
    for (const SeenSpan& s : SpansOfLayer(options, 1)) all.push_back(s.window);
    return all;
  };
  EXPECT_EQ(windows(), (std::vector<int64_t>{64, 64, 128, 128, 256, 256}));
  options.head_spans = HeadSpans::kOwn;
  EXPECT_EQ(windows(), (std::vector<int64_t>{64, 64, 64, 128, 192, 256}));
  EXPECT_TRUE(SpansOfLayer({}, 0).empty());
}

// Heads of a layer with a window may have smaller ones: each then is what the layer would be with that window alone.
TEST(Plan, HeadsOfAWindowLayerSeeTheirOwnPartOfIt) {
  ModelConfig config = testing::NanoWithEviction();
  config.attention.window = 128;
  const int64_t C = config.chunk_len, T = 20 * C, A = config.attention.n_heads;
  Model model = RandomModel(config, 5);
  const Batch batch = Batch::OneDocumentPerRow(testing::RandomIds(1, T, config.vocab_size, 6), C);
  const Layout layout = Layout::Make(batch, C);
  int sparse = -1;
  for (int i = 0; i < static_cast<int>(config.n_layers()); ++i)
    if (config.layers[static_cast<size_t>(i)].attention == AttentionKind::kSparse) sparse = i;
  ASSERT_GE(sparse, 0);
  AttentionWeights w;
  const auto get = [&](TensorRole role) { return model.at(role, sparse); };
  w.q = get(TensorRole::kAttnQ), w.k = get(TensorRole::kAttnK), w.v = get(TensorRole::kAttnV);
  w.o = torch::eye(config.attention.n_heads * config.attention.head_dim, torch::kFloat64);  // heads stay apart
  w.scorer_w = get(TensorRole::kLandmarkScorerWeight), w.scorer_b = get(TensorRole::kLandmarkScorerBias);
  w.landmark_scale = get(TensorRole::kLandmarkScale);
  const Tensor u = Randn({1, T, config.d_model}, 7);
  const auto heads = [&](const std::vector<SeenSpan>& spans) {
    return Attention(config, AttentionKind::kSparse, w, u, layout, {}, spans)
        .view({1, T, A, config.attention.head_dim});
  };
  std::vector<SeenSpan> mixed;
  for (int64_t a = 0; a < A; ++a) mixed.push_back({.window = a % 2 == 0 ? 64 : 128});
  const Tensor got = heads(mixed);
  for (int64_t a = 0; a < A; ++a) {
    const std::vector<SeenSpan> alike(static_cast<size_t>(A), mixed[static_cast<size_t>(a)]);
    EXPECT_LT(Difference(got.select(2, a), heads(alike).select(2, a)), kTolF64) << "head " << a;
  }
  EXPECT_GT(Difference(got.select(2, 0), heads({}).select(2, 0)), 1e-3);
}

}  // namespace
}  // namespace hydra::nn
