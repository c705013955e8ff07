// SPDX-License-Identifier: Apache-2.0
// Hugging Face config.json of the families that are not hydra: llama, qwen2, qwen3 and mamba2. Source:
// specs/interfaces.md 2.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hydra/model/config.h"

namespace hydra {

// `family` is the file's model_type, or "" where it has none: then, and where it is not known, `architectures` decides.
// Refuses by name what the engines do not compute; all unknown keys together give one warning.
[[nodiscard]] ModelConfig ReadHfConfig(const nlohmann::ordered_json& json, const std::string& family,
                                       const std::string& where, std::vector<std::string>* warnings);
[[nodiscard]] nlohmann::ordered_json WriteHfConfig(const ModelConfig& config);
// Indented text; the string "Infinity" of time_step_limit is written as Python's json does, a bare Infinity.
[[nodiscard]] std::string DumpHfJson(const nlohmann::ordered_json& json);

}  // namespace hydra
