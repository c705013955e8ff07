// SPDX-License-Identifier: Apache-2.0
// The plans among which no other is better at every length: programs with bounds on the other lengths' losses, swept
// over their ranges (specs/moa.md 4).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hydra/moa/solve.h"

namespace hydra::moa {

struct SweepOptions {
  bool cbc = true;          // false: by moves alone
  double time_limit = 60;   // seconds of all programs together; what is found by then is kept
  double gap = 1e-3;        // relative
  bool all_lengths = true;  // false: only the least loss at the longest profiled length
  int64_t most_plans = 12;
  std::function<bool()> stopped = nullptr;  // asked now and then; true: as if the time were over
  std::function<void(int64_t done, int64_t total)> progress = nullptr;  // of programs; may throw
};

// A plan of the sweep; losses are computed from the choice.
struct FoundPlan {
  Choice choice;
  std::vector<double> costs;  // [P] in what the uniform plan costs
};

struct SweepResult {
  std::vector<FoundPlan> plans;       // the least loss at the longest profiled length first
  std::string solver, version;        // "cbc", "2.10.8"; "greedy", ""
  int64_t programs = 0, allowed = 0;  // solved; those that had a plan
  bool optimal = true;                // each proven within the gap
  bool complete = true;               // no program was left out for time
  double gap = 0, seconds = 0;
  [[nodiscard]] std::string SolverNote() const;  // the plan file's "solver"
};

// At least one plan: MakeProblem has seen to it that the caps can be met one by one; throws kUsage where rules cannot
// meet them together. kNotBuilt for cbc in a build without it.
[[nodiscard]] SweepResult Sweep(const Problem& problem, const SweepOptions& options);

// Drops plans that another is as good as at every length and better at one, and of equals all but the first.
[[nodiscard]] std::vector<FoundPlan> NotDominated(std::vector<FoundPlan> plans);
// At most `most` of them, spread out: the best at each length first, then always the one farthest from those taken.
[[nodiscard]] std::vector<FoundPlan> Spread(std::vector<FoundPlan> plans, int64_t most);

}  // namespace hydra::moa
