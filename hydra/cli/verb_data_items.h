// SPDX-License-Identifier: Apache-2.0
// `hydralm data items`: long texts with questions, answered by the model, into a file of items. Not here: making texts
// (data/long_items.h), the file (data/items.h).
#pragma once

#include <CLI/CLI.hpp>

#include "hydra/cli/cli.h"

namespace hydra::cli {

// The sub-verb of `hydralm data`.
void AddDataItems(CLI::App& data, VerbContext& context);

}  // namespace hydra::cli
