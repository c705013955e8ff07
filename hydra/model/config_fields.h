// SPDX-License-Identifier: Apache-2.0
// The one list of the fields of a hydra config.json (specs/hydra.md 9.1): load, save, check, compare and print
// all walk it, so they cannot drift. Not for other families: their few keys are in config_hf.cc.
#pragma once

#include "hydra/model/config.h"

namespace hydra {

// Inclusive bounds of a number.
struct Between {
  double low, high;
};
inline constexpr Between kAnyNumber{-1e300, 1e300};
inline constexpr Between kPositive{1e-300, 1e300};
inline constexpr Between kCount{1, 1 << 24};
inline constexpr Between kCountOrZero{0, 1 << 24};
inline constexpr Between kTokenId{0, 1 << 30};

// The spellings of an enum, in the order of its values.
template <class E>
struct EnumNames;
template <>
struct EnumNames<SsmKind> {
  static constexpr const char* names[] = {"mamba2", "diagonal"};
};
template <>
struct EnumNames<RouterMode> {
  static constexpr const char* names[] = {"learned", "round_robin"};
};
template <>
struct EnumNames<RouterBalance> {
  static constexpr const char* names[] = {"loss", "bias", "none"};
};

// Calls, in the order of the specification's table,
//   v(key, field, bounds)          int64, double, optional<int64>, arrays of double
//   v(key, field)                  bool, enum, DType
//   v.Layers(config)               num_hidden_layers, layer_types, workspace_layers, pkm_layers
//   v.MoeKind(config)              moe_kind, expert_size
//   v.Domains(moe)                 expert_domains: {"law": [0, 1], ..}, absent where there are none
//   v.Fixed(key, json_text)        a key that this version knows with one value only
template <class Visitor, class Config>
void VisitHydraFields(Visitor& v, Config& c) {
  v("vocab_size", c.vocab_size, kCount);
  v("hidden_size", c.d_model, kCount);
  v.Layers(c);
  v("tie_word_embeddings", c.tie_embeddings);
  v("torch_dtype", c.dtype);
  v("rms_norm_eps", c.norm_eps, Between{1e-300, 1});
  v("initializer_range", c.initializer_range, Between{0, 100});
  v("bos_token_id", c.bos_token_id, kTokenId);
  v("eos_token_id", c.eos_token_id, kTokenId);
  v("pad_token_id", c.pad_token_id, kTokenId);
  v("max_position_embeddings", c.max_position_embeddings, Between{1, 1 << 30});
  v("model_chunk_size", c.chunk_len, Between{1, 1 << 16});
  v("path_gates_init", c.path_gates_init, kAnyNumber);
  v("gate_controller", c.gate_controller);
  v("ssm_kind", c.ssm.kind);
  v("mamba_n_heads", c.ssm.n_heads, kCount);
  v("mamba_d_head", c.ssm.head_dim, kCount);
  v("mamba_expand", c.ssm.expand, Between{1, 64});
  v("mamba_n_groups", c.ssm.n_groups, kCount);
  v("mamba_norm_groups", c.ssm.norm_groups, kCount);
  v("mamba_d_state", c.ssm.d_state, kCount);
  v("mamba_d_conv", c.ssm.d_conv, Between{2, 64});
  v("mamba_chunk_size", c.ssm.scan_chunk, Between{1, 1 << 16});
  v("mamba_conv_bias", c.ssm.conv_bias);
  v.Fixed("mamba_proj_bias", "false");
  v("time_step_min", c.ssm.dt_min, kPositive);
  v("time_step_max", c.ssm.dt_max, kPositive);
  v("time_step_floor", c.ssm.dt_floor, kPositive);
  v("time_step_limit", c.ssm.dt_limit, Between{0, SsmConfig::kInfinity});
  v("mamba_A_init_range", c.ssm.A_init, kPositive);
  v("num_attention_heads", c.attention.n_heads, kCount);
  v("num_key_value_heads", c.attention.n_kv_heads, kCount);
  v("head_dim", c.attention.head_dim, Between{2, 1 << 16});
  v("sliding_window", c.attention.window, kCount);
  v("rope_theta", c.attention.rope_theta, kPositive);
  v("qk_norm", c.attention.qk_norm);
  v("landmark_budget", c.attention.landmark_budget, kCountOrZero);
  v("landmarks_per_chunk", c.attention.landmarks_per_chunk, kCountOrZero);
  v("num_experts", c.moe.n_experts, Between{1, 1 << 16});
  v("num_experts_per_tok", c.moe.top_k, kCount);
  v("moe_intermediate_size", c.moe.d_expert, kCount);
  v.MoeKind(c);
  v("router_mode", c.moe.mode);
  v("router_balance", c.moe.balance);
  v("router_temperature", c.moe.temperature, kPositive);
  v("router_aux_loss_coef", c.moe.aux_loss_coef, Between{0, 1e6});
  v("router_z_loss_coef", c.moe.z_loss_coef, Between{0, 1e6});
  v("router_bias_rate", c.moe.bias_rate, Between{0, 1e6});
  v.Domains(c.moe);
  v("workspace_slots", c.workspace.n_slots, kCount);
  v("workspace_rank", c.workspace.rank, kCount);
  v("workspace_write_slots", c.workspace.write_slots, kCount);
  v("workspace_gate_bias", c.workspace.gate_bias, kAnyNumber);
  v("pkm_heads", c.pkm.n_heads, kCount);
  v("pkm_n_keys", c.pkm.n_keys, Between{1, 1 << 15});
  v("pkm_d_key", c.pkm.d_key, kCount);
  v("pkm_d_value", c.pkm.d_value, kCount);
  v("pkm_top_k", c.pkm.top_k, kCount);
  v("pkm_gate_bias", c.pkm.gate_bias, kAnyNumber);
}

}  // namespace hydra
