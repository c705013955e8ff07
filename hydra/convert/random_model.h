// SPDX-License-Identifier: Apache-2.0
// Weights of a model that nobody trained, in memory: for benchmarks and tests. Not here: training's initial weights
// (nn/model_init.cc), which draw the same distributions in another order.
#pragma once

#include <cstdint>

#include "hydra/model/config.h"
#include "hydra/runtime/weights.h"
#include "hydra/tensor/weight_type.h"

namespace hydra {

struct RandomWeightOptions {
  WeightType type = WeightType::kBF16;  // of matrices; rows that are not whole blocks become Q8_0, else F32, and
                                        // down matrices of experts what ExpertDownType says
  uint64_t seed = 1;
};

// Each tensor drawn as the table says from a stream of its own. Small tensors are F32; large matrices repeat 64 rows.
[[nodiscard]] WeightSource RandomWeights(const ModelConfig& config, const RandomWeightOptions& options);

}  // namespace hydra
