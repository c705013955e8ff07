// SPDX-License-Identifier: Apache-2.0
// One self-contained HTML page of what a model costs: its parts' parameters, FLOPs and bytes, and how they grow with
// the length, beside a transformer and a Mamba-2 of equal size. No script, no outside requests. Not here: the numbers
// (model/accounting.h), plots (svg_plot.h).
#pragma once

#include <string>

#include "hydra/model/accounting.h"

namespace hydra::cli {

// `name`: what the page calls the model. Bytes of sequences are those of `run`; its context is the longest one shown.
[[nodiscard]] std::string AccountPage(const std::string& name, const ModelConfig& config, const RunOptions& run);

}  // namespace hydra::cli
