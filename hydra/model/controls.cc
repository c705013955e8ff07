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

[[noreturn]] void Refuse(const std::string& control, const std::string& value, const std::string& rule) {
  throw Error(ErrorCode::kUsage, StrCat("--control ", control, "=", value, ": ", rule));
}

void CheckScale(const char* control, double value) {
  CheckNumber(value, StrCat("--control ", control));
  if (value < 0) Refuse(control, StrCat(value), "must be 0 or more");
}

void CheckExperts(const char* control, const std::vector<int64_t>& ids, int64_t n_experts) {
  std::set<int64_t> seen;
  for (const int64_t id : ids) {
    if (id < 0 || id >= n_experts) Refuse(control, StrCat(id), StrCat("must be 0 to ", n_experts - 1));
    if (!seen.insert(id).second) Refuse(control, StrCat(id), "named twice");
  }
}

// Controls that are not at their defaults.
std::vector<std::pair<const char*, std::string>> Changed(const Controls& c) {
  const Controls none;
  const auto list = [](const auto& values) {
    std::string text;
    for (const auto& value : values) text += StrCat(text.empty() ? "" : ",", value);
    return text;
  };
  std::vector<std::pair<const char*, std::string>> changed;
  if (c.path_scale != none.path_scale) changed.emplace_back("path_scale", list(c.path_scale));
  if (c.workspace_read != none.workspace_read) changed.emplace_back("workspace_read", StrCat(c.workspace_read));
  if (c.pkm_read != none.pkm_read) changed.emplace_back("pkm_read", StrCat(c.pkm_read));
  if (!c.landmarks) changed.emplace_back("landmarks", "off");
  if (c.router_temperature) changed.emplace_back("router_temperature", StrCat(*c.router_temperature));
  if (c.moe_top_k) changed.emplace_back("moe_top_k", StrCat(*c.moe_top_k));
  if (!c.force_experts.empty()) changed.emplace_back("force_experts", list(c.force_experts));
  if (!c.ban_experts.empty()) changed.emplace_back("ban_experts", list(c.ban_experts));
  if (!c.expert_bias.empty()) changed.emplace_back("expert_bias", list(c.expert_bias));
  return changed;
}

// A scale of a path that no block has.
void CheckPaths(const std::array<double, 3>& scale, const ModelConfig& config) {
  const bool has[] = {config.HasSsm(),
                      config.HasAttention(AttentionKind::kFull) || config.HasAttention(AttentionKind::kSparse),
                      config.HasFfn(FfnKind::kChunkMoe)};
  const char* const names[] = {"ssm", "sga", "moe"};
  for (size_t i = 0; i < scale.size(); ++i)
    if (scale[i] != 1 && !has[i]) Refuse("path_scale", StrCat(scale[i]), StrCat("this model has no path ", names[i]));
}

void CheckRouting(const Controls& c, int64_t E) {
  constexpr double kLeast = 1e-20;  // a router's scores divided by it are still finite in f32
  if (c.router_temperature) {
    CheckNumber(*c.router_temperature, "--control router_temperature");
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
  for (const double b : c.expert_bias) CheckNumber(b, "--control expert_bias");
}

}  // namespace

std::string WhyControlIsIgnored(std::string_view name, const ModelConfig& config) {
  if (name == "path_scale")
    return config.wiring == Wiring::kParallel ? "" : "the blocks of this model have no parallel paths";
  if (name == "workspace_read") return config.HasWorkspace() ? "" : "this model has no workspace";
  if (name == "pkm_read") return config.HasPkm() ? "" : "this model has no product-key memory";
  if (name == "landmarks") return config.HasLandmarks() ? "" : "this model has no landmarks";
  if (!config.HasFfn(FfnKind::kChunkMoe)) return "this model has no routed experts";
  if (config.moe.mode == RouterMode::kRoundRobin && name != "moe_top_k")
    return "this model takes its experts in turn (router_mode round_robin)";
  return "";
}

void Controls::Validate(const ModelConfig& config) const {
  for (const double a : path_scale) CheckScale("path_scale", a);
  CheckScale("workspace_read", workspace_read);
  CheckScale("pkm_read", pkm_read);
  for (const auto& [name, value] : Changed(*this))
    if (const std::string why = WhyControlIsIgnored(name, config); !why.empty()) Refuse(name, value, why);
  CheckPaths(path_scale, config);
  CheckRouting(*this, config.moe.n_experts);
}

std::string ControlsJson(const Controls& c) {
  Json j;
  j["path_scale"] = c.path_scale;
  j["workspace_read"] = c.workspace_read;
  j["pkm_read"] = c.pkm_read;
  j["landmarks"] = c.landmarks;
  if (c.router_temperature) j["router_temperature"] = *c.router_temperature;
  if (c.moe_top_k) j["moe_top_k"] = *c.moe_top_k;
  j["force_experts"] = c.force_experts;
  j["ban_experts"] = c.ban_experts;
  j["expert_bias"] = c.expert_bias;
  return j.dump();
}

Controls ParseControlsJson(const std::string& text, const std::string& where) {
  const Json json = ParseJson(text, where);
  if (!json.is_object()) throw Error(ErrorCode::kFormat, where + ": must be an object");
  Controls c;
  const auto read = [&](const char* key, auto* out) {
    if (json.contains(key)) ReadJson(json[key], StrCat(where, ": ", key), out);
  };
  read("path_scale", &c.path_scale);
  read("workspace_read", &c.workspace_read);
  read("pkm_read", &c.pkm_read);
  read("landmarks", &c.landmarks);
  read("router_temperature", &c.router_temperature);
  read("moe_top_k", &c.moe_top_k);
  read("force_experts", &c.force_experts);
  read("ban_experts", &c.ban_experts);
  read("expert_bias", &c.expert_bias);
  return c;
}

}  // namespace hydra
