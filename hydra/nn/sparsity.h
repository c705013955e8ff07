// SPDX-License-Identifier: Apache-2.0
// How sparse a model's BlockFFN layers are on batches. Not here: the metrics (model/sparsity.h).
#pragma once

#include <map>

#include "hydra/model/sparsity.h"
#include "hydra/nn/model.h"

namespace hydra::nn {

using SparsityByLayer = std::map<int, SparsityCounter>;

// Adds what one forward pass over the batch shows; documents begin as the batch has them.
void AddSparsity(const Model& model, const Batch& batch, ForwardOptions options, SparsityByLayer* counters);
[[nodiscard]] SparsityByLayer CountSparsity(const Model& model, const Batch& batch, ForwardOptions options = {});

}  // namespace hydra::nn
