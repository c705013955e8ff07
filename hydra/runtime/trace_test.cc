// SPDX-License-Identifier: Apache-2.0
// A trace changes no bit of what is traced, and says of each token what the model and its state say by themselves.
#include "hydra/runtime/trace.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "hydra/base/testing.h"
#include "hydra/runtime/generate.h"
#include "hydra/runtime/testing.h"
#include "hydra/runtime/testing_tokenizer.h"
#include "hydra/runtime/xray.h"

namespace hydra {
namespace {

using testing::BuildModel;
using testing::RandomIds;
using testing::RandomSource;

struct Traced {
  std::vector<float> logits;
  std::vector<TokenTrace> tokens;
};

// Reads ids in pieces of n.
Traced Read(const Model& model, const Controls& controls, std::span<const int32_t> ids, size_t n, ThreadPool& pool,
            bool traced) {
  SequenceState state(model, controls);
  ForwardScratch scratch;
  Trace trace;
  if (traced) scratch.SetTrace(&trace);
  Traced out;
  for (size_t at = 0; at < ids.size(); at += n) {
    const Segment segment{&state, ids.subspan(at, std::min(n, ids.size() - at)), LogitsOf::kAll};
    const auto logits = model.Forward({&segment, 1}, pool, scratch);
    out.logits.insert(out.logits.end(), logits.begin(), logits.end());
  }
  out.tokens = trace.tokens();
  return out;
}

float Sum(const std::vector<Weighted>& list) {
  return std::accumulate(list.begin(), list.end(), 0.0F,
                         [](float sum, const Weighted& one) { return sum + one.weight; });
}

TEST(Trace, ChangesNoBit) {
  ThreadPool pool(2);
  for (const WeightType type : {WeightType::kF32, WeightType::kQ8_0})
    for (const testing::Case& c : testing::Cases()) {
      if (kSanitized && type == WeightType::kQ8_0) continue;
      SCOPED_TRACE(c.name + " " + std::string(Info(type).name));
      const Model model = BuildModel(RandomSource(c.config, 81, type), {.ctx_size = 512, .act = Activations::kAuto});
      const auto ids = RandomIds(150, c.config.vocab_size, 82);
      for (const size_t n : {size_t{1}, size_t{47}}) {
        const Traced with = Read(model, {}, ids, n, pool, true), without = Read(model, {}, ids, n, pool, false);
        testing::ExpectSameBits(with.logits, without.logits);
        ASSERT_EQ(with.tokens.size(), ids.size());
        EXPECT_TRUE(without.tokens.empty());
      }
    }
}

TEST(Trace, SaysWhatEachTokenDid) {
  ThreadPool pool(2);
  for (const size_t at : {0, 2}) {  // both kinds of SSM
    const testing::Case c = testing::Cases()[at];
    SCOPED_TRACE(c.name);
    const ModelConfig& config = c.config;
    const Model model = BuildModel(RandomSource(config, 83));
    const auto ids = RandomIds(200, config.vocab_size, 84);
    const Traced traced = Read(model, {}, ids, 64, pool, true);
    bool seen = false;  // a landmark
    for (size_t t = 0; t < ids.size(); ++t) {
      const TokenTrace& token = traced.tokens[t];
      EXPECT_EQ(token.id, ids[t]);
      EXPECT_EQ(token.position, static_cast<int64_t>(t));
      ASSERT_EQ(static_cast<int64_t>(token.layers.size()), config.n_layers());
      for (size_t i = 0; i < token.layers.size(); ++i) {
        SCOPED_TRACE(StrCat("token ", t, ", layer ", i));
        const LayerTrace& layer = token.layers[i];
        const LayerConfig& parts = config.layers[i];
        const bool has[] = {parts.ssm, parts.attention != AttentionKind::kNone, parts.ffn != FfnKind::kNone,
                            parts.workspace, parts.pkm};
        for (size_t part = 0; part < 5; ++part) EXPECT_EQ(layer.size[part] > 0, has[part]) << part;
        for (size_t path = 0; path < 3; ++path)
          EXPECT_EQ(layer.gate[path], has[path] ? model.weights().blocks[i].gates[path] : 0) << path;
        EXPECT_GT(layer.stream, 0);
        EXPECT_EQ(static_cast<int64_t>(layer.experts.size()), has[2] ? config.moe.top_k : 0);
        EXPECT_NEAR(Sum(layer.experts), has[2] ? 1 : 0, 1e-5);
        EXPECT_EQ(layer.slots_read.empty(), !has[3]);
        EXPECT_EQ(layer.slots_written.empty(), !has[3] || (t + 1) % static_cast<size_t>(config.chunk_len) != 0);
        EXPECT_EQ(layer.rows.size(), has[4] ? static_cast<size_t>(config.pkm.n_heads * config.pkm.top_k) : 0);
        EXPECT_NEAR(Sum(layer.rows), has[4] ? static_cast<double>(config.pkm.n_heads) : 0, 1e-4);
        for (const Weighted& landmark : layer.landmarks)
          EXPECT_LE(landmark.id, static_cast<int64_t>(t) - config.attention.window);
        EXPECT_LE(layer.landmark_share, 1);
        EXPECT_NEAR(Sum(layer.landmarks), layer.landmark_share, 1e-5);  // six at most, and all are told
        seen = seen || layer.landmark_share > 0;
      }
    }
    EXPECT_TRUE(seen);
  }
}

// With queries and keys of nothing all that is seen has the same weight but for lambda log sigma: the shares follow
// from the scores alone.
TEST(Trace, SharesOfLandmarksAreThoseOfTheSoftmax) {
  testing::Case c = testing::Cases()[0];
  WeightSource source = RandomSource(c.config, 85);
  const auto tensor = source.tensor;
  std::vector<std::vector<std::byte>> zeros;
  zeros.reserve(64);
  std::map<std::string, std::byte*> made;
  source.tensor = [&](const TensorSpec& spec) {
    StoredTensor stored = tensor(spec);
    if (spec.role != TensorRole::kAttnQ) return stored;
    auto& [name, bytes] = *made.try_emplace(spec.name, nullptr).first;
    if (bytes == nullptr) bytes = zeros.emplace_back(static_cast<size_t>(stored.nbytes)).data();
    stored.data = bytes;
    return stored;
  };
  const Model model = BuildModel(source);
  ThreadPool pool(1);
  const auto ids = RandomIds(160, c.config.vocab_size, 86);
  SequenceState state(model);
  ForwardScratch scratch;
  Trace trace;
  (void)model.Prefill(state, std::span(ids).first(159), pool, scratch);
  std::map<int, std::vector<std::pair<int32_t, float>>> pools;  // before the last token
  for (int layer = 0; layer < c.config.n_layers(); ++layer) {
    const BlockOffsets& at = state.layout().blocks[static_cast<size_t>(layer)];
    for (int32_t i = 0; !at.pools.empty() && i < state.pool_size(layer); ++i)
      pools[layer].emplace_back(state.At<int32_t>(at.pool_pos)[i], state.At(at.pool_scores)[i]);
  }
  scratch.SetTrace(&trace);
  (void)model.Step(state, ids[159], pool, scratch);
  ASSERT_FALSE(pools.empty());
  for (const auto& [layer, landmarks] : pools) {
    const F32& lambda = model.weights().blocks[static_cast<size_t>(layer)].attention.lambda;
    double want = 0;
    for (const float factor : lambda) {
      double far = 0;
      for (const auto& [position, score] : landmarks)
        if (position <= 159 - c.config.attention.window) far += std::exp(-factor * std::log1p(std::exp(-score)));
      want += far / (far + static_cast<double>(c.config.attention.window)) / static_cast<double>(lambda.size());
    }
    EXPECT_GT(want, 0);
    EXPECT_NEAR(trace.tokens()[0].layers[static_cast<size_t>(layer)].landmark_share, want, 1e-4);
  }
}

TEST(Trace, WhatIsOffAddsNothing) {
  ThreadPool pool(1);
  const testing::Case c = testing::Cases()[0];
  const Model model = BuildModel(RandomSource(c.config, 87));
  const auto ids = RandomIds(40, c.config.vocab_size, 88);
  const Traced traced = Read(model, {.path_scale = {1, 0, 1}}, ids, 40, pool, true);
  for (const TokenTrace& token : traced.tokens)
    for (const LayerTrace& layer : token.layers) {
      EXPECT_EQ(layer.size[1], 0);
      EXPECT_EQ(layer.gate[1], 0);
      EXPECT_TRUE(layer.landmarks.empty());
    }
}

TEST(Xray, EntropyIsThatOfTheSoftmax) {
  EXPECT_NEAR(Entropy(std::vector<float>(16, 3.0F)), std::log(16.0), 1e-6);
  EXPECT_NEAR(Entropy(std::vector<float>{100, 0, 0}), 0, 1e-6);
  const float infinite = -std::numeric_limits<float>::infinity();
  EXPECT_NEAR(Entropy(std::vector<float>{0, 0, infinite}), std::log(2.0), 1e-6);
}

TEST(Xray, TellsOfEveryTokenThatWasRead) {
  ModelConfig config = HydraNano();
  config.vocab_size = 256;
  const Model model = BuildModel(RandomSource(config, 89));
  const Tokenizer tokenizer = testing::ByteTokenizer();
  ThreadPool pool(2);
  ForwardScratch scratch;
  const Generator generator{model, tokenizer, pool, scratch};
  const auto prompt = RandomIds(30, 256, 90);
  SamplerOptions greedy;
  greedy.temperature = 0;
  const auto write = [&](GenerateOptions options) {
    SequenceState state(model);
    Sampler sampler(greedy);
    options.max_tokens = 8;
    return generator.Generate(state, sampler, prompt, options, {}).ids;
  };
  std::vector<XrayToken> all, few;
  const auto plain = write({});
  EXPECT_EQ(write({.on_xray = [&](const XrayToken& token) { few.push_back(token); }}), plain);
  EXPECT_EQ(write({.on_xray = [&](const XrayToken& token) { all.push_back(token); }, .prompt_entropy = true}), plain);
  ASSERT_EQ(all.size(), 37U);  // the last token that is picked is not read
  ASSERT_EQ(few.size(), 37U);
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].generated, i >= 30);
    EXPECT_EQ(all[i].trace.id, i < 30 ? prompt[i] : plain[i - 30]);
    EXPECT_TRUE(std::isfinite(all[i].entropy));
    EXPECT_EQ(std::isfinite(few[i].entropy), i >= 29) << i;
    EXPECT_GT(all[i].bytes, 0);
    EXPECT_GT(all[i].seconds, 0);
  }
  const Json json = XrayJson(all[20]);
  EXPECT_EQ(json["position"], 20);
  EXPECT_EQ(json["layers"].size(), 6U);
  EXPECT_TRUE(XrayJson(few[3])["entropy"].is_null());
  EXPECT_EQ(write({}), plain);  // nothing is left behind
}

}  // namespace
}  // namespace hydra
