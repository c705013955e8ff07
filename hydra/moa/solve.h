// SPDX-License-Identifier: Apache-2.0
// One program of a plan: the least weighted loss within the caps, exactly by CBC or well by moves (specs/moa.md 4).
// Dims as in problem.h.
#pragma once

#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "hydra/moa/problem.h"

namespace hydra::moa {

// min sum_p weight_p cost_p, subject to cost_p <= most_p and the problem's caps.
struct Program {
  std::vector<double> weight;                                             // [P]
  std::vector<double> most;                                               // [P] infinity: no bound
  [[nodiscard]] static Program Of(const Problem& problem, int64_t main);  // 1 at one length, 1e-3 at others; no bounds
  [[nodiscard]] double Value(const std::vector<double>& costs) const;
  // With a little room for rounding.
  [[nodiscard]] bool Allows(const std::vector<double>& costs) const;
};

struct Solution {
  Choice choice;
  double value = 0;      // of the program, computed from the choice
  bool optimal = false;  // proven within the gap
};

struct SolveLimits {
  double seconds = std::numeric_limits<double>::infinity();
  double gap = 1e-3;                        // relative, of CBC
  std::function<bool()> stopped = nullptr;  // asked now and then; true: the best so far is taken
};

// From each layer's or unit's best rule: while a cap is exceeded the move of least loss for its relief of the summed
// relative excess, then single moves and exchanges of pairs until none helps. `start`, where it is given and allowed,
// is a second beginning. Nothing where no allowed choice is found.
[[nodiscard]] std::optional<Solution> SolveByMoves(const Problem& problem, const Program& program, const Choice* start,
                                                   const SolveLimits& limits);

// Whether this build has CBC, and its version ("" without).
[[nodiscard]] bool HasCbc();
[[nodiscard]] std::string CbcVersion();
// Nothing where the program has no allowed choice, or the time is over before one is found. Throws kNotBuilt without
// CBC.
[[nodiscard]] std::optional<Solution> SolveByCbc(const Problem& problem, const Program& program,
                                                 const SolveLimits& limits);

}  // namespace hydra::moa
