// SPDX-License-Identifier: Apache-2.0
// Search space, costs and sizes of rules: against the specification's numbers, and against plans themselves.
#include "hydra/moa/problem.h"

#include <algorithm>

#include "hydra/base/testing.h"
#include "hydra/moa/testing.h"
#include "hydra/moa/variants.h"

namespace hydra::moa {
namespace {

using testing::MadeUpProfile;
using testing::Shape;

const std::map<int64_t, double> kHalf = {{1024, 0.5}, {2048, 0.5}, {4096, 0.5}, {8192, 0.5}};

TEST(SearchSpace, HasThe48RulesOfTheSpecification) {
  const LayerPlan layer{.n_sinks = 64};
  const std::vector<SpanRule> rules = SearchSpace({1024, 2048, 4096}, {1024, 2048, 4096, 8192}, layer, 64);
  EXPECT_EQ(rules.size(), 48U);
  EXPECT_EQ(std::ranges::count(rules, SpanRule{0, 1}), 1);
  for (const SpanRule& rule : rules) {
    EXPECT_LE(rule.alpha + rule.beta * 4096, 4096);
    EXPECT_LE(rule.alpha + rule.beta * 8192, 8192);
    EXPECT_GT(rule.alpha + rule.beta * 1024, 0);
  }
  EXPECT_EQ(SearchSpace({2048, 4096, 8192}, {2048, 4096, 8192, 16384}, layer, 64).size(), 48U);
  // Of rules that give the same spans everywhere one is left.
  const LayerPlan window{.n_sinks = 0, .window = 256};
  const std::vector<SpanRule> few = SearchSpace({1024, 2048, 4096}, {1024, 2048, 4096, 8192}, window, 64);
  EXPECT_LT(few.size(), 10U);
}

TEST(Problem, SizesAndCostsAreThoseOfThePlan) {
  const InfluenceProfile profile = MadeUpProfile({.layers = 4}, 3);
  for (const PlanUnit unit : {PlanUnit::kKvHead, PlanUnit::kHead, PlanUnit::kLayer}) {
    SCOPED_TRACE(PlanUnitName(unit));
    const Problem problem = MakeProblem(profile, {.bounds = kHalf, .unit = unit});
    EXPECT_EQ(problem.n_units(), unit == PlanUnit::kHead ? 36 : unit == PlanUnit::kLayer ? 4 : 12);
    Rng rng(5);
    Choice choice;
    for (int64_t u = 0; u < problem.n_units(); ++u)
      choice.push_back(static_cast<int>(rng.Below(static_cast<uint64_t>(problem.n_rules()))));
    const AttentionPlan plan = problem.ToPlan(choice, "a");
    EXPECT_EQ(plan.unit, unit);
    const std::vector<int64_t> sizes = problem.Sizes(choice);
    for (size_t q = 0; q < problem.bounded.size(); ++q) {
      const int64_t N = problem.bounded[q];
      const double density = unit == PlanUnit::kHead ? plan.HeadDensity(N) : plan.Density(N);
      EXPECT_NEAR(static_cast<double>(sizes[q]) / static_cast<double>(problem.dense_size[q]), density, 1e-12);
      EXPECT_NEAR(plan.density.at(N), density, 1e-12);
    }
    if (unit == PlanUnit::kLayer) continue;  // its curves are made non-increasing as sums over the layer
    const auto predicted = PredictedLoss(profile, plan, Estimator::kJabs);
    for (const auto& [N, loss] : plan.predicted_loss) EXPECT_NEAR(predicted.at(N), loss, 1e-9 * (1 + loss));
  }
}

TEST(Problem, TheUniformPlanCostsOne) {
  const InfluenceProfile profile = MadeUpProfile({.layers = 3}, 4);
  const Problem problem = MakeProblem(profile, {.bounds = kHalf});
  const AttentionPlan uniform = UniformPlan(profile.dense, 0.5, "uniform");
  const auto predicted = PredictedLoss(profile, uniform, Estimator::kJabs);
  for (size_t p = 0; p < problem.profiled.size(); ++p)
    EXPECT_NEAR(problem.scale[p], predicted.at(problem.profiled[p]), 1e-12);
  const auto found = std::ranges::find(problem.rules, SpanRule{0, 0.5});
  ASSERT_NE(found, problem.rules.end());
  const Choice all(static_cast<size_t>(problem.n_units()), static_cast<int>(found - problem.rules.begin()));
  for (const double cost : problem.Costs(all)) EXPECT_NEAR(cost, 1, 1e-12);
  EXPECT_TRUE(problem.Fits(all));
}

TEST(Problem, AWiderSpanCostsNoMoreUnlessRaw) {
  InfluenceProfile profile = MadeUpProfile({.layers = 2}, 6);
  for (auto& [N, length] : profile.lengths)  // a head that likes a narrow window better
    for (int64_t m = profile.Blocks(N) / 2; m + 1 < profile.Blocks(N); ++m)
      length.jabs[static_cast<size_t>(profile.At(0, 0, 0, N) + m)] += 10;
  int64_t rises[2] = {0, 0};
  for (const bool raw : {false, true}) {
    const Problem problem = MakeProblem(profile, {.bounds = kHalf, .raw = raw});
    for (int64_t u = 0; u < problem.n_units(); ++u)
      for (int64_t a = 0; a < problem.n_rules(); ++a)
        for (int64_t b = 0; b < problem.n_rules(); ++b) {
          const LayerPlan& layer =
              problem.dense.layers[static_cast<size_t>(problem.units[static_cast<size_t>(u)].layer)];
          for (int64_t p = 0; p < problem.n_profiled(); ++p) {
            const int64_t N = problem.profiled[static_cast<size_t>(p)];
            const auto span = [&](int64_t r) { return SpanOf(problem.rules[static_cast<size_t>(r)], layer, 64, N); };
            if (span(a) < span(b) && problem.CostOf(u, a)[p] < problem.CostOf(u, b)[p]) ++rises[raw ? 1 : 0];
          }
        }
  }
  EXPECT_EQ(rises[0], 0);
  EXPECT_GT(rises[1], 0);
}

TEST(Problem, BadBoundsAreRefusedWithTheLeastPossible) {
  const InfluenceProfile profile = MadeUpProfile({.layers = 2}, 7);
  const auto refused = [&](std::map<int64_t, double> bounds, std::initializer_list<std::string_view> parts) {
    ExpectError([&] { (void)MakeProblem(profile, {.bounds = bounds}); }, ErrorCode::kUsage, parts);
  };
  refused({}, {"at one length"});
  refused({{1024, 0}}, {"density 0 at 1024", "above 0"});
  refused({{1024, 1.5}}, {"density 1.5 at 1024"});
  refused({{1024, 0.1}, {2048, 0.5}}, {"density 0.1 at 1024", "least possible is 0.125"});
  InfluenceProfile empty;
  empty.dense = profile.dense;
  ExpectError([&] { (void)MakeProblem(empty, {.bounds = kHalf}); }, ErrorCode::kUsage, {"no items"});
}

TEST(Variants, ShuffledRulesKeepTheirHistogramAndDensity) {
  const InfluenceProfile profile = MadeUpProfile({.layers = 5}, 8);
  const Problem problem = MakeProblem(profile, {.bounds = kHalf});
  Rng rng(9);
  Choice choice;
  for (int64_t u = 0; u < problem.n_units(); ++u)
    choice.push_back(static_cast<int>(rng.Below(static_cast<uint64_t>(problem.n_rules()))));
  const AttentionPlan plan = problem.ToPlan(choice, "a"), once = ShuffledPlan(plan, 1), twice = ShuffledPlan(plan, 2);
  const auto rules = [](const AttentionPlan& p) {
    std::vector<std::pair<double, double>> all;
    for (const LayerPlan& layer : p.layers)
      for (const SpanRule& rule : layer.rules) all.emplace_back(rule.alpha, rule.beta);
    std::ranges::sort(all);
    return all;
  };
  EXPECT_EQ(rules(plan), rules(once));
  EXPECT_NE(plan.layers, once.layers);
  EXPECT_NE(once.layers, twice.layers);
  EXPECT_EQ(once.layers, ShuffledPlan(plan, 1).layers);
  for (const auto& [N, density] : plan.density) EXPECT_NEAR(once.density.at(N), density, 1e-12);
}

TEST(Variants, RandomPlansSpreadOverTheDensities) {
  const AttentionPlan dense = AttentionPlan::Dense(testing::ConfigOf({}));
  const std::vector<SpanRule> rules =
      SearchSpace({1024, 2048, 4096}, {1024, 2048, 4096, 8192}, dense.layers[0], dense.block_size);
  const std::vector<AttentionPlan> plans = RandomPlans(dense, rules, {.count = 30, .seed = 3});
  ASSERT_EQ(plans.size(), 30U);
  for (size_t i = 0; i < plans.size(); ++i)
    EXPECT_NEAR(plans[i].Density(4096), 0.1 + 0.8 * (static_cast<double>(i) + 0.5) / 30, 0.06) << i;
  EXPECT_EQ(RandomPlans(dense, rules, {.count = 2, .seed = 3})[1].layers.size(), dense.layers.size());
  EXPECT_NE(RandomPlans(dense, rules, {.count = 1, .seed = 4})[0].layers, plans[0].layers);
  const std::vector<SpanRule> two = BinaryRules(dense);
  EXPECT_EQ(SpanOf(two[0], dense.layers[0], 64, 4096), 4096);
  EXPECT_EQ(SpanOf(two[1], dense.layers[0], 64, 4096), 128);
  ExpectError([&] { (void)UniformPlan(dense, 0, "u"); }, ErrorCode::kUsage, {"--uniform 0"});
}

}  // namespace
}  // namespace hydra::moa
