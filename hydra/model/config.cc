// SPDX-License-Identifier: Apache-2.0
// Reading, writing, comparing and checking of configs. The keys of a hydra config stand in config_fields.h,
// those of other families in config_hf.cc.
#include "hydra/model/config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/model/config_fields.h"
#include "hydra/model/config_hf.h"

namespace hydra {
namespace {

constexpr const char* kLayerTypes[] = {"ssm", "ssm_sga", "ssm_moe", "ssm_sga_moe"};

std::string LayerType(const LayerConfig& layer) {
  HYDRA_CHECK(layer.ffn != FfnKind::kDense, "a parallel block with a dense path has no name in config.json");
  const int index = (layer.attention != AttentionKind::kNone ? 1 : 0) + (layer.ffn != FfnKind::kNone ? 2 : 0);
  return kLayerTypes[index];
}

std::vector<int64_t> Sites(const ModelConfig& c, bool LayerConfig::*site) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < c.n_layers(); ++i)
    if (c.layers[static_cast<size_t>(i)].*site) out.push_back(i);
  return out;
}

// Reads a JSON object into a config; keys that are absent keep their value.
class Loader {
 public:
  Loader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  template <class T, class... Bounds>
  void operator()(const char* key, T& field, Bounds...) {
    if (const Json* value = Find(key)) Read(*value, Field(key), field);
  }

  void Layers(ModelConfig& c) {
    const Json* count = Find("num_hidden_layers");
    int64_t n = c.n_layers();
    if (count != nullptr) ReadJson(*count, Field("num_hidden_layers"), &n);
    if (n < 1 || n > kMaxLayers)
      throw Error(ErrorCode::kConfig, StrCat(Field("num_hidden_layers"), " = ", n, ": must be 1 to ", kMaxLayers));
    if (n != c.n_layers()) c.layers = ModelConfig::DefaultHydraLayers(n);
    ReadTypes(c);
    ReadSites("workspace_layers", c, &LayerConfig::workspace);
    ReadSites("pkm_layers", c, &LayerConfig::pkm);
  }

  // Hydra's blocks have chunk experts, or BlockFFN layers in their place.
  void MoeKind(ModelConfig& c) {
    std::string kind = c.HasFfn(FfnKind::kBlockFfn) ? "blockffn" : "chunk";
    if (const Json* value = Find("moe_kind")) ReadJson(*value, Field("moe_kind"), &kind);
    if (kind != "chunk" && kind != "blockffn")
      throw Error(ErrorCode::kConfig, StrCat(Field("moe_kind"), " = \"", kind, "\": must be chunk or blockffn"));
    const bool block = kind == "blockffn", was = c.HasFfn(FfnKind::kBlockFfn);
    for (LayerConfig& layer : c.layers)
      if (layer.ffn != FfnKind::kNone) layer.ffn = block ? FfnKind::kBlockFfn : FfnKind::kChunkMoe;
    const Json* size = Find("expert_size");
    if (size != nullptr && size->is_null()) size = nullptr;
    if (block && size == nullptr && !was)
      throw Error(ErrorCode::kConfig, StrCat(Field("expert_size"), " is missing: moe_kind = \"blockffn\" needs it"));
    if (!block && size != nullptr)
      throw Error(ErrorCode::kConfig, StrCat(Field("expert_size"), " = ", JsonExcerpt(*size),
                                             ": only for moe_kind = \"blockffn\"; chunk experts have "
                                             "moe_intermediate_size"));
    if (size != nullptr) ReadJson(*size, Field("expert_size"), &c.moe.d_expert);
  }

  void Domains(MoeConfig& moe) {
    if (const Json* coef = Find("expert_domain_loss_coef"))
      ReadJson(*coef, Field("expert_domain_loss_coef"), &moe.domain_loss_coef);
    const Json* value = Find("expert_domains");
    if (value == nullptr) return;
    const std::string field = Field("expert_domains");
    if (!value->is_object())
      throw Error(ErrorCode::kConfig, StrCat(field, " = ", JsonExcerpt(*value), ": must be an object of lists"));
    moe.domains.clear();
    for (const auto& [name, experts] : value->items()) {
      ReadJson(experts, StrCat(field, ".", name), &moe.domains.emplace_back(ExpertDomain{name, {}}).experts);
      std::ranges::sort(moe.domains.back().experts);
    }
  }

  void Fixed(const char* key, const char* json_text) {
    const Json* value = Find(key);
    if (value != nullptr && *value != Json::parse(json_text))
      throw Error(ErrorCode::kConfig,
                  StrCat(Field(key), " = ", JsonExcerpt(*value), ": this version runs ", json_text, " only"));
  }

  [[nodiscard]] bool Has(const char* key) const { return json_.contains(key); }

  // After all fields were visited: any other key is a mistake.
  void RefuseUnknown() const {
    for (const auto& [key, value] : json_.items()) {
      if (known_.count(key) != 0 || key == "model_type" || key == "architectures" || key == "hydralm_version") continue;
      throw Error(ErrorCode::kConfig, StrCat(where_, ": unknown key \"", key, "\"", DidYouMean(key, known_)));
    }
  }

 private:
  static constexpr int64_t kMaxLayers = 4096;

  const Json* Find(const char* key) {
    known_.insert(key);
    const auto it = json_.find(key);
    return it == json_.end() ? nullptr : &*it;
  }
  [[nodiscard]] std::string Field(const char* key) const { return StrCat(where_, ": ", key); }

  template <class T>
  static void Read(const Json& value, const std::string& field, T& out) {
    if constexpr (std::is_same_v<T, DType>) {
      std::string name;
      ReadJson(value, field, &name);
      if (!ParseTorchDType(name, &out))
        throw Error(ErrorCode::kConfig,
                    StrCat(field, " = \"", name, "\": must be float32, bfloat16, float16 or float64"));
    } else if constexpr (std::is_enum_v<T>) {
      std::string name;
      ReadJson(value, field, &name);
      const auto& names = EnumNames<T>::names;
      const auto it = std::find(std::begin(names), std::end(names), name);
      if (it == std::end(names)) {
        std::string all;
        for (const char* n : names) all += StrCat(all.empty() ? "" : ", ", n);
        throw Error(ErrorCode::kConfig, StrCat(field, " = \"", name, "\": must be one of ", all));
      }
      out = static_cast<T>(it - std::begin(names));
    } else {
      ReadJson(value, field, &out);
    }
  }

  void ReadTypes(ModelConfig& c) {
    const Json* value = Find("layer_types");
    if (value == nullptr) return;
    if (value->is_array() && static_cast<int64_t>(value->size()) != c.n_layers())
      throw Error(ErrorCode::kConfig,
                  StrCat(Field("layer_types"), " has ", value->size(), " entries, num_hidden_layers = ", c.n_layers()));
    std::vector<std::string> types;
    ReadJson(*value, Field("layer_types"), &types);
    for (size_t i = 0; i < types.size(); ++i) {
      const auto it = std::find(std::begin(kLayerTypes), std::end(kLayerTypes), types[i]);
      if (it == std::end(kLayerTypes))
        throw Error(ErrorCode::kConfig, StrCat(Field("layer_types"), "[", i, "] = \"", types[i],
                                               "\": must be ssm, ssm_sga, ssm_moe or ssm_sga_moe"));
      const auto index = it - std::begin(kLayerTypes);
      c.layers[i].attention = (index & 1) != 0 ? AttentionKind::kSparse : AttentionKind::kNone;
      c.layers[i].ffn = (index & 2) != 0 ? FfnKind::kChunkMoe : FfnKind::kNone;
    }
  }

  void ReadSites(const char* key, ModelConfig& c, bool LayerConfig::*site) {
    const Json* value = Find(key);
    if (value == nullptr) return;
    std::vector<int64_t> sites;
    ReadJson(*value, Field(key), &sites);
    for (LayerConfig& layer : c.layers) layer.*site = false;
    for (size_t i = 0; i < sites.size(); ++i) {
      if (sites[i] < 0 || sites[i] >= c.n_layers())
        throw Error(ErrorCode::kConfig,
                    StrCat(Field(key), "[", i, "] = ", sites[i], ": must be 0 to ", c.n_layers() - 1));
      c.layers[static_cast<size_t>(sites[i])].*site = true;
    }
  }

  const Json& json_;
  std::string where_;
  std::set<std::string> known_;
};

// Builds the JSON object of a config.
class Saver {
 public:
  template <class T, class... Bounds>
  void operator()(const char* key, const T& field, Bounds...) {
    if constexpr (std::is_same_v<T, DType>) {
      json_[key] = TorchDTypeName(field);
    } else if constexpr (std::is_enum_v<T>) {
      json_[key] = EnumNames<T>::names[static_cast<size_t>(field)];
    } else if constexpr (std::is_same_v<T, std::optional<int64_t>>) {
      json_[key] = field ? Json(*field) : Json(nullptr);
    } else if constexpr (std::is_same_v<T, std::array<double, 2>>) {
      json_[key] = Json::array({Number(field[0]), Number(field[1])});
    } else {
      json_[key] = field;
    }
  }
  void Layers(const ModelConfig& c) {
    json_["num_hidden_layers"] = c.n_layers();
    json_["layer_types"] = Json::array();
    for (const LayerConfig& layer : c.layers) json_["layer_types"].push_back(LayerType(layer));
    json_["workspace_layers"] = Sites(c, &LayerConfig::workspace);
    json_["pkm_layers"] = Sites(c, &LayerConfig::pkm);
  }
  void MoeKind(const ModelConfig& c) {
    const bool block = c.HasFfn(FfnKind::kBlockFfn);
    json_["moe_kind"] = block ? "blockffn" : "chunk";
    json_["expert_size"] = block ? Json(c.moe.d_expert) : Json();
  }
  void Domains(const MoeConfig& moe) {
    if (moe.domains.empty()) return;
    for (const ExpertDomain& domain : moe.domains) json_["expert_domains"][domain.name] = domain.experts;
    json_["expert_domain_loss_coef"] = moe.domain_loss_coef;
  }
  void Fixed(const char* key, const char* json_text) { json_[key] = Json::parse(json_text); }
  Json& json() { return json_; }

 private:
  static Json Number(double value) { return std::isinf(value) ? Json("inf") : Json(value); }
  Json json_ = Json::object();
};

// Checks each number against its bounds.
class RangeChecker {
 public:
  explicit RangeChecker(const std::string& where) : where_(where) {}
  void operator()(const char* key, int64_t field, Between b) const { Check(key, static_cast<double>(field), b); }
  void operator()(const char* key, double field, Between b) const { Check(key, field, b); }
  void operator()(const char* key, const std::optional<int64_t>& field, Between b) const {
    if (field) Check(key, static_cast<double>(*field), b);
  }
  template <size_t n>
  void operator()(const char* key, const std::array<double, n>& field, Between b) const {
    for (const double value : field) Check(key, value, b);
  }
  template <class T>
  void operator()(const char*, const T&) const {}
  void Layers(const ModelConfig&) const {}
  void MoeKind(const ModelConfig&) const {}
  void Domains(const MoeConfig& moe) const { Check("expert_domain_loss_coef", moe.domain_loss_coef, {0, 1e6}); }
  void Fixed(const char*, const char*) const {}

 private:
  void Check(const char* key, double value, Between b) const {
    if (value >= b.low && value <= b.high) return;  // false for NaN
    std::string rule = StrCat("must be ", b.low, " to ", b.high);
    if (b.low == kPositive.low) rule = "must be positive";
    if (b.low == kAnyNumber.low) rule = "must be finite";
    throw Error(ErrorCode::kConfig, StrCat(where_, ": ", key, " = ", value, ": ", rule));
  }
  const std::string& where_;
};

// Rules that bind several fields.
class Rules {
 public:
  Rules(const ModelConfig& c, const std::string& where) : c_(c), where_(where) {}

  void Check() const {
    CheckSizes();
    if (c_.HasSsm() && c_.ssm.kind == SsmKind::kMamba2) CheckSsm();
    if (c_.HasAttention(AttentionKind::kFull) || c_.HasAttention(AttentionKind::kSparse)) CheckAttention();
    if (c_.HasFfn(FfnKind::kChunkMoe))
      Require(c_.moe.top_k <= c_.moe.n_experts, "num_experts_per_tok", c_.moe.top_k,
              "must be 1 to num_experts = ", c_.moe.n_experts);
    CheckDomains();
    if (c_.HasFfn(FfnKind::kBlockFfn)) CheckBlockFfn();
    if (c_.HasAttention(AttentionKind::kLatent))
      Require(c_.attention.latent.d_rope % 2 == 0, "qk_rope_head_dim", c_.attention.latent.d_rope, "must be even");
    if (c_.HasFfn(FfnKind::kDense)) Require(c_.d_ff >= 1, "intermediate_size", c_.d_ff, "must be at least 1");
    if (c_.HasWorkspace())
      Require(c_.workspace.write_slots <= c_.workspace.n_slots, "workspace_write_slots", c_.workspace.write_slots,
              "must be 1 to workspace_slots = ", c_.workspace.n_slots);
    if (c_.HasPkm())
      Require(c_.pkm.top_k <= c_.pkm.n_keys, "pkm_top_k", c_.pkm.top_k, "must be 1 to pkm_n_keys = ", c_.pkm.n_keys);
    CheckTokenId("bos_token_id", c_.bos_token_id);
    CheckTokenId("eos_token_id", c_.eos_token_id);
    CheckTokenId("pad_token_id", c_.pad_token_id);
    for (const int64_t id : c_.more_eos_token_ids) {
      Require(id >= 0, "eos_token_id", id, "must not be negative");
      CheckTokenId("eos_token_id", id);
    }
  }

 private:
  template <class T, class... Text>
  void Require(bool ok, const char* key, const T& value, const Text&... rule) const {
    if (!ok) throw Error(ErrorCode::kConfig, StrCat(where_, ": ", key, " = ", value, ": ", rule...));
  }

  // Each count is bounded alone; these bound what is made of them, far over any model, so that sizes, bytes and
  // operations fit 63 bits. In double: the products themselves might not.
  void CheckSizes() const {
    const auto x = [](int64_t n) { return static_cast<double>(n); };
    const auto at_most = [&](const char* key, int64_t value, const char* product, double got, int bits) {
      Require(got <= std::ldexp(1.0, bits), key, value, product, " is over 2^", bits);
    };
    const SsmConfig& s = c_.ssm;
    const AttentionConfig& a = c_.attention;
    const double L = x(c_.n_layers()), D = x(c_.d_model), heads = x(a.n_heads) * x(a.head_dim);
    const double inner = x(s.n_heads) * x(s.head_dim), groups = x(s.n_groups) * x(s.d_state);
    at_most("intermediate_size", c_.d_ff, "it", x(c_.d_ff), 24);
    at_most("num_attention_heads", a.n_heads, "times head_dim and layers it", L * heads, 28);
    at_most("num_key_value_heads", a.n_kv_heads, "times head_dim and layers it", L * x(a.n_kv_heads) * x(a.head_dim),
            28);
    at_most("mamba_n_heads", s.n_heads, "times mamba_d_head and layers it", L * inner, 28);
    at_most("mamba_n_groups", s.n_groups, "times mamba_d_state and layers it", L * groups, 28);
    at_most("mamba_d_state", s.d_state, "times the heads' width and layers it", L * x(s.d_state) * inner, 44);
    at_most("num_experts", c_.moe.n_experts, "times moe_intermediate_size and layers it",
            L * x(c_.moe.n_experts) * x(c_.moe.d_expert), 34);
    at_most("workspace_slots", c_.workspace.n_slots, "times workspace_rank and layers it",
            L * x(c_.workspace.n_slots) * x(c_.workspace.rank), 34);
    at_most("pkm_heads", c_.pkm.n_heads, "times pkm_d_key and layers it", L * x(c_.pkm.n_heads) * x(c_.pkm.d_key), 28);
    at_most("pkm_top_k", c_.pkm.top_k, "times pkm_heads, pkm_d_value and layers it",
            L * x(c_.pkm.top_k) * x(c_.pkm.n_heads) * x(c_.pkm.d_value), 40);
    at_most("pkm_n_keys", c_.pkm.n_keys, "squared times pkm_d_value",
            x(c_.pkm.n_keys) * x(c_.pkm.n_keys) * x(c_.pkm.d_value), 46);
    const double widths = 4 * heads + 3 * x(c_.d_ff) + 4 * inner + 2 * groups +
                          3 * x(c_.moe.n_experts) * x(c_.moe.d_expert) + 4 * x(c_.workspace.rank) +
                          x(c_.pkm.n_heads) * x(c_.pkm.d_key) + x(c_.pkm.d_value) + 8 * D;
    at_most("hidden_size", c_.d_model, "times all other widths and layers", D * (L * widths + 2 * x(c_.vocab_size)),
            48);
  }

  void CheckBlockFfn() const {
    constexpr int64_t kUnit = 16;  // numbers of a vector of the decode kernels
    Require(c_.moe.d_expert % kUnit == 0, "expert_size", c_.moe.d_expert, "must be a multiple of ", kUnit);
    if (c_.moe.routing == BlockRouting::kTopK)
      Require(c_.moe.top_k <= c_.moe.n_experts, "num_experts_per_tok", c_.moe.top_k,
              "must be 1 to num_experts = ", c_.moe.n_experts);
  }

  void CheckDomains() const {
    const MoeConfig& moe = c_.moe;
    Require(moe.domains.empty() || c_.HasFfn(FfnKind::kChunkMoe), "expert_domains", moe.domains.size(),
            "this model has no chunk-routed experts");
    for (const ExpertDomain& domain : moe.domains) {
      const std::string key = "expert_domains." + domain.name;
      const auto n = static_cast<int64_t>(domain.experts.size());
      Require(n >= moe.top_k, key.c_str(), n, "experts: must be num_experts_per_tok = ", moe.top_k, " at least");
      for (size_t i = 0; i < domain.experts.size(); ++i) {
        const int64_t expert = domain.experts[i];
        Require(expert >= 0 && expert < moe.n_experts, key.c_str(), expert, "must be 0 to ", moe.n_experts - 1);
        Require(i == 0 || expert != domain.experts[i - 1], key.c_str(), expert, "is there twice");
      }
    }
  }

  void CheckSsm() const {
    const SsmConfig& s = c_.ssm;
    const int64_t want = s.expand * c_.d_model;
    Require(s.d_inner() == want, "mamba_n_heads", s.n_heads, "n_heads * head_dim = ", s.d_inner(),
            ", must be expand * hidden_size = ", want);
    Require(s.n_heads % s.n_groups == 0, "mamba_n_groups", s.n_groups, "must divide mamba_n_heads = ", s.n_heads);
    Require(s.d_inner() % s.norm_groups == 0, "mamba_norm_groups", s.norm_groups,
            "must divide d_inner = ", s.d_inner());
    Require(s.dt_min <= s.dt_max, "time_step_min", s.dt_min, "must not exceed time_step_max = ", s.dt_max);
    Require(s.dt_limit[0] <= s.dt_limit[1], "time_step_limit", s.dt_limit[0], "must not exceed its upper end ",
            s.dt_limit[1]);
    Require(s.A_init[0] <= s.A_init[1], "mamba_A_init_range", s.A_init[0], "must not exceed its upper end ",
            s.A_init[1]);
  }

  void CheckAttention() const {
    const AttentionConfig& a = c_.attention;
    Require(a.n_heads % a.n_kv_heads == 0, "num_key_value_heads", a.n_kv_heads,
            "must divide num_attention_heads = ", a.n_heads);
    Require(a.head_dim % 2 == 0, "head_dim", a.head_dim, "must be even (RoPE turns pairs)");
    if (a.rope_scaling) CheckRopeScaling(*a.rope_scaling);
    if (!c_.HasAttention(AttentionKind::kSparse)) return;
    Require(c_.chunk_len <= a.window, "sliding_window", a.window, "must be at least model_chunk_size = ", c_.chunk_len);
    Require(a.landmarks_per_chunk <= c_.chunk_len, "landmarks_per_chunk", a.landmarks_per_chunk,
            "must be at most model_chunk_size = ", c_.chunk_len);
    Require(a.landmark_budget == 0 || a.landmarks_per_chunk >= 1, "landmarks_per_chunk", a.landmarks_per_chunk,
            "must be at least 1 when landmark_budget = ", a.landmark_budget);
  }

  void CheckRopeScaling(const RopeScaling& r) const {
    const auto positive = [](double x) { return x > 0 && x < 1e9; };  // false for NaN
    Require(positive(r.factor), "rope_scaling.factor", r.factor, "must be positive");
    Require(positive(r.low_freq_factor), "rope_scaling.low_freq_factor", r.low_freq_factor, "must be positive");
    Require(r.high_freq_factor > r.low_freq_factor && positive(r.high_freq_factor), "rope_scaling.high_freq_factor",
            r.high_freq_factor, "must exceed low_freq_factor = ", r.low_freq_factor);
    Require(r.original_max_position_embeddings >= 1, "rope_scaling.original_max_position_embeddings",
            r.original_max_position_embeddings, "must be at least 1");
    const auto n = static_cast<int64_t>(r.divisors.size());
    Require(n == 0 || n == c_.attention.head_dim / 2, "rope_scaling.divisors: size", n,
            "must be half of head_dim = ", c_.attention.head_dim);
    for (const double divisor : r.divisors)
      Require(positive(divisor), "rope_scaling.divisors: value", divisor, "must be positive");
  }

  void CheckTokenId(const char* key, const std::optional<int64_t>& id) const {
    if (id) Require(*id < c_.vocab_size, key, *id, "must be below vocab_size = ", c_.vocab_size);
  }

  const ModelConfig& c_;
  const std::string& where_;
};

ModelConfig ParseHydra(const Json& json, const std::string& where, ModelConfig base, bool whole_file) {
  Loader loader(json, where);
  VisitHydraFields(loader, base);
  loader.RefuseUnknown();
  // Their defaults follow other keys; they hold for a file, not for the overriding of single keys.
  if (whole_file && !loader.Has("mamba_norm_groups")) base.ssm.norm_groups = base.ssm.n_groups;
  return base;
}

Json ToJson(const ModelConfig& config) {
  if (config.family != Family::kHydra) return WriteHfConfig(config);
  Saver saver;
  saver.json()["model_type"] = "hydra";
  VisitHydraFields(saver, config);
  return saver.json();
}

ModelConfig FromJson(const Json& json, const std::string& where, std::vector<std::string>* warnings) {
  if (!json.is_object()) throw Error(ErrorCode::kConfig, StrCat(where, ": must be a JSON object"));
  const auto type = json.find("model_type");
  std::string family;
  if (type != json.end()) ReadJson(*type, where + ": model_type", &family);
  ModelConfig config;
  if (family == "hydra")
    config = ParseHydra(json, where, ModelConfig{}, true);
  else
    config = ReadHfConfig(json, family, where, warnings);
  config.Validate(where);
  return config;
}

}  // namespace

double ModelConfig::residual_scale() const {
  return scale_depth > 0 ? scale_depth / std::sqrt(static_cast<double>(n_layers())) : 1;
}
double ModelConfig::head_scale() const {
  return dim_model_base > 0 ? dim_model_base / static_cast<double>(d_model) : 1;
}

bool ModelConfig::HasSsm() const {
  return std::any_of(layers.begin(), layers.end(), [](const LayerConfig& l) { return l.ssm; });
}
bool ModelConfig::HasAttention(AttentionKind kind) const {
  return std::any_of(layers.begin(), layers.end(), [&](const LayerConfig& l) { return l.attention == kind; });
}
bool ModelConfig::HasFfn(FfnKind kind) const {
  return std::any_of(layers.begin(), layers.end(), [&](const LayerConfig& l) { return l.ffn == kind; });
}
bool ModelConfig::HasWorkspace() const {
  return std::any_of(layers.begin(), layers.end(), [](const LayerConfig& l) { return l.workspace; });
}
bool ModelConfig::HasPkm() const {
  return std::any_of(layers.begin(), layers.end(), [](const LayerConfig& l) { return l.pkm; });
}
bool ModelConfig::HasLandmarks() const { return HasAttention(AttentionKind::kSparse) && attention.landmark_budget > 0; }

std::vector<int64_t> ModelConfig::EosTokenIds() const {
  std::vector<int64_t> ids;
  if (eos_token_id) ids.push_back(*eos_token_id);
  ids.insert(ids.end(), more_eos_token_ids.begin(), more_eos_token_ids.end());
  return ids;
}

std::vector<LayerConfig> ModelConfig::DefaultHydraLayers(int64_t n) {
  std::vector<LayerConfig> layers(static_cast<size_t>(n));
  for (size_t i = 0; i < layers.size(); ++i) {
    if (i % 3 == 2) layers[i].attention = AttentionKind::kSparse;
    if (i % 2 == 0) layers[i].ffn = FfnKind::kChunkMoe;
    layers[i].workspace = i % 4 == 3;
    layers[i].pkm = n > 1 && i == layers.size() / 2;
  }
  return layers;
}

const ExpertDomain* MoeConfig::FindDomain(std::string_view name) const {
  const auto found = std::ranges::find(domains, name, &ExpertDomain::name);
  return found == domains.end() ? nullptr : &*found;
}

void ModelConfig::Validate(const std::string& where) const {
  if (layers.empty()) throw Error(ErrorCode::kConfig, StrCat(where, ": num_hidden_layers = 0: must be at least 1"));
  RangeChecker ranges(where);
  VisitHydraFields(ranges, *this);
  Rules(*this, where).Check();
}

ModelConfig ParseConfig(std::string_view json, const std::string& where, std::vector<std::string>* warnings) {
  return FromJson(ParseJson(json, where), where, warnings);
}

ModelConfig LoadConfig(const std::string& path, std::vector<std::string>* warnings) {
  namespace fs = std::filesystem;
  const std::string file = fs::is_directory(path) ? (fs::path(path) / "config.json").string() : path;
  constexpr uint64_t kMaxBytes = 1 << 20;  // real ones have a few KiB
  return ParseConfig(MappedFile(file, kMaxBytes).text(), file, warnings);
}

std::string ConfigJson(const ModelConfig& config) { return DumpHfJson(ToJson(config)); }

ModelConfig OverrideConfig(const ModelConfig& config, std::string_view json_object, const std::string& where) {
  const Json overrides = ParseJson(json_object, where);
  if (!overrides.is_object()) throw Error(ErrorCode::kConfig, StrCat(where, ": must be an object of config keys"));
  if (config.family == Family::kHydra) {
    ModelConfig out = ParseHydra(overrides, where, config, false);
    out.Validate(where);
    return out;
  }
  Json json = ToJson(config);
  for (const auto& [key, value] : overrides.items()) {
    if (!json.contains(key)) {
      std::vector<std::string> known;
      for (const auto& [name, ignored] : json.items()) known.push_back(name);
      throw Error(ErrorCode::kConfig, StrCat(where, ": unknown key \"", key, "\"", DidYouMean(key, known)));
    }
    json[key] = value;
  }
  return FromJson(json, where, nullptr);
}

std::vector<std::string> CompareConfigs(const ModelConfig& a, const ModelConfig& b) {
  const Json left = ToJson(a), right = ToJson(b);
  std::vector<std::string> out;
  for (const auto& [key, value] : left.items()) {
    if (!right.contains(key))
      out.push_back(StrCat(key, ": ", JsonExcerpt(value), " != (absent)"));
    else if (value != right[key])
      out.push_back(StrCat(key, ": ", JsonExcerpt(value), " != ", JsonExcerpt(right[key])));
  }
  for (const auto& [key, value] : right.items())
    if (!left.contains(key)) out.push_back(StrCat(key, ": (absent) != ", JsonExcerpt(value)));
  return out;
}

const char* FamilyName(Family family) {
  switch (family) {
    case Family::kHydra: return "hydra";
    case Family::kLlama: return "llama";
    case Family::kMamba2: return "mamba2";
    case Family::kQwen2: return "qwen2";
    case Family::kQwen3: return "qwen3";
    case Family::kMiniCpm: return "minicpm";
  }
  return "?";
}

}  // namespace hydra
