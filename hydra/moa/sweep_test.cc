// SPDX-License-Identifier: Apache-2.0
// Solvers against enumeration and dynamic programming; the sweep's plans keep every bound and no other is better; and
// the size of a model of 8 billion parameters in its time. Tests of CBC are skipped where the build has none.
#include "hydra/moa/sweep.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "hydra/base/clock.h"
#include "hydra/base/testing.h"
#include "hydra/moa/testing.h"

namespace hydra::moa {
namespace {

using testing::MadeUpProfile;
using testing::RandomProblem;

const std::map<int64_t, double> kQuarter = {{1024, 0.25}, {2048, 0.25}, {4096, 0.25}, {8192, 0.25}};

// The least value of a program by trying every choice; infinity where none is allowed.
double Enumerate(const Problem& problem, const Program& program) {
  double best = INFINITY;
  Choice choice(static_cast<size_t>(problem.n_units()));
  const std::function<void(size_t)> from = [&](size_t u) {
    if (u == choice.size()) {
      const std::vector<double> costs = problem.Costs(choice);
      if (problem.Fits(choice) && program.Allows(costs)) best = std::min(best, program.Value(costs));
      return;
    }
    for (int r = 0; r < static_cast<int>(problem.n_rules()); ++r) {
      choice[u] = r;
      from(u + 1);
    }
  };
  from(0);
  return best;
}

// Programs of each length, some with a bound on the other.
std::vector<Program> ProgramsOf(const Problem& problem, Rng& rng) {
  std::vector<Program> programs;
  for (int64_t p = 0; p < problem.n_profiled(); ++p) {
    programs.push_back(Program::Of(problem, p));
    programs.push_back(Program::Of(problem, p));
    for (size_t other = 0; other < problem.profiled.size(); ++other)
      if (static_cast<int64_t>(other) != p)
        programs.back().most[other] = static_cast<double>(problem.n_units()) * (2 + 1.5 * rng.Uniform());
  }
  return programs;
}

TEST(Solve, CbcEqualsEnumeration) {
  if (!HasCbc()) GTEST_SKIP() << "no CBC in this build";
  for (const int64_t max_rules : {0, 1})
    for (uint64_t seed = 1; seed <= 40; ++seed) {  // its preprocessing fails at a few of a hundred
      Problem problem = RandomProblem(4, 4, 2, seed);
      problem.max_rules = max_rules;
      Rng rng(seed);
      for (const Program& program : ProgramsOf(problem, rng)) {
        const double want = Enumerate(problem, program);
        const std::optional<Solution> got = SolveByCbc(problem, program, {.gap = 0});
        ASSERT_EQ(got.has_value(), std::isfinite(want)) << "seed " << seed << " max_rules " << max_rules;
        if (!got) continue;
        EXPECT_NEAR(got->value, want, 1e-9) << "seed " << seed << " max_rules " << max_rules;
        EXPECT_TRUE(problem.Fits(got->choice) && program.Allows(problem.Costs(got->choice)));
        EXPECT_TRUE(got->optimal);
      }
    }
}

TEST(Solve, MovesAreAllowedAndNearTheBest) {
  double worst = 0;
  int64_t found = 0, possible = 0;
  for (const int64_t max_rules : {0, 1})
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      Problem problem = RandomProblem(5, 4, 2, seed);
      problem.max_rules = max_rules;
      Rng rng(seed);
      for (const Program& program : ProgramsOf(problem, rng)) {
        const double want = Enumerate(problem, program);
        possible += std::isfinite(want) ? 1 : 0;
        const std::optional<Solution> got = SolveByMoves(problem, program, nullptr, {});
        if (!got) continue;
        ++found;
        EXPECT_TRUE(problem.Fits(got->choice) && program.Allows(problem.Costs(got->choice)));
        EXPECT_NEAR(got->value, program.Value(problem.Costs(got->choice)), 1e-9);
        ASSERT_TRUE(std::isfinite(want));
        worst = std::max(worst, got->value / want - 1);
      }
    }
  EXPECT_GT(possible, 80);
  EXPECT_GE(found * 10, possible * 8);  // few units leave little room for single moves
  EXPECT_LT(worst, 0.15);
}

// The least cost by used blocks, unit after unit.
double ByDynamicProgramming(const Problem& problem) {
  const auto blocks = static_cast<size_t>(problem.cap[0] / 64);
  std::vector<double> best(blocks + 1, INFINITY);
  best[0] = 0;
  for (int64_t u = 0; u < problem.n_units(); ++u) {
    std::vector<double> next(blocks + 1, INFINITY);
    for (int64_t r = 0; r < problem.n_rules(); ++r) {
      const auto size = static_cast<size_t>(problem.SizeOf(u, r)[0] / 64);
      for (size_t used = size; used <= blocks; ++used)
        next[used] = std::min(next[used], best[used - size] + problem.CostOf(u, r)[0]);
    }
    best = std::move(next);
  }
  return *std::ranges::min_element(best);
}

TEST(Solve, NinetyUnitsAgainstDynamicProgramming) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    const InfluenceProfile profile = MadeUpProfile({.lengths = {1024}}, seed);
    const Problem problem = MakeProblem(profile, {.bounds = {{1024, 0.25}}});
    ASSERT_EQ(problem.n_units(), 90);
    const double want = ByDynamicProgramming(problem);
    const Program program = Program::Of(problem, 0);
    const std::optional<Solution> moves = SolveByMoves(problem, program, nullptr, {});
    ASSERT_TRUE(moves.has_value());
    EXPECT_GE(moves->value, want - 1e-9);
    EXPECT_LE(moves->value, 1.05 * want) << "seed " << seed;
    if (!HasCbc()) continue;
    const std::optional<Solution> cbc = SolveByCbc(problem, program, {});
    ASSERT_TRUE(cbc.has_value());
    EXPECT_GE(cbc->value, want - 1e-9);
    EXPECT_LE(cbc->value, want * (1 + 1e-3) + 1e-9) << "seed " << seed;
  }
}

TEST(Solve, MovesAreWithinFivePercentOfCbc) {
  if (!HasCbc()) GTEST_SKIP() << "no CBC in this build";
  const InfluenceProfile profile = MadeUpProfile({}, 5);
  for (const int64_t max_rules : {0, 2}) {
    const Problem problem = MakeProblem(profile, {.bounds = kQuarter, .max_rules = max_rules});
    for (int64_t p = 0; p < problem.n_profiled(); ++p) {
      const Program program = Program::Of(problem, p);
      const std::optional<Solution> cbc = SolveByCbc(problem, program, {.seconds = 60}),
                                    moves = SolveByMoves(problem, program, nullptr, {});
      ASSERT_TRUE(cbc && moves);
      EXPECT_LE(moves->value, 1.05 * cbc->value) << "length " << p << " max_rules " << max_rules;
    }
  }
}

void ExpectGoodSweep(const Problem& problem, const SweepResult& result) {
  ASSERT_GE(result.plans.size(), 1U);
  EXPECT_LE(result.plans.size(), 12U);
  for (const FoundPlan& plan : result.plans) {
    EXPECT_TRUE(problem.Fits(plan.choice));
    EXPECT_EQ(plan.costs, problem.Costs(plan.choice));
    const AttentionPlan file = problem.ToPlan(plan.choice, "a");
    for (const int64_t N : problem.bounded) EXPECT_LE(file.Density(N), problem.bounds.at(N) + 1e-12) << N;
  }
  EXPECT_EQ(NotDominated(result.plans).size(), result.plans.size());
  const auto longest = static_cast<size_t>(problem.n_profiled() - 1);
  for (const FoundPlan& plan : result.plans) EXPECT_GE(plan.costs[longest], result.plans[0].costs[longest]);
  EXPECT_LT(result.plans[0].costs[longest], 1);  // better than uniform
}

TEST(Sweep, PlansKeepEveryBoundAndNoneIsDominated) {
  const InfluenceProfile profile = MadeUpProfile({.layers = 6}, 6);
  for (const bool cbc : {false, true}) {
    if (cbc && !HasCbc()) continue;
    const Problem problem = MakeProblem(profile, {.bounds = kQuarter});
    int64_t told = 0;
    const SweepResult result = Sweep(problem, {.cbc = cbc, .progress = [&](int64_t done, int64_t total) {
                                                 EXPECT_LE(done, total);
                                                 told = total;
                                               }});
    EXPECT_EQ(told, 51);
    EXPECT_EQ(result.programs, 51);
    ExpectGoodSweep(problem, result);
    const SweepResult one = Sweep(problem, {.cbc = cbc, .all_lengths = false});
    EXPECT_EQ(one.programs, 1);
    EXPECT_EQ(one.plans.size(), 1U);
  }
}

TEST(Sweep, RulesThatCannotMeetTheBoundsTogetherAreRefused) {
  Problem problem = RandomProblem(3, 2, 2, 1);
  // One rule is small at the first length, the other at the second.
  for (int64_t u = 0; u < 3; ++u) {
    int64_t* sizes = problem.size.data() + u * 4;
    sizes[0] = 1, sizes[1] = 10, sizes[2] = 10, sizes[3] = 1;
  }
  problem.cap = {5, 5};
  ExpectError([&] { (void)Sweep(problem, {.cbc = false}); }, ErrorCode::kUsage, {"no rules meet all bounds"});
  if (!HasCbc())
    ExpectError([&] { (void)Sweep(problem, {}); }, ErrorCode::kNotBuilt, {"--solver cbc", "coinor-libcbc-dev"});
}

TEST(Sweep, TimeThatIsOverKeepsWhatWasFound) {
  const InfluenceProfile profile = MadeUpProfile({.layers = 4}, 7);
  const Problem problem = MakeProblem(profile, {.bounds = kQuarter});
  const SweepResult result = Sweep(problem, {.cbc = false, .time_limit = 0});
  EXPECT_FALSE(result.complete);
  EXPECT_GE(result.plans.size(), 1U);
  EXPECT_NE(result.SolverNote().find("\"complete\":false"), std::string::npos);
}

TEST(Sweep, DominatedPlansGoAndTheRestIsSpread) {
  std::vector<FoundPlan> plans;
  for (int i = 0; i <= 20; ++i) plans.push_back({{i}, {static_cast<double>(i), static_cast<double>(20 - i)}});
  plans.push_back({{30}, {5, 16}});
  plans.push_back({{31}, {5, 15}});  // equal to an earlier one
  plans = NotDominated(plans);
  EXPECT_EQ(plans.size(), 21U);
  const std::vector<FoundPlan> few = Spread(plans, 5);
  ASSERT_EQ(few.size(), 5U);
  EXPECT_EQ(few.front().choice[0], 0);
  EXPECT_EQ(few.back().choice[0], 20);
  EXPECT_EQ(few[2].choice[0], 10);
}

TEST(Sweep, AModelOf8BillionParametersTakesMinutesSlow) {
  const InfluenceProfile profile = MadeUpProfile({.layers = 32, .kv_heads = 8, .group = 4}, 8);
  for (const bool cbc : {false, true}) {
    if (cbc && !HasCbc()) continue;
    const Problem problem = MakeProblem(profile, {.bounds = kQuarter});
    ASSERT_EQ(problem.n_units(), 256);
    ASSERT_EQ(problem.n_rules(), 48);
    const double begin = Seconds();
    const SweepResult result = Sweep(problem, {.cbc = cbc, .time_limit = 240});
    EXPECT_LT(Seconds() - begin, 300) << (cbc ? "cbc" : "greedy");
    ExpectGoodSweep(problem, result);
  }
}

}  // namespace
}  // namespace hydra::moa
