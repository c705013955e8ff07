// SPDX-License-Identifier: Apache-2.0
// Builds the tensor table: one function for each part of a block, in the order of specs/hydra.md 9.2.
#include "hydra/model/tensor_table.h"

#include <cmath>

#include "hydra/base/error.h"

namespace hydra {
namespace {

// Suffix of a role's name in each family's files; nullptr where the family has no such tensor.
// Hydra and Llama share the prefix "model.layers.{i}.", Hugging Face's Mamba-2 has "backbone.layers.{i}.". Qwen 2 and 3
// and MiniCPM have Llama's names.
struct RoleName {
  TensorRole role;
  const char* hydra;
  const char* llama;
  const char* mamba2;
};

using R = TensorRole;
constexpr RoleName kNames[] = {
    {R::kEmbedding, "model.embed_tokens.weight", "model.embed_tokens.weight", "backbone.embeddings.weight"},
    {R::kHead, "lm_head.weight", "lm_head.weight", "lm_head.weight"},
    {R::kPkmTable, "model.pkm_table.weight", nullptr, nullptr},
    {R::kFinalNorm, "model.norm.weight", "model.norm.weight", "backbone.norm_f.weight"},
    {R::kBlockNorm, "input_layernorm.weight", "input_layernorm.weight", "norm.weight"},
    {R::kPathGates, "path_gates", nullptr, nullptr},
    {R::kControllerWeight, "gate_controller.weight", nullptr, nullptr},
    {R::kControllerBias, "gate_controller.bias", nullptr, nullptr},
    {R::kSsmInProj, "mamba.in_proj.weight", nullptr, "mixer.in_proj.weight"},
    {R::kSsmConvWeight, "mamba.conv1d.weight", nullptr, "mixer.conv1d.weight"},
    {R::kSsmConvBias, "mamba.conv1d.bias", nullptr, "mixer.conv1d.bias"},
    {R::kSsmALog, "mamba.A_log", nullptr, "mixer.A_log"},
    {R::kSsmD, "mamba.D", nullptr, "mixer.D"},
    {R::kSsmDtBias, "mamba.dt_bias", nullptr, "mixer.dt_bias"},
    {R::kSsmNorm, "mamba.norm.weight", nullptr, "mixer.norm.weight"},
    {R::kSsmOutProj, "mamba.out_proj.weight", nullptr, "mixer.out_proj.weight"},
    {R::kDiagonalParamProj, "mamba.param_proj.weight", nullptr, nullptr},
    {R::kDiagonalLambdaLog, "mamba.lambda_log", nullptr, nullptr},
    {R::kDiagonalSkipProj, "mamba.skip_proj.weight", nullptr, nullptr},
    {R::kAttnQ, "self_attn.q_proj.weight", "self_attn.q_proj.weight", nullptr},
    {R::kAttnK, "self_attn.k_proj.weight", "self_attn.k_proj.weight", nullptr},
    {R::kAttnV, "self_attn.v_proj.weight", "self_attn.v_proj.weight", nullptr},
    {R::kAttnO, "self_attn.o_proj.weight", "self_attn.o_proj.weight", nullptr},
    {R::kAttnQBias, nullptr, "self_attn.q_proj.bias", nullptr},
    {R::kAttnKBias, nullptr, "self_attn.k_proj.bias", nullptr},
    {R::kAttnVBias, nullptr, "self_attn.v_proj.bias", nullptr},
    {R::kAttnQNorm, "self_attn.q_norm.weight", "self_attn.q_norm.weight", nullptr},
    {R::kAttnKNorm, "self_attn.k_norm.weight", "self_attn.k_norm.weight", nullptr},
    {R::kLandmarkScorerWeight, "self_attn.landmark_scorer.weight", nullptr, nullptr},
    {R::kLandmarkScorerBias, "self_attn.landmark_scorer.bias", nullptr, nullptr},
    {R::kLandmarkScale, "self_attn.landmark_scale", nullptr, nullptr},
    {R::kFfnNorm, nullptr, "post_attention_layernorm.weight", nullptr},
    {R::kFfnGate, "mlp.gate_proj.weight", "mlp.gate_proj.weight", nullptr},
    {R::kFfnUp, "mlp.up_proj.weight", "mlp.up_proj.weight", nullptr},
    {R::kFfnDown, "mlp.down_proj.weight", "mlp.down_proj.weight", nullptr},
    {R::kLatentQDown, nullptr, "self_attn.q_a_proj.weight", nullptr},
    {R::kLatentQNorm, nullptr, "self_attn.q_a_layernorm.weight", nullptr},
    {R::kLatentQUp, nullptr, "self_attn.q_b_proj.weight", nullptr},
    {R::kLatentKvDown, nullptr, "self_attn.kv_a_proj_with_mqa.weight", nullptr},
    {R::kLatentKvNorm, nullptr, "self_attn.kv_a_layernorm.weight", nullptr},
    {R::kLatentKvUp, nullptr, "self_attn.kv_b_proj.weight", nullptr},
    {R::kBlockRouter, "mlp.router_proj.weight", "mlp.router_proj.weight", nullptr},
    {R::kBlockRouterScale, "mlp.router_norm.weight", "mlp.router_norm.weight", nullptr},
    {R::kBlockUp, "mlp.up_proj", "mlp.up_proj", nullptr},
    {R::kBlockDown, "mlp.down_proj", "mlp.down_proj", nullptr},
    {R::kRouterPrev, "moe.router.prev_proj.weight", nullptr, nullptr},
    {R::kRouterFirst, "moe.router.first_proj.weight", nullptr, nullptr},
    {R::kRouterInitSummary, "moe.router.init_summary", nullptr, nullptr},
    {R::kRouterBalanceBias, "moe.router.balance_bias", nullptr, nullptr},
    {R::kExpertGateUp, "moe.experts.gate_up_proj", nullptr, nullptr},
    {R::kExpertDown, "moe.experts.down_proj", nullptr, nullptr},
    {R::kWsNorm, "workspace.norm.weight", nullptr, nullptr},
    {R::kWsMemoryNorm, "workspace.memory_norm.weight", nullptr, nullptr},
    {R::kWsReadQ, "workspace.read_q.weight", nullptr, nullptr},
    {R::kWsWriteK, "workspace.write_k.weight", nullptr, nullptr},
    {R::kWsWriteV, "workspace.write_v.weight", nullptr, nullptr},
    {R::kWsReadK, "workspace.read_k.weight", nullptr, nullptr},
    {R::kWsReadV, "workspace.read_v.weight", nullptr, nullptr},
    {R::kWsOut, "workspace.o_proj.weight", nullptr, nullptr},
    {R::kWsSlotQueries, "workspace.slot_queries", nullptr, nullptr},
    {R::kWsInitState, "workspace.init_state", nullptr, nullptr},
    {R::kWsWriteGateWeight, "workspace.write_gate.weight", nullptr, nullptr},
    {R::kWsWriteGateBias, "workspace.write_gate.bias", nullptr, nullptr},
    {R::kWsControllerWeight, "workspace.controller.weight", nullptr, nullptr},
    {R::kWsControllerBias, "workspace.controller.bias", nullptr, nullptr},
    {R::kPkmNorm, "pkm.norm.weight", nullptr, nullptr},
    {R::kPkmQueryProj, "pkm.query_proj.weight", nullptr, nullptr},
    {R::kPkmQueryNorm, "pkm.query_norm.weight", nullptr, nullptr},
    {R::kPkmSubKeys, "pkm.sub_keys", nullptr, nullptr},
    {R::kPkmValueProj, "pkm.value_proj.weight", nullptr, nullptr},
    {R::kPkmGateWeight, "pkm.gate.weight", nullptr, nullptr},
    {R::kPkmGateBias, "pkm.gate.bias", nullptr, nullptr},
};

std::string TensorName(Family family, TensorRole role, int layer) {
  for (const RoleName& row : kNames) {
    if (row.role != role) continue;
    const char* suffix = family == Family::kHydra ? row.hydra : family == Family::kMamba2 ? row.mamba2 : row.llama;
    HYDRA_CHECK(suffix != nullptr, "the ", FamilyName(family), " family has no tensor of role ",
                static_cast<int>(role));
    const char* root = family == Family::kMamba2 ? "backbone.layers." : "model.layers.";
    return layer < 0 ? suffix : StrCat(root, layer, ".", suffix);
  }
  throw std::logic_error("tensor role without a name");
}

enum class Store { kMatmul, kF32 };  // dtype M or F of the specification

struct Options {
  Store store = Store::kF32;
  bool weight_decay = false;
  bool parameter = true;
};
constexpr Options kMatrix{.store = Store::kMatmul, .weight_decay = true};

// Collects the rows of one model.
class Builder {
 public:
  Builder(const ModelConfig& config, std::vector<TensorSpec>* specs) : c_(config), specs_(specs) {}

  void Model();
  void Block(int layer);

 private:
  void Add(Component component, TensorRole role, std::vector<int64_t> shape, Init init, double arg, Options options) {
    specs_->push_back({role, layer_, TensorName(c_.family, role, layer_), std::move(shape),
                       options.store == Store::kMatmul ? c_.dtype : DType::kF32, options.weight_decay,
                       options.parameter, component, init, arg, options.store == Store::kMatmul});
  }
  // Deviation of a map of so many inputs: as its root falls, so that outputs have one size at every width, and
  // initializer_range at the reference size's width. With muP it falls as the root of the model's width alone.
  [[nodiscard]] double Range(int64_t in) const {
    constexpr double kReferenceWidth = 1536;
    return c_.IsMup() ? c_.initializer_range / std::sqrt(static_cast<double>(c_.d_model) / c_.dim_model_base)
                      : c_.initializer_range * std::sqrt(kReferenceWidth / static_cast<double>(in));
  }
  void Linear(Component k, TensorRole role, int64_t out, int64_t in) {
    Add(k, role, {out, in}, Init::kNormal, Range(in), kMatrix);
  }
  // A map whose output is added to the residual: by sqrt(2 L) less; with muP the sum itself is scaled.
  void ResidualLinear(Component k, TensorRole role, std::vector<int64_t> shape) {
    const double scale = c_.IsMup() ? 1 : std::sqrt(2.0 * static_cast<double>(c_.n_layers()));
    const double range = Range(shape.back()) / scale;
    Add(k, role, std::move(shape), Init::kNormal, range, kMatrix);
  }
  void Norm(Component k, TensorRole role, std::vector<int64_t> shape) {
    Add(k, role, std::move(shape), Init::kConstant, 1, {});
  }

  void Ssm();
  void Diagonal();
  void Attention(const LayerConfig& layer);
  void Latent();
  void Dense();
  void BlockFfn();
  void Moe();
  void Workspace();
  void PkmSite();

  const ModelConfig& c_;
  std::vector<TensorSpec>* specs_;
  int layer_ = -1;
};

void Builder::Model() {
  const int64_t D = c_.d_model;
  const auto vocabulary = [&](TensorRole role) {
    Add(Component::kEmbedding, role, {c_.vocab_size, D}, Init::kNormal, c_.IsMup() ? c_.initializer_range : Range(D),
        kMatrix);
  };
  vocabulary(R::kEmbedding);
  if (!c_.tie_embeddings) vocabulary(R::kHead);
  if (c_.HasPkm())
    Add(Component::kPkmTable, R::kPkmTable, {c_.pkm.n_keys * c_.pkm.n_keys, c_.pkm.d_value}, Init::kNormal, 0.01,
        {.store = Store::kMatmul});
  Norm(Component::kFinalNorm, R::kFinalNorm, {D});
}

void Builder::Block(int layer) {
  layer_ = layer;
  const LayerConfig& l = c_.layers[static_cast<size_t>(layer)];
  const int64_t D = c_.d_model;
  Norm(Component::kBlockNorms, R::kBlockNorm, {D});
  if (c_.wiring == Wiring::kParallel) {
    Add(Component::kBlockNorms, R::kPathGates, {3}, Init::kPathGates, 0, {});
    if (c_.gate_controller) {
      Add(Component::kBlockNorms, R::kControllerWeight, {3, D}, Init::kConstant, 0, {});
      Add(Component::kBlockNorms, R::kControllerBias, {3}, Init::kConstant, 0, {});
    }
  }
  if (l.ssm) c_.ssm.kind == SsmKind::kMamba2 ? Ssm() : Diagonal();
  if (l.attention == AttentionKind::kLatent) {
    Latent();
  } else if (l.attention != AttentionKind::kNone) {
    Attention(l);
  }
  if (l.ffn == FfnKind::kDense) Dense();
  if (l.ffn == FfnKind::kBlockFfn) BlockFfn();
  if (l.ffn == FfnKind::kChunkMoe) Moe();
  if (l.workspace) Workspace();
  if (l.pkm) PkmSite();
}

void Builder::Ssm() {
  const SsmConfig& s = c_.ssm;
  const int64_t H = s.n_heads, K = s.d_conv;
  const double conv_bound = 1.0 / std::sqrt(static_cast<double>(K));
  const auto k = Component::kSsm;
  Linear(k, R::kSsmInProj, s.in_proj_dim(), c_.d_model);
  Add(k, R::kSsmConvWeight, {s.conv_dim(), 1, K}, Init::kUniform, conv_bound, {});
  if (s.conv_bias) Add(k, R::kSsmConvBias, {s.conv_dim()}, Init::kUniform, conv_bound, {});
  Add(k, R::kSsmALog, {H}, Init::kALog, 0, {});
  Add(k, R::kSsmD, {H}, Init::kConstant, 1, {});
  Add(k, R::kSsmDtBias, {H}, Init::kDtBias, 0, {});
  Norm(k, R::kSsmNorm, {s.d_inner()});
  ResidualLinear(k, R::kSsmOutProj, {c_.d_model, s.d_inner()});
}

void Builder::Diagonal() {
  const auto k = Component::kSsm;
  Linear(k, R::kDiagonalParamProj, 4 * c_.d_model, c_.d_model);
  Add(k, R::kDiagonalLambdaLog, {c_.d_model}, Init::kLambdaLog, 0, {});
  Linear(k, R::kDiagonalSkipProj, c_.d_model, c_.d_model);
}

void Builder::Attention(const LayerConfig& layer) {
  const AttentionConfig& a = c_.attention;
  const int64_t D = c_.d_model;
  const auto k = Component::kAttention;
  Linear(k, R::kAttnQ, a.n_heads * a.head_dim, D);
  Linear(k, R::kAttnK, a.n_kv_heads * a.head_dim, D);
  Linear(k, R::kAttnV, a.n_kv_heads * a.head_dim, D);
  ResidualLinear(k, R::kAttnO, {D, a.n_heads * a.head_dim});
  if (a.qkv_bias) {
    Add(k, R::kAttnQBias, {a.n_heads * a.head_dim}, Init::kConstant, 0, {});
    Add(k, R::kAttnKBias, {a.n_kv_heads * a.head_dim}, Init::kConstant, 0, {});
    Add(k, R::kAttnVBias, {a.n_kv_heads * a.head_dim}, Init::kConstant, 0, {});
  }
  if (a.qk_norm) {
    Norm(k, R::kAttnQNorm, {a.head_dim});
    Norm(k, R::kAttnKNorm, {a.head_dim});
  }
  if (layer.attention == AttentionKind::kSparse && c_.HasLandmarks()) {
    Add(k, R::kLandmarkScorerWeight, {1, D}, Init::kNormal, Range(D), {});
    Add(k, R::kLandmarkScorerBias, {1}, Init::kConstant, 0, {});
    Add(k, R::kLandmarkScale, {a.n_heads}, Init::kConstant, std::log(std::expm1(1.0)), {});  // softplus of it is 1
  }
}

void Builder::Latent() {
  const LatentConfig& l = c_.attention.latent;
  const int64_t D = c_.d_model, H = c_.attention.n_heads;
  const auto k = Component::kAttention;
  Linear(k, R::kLatentQDown, l.q_rank, D);
  Norm(k, R::kLatentQNorm, {l.q_rank});
  Linear(k, R::kLatentQUp, H * l.d_key(), l.q_rank);
  Linear(k, R::kLatentKvDown, l.cache_width(), D);
  Norm(k, R::kLatentKvNorm, {l.kv_rank});
  Linear(k, R::kLatentKvUp, H * (l.d_nope + l.d_value), l.kv_rank);
  ResidualLinear(k, R::kAttnO, {D, H * l.d_value});
}

void Builder::BlockFfn() {
  const int64_t D = c_.d_model, E = c_.moe.n_experts, width = E * c_.moe.d_expert;
  const auto k = Component::kBlockFfn;
  if (c_.wiring == Wiring::kSequential) Norm(Component::kBlockNorms, R::kFfnNorm, {D});
  Add(k, R::kBlockRouter, {E, D}, Init::kNormal, Range(D), {.weight_decay = true});
  Norm(k, R::kBlockRouterScale, {E});
  Linear(k, R::kBlockUp, width, D);
  ResidualLinear(k, R::kBlockDown, {D, width});
}

void Builder::Dense() {
  const auto k = Component::kDense;
  if (c_.wiring == Wiring::kSequential) Norm(Component::kBlockNorms, R::kFfnNorm, {c_.d_model});
  Linear(k, R::kFfnGate, c_.d_ff, c_.d_model);
  Linear(k, R::kFfnUp, c_.d_ff, c_.d_model);
  ResidualLinear(k, R::kFfnDown, {c_.d_model, c_.d_ff});
}

void Builder::Moe() {
  const int64_t D = c_.d_model, E = c_.moe.n_experts, F = c_.moe.d_expert;
  const auto k = Component::kMoe;
  const Options router{.weight_decay = true};
  Add(k, R::kRouterPrev, {E, D}, Init::kNormal, Range(D), router);
  Add(k, R::kRouterFirst, {E, D}, Init::kNormal, Range(D), router);
  Add(k, R::kRouterInitSummary, {D}, Init::kConstant, 0, {});
  Add(k, R::kRouterBalanceBias, {E}, Init::kConstant, 0, {.parameter = false});
  Add(k, R::kExpertGateUp, {E, 2 * F, D}, Init::kNormal, Range(D), kMatrix);
  ResidualLinear(k, R::kExpertDown, {E, D, F});
}

void Builder::Workspace() {
  const int64_t D = c_.d_model, S = c_.workspace.n_slots, r = c_.workspace.rank;
  const double unit = 1.0 / std::sqrt(static_cast<double>(r));
  const auto k = Component::kWorkspace;
  Norm(k, R::kWsNorm, {D});
  Norm(k, R::kWsMemoryNorm, {r});
  Linear(k, R::kWsReadQ, r, D);
  Linear(k, R::kWsWriteK, r, D);
  Linear(k, R::kWsWriteV, r, D);
  Linear(k, R::kWsReadK, r, r);
  Linear(k, R::kWsReadV, r, r);
  ResidualLinear(k, R::kWsOut, {D, r});
  Add(k, R::kWsSlotQueries, {S, r}, Init::kNormal, unit, {});
  Add(k, R::kWsInitState, {S, r}, Init::kNormal, unit, {});
  Add(k, R::kWsWriteGateWeight, {1, r}, Init::kNormal, Range(r), {});
  Add(k, R::kWsWriteGateBias, {S}, Init::kConstant, 0, {});
  Add(k, R::kWsControllerWeight, {2, D}, Init::kNormal, Range(D), {});
  Add(k, R::kWsControllerBias, {2}, Init::kWsController, c_.workspace.gate_bias, {});
}

void Builder::PkmSite() {
  const PkmConfig& p = c_.pkm;
  const int64_t D = c_.d_model;
  const auto k = Component::kPkmSite;
  Norm(k, R::kPkmNorm, {D});
  Linear(k, R::kPkmQueryProj, 2 * p.n_heads * p.d_key, D);
  Norm(k, R::kPkmQueryNorm, {p.n_heads, 2, p.d_key});
  Add(k, R::kPkmSubKeys, {p.n_heads, 2, p.n_keys, p.d_key}, Init::kNormal,
      1.0 / std::sqrt(static_cast<double>(p.d_key)), {.store = Store::kMatmul});
  ResidualLinear(k, R::kPkmValueProj, {D, p.d_value});
  Add(k, R::kPkmGateWeight, {1, D}, Init::kNormal, Range(D), {});
  Add(k, R::kPkmGateBias, {1}, Init::kConstant, p.gate_bias, {});
}

int64_t RoleKey(TensorRole role, int layer) { return static_cast<int64_t>(role) * 1'000'000 + layer + 1; }

}  // namespace

const char* ComponentName(Component component) {
  switch (component) {
    case Component::kEmbedding: return "embedding";
    case Component::kSsm: return "ssm";
    case Component::kBlockNorms: return "block norms + gates";
    case Component::kAttention: return "attention";
    case Component::kMoe: return "moe";
    case Component::kDense: return "ffn";
    case Component::kBlockFfn: return "blockffn";
    case Component::kWorkspace: return "workspace";
    case Component::kPkmSite: return "pkm sites";
    case Component::kPkmTable: return "pkm table";
    case Component::kFinalNorm: return "final norm";
  }
  return "?";
}

std::vector<OtherForm> OtherForms(const ModelConfig& config, const TensorSpec& spec) {
  const bool up = spec.role == R::kBlockUp, down = spec.role == R::kBlockDown;
  if (config.family != Family::kMiniCpm || (!up && !down)) return {};
  const int64_t D = config.d_model, E = config.moe.n_experts, de = config.moe.d_expert;
  const std::string root = StrCat("model.layers.", spec.layer, ".mlp.");
  if (up)
    return {{spec.name, {E, de, D}, StoredOrder::kTable},
            {root + "experts.up_proj.weight", {E, de, D}, StoredOrder::kTable},
            {root + "mlp.up_proj", {E * de, D}, StoredOrder::kTable}};
  return {{spec.name, {E, D, de}, StoredOrder::kExpertsFirst},
          {root + "experts.down_proj.weight", {E, D, de}, StoredOrder::kExpertsFirst},
          {root + "mlp.down_proj", {E * de, D}, StoredOrder::kTransposed}};
}

TensorTable::TensorTable(const ModelConfig& config) {
  Builder builder(config, &specs_);
  builder.Model();
  for (int i = 0; i < config.n_layers(); ++i) builder.Block(i);
  for (size_t i = 0; i < specs_.size(); ++i) {
    by_name_[specs_[i].name] = i;
    by_role_[RoleKey(specs_[i].role, specs_[i].layer)] = i;
  }
}

void TensorTable::ForEach(const ModelConfig& config, const std::function<void(const TensorSpec&)>& found) {
  std::vector<TensorSpec> specs;
  Builder builder(config, &specs);
  const auto pass_on = [&] {
    for (const TensorSpec& spec : specs) found(spec);
    specs.clear();
  };
  builder.Model();
  pass_on();
  for (int i = 0; i < config.n_layers(); ++i) {
    builder.Block(i);
    pass_on();
  }
}

const TensorSpec* TensorTable::Find(TensorRole role, int layer) const {
  const auto it = by_role_.find(RoleKey(role, layer));
  return it == by_role_.end() ? nullptr : &specs_[it->second];
}

const TensorSpec* TensorTable::FindName(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? nullptr : &specs_[it->second];
}

}  // namespace hydra
