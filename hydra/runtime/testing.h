// SPDX-License-Identifier: Apache-2.0
// What the tests of the runtime share: models in memory (random, or the float64 goldens as float32), comparisons.
// Not for use outside tests.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/io/safetensors.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/runtime/weights.h"

namespace hydra::testing {

// specs/hydra.md 13, relative to max(1, largest wanted).
inline constexpr double kTolF32 = 1e-4;

// A source whose tensors are f32 in memory, or of `matrix_type` for matrices whose rows are whole blocks of it.
template <class Fill>
WeightSource MakeSource(const ModelConfig& config, WeightType matrix_type, Fill&& fill) {
  WeightSource source;
  source.config = config;
  source.path = "memory";
  source.mapped = false;
  auto tensors = std::make_shared<std::map<std::string, std::pair<WeightType, std::vector<std::byte>>>>();
  const TensorTable table(config);
  for (const TensorSpec& spec : table.specs()) {
    const std::vector<float> values = fill(spec);
    const int64_t cols = spec.shape.back(), rows = spec.size() / cols;
    const WeightType type = spec.matmul && cols % Info(matrix_type).block == 0 ? matrix_type : WeightType::kF32;
    auto& [stored_type, bytes] = (*tensors)[spec.name];
    stored_type = type;
    bytes.resize(static_cast<size_t>(rows * RowBytes(type, cols)));
    for (int64_t i = 0; i < rows; ++i)
      EncodeRow(type, values.data() + i * cols, cols, bytes.data() + i * RowBytes(type, cols));
  }
  source.keep = tensors;
  source.tensor = [tensors](const TensorSpec& spec) {
    const auto& [type, bytes] = tensors->at(spec.name);
    return StoredTensor{type, bytes.data(), static_cast<int64_t>(bytes.size())};
  };
  return source;
}

// Weights of unit gain instead of the small initial ones, no zeros and no ones: each tensor matters.
inline WeightSource RandomSource(const ModelConfig& config, uint64_t seed, WeightType matrix_type = WeightType::kF32) {
  Rng rng(seed);
  return MakeSource(config, matrix_type, [&](const TensorSpec& spec) {
    std::vector<float> values(static_cast<size_t>(spec.size()));
    const double gain = 1 / std::sqrt(static_cast<double>(std::max<int64_t>(spec.shape.back(), 2)));
    for (size_t i = 0; i < values.size(); ++i) {
      const double noise = rng.Normal();
      double value = 0;
      switch (spec.init) {
        case Init::kNormal:
        case Init::kUniform: value = noise * gain; break;
        case Init::kPathGates: value = config.path_gates_init[i] + 0.1 * noise; break;
        case Init::kConstant: value = spec.init_arg + 0.3 * noise; break;
        case Init::kALog: value = std::log(1 + 15 * rng.Uniform()); break;
        case Init::kDtBias: value = -4 + 2 * rng.Uniform(); break;
        case Init::kLambdaLog: value = -3 + 2 * rng.Uniform(); break;
        case Init::kWsController: value = i == 0 ? spec.init_arg : 0.1 * noise; break;
      }
      values[i] = static_cast<float>(value);
    }
    return values;
  });
}

// A folder of tests/golden, rounded from float64.
inline WeightSource GoldenSource(const std::string& folder) {
  ModelConfig config = LoadConfig(folder);
  const SafeTensors file = SafeTensors::Open(folder);
  return MakeSource(config, WeightType::kF32, [&](const TensorSpec& spec) {
    const TensorView& view = file.Get(spec.name);
    EXPECT_EQ(view.dtype, DType::kF64);
    std::vector<float> values(static_cast<size_t>(spec.size()));
    for (size_t i = 0; i < values.size(); ++i) {
      double value = 0;
      std::memcpy(&value, view.data + i * sizeof(double), sizeof(double));
      values[i] = static_cast<float>(value);
    }
    return values;
  });
}

inline Model BuildModel(const WeightSource& source,
                        LoadOptions options = {.ctx_size = 512, .kv_dtype = KvDtype::kF32, .act = Activations::kF32}) {
  return Model(ModelWeights::Build(source, options, nullptr));
}

inline std::vector<int32_t> RandomIds(int64_t n, int64_t vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(vocab)));
  return ids;
}

// Logits of every token [n, V], fed in pieces of the given sizes; the last size repeats.
inline std::vector<float> LogitsInPieces(const Model& model, SequenceState& state, std::span<const int32_t> ids,
                                         const std::vector<int64_t>& sizes, ThreadPool& pool) {
  std::vector<float> out;
  ForwardScratch scratch;
  size_t i = 0;
  for (size_t at = 0; at < ids.size(); ++i) {
    const size_t n = std::min(ids.size() - at, static_cast<size_t>(sizes[std::min(i, sizes.size() - 1)]));
    const Segment segment{&state, ids.subspan(at, n), LogitsOf::kAll};
    const auto logits = model.Forward({&segment, 1}, pool, scratch);
    out.insert(out.end(), logits.begin(), logits.end());
    at += n;
  }
  return out;
}

struct Case {
  std::string name;
  ModelConfig config;
};

// The BlockFFN family, narrow and of two layers, with grouped keys or latent attention.
inline ModelConfig SmallBlockFfn(bool latent) {
  ModelConfig c = BlockFfnNano();
  c.vocab_size = 128;
  c.layers.resize(2);
  c.moe.n_experts = 12;
  if (!latent) return c;
  c.d_model = 96;
  for (LayerConfig& layer : c.layers) layer.attention = AttentionKind::kLatent;
  c.attention.n_heads = c.attention.n_kv_heads = 6;
  c.attention.head_dim = 16;
  c.attention.latent = {.q_rank = 64, .kv_rank = 32, .d_nope = 24, .d_rope = 8, .d_value = 16};
  return c;
}

// hydra-nano with so few landmarks that some are evicted; both SSM kinds, groups, controller; the other families;
// experts by token, alone and within Hydra's blocks.
inline std::vector<Case> Cases() {
  std::vector<Case> cases(7);
  for (Case& c : cases) {
    c.config = HydraNano();
    c.config.attention.landmark_budget = 6;
    c.config.vocab_size = 128;
  }
  cases[0].name = "mamba2";
  cases[1].name = "mamba2, two groups, controller";
  cases[1].config.ssm.n_groups = cases[1].config.ssm.norm_groups = 2;
  cases[1].config.gate_controller = true;
  cases[2].name = "diagonal";
  cases[2].config.ssm.kind = SsmKind::kDiagonal;
  cases[3] = {"transformer", TransformerNano()};
  cases[4] = {"mamba2 family", MambaNano()};
  cases[5] = {"qwen2", TransformerNano()};
  cases[5].config.family = Family::kQwen2;
  cases[5].config.attention.n_kv_heads = 2;
  cases[5].config.attention.qkv_bias = true;
  cases[6] = {"qwen3", TransformerNano()};
  cases[6].config.family = Family::kQwen3;
  cases[6].config.attention.n_kv_heads = 3;
  cases[6].config.attention.qk_norm = true;
  for (size_t i = 3; i < cases.size(); ++i) {
    cases[i].config.layers.resize(2);
    cases[i].config.vocab_size = 128;
  }
  cases.push_back({"blockffn, grouped keys", SmallBlockFfn(false)});
  cases.push_back({"blockffn, latent attention", SmallBlockFfn(true)});
  cases.push_back({"hydra with blockffn", cases[0].config});
  cases.back().config.moe.n_experts = 12;
  cases.back().config.moe.d_expert = 32;
  for (LayerConfig& layer : cases.back().config.layers)
    if (layer.ffn == FfnKind::kChunkMoe) layer.ffn = FfnKind::kBlockFfn;
  return cases;
}

inline void ExpectSameBits(std::span<const float> a, std::span<const float> b) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size_bytes()), 0);
}

// Largest difference, relative to max(1, largest wanted).
inline double Difference(std::span<const float> got, std::span<const float> want) {
  EXPECT_EQ(got.size(), want.size());
  if (got.size() != want.size()) return INFINITY;
  double largest = 1, difference = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    largest = std::max(largest, std::abs(static_cast<double>(want[i])));
    difference = std::max(difference, std::abs(static_cast<double>(got[i]) - want[i]));
  }
  return difference / largest;
}

}  // namespace hydra::testing
