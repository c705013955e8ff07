// SPDX-License-Identifier: Apache-2.0
// Checks of controls, and their JSON form.
#include "hydra/model/controls.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

// Of all layers, or of one: where messages say "ban_experts" or "ban_experts@3".
struct Scope {
  const Controls& c;
  std::string at;  // "" or "@3"

  [[noreturn]] void Refuse(const std::string& control, const std::string& value, const std::string& rule) const {
    throw Error(ErrorCode::kUsage, StrCat("--control ", control, at, "=", value, ": ", rule));
  }
  void CheckScale(const char* control, double value) const {
    CheckNumber(value, StrCat("--control ", control, at));
    if (value < 0) Refuse(control, StrCat(value), "must be 0 or more");
  }
  void CheckExperts(const char* control, const std::vector<int64_t>& ids, int64_t n_experts) const {
    std::set<int64_t> seen;
    for (const int64_t id : ids) {
      if (id < 0 || id >= n_experts) Refuse(control, StrCat(id), StrCat("must be 0 to ", n_experts - 1));
      if (!seen.insert(id).second) Refuse(control, StrCat(id), "named twice");
    }
  }
  void CheckPaths(const ModelConfig& config) const;
  void CheckRouting(int64_t n_experts) const;
  void CheckValues(const ModelConfig& config) const;
};

template <class List>
std::string ListText(const List& values) {
  std::string text;
  for (const auto& value : values) text += StrCat(text.empty() ? "" : ",", value);
  return text;
}

// Controls of all layers that are not at their defaults.
std::vector<std::pair<const char*, std::string>> Changed(const Controls& c) {
  const Controls none;
  std::vector<std::pair<const char*, std::string>> changed;
  if (c.path_scale != none.path_scale) changed.emplace_back("path_scale", ListText(c.path_scale));
  if (c.workspace_read != none.workspace_read) changed.emplace_back("workspace_read", StrCat(c.workspace_read));
  if (c.pkm_read != none.pkm_read) changed.emplace_back("pkm_read", StrCat(c.pkm_read));
  if (!c.landmarks) changed.emplace_back("landmarks", "off");
  if (c.router_temperature) changed.emplace_back("router_temperature", StrCat(*c.router_temperature));
  if (c.moe_top_k) changed.emplace_back("moe_top_k", StrCat(*c.moe_top_k));
  if (!c.force_experts.empty()) changed.emplace_back("force_experts", ListText(c.force_experts));
  if (!c.ban_experts.empty()) changed.emplace_back("ban_experts", ListText(c.ban_experts));
  if (!c.expert_bias.empty()) changed.emplace_back("expert_bias", ListText(c.expert_bias));
  if (!c.pins.empty()) changed.emplace_back("pins", ListText(c.pins));
  return changed;
}

// A scale of a path that no block has.
void Scope::CheckPaths(const ModelConfig& config) const {
  const bool has[] = {config.HasSsm(),
                      config.HasAttention(AttentionKind::kFull) || config.HasAttention(AttentionKind::kSparse),
                      config.HasFfn(FfnKind::kChunkMoe) || config.HasFfn(FfnKind::kBlockFfn)};
  const char* const names[] = {"ssm", "sga", "moe"};
  for (size_t i = 0; i < c.path_scale.size(); ++i)
    if (c.path_scale[i] != 1 && !has[i])
      Refuse("path_scale", StrCat(c.path_scale[i]), StrCat("this model has no path ", names[i]));
}

void Scope::CheckRouting(int64_t E) const {
  constexpr double kLeast = 1e-20;  // a router's scores divided by it are still finite in f32
  if (c.router_temperature) {
    CheckNumber(*c.router_temperature, StrCat("--control router_temperature", at));
    if (*c.router_temperature < kLeast)
      Refuse("router_temperature", StrCat(*c.router_temperature), StrCat("must be ", kLeast, " or more"));
  }
  if (c.moe_top_k && (*c.moe_top_k < 1 || *c.moe_top_k > E))
    Refuse("moe_top_k", StrCat(*c.moe_top_k), StrCat("must be 1 to ", E));
  CheckExperts("force_experts", c.force_experts, E);
  CheckExperts("ban_experts", c.ban_experts, E);
  if (!c.ban_experts.empty() && static_cast<int64_t>(c.ban_experts.size()) >= E)
    Refuse("ban_experts", StrCat(c.ban_experts.size(), " experts"), "at least one must be left");
  for (const int64_t id : c.force_experts)
    if (std::find(c.ban_experts.begin(), c.ban_experts.end(), id) != c.ban_experts.end())
      Refuse("force_experts", StrCat(id), "is banned");
  if (!c.expert_bias.empty() && static_cast<int64_t>(c.expert_bias.size()) != E)
    Refuse("expert_bias", StrCat(c.expert_bias.size(), " numbers"), StrCat("must be ", E));
  for (const double b : c.expert_bias) CheckNumber(b, StrCat("--control expert_bias", at));
}

void Scope::CheckValues(const ModelConfig& config) const {
  for (const double a : c.path_scale) CheckScale("path_scale", a);
  CheckScale("workspace_read", c.workspace_read);
  CheckScale("pkm_read", c.pkm_read);
  CheckPaths(config);
  CheckRouting(config.moe.n_experts);
}

void CheckPins(const Controls& c, const ModelConfig& config) {
  const Scope all{c, ""};
  if (c.pins.empty()) return;
  if (!c.landmarks) all.Refuse("pins", ListText(c.pins), "landmarks are off");
  if (static_cast<int64_t>(c.pins.size()) > config.attention.landmark_budget)
    all.Refuse("pins", StrCat(c.pins.size(), " positions"),
               StrCat("a pool has ", config.attention.landmark_budget, " landmarks"));
  for (size_t i = 0; i < c.pins.size(); ++i)
    if (c.pins[i] < 0 || (i > 0 && c.pins[i] <= c.pins[i - 1]))
      all.Refuse("pins", ListText(c.pins), "must be ascending positions, 0 or more");
}

// Names and values of a layer's own controls.
std::vector<std::pair<const char*, std::string>> ChangedOf(const LayerControls& l) {
  std::vector<std::pair<const char*, std::string>> changed;
  if (l.path_scale) changed.emplace_back("path_scale", ListText(*l.path_scale));
  if (l.workspace_read) changed.emplace_back("workspace_read", StrCat(*l.workspace_read));
  if (l.pkm_read) changed.emplace_back("pkm_read", StrCat(*l.pkm_read));
  if (l.router_temperature) changed.emplace_back("router_temperature", StrCat(*l.router_temperature));
  if (l.moe_top_k) changed.emplace_back("moe_top_k", StrCat(*l.moe_top_k));
  if (l.force_experts) changed.emplace_back("force_experts", ListText(*l.force_experts));
  if (l.ban_experts) changed.emplace_back("ban_experts", ListText(*l.ban_experts));
  if (l.expert_bias) changed.emplace_back("expert_bias", ListText(*l.expert_bias));
  return changed;
}

// Why a control can change nothing in this layer; "" where it can.
std::string WhyIgnoredIn(std::string_view name, const LayerConfig& layer) {
  if (name == "path_scale") return "";
  if (name == "workspace_read") return layer.workspace ? "" : "this layer has no workspace";
  if (name == "pkm_read") return layer.pkm ? "" : "this layer has no product-key memory";
  return layer.ffn == FfnKind::kChunkMoe ? "" : "this layer has no chunk-routed experts";
}

// Calls v(name, field) for every control that a layer may have of its own.
template <class Visitor, class Any>
void VisitLayerControls(Visitor&& v, Any& c) {
  v("path_scale", c.path_scale);
  v("workspace_read", c.workspace_read);
  v("pkm_read", c.pkm_read);
  v("router_temperature", c.router_temperature);
  v("moe_top_k", c.moe_top_k);
  v("force_experts", c.force_experts);
  v("ban_experts", c.ban_experts);
  v("expert_bias", c.expert_bias);
}

void CheckKeys(const Json& json, const std::vector<std::string>& known, const std::string& where) {
  if (!json.is_object()) throw Error(ErrorCode::kFormat, where + ": must be an object");
  for (const auto& [key, value] : json.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      throw Error(ErrorCode::kFormat, StrCat(where, ": unknown control ", key, DidYouMean(key, known)));
}

template <class Any>
void ReadLayerControls(const Json& json, const std::string& where, Any* c) {
  VisitLayerControls(
      [&](const char* name, auto& field) {
        if (json.contains(name)) ReadJson(json[name], StrCat(where, ": ", name), &field);
      },
      *c);
}

std::vector<std::string> LayerControlNames() {
  std::vector<std::string> names;
  LayerControls none;
  VisitLayerControls([&](const char* name, auto&) { names.emplace_back(name); }, none);
  return names;
}

}  // namespace

std::string WhyControlIsIgnored(std::string_view name, const ModelConfig& config) {
  if (name == "path_scale")
    return config.wiring == Wiring::kParallel ? "" : "the blocks of this model have no parallel paths";
  if (name == "workspace_read") return config.HasWorkspace() ? "" : "this model has no workspace";
  if (name == "pkm_read") return config.HasPkm() ? "" : "this model has no product-key memory";
  if (name == "landmarks" || name == "pins") return config.HasLandmarks() ? "" : "this model has no landmarks";
  if (!config.HasFfn(FfnKind::kChunkMoe)) return "this model has no chunk-routed experts";
  if (name == "domain" && config.moe.domains.empty()) return "the experts of this model have no domains";
  if (config.moe.mode == RouterMode::kRoundRobin && name != "moe_top_k")
    return "this model takes its experts in turn (router_mode round_robin)";
  return "";
}

Controls Controls::Of(int64_t layer) const {
  Controls out = *this;
  out.layers.clear();
  const auto own = layers.find(layer);
  if (own == layers.end()) return out;
  const LayerControls& l = own->second;
  if (l.path_scale) out.path_scale = *l.path_scale;
  if (l.workspace_read) out.workspace_read = *l.workspace_read;
  if (l.pkm_read) out.pkm_read = *l.pkm_read;
  if (l.router_temperature) out.router_temperature = l.router_temperature;
  if (l.moe_top_k) out.moe_top_k = l.moe_top_k;
  if (l.force_experts) out.force_experts = *l.force_experts;
  if (l.ban_experts) out.ban_experts = *l.ban_experts;
  if (l.expert_bias) out.expert_bias = *l.expert_bias;
  return out;
}

void SetLayerControl(std::string_view name, const Controls& from, LayerControls* to) {
  if (name == "path_scale") to->path_scale = from.path_scale;
  if (name == "workspace_read") to->workspace_read = from.workspace_read;
  if (name == "pkm_read") to->pkm_read = from.pkm_read;
  if (name == "router_temperature") to->router_temperature = from.router_temperature;
  if (name == "moe_top_k") to->moe_top_k = from.moe_top_k;
  if (name == "force_experts") to->force_experts = from.force_experts;
  if (name == "ban_experts") to->ban_experts = from.ban_experts;
  if (name == "expert_bias") to->expert_bias = from.expert_bias;
}

std::vector<int64_t> ExpertsOutside(const MoeConfig& moe, const std::string& domain) {
  const ExpertDomain* found = moe.FindDomain(domain);
  if (found == nullptr) {
    std::vector<std::string> known;
    for (const ExpertDomain& one : moe.domains) known.push_back(one.name);
    throw Error(ErrorCode::kUsage,
                StrCat("--control domain=", domain, ": must be one of ", ListText(known), DidYouMean(domain, known)));
  }
  std::vector<int64_t> outside;
  for (int64_t expert = 0; expert < moe.n_experts; ++expert)
    if (!std::ranges::binary_search(found->experts, expert)) outside.push_back(expert);
  return outside;
}

void Controls::Validate(const ModelConfig& config) const {
  const Scope all{*this, ""};
  for (const auto& [name, value] : Changed(*this))
    if (const std::string why = WhyControlIsIgnored(name, config); !why.empty()) all.Refuse(name, value, why);
  all.CheckValues(config);
  CheckPins(*this, config);
  for (const auto& [layer, own] : layers) {
    const Controls here = Of(layer);
    const Scope scope{here, StrCat("@", layer)};
    for (const auto& [name, value] : ChangedOf(own)) {
      if (layer < 0 || layer >= config.n_layers())
        scope.Refuse(name, value, StrCat("layers are 0 to ", config.n_layers() - 1));
      std::string why = WhyControlIsIgnored(name, config);
      if (why.empty()) why = WhyIgnoredIn(name, config.layers[static_cast<size_t>(layer)]);
      if (!why.empty()) scope.Refuse(name, value, why);
    }
    scope.CheckValues(config);
  }
}

std::string ControlsJson(const Controls& c) {
  Json j;
  const auto write = [](Json* to) {
    return [to](const char* name, const auto& field) {
      using Field = std::decay_t<decltype(field)>;
      if constexpr (requires(const Field& f) { f.has_value(); }) {
        if (field) (*to)[name] = *field;
      } else {
        (*to)[name] = field;
      }
    };
  };
  VisitLayerControls(write(&j), c);
  j["landmarks"] = c.landmarks;
  if (!c.pins.empty()) j["pins"] = c.pins;
  for (const auto& [layer, own] : c.layers) {
    Json one = Json::object();
    VisitLayerControls(write(&one), own);
    j["layers"][std::to_string(layer)] = one;
  }
  return j.dump();
}

Controls ParseControlsJson(const std::string& text, const std::string& where) {
  const Json json = ParseJson(text, where);
  std::vector<std::string> known = LayerControlNames();
  const std::vector<std::string> of_layers = known;
  known.insert(known.end(), {"landmarks", "pins", "layers"});
  CheckKeys(json, known, where);
  Controls c;
  ReadLayerControls(json, where, &c);
  if (json.contains("landmarks")) ReadJson(json["landmarks"], where + ": landmarks", &c.landmarks);
  if (json.contains("pins")) ReadJson(json["pins"], where + ": pins", &c.pins);
  if (!json.contains("layers")) return c;
  CheckKeys(json["layers"].is_object() ? Json::object() : json["layers"], {}, where + ": layers");
  for (const auto& [layer, own] : json["layers"].items()) {
    const std::string at = StrCat(where, ": layers.", layer);
    CheckKeys(own, of_layers, at);
    constexpr int64_t kMostLayers = 1 << 20;
    ReadLayerControls(own, at, &c.layers[ParseWholeNumber(layer, 0, kMostLayers, at)]);
  }
  return c;
}

}  // namespace hydra
