// SPDX-License-Identifier: Apache-2.0
// Plans that are not searched for: the uniform baseline, plans at random, the same rules on other heads, and the rules
// of a plan with two spans alone (specs/moa.md 4).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/model/attention_plan.h"

namespace hydra::moa {

// alpha 0, beta rho for every head; of a layer with a window that share of it.
[[nodiscard]] AttentionPlan UniformPlan(const AttentionPlan& dense, double rho, const std::string& name);

// `count` plans of rules by chance, of densities at N spread over low .. high. Equal seeds give equal plans.
struct RandomPlanOptions {
  int64_t count = 30;
  uint64_t seed = 1;
  int64_t N = 4096;
  double low = 0.1, high = 0.9;
};
[[nodiscard]] std::vector<AttentionPlan> RandomPlans(const AttentionPlan& dense, const std::vector<SpanRule>& rules,
                                                     const RandomPlanOptions& options);

// The plan's rules, dealt to its heads anew; those of layers with other sinks or windows among themselves. Densities
// are the same. Equal seeds give equal plans.
[[nodiscard]] AttentionPlan ShuffledPlan(const AttentionPlan& plan, uint64_t seed);

// Two rules: all keys, and the fewest that a head may see.
[[nodiscard]] std::vector<SpanRule> BinaryRules(const AttentionPlan& dense);

}  // namespace hydra::moa
