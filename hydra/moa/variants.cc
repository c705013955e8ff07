// SPDX-License-Identifier: Apache-2.0
// Baselines and controls.
#include "hydra/moa/variants.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/moa/problem.h"

namespace hydra::moa {
namespace {

void SetDensities(const std::vector<int64_t>& lengths, AttentionPlan* plan) {
  plan->density.clear();
  for (const int64_t N : lengths)
    plan->density[N] = plan->unit == PlanUnit::kHead ? plan->HeadDensity(N) : plan->Density(N);
}

// Rules drawn with weight exp(tilt * span / dense span): with the same draws a larger tilt gives no narrower span,
// since rules are taken in the order of their spans.
AttentionPlan DrawPlan(const AttentionPlan& dense, std::vector<SpanRule> rules, int64_t N, double tilt, Rng rng) {
  AttentionPlan plan = dense;
  for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer) {
    LayerPlan& l = plan.layers[static_cast<size_t>(layer)];
    const auto all = static_cast<double>(dense.DenseSpan(layer, N));
    std::ranges::stable_sort(rules, {}, [&](const SpanRule& rule) { return SpanOf(rule, l, plan.block_size, N); });
    std::vector<double> upto;  // running sums of weights
    for (const SpanRule& rule : rules) {
      const double share = static_cast<double>(SpanOf(rule, l, plan.block_size, N)) / std::max(all, 1.0);
      upto.push_back((upto.empty() ? 0 : upto.back()) + std::exp(tilt * share));
    }
    for (SpanRule& rule : l.rules) {
      const double at = rng.Uniform() * upto.back();
      rule = rules[static_cast<size_t>(std::ranges::upper_bound(upto, at) - upto.begin())];
    }
  }
  return plan;
}

}  // namespace

AttentionPlan UniformPlan(const AttentionPlan& dense, double rho, const std::string& name) {
  if (!(rho > 0 && rho <= 1)) throw Error(ErrorCode::kUsage, StrCat("--uniform ", rho, ": must be above 0, at most 1"));
  AttentionPlan plan = dense;
  plan.name = name;
  for (LayerPlan& layer : plan.layers)
    for (SpanRule& rule : layer.rules) rule = UniformRule(layer, rho);
  return plan;
}

std::vector<AttentionPlan> RandomPlans(const AttentionPlan& dense, const std::vector<SpanRule>& rules,
                                       const RandomPlanOptions& options) {
  HYDRA_CHECK(!rules.empty() && options.count >= 1, "nothing to draw");
  std::vector<AttentionPlan> plans;
  for (int64_t i = 0; i < options.count; ++i) {
    const Rng rng(options.seed, static_cast<uint64_t>(i));
    const double wanted = options.low + (options.high - options.low) * (static_cast<double>(i) + 0.5) /
                                            static_cast<double>(options.count);
    // The density of the same draws rises with the tilt.
    double low = -60, high = 60;
    constexpr int kSteps = 40;
    for (int step = 0; step < kSteps; ++step) {
      const double tilt = (low + high) / 2;
      (DrawPlan(dense, rules, options.N, tilt, rng).Density(options.N) < wanted ? low : high) = tilt;
    }
    plans.push_back(DrawPlan(dense, rules, options.N, high, rng));
    plans.back().name = StrCat("random-", options.seed, "-", i);
    SetDensities({options.N}, &plans.back());
  }
  return plans;
}

AttentionPlan ShuffledPlan(const AttentionPlan& plan, uint64_t seed) {
  AttentionPlan out = plan;
  out.name = StrCat(plan.name, "-shuffled-", seed);
  out.predicted_loss.clear();
  Rng rng(seed);
  std::map<std::pair<int64_t, int64_t>, std::vector<SpanRule*>> alike;  // by sinks and window
  for (LayerPlan& layer : out.layers)
    for (SpanRule& rule : layer.rules) alike[{layer.n_sinks, layer.window}].push_back(&rule);
  for (auto& [key, rules] : alike)
    for (size_t i = rules.size(); i > 1; --i) std::swap(*rules[i - 1], *rules[rng.Below(i)]);
  if (out.unit == PlanUnit::kLayer) out.unit = PlanUnit::kKvHead;  // a layer has several rules now
  std::vector<int64_t> lengths;
  for (const auto& [N, density] : plan.density) lengths.push_back(N);
  SetDensities(lengths, &out);
  return out;
}

std::vector<SpanRule> BinaryRules(const AttentionPlan& dense) {
  return {SpanRule{}, SpanRule{static_cast<double>(2 * dense.block_size), 0}};
}

}  // namespace hydra::moa
