// SPDX-License-Identifier: Apache-2.0
// How sparse a model's BlockFFN layers are on held-out text. Silent. Not here: the metrics (model/sparsity.h), what a
// run logs of them (train/trainer_eval.cc).
#pragma once

#include <string>

#include "hydra/eval/perplexity.h"
#include "hydra/nn/sparsity.h"

namespace hydra::eval {

// Over the documents of a split in the order of EvaluateShards. Throws kUsage for a model without such layers, and as
// EvaluateShards.
[[nodiscard]] nn::SparsityByLayer MeasureSparsity(nn::Model& model, const Tokenizer& tokenizer,
                                                  const std::string& folder, const std::string& split,
                                                  const PerplexityOptions& options);

}  // namespace hydra::eval
