// SPDX-License-Identifier: Apache-2.0
// What a model is: plain structs with defaults, one for every family (Hydra, Llama, Mamba-2, Qwen 2 and
// 3, MiniCPM as BlockFFN has it).
// Not here: tensors (tensor_table.h), costs (accounting.h), the list of JSON keys (config_fields.h).
// Names are the glossary's; the keys of config.json are those of specs/hydra.md 9.1 and Hugging Face.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/tensor/dtype.h"

namespace hydra {

enum class Family { kHydra, kLlama, kMamba2, kQwen2, kQwen3, kMiniCpm };  // model_type in config.json
enum class Wiring { kParallel, kSequential };                             // y = x + sum of paths; x += mixer, x += ffn
enum class SsmKind { kMamba2, kDiagonal };
// Sparse: window, and landmarks when the budget is > 0. Latent: keys and values made of one small vector a token (MLA).
enum class AttentionKind { kNone, kFull, kSparse, kLatent };
enum class FfnKind { kNone, kDense, kChunkMoe, kBlockFfn };
// How a BlockFFN layer weighs its experts: ReLU and a norm; ReLU alone; softmax over all, the best k kept. The last two
// are baselines that are trained and evaluated only.
enum class BlockRouting { kRelu, kReluPlain, kTopK };
enum class RouterMode { kLearned, kRoundRobin };
enum class RouterBalance { kLoss, kBias, kNone };

// The paths and memories of one block.
struct LayerConfig {
  bool ssm = true;
  AttentionKind attention = AttentionKind::kNone;
  FfnKind ffn = FfnKind::kNone;
  bool workspace = false;  // read and written after the block
  bool pkm = false;        // read after the block
  bool operator==(const LayerConfig&) const = default;
};

struct SsmConfig {
  SsmKind kind = SsmKind::kMamba2;
  int64_t n_heads = 12;     // H
  int64_t head_dim = 64;    // P
  int64_t expand = 2;       // d_inner = expand * d_model = H P
  int64_t n_groups = 1;     // G
  int64_t norm_groups = 1;  // Gn, groups of the gated norm
  int64_t d_state = 64;     // N
  int64_t d_conv = 4;       // K
  int64_t scan_chunk = 64;  // Q, changes speed only
  bool conv_bias = true;
  double dt_min = 1e-3, dt_max = 0.1, dt_floor = 1e-4;  // initial dt
  std::array<double, 2> dt_limit{0.0, kInfinity};       // clamp after softplus
  std::array<double, 2> A_init{1.0, 16.0};
  static constexpr double kInfinity = __builtin_huge_val();
  [[nodiscard]] int64_t d_inner() const { return n_heads * head_dim; }
  [[nodiscard]] int64_t conv_dim() const { return d_inner() + 2 * n_groups * d_state; }
  [[nodiscard]] int64_t in_proj_dim() const { return d_inner() + conv_dim() + n_heads; }
  bool operator==(const SsmConfig&) const = default;
};

// Slower turns for RoPE's low frequencies, as Llama 3.1 has them. Not for hydra.
struct RopeScaling {
  double factor = 8, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_max_position_embeddings = 8192;
  // [head_dim / 2]. Where not empty, frequencies are divided by these and the rule above is not known: a GGUF file
  // stores divisors only.
  std::vector<double> divisors = {};
  bool operator==(const RopeScaling&) const = default;
};

// Widths of latent attention (specs/blockffn.md 2); rms_norm_eps of its own norms is 1e-6.
struct LatentConfig {
  int64_t q_rank = 768, kv_rank = 256;
  int64_t d_nope = 128, d_rope = 64, d_value = 128;  // of a head: key without and with position, value
  static constexpr double kNormEps = 1e-6;
  [[nodiscard]] int64_t d_key() const { return d_nope + d_rope; }
  [[nodiscard]] int64_t cache_width() const { return kv_rank + d_rope; }  // numbers a layer and token
  bool operator==(const LatentConfig&) const = default;
};

struct AttentionConfig {
  int64_t n_heads = 6;     // A
  int64_t n_kv_heads = 6;  // Akv
  int64_t head_dim = 64;   // Dh
  int64_t window = 256;    // W, sparse attention only
  double rope_theta = 10000.0;
  std::optional<RopeScaling> rope_scaling = std::nullopt;
  bool qk_norm = true;              // hydra, qwen3
  bool qkv_bias = false;            // qwen2
  int64_t landmark_budget = 512;    // Gm; 0 = window only
  int64_t landmarks_per_chunk = 2;  // m
  LatentConfig latent = {};
  bool operator==(const AttentionConfig&) const = default;
};

// The experts that documents of a domain shall use.
struct ExpertDomain {
  std::string name;
  std::vector<int64_t> experts;  // ascending
  bool operator==(const ExpertDomain&) const = default;
};

struct MoeConfig {
  int64_t n_experts = 8;   // E
  int64_t top_k = 2;       // k experts a chunk
  int64_t d_expert = 480;  // F
  RouterMode mode = RouterMode::kLearned;
  RouterBalance balance = RouterBalance::kLoss;
  BlockRouting routing = BlockRouting::kRelu;  // of BlockFFN layers, as are E and F; k of its top-k baseline
  double temperature = 1.0;                    // tau
  double aux_loss_coef = 0.01, z_loss_coef = 1e-3, bias_rate = 1e-3;
  std::vector<ExpertDomain> domains;  // addressable sets; none: routing knows no labels
  double domain_loss_coef = 0.1;
  [[nodiscard]] const ExpertDomain* FindDomain(std::string_view name) const;  // null: none of that name
  bool operator==(const MoeConfig&) const = default;
};

struct WorkspaceConfig {
  int64_t n_slots = 64;      // S
  int64_t rank = 128;        // r
  int64_t write_slots = 32;  // Sw
  double gate_bias = -1.0;   // initial b_beta
  bool operator==(const WorkspaceConfig&) const = default;
};

struct PkmConfig {
  int64_t n_heads = 2;      // Hp
  int64_t n_keys = 64;      // n sub-keys per half
  int64_t d_key = 64;       // dk, one half
  int64_t d_value = 128;    // dv
  int64_t top_k = 4;        // kp
  double gate_bias = -2.0;  // initial b
  bool operator==(const PkmConfig&) const = default;
};

// Defaults are hydra-29m.
struct ModelConfig {
  Family family = Family::kHydra;
  Wiring wiring = Wiring::kParallel;
  int64_t vocab_size = 4096;  // V, padded
  int64_t d_model = 384;      // D
  std::vector<LayerConfig> layers = DefaultHydraLayers(8);
  bool tie_embeddings = true;
  DType dtype = DType::kBF16;  // of matmul weights on disk
  double norm_eps = 1e-5, initializer_range = 0.02;
  std::optional<int64_t> bos_token_id, eos_token_id, pad_token_id;
  std::vector<int64_t> more_eos_token_ids;               // others that end a generation; not for hydra
  int64_t max_position_embeddings = 32768;               // longest length trained
  int64_t chunk_len = 32;                                // C, the clock of routing, landmarks and workspace
  std::array<double, 3> path_gates_init{0.8, 0.2, 0.5};  // ssm, sga, moe
  bool gate_controller = false;
  SsmConfig ssm;
  AttentionConfig attention;
  int64_t d_ff = 0;  // dense SwiGLU width
  // MiniCPM's scales; 0: none. Embeddings times scale_emb, what a block adds times scale_depth / sqrt(L), the input of
  // the head times dim_model_base / D. Initial weights and learning rates follow them (muP).
  double scale_emb = 0, scale_depth = 0, dim_model_base = 0;
  MoeConfig moe;
  WorkspaceConfig workspace;
  PkmConfig pkm;

  [[nodiscard]] double embedding_scale() const { return scale_emb > 0 ? scale_emb : 1; }
  [[nodiscard]] double residual_scale() const;
  [[nodiscard]] double head_scale() const;
  [[nodiscard]] bool IsMup() const { return dim_model_base > 0; }
  [[nodiscard]] int64_t n_layers() const { return static_cast<int64_t>(layers.size()); }
  [[nodiscard]] bool HasSsm() const;
  [[nodiscard]] bool HasAttention(AttentionKind kind) const;
  [[nodiscard]] bool HasFfn(FfnKind kind) const;
  [[nodiscard]] bool HasWorkspace() const;
  [[nodiscard]] bool HasPkm() const;
  [[nodiscard]] bool HasLandmarks() const;                 // sparse attention with a budget
  [[nodiscard]] std::vector<int64_t> EosTokenIds() const;  // eos_token_id and the others

  // sga in every third block, moe in every second; workspace after every fourth; one PKM site in the middle.
  [[nodiscard]] static std::vector<LayerConfig> DefaultHydraLayers(int64_t n);

  // Throws Error(kConfig) "WHERE: key = value: rule" for the first field that breaks a rule.
  void Validate(const std::string& where) const;
  bool operator==(const ModelConfig&) const = default;
};

// Reads config.json (a file, or a folder that holds one); unknown keys of a hydra config are errors.
[[nodiscard]] ModelConfig LoadConfig(const std::string& path, std::vector<std::string>* warnings = nullptr);
// The same from text; `where` names it in messages.
[[nodiscard]] ModelConfig ParseConfig(std::string_view json, const std::string& where,
                                      std::vector<std::string>* warnings = nullptr);
// The text of config.json; ParseConfig of it gives an equal config.
[[nodiscard]] std::string ConfigJson(const ModelConfig& config);
// A copy with some keys of config.json replaced; `json_object` holds them. Unknown keys are errors.
[[nodiscard]] ModelConfig OverrideConfig(const ModelConfig& config, std::string_view json_object,
                                         const std::string& where);
// One "key: a != b" a line for each key of config.json that differs.
[[nodiscard]] std::vector<std::string> CompareConfigs(const ModelConfig& a, const ModelConfig& b);

// Presets, specs/hydra.md 8.
[[nodiscard]] ModelConfig Hydra1600M();
[[nodiscard]] ModelConfig Hydra29M();
[[nodiscard]] ModelConfig HydraNano();
[[nodiscard]] ModelConfig Transformer29M();
[[nodiscard]] ModelConfig Transformer29MActive();
[[nodiscard]] ModelConfig Mamba29M();
[[nodiscard]] ModelConfig TransformerNano();
[[nodiscard]] ModelConfig TransformerNanoActive();
[[nodiscard]] ModelConfig MambaNano();
// BlockFFN in the published sizes and two smaller ones (specs/blockffn.md 2): "blockffn-large" and so on.
[[nodiscard]] ModelConfig BlockFfnSmall();
[[nodiscard]] ModelConfig BlockFfnMedium();
[[nodiscard]] ModelConfig BlockFfnLarge();
[[nodiscard]] ModelConfig BlockFfnXLarge();
[[nodiscard]] ModelConfig BlockFfn3B();
[[nodiscard]] ModelConfig BlockFfn30M();
[[nodiscard]] ModelConfig BlockFfnNano();
// By name ("hydra-29m", "mamba2-nano", ...); an unknown one is an Error that suggests.
[[nodiscard]] ModelConfig Preset(const std::string& name);
[[nodiscard]] std::vector<std::string> PresetNames();

// A transformer and a Mamba-2 of about as many parameters, same vocabulary and ties, in the shapes that such models
// have: as many blocks and D with F near 8/3 D; as deep as D and the size make it.
[[nodiscard]] ModelConfig TransformerOfSize(const ModelConfig& model);
[[nodiscard]] ModelConfig MambaOfSize(const ModelConfig& model);

[[nodiscard]] const char* FamilyName(Family family);  // "hydra", "llama", "mamba2", "qwen2", "qwen3", "minicpm"

}  // namespace hydra
