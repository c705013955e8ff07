// SPDX-License-Identifier: Apache-2.0
// Costs and sizes of rules, from a profile.
#include "hydra/moa/problem.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "hydra/base/error.h"

namespace hydra::moa {
namespace {

constexpr int64_t kParts = 8;  // of alpha's step and beta

// Blocks of the window of a span: where its loss stands in a curve.
int64_t WindowBlocks(int64_t span, const LayerPlan& layer, int64_t block) {
  return (span - layer.n_sinks + block - 1) / block;
}

// A curve that no wider span makes worse.
void MakeNonIncreasing(std::vector<double>* curve) {
  for (size_t m = curve->size() - 1; m > 0; --m) (*curve)[m - 1] = std::max((*curve)[m - 1], (*curve)[m]);
}

// Heads of a unit in its layer, in the profile's query heads.
struct HeadRange {
  int64_t first, last;
};
HeadRange HeadsOf(const Problem& problem, const Problem::Unit& unit) {
  const PlanModel& model = problem.dense.model;
  const int64_t group = model.n_heads / model.n_kv_heads;
  if (problem.unit == PlanUnit::kLayer) return {0, model.n_heads};
  if (problem.unit == PlanUnit::kHead) return {unit.head, unit.head + 1};
  return {unit.head * group, (unit.head + 1) * group};
}

// Caches that a unit's span counts for.
int64_t CachesOf(const Problem& problem) {
  return problem.unit == PlanUnit::kLayer ? problem.dense.model.n_kv_heads : 1;
}

// Loss of each rule at a length, in nats: the sum over the unit's query heads.
std::vector<double> LossesOfRules(const InfluenceProfile& profile, const Problem& problem, const Problem::Unit& unit,
                                  int64_t N, const ProblemOptions& options) {
  const HeadRange heads = HeadsOf(problem, unit);
  const LayerPlan& layer = problem.dense.layers[static_cast<size_t>(unit.layer)];
  std::vector<double> curve(static_cast<size_t>(profile.Blocks(N) + 1));
  for (int64_t h = heads.first; h < heads.last; ++h) {
    const std::vector<double> one = profile.Curve(options.estimator, N, unit.layer, h);
    for (size_t m = 0; m < curve.size(); ++m) curve[m] += one[m];
  }
  if (!options.raw) MakeNonIncreasing(&curve);
  std::vector<double> losses;
  for (const SpanRule& rule : problem.rules) {
    const int64_t span = SpanOf(rule, layer, problem.dense.block_size, N);
    const auto m = static_cast<size_t>(WindowBlocks(span, layer, problem.dense.block_size));
    losses.push_back(curve[std::min(m, curve.size() - 1)]);
  }
  return losses;
}

// The loss of the uniform plan is 1 at each length; where it costs nothing, nats stay.
void Normalise(const InfluenceProfile& profile, const ProblemOptions& options, Problem* problem) {
  double mean_bound = 0;
  for (const auto& [N, rho] : options.bounds) mean_bound += rho / static_cast<double>(options.bounds.size());
  Problem uniform = *problem;
  for (size_t p = 0; p < problem->profiled.size(); ++p) {
    const int64_t N = problem->profiled[p];
    const auto bound = options.bounds.find(N);
    const double rho = bound != options.bounds.end() ? bound->second : mean_bound;
    double loss = 0;
    for (const Problem::Unit& unit : problem->units) {
      uniform.rules = {UniformRule(problem->dense.layers[static_cast<size_t>(unit.layer)], rho)};
      loss += LossesOfRules(profile, uniform, unit, N, options)[0];
    }
    problem->scale.push_back(loss > 0 ? loss : 1);
  }
  const auto P = static_cast<size_t>(problem->n_profiled());
  for (size_t i = 0; i < problem->cost.size(); ++i) problem->cost[i] /= problem->scale[i % P];
}

void CheckBounds(const ProblemOptions& options) {
  if (options.bounds.empty()) throw Error(ErrorCode::kUsage, "a plan needs a bound of density at one length at least");
  for (const auto& [N, rho] : options.bounds)
    if (!(rho > 0 && rho <= 1))
      throw Error(ErrorCode::kUsage, StrCat("density ", rho, " at ", N, ": must be above 0 and at most 1"));
}

// Each cap, and whether rules can meet it.
void SetCaps(Problem* problem) {
  const auto Q = static_cast<size_t>(problem->n_bounded());
  problem->dense_size.assign(Q, 0);
  std::vector<int64_t> least(Q);
  for (int64_t u = 0; u < problem->n_units(); ++u)
    for (size_t q = 0; q < Q; ++q) {
      const int64_t N = problem->bounded[q];
      problem->dense_size[q] +=
          CachesOf(*problem) * problem->dense.DenseSpan(problem->units[static_cast<size_t>(u)].layer, N);
      int64_t cheapest = INT64_MAX;
      for (int64_t r = 0; r < problem->n_rules(); ++r) cheapest = std::min(cheapest, problem->SizeOf(u, r)[q]);
      least[q] += cheapest;
    }
  for (size_t q = 0; q < Q; ++q) {
    const int64_t N = problem->bounded[q];
    const double rho = problem->bounds.at(N), all = static_cast<double>(problem->dense_size[q]);
    problem->cap.push_back(static_cast<int64_t>(std::floor(rho * all + 1e-9)));
    if (least[q] > problem->cap[q])
      throw Error(ErrorCode::kUsage, StrCat("density ", rho, " at ", N, ": the least possible is ",
                                            std::ceil(1e4 * static_cast<double>(least[q]) / all) / 1e4));
  }
}

}  // namespace

SpanRule UniformRule(const LayerPlan& layer, double rho) {
  return layer.window > 0 ? SpanRule{rho * static_cast<double>(layer.window), 0} : SpanRule{0, rho};
}

std::vector<SpanRule> SearchSpace(const std::vector<int64_t>& profiled, const std::vector<int64_t>& bounded,
                                  const LayerPlan& layer, int64_t block_size) {
  HYDRA_CHECK(!profiled.empty() && !bounded.empty(), "no lengths");
  const auto [low, high] = std::ranges::minmax(bounded);
  const int64_t longest = std::ranges::max(profiled), step = std::max<int64_t>(1, longest / kParts);
  std::vector<SpanRule> rules;
  std::set<std::vector<int64_t>> seen;
  for (int64_t alpha = -low; alpha <= longest; alpha += step)
    for (int64_t part = 0; part <= kParts; ++part) {
      const double beta = static_cast<double>(part) / kParts;
      const SpanRule rule{static_cast<double>(alpha), beta};
      const auto at = [&](int64_t N) { return rule.alpha + beta * static_cast<double>(N); };
      if (at(longest) > static_cast<double>(longest) || at(high) > static_cast<double>(high) || at(low) <= 0) continue;
      std::vector<int64_t> spans;
      for (const int64_t N : bounded) spans.push_back(SpanOf(rule, layer, block_size, N));
      if (seen.insert(spans).second) rules.push_back(rule);
    }
  return rules;
}

std::vector<int64_t> Problem::Sizes(const Choice& choice) const {
  std::vector<int64_t> sums(bounded.size());
  for (int64_t u = 0; u < n_units(); ++u)
    for (size_t q = 0; q < sums.size(); ++q) sums[q] += SizeOf(u, choice[static_cast<size_t>(u)])[q];
  return sums;
}

std::vector<double> Problem::Costs(const Choice& choice) const {
  std::vector<double> sums(profiled.size());
  for (int64_t u = 0; u < n_units(); ++u)
    for (size_t p = 0; p < sums.size(); ++p) sums[p] += CostOf(u, choice[static_cast<size_t>(u)])[p];
  return sums;
}

bool Problem::Fits(const Choice& choice) const {
  const std::vector<int64_t> sums = Sizes(choice);
  for (size_t q = 0; q < sums.size(); ++q)
    if (sums[q] > cap[q]) return false;
  if (max_rules == 0) return true;
  std::map<int, std::set<int>> of_layer;
  for (size_t u = 0; u < choice.size(); ++u) of_layer[units[u].layer].insert(choice[u]);
  return std::ranges::all_of(of_layer,
                             [&](const auto& one) { return static_cast<int64_t>(one.second.size()) <= max_rules; });
}

AttentionPlan Problem::ToPlan(const Choice& choice, const std::string& name) const {
  AttentionPlan plan = dense;
  plan.name = name;
  plan.unit = unit;
  for (LayerPlan& layer : plan.layers)
    if (!layer.rules.empty() && unit == PlanUnit::kHead)
      layer.rules.assign(static_cast<size_t>(dense.model.n_heads), SpanRule{});
  for (size_t u = 0; u < choice.size(); ++u) {
    std::vector<SpanRule>& of_layer = plan.layers[static_cast<size_t>(units[u].layer)].rules;
    const SpanRule& rule = rules[static_cast<size_t>(choice[u])];
    if (unit == PlanUnit::kLayer)
      std::ranges::fill(of_layer, rule);
    else
      of_layer[static_cast<size_t>(units[u].head)] = rule;
  }
  plan.bounds = bounds;
  for (const int64_t N : bounded) plan.density[N] = unit == PlanUnit::kHead ? plan.HeadDensity(N) : plan.Density(N);
  const std::vector<double> costs = Costs(choice);
  for (size_t p = 0; p < profiled.size(); ++p) plan.predicted_loss[profiled[p]] = costs[p] * scale[p];
  return plan;
}

Problem MakeProblem(const InfluenceProfile& profile, const ProblemOptions& options) {
  CheckBounds(options);
  Problem problem;
  problem.dense = profile.dense;
  problem.unit = options.unit;
  problem.bounds = options.bounds;
  problem.max_rules = options.unit == PlanUnit::kLayer ? 0 : options.max_rules;
  for (const auto& [N, length] : profile.lengths)
    if (!length.ids.empty()) problem.profiled.push_back(N);
  for (const auto& [N, rho] : options.bounds) problem.bounded.push_back(N);
  if (problem.profiled.empty())
    throw Error(ErrorCode::kUsage, "the profile has no items: hydralm profile measures them");
  const PlanModel& model = problem.dense.model;
  const LayerPlan* first = nullptr;
  for (int layer = 0; layer < static_cast<int>(problem.dense.layers.size()); ++layer) {
    const LayerPlan& l = problem.dense.layers[static_cast<size_t>(layer)];
    if (l.rules.empty()) continue;
    if (first == nullptr || first->window > 0) first = &l;  // rules are told apart by a layer that sees all, if any
    const int64_t heads = options.unit == PlanUnit::kHead    ? model.n_heads
                          : options.unit == PlanUnit::kLayer ? 1
                                                             : model.n_kv_heads;
    for (int64_t h = 0; h < heads; ++h) problem.units.push_back({layer, h});
  }
  HYDRA_CHECK(first != nullptr, "a profile without units");
  problem.rules = options.rules;
  if (problem.rules.empty())
    problem.rules = SearchSpace(problem.profiled, problem.bounded, *first, problem.dense.block_size);
  for (const Problem::Unit& unit : problem.units) {
    const LayerPlan& layer = problem.dense.layers[static_cast<size_t>(unit.layer)];
    std::vector<std::vector<double>> losses;
    for (const int64_t N : problem.profiled) losses.push_back(LossesOfRules(profile, problem, unit, N, options));
    for (size_t r = 0; r < problem.rules.size(); ++r) {
      for (const int64_t N : problem.bounded)
        problem.size.push_back(CachesOf(problem) * SpanOf(problem.rules[r], layer, problem.dense.block_size, N));
      for (const std::vector<double>& of_length : losses) problem.cost.push_back(of_length[r]);
    }
  }
  Normalise(profile, options, &problem);
  SetCaps(&problem);
  return problem;
}

std::map<int64_t, double> PredictedLoss(const InfluenceProfile& profile, const AttentionPlan& plan,
                                        Estimator estimator) {
  std::map<int64_t, double> losses;
  const int64_t group = plan.unit == PlanUnit::kHead ? 1 : plan.model.n_heads / plan.model.n_kv_heads;
  for (const auto& [N, length] : profile.lengths) {
    double sum = 0;
    for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer) {
      const LayerPlan& l = plan.layers[static_cast<size_t>(layer)];
      for (int64_t first = 0; first < plan.model.n_heads && !l.rules.empty(); first += group) {
        std::vector<double> curve(static_cast<size_t>(profile.Blocks(N) + 1));
        for (int64_t h = first; h < first + group; ++h) {
          const std::vector<double> one = profile.Curve(estimator, N, layer, h);
          for (size_t m = 0; m < curve.size(); ++m) curve[m] += one[m];
        }
        MakeNonIncreasing(&curve);
        const auto m = static_cast<size_t>(WindowBlocks(plan.HeadSpan(layer, first, N), l, plan.block_size));
        sum += curve[std::min(m, curve.size() - 1)];
      }
    }
    losses[N] = sum;
  }
  return losses;
}

}  // namespace hydra::moa
