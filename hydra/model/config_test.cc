// SPDX-License-Identifier: Apache-2.0
// Configs: every field survives a round trip and shows in a comparison, every bad value is refused by name, presets and
// foreign families read back equal, the bad-file list of specs/product.md.
#include "hydra/model/config.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/testing.h"
#include "hydra/io/json.h"
#include "hydra/model/config_fields.h"

namespace hydra {
namespace {

// The message of the Error that parsing throws; "" when it throws none.
std::string Refusal(const std::string& text) {
  try {
    (void)ParseConfig(text, "config.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

std::string With(const char* key, const Json& value) {
  Json json = Json::parse(ConfigJson(HydraNano()));
  json[key] = value;
  return json.dump();
}

void ExpectRefused(const char* key, const Json& value, const std::string& part) {
  const std::string message = Refusal(With(key, value));
  EXPECT_NE(message.find(key), message.npos) << key << " = " << value << ": " << message;
  EXPECT_NE(message.find(part), message.npos) << key << " = " << value << ": " << message;
  EXPECT_EQ(message.find('\n'), message.npos);
}

// Another valid value for a key of hydra-nano's config.json.
Json Perturbed(const std::string& key, const Json& value) {
  static const std::vector<std::pair<std::string, Json>> kSpecial = {
      {"torch_dtype", "float32"},
      {"ssm_kind", "diagonal"},
      {"router_mode", "round_robin"},
      {"router_balance", "bias"},
      {"hidden_size", 96},
      {"num_hidden_layers", nullptr},  // the lists below depend on it: tested apart
      {"layer_types", {"ssm", "ssm", "ssm_sga", "ssm", "ssm", "ssm_sga_moe"}},
      {"workspace_layers", {0}},
      {"pkm_layers", {1, 2}},
      {"mamba_n_heads", 12},
      {"mamba_d_head", 32},
      {"mamba_expand", 2},  // these three are bound together: tested apart
      {"time_step_limit", {0.001, 0.5}},
      {"mamba_n_groups", 2},
      {"mamba_norm_groups", 2},
      {"num_key_value_heads", 3},
      {"num_attention_heads", 12},
      {"head_dim", 16},
      {"bos_token_id", 5},
      {"eos_token_id", 6},
      {"pad_token_id", 7},
      {"sliding_window", 48},
      {"mamba_A_init_range", {2, 8}},
      {"path_gates_init", {0.7, 0.1, 0.6}},
  };
  for (const auto& [name, other] : kSpecial)
    if (name == key) return other;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number_integer()) return value.get<int64_t>() + 1;
  return value.get<double>() * 0.5;
}

TEST(Config, EveryFieldSurvivesARoundTripAndShowsInAComparison) {
  const Json base = Json::parse(ConfigJson(HydraNano()));
  int perturbed = 0;
  for (const auto& [key, value] : base.items()) {
    if (key == "model_type" || key == "moe_kind" || key == "expert_size" || key == "mamba_proj_bias") continue;
    Json changed = base;
    changed[key] = Perturbed(key, value);
    if (changed[key].is_null() || changed[key] == value) continue;
    if (key == "hidden_size") changed["mamba_d_head"] = 16;
    SCOPED_TRACE(key);
    const ModelConfig config = ParseConfig(changed.dump(), "config.json");
    EXPECT_EQ(Json::parse(ConfigJson(config)), changed);
    const auto differences = CompareConfigs(HydraNano(), config);
    ASSERT_FALSE(differences.empty());
    bool named = false;
    for (const std::string& line : differences) named |= line.rfind(key + ":", 0) == 0;
    EXPECT_TRUE(named) << differences[0];
    EXPECT_FALSE(config == HydraNano());
    ++perturbed;
  }
  EXPECT_GE(perturbed, 45);
}

TEST(Config, ExpertsMayHaveDomains) {
  Json json = Json::parse(ConfigJson(HydraNano()));
  EXPECT_FALSE(json.contains("expert_domains"));
  json["expert_domains"] = {{"law", {1, 0}}, {"code", {5, 6, 7}}};
  json["expert_domain_loss_coef"] = 0.5;
  const ModelConfig config = ParseConfig(json.dump(), "c");
  EXPECT_EQ(config.moe.domains,
            (std::vector<ExpertDomain>{{.name = "law", .experts = {0, 1}}, {.name = "code", .experts = {5, 6, 7}}}));
  EXPECT_EQ(ParseConfig(ConfigJson(config), "c"), config);
  EXPECT_EQ(config.moe.FindDomain("code")->experts.size(), 3U);
  EXPECT_EQ(config.moe.FindDomain("cod"), nullptr);
  ExpectRefused("expert_domains", 5, "must be an object");
  ExpectRefused("expert_domains", {{"law", "all"}}, "law");
  ExpectRefused("expert_domains", {{"law", {0}}}, "num_experts_per_tok = 2");
  ExpectRefused("expert_domains", {{"law", {0, 8}}}, "0 to 7");
  ExpectRefused("expert_domains", {{"law", {-1, 2}}}, "0 to 7");
  ExpectRefused("expert_domains", {{"law", {2, 2}}}, "twice");
  ExpectRefused("expert_domain_loss_coef", -1, "must be");
}

TEST(Config, EveryPresetPassesItsOwnCheckAndReadsBackEqual) {
  for (const std::string& name : PresetNames()) {
    const ModelConfig config = Preset(name);
    EXPECT_NO_THROW(config.Validate(name));
    EXPECT_EQ(ParseConfig(ConfigJson(config), name), config) << name;
  }
  EXPECT_THROW((void)Preset("hydra-nanoo"), Error);
}

TEST(Config, AbsentKeysTakeTheSpecificationsDefaults) {
  EXPECT_EQ(ParseConfig(R"({"model_type": "hydra"})", "c"), Hydra29M());
  const ModelConfig grouped = ParseConfig(R"({"model_type": "hydra", "mamba_n_groups": 2})", "c");
  EXPECT_EQ(grouped.ssm.norm_groups, 2);  // follows n_groups
}

TEST(Config, EveryNumberIsBoundedAndEveryTypeChecked) {
  const Json base = Json::parse(ConfigJson(HydraNano()));
  for (const auto& [key, value] : base.items()) {
    if (key == "model_type") continue;
    SCOPED_TRACE(key);
    if (value.is_number()) {
      ExpectRefused(key.c_str(), "a word", "must be");
      const bool may_be_negative = key == "workspace_gate_bias" || key == "pkm_gate_bias";
      if (!may_be_negative) ExpectRefused(key.c_str(), -3, "must be");
    } else if (value.is_string()) {
      ExpectRefused(key.c_str(), "no-such-name", "must be");
      ExpectRefused(key.c_str(), 5, "must be");
    } else if (value.is_array()) {
      ExpectRefused(key.c_str(), 5, "must be a list");
    } else if (value.is_boolean()) {
      ExpectRefused(key.c_str(), 1, key == "mamba_proj_bias" ? "only" : "must be true or false");
    }
  }
}

TEST(Config, RulesBetweenFieldsNameTheField) {
  ExpectRefused("mamba_n_heads", 13, "expand * hidden_size");
  ExpectRefused("mamba_n_groups", 5, "must divide");
  ExpectRefused("mamba_norm_groups", 5, "must divide");
  ExpectRefused("num_key_value_heads", 4, "must divide");
  ExpectRefused("head_dim", 33, "even");
  ExpectRefused("sliding_window", 8, "model_chunk_size");
  ExpectRefused("landmarks_per_chunk", 17, "model_chunk_size");
  ExpectRefused("landmarks_per_chunk", 0, "landmark_budget");
  ExpectRefused("num_experts_per_tok", 9, "num_experts = 8");
  ExpectRefused("workspace_write_slots", 33, "workspace_slots = 32");
  ExpectRefused("pkm_top_k", 33, "pkm_n_keys = 32");
  ExpectRefused("eos_token_id", 2048, "vocab_size = 2048");
  ExpectRefused("time_step_limit", {0.5, 0.1}, "upper end");
  ExpectRefused("time_step_limit", {0.0}, "2 numbers");
  ExpectRefused("layer_types", {"ssm"}, "num_hidden_layers");
  ExpectRefused("pkm_layers", {6}, "0 to 5");
}

TEST(Config, BadFilesAreRefusedByName) {
  // `name`: its name in specs/product.md, or "".
  const auto bad = [](const char* name, const std::string& text, const char* field, std::vector<std::string> found = {},
                      ErrorCode code = ErrorCode::kConfig) {
    ExpectBadFile({.format = "config.json",
                   .name = name,
                   .file = "config.json",
                   .field = field,
                   .found = std::move(found),
                   .code = code},
                  [&] { (void)ParseConfig(text, "config.json"); });
  };
  bad("", "", "the file is empty", {}, ErrorCode::kFormat);
  bad("", "{", "not valid JSON at byte 2", {}, ErrorCode::kFormat);
  bad("", "[]", "", {"object"});
  bad("key-missing", "{}", "model_type", {"is missing"});
  bad("wrong-type", R"({"model_type": 5})", "model_type", {"must be a string"});
  bad("unknown-family", R"({"model_type": "gpt9"})", "model_type",
      {"gpt9", "hydra, llama, mistral, mamba2, minicpm, qwen2 or qwen3"});
  bad("negative", R"({"model_type": "hydra", "hidden_size": -1})", "hidden_size", {"-1"});
  bad("zero-heads", R"({"model_type": "hydra", "num_attention_heads": 0})", "num_attention_heads", {"0"});
  bad("huge-layers", R"({"model_type": "hydra", "num_hidden_layers": 99999999})", "num_hidden_layers", {"99999999"});
  bad("heads-indivisible", R"({"model_type": "hydra", "num_key_value_heads": 5})", "num_key_value_heads",
      {"5", "must divide"});
  bad("head-product", R"({"model_type": "hydra", "mamba_n_heads": 7})", "mamba_n_heads", {"7", "expand"});
  bad("layers-miscounted", R"({"model_type": "hydra", "layer_types": ["ssm"]})", "layer_types",
      {"1", "num_hidden_layers"});
  bad("number-1e999", R"({"model_type": "hydra", "rope_theta": 1e999})",
      "not valid JSON at byte 43 after the key \"rope_theta\"", {"1e999"}, ErrorCode::kFormat);
  bad("unknown-hydra-key", R"({"model_type": "hydra", "hiden_size": 4})", "unknown key \"hiden_size\"",
      {"did you mean hidden_size"});
  bad("", R"({"model_type": "hydra", "hidden_size": 4, "hidden_size": 4})", "key \"hidden_size\"", {"twice"},
      ErrorCode::kFormat);
  bad("too-deep", R"({"model_type": "hydra", "layer_types": )" + std::string(100, '['),
      "nested deeper than 64 levels after the key \"layer_types\"", {}, ErrorCode::kFormat);
  std::string many = R"({"model_type": "hydra", "workspace_layers": [)";
  for (int i = 0; i < (1 << 18) + 1; ++i) many += "1,";
  bad("", many + "1]}", "", {"more values than a text of its size may have after the key \"workspace_layers\""},
      ErrorCode::kFormat);
  // Each number is within its bounds, what they make is not.
  bad("", R"({"model_type": "hydra", "num_experts": 65536, "moe_intermediate_size": 16777216})", "num_experts = 65536",
      {"times moe_intermediate_size"});
  bad("", R"({"model_type": "hydra", "num_attention_heads": 16777216, "num_key_value_heads": 16, "head_dim": 65536})",
      "num_attention_heads", {"16777216"});
  bad("", R"({"model_type": "hydra", "hidden_size": 16777216, "mamba_n_heads": 32, "mamba_d_head": 1048576})",
      "hidden_size", {"16777216"});
  bad("", R"({"model_type": "hydra", "pkm_n_keys": 32768, "pkm_d_value": 16777216})", "pkm_n_keys", {"32768"});
  // One line, whatever the file says, and no codes for terminals.
  bad("", "{\"model_type\": \"hydra\", \"a\\nb\": 1}", "unknown key \"a\\x0ab\"");
  bad("", "{\"model_type\": \"hydra\", \"a\xc2\x9b\": 1}", "unknown key \"a\\xc2\\x9b\"");
  bad("", R"({"model_type": "hydra", "vocab_size": 18446744073709551615})", "vocab_size", {"too large"});
  bad("", R"({"model_type": "llama", "vocab_size": 8})", "hidden_size", {"is missing"});
  bad("",
      R"({"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8,
          "num_attention_heads": 0})",
      "num_attention_heads", {"0"});
}

TEST(Config, OverridesChangeOnlyTheirKeys) {
  const ModelConfig config = OverrideConfig(HydraNano(), R"({"pkm_top_k": 2})", "--set");
  EXPECT_EQ(CompareConfigs(HydraNano(), config), std::vector<std::string>{"pkm_top_k: 4 != 2"});
  EXPECT_EQ(OverrideConfig(TransformerNano(), R"({"intermediate_size": 100})", "--set").d_ff, 100);
  EXPECT_THROW((void)OverrideConfig(HydraNano(), R"({"pkm_topk": 2})", "--set"), Error);
  EXPECT_THROW((void)OverrideConfig(TransformerNano(), R"({"pkm_top_k": 2})", "--set"), Error);
}

TEST(Config, HuggingFaceFormsOfBothGenerationsAreRead) {
  const std::string head = R"({"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
    "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true, )";
  EXPECT_EQ(ParseConfig(head + R"("rope_theta": 5000.0, "rope_scaling": null, "torch_dtype": "bfloat16"})", "c")
                .attention.rope_theta,
            5000);
  const ModelConfig five = ParseConfig(
      head +
          R"("rope_parameters": {"rope_theta": 7000.0, "rope_type": "default"}, "dtype": "float16", "head_dim": 16})",
      "c");
  EXPECT_EQ(five.attention.rope_theta, 7000);
  EXPECT_EQ(five.attention.head_dim, 16);
  EXPECT_EQ(five.dtype, DType::kF16);
  for (const char* refused : {R"("hidden_act": "gelu"})", R"("attention_bias": true})",
                              R"("rope_scaling": {"rope_type": "yarn"}})", R"("quantization_config": {"bits": 4}})"})
    EXPECT_NE(Refusal(head + refused), "") << refused;
  std::vector<std::string> warnings;
  (void)ParseConfig(head + R"("some_new_key": 1})", "c", &warnings);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("some_new_key"), warnings[0].npos);

  // Llama 3.1's rotary scaling, in both forms and back.
  const std::string llama3 =
      R"("factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 4096)";
  const RopeScaling want{.factor = 32, .original_max_position_embeddings = 4096};
  const ModelConfig old_form =
      ParseConfig(head + R"("rope_theta": 7.0, "rope_scaling": {"rope_type": "llama3", )" + llama3 + "}}", "c");
  EXPECT_EQ(old_form.attention.rope_scaling, want);
  EXPECT_EQ(
      ParseConfig(head + R"("rope_parameters": {"rope_theta": 7.0, "rope_type": "llama3", )" + llama3 + "}}", "c"),
      old_form);
  EXPECT_EQ(ParseConfig(ConfigJson(old_form), "c"), old_form);
  ModelConfig divided = old_form;
  divided.attention.rope_scaling->divisors = {1, 1.5, 2, 8};
  *divided.attention.rope_scaling = {.divisors = divided.attention.rope_scaling->divisors};
  EXPECT_EQ(ParseConfig(ConfigJson(divided), "c"), divided);
  const auto refused = [&](const std::string& rest, const char* part) {
    EXPECT_NE(Refusal(head + rest).find(part), std::string::npos) << rest << ": " << Refusal(head + rest);
  };
  refused(R"("rope_scaling": {"rope_type": "llama3", "factor": 8}})", "low_freq_factor is missing");
  refused(
      R"("rope_scaling": {"type": "llama3", "factor": -8, "low_freq_factor": 1, "high_freq_factor": 4,
           "original_max_position_embeddings": 1}})",
      "rope_scaling.factor");
  refused(
      R"("rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
           "original_max_position_embeddings": 1}})",
      "must exceed low_freq_factor");
  refused(R"("rope_scaling": 5})", "must be an object");
  refused(R"("rope_parameters": {"partial_rotary_factor": 0.5}})", "partial_rotary_factor");
  refused(R"("rope_scaling": {"rope_type": "divisors", "divisors": [1, 2]}})", "half of head_dim");
  refused(R"("layer_types": ["full_attention", "sliding_attention"]})", "full_attention");
  refused(R"("layer_types": ["full_attention"]})", "num_hidden_layers");
  // A list of ends.
  const ModelConfig ends = ParseConfig(head + R"("eos_token_id": [3, 5, 9]})", "c");
  EXPECT_EQ(ends.eos_token_id, 3);
  EXPECT_EQ(ends.EosTokenIds(), (std::vector<int64_t>{3, 5, 9}));
  EXPECT_EQ(ParseConfig(ConfigJson(ends), "c"), ends);
  refused(R"("eos_token_id": [3, 64]})", "vocab_size = 64");
  refused(R"("eos_token_id": [3, -1]})", "negative");

  const std::string mamba =
      R"({"model_type": "mamba2", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_heads": 8,
    "head_dim": 8, "state_size": 16, "n_groups": 2, "time_step_limit": [0.0, )";
  EXPECT_EQ(ParseConfig(mamba + "Infinity]}", "c").ssm.dt_limit[1], SsmConfig::kInfinity);
  EXPECT_EQ(ParseConfig(mamba + R"({"__float__": "Infinity"}]})", "c").ssm.dt_limit[1], SsmConfig::kInfinity);
  EXPECT_EQ(ParseConfig(mamba + "0.5]}", "c").ssm.dt_limit[1], 0.5);
  EXPECT_NE(Refusal(mamba + R"(0.5], "norm_before_gate": true})"), "");
}

TEST(Config, QwenIsReadAndWritten) {
  const std::string tail = R"(, "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
    "num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["full_attention", "full_attention"],
    "use_sliding_window": false, "sliding_window": null, "max_window_layers": 2)";
  std::vector<std::string> warnings;
  const ModelConfig two = ParseConfig(R"({"model_type": "qwen2")" + tail + "}", "c", &warnings);
  EXPECT_TRUE(warnings.empty());
  EXPECT_EQ(two.family, Family::kQwen2);
  EXPECT_TRUE(two.attention.qkv_bias);
  EXPECT_FALSE(two.attention.qk_norm);
  EXPECT_EQ(two.attention.head_dim, 8);
  EXPECT_EQ(ParseConfig(ConfigJson(two), "c"), two);
  const ModelConfig three = ParseConfig(R"({"model_type": "qwen3", "attention_bias": false)" + tail + "}", "c");
  EXPECT_EQ(three.family, Family::kQwen3);
  EXPECT_FALSE(three.attention.qkv_bias);
  EXPECT_TRUE(three.attention.qk_norm);
  EXPECT_EQ(three.attention.head_dim, 128);  // the family's default, whatever hidden_size is
  EXPECT_EQ(ParseConfig(ConfigJson(three), "c"), three);
  EXPECT_NE(Refusal(R"({"model_type": "qwen3", "attention_bias": true)" + tail + "}").find("attention_bias"),
            std::string::npos);
  Json json = Json::parse(R"({"model_type": "qwen2")" + tail + "}");
  json.erase("layer_types");
  json["use_sliding_window"] = true;
  EXPECT_EQ(Refusal(json.dump()), "");  // no window after all, and none of its layers
  json["sliding_window"] = 4;
  EXPECT_EQ(Refusal(json.dump()), "");
  json["max_window_layers"] = 1;
  EXPECT_NE(Refusal(json.dump()).find("sliding_window"), std::string::npos);
  json["sliding_window"] = 32768;  // as long as any text
  EXPECT_EQ(Refusal(json.dump()), "");
  json["use_sliding_window"] = false;
  json.erase("num_key_value_heads");
  EXPECT_NE(Refusal(json.dump()).find("num_key_value_heads is missing"), std::string::npos);
}

constexpr const char* kLlamaTail = R"("vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
    "intermediate_size": 48, "num_attention_heads": 4)";

TEST(Config, MistralIsALlamaUnlessItsWindowIsShort) {
  const std::string head = std::string(R"({"model_type": "mistral", )") + kLlamaTail;
  const ModelConfig config = ParseConfig(head + R"(, "sliding_window": null})", "c");
  EXPECT_EQ(config.family, Family::kLlama);
  EXPECT_EQ(config.max_position_embeddings, 131072);
  EXPECT_EQ(ParseConfig(ConfigJson(config), "c"), config);
  EXPECT_EQ(Refusal(head + R"(, "sliding_window": 4096, "max_position_embeddings": 4096})"), "");
  EXPECT_NE(
      Refusal(head + R"(, "sliding_window": 4096, "max_position_embeddings": 4097})").find("sliding_window = 4096"),
      std::string::npos);
  EXPECT_NE(Refusal(head + "}").find("sliding_window = 4096"), std::string::npos);  // what the family has without a key
}

TEST(Config, AnUnknownTypeIsReadByItsClass) {
  std::vector<std::string> warnings;
  const std::string tail = std::string(", ") + kLlamaTail + "}";
  EXPECT_EQ(
      ParseConfig(R"({"model_type": "nobody", "architectures": ["LlamaForCausalLM"])" + tail, "c", &warnings).family,
      Family::kLlama);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("nobody"), std::string::npos);
  EXPECT_EQ(ParseConfig(R"({"architectures": ["LlamaForCausalLM"])" + tail, "c").family, Family::kLlama);
  EXPECT_NE(Refusal(R"({"model_type": "nobody", "architectures": ["Own"])" + tail).find("nobody"), std::string::npos);
}

TEST(Config, SettingsThatChangeNothingAreAcceptedInSilence) {
  std::vector<std::string> warnings;
  const ModelConfig plain = ParseConfig(std::string(R"({"model_type": "llama", )") + kLlamaTail + "}", "c");
  const ModelConfig old = ParseConfig(std::string(R"({"model_type": "llama", )") + kLlamaTail + R"(,
      "pretraining_tp": 2, "rope_scaling": null, "attention_bias": false, "use_cache": false, "hidden_act": "swish",
      "pad_token_id": -1, "num_key_value_heads": null, "_name_or_path": "x", "max_sequence_length": 2048,
      "attention_dropout": 0.1, "tokenizer_class": "LlamaTokenizer", "do_sample": true, "temperature": 0.9})",
                                      "c", &warnings);
  EXPECT_EQ(old, plain);
  EXPECT_EQ(warnings, std::vector<std::string>());
  const auto with = [](const char* more) {
    return std::string(R"({"model_type": "llama", )") + kLlamaTail + ", " + more + "}";
  };
  EXPECT_EQ(ParseConfig(with(R"("rope_scaling": {"type": "linear", "factor": 1.0})"), "c"), plain);
  EXPECT_EQ(ParseConfig(with(R"("pad_token_id": 64)"), "c"), plain);  // added to the tokenizer alone
  EXPECT_EQ(ParseConfig(with(R"("eos_token_id": -1)"), "c"), plain);
  for (const char* other : {R"("rope_scaling": {"type": "linear", "factor": 2.0})", R"("hidden_act": "gelu")",
                            R"("attention_bias": true)", R"("mlp_bias": true)", R"("partial_rotary_factor": 0.5)"})
    EXPECT_NE(Refusal(with(other)), "") << other;
}

}  // namespace
}  // namespace hydra
