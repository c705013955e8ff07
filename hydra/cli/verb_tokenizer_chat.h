// SPDX-License-Identifier: Apache-2.0
// `hydralm tokenizer chat`, for the verb's list of sub-verbs (verb_tokenizer.cc).
#pragma once

#include <CLI/CLI.hpp>

#include "hydra/cli/cli.h"

namespace hydra::cli {

void AddTokenizerChat(CLI::App& parent, VerbContext& context);

}  // namespace hydra::cli
