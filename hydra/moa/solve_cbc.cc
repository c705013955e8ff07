// SPDX-License-Identifier: Apache-2.0
// Programs solved exactly by COIN-OR CBC through its C interface, where the build has it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>

#include "hydra/base/error.h"
#include "hydra/moa/solve.h"

#ifdef HYDRALM_CBC
#include <coin/Cbc_C_Interface.h>

#include <cstdio>
#endif

namespace hydra::moa {

#ifdef HYDRALM_CBC
namespace {

// A program in columns: x[u, r], then y[layer, rule] where layers may have few rules.
struct CbcColumns {
  std::vector<int> start{0}, row;  // of each column; rows of its numbers
  std::vector<double> number, objective, low, high, row_low, row_high;
  std::vector<std::pair<int64_t, int>> x;  // unit and rule of the first columns

  void AddColumn(double cost) {
    start.push_back(static_cast<int>(row.size()));
    objective.push_back(cost);
    low.push_back(0);
    high.push_back(1);
  }
  void AddNumber(int at, double value) {
    if (value == 0) return;
    row.push_back(at);
    number.push_back(value);
  }
  int AddRow(double least, double most) {
    row_low.push_back(least);
    row_high.push_back(most);
    return static_cast<int>(row_low.size()) - 1;
  }
};

// A rule that no other beats for the unit: cheaper at no length than one that is not larger anywhere. Where layers may
// have few rules, each counts.
std::vector<bool> Useful(const Problem& problem, int64_t u) {
  const auto R = static_cast<int>(problem.n_rules());
  std::vector<bool> useful(static_cast<size_t>(R), true);
  const auto beats = [&](int a, int b) {  // of equals the first
    bool same = true;
    for (int64_t p = 0; p < problem.n_profiled(); ++p) {
      if (problem.CostOf(u, a)[p] > problem.CostOf(u, b)[p]) return false;
      same = same && problem.CostOf(u, a)[p] == problem.CostOf(u, b)[p];
    }
    for (int64_t q = 0; q < problem.n_bounded(); ++q) {
      if (problem.SizeOf(u, a)[q] > problem.SizeOf(u, b)[q]) return false;
      same = same && problem.SizeOf(u, a)[q] == problem.SizeOf(u, b)[q];
    }
    return !same || a < b;
  };
  for (int b = 0; b < R && problem.max_rules == 0; ++b)
    for (int a = 0; a < R && useful[static_cast<size_t>(b)]; ++a)
      if (a != b && beats(a, b)) useful[static_cast<size_t>(b)] = false;
  return useful;
}

CbcColumns ColumnsOf(const Problem& problem, const Program& program) {
  constexpr double kNoBound = std::numeric_limits<double>::max();
  CbcColumns c;
  const auto U = problem.n_units();
  for (int64_t u = 0; u < U; ++u) c.AddRow(1, 1);
  std::vector<int> caps, bounds;
  for (const int64_t cap : problem.cap) caps.push_back(c.AddRow(-kNoBound, static_cast<double>(cap)));
  for (const double most : program.most) bounds.push_back(std::isfinite(most) ? c.AddRow(-kNoBound, most) : -1);
  std::map<int, int> of_layer;                            // the row that counts a layer's rules
  std::map<std::pair<int, int>, std::vector<int>> links;  // rows x[u, r] - y[layer, r] <= 0
  for (int64_t u = 0; u < U; ++u) {
    const int layer = problem.units[static_cast<size_t>(u)].layer;
    if (problem.max_rules > 0 && !of_layer.contains(layer))
      of_layer[layer] = c.AddRow(-kNoBound, static_cast<double>(problem.max_rules));
    const std::vector<bool> useful = Useful(problem, u);
    for (int r = 0; r < static_cast<int>(problem.n_rules()); ++r) {
      if (!useful[static_cast<size_t>(r)]) continue;
      const double* cost = problem.CostOf(u, r);
      c.x.emplace_back(u, r);
      c.AddNumber(static_cast<int>(u), 1);
      for (size_t q = 0; q < caps.size(); ++q) c.AddNumber(caps[q], static_cast<double>(problem.SizeOf(u, r)[q]));
      for (size_t p = 0; p < bounds.size(); ++p)
        if (bounds[p] >= 0) c.AddNumber(bounds[p], cost[p]);
      if (problem.max_rules > 0) {
        const int link = c.AddRow(-kNoBound, 0);
        links[{layer, r}].push_back(link);
        c.AddNumber(link, 1);
      }
      c.AddColumn(program.Value(std::vector<double>(cost, cost + problem.n_profiled())));
    }
  }
  for (const auto& [key, rows] : links) {
    for (const int link : rows) c.AddNumber(link, -1);
    c.AddNumber(of_layer[key.first], 1);
    c.AddColumn(0);
  }
  return c;
}

std::string Number(double value) {
  char text[40];
  (void)std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

}  // namespace

bool HasCbc() { return true; }
std::string CbcVersion() { return Cbc_getVersion(); }

std::optional<Solution> SolveByCbc(const Problem& problem, const Program& program, const SolveLimits& limits) {
  const CbcColumns c = ColumnsOf(problem, program);
  const std::unique_ptr<Cbc_Model, void (*)(Cbc_Model*)> model(Cbc_newModel(), Cbc_deleteModel);
  Cbc_setLogLevel(model.get(), 0);
  Cbc_setParameter(model.get(), "log", "0");
  Cbc_setParameter(model.get(), "preprocess", "off");  // with it 2.10.8 gives worse choices as proven ones
  Cbc_setParameter(model.get(), "ratioGap", Number(limits.gap).c_str());
  if (std::isfinite(limits.seconds))
    Cbc_setParameter(model.get(), "sec", Number(std::max(0.1, limits.seconds)).c_str());
  Cbc_loadProblem(model.get(), static_cast<int>(c.objective.size()), static_cast<int>(c.row_low.size()), c.start.data(),
                  c.row.data(), c.number.data(), c.low.data(), c.high.data(), c.objective.data(), c.row_low.data(),
                  c.row_high.data());
  // Of y as well, though a fraction would do: the solver's own checks fail at some programs where y may be one.
  for (int i = 0; i < static_cast<int>(c.objective.size()); ++i) Cbc_setInteger(model.get(), i);
  (void)Cbc_solve(model.get());
  const double* best = Cbc_bestSolution(model.get());
  if (best == nullptr || Cbc_isProvenInfeasible(model.get()) != 0) return std::nullopt;
  Solution solution;
  solution.choice.assign(static_cast<size_t>(problem.n_units()), -1);
  for (size_t i = 0; i < c.x.size(); ++i)
    if (best[i] > 0.5) solution.choice[static_cast<size_t>(c.x[i].first)] = c.x[i].second;
  if (std::ranges::find(solution.choice, -1) != solution.choice.end()) return std::nullopt;
  // Never the solver's own sums: it allows itself a little beyond a cap.
  const std::vector<double> costs = problem.Costs(solution.choice);
  if (!problem.Fits(solution.choice) || !program.Allows(costs)) return std::nullopt;
  solution.value = program.Value(costs);
  solution.optimal = Cbc_isProvenOptimal(model.get()) != 0;
  return solution;
}

#else

bool HasCbc() { return false; }
std::string CbcVersion() { return ""; }

std::optional<Solution> SolveByCbc(const Problem&, const Program&, const SolveLimits&) {
  throw Error(
      ErrorCode::kNotBuilt,
      "--solver cbc: this build has no CBC: install coinor-libcbc-dev and build again, or take --solver greedy");
}

#endif

}  // namespace hydra::moa
