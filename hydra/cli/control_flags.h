// SPDX-License-Identifier: Apache-2.0
// Controls as users give them: --control KEY=VALUE, --control-profile FILE, --pin TEXT|POS. Not here: what controls are
// (model/controls.h), what they do (hydra/runtime).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hydra/cli/model_flags.h"
#include "hydra/model/controls.h"

namespace hydra::cli {

// `base`, or in its place the profile or what --budget chooses, with the controls of --control set: KEY=VALUE of
// specs/hydra.md 4, such as ban_experts=0,3 or path_scale=1,0,1, or KEY@LAYER=VALUE for one layer; a list may be empty.
// Throws kUsage naming the control where its value is bad or the model has no part for it, kFormat for a profile that
// is none.
[[nodiscard]] Controls ApplyControls(const ModelFlags& flags, const ModelConfig& config, const Controls& base = {});

// "moe_top_k=1 path_scale=1,0,1", "the model as it is".
[[nodiscard]] std::string ControlsText(const Controls& controls);

// Where the table of --budget lies: in the model's folder, or beside its file.
[[nodiscard]] std::string ControlTablePath(const std::string& model);
// What --budget chose, for a person; "" without it.
[[nodiscard]] std::string BudgetText(const ModelFlags& flags, const ModelConfig& config);

// --pin, repeatable.
void AddPinFlag(CLI::App* verb, std::vector<std::string>* pins);
// The pins of --pin that are positions. Throws kUsage where the model has no landmarks.
[[nodiscard]] std::vector<int64_t> PinnedPositions(const std::vector<std::string>& pins, const ModelConfig& config);
// Those that are texts.
[[nodiscard]] std::vector<std::string> PinnedTexts(const std::vector<std::string>& pins);

}  // namespace hydra::cli
