// SPDX-License-Identifier: Apache-2.0
// The presets of specs/hydra.md 8: Hydra in three sizes and its matched transformer and Mamba-2 controls.
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/model/accounting.h"
#include "hydra/model/config.h"

namespace hydra {
namespace {

void SetSites(ModelConfig* config, const std::vector<int>& workspace, const std::vector<int>& pkm) {
  for (LayerConfig& layer : config->layers) layer.workspace = layer.pkm = false;
  for (const int i : workspace) config->layers[static_cast<size_t>(i)].workspace = true;
  for (const int i : pkm) config->layers[static_cast<size_t>(i)].pkm = true;
}

// RoPE + SwiGLU decoder with tied embeddings and no biases.
ModelConfig Transformer(int64_t vocab, int64_t d_model, int64_t n_layers, int64_t n_heads, int64_t d_ff) {
  ModelConfig c;
  c.family = Family::kLlama;
  c.wiring = Wiring::kSequential;
  c.chunk_len = 1;  // no clock
  c.vocab_size = vocab;
  c.d_model = d_model;
  c.layers.assign(static_cast<size_t>(n_layers),
                  {.ssm = false, .attention = AttentionKind::kFull, .ffn = FfnKind::kDense});
  c.attention = {.n_heads = n_heads, .n_kv_heads = n_heads, .head_dim = d_model / n_heads, .qk_norm = false};
  c.attention.landmark_budget = 0;
  c.d_ff = d_ff;
  return c;
}

// Blocks of one Mamba-2 mixer each, expand 2, one group.
ModelConfig Mamba(int64_t vocab, int64_t d_model, int64_t n_layers, int64_t head_dim, int64_t d_state) {
  ModelConfig c;
  c.family = Family::kMamba2;
  c.wiring = Wiring::kSequential;
  c.chunk_len = 1;  // no clock
  c.vocab_size = vocab;
  c.d_model = d_model;
  c.layers.assign(static_cast<size_t>(n_layers), LayerConfig{});
  c.ssm.n_heads = 2 * d_model / head_dim;
  c.ssm.head_dim = head_dim;
  c.ssm.d_state = d_state;
  return c;
}

// BlockFFN's decoder with muP scales and latent attention; kv > 0: grouped heads in its place.
ModelConfig BlockFfn(int64_t D, int64_t E, int64_t expert, int64_t L, int64_t heads, int64_t vocab, int64_t kv = 0) {
  ModelConfig c;
  c.family = Family::kMiniCpm;
  c.wiring = Wiring::kSequential;
  c.chunk_len = 1;  // no clock
  c.vocab_size = vocab;
  c.d_model = D;
  c.layers.assign(
      static_cast<size_t>(L),
      {.ssm = false, .attention = kv > 0 ? AttentionKind::kFull : AttentionKind::kLatent, .ffn = FfnKind::kBlockFfn});
  c.tie_embeddings = false;
  c.initializer_range = 0.1;
  c.max_position_embeddings = 4096;
  c.attention = {.n_heads = heads, .n_kv_heads = kv > 0 ? kv : heads, .head_dim = D / heads, .qk_norm = false};
  c.attention.landmark_budget = 0;
  c.moe.n_experts = E;
  c.moe.d_expert = expert;
  c.scale_emb = 12;
  c.scale_depth = 1.4;
  c.dim_model_base = 256;
  return c;
}

struct NamedPreset {
  const char* name;
  ModelConfig (*make)();
};
constexpr NamedPreset kPresets[] = {
    {"hydra-1.6b", Hydra1600M},
    {"hydra-29m", Hydra29M},
    {"hydra-nano", HydraNano},
    {"transformer-29m", Transformer29M},
    {"transformer-29m-active", Transformer29MActive},
    {"mamba2-29m", Mamba29M},
    {"transformer-nano", TransformerNano},
    {"transformer-nano-active", TransformerNanoActive},
    {"mamba2-nano", MambaNano},
    {"blockffn-small", BlockFfnSmall},
    {"blockffn-medium", BlockFfnMedium},
    {"blockffn-large", BlockFfnLarge},
    {"blockffn-xlarge", BlockFfnXLarge},
    {"blockffn-3b", BlockFfn3B},
    {"blockffn-30m", BlockFfn30M},
    {"blockffn-nano", BlockFfnNano},
};

}  // namespace

ModelConfig Hydra29M() { return ModelConfig{}; }

ModelConfig Hydra1600M() {
  ModelConfig c;
  c.vocab_size = 50304;
  c.d_model = 1536;
  c.layers = ModelConfig::DefaultHydraLayers(24);
  SetSites(&c, {5, 11, 17, 23}, {7, 15});
  c.chunk_len = 64;
  c.ssm.n_heads = 48;
  c.ssm.d_state = 128;
  c.ssm.scan_chunk = 128;
  c.attention.n_heads = c.attention.n_kv_heads = 12;
  c.attention.head_dim = 128;
  c.attention.landmarks_per_chunk = 4;
  c.moe.d_expert = 2048;
  c.workspace.rank = 256;
  c.pkm = {.n_heads = 4, .n_keys = 512, .d_key = 128, .d_value = 768, .top_k = 16};
  return c;
}

ModelConfig HydraNano() {
  ModelConfig c;
  c.vocab_size = 2048;
  c.d_model = 192;
  c.layers = ModelConfig::DefaultHydraLayers(6);
  SetSites(&c, {3}, {4});
  c.chunk_len = 16;
  c.ssm.head_dim = 32;
  c.ssm.d_state = 32;
  c.ssm.scan_chunk = 32;
  c.attention.head_dim = 32;
  c.attention.window = 64;
  c.attention.landmark_budget = 128;
  c.moe.d_expert = 64;
  c.workspace = {.n_slots = 32, .rank = 32, .write_slots = 16};
  c.pkm = {.n_heads = 2, .n_keys = 32, .d_key = 32, .d_value = 64, .top_k = 4};
  return c;
}

ModelConfig Transformer29M() { return Transformer(4096, 512, 8, 8, 1504); }
ModelConfig Transformer29MActive() { return Transformer(4096, 384, 8, 6, 992); }
ModelConfig TransformerNano() { return Transformer(2048, 192, 6, 6, 544); }
ModelConfig TransformerNanoActive() { return Transformer(2048, 192, 6, 6, 320); }
ModelConfig Mamba29M() { return Mamba(4096, 576, 13, 64, 64); }
ModelConfig MambaNano() { return Mamba(2048, 192, 11, 32, 64); }
ModelConfig BlockFfnSmall() { return BlockFfn(768, 48, 64, 16, 6, 122753); }
ModelConfig BlockFfnMedium() { return BlockFfn(1280, 40, 128, 27, 10, 122753); }
ModelConfig BlockFfnLarge() { return BlockFfn(1536, 48, 128, 32, 12, 122753); }
ModelConfig BlockFfnXLarge() { return BlockFfn(1792, 56, 128, 35, 14, 122753); }
ModelConfig BlockFfn3B() { return BlockFfn(2048, 128, 128, 36, 16, 73440, 4); }
ModelConfig BlockFfn30M() { return BlockFfn(512, 32, 64, 8, 8, 8192, 4); }
ModelConfig BlockFfnNano() { return BlockFfn(256, 32, 32, 6, 4, 4096, 2); }

ModelConfig TransformerOfSize(const ModelConfig& model) {
  const int64_t want = CountParams(model).total, head = model.attention.head_dim;
  const auto of = [&](int64_t D, int64_t F) {
    ModelConfig c = Transformer(model.vocab_size, D, model.n_layers(), D / head, F);
    c.tie_embeddings = model.tie_embeddings;
    c.dtype = model.dtype;
    c.max_position_embeddings = model.max_position_embeddings;
    return c;
  };
  constexpr int64_t kStep = 8;  // of F
  constexpr double kUsual = 8.0 / 3;
  ModelConfig best = of(head, kStep);
  double best_ratio = 0;
  for (int64_t D = head; D <= 4 * model.d_model; D += head) {
    const int64_t least = CountParams(of(D, kStep)).total, each = CountParams(of(D, 2 * kStep)).total - least;
    if (least > want) break;
    const int64_t F = kStep * (1 + (want - least + each / 2) / each);
    const double ratio = static_cast<double>(F) / static_cast<double>(D);
    if (best_ratio != 0 && std::abs(std::log(ratio / kUsual)) >= std::abs(std::log(best_ratio / kUsual))) continue;
    best = of(D, F);
    best_ratio = ratio;
  }
  return best;
}

ModelConfig MambaOfSize(const ModelConfig& model) {
  const int64_t want = CountParams(model).total, head = model.ssm.head_dim;
  const auto of = [&](int64_t D, int64_t L) {
    ModelConfig c = Mamba(model.vocab_size, D, L, head, model.ssm.d_state);
    c.tie_embeddings = model.tie_embeddings;
    c.dtype = model.dtype;
    c.max_position_embeddings = model.max_position_embeddings;
    return c;
  };
  const int64_t narrowest = std::max(head, model.d_model / head * head);
  ModelConfig best = of(narrowest, 1);
  const auto miss = [&](const ModelConfig& c) { return std::abs(CountParams(c).total - want); };
  for (int64_t D = narrowest; D <= std::max(narrowest, 3 * model.d_model / 2); D += head) {
    const int64_t least = CountParams(of(D, 1)).total, each = CountParams(of(D, 2)).total - least;
    const ModelConfig one = of(D, std::max<int64_t>(1, 1 + (want - least + each / 2) / each));
    if (miss(one) < miss(best)) best = one;
  }
  return best;
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const NamedPreset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

ModelConfig Preset(const std::string& name) {
  for (const NamedPreset& preset : kPresets)
    if (name == preset.name) return preset.make();
  std::string known;
  for (const std::string& other : PresetNames()) known += " " + other;
  throw Error(ErrorCode::kUsage,
              StrCat("preset ", name, ": unknown", DidYouMean(name, PresetNames()), "; there are:", known));
}

}  // namespace hydra
