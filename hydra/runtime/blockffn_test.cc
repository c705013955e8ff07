// SPDX-License-Identifier: Apache-2.0
// Models with BlockFFN layers: what a pass reads of their slabs and what it counts, planted routing, refusals, slabs as
// files have them, scales of the MiniCPM form, latent caches. Splits, forks, provisional passes and the rest are tested
// over all kinds of models (state_test.cc, provisional_test.cc and their neighbours); logits against the oracle in
// golden_test.cc; the layer in kernels/blockffn_test.cc.
#include <algorithm>
#include <bit>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/base/testing.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/routing_source.h"
#include "hydra/runtime/testing.h"
#include "hydra/runtime/trace.h"
#ifndef HYDRA_SANITIZED
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace hydra::blockffn_test {  // tests share units
namespace {

using testing::BuildModel;
using testing::ExpectSameBits;
using testing::LogitsInPieces;
using testing::RandomIds;
using testing::RandomSource;
using testing::SmallBlockFfn;

std::vector<float> Copy(std::span<const float> x) { return {x.begin(), x.end()}; }

// ---- What is read ----

// Experts of a layer that a token ran.
std::vector<bool> Ran(const LayerTrace& layer, int64_t E) {
  std::vector<bool> ran(static_cast<size_t>(E));
  for (const Weighted& expert : layer.experts) ran[static_cast<size_t>(expert.id)] = true;
  return ran;
}

#ifndef HYDRA_SANITIZED  // sanitizers handle faults themselves
// A step runs again with every whole page of the slabs of inactive experts taken away.
TEST(BlockFfnModel, SlabsOfInactiveExpertsAreNotRead) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBF16, WeightType::kQ8_0}) {
    SCOPED_TRACE(Info(type).name);
    ModelConfig config = SmallBlockFfn(true);
    config.moe.d_expert = 96;  // slabs of several pages
    const Model model = BuildModel(RandomSource(config, 71, type), {.ctx_size = 64});
    ThreadPool pool(2);
    ForwardScratch scratch;
    Trace trace;
    scratch.SetTrace(&trace);
    SequenceState state(model);
    (void)model.Prefill(state, RandomIds(9, config.vocab_size, 1), pool, scratch);
    SequenceState again = state.Fork();
    trace.Clear();
    const std::vector<float> want = Copy(model.Step(state, 5, pool, scratch));
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    std::vector<std::pair<void*, size_t>> gone;
    for (int layer = 0; layer < config.n_layers(); ++layer) {
      const BlockFfnWeights& w = model.weights().blocks[static_cast<size_t>(layer)].block_ffn;
      const std::vector<bool> ran = Ran(trace.tokens()[0].layers[static_cast<size_t>(layer)], config.moe.n_experts);
      for (size_t e = 0; e < ran.size(); ++e) {
        if (ran[e]) continue;
        const auto* begin = w.up[e].data;
        const auto* end = w.down[e].data + kernels::MatrixBytes(w.down[e]);
        ASSERT_EQ(w.up[e].data + kernels::MatrixBytes(w.up[e]), w.down[e].data);  // one region
        ASSERT_EQ(reinterpret_cast<uintptr_t>(begin) % 64, 0U);
        const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
        const uintptr_t last = reinterpret_cast<uintptr_t>(end) / page * page;
        if (last > first) gone.emplace_back(reinterpret_cast<void*>(first), last - first);
      }
    }
    ASSERT_GT(gone.size(), 3U);
    for (const auto& [at, n] : gone) ASSERT_EQ(::mprotect(at, n, PROT_NONE), 0);
    scratch.SetTrace(nullptr);
    ExpectSameBits(model.Step(again, 5, pool, scratch), want);
    for (const auto& [at, n] : gone) ASSERT_EQ(::mprotect(at, n, PROT_READ | PROT_WRITE), 0);
  }
}
#endif

// Bytes of all experts of a layer.
int64_t LayerBytes(const BlockFfnWeights& w) {
  int64_t sum = 0;
  for (const auto* halves : {&w.up, &w.down})
    for (const kernels::Matrix& m : *halves) sum += kernels::MatrixBytes(m);
  return sum;
}

// Weights that a pass over n tokens counts: all with the union of the experts that its tokens run. By the trace, and by
// the formula of the accounting with the share that was read.
TEST(BlockFfnModel, CountsTheUnionOfWhatItsTokensRun) {
  for (const bool latent : {false, true})
    for (const WeightType type : {WeightType::kF32, WeightType::kBF16, WeightType::kQ8_0, WeightType::kQ4_0}) {
      ModelConfig config = SmallBlockFfn(latent);
      // Rows of 4 blocks of 32 are whole cache lines at every SIMD level; panels of shorter rows are rounded up.
      config.moe.d_expert = 128;
      if (latent) {
        config.d_model = config.attention.latent.q_rank = config.attention.latent.kv_rank = 128;
        config.attention.latent.d_value = 64;
      }
      const WeightSource source = RandomSource(config, 73, type);
      const Model model = BuildModel(source, {.ctx_size = 128});
      const TensorTable table(config);
      const TensorBytes bytes = [&](const TensorSpec& spec) { return source.tensor(spec).nbytes; };
      ThreadPool pool(2);
      for (const int64_t n : {1, 2, 7, 32, 90}) {
        SCOPED_TRACE(StrCat(latent ? "latent " : "grouped ", Info(type).name, ", ", n, " tokens"));
        ForwardScratch scratch;
        const MarkovRouting routing(config.n_layers(), config.moe.n_experts, 128, {.a = 0.2, .r = 0.8});
        scratch.SetRouting(&routing);
        Trace trace;
        scratch.SetTrace(&trace);
        SequenceState state(model);
        (void)model.Prefill(state, RandomIds(n, config.vocab_size, 2), pool, scratch);
        const int64_t E = config.moe.n_experts;
        int64_t read = 0, active = 0, expert_bytes = 0;
        for (size_t layer = 0; layer < config.layers.size(); ++layer) {
          std::vector<bool> any(static_cast<size_t>(E));
          for (const TokenTrace& token : trace.tokens()) {
            const std::vector<bool> ran = Ran(token.layers[layer], E);
            for (size_t e = 0; e < ran.size(); ++e) any[e] = any[e] || ran[e];
            active += std::ranges::count(ran, true);
          }
          const int64_t in_layer = std::ranges::count(any, true);
          read += in_layer;
          expert_bytes += LayerBytes(model.weights().blocks[layer].block_ffn) / E * in_layer;
        }
        EXPECT_EQ(scratch.experts().read, read);
        EXPECT_EQ(scratch.experts().active, active);
        EXPECT_EQ(scratch.experts().layers, config.n_layers() * E);
        EXPECT_EQ(scratch.experts().tokens, config.n_layers() * E * n);
        const double share = scratch.experts().ReadShare();
        const int64_t row = source.tensor(*table.Find(TensorRole::kEmbedding)).nbytes / config.vocab_size;
        const int64_t formula = StepWeightBytes(config, table, 1, bytes, share) + (n - 1) * row;
        const double rounding = 0.01;
        EXPECT_NEAR(static_cast<double>(scratch.moved().weights) / static_cast<double>(formula), 1, rounding);
        const int64_t nobody = StepWeightBytes(config, table, 1, bytes, 0) + (n - 1) * row;
        EXPECT_NEAR(static_cast<double>(scratch.moved().weights - expert_bytes) / static_cast<double>(nobody), 1,
                    rounding);
      }
    }
}

TEST(BlockFfnModel, LatentCachesHoldOneVectorAToken) {
  const ModelConfig config = SmallBlockFfn(true);
  const LatentConfig& l = config.attention.latent;
  for (const auto& [kv, of_token] :
       {std::pair{KvDtype::kF32, 4 * l.cache_width()}, {KvDtype::kF16, 2 * l.cache_width()}}) {
    const Model model = BuildModel(RandomSource(config, 74), {.ctx_size = 64, .kv_dtype = kv});
    EXPECT_EQ(KvBytesPerToken(config, kv), config.n_layers() * of_token);
    ThreadPool pool(3);
    ForwardScratch scratch;
    SequenceState state(model);
    (void)model.Prefill(state, RandomIds(10, config.vocab_size, 3), pool, scratch);
    const PassBytes before = scratch.moved();
    (void)model.Step(state, 1, pool, scratch);
    const PassBytes step = scratch.moved() - before;
    EXPECT_EQ(step.kv_read, 11 * config.n_layers() * of_token);  // once, however many heads and threads
    EXPECT_EQ(step.kv_written, config.n_layers() * of_token);
  }
}

// ---- Planted routing ----

TEST(MarkovRouting, HasItsShares) {
  constexpr int64_t kExperts = 48, kPositions = 4000, kLayers = 3;
  const double a = 0.16, r = 0.87;
  const MarkovRouting routing(kLayers, kExperts, kPositions, {.a = a, .r = r});
  for (int layer = 0; layer < kLayers; ++layer) {
    int64_t active = 0, kept = 0, pairs = 0, unions = 0;
    std::vector<uint32_t> bits(2), last(2), all(2);
    for (int64_t p = 0; p < kPositions; ++p) {
      routing.Experts(layer, p, bits);
      if (p % 8 == 0) all = {0, 0};
      for (size_t w = 0; w < 2; ++w) {
        active += std::popcount(bits[w]);
        all[w] |= bits[w];
        if (p > 0) kept += std::popcount(bits[w] & last[w]), pairs += std::popcount(last[w]);
        if (p % 8 == 7) unions += std::popcount(all[w]);
      }
      last = bits;
    }
    // Deviations over 32,000 dependent numbers: some 0.005; the bounds are six of them.
    EXPECT_NEAR(static_cast<double>(active) / (kPositions * kExperts), a, 0.03);
    EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(pairs), r, 0.02);
    const double want = 1 - (1 - a) * std::pow(1 - a * (1 - r) / (1 - a), 7);
    EXPECT_NEAR(static_cast<double>(unions) / (kPositions / 8 * kExperts), want, 0.04);
  }
  const MarkovRouting every(1, 40, 3, {.a = 1});
  std::vector<uint32_t> bits(2);
  every.Experts(0, 2, bits);
  EXPECT_EQ(bits, (std::vector<uint32_t>{0xFFFFFFFF, 0xFF}));
  ExpectError([] { (void)MarkovRouting(1, 4, 4, {.a = 0}); }, ErrorCode::kUsage, {"activity 0"});
  ExpectError([] { (void)MarkovRouting(1, 4, 4, {.a = 0.8, .r = 0.1}); }, ErrorCode::kUsage, {"reuse 0.1", "0.75"});
}

// A provisional pass over planted positions has the bits of steps there, and reads their union.
TEST(BlockFfnModel, PlantedPassesAreThoseOfSteps) {
  const ModelConfig config = SmallBlockFfn(true);
  for (const WeightType type : {WeightType::kF32, WeightType::kQ8_0}) {
    const Model model = BuildModel(RandomSource(config, 75, type), {.ctx_size = 64});
    ThreadPool pool(2);
    ForwardScratch scratch;
    const MarkovRouting routing(config.n_layers(), config.moe.n_experts, 64, {.a = 0.25, .r = 0.7, .seed = 3});
    scratch.SetRouting(&routing);
    const auto ids = RandomIds(20, config.vocab_size, 4);
    SequenceState state(model), steps(model);
    for (SequenceState* one : {&state, &steps}) (void)model.Prefill(*one, std::span(ids).first(12), pool, scratch);
    Provisional kept(state, 8);
    const Segment segment{&state, std::span(ids).last(8), LogitsOf::kAll, &kept};
    const ExpertUse before = scratch.experts();
    const std::vector<float> got = Copy(model.Forward({&segment, 1}, pool, scratch));
    const ExpertUse pass = scratch.experts() - before;
    std::vector<float> want;
    for (const int32_t id : std::span(ids).last(8)) {
      const auto logits = model.Step(steps, id, pool, scratch);
      want.insert(want.end(), logits.begin(), logits.end());
    }
    const ExpertUse alone = scratch.experts() - before - pass;
    ExpectSameBits(got, want);
    EXPECT_EQ(alone.active, pass.active);
    EXPECT_EQ(alone.read, alone.active);  // a step reads what it runs
    EXPECT_LT(pass.read, pass.active);
    EXPECT_GT(pass.ReadShare(), pass.ActiveShare());
  }
}

// ---- Weights ----

TEST(BlockFfnModel, WhatCannotRunIsRefused) {
  ModelConfig config = SmallBlockFfn(false);
  for (const BlockRouting routing : {BlockRouting::kReluPlain, BlockRouting::kTopK}) {
    config.moe.routing = routing;
    ExpectError([&] { (void)BuildModel(RandomSource(config, 1)); }, ErrorCode::kConfig, {"expert_routing", "relu"});
  }
  config = SmallBlockFfn(false);
  config.moe.d_expert = 48;  // blocks of 32 would cross
  ExpectError([&] { (void)BuildModel(RandomSource(config, 1, WeightType::kQ8_0)); }, ErrorCode::kTensor,
              {"model.layers.0.mlp.down_proj", "Q8_0", "48"});
  (void)BuildModel(RandomSource(config, 1, WeightType::kBF16));
}

// Every number of a slab is that of its tensor, whatever the layout.
TEST(BlockFfnModel, SlabsHoldTheTensorsExactly) {
  const ModelConfig config = SmallBlockFfn(false);
  const int64_t E = config.moe.n_experts, F = config.moe.d_expert, D = config.d_model;
  for (const bool pack : {false, true})
    for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16, WeightType::kQ8_0,
                                  WeightType::kQ4_0, WeightType::kQ4_1}) {
      SCOPED_TRACE(StrCat(Info(type).name, pack ? " packed" : ""));
      const WeightSource source = RandomSource(config, 76, type);
      const Model model = BuildModel(source, {.ctx_size = 16, .pack = pack});
      const TensorTable table(config);
      for (const TensorRole role : {TensorRole::kBlockUp, TensorRole::kBlockDown}) {
        const StoredTensor tensor = source.tensor(*table.Find(role, 1));
        const BlockFfnWeights& w = model.weights().blocks[1].block_ffn;
        const bool up = role == TensorRole::kBlockUp;
        const int64_t cols = up ? D : E * F, rows = up ? E * F : D;
        std::vector<float> want(static_cast<size_t>(cols)), got(static_cast<size_t>(up ? D : F));
        for (int64_t r = 0; r < rows; ++r) {
          DecodeRow(tensor.type, tensor.data + r * RowBytes(tensor.type, cols), cols, want.data());
          for (int64_t e = up ? r / F : 0; e < (up ? r / F + 1 : E); ++e) {
            kernels::DecodeMatrixRow((up ? w.up : w.down)[static_cast<size_t>(e)], up ? r % F : r, got.data());
            ExpectSameBits(got, std::span(want).subspan(static_cast<size_t>(up ? 0 : e * F), got.size()));
          }
        }
      }
    }
}

// Embeddings times scale_emb, parts times scale_depth / sqrt(L), the head's input times dim_model_base / D: a model
// whose weights hold these factors instead gives the same logits.
TEST(BlockFfnModel, ScalesAreThoseOfTheMiniCpmForm) {
  for (const bool latent : {false, true}) {
    const ModelConfig scaled = SmallBlockFfn(latent);
    ModelConfig plain = scaled;
    plain.scale_emb = plain.scale_depth = plain.dim_model_base = 0;
    const WeightSource source = RandomSource(scaled, 77);
    const WeightSource folded = testing::MakeSource(plain, WeightType::kF32, [&](const TensorSpec& spec) {
      const TensorTable table(scaled);
      const StoredTensor tensor = source.tensor(*table.FindName(spec.name));
      std::vector<float> values(static_cast<size_t>(spec.size()));
      DecodeRow(tensor.type, tensor.data, spec.size(), values.data());
      const bool out = spec.role == TensorRole::kAttnO || spec.role == TensorRole::kBlockDown;
      const double factor = spec.role == TensorRole::kEmbedding ? scaled.embedding_scale()
                            : spec.role == TensorRole::kHead    ? scaled.head_scale()
                            : out                               ? scaled.residual_scale()
                                                                : 1;
      for (float& v : values) v = static_cast<float>(v * factor);
      return values;
    });
    const Model one = BuildModel(source), two = BuildModel(folded);
    ThreadPool pool(2);
    const auto ids = RandomIds(50, scaled.vocab_size, 5);
    SequenceState a(one), b(two);
    const auto got = LogitsInPieces(one, a, ids, {20, 1}, pool);
    EXPECT_LT(testing::Difference(got, LogitsInPieces(two, b, ids, {20, 1}, pool)), testing::kTolF32);
    ModelConfig other = scaled;
    other.scale_depth *= 2;
    const Model three = BuildModel(RandomSource(other, 77));
    SequenceState c(three);
    EXPECT_GT(testing::Difference(LogitsInPieces(three, c, ids, {20, 1}, pool), got), 1e-2);
  }
}

}  // namespace
}  // namespace hydra::blockffn_test
