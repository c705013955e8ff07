// SPDX-License-Identifier: Apache-2.0
// The parts of a Hydra model that can be switched on and off as a whole: three paths and two memories.
// Not here: what a request may change (controls.h), stages of training (train/stage.h).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "hydra/model/config.h"

namespace hydra {

// The paths first, in the order of Controls::path_scale.
enum class ModelPart { kSsm, kSga, kMoe, kWorkspace, kPkm };
inline constexpr std::array<ModelPart, 5> kModelParts{ModelPart::kSsm, ModelPart::kSga, ModelPart::kMoe,
                                                      ModelPart::kWorkspace, ModelPart::kPkm};

// "ssm", "sga", "moe", "workspace", "pkm".
[[nodiscard]] const char* ModelPartName(ModelPart part);
[[nodiscard]] std::optional<ModelPart> ParseModelPart(std::string_view name);
// False for every part of a model whose blocks are not parallel.
[[nodiscard]] bool HasPart(const ModelConfig& config, ModelPart part);
// The model as if the part had never been in it; for what it costs.
[[nodiscard]] ModelConfig WithoutPart(ModelConfig config, ModelPart part);

}  // namespace hydra
