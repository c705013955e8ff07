// SPDX-License-Identifier: Apache-2.0
// `hydralm train --teach FACTS`: facts into a memory pack. Not here: teaching (train/teach.h), runs (torch_train.cc).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "hydra/cli/cli.h"

namespace hydra::cli {

struct TeachFlags {
  std::string facts, output, into = "table", name;
  int64_t keep_out = 1, steps = 400, eval_tokens = 65536;
  double lr = 3e-2, rehearsal = 1;
};
void AddTeachFlags(CLI::App* verb, TeachFlags* flags);

// `model`: a folder; `data`: rehearsal text and what the loss is measured on. Returns the exit status.
int RunTeach(const TeachFlags& flags, const std::string& model, const std::string& data, int64_t seed,
             const CommonFlags& common);

}  // namespace hydra::cli
