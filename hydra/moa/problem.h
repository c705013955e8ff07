// SPDX-License-Identifier: Apache-2.0
// What a planner chooses among: a rule for each unit, what it costs in loss at the profiled lengths and in rows of
// caches at the bounded ones (specs/moa.md 1 and 4). Not here: choosing (solve.h, sweep.h).
// Dims: U units, R rules, P profiled lengths, Q bounded lengths.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "hydra/model/attention_plan.h"
#include "hydra/model/influence_profile.h"

namespace hydra::moa {

// alpha in {-lo .. lp} by lp / 8, beta in {0, 1/8 .. 1}, kept where spans stay between 1 and the text: alpha + beta lp
// <= lp, alpha + beta hi <= hi, alpha + beta lo > 0, with lo and hi the shortest and longest bounded length and lp the
// longest profiled one. Rules of equal spans at every bounded length are one.
[[nodiscard]] std::vector<SpanRule> SearchSpace(const std::vector<int64_t>& profiled,
                                                const std::vector<int64_t>& bounded, const LayerPlan& layer,
                                                int64_t block_size);

// The share rho of what a layer sees: of the text, or of its window.
[[nodiscard]] SpanRule UniformRule(const LayerPlan& layer, double rho);

struct ProblemOptions {
  std::map<int64_t, double> bounds = {};  // density at most, by length: what is bounded. At least one
  Estimator estimator = Estimator::kJabs;
  PlanUnit unit = PlanUnit::kKvHead;
  int64_t max_rules = 0;             // different rules in a layer; 0: any number
  bool raw = false;                  // true: a wider span may cost more than a narrower one, as it was measured
  std::vector<SpanRule> rules = {};  // in the place of SearchSpace
};

using Choice = std::vector<int>;  // [U] which rule each unit has

struct Problem {
  struct Unit {
    int layer;
    int64_t head;  // KV head, or query head for unit kHead; of a layer the first
  };
  AttentionPlan dense;  // the model, all heads dense
  PlanUnit unit = PlanUnit::kKvHead;
  std::vector<SpanRule> rules;      // [R]
  std::vector<Unit> units;          // [U] by layer
  std::vector<int64_t> profiled;    // [P]
  std::vector<int64_t> bounded;     // [Q]
  std::vector<int64_t> cap;         // [Q] rows of all units together
  std::vector<int64_t> dense_size;  // [Q] rows of all units when dense
  std::vector<int64_t> size;        // [U, R, Q] rows
  std::vector<double> cost;         // [U, R, P] in what the uniform plan of the bounds costs
  std::vector<double> scale;        // [P] nats that a cost of 1 is
  std::map<int64_t, double> bounds;
  int64_t max_rules = 0;

  [[nodiscard]] int64_t n_units() const { return static_cast<int64_t>(units.size()); }
  [[nodiscard]] int64_t n_rules() const { return static_cast<int64_t>(rules.size()); }
  [[nodiscard]] int64_t n_profiled() const { return static_cast<int64_t>(profiled.size()); }
  [[nodiscard]] int64_t n_bounded() const { return static_cast<int64_t>(bounded.size()); }
  [[nodiscard]] const int64_t* SizeOf(int64_t unit_index, int64_t rule) const {  // [Q]
    return size.data() + (unit_index * n_rules() + rule) * n_bounded();
  }
  [[nodiscard]] const double* CostOf(int64_t unit_index, int64_t rule) const {  // [P]
    return cost.data() + (unit_index * n_rules() + rule) * n_profiled();
  }
  // Sums of a choice: rows [Q], costs [P].
  [[nodiscard]] std::vector<int64_t> Sizes(const Choice& choice) const;
  [[nodiscard]] std::vector<double> Costs(const Choice& choice) const;
  // Whether sizes are within the caps, and layers within max_rules.
  [[nodiscard]] bool Fits(const Choice& choice) const;
  // The plan of a choice, with bounds, densities and predicted losses.
  [[nodiscard]] AttentionPlan ToPlan(const Choice& choice, const std::string& name) const;
};

// Throws kUsage for lengths that the profile does not have, bounds outside of (0, 1], and a bound below the least
// possible density, which the message says.
[[nodiscard]] Problem MakeProblem(const InfluenceProfile& profile, const ProblemOptions& options);

// What a plan of any origin is predicted to cost, in nats at each length of the profile: KV heads, or query heads where
// those have rules, one by one.
[[nodiscard]] std::map<int64_t, double> PredictedLoss(const InfluenceProfile& profile, const AttentionPlan& plan,
                                                      Estimator estimator);

}  // namespace hydra::moa
