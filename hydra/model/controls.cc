// SPDX-License-Identifier: Apache-2.0
// Checks of controls, and their JSON form.
#include "hydra/model/controls.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "hydra/base/error.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

[[noreturn]] void Refuse(const char* control, const std::string& value, const std::string& rule) {
  throw Error(ErrorCode::kUsage, StrCat("--control ", control, "=", value, ": ", rule));
}

void CheckScale(const char* control, double value) {
  if (!(value >= 0) || std::isinf(value)) Refuse(control, StrCat(value), "must be 0 or more");
}

void CheckExperts(const char* control, const std::vector<int64_t>& ids, int64_t n_experts) {
  std::set<int64_t> seen;
  for (const int64_t id : ids) {
    if (id < 0 || id >= n_experts) Refuse(control, StrCat(id), StrCat("must be 0 to ", n_experts - 1));
    if (!seen.insert(id).second) Refuse(control, StrCat(id), "named twice");
  }
}

}  // namespace

void Controls::Validate(const ModelConfig& config) const {
  for (const double a : path_scale) CheckScale("path_scale", a);
  CheckScale("workspace_read", workspace_read);
  CheckScale("pkm_read", pkm_read);
  const bool routed =
      router_temperature || moe_top_k || !force_experts.empty() || !ban_experts.empty() || !expert_bias.empty();
  if (routed && !config.HasFfn(FfnKind::kChunkMoe))
    throw Error(ErrorCode::kUsage, "--control: this model has no routed experts");
  const int64_t E = config.moe.n_experts;
  if (router_temperature && !(*router_temperature > 0))
    Refuse("router_temperature", StrCat(*router_temperature), "must be above 0");
  if (moe_top_k && (*moe_top_k < 1 || *moe_top_k > E))
    Refuse("moe_top_k", StrCat(*moe_top_k), StrCat("must be 1 to ", E));
  CheckExperts("force_experts", force_experts, E);
  CheckExperts("ban_experts", ban_experts, E);
  if (static_cast<int64_t>(ban_experts.size()) >= E)
    Refuse("ban_experts", StrCat(ban_experts.size(), " experts"), "at least one must be left");
  for (const int64_t id : force_experts)
    if (std::find(ban_experts.begin(), ban_experts.end(), id) != ban_experts.end())
      Refuse("force_experts", StrCat(id), "is banned");
  if (!expert_bias.empty() && static_cast<int64_t>(expert_bias.size()) != E)
    Refuse("expert_bias", StrCat(expert_bias.size(), " numbers"), StrCat("must be ", E));
  for (const double b : expert_bias)
    if (!std::isfinite(b)) Refuse("expert_bias", StrCat(b), "must be finite");
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
  Controls c;
  const auto read = [&](const char* key, auto* out) {
    if (json.is_object() && json.contains(key)) ReadJson(json[key], StrCat(where, ": ", key), out);
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
