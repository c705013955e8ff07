// SPDX-License-Identifier: Apache-2.0
// Keys of llama, qwen2, qwen3 and mamba2 configs, both generations of Hugging Face files, and what of them is refused.
// Not here: minicpm (config_minicpm.cc).
#include "hydra/model/config_hf.h"

#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/model/config_hf_keys.h"

namespace hydra {
namespace {

// rope_scaling (an object beside rope_theta) or rope_parameters (one that holds rope_theta).
void ReadRopeObject(HfKeys& k, const char* key, AttentionConfig* a) {
  const Json* rope = k.Find(key);
  if (rope == nullptr) return;
  if (!rope->is_object()) k.Refuse(key, *rope, "must be an object");
  const auto read = [&](const char* name, auto* out) {
    const auto it = rope->find(name);
    const bool found = it != rope->end() && !it->is_null();
    if (found) ReadJson(*it, StrCat(k.Field(key), ".", name), out);
    return found;
  };
  const auto need = [&](const char* name, auto* out) {
    if (!read(name, out)) throw Error(ErrorCode::kConfig, StrCat(k.Field(key), ".", name, " is missing"));
  };
  read("rope_theta", &a->rope_theta);
  double partial = 1;
  if (read("partial_rotary_factor", &partial) && partial != 1)
    k.Refuse("partial_rotary_factor", partial, "only 1 is supported");
  std::string type = "default";
  if (!read("rope_type", &type)) read("type", &type);
  if (type == "default") return;
  double factor = 0;
  if (type == "linear" && read("factor", &factor) && factor == 1) return;  // positions divided by 1
  RopeScaling& scaling = a->rope_scaling.emplace();
  if (type == "llama3") {
    need("factor", &scaling.factor);
    need("low_freq_factor", &scaling.low_freq_factor);
    need("high_freq_factor", &scaling.high_freq_factor);
    need("original_max_position_embeddings", &scaling.original_max_position_embeddings);
  } else if (type == "divisors") {  // ours: what a GGUF file said
    need("divisors", &scaling.divisors);
  } else {
    k.Refuse(key, type, "only the rope types default and llama3 are supported");
  }
}

// Every layer sees all positions: full attention, or a sliding window that no text of a trained length leaves.
void CheckLayerTypes(HfKeys& k, int64_t n_layers, bool wide_window) {
  const Json* value = k.Find("layer_types");
  if (value == nullptr) return;
  if (value->is_array() && static_cast<int64_t>(value->size()) != n_layers)
    k.Refuse("layer_types", value->size(), StrCat("must have num_hidden_layers = ", n_layers, " entries"));
  std::vector<std::string> types;
  ReadJson(*value, k.Field("layer_types"), &types);
  for (const std::string& type : types)
    if (type != "full_attention" && !(type == "sliding_attention" && wide_window))
      k.Refuse("layer_types", type, "only full_attention is supported");
}

// Sliding windows: none, or as long as the longest text the model was trained for. Mistral has one wherever there is a
// sliding_window; Qwen where use_sliding_window says so, in layers from max_window_layers on or those of layer_types;
// Llama never, whatever its file holds. A missing key has transformers' default.
void ReadWindow(HfKeys& k, const ModelConfig& c, bool mistral) {
  const bool qwen = c.family != Family::kLlama;
  bool on = mistral;
  if (qwen)
    k.Get("use_sliding_window", &on);
  else
    k.Only("use_sliding_window", false);
  int64_t window = k.Has("sliding_window") ? INT64_MAX : 4096, first = qwen ? 28 : 0;  // null: none
  k.Get("sliding_window", &window);
  if (qwen) k.Get("max_window_layers", &first);
  const bool wide = window >= c.max_position_embeddings, listed = qwen && k.Has("layer_types");
  if (on && !wide && !listed && first < c.n_layers())
    k.Refuse("sliding_window", window,
             StrCat("a window below max_position_embeddings = ", c.max_position_embeddings, " is not supported"));
  CheckLayerTypes(k, c.n_layers(), wide && k.Has("sliding_window"));
}

// Llama, Qwen 2 (with biases of q, k, v) and Qwen 3 (with norms of q and k per head).
ModelConfig ReadDecoder(HfKeys& k, Family family, bool mistral) {
  const bool qwen = family != Family::kLlama;
  ModelConfig c;
  c.family = family;
  c.wiring = Wiring::kSequential;
  c.chunk_len = 1;
  ReadCommon(k, &c);
  c.layers.assign(static_cast<size_t>(ReadLayerCount(k)),
                  {.ssm = false, .attention = AttentionKind::kFull, .ffn = FfnKind::kDense});
  c.tie_embeddings = false;
  k.Get("tie_word_embeddings", &c.tie_embeddings);
  k.Need("intermediate_size", &c.d_ff);
  c.norm_eps = 1e-6;
  k.Get("rms_norm_eps", &c.norm_eps);
  c.max_position_embeddings = qwen ? 32768 : mistral ? 131072 : 2048;
  k.Get("max_position_embeddings", &c.max_position_embeddings);
  ReadWindow(k, c, mistral);
  AttentionConfig& a = c.attention;
  a.qk_norm = family == Family::kQwen3;
  a.qkv_bias = family == Family::kQwen2;
  a.landmark_budget = 0;
  k.Need("num_attention_heads", &a.n_heads);
  if (a.n_heads < 1) k.Refuse("num_attention_heads", a.n_heads, "must be at least 1");
  a.n_kv_heads = a.n_heads;
  if (!k.Get("num_key_value_heads", &a.n_kv_heads) && qwen)  // its default, 32, fits few models
    throw Error(ErrorCode::kConfig, StrCat(k.Field("num_key_value_heads"), " is missing"));
  if (a.n_kv_heads < 1) k.Refuse("num_key_value_heads", a.n_kv_heads, "must be at least 1");
  a.head_dim = family == Family::kQwen3 ? 128 : c.d_model / a.n_heads;
  if (!k.Get("head_dim", &a.head_dim) && family != Family::kQwen3 && c.d_model % a.n_heads != 0)
    k.Refuse("num_attention_heads", a.n_heads,
             StrCat("must divide hidden_size = ", c.d_model, " where head_dim is absent"));
  k.Get("rope_theta", &a.rope_theta);
  ReadRopeObject(k, "rope_scaling", &a);
  ReadRopeObject(k, "rope_parameters", &a);
  k.Only("partial_rotary_factor", 1);
  if (family == Family::kQwen2)
    k.Ignore({"attention_bias"});  // this family always has them
  else
    k.Only("attention_bias", false);
  k.Only("mlp_bias", false);
  k.Ignore({"rope_interleaved", "is_llama_config"});
  return c;
}

ModelConfig ReadMamba2(HfKeys& k) {
  ModelConfig c;
  c.family = Family::kMamba2;
  c.wiring = Wiring::kSequential;
  c.chunk_len = 1;
  ReadCommon(k, &c);
  c.layers.assign(static_cast<size_t>(ReadLayerCount(k)), LayerConfig{});
  c.tie_embeddings = false;
  k.Get("tie_word_embeddings", &c.tie_embeddings);
  k.Get("layer_norm_epsilon", &c.norm_eps);
  SsmConfig& s = c.ssm;
  s.d_state = 128;
  s.n_groups = 8;
  s.scan_chunk = 256;
  k.Need("num_heads", &s.n_heads);
  k.Need("head_dim", &s.head_dim);
  k.Get("expand", &s.expand);
  k.Get("state_size", &s.d_state);
  k.Get("n_groups", &s.n_groups);
  s.norm_groups = s.n_groups;
  k.Get("mamba_norm_groups", &s.norm_groups);
  k.Get("conv_kernel", &s.d_conv);
  k.Get("chunk_size", &s.scan_chunk);
  k.Get("use_conv_bias", &s.conv_bias);
  k.Get("time_step_limit", &s.dt_limit);
  k.Get("time_step_min", &s.dt_min);
  k.Get("time_step_max", &s.dt_max);
  k.Get("time_step_floor", &s.dt_floor);
  k.Get("A_initializer_range", &s.A_init);
  k.Only("use_bias", false);
  k.Only("rms_norm", true);
  k.Only("norm_before_gate", false);
  k.Ignore(
      {"residual_in_fp32", "rescale_prenorm_residual", "time_step_rank", "time_step_init_scheme", "intermediate_size"});
  return c;
}

Json WriteRopeScaling(const RopeScaling& r) {
  if (!r.divisors.empty()) return {{"rope_type", "divisors"}, {"divisors", r.divisors}};
  return {{"rope_type", "llama3"},
          {"factor", r.factor},
          {"low_freq_factor", r.low_freq_factor},
          {"high_freq_factor", r.high_freq_factor},
          {"original_max_position_embeddings", r.original_max_position_embeddings}};
}

Json WriteDecoder(const ModelConfig& c) {
  const bool llama = c.family == Family::kLlama;
  HYDRA_CHECK(llama || c.family == Family::kQwen2 || c.family == Family::kQwen3, FamilyName(c.family));
  const char* qwen = c.family == Family::kQwen2 ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM";
  const char* architecture = llama ? "LlamaForCausalLM" : qwen;
  Json j = WriteCommon(c, architecture);
  j["intermediate_size"] = c.d_ff;
  j["num_attention_heads"] = c.attention.n_heads;
  j["num_key_value_heads"] = c.attention.n_kv_heads;
  j["head_dim"] = c.attention.head_dim;
  j["rope_theta"] = c.attention.rope_theta;
  if (c.attention.rope_scaling) j["rope_scaling"] = WriteRopeScaling(*c.attention.rope_scaling);
  j["rms_norm_eps"] = c.norm_eps;
  j["max_position_embeddings"] = c.max_position_embeddings;
  if (c.family != Family::kQwen2) j["attention_bias"] = false;
  if (llama) j["mlp_bias"] = false;
  if (!llama) j["use_sliding_window"] = false;
  return j;
}

// Names of families in files, and of their classes. Mistral is a Llama but for its window.
struct HfFamily {
  const char* model_type;
  const char* architecture;
  Family family;
};
constexpr HfFamily kFamilies[] = {
    {"llama", "LlamaForCausalLM", Family::kLlama},    {"mistral", "MistralForCausalLM", Family::kLlama},
    {"qwen2", "Qwen2ForCausalLM", Family::kQwen2},    {"qwen3", "Qwen3ForCausalLM", Family::kQwen3},
    {"mamba2", "Mamba2ForCausalLM", Family::kMamba2}, {"minicpm", "MiniCPMForCausalLM", Family::kMiniCpm}};

// By model_type; where that is not known, by the class that the file says it was made by.
const HfFamily& FamilyOf(const Json& json, const std::string& model_type, const std::string& where) {
  for (const HfFamily& row : kFamilies)
    if (model_type == row.model_type) return row;
  const auto classes = json.find("architectures");
  if (classes != json.end() && classes->is_array())
    for (const Json& name : *classes)
      for (const HfFamily& row : kFamilies)
        if (name == row.architecture) return row;
  if (model_type.empty()) throw Error(ErrorCode::kConfig, StrCat(where, ": model_type is missing"));
  throw Error(ErrorCode::kConfig, StrCat(where, ": model_type = \"", OneLine(model_type, 60),
                                         "\": must be hydra, llama, mistral, mamba2, minicpm, qwen2 or qwen3"));
}

}  // namespace

ModelConfig ReadHfConfig(const Json& json, const std::string& family, const std::string& where,
                         std::vector<std::string>* warnings) {
  HfKeys keys(json, where);
  const HfFamily& row = FamilyOf(json, family, where);
  const auto read = [&] {
    if (row.family == Family::kMamba2) return ReadMamba2(keys);
    if (row.family == Family::kMiniCpm) return ReadMiniCpm(keys);
    return ReadDecoder(keys, row.family, std::string_view(row.model_type) == "mistral");
  };
  const ModelConfig config = read();
  if (!family.empty() && family != row.model_type && warnings != nullptr)
    warnings->push_back(
        internal::WithoutControls(StrCat(where, ": model_type = \"", OneLine(family, 60), "\" is not known: read as ",
                                         row.model_type, ", as architectures says")));
  keys.WarnUnknown(warnings);
  return config;
}

Json WriteHfConfig(const ModelConfig& c) {
  if (c.family == Family::kMiniCpm) return WriteMiniCpm(c);
  if (c.family != Family::kMamba2) return WriteDecoder(c);
  Json j = WriteCommon(c, "Mamba2ForCausalLM");
  const SsmConfig& s = c.ssm;
  j["num_heads"] = s.n_heads;
  j["head_dim"] = s.head_dim;
  j["expand"] = s.expand;
  j["state_size"] = s.d_state;
  j["n_groups"] = s.n_groups;
  j["mamba_norm_groups"] = s.norm_groups;
  j["conv_kernel"] = s.d_conv;
  j["chunk_size"] = s.scan_chunk;
  j["use_conv_bias"] = s.conv_bias;
  j["use_bias"] = false;
  j["rms_norm"] = true;
  j["layer_norm_epsilon"] = c.norm_eps;
  j["time_step_min"] = s.dt_min;
  j["time_step_max"] = s.dt_max;
  j["time_step_floor"] = s.dt_floor;
  j["time_step_limit"] = {s.dt_limit[0], std::isinf(s.dt_limit[1]) ? Json("Infinity") : Json(s.dt_limit[1])};
  j["A_initializer_range"] = {s.A_init[0], s.A_init[1]};
  return j;
}

std::string DumpHfJson(const Json& json) {
  std::string text = json.dump(2);
  const std::string quoted = "\"Infinity\"";
  for (size_t at = text.find(quoted); at != text.npos; at = text.find(quoted, at))
    text.replace(at, quoted.size(), "Infinity");
  return text + "\n";
}

}  // namespace hydra
