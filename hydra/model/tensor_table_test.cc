// SPDX-License-Identifier: Apache-2.0
// The tensor table against specs/hydra.md 9.2: names, shapes, dtypes, decay flags, look-ups, initial values.
#include "hydra/model/tensor_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

namespace hydra {
namespace {

using Shape = std::vector<int64_t>;

// A row of the specification for the given config, with layer numbers put in.
struct Row {
  const char* name;
  Shape shape;
  bool matmul;  // dtype M
  bool decay;
};

// Sizes that differ from one another, so that swapped dimensions show.
ModelConfig Distinct() {
  ModelConfig c;
  c.vocab_size = 101;
  c.d_model = 24;
  c.layers.assign(
      1, {.ssm = true, .attention = AttentionKind::kSparse, .ffn = FfnKind::kChunkMoe, .workspace = true, .pkm = true});
  c.gate_controller = true;
  c.chunk_len = 8;
  c.ssm.n_heads = 8, c.ssm.head_dim = 6, c.ssm.d_state = 5, c.ssm.n_groups = 2, c.ssm.norm_groups = 2, c.ssm.d_conv = 3;
  c.attention.n_heads = 6, c.attention.n_kv_heads = 2, c.attention.head_dim = 10, c.attention.window = 12;
  c.moe.n_experts = 7, c.moe.d_expert = 13;
  c.workspace.n_slots = 9, c.workspace.rank = 14, c.workspace.write_slots = 3;
  c.pkm.n_heads = 3, c.pkm.n_keys = 11, c.pkm.d_key = 15, c.pkm.d_value = 17;
  return c;
}

const std::vector<Row> kModelRows = {
    {"model.embed_tokens.weight", {101, 24}, true, true},
    {"model.pkm_table.weight", {121, 17}, true, false},
    {"model.norm.weight", {24}, false, false},
};
const std::vector<Row> kBlockRows = {
    {"input_layernorm.weight", {24}, false, false},
    {"path_gates", {3}, false, false},
    {"gate_controller.weight", {3, 24}, false, false},
    {"gate_controller.bias", {3}, false, false},
    {"mamba.in_proj.weight", {48 + 68 + 8, 24}, true, true},
    {"mamba.conv1d.weight", {68, 1, 3}, false, false},
    {"mamba.conv1d.bias", {68}, false, false},
    {"mamba.A_log", {8}, false, false},
    {"mamba.D", {8}, false, false},
    {"mamba.dt_bias", {8}, false, false},
    {"mamba.norm.weight", {48}, false, false},
    {"mamba.out_proj.weight", {24, 48}, true, true},
    {"self_attn.q_proj.weight", {60, 24}, true, true},
    {"self_attn.k_proj.weight", {20, 24}, true, true},
    {"self_attn.v_proj.weight", {20, 24}, true, true},
    {"self_attn.o_proj.weight", {24, 60}, true, true},
    {"self_attn.q_norm.weight", {10}, false, false},
    {"self_attn.k_norm.weight", {10}, false, false},
    {"self_attn.landmark_scorer.weight", {1, 24}, false, false},
    {"self_attn.landmark_scorer.bias", {1}, false, false},
    {"self_attn.landmark_scale", {6}, false, false},
    {"moe.router.prev_proj.weight", {7, 24}, false, true},
    {"moe.router.first_proj.weight", {7, 24}, false, true},
    {"moe.router.init_summary", {24}, false, false},
    {"moe.router.balance_bias", {7}, false, false},
    {"moe.experts.gate_up_proj", {7, 26, 24}, true, true},
    {"moe.experts.down_proj", {7, 24, 13}, true, true},
    {"workspace.norm.weight", {24}, false, false},
    {"workspace.memory_norm.weight", {14}, false, false},
    {"workspace.read_q.weight", {14, 24}, true, true},
    {"workspace.write_k.weight", {14, 24}, true, true},
    {"workspace.write_v.weight", {14, 24}, true, true},
    {"workspace.read_k.weight", {14, 14}, true, true},
    {"workspace.read_v.weight", {14, 14}, true, true},
    {"workspace.o_proj.weight", {24, 14}, true, true},
    {"workspace.slot_queries", {9, 14}, false, false},
    {"workspace.init_state", {9, 14}, false, false},
    {"workspace.write_gate.weight", {1, 14}, false, false},
    {"workspace.write_gate.bias", {9}, false, false},
    {"workspace.controller.weight", {2, 24}, false, false},
    {"workspace.controller.bias", {2}, false, false},
    {"pkm.norm.weight", {24}, false, false},
    {"pkm.query_norm.weight", {3, 2, 15}, false, false},
    {"pkm.query_proj.weight", {90, 24}, true, true},
    {"pkm.value_proj.weight", {24, 17}, true, true},
    {"pkm.sub_keys", {3, 2, 11, 15}, true, false},
    {"pkm.gate.weight", {1, 24}, false, false},
    {"pkm.gate.bias", {1}, false, false},
};

void ExpectRow(const TensorTable& table, const std::string& name, const Row& row) {
  const TensorSpec* spec = table.FindName(name);
  ASSERT_NE(spec, nullptr) << name;
  EXPECT_EQ(spec->shape, row.shape) << name;
  EXPECT_EQ(spec->dtype, row.matmul ? DType::kBF16 : DType::kF32) << name;
  EXPECT_EQ(spec->weight_decay, row.decay) << name;
  EXPECT_EQ(spec->parameter, name.find("balance_bias") == std::string::npos) << name;
}

TEST(TensorTable, HydraHasTheRowsOfTheSpecification) {
  const TensorTable table(Distinct());
  for (const Row& row : kModelRows) ExpectRow(table, row.name, row);
  for (const Row& row : kBlockRows) ExpectRow(table, std::string("model.layers.0.") + row.name, row);
  EXPECT_EQ(table.specs().size(), kModelRows.size() + kBlockRows.size());
}

TEST(TensorTable, DiagonalReplacesTheMamba2Rows) {
  ModelConfig c = Distinct();
  c.ssm.kind = SsmKind::kDiagonal;
  const TensorTable table(c);
  ExpectRow(table, "model.layers.0.mamba.param_proj.weight", {"", {96, 24}, true, true});
  ExpectRow(table, "model.layers.0.mamba.skip_proj.weight", {"", {24, 24}, true, true});
  ExpectRow(table, "model.layers.0.mamba.lambda_log", {"", {24}, false, false});
  EXPECT_EQ(table.FindName("model.layers.0.mamba.in_proj.weight"), nullptr);
  EXPECT_EQ(table.specs().size(), kModelRows.size() + kBlockRows.size() - 8 + 3);
}

TEST(TensorTable, PartsThatAreAbsentHaveNoTensors) {
  ModelConfig c = Distinct();
  c.gate_controller = false;
  c.ssm.conv_bias = false;
  c.attention.qk_norm = false;
  c.attention.landmark_budget = 0;
  c.layers[0].workspace = c.layers[0].pkm = false;
  c.layers[0].ffn = FfnKind::kNone;
  const TensorTable table(c);
  for (const TensorSpec& spec : table.specs())
    for (const char* part : {"controller", "conv1d.bias", "q_norm", "k_norm", "landmark", "workspace", "pkm", "moe"})
      EXPECT_EQ(spec.name.find(part), std::string::npos) << spec.name;
}

TEST(TensorTable, UntiedModelsHaveAHead) {
  ModelConfig c = Distinct();
  EXPECT_EQ(TensorTable(c).Find(TensorRole::kHead), nullptr);
  c.tie_embeddings = false;
  const TensorTable table(c);
  ExpectRow(table, "lm_head.weight", {"", {101, 24}, true, true});
}

TEST(TensorTable, LooksUpByRoleAndByNameAlike) {
  for (const std::string& preset : PresetNames()) {
    const ModelConfig config = Preset(preset);
    const TensorTable table(config);
    std::set<std::string> names;
    for (const TensorSpec& spec : table.specs()) {
      EXPECT_TRUE(names.insert(spec.name).second) << preset << " has " << spec.name << " twice";
      EXPECT_EQ(table.FindName(spec.name), &spec) << preset;
      EXPECT_EQ(table.Find(spec.role, spec.layer), &spec) << preset << " " << spec.name;
      EXPECT_GE(spec.layer, -1);
      EXPECT_LT(spec.layer, config.n_layers());
    }
    EXPECT_EQ(table.FindName("model.nothing"), nullptr);
    EXPECT_EQ(table.Find(TensorRole::kSsmInProj, 1000), nullptr);
  }
}

TEST(TensorTable, ForeignFamiliesUseTheirNames) {
  const TensorTable llama(TransformerNano());
  for (const char* name :
       {"model.embed_tokens.weight", "model.layers.5.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight",
        "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"})
    EXPECT_NE(llama.FindName(name), nullptr) << name;
  EXPECT_EQ(llama.specs().size(), 2u + 6 * 9);
  const TensorTable mamba(MambaNano());
  for (const char* name :
       {"backbone.embeddings.weight", "backbone.layers.10.mixer.in_proj.weight",
        "backbone.layers.0.mixer.conv1d.weight", "backbone.layers.0.mixer.conv1d.bias", "backbone.layers.0.mixer.A_log",
        "backbone.layers.0.mixer.D", "backbone.layers.0.mixer.dt_bias", "backbone.layers.0.mixer.norm.weight",
        "backbone.layers.0.mixer.out_proj.weight", "backbone.layers.0.norm.weight", "backbone.norm_f.weight"})
    EXPECT_NE(mamba.FindName(name), nullptr) << name;
  EXPECT_EQ(mamba.specs().size(), 2u + 11 * 9);
}

// Outputs of one size at every width: deviations fall as the root of the inputs, 0.02 for 1,536 of them.
TEST(TensorTable, InitialValuesFallWithTheInputs) {
  for (const std::string& preset : PresetNames()) {
    const ModelConfig config = Preset(preset);
    if (config.family == Family::kMiniCpm) continue;  // muP: blockffn_config_test.cc
    const double layers = std::sqrt(2.0 * static_cast<double>(config.n_layers()));
    const TensorTable table(config);
    int maps = 0;
    for (const TensorSpec& spec : table.specs()) {
      if (spec.init != Init::kNormal) continue;
      const auto holds = [&](const char* part) { return spec.name.find(part) != std::string::npos; };
      const double range = 0.02 * std::sqrt(1536.0 / static_cast<double>(spec.shape.back()));
      if (holds("out_proj") || holds("o_proj") || holds("down_proj") || holds("value_proj")) {
        EXPECT_DOUBLE_EQ(spec.init_arg, range / layers) << preset << " " << spec.name;
      } else if (holds("pkm_table")) {
        EXPECT_EQ(spec.init_arg, 0.01);
      } else if (holds("sub_keys") || holds("slot_queries") || holds("init_state")) {
        EXPECT_DOUBLE_EQ(spec.init_arg, 1 / std::sqrt(static_cast<double>(spec.shape.back()))) << spec.name;
      } else {
        EXPECT_DOUBLE_EQ(spec.init_arg, range) << preset << " " << spec.name;
      }
      ++maps;
    }
    EXPECT_GT(maps, 10);
  }
  ModelConfig narrow = HydraNano();
  narrow.initializer_range = 0.01;
  const TensorTable halved(narrow), table(HydraNano());
  const TensorSpec &a = *halved.Find(TensorRole::kEmbedding, -1), &b = *table.Find(TensorRole::kEmbedding, -1);
  EXPECT_DOUBLE_EQ(2 * a.init_arg, b.init_arg);
  EXPECT_NEAR(b.init_arg, 0.0566, 1e-4);
}

TEST(TensorTable, SizesOfAllParametersAreThePresets) {
  for (const auto& [name, want] :
       {std::pair<const char*, int64_t>{"hydra-1.6b", 1625378106}, {"hydra-29m", 29211723}, {"hydra-nano", 3151515}}) {
    const TensorTable table(Preset(name));
    int64_t sum = 0;
    for (const TensorSpec& spec : table.specs()) sum += spec.parameter ? spec.size() : 0;
    EXPECT_EQ(sum, want) << name;
  }
}

TEST(TensorTable, QwenHasLlamasNamesAndItsOwnTensors) {
  ModelConfig c = TransformerNano();
  const TensorTable table(c);
  const size_t llama = table.specs().size();
  c.family = Family::kQwen2;
  c.attention.n_kv_heads = c.attention.n_heads / 2;
  c.attention.qkv_bias = true;
  const TensorTable two(c);
  EXPECT_EQ(two.specs().size(), llama + 3 * c.layers.size());
  const TensorSpec* bias = two.FindName("model.layers.1.self_attn.k_proj.bias");
  ASSERT_NE(bias, nullptr);
  EXPECT_EQ(bias, two.Find(TensorRole::kAttnKBias, 1));
  EXPECT_EQ(bias->shape, (Shape{c.attention.n_kv_heads * c.attention.head_dim}));
  EXPECT_EQ(bias->dtype, DType::kF32);
  c.family = Family::kQwen3;
  c.attention.qkv_bias = false;
  c.attention.qk_norm = true;
  const TensorTable three(c);
  EXPECT_EQ(three.specs().size(), llama + 2 * c.layers.size());
  ASSERT_NE(three.FindName("model.layers.0.self_attn.q_norm.weight"), nullptr);
  EXPECT_EQ(three.FindName("model.layers.0.self_attn.q_norm.weight")->shape, (Shape{c.attention.head_dim}));
}

}  // namespace
}  // namespace hydra
