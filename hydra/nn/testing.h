// SPDX-License-Identifier: Apache-2.0
// What the tests of nn share: small configs of every kind, models whose every tensor matters, comparisons.
// Not for use outside tests.
#pragma once

#include <gtest/gtest.h>
#include "hydra/nn/torch.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "hydra/model/config.h"
#include "hydra/nn/batch.h"
#include "hydra/nn/layout.h"
#include "hydra/nn/model.h"

namespace hydra::nn::testing {

// specs/hydra.md 13, relative to max(1, largest wanted).
inline constexpr double kTolF64 = 1e-9;
inline constexpr double kTolF32 = 1e-4;

struct Case {
  std::string name;
  ModelConfig config;
};

// hydra-nano with so few landmarks that some are evicted after 48 tokens.
inline ModelConfig NanoWithEviction() {
  ModelConfig c = HydraNano();
  c.attention.landmark_budget = 6;
  return c;
}

// The BlockFFN family with latent attention, its layers few and narrow.
inline ModelConfig LatentNano() {
  ModelConfig c = BlockFfnNano();
  c.d_model = 96;
  c.layers.assign(2, BlockFfnSmall().layers[0]);
  c.attention.n_heads = c.attention.n_kv_heads = 4;
  c.attention.head_dim = 24;
  c.attention.latent = {.q_rank = 40, .kv_rank = 32, .d_nope = 16, .d_rope = 8, .d_value = 24};
  c.moe.n_experts = 12;
  return c;
}

// Both ssm_kinds, G = 2 once, controller on and off; experts by token; the other families.
inline std::vector<Case> Cases() {
  std::vector<Case> cases(9);
  for (Case& c : cases) c.config = NanoWithEviction();
  cases[0].name = "mamba2";
  cases[1].name = "mamba2, G = 2, controller";
  cases[1].config.ssm.n_groups = cases[1].config.ssm.norm_groups = 2;
  cases[1].config.gate_controller = true;
  cases[2].name = "diagonal";
  cases[2].config.ssm.kind = SsmKind::kDiagonal;
  cases[3].name = "diagonal, controller";
  cases[3].config.ssm.kind = SsmKind::kDiagonal;
  cases[3].config.gate_controller = true;
  cases[4] = {"transformer", TransformerNano()};
  cases[4].config.layers.resize(2);
  cases[5] = {"mamba2 family", MambaNano()};
  cases[5].config.layers.resize(2);
  cases[6].name = "experts by token";
  cases[6].config = OverrideConfig(cases[6].config, R"({"moe_kind": "blockffn", "expert_size": 32})", "case");
  cases[7] = {"blockffn family", BlockFfnNano()};
  cases[7].config.layers.resize(2);
  cases[8] = {"blockffn family, latent attention", LatentNano()};
  return cases;
}

// A few dozen wide, all parts, for finite differences and long sequences. Every dimension differs from its neighbours.
inline ModelConfig Tiny() {
  ModelConfig c;
  c.vocab_size = 61;
  c.d_model = 24;
  c.dtype = DType::kF64;
  c.chunk_len = 8;
  const auto sparse = AttentionKind::kSparse;
  c.layers = {{.ffn = FfnKind::kChunkMoe},
              {.attention = sparse, .workspace = true},
              {.attention = sparse, .ffn = FfnKind::kChunkMoe, .pkm = true},
              {.workspace = true, .pkm = true}};
  c.ssm.n_heads = 8, c.ssm.head_dim = 6, c.ssm.d_state = 5, c.ssm.scan_chunk = 7;
  c.attention.n_heads = 3, c.attention.n_kv_heads = 3, c.attention.head_dim = 8, c.attention.window = 12;
  c.attention.landmark_budget = 6, c.attention.landmarks_per_chunk = 2, c.attention.rope_theta = 100;
  c.moe.n_experts = 4, c.moe.d_expert = 10;
  c.workspace.n_slots = 5, c.workspace.rank = 6, c.workspace.write_slots = 3;
  c.pkm.n_keys = 7, c.pkm.d_key = 4, c.pkm.d_value = 9, c.pkm.top_k = 3;
  return c;
}

inline torch::Tensor Randn(const std::vector<int64_t>& shape, uint64_t seed, torch::Dtype dtype = torch::kFloat64) {
  auto generator = at::detail::createCPUGenerator(seed);
  return torch::randn(shape, generator, torch::TensorOptions().dtype(torch::kFloat64)).to(dtype);
}

inline torch::Tensor RandomIds(int64_t rows, int64_t tokens, int64_t vocab, uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  return torch::randint(vocab, {rows, tokens}, generator, torch::kInt64);
}

inline std::vector<std::vector<int64_t>> RandomDocuments(const std::vector<int64_t>& lengths, int64_t vocab,
                                                         uint64_t seed) {
  std::vector<std::vector<int64_t>> documents;
  for (size_t d = 0; d < lengths.size(); ++d) {
    const torch::Tensor ids = RandomIds(1, lengths[d], vocab, seed * 1000 + d);
    documents.emplace_back(ids.data_ptr<int64_t>(), ids.data_ptr<int64_t>() + lengths[d]);
  }
  return documents;
}

// Weights of unit gain instead of the small initial ones, no zeros and no ones: each tensor matters.
inline Model RandomModel(const ModelConfig& config, uint64_t seed, torch::Dtype dtype = torch::kFloat64) {
  Model model(config, ModelOptions{.dtype = dtype});
  torch::NoGradGuard no_grad;
  uint64_t n = seed * 10000;
  for (const auto& [spec, tensor] : model.Tensors()) {
    const torch::Tensor noise = Randn(spec->shape, ++n);
    torch::Tensor value;
    switch (spec->init) {
      case Init::kNormal:
      case Init::kUniform:
        value = noise / std::sqrt(static_cast<double>(std::max<int64_t>(spec->shape.back(), 2)));
        break;
      case Init::kPathGates: value = noise * 0.1 + torch::tensor({0.8, 0.2, 0.5}, torch::kFloat64); break;
      case Init::kConstant: value = noise * 0.3 + spec->init_arg; break;
      default: value = tensor.to(torch::kFloat64) + noise * 0.1;
    }
    tensor.copy_(value);
  }
  return model;
}

// Largest difference, relative to max(1, largest wanted).
inline double Difference(const torch::Tensor& got, const torch::Tensor& want) {
  EXPECT_EQ(got.sizes(), want.sizes());
  if (got.sizes() != want.sizes()) return INFINITY;
  if (want.numel() == 0) return 0;
  const torch::Tensor a = got.detach().to(torch::kFloat64), b = want.detach().to(torch::kFloat64);
  const double largest = b.abs().max().item<double>(), difference = (a - b).abs().max().item<double>();
  return std::isfinite(largest) ? difference / std::max(1.0, largest) : INFINITY;
}

inline torch::Tensor LogitsOf(Model& model, const Batch& batch, const ForwardOptions& options = {}) {
  torch::NoGradGuard no_grad;
  return model.Logits(model.Forward(batch, options).hidden);
}

// One thread for the life of the object: sums keep their order.
class OneThread {
 public:
  OneThread() : before_(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

}  // namespace hydra::nn::testing
