// SPDX-License-Identifier: Apache-2.0
// What an untrained model's numbers are: the distributions of the tensor table's Init (specs/hydra.md 2.5).
// Not here: which stream of random numbers a tensor draws from, which its callers decide.
#pragma once

#include <cstdint>

#include "hydra/base/rng.h"
#include "hydra/model/config.h"
#include "hydra/model/tensor_table.h"

namespace hydra {

// Number i of a tensor, in row-major order. What is drawn depends on the state of `rng` alone, what is fixed
// (constants, path gates, the workspace's controller) on i alone and leaves `rng` as it is.
[[nodiscard]] double InitialValue(const ModelConfig& config, const TensorSpec& spec, int64_t i, Rng& rng);

}  // namespace hydra
