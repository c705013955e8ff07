// SPDX-License-Identifier: Apache-2.0
// What a request may change about a model's routing and memories (specs/hydra.md 4): part of a sequence's state.
// Not here: their text form (hydra/cli/model_flags.cc), what they do (hydra/runtime).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/model/config.h"

namespace hydra {

// Controls that one layer has in the place of those of all.
struct LayerControls {
  std::optional<std::array<double, 3>> path_scale{};
  std::optional<double> workspace_read{}, pkm_read{}, router_temperature{};
  std::optional<int64_t> moe_top_k{};
  std::optional<std::vector<int64_t>> force_experts{}, ban_experts{};
  std::optional<std::vector<double>> expert_bias{};
  bool operator==(const LayerControls&) const = default;
};

struct Controls {
  std::array<double, 3> path_scale{1, 1, 1};  // ssm, sga, moe; 0 = neither computed nor kept
  double workspace_read = 1, pkm_read = 1;    // 0 skips the read; the workspace write goes on
  bool landmarks = true;                      // false: window only, no pool
  std::optional<double> router_temperature{};
  std::optional<int64_t> moe_top_k{};
  std::vector<int64_t> force_experts{}, ban_experts{};
  std::vector<double> expert_bias{};          // [E] or empty
  std::vector<int64_t> pins{};                // positions that stay in every pool of landmarks, ascending
  std::map<int64_t, LayerControls> layers{};  // by layer

  // What holds in a layer: those of all, with its own in their place; `layers` is empty.
  [[nodiscard]] Controls Of(int64_t layer) const;
  // Throws Error(kUsage) naming the control, its value and the rule; also for a control, other than its default, that
  // can change nothing in this model.
  void Validate(const ModelConfig& config) const;
  bool operator==(const Controls&) const = default;
};

// Why a control can change nothing in this model ("this model has no workspace"); "" where it can. `name` is one of the
// names above.
[[nodiscard]] std::string WhyControlIsIgnored(std::string_view name, const ModelConfig& config);

// A control of `from` as one of a layer. `name` is one that layers have: all but landmarks and pins.
void SetLayerControl(std::string_view name, const Controls& from, LayerControls* to);

// What control domain=NAME bans: the experts outside of the domain's set. Throws kUsage where the model has no such
// domain.
[[nodiscard]] std::vector<int64_t> ExpertsOutside(const MoeConfig& moe, const std::string& domain);

// A JSON object and back: what Save writes and a profile holds. Unknown keys are errors that name `where`.
[[nodiscard]] std::string ControlsJson(const Controls& controls);
[[nodiscard]] Controls ParseControlsJson(const std::string& json, const std::string& where);

}  // namespace hydra
