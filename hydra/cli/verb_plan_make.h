// SPDX-License-Identifier: Apache-2.0
// `hydralm plan --profile`, --uniform, --random, --shuffle, --binary, --import: makes plan files. Not here: showing
// them (verb_plan_show.h), how they are found (hydra/moa).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/cli/cli.h"

namespace hydra::cli {

struct PlanMakeFlags {
  std::string profile, model, density = "0.5", estimator = "jabs", unit = "kv-head", solver = "auto", out, name;
  std::string shuffle, import;
  std::vector<int64_t> lengths;
  double time_limit = 60, uniform = 0;
  int64_t max_rules = 0, random = 0, seed = 1;
  bool binary = false, raw = false;
};

// Writes -o and says what was made. Throws kUsage where flags do not fit together.
int MakePlans(const PlanMakeFlags& flags, const CommonFlags& common);

}  // namespace hydra::cli
