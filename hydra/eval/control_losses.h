// SPDX-License-Identifier: Apache-2.0
// Measures what each setting of controls costs in loss: the table that --budget picks from. Silent. Not here: the table
// (model/control_table.h).
#pragma once

#include <functional>
#include <string>

#include "hydra/eval/perplexity.h"
#include "hydra/model/control_table.h"

namespace hydra::eval {

// One evaluation for each of ControlSettings; on_row is told of each. Throws as EvaluateShards.
[[nodiscard]] ControlTable MeasureControls(nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                                           const std::string& split, const PerplexityOptions& options,
                                           const std::function<void(const ControlTable::Row&)>& on_row);

}  // namespace hydra::eval
