// SPDX-License-Identifier: Apache-2.0
// Profiles of tiny models against masks: the gradient of attention outputs by finite differences, layers one at a time
// against one graph, heads and groups, kernels against torch operators, Hydra's own attention with landmarks.
#include "hydra/eval/influence.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hydra/base/error.h"
#include "hydra/nn/influence.h"
#include "hydra/nn/testing.h"

namespace hydra::eval {
namespace {

using nn::AttentionSeen;
using nn::testing::Difference;
using nn::testing::RandomModel;
using torch::Tensor;

ModelConfig TinyLlama() {
  ModelConfig c = TransformerNano();
  c.vocab_size = 61;
  c.d_model = 24;
  c.d_ff = 40;
  c.layers.resize(2);
  c.attention.n_heads = 6;
  c.attention.n_kv_heads = 2;
  c.attention.head_dim = 4;
  c.dtype = DType::kF64;
  return c;
}

ModelConfig TinyHydra() {
  ModelConfig c = nn::testing::Tiny();
  c.attention.landmark_budget = 6;
  return c;
}

LongItem RandomItem(int64_t tokens, int64_t vocab, uint64_t seed) {
  const Tensor ids = nn::testing::RandomIds(1, tokens, vocab, seed);
  LongItem item{.id = "item " + std::to_string(seed), .kind = "copy", .length = tokens};
  for (int64_t i = 0; i < tokens; ++i) item.ids.push_back(static_cast<int32_t>(ids[0][i].item<int64_t>()));
  item.answer_begin = tokens - 5;
  item.answer_end = tokens;
  return item;
}

InfluenceProfile SmallBlocks(const ModelConfig& config, int64_t block) {
  InfluenceProfile profile = EmptyProfile(config, "tiny", "", ItemFile());
  profile.dense = AttentionPlan::Dense(config, block);
  return profile;
}

// The loss of an item where the output of a layer's attention has `added` added to it.
double LossWith(const nn::Model& model, const LongItem& item, int at, const Tensor& added, AttentionSeen* seen_at) {
  const torch::NoGradGuard no_grad;
  const std::vector<int64_t> ids(item.ids.begin(), item.ids.begin() + item.answer_end - 1);
  const nn::Batch batch =
      nn::Batch::OneDocumentPerRow(torch::tensor(ids, torch::kInt64).unsqueeze(0), model.config().chunk_len);
  const nn::Layout layout = nn::Layout::Make(batch, model.config().chunk_len);
  Tensor x = model.Embed(batch.ids);
  for (int layer = 0; layer < model.config().n_layers(); ++layer) {
    const nn::AttentionWatch watch = [&](const AttentionSeen& seen) {
      if (seen_at != nullptr) *seen_at = seen;
      Tensor out = seen.out;
      if (added.defined()) out.add_(added);  // what the watch is given is what goes on
    };
    nn::ForwardOptions options;
    if (layer == at) options.attention_watch = &watch;
    x = model.RunLayer(layer, x, layout, options);
  }
  const int64_t n = item.answer_end - item.answer_begin;
  const Tensor logits = model.Logits(model.FinalNorm(x[0].narrow(0, item.answer_begin - 1, n)));
  const std::vector<int64_t> targets(item.answer().begin(), item.answer().end());
  return torch::cross_entropy_loss(logits, torch::tensor(targets, torch::kInt64)).item<double>();
}

// The gradient of a layer's attention output, from one graph of the whole model.
Tensor GradientOf(const nn::Model& model, const LongItem& item, int at) {
  const torch::AutoGradMode with_grad(true);
  const std::vector<int64_t> ids(item.ids.begin(), item.ids.begin() + item.answer_end - 1);
  const nn::Batch batch =
      nn::Batch::OneDocumentPerRow(torch::tensor(ids, torch::kInt64).unsqueeze(0), model.config().chunk_len);
  const nn::Layout layout = nn::Layout::Make(batch, model.config().chunk_len);
  Tensor x = model.Embed(batch.ids).detach().requires_grad_(true), out;
  const nn::AttentionWatch watch = [&](const AttentionSeen& seen) { out = seen.out; };
  for (int layer = 0; layer < model.config().n_layers(); ++layer) {
    nn::ForwardOptions options;
    if (layer == at) options.attention_watch = &watch;
    x = model.RunLayer(layer, x, layout, options);
  }
  const int64_t n = item.answer_end - item.answer_begin;
  const std::vector<int64_t> targets(item.answer().begin(), item.answer().end());
  const Tensor logits = model.Logits(model.FinalNorm(x[0].narrow(0, item.answer_begin - 1, n)));
  return torch::autograd::grad({torch::cross_entropy_loss(logits, torch::tensor(targets, torch::kInt64))}, {out})[0];
}

int AttentionLayer(const ModelConfig& config) {
  for (int i = 0; i < static_cast<int>(config.n_layers()); ++i)
    if (config.layers[static_cast<size_t>(i)].attention != AttentionKind::kNone) return i;
  return -1;
}

TEST(Influence, GradientsOfOutputsAreThoseOfTheLoss) {
  for (const ModelConfig& config : {TinyLlama(), TinyHydra()}) {
    nn::Model model = RandomModel(config, 3);
    FreezeWeights(model);
    const LongItem item = RandomItem(29, config.vocab_size, 5);
    const int at = AttentionLayer(config);
    const Tensor gradient = GradientOf(model, item, at), direction = nn::testing::Randn(gradient.sizes().vec(), 9);
    constexpr double kStep = 1e-5;
    const double up = LossWith(model, item, at, direction * kStep, nullptr);
    const double down = LossWith(model, item, at, direction * -kStep, nullptr);
    const double want = (gradient * direction).sum().item<double>();
    EXPECT_NEAR((up - down) / (2 * kStep), want, 1e-4 * (1 + std::abs(want)));
  }
}

// One layer at a time gives what one graph of the whole model gives.
TEST(Influence, ProfilesAreThoseOfOneGraph) {
  for (const ModelConfig& config : {TinyLlama(), TinyHydra()}) {
    nn::Model model = RandomModel(config, 4);
    FreezeWeights(model);
    InfluenceProfile profile = SmallBlocks(config, 4);
    const LongItem item = RandomItem(37, config.vocab_size, 6);
    const double loss = AddItem(model, item, {}, &profile);
    EXPECT_NEAR(loss, LossWith(model, item, 0, {}, nullptr), 1e-12);
    const InfluenceProfile::Length& got = profile.lengths.at(37);
    for (int layer = 0; layer < static_cast<int>(config.n_layers()); ++layer) {
      const LayerPlan& l = profile.dense.layers[static_cast<size_t>(layer)];
      if (l.rules.empty()) continue;
      AttentionSeen seen;
      (void)LossWith(model, item, layer, {}, &seen);
      nn::InfluenceStats want = nn::InfluenceStats::Zeros(config.attention.n_heads, seen.q.size(1), 4);
      nn::composite::AttentionInfluence(seen, GradientOf(model, item, layer),
                                        {.block = 4, .n_sinks = l.n_sinks, .chunk_len = config.chunk_len}, &want);
      for (int64_t head = 0; head < config.attention.n_heads; ++head)
        for (int64_t m = 0; m < std::min(profile.Blocks(37), want.f.size(1)); ++m) {
          const auto i = static_cast<size_t>(profile.At(0, layer, head, 37) + m);
          EXPECT_NEAR(got.f[i], want.f[head][m].item<double>(), 1e-9) << layer << " " << head << " " << m;
          EXPECT_NEAR(got.jabs[i], want.jabs[head][m].item<double>(), 1e-9);
          EXPECT_NEAR(got.jsgn[i], want.jsgn[head][m].item<double>(), 1e-9);
        }
    }
  }
}

// What a layer's output times its gradient becomes where one query head sees less: attention computed again, by masks.
double MaskedChange(const AttentionSeen& seen, const Tensor& d_out, const LayerPlan& layer, int64_t head, int64_t m,
                    int64_t block, int64_t chunk_len) {
  const int64_t T = seen.q.size(1), group = seen.q.size(2) / seen.k.size(2), kv = head / group;
  const double scale = 1 / std::sqrt(static_cast<double>(seen.q.size(3)));
  double change = 0;
  for (int64_t i = 0; i < T; ++i) {
    std::vector<double> scores, gradients;
    std::vector<bool> stays;
    const auto add = [&](int64_t j, double bias, bool stay) {
      scores.push_back((seen.q[0][i][head] * seen.k[0][j][kv]).sum().item<double>() * scale + bias);
      gradients.push_back((d_out[0][i][head] * seen.v[0][j][kv]).sum().item<double>());
      stays.push_back(stay);
    };
    for (int64_t j = seen.window > 0 ? std::max<int64_t>(0, i - seen.window + 1) : 0; j <= i; ++j)
      add(j, 0, j < layer.n_sinks || i - j < m * block);
    for (int64_t g = 0; seen.pools.defined() && g < seen.pools.size(2); ++g) {
      const int64_t token = seen.pools[0][i / chunk_len][g].item<int64_t>();
      if (token >= 0 && token <= i - seen.window)
        add(token, seen.lambda[head].item<double>() * seen.log_sigma[0][token].item<double>(), true);
    }
    const auto output = [&](bool all) {
      double sum = 0, value = 0;
      for (size_t n = 0; n < scores.size(); ++n)
        if (all || stays[n]) sum += std::exp(scores[n]), value += std::exp(scores[n]) * gradients[n];
      return value / sum;
    };
    change += output(false) - output(true);
  }
  return change;
}

TEST(Influence, SignedSumsAreWhatMaskingChangesToFirstOrder) {
  for (const ModelConfig& config : {TinyLlama(), TinyHydra()}) {
    nn::Model model = RandomModel(config, 7);
    FreezeWeights(model);
    InfluenceProfile profile = SmallBlocks(config, 4);
    const LongItem item = RandomItem(45, config.vocab_size, 8);
    (void)AddItem(model, item, {}, &profile);
    const int at = AttentionLayer(config);
    const LayerPlan& layer = profile.dense.layers[static_cast<size_t>(at)];
    AttentionSeen seen;
    (void)LossWith(model, item, at, {}, &seen);
    const Tensor d_out = GradientOf(model, item, at);
    const int64_t group = config.attention.n_heads / config.attention.n_kv_heads;
    for (const int64_t m : {1, 2, 4}) {
      double of_group = 0;
      for (int64_t head = 0; head < group; ++head) {
        const double want = MaskedChange(seen, d_out, layer, head, m, 4, config.chunk_len);
        const std::vector<double> curve = profile.Curve(Estimator::kJsgn, 45, at, head);
        // A window that is whole costs nothing by definition.
        if (layer.window == 0 || m * 4 < layer.window) {
          EXPECT_NEAR(curve[static_cast<size_t>(m)], want, 1e-9) << "m " << m << " head " << head;
          of_group += want;
        }
      }
      EXPECT_NEAR(profile.UnitCurve(Estimator::kJsgn, 45, at, 0)[static_cast<size_t>(m)], of_group, 1e-9) << m;
    }
  }
}

TEST(Influence, KernelsAndTorchOperatorsAgree) {
  for (const ModelConfig& config : {TinyLlama(), TinyHydra()}) {
    nn::Model model = RandomModel(config, 11, torch::kFloat32);
    FreezeWeights(model);
    const LongItem item = RandomItem(77, config.vocab_size, 12);
    for (int layer = 0; layer < static_cast<int>(config.n_layers()); ++layer) {
      if (config.layers[static_cast<size_t>(layer)].attention == AttentionKind::kNone) continue;
      AttentionSeen seen;
      (void)LossWith(model, item, layer, {}, &seen);
      const Tensor d_out = GradientOf(model, item, layer);
      for (const int64_t block : {4, 16}) {
        const nn::InfluenceOptions options{
            .block = block, .n_sinks = seen.window > 0 ? 0 : block, .chunk_len = config.chunk_len};
        nn::InfluenceStats fused = nn::InfluenceStats::Zeros(config.attention.n_heads, seen.q.size(1), block),
                           composite = nn::InfluenceStats::Zeros(config.attention.n_heads, seen.q.size(1), block);
        nn::AttentionInfluence(seen, d_out, options, &fused);
        nn::composite::AttentionInfluence(seen, d_out, options, &composite);
        EXPECT_LT(Difference(fused.f, composite.f), 1e-4);
        EXPECT_LT(Difference(fused.jabs, composite.jabs), 1e-4);
        EXPECT_LT(Difference(fused.jsgn, composite.jsgn), 1e-4);
      }
    }
  }
}

TEST(Influence, ThreadsChangeNoBit) {
  nn::Model model = RandomModel(TinyLlama(), 13, torch::kFloat32);
  FreezeWeights(model);
  const LongItem item = RandomItem(200, 61, 14);
  AttentionSeen seen;
  (void)LossWith(model, item, 0, {}, &seen);
  const Tensor d_out = GradientOf(model, item, 0);
  const int before = at::get_num_threads();
  std::vector<nn::InfluenceStats> all;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    all.push_back(nn::InfluenceStats::Zeros(6, seen.q.size(1), 8));
    nn::AttentionInfluence(seen, d_out, {.block = 8, .n_sinks = 8}, &all.back());
  }
  at::set_num_threads(before);
  for (const nn::InfluenceStats& stats : all) {
    EXPECT_TRUE(torch::equal(stats.f, all[0].f));
    EXPECT_TRUE(torch::equal(stats.jabs, all[0].jabs));
    EXPECT_TRUE(torch::equal(stats.jsgn, all[0].jsgn));
  }
}

TEST(Influence, ItemsGoToTheHalvesInTurnAndAFailedOneLeavesNothing) {
  const ModelConfig config = TinyLlama();
  nn::Model model = RandomModel(config, 15);
  FreezeWeights(model);
  InfluenceProfile profile = SmallBlocks(config, 4);
  for (uint64_t seed : {1, 2, 3}) (void)AddItem(model, RandomItem(21, 61, seed), {}, &profile);
  const InfluenceProfile::Length& length = profile.lengths.at(21);
  EXPECT_EQ(length.items, (std::array<int64_t, 2>{2, 1}));
  EXPECT_EQ(length.ids, (std::vector<std::string>{"item 1", "item 2", "item 3"}));
  EXPECT_EQ(length.losses.size(), 3U);
  InfluenceProfile alone = SmallBlocks(config, 4);
  (void)AddItem(model, RandomItem(21, 61, 2), {}, &alone);
  for (int layer : {0, 1})
    EXPECT_EQ(profile.Curve(Estimator::kJabs, 21, layer, 3, ProfileHalf::kOdd),
              alone.Curve(Estimator::kJabs, 21, layer, 3));
  const std::vector<double> before = length.jabs;
  InfluenceOptions stopped;
  stopped.progress = [](double share) {
    if (share > 0.5) throw Error(ErrorCode::kUsage, "stopped");
  };
  EXPECT_THROW((void)AddItem(model, RandomItem(21, 61, 4), stopped, &profile), Error);
  EXPECT_EQ(profile.lengths.at(21).jabs, before);
  EXPECT_EQ(profile.lengths.at(21).ids.size(), 3U);
}

TEST(Influence, ModelsWithoutHeadsOfTheirOwnAreRefused) {
  EXPECT_THROW((void)EmptyProfile(MambaNano(), "mamba", "", ItemFile()), Error);
  EXPECT_THROW((void)EmptyProfile(nn::testing::LatentNano(), "latent", "", ItemFile()), Error);
}

TEST(Influence, FlopsOfAnItemAreThoseOfTheSpecification) {
  ModelConfig smol = TransformerNano();  // SmolLM2-135M
  smol.vocab_size = 49152;
  smol.d_model = 576;
  smol.d_ff = 1536;
  smol.layers.assign(30, smol.layers[0]);
  smol.attention.n_heads = 9;
  smol.attention.n_kv_heads = 3;
  smol.attention.head_dim = 64;
  EXPECT_NEAR(ItemFlops(smol, 1024) / 1e12, 0.88, 0.04);
  EXPECT_NEAR(ItemFlops(smol, 4096) / 1e12, 5.80, 0.06);
  EXPECT_NEAR(ItemFlops(smol, 8192) / 1e12, 18.0, 0.2);
}

}  // namespace
}  // namespace hydra::eval
