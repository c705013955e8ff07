// SPDX-License-Identifier: Apache-2.0
// Programs solved by moves: into the caps at the least loss for the relief, then single moves and pairs.
#include <algorithm>
#include <cmath>
#include <map>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/moa/solve.h"

namespace hydra::moa {
namespace {

constexpr double kLittle = 1e-12;       // of a value: less is no gain
constexpr double kOtherLengths = 1e-3;  // weight of the lengths that a program is not about

// A choice with its sums, and what a move would make of them.
class Mover {
 public:
  Mover(const Problem& problem, const Program& program, const SolveLimits& limits)
      : problem_(problem), program_(program), limits_(limits), begin_(Seconds()) {
    for (int64_t u = 0; u < problem.n_units(); ++u)
      for (int64_t r = 0; r < problem.n_rules(); ++r) {
        const double* cost = problem.CostOf(u, r);
        values_.push_back(program.Value(std::vector<double>(cost, cost + problem.n_profiled())));
      }
  }

  // False where no move leads into the caps.
  bool Run(Choice first) {
    Set(std::move(first));
    while (excess_ > 0)
      if (!MoveIntoCaps()) return false;
    for (bool better = true; better && !Over();) better = ImproveOnce() || ImproveByPairs();
    return true;
  }
  [[nodiscard]] const Choice& choice() const { return choice_; }
  [[nodiscard]] double value() const { return value_; }

 private:
  // Units that take a rule together, and what becomes of the sums.
  struct Move {
    std::vector<int64_t> units;
    int rule = 0;
  };
  struct Sums {
    std::vector<double> costs;
    std::vector<int64_t> sizes;
  };

  [[nodiscard]] bool Over() const {
    return Seconds() - begin_ > limits_.seconds || (limits_.stopped && limits_.stopped());
  }

  void Set(Choice choice) {
    choice_ = std::move(choice);
    sums_ = {problem_.Costs(choice_), problem_.Sizes(choice_)};
    value_ = program_.Value(sums_.costs);
    excess_ = Excess(sums_);
  }

  // How far the sums are beyond caps and bounds, each relative to its own.
  [[nodiscard]] double Excess(const Sums& sums) const {
    double excess = 0;
    for (size_t q = 0; q < sums.sizes.size(); ++q)
      if (sums.sizes[q] > problem_.cap[q])
        excess += static_cast<double>(sums.sizes[q] - problem_.cap[q]) / static_cast<double>(problem_.cap[q]);
    if (program_.Allows(sums.costs)) return excess;
    for (size_t p = 0; p < sums.costs.size(); ++p)
      if (sums.costs[p] > program_.most[p])
        excess += (sums.costs[p] - program_.most[p]) / std::max(program_.most[p], 1e-6);
    return excess;
  }

  void Add(int64_t unit, int rule, double sign, Sums* sums) const {
    const double* cost = problem_.CostOf(unit, rule);
    const int64_t* size = problem_.SizeOf(unit, rule);
    for (size_t p = 0; p < sums->costs.size(); ++p) sums->costs[p] += sign * cost[p];
    for (size_t q = 0; q < sums->sizes.size(); ++q) sums->sizes[q] += sign > 0 ? size[q] : -size[q];
  }
  void Apply(const Move& move, Sums* sums) const {
    for (const int64_t u : move.units) {
      Add(u, choice_[static_cast<size_t>(u)], -1, sums);
      Add(u, move.rule, 1, sums);
    }
  }
  // What a move would make of the sums, until the next call.
  const Sums& After(const Move& move) {
    after_ = sums_;
    Apply(move, &after_);
    return after_;
  }
  // The sums anew, so that no rounding gathers.
  void Take(const Move& move) {
    for (const int64_t u : move.units) choice_[static_cast<size_t>(u)] = move.rule;
    Set(std::move(choice_));
  }

  [[nodiscard]] int LayerOf(int64_t unit) const { return problem_.units[static_cast<size_t>(unit)].layer; }

  // Different rules that the layer of a move would have.
  [[nodiscard]] bool KeepsMaxRules(const Move& move) const {
    if (problem_.max_rules == 0) return true;
    std::vector<int> rules{move.rule};
    const int layer = LayerOf(move.units.front());
    for (int64_t u = 0; u < problem_.n_units(); ++u)
      if (LayerOf(u) == layer && std::ranges::find(move.units, u) == move.units.end())
        rules.push_back(choice_[static_cast<size_t>(u)]);
    std::ranges::sort(rules);
    rules.erase(std::unique(rules.begin(), rules.end()), rules.end());
    return static_cast<int64_t>(rules.size()) <= problem_.max_rules;
  }

  // f(move) for every other rule of each unit; where layers may have few rules, also of all units of a rule together.
  template <class F>
  void ForMoves(F&& f) const {
    for (int64_t u = 0; u < problem_.n_units(); ++u) ForRules({u}, f);
    if (problem_.max_rules == 0) return;
    std::map<std::pair<int, int>, std::vector<int64_t>> together;  // by layer and rule
    for (int64_t u = 0; u < problem_.n_units(); ++u)
      together[{LayerOf(u), choice_[static_cast<size_t>(u)]}].push_back(u);
    for (const auto& [key, units] : together)
      if (units.size() > 1) ForRules(units, f);
  }
  template <class F>
  void ForRules(const std::vector<int64_t>& units, F&& f) const {
    Move move{units, 0};
    for (int r = 0; r < static_cast<int>(problem_.n_rules()); ++r) {
      move.rule = r;
      if (r != choice_[static_cast<size_t>(units.front())] && KeepsMaxRules(move)) f(move);
    }
  }

  // Not bounded by time: without it there is no plan.
  bool MoveIntoCaps() {
    Move best;
    double least = INFINITY;
    ForMoves([&](const Move& move) {
      const Sums& sums = After(move);
      const double relief = excess_ - Excess(sums);
      if (relief <= kLittle) return;
      const double price = (program_.Value(sums.costs) - value_) / relief;
      if (price < least) least = price, best = move;
    });
    if (best.units.empty() || (limits_.stopped && limits_.stopped())) return false;
    Take(best);
    return true;
  }

  // What a unit's rule adds to the program's value.
  [[nodiscard]] double ValueOf(int64_t unit, int rule) const {
    return values_[static_cast<size_t>(unit * problem_.n_rules() + rule)];
  }
  // The same of a change of rule.
  [[nodiscard]] double Gain(int64_t unit, int rule) const {
    return ValueOf(unit, choice_[static_cast<size_t>(unit)]) - ValueOf(unit, rule);
  }

  bool ImproveOnce() {
    Move best;
    double most = kLittle * (1 + std::abs(value_));
    ForMoves([&](const Move& move) {
      double gain = 0;
      for (const int64_t u : move.units) gain += Gain(u, move.rule);
      if (gain > most && Excess(After(move)) == 0) most = gain, best = move;
    });
    if (best.units.empty()) return false;
    Take(best);
    return true;
  }

  // One unit's loss falls by more than another's rises, which makes room for it. True where any exchange helped.
  bool ImproveByPairs() {
    bool better = false;
    for (int64_t u = 0; u < problem_.n_units() && !Over(); ++u) better = ImproveWith(u) || better;
    return better;
  }
  bool ImproveWith(int64_t u) {
    for (int r = 0; r < static_cast<int>(problem_.n_rules()); ++r) {
      if (Gain(u, r) <= kLittle || !KeepsMaxRules({{u}, r})) continue;
      Sums sums = sums_;
      Apply({{u}, r}, &sums);
      if (ExchangeFor(u, r, sums)) return true;
    }
    return false;
  }
  // With u's new rule in the sums: another unit's that makes them fit and costs less than u gains.
  bool ExchangeFor(int64_t u, int rule, const Sums& with) {
    const double gain = Gain(u, rule) - kLittle * (1 + std::abs(value_));
    for (int64_t v = 0; v < problem_.n_units(); ++v) {
      // Rules of one layer are counted together: exchanges within it are left to single moves then.
      if (v == u || (problem_.max_rules > 0 && LayerOf(v) == LayerOf(u))) continue;
      for (int r = 0; r < static_cast<int>(problem_.n_rules()); ++r) {
        if (gain + Gain(v, r) <= 0 || !FitsWith(v, r, with) || !KeepsMaxRules({{v}, r})) continue;
        choice_[static_cast<size_t>(u)] = rule;
        Take({{v}, r});
        return true;
      }
    }
    return false;
  }
  [[nodiscard]] bool FitsWith(int64_t unit, int rule, const Sums& sums) const {
    const int own = choice_[static_cast<size_t>(unit)];
    const int64_t *to = problem_.SizeOf(unit, rule), *from = problem_.SizeOf(unit, own);
    for (size_t q = 0; q < sums.sizes.size(); ++q)
      if (sums.sizes[q] - from[q] + to[q] > problem_.cap[q]) return false;
    const double *cost = problem_.CostOf(unit, rule), *before = problem_.CostOf(unit, own);
    for (size_t p = 0; p < sums.costs.size(); ++p)
      if (sums.costs[p] - before[p] + cost[p] > program_.most[p]) return false;
    return true;
  }

  const Problem& problem_;
  const Program& program_;
  const SolveLimits& limits_;
  double begin_;
  Choice choice_;
  Sums sums_, after_;
  std::vector<double> values_;  // [U, R] ValueOf
  double value_ = 0, excess_ = 0;
};

// Each unit's rule of least value, or each layer's where it may have few.
Choice BestRules(const Problem& problem, const Program& program) {
  const auto value = [&](int64_t u, int r) {
    const double* cost = problem.CostOf(u, r);
    return program.Value(std::vector<double>(cost, cost + problem.n_profiled()));
  };
  std::map<int, std::vector<int64_t>> groups;
  for (int64_t u = 0; u < problem.n_units(); ++u)
    groups[problem.max_rules > 0 ? problem.units[static_cast<size_t>(u)].layer : static_cast<int>(u)].push_back(u);
  Choice choice(static_cast<size_t>(problem.n_units()));
  for (const auto& [key, units] : groups) {
    int best = 0;
    double least = INFINITY;
    for (int r = 0; r < static_cast<int>(problem.n_rules()); ++r) {
      double sum = 0;
      for (const int64_t u : units) sum += value(u, r);
      if (sum < least) least = sum, best = r;
    }
    for (const int64_t u : units) choice[static_cast<size_t>(u)] = best;
  }
  return choice;
}

}  // namespace

Program Program::Of(const Problem& problem, int64_t main) {
  Program program;
  program.weight.assign(problem.profiled.size(), kOtherLengths);
  program.weight[static_cast<size_t>(main)] = 1;
  program.most.assign(problem.profiled.size(), INFINITY);
  return program;
}

double Program::Value(const std::vector<double>& costs) const {
  double value = 0;
  for (size_t p = 0; p < costs.size(); ++p) value += weight[p] * costs[p];
  return value;
}

bool Program::Allows(const std::vector<double>& costs) const {
  for (size_t p = 0; p < costs.size(); ++p)
    if (costs[p] > most[p] + 1e-9 * (1 + std::abs(most[p]))) return false;
  return true;
}

std::optional<Solution> SolveByMoves(const Problem& problem, const Program& program, const Choice* start,
                                     const SolveLimits& limits) {
  std::optional<Solution> best;
  const auto attempt = [&](const Choice& from) {
    Mover mover(problem, program, limits);
    if (!mover.Run(from)) return;
    if (!best || mover.value() < best->value) best = Solution{.choice = mover.choice(), .value = mover.value()};
  };
  attempt(BestRules(problem, program));
  if (start != nullptr && problem.Fits(*start)) attempt(*start);
  return best;
}

}  // namespace hydra::moa
