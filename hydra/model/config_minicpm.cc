// SPDX-License-Identifier: Apache-2.0
// config.json of the BlockFFN family, model_type minicpm: its keys, and the traps in published files
// (specs/blockffn.md 3). Silent defaults of its class would change the model, so what decides is required.
#include <algorithm>
#include <cmath>

#include "hydra/model/config_hf_keys.h"

namespace hydra {
namespace {

constexpr const char* kRoutings[] = {"relu", "relu_plain", "top_k"};  // of BlockRouting's values

void ReadAttention(HfKeys& k, ModelConfig* c) {
  AttentionConfig& a = c->attention;
  a.qk_norm = false;
  a.landmark_budget = 0;
  k.Need("num_attention_heads", &a.n_heads);
  if (a.n_heads < 1) k.Refuse("num_attention_heads", a.n_heads, "must be at least 1");
  if (c->d_model % a.n_heads != 0)
    k.Refuse("num_attention_heads", a.n_heads, StrCat("must divide hidden_size = ", c->d_model));
  a.head_dim = c->d_model / a.n_heads;
  a.n_kv_heads = a.n_heads;
  std::string type;
  k.Need("attention_type", &type);
  if (type != "mla" && type != "vanilla") k.Refuse("attention_type", type, "must be mla or vanilla");
  const bool latent = type == "mla";
  for (LayerConfig& layer : c->layers) layer.attention = latent ? AttentionKind::kLatent : AttentionKind::kFull;
  if (!latent) {
    k.Need("num_key_value_heads", &a.n_kv_heads);
    if (a.n_kv_heads < 1) k.Refuse("num_key_value_heads", a.n_kv_heads, "must be at least 1");
    k.Ignore({"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"});
    return;
  }
  LatentConfig& m = a.latent;
  k.Need("q_lora_rank", &m.q_rank);
  k.Need("kv_lora_rank", &m.kv_rank);
  k.Need("qk_nope_head_dim", &m.d_nope);
  k.Need("qk_rope_head_dim", &m.d_rope);
  m.d_value = a.head_dim;  // whatever v_head_dim says: the published code uses this; o_proj's shape is checked
  for (const auto& [key, value] : {std::pair("q_lora_rank", m.q_rank),
                                   {"kv_lora_rank", m.kv_rank},
                                   {"qk_nope_head_dim", m.d_nope},
                                   {"qk_rope_head_dim", m.d_rope}})
    if (value < 1 || value > 1 << 16) k.Refuse(key, value, "must be 1 to 65536");
  k.Ignore({"v_head_dim", "num_key_value_heads"});
}

void ReadFfn(HfKeys& k, ModelConfig* c) {
  int64_t n_experts = 0;
  std::string type = "block";  // block and block_linear differ in the shapes of experts only, which the tensors say
  k.Get("ffn_type", &type);
  if (type != "block" && type != "block_linear" && type != "vanilla")
    k.Refuse("ffn_type", type, "must be block, block_linear or vanilla");
  if (type == "vanilla") {
    k.Only("ffn_gated", true);
    k.Ignore({"num_experts"});  // of a template
  } else {
    k.Need("num_experts", &n_experts);
  }
  if (n_experts == 0) {  // dense: of the publication, or our control
    k.Need("intermediate_size", &c->d_ff);
    for (LayerConfig& layer : c->layers) layer.ffn = FfnKind::kDense;
    k.Ignore({"expert_size", "norm_after_router", "norm_scale", "router_act", "ffn_gated", "num_experts_per_tok",
              "expert_routing", "moe_routing_strategy", "num_shared_experts", "moe_top_k", "moe_top_p"});
    return;
  }
  c->moe.n_experts = n_experts;
  k.Need("expert_size", &c->moe.d_expert);
  for (LayerConfig& layer : c->layers) layer.ffn = FfnKind::kBlockFfn;
  // What a template says of other kinds of experts.
  k.Ignore({"moe_routing_strategy", "num_shared_experts", "moe_top_k", "moe_top_p"});
  k.Ignore({"intermediate_size", "ffn_gated"});  // a template's; that there is no gate is checked by the tensors
  std::string norm;
  k.Need("norm_after_router", &norm);
  if (norm != "rms") k.Refuse("norm_after_router", norm, "only \"rms\" is supported");
  k.Only("norm_scale", 1);
  k.Only("router_act", "relu");
  std::string routing = kRoutings[0];
  k.Get("expert_routing", &routing);
  const auto* const at = std::ranges::find(kRoutings, routing, [](const char* name) { return std::string(name); });
  if (at == std::end(kRoutings)) k.Refuse("expert_routing", routing, "must be relu, relu_plain or top_k");
  c->moe.routing = static_cast<BlockRouting>(at - std::begin(kRoutings));
  if (c->moe.routing == BlockRouting::kRelu) {
    k.Get("num_experts_per_tok", &c->moe.top_k);
  } else {
    k.Need("num_experts_per_tok", &c->moe.top_k);
  }
  if (c->moe.routing != BlockRouting::kTopK) return;
  k.Get("router_aux_loss_coef", &c->moe.aux_loss_coef);
  if (!(c->moe.aux_loss_coef >= 0) || !std::isfinite(c->moe.aux_loss_coef))
    k.Refuse("router_aux_loss_coef", c->moe.aux_loss_coef, "must be 0 or more");
}

}  // namespace

ModelConfig ReadMiniCpm(HfKeys& k) {
  ModelConfig c;
  c.family = Family::kMiniCpm;
  c.wiring = Wiring::kSequential;
  c.chunk_len = 1;
  c.initializer_range = 0.1;
  ReadCommon(k, &c);
  if (!k.Has("bos_token_id")) c.bos_token_id = 1;  // of the class; null is none
  if (!k.Has("eos_token_id")) c.eos_token_id = 2;
  c.layers.assign(static_cast<size_t>(ReadLayerCount(k)), {.ssm = false});
  k.Need("tie_word_embeddings", &c.tie_embeddings);
  k.Need("rms_norm_eps", &c.norm_eps);
  k.Need("scale_emb", &c.scale_emb);
  k.Need("scale_depth", &c.scale_depth);
  k.Need("dim_model_base", &c.dim_model_base);
  for (const auto& [key, value] :
       {std::pair("scale_emb", c.scale_emb), {"scale_depth", c.scale_depth}, {"dim_model_base", c.dim_model_base}})
    if (!(value > 0) || !std::isfinite(value)) k.Refuse(key, value, "must be positive");
  c.max_position_embeddings = 4096;
  k.Get("max_position_embeddings", &c.max_position_embeddings);
  k.Get("rope_theta", &c.attention.rope_theta);
  if (const Json* scaling = k.Find("rope_scaling"))
    k.Refuse("rope_scaling", *scaling, "is not supported in this family");
  k.Only("attention_bias", false);
  ReadAttention(k, &c);
  ReadFfn(k, &c);
  k.Ignore({"block_implementation"});  // which of the forms the experts have, which their names say
  return c;
}

Json WriteMiniCpm(const ModelConfig& c) {
  Json j = WriteCommon(c, "MiniCPMForCausalLM");
  const AttentionConfig& a = c.attention;
  const bool latent = c.HasAttention(AttentionKind::kLatent), blocks = c.HasFfn(FfnKind::kBlockFfn);
  j["num_attention_heads"] = a.n_heads;
  j["attention_type"] = latent ? "mla" : "vanilla";
  if (latent) {
    j["q_lora_rank"] = a.latent.q_rank;
    j["kv_lora_rank"] = a.latent.kv_rank;
    j["qk_nope_head_dim"] = a.latent.d_nope;
    j["qk_rope_head_dim"] = a.latent.d_rope;
  } else {
    j["num_key_value_heads"] = a.n_kv_heads;
  }
  j["rope_theta"] = a.rope_theta;
  j["rms_norm_eps"] = c.norm_eps;
  j["max_position_embeddings"] = c.max_position_embeddings;
  j["attention_bias"] = false;
  j["scale_emb"] = c.scale_emb;
  j["scale_depth"] = c.scale_depth;
  j["dim_model_base"] = c.dim_model_base;
  j["num_experts"] = blocks ? c.moe.n_experts : 0;
  j["intermediate_size"] = blocks ? c.moe.n_experts * c.moe.d_expert : c.d_ff;
  if (!blocks) return j;
  j["expert_size"] = c.moe.d_expert;
  j["norm_after_router"] = "rms";
  j["norm_scale"] = 1;
  j["router_act"] = "relu";
  j["expert_routing"] = kRoutings[static_cast<size_t>(c.moe.routing)];
  j["num_experts_per_tok"] = c.moe.top_k;  // of top_k, and the aim of relu_plain
  if (c.moe.routing == BlockRouting::kTopK) j["router_aux_loss_coef"] = c.moe.aux_loss_coef;
  return j;
}

}  // namespace hydra
