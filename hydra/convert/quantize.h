// SPDX-License-Identifier: Apache-2.0
// Which type each tensor of a model gets when it is quantised, and what that costs in accuracy.
// Not here: the blocks themselves (tensor/weight_type.h), files (convert.h).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/model/tensor_table.h"
#include "hydra/tensor/weight_type.h"

namespace hydra {

// q4_k_m mixes Q4_K with Q6_K where errors cost most, by llama.cpp's rule.
enum class QuantRecipe { kQ8_0, kQ4_0, kQ4_1, kQ4_K_M };
[[nodiscard]] const char* QuantRecipeName(QuantRecipe recipe);  // "q8_0", ..., "q4_k_m"
[[nodiscard]] std::optional<QuantRecipe> ParseQuantRecipe(std::string_view name);

// The type of one tensor. Tensors that are f32 in every model (norms, convolution, SSM constants, gates, routers, slot
// queries) stay f32. Sub-keys and the table of the product-key memory are Q8_0 at least. q4_k_m: Q6_K for the head and
// for half of the value and down matrices. A row that is no whole number of blocks falls back to Q8_0, then to f32.
[[nodiscard]] WeightType QuantisedType(const ModelConfig& config, const TensorSpec& spec, QuantRecipe recipe);

// The type of BlockFFN's down matrices where `wanted` is that of the others. Its rows are cut into experts, so that a
// block must not cross from one to the next: Q8_0 in place of blocks of 256, and BF16 where experts are no multiple of
// 32 wide.
[[nodiscard]] WeightType ExpertDownType(const ModelConfig& config, WeightType wanted);
// What that changed, for a person; "" where nothing.
[[nodiscard]] std::string ExpertDownNote(const ModelConfig& config, QuantRecipe recipe);

// How far the values of a quantised tensor are from its own: root of (sum of squared errors / sum of squares).
// Infinite where a value is NaN, and where zeros became something else.
[[nodiscard]] double RelativeError(std::span<const float> values, std::span<const float> quantised);

}  // namespace hydra
