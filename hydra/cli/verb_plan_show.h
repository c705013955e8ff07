// SPDX-License-Identifier: Apache-2.0
// `hydralm plan --show`: what a plan keeps at several lengths, its rules, and a map of its spans.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/cli/cli.h"

namespace hydra::cli {

struct PlanShowFlags {
  std::string plan, plot, model;  // a model, where the plan is in the bare form
  std::vector<int64_t> ctx = {1024, 2048, 4096, 8192};
};
int ShowPlan(const PlanShowFlags& flags, const CommonFlags& common);

}  // namespace hydra::cli
