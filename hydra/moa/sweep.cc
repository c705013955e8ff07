// SPDX-License-Identifier: Apache-2.0
// The sweep over programs.
#include "hydra/moa/sweep.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/io/json.h"

namespace hydra::moa {
namespace {

constexpr int64_t kMostParts = 4;  // of each length's range of losses
constexpr int64_t kMostPrograms = 512;

// Solves programs one after another, and keeps all that was found.
class Sweeper {
 public:
  Sweeper(const Problem& problem, const SweepOptions& options)
      : problem_(problem), options_(options), begin_(Seconds()) {}

  // The best plan of a program: the solver's, or an earlier one that is allowed and better; null where there is none.
  const FoundPlan* Solve(const Program& program, int64_t left) {
    ++result_.programs;
    const double time = options_.time_limit - (Seconds() - begin_);
    if ((time <= 0 || (options_.stopped && options_.stopped())) && !found_.empty()) {
      result_.complete = false;
      return BestFor(program);
    }
    // A hard program may take the time of a few others, not of all.
    const SolveLimits limits{
        .seconds = std::max(0.5, std::min(time, 4 * time / static_cast<double>(std::max<int64_t>(1, left)))),
        .gap = options_.gap,
        .stopped = found_.empty() ? nullptr : options_.stopped};  // there is to be one plan
    const FoundPlan* earlier = BestFor(program);
    std::optional<Solution> made;
    if (options_.cbc) made = SolveByCbc(problem_, program, limits);
    if (!made) made = SolveByMoves(problem_, program, earlier != nullptr ? &earlier->choice : nullptr, limits);
    if (!made && earlier == nullptr) return nullptr;
    ++result_.allowed;
    result_.optimal = result_.optimal && made && made->optimal;
    if (made) found_.push_back({made->choice, problem_.Costs(made->choice)});
    return BestFor(program);
  }

  [[nodiscard]] SweepResult Finish() {
    const int64_t longest = problem_.n_profiled() - 1;
    result_.plans = Spread(NotDominated(std::move(found_)), options_.most_plans);
    std::ranges::stable_sort(result_.plans, {},
                             [&](const FoundPlan& plan) { return plan.costs[static_cast<size_t>(longest)]; });
    result_.solver = options_.cbc ? "cbc" : "greedy";
    result_.version = options_.cbc ? CbcVersion() : "";
    result_.gap = options_.gap;
    result_.seconds = Seconds() - begin_;
    return std::move(result_);
  }

  void Tell(int64_t done, int64_t total) const {
    if (options_.progress) options_.progress(done, total);
  }

 private:
  [[nodiscard]] const FoundPlan* BestFor(const Program& program) const {
    const FoundPlan* best = nullptr;
    for (const FoundPlan& plan : found_)
      if (program.Allows(plan.costs) && (best == nullptr || program.Value(plan.costs) < program.Value(best->costs)))
        best = &plan;
    return best;
  }

  const Problem& problem_;
  const SweepOptions& options_;
  double begin_;
  std::vector<FoundPlan> found_;
  SweepResult result_;
};

}  // namespace

std::string SweepResult::SolverNote() const {
  return Json{{"name", solver},       {"version", version},   {"gap", gap},        {"optimal", optimal && complete},
              {"programs", programs}, {"complete", complete}, {"seconds", seconds}}
      .dump();
}

SweepResult Sweep(const Problem& problem, const SweepOptions& options) {
  if (options.cbc && !HasCbc())
    throw Error(ErrorCode::kNotBuilt,
                "--solver cbc: this build has no CBC: install coinor-libcbc-dev and build again, or "
                "take --solver greedy");
  const int64_t P = problem.n_profiled();
  Sweeper sweeper(problem, options);
  // Programs of one length each: the ranges of losses.
  int64_t parts = kMostParts, combinations = 1;
  const auto count = [&] {
    combinations = 1;
    for (int64_t p = 1; p < P; ++p) combinations *= parts;
    return P * combinations;
  };
  while (count() > kMostPrograms && parts > 1) --parts;
  const bool one = !options.all_lengths || P == 1;
  const int64_t total = one ? 1 : P + P * combinations;
  std::vector<double> best(static_cast<size_t>(P), INFINITY), worst(static_cast<size_t>(P), -INFINITY);
  int64_t done = 0;
  sweeper.Tell(done, total);
  for (int64_t p = one ? P - 1 : 0; p < P; ++p) {
    const FoundPlan* plan = sweeper.Solve(Program::Of(problem, p), total - done);
    if (plan == nullptr)
      throw Error(ErrorCode::kUsage, "no rules meet all bounds of density together: raise one of them, or --max-rules");
    for (size_t other = 0; other < best.size(); ++other) {
      best[other] = std::min(best[other], plan->costs[other]);
      worst[other] = std::max(worst[other], plan->costs[other]);
    }
    sweeper.Tell(++done, total);
  }
  for (int64_t p = 0; p < P && !one; ++p)
    for (int64_t combination = 0; combination < combinations; ++combination) {
      Program program = Program::Of(problem, p);
      int64_t rest = combination;
      for (int64_t other = 0; other < P; ++other) {
        if (other == p) continue;
        const auto o = static_cast<size_t>(other);
        program.most[o] =
            worst[o] - static_cast<double>(rest % parts) / static_cast<double>(parts) * (worst[o] - best[o]);
        rest /= parts;
      }
      (void)sweeper.Solve(program, total - done);
      sweeper.Tell(++done, total);
    }
  return sweeper.Finish();
}

std::vector<FoundPlan> NotDominated(std::vector<FoundPlan> plans) {
  std::vector<FoundPlan> kept;
  for (size_t i = 0; i < plans.size(); ++i) {
    const auto beats = [&](size_t j) {
      if (i == j) return false;
      bool better = false;
      for (size_t p = 0; p < plans[i].costs.size(); ++p) {
        if (plans[j].costs[p] > plans[i].costs[p]) return false;
        better = better || plans[j].costs[p] < plans[i].costs[p];
      }
      return better || j < i;
    };
    bool dominated = false;
    for (size_t j = 0; j < plans.size() && !dominated; ++j) dominated = beats(j);
    if (!dominated) kept.push_back(plans[i]);
  }
  return kept;
}

std::vector<FoundPlan> Spread(std::vector<FoundPlan> plans, int64_t most) {
  if (static_cast<int64_t>(plans.size()) <= most || plans.empty()) return plans;
  const size_t P = plans[0].costs.size();
  std::vector<double> low(P, INFINITY), high(P, -INFINITY);
  for (const FoundPlan& plan : plans)
    for (size_t p = 0; p < P; ++p) low[p] = std::min(low[p], plan.costs[p]), high[p] = std::max(high[p], plan.costs[p]);
  const auto distance = [&](const FoundPlan& a, const FoundPlan& b) {
    double sum = 0;
    for (size_t p = 0; p < P; ++p) {
      const double d = high[p] > low[p] ? (a.costs[p] - b.costs[p]) / (high[p] - low[p]) : 0;
      sum += d * d;
    }
    return sum;
  };
  std::vector<size_t> taken;
  for (size_t p = P; p-- > 0;) {  // extremes, the longest length's first
    const auto best = std::ranges::min_element(plans, {}, [&](const FoundPlan& plan) { return plan.costs[p]; });
    const auto at = static_cast<size_t>(best - plans.begin());
    if (std::ranges::find(taken, at) == taken.end() && static_cast<int64_t>(taken.size()) < most) taken.push_back(at);
  }
  while (static_cast<int64_t>(taken.size()) < most) {
    size_t farthest = 0;
    double most_far = -1;
    for (size_t i = 0; i < plans.size(); ++i) {
      double nearest = INFINITY;
      for (const size_t j : taken) nearest = std::min(nearest, distance(plans[i], plans[j]));
      if (nearest > most_far) most_far = nearest, farthest = i;
    }
    taken.push_back(farthest);
  }
  std::ranges::sort(taken);
  taken.erase(std::unique(taken.begin(), taken.end()), taken.end());
  std::vector<FoundPlan> out;
  for (const size_t i : taken) out.push_back(plans[i]);
  return out;
}

}  // namespace hydra::moa
