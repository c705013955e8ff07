// SPDX-License-Identifier: Apache-2.0
// BlockFFN's models: the golden parameter counts of specs/blockffn.md 2, configs of the published family with their
// traps, and Hydra blocks with such layers. Not here: the layer (nn/blockffn_test.cc).
#include <gtest/gtest.h>

#include <cmath>

#include "hydra/base/testing.h"
#include "hydra/io/json.h"
#include "hydra/model/accounting.h"
#include "hydra/model/config.h"
#include "hydra/model/tensor_table.h"

namespace hydra {
namespace {

TEST(BlockFfnConfig, PresetsHaveTheGoldenCounts) {
  struct Golden {
    const char* name;
    int64_t without_embeddings, total;
  };
  for (const Golden& golden : {Golden{"blockffn-small", 119383552, 307932160},
                               {"blockffn-medium", 494721848, 808969528},
                               {"blockffn-large", 817236992, 1194334208},
                               {"blockffn-xlarge", 1187830952, 1627777704},
                               {"blockffn-3b", 2802997760, 3103808000},
                               {"blockffn-30m", 23208704, 31597312},
                               {"blockffn-nano", 4378048, 6475200}}) {
    const ParamCounts counts = CountParams(Preset(golden.name));
    EXPECT_EQ(counts.total, golden.total) << golden.name;
    EXPECT_EQ(counts.total - counts.Of(Component::kEmbedding), golden.without_embeddings) << golden.name;
  }
}

TEST(BlockFfnConfig, MatricesStartAsMuPSays) {
  for (const char* name : {"blockffn-nano", "blockffn-small"}) {
    const ModelConfig config = Preset(name);
    const double matrix = 0.1 / std::sqrt(static_cast<double>(config.d_model) / 256);
    const TensorTable table(config);
    for (const TensorSpec& spec : table.specs()) {
      const bool ends = spec.name.find("embed_tokens") != std::string::npos || spec.name == "lm_head.weight";
      if (spec.shape.size() != 2) continue;
      EXPECT_NEAR(spec.init_arg, ends ? 0.1 : matrix, 1e-12) << name << " " << spec.name;
    }
  }
}

// A published file, as far as its keys are known.
Json Published() {
  return Json::parse(R"({"model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"], "hidden_size": 768,
      "num_hidden_layers": 16, "num_attention_heads": 6, "num_key_value_heads": 6, "vocab_size": 122753,
      "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256,
      "tie_word_embeddings": false, "attention_type": "mla", "q_lora_rank": 768, "kv_lora_rank": 256,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 64, "num_experts": 48, "expert_size": 64,
      "norm_after_router": "rms", "norm_scale": 1, "router_act": "relu", "ffn_gated": true,
      "intermediate_size": 5760, "max_position_embeddings": 4096, "torch_dtype": "bfloat16"})");
}

std::string Refusal(const Json& json) {
  try {
    (void)ParseConfig(json.dump(), "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(BlockFfnConfig, ThePublishedKeysGiveThePreset) {
  std::vector<std::string> warnings;
  const ModelConfig config = ParseConfig(Published().dump(), "config.json", &warnings);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_id, 2);
  EXPECT_FALSE(config.pad_token_id);
  Json without = Published();
  without["bos_token_id"] = without["eos_token_id"] = nullptr;
  EXPECT_EQ(ParseConfig(without.dump(), "config.json"), BlockFfnSmall());
  EXPECT_TRUE(warnings.empty()) << warnings[0];
  EXPECT_NEAR(config.residual_scale(), 1.4 / 4, 1e-12);
  EXPECT_NEAR(config.head_scale(), 256.0 / 768, 1e-12);
  for (const char* name : {"blockffn-small", "blockffn-3b", "blockffn-nano"})
    EXPECT_EQ(ParseConfig(ConfigJson(Preset(name)), name), Preset(name));
}

TEST(BlockFfnConfig, WhatDecidesIsRequired) {
  for (const char* key : {"scale_emb", "scale_depth", "dim_model_base", "tie_word_embeddings", "rms_norm_eps",
                          "norm_after_router", "num_experts", "expert_size", "attention_type", "q_lora_rank",
                          "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"}) {
    Json json = Published();
    json.erase(key);
    EXPECT_NE(Refusal(json).find(StrCat(key, " is missing")), std::string::npos) << key << ": " << Refusal(json);
  }
  const auto refused = [](const char* key, const Json& value) {
    Json json = Published();
    json[key] = value;
    EXPECT_NE(Refusal(json).find(StrCat(key, " = ")), std::string::npos) << key << ": " << Refusal(json);
  };
  refused("norm_after_router", "sum");
  refused("router_act", "silu");
  refused("norm_scale", 2);
  refused("ffn_type", "moe");
  refused("attention_type", "linear");
  refused("expert_size", 40);  // no multiple of 16
  refused("qk_rope_head_dim", 63);
  refused("scale_depth", -1);
  refused("num_attention_heads", 7);
}

TEST(BlockFfnConfig, TheDenseControlHasNoExperts) {
  Json json = Published();
  json["num_experts"] = 0;
  json["intermediate_size"] = 2064;
  const ModelConfig config = ParseConfig(json.dump(), "config.json");
  EXPECT_TRUE(config.HasFfn(FfnKind::kDense));
  EXPECT_EQ(config.d_ff, 2064);
  EXPECT_EQ(ParseConfig(ConfigJson(config), "config.json"), config);
  json["num_experts"] = 48;
  json["ffn_type"] = "vanilla";  // a template's experts say nothing
  EXPECT_EQ(ParseConfig(json.dump(), "config.json"), config);
  json["ffn_gated"] = false;
  EXPECT_NE(Refusal(json).find("ffn_gated = false"), std::string::npos);
  json["ffn_type"] = "block_linear";
  json["ffn_gated"] = true;
  json["expert_routing"] = "top_k";
  EXPECT_NE(Refusal(json).find("num_experts_per_tok is missing"), std::string::npos);
  json["num_experts_per_tok"] = 10;
  EXPECT_EQ(ParseConfig(json.dump(), "config.json").moe.routing, BlockRouting::kTopK);
}

TEST(BlockFfnConfig, HydraBlocksTakeSuchLayers) {
  const auto with = [](const char* keys) { return OverrideConfig(HydraNano(), keys, "x"); };
  const ModelConfig config = with(R"({"moe_kind": "blockffn", "num_experts": 16, "expert_size": 48})");
  EXPECT_FALSE(config.HasFfn(FfnKind::kChunkMoe));
  EXPECT_EQ(std::ranges::count_if(config.layers, [](const LayerConfig& l) { return l.ffn == FfnKind::kBlockFfn; }), 3);
  EXPECT_EQ(config.moe.d_expert, 48);
  EXPECT_EQ(ParseConfig(ConfigJson(config), "x"), config);
  EXPECT_EQ(OverrideConfig(config, R"({"num_experts": 8})", "x").moe.d_expert, 48);  // the kind stays
  EXPECT_TRUE(OverrideConfig(config, R"({"moe_kind": "chunk", "expert_size": null})", "x").HasFfn(FfnKind::kChunkMoe));
  ExpectError([&] { (void)with(R"({"moe_kind": "blockffn"})"); }, ErrorCode::kConfig, {"expert_size", "missing"});
  ExpectError([&] { (void)with(R"({"expert_size": 48})"); }, ErrorCode::kConfig, {"expert_size = 48", "blockffn"});
  ExpectError([&] { (void)with(R"({"moe_kind": "token"})"); }, ErrorCode::kConfig, {"moe_kind = \"token\""});
}

}  // namespace
}  // namespace hydra
