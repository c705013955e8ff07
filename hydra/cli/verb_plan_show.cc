// SPDX-License-Identifier: Apache-2.0
// A plan as tables, a map of letters, JSON and a plot.
#include "hydra/cli/verb_plan_show.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "hydra/base/error.h"
#include "hydra/cli/gnuplot.h"
#include "hydra/io/json.h"
#include "hydra/model/attention_plan.h"
#include "hydra/runtime/weights.h"
#include "hydra/tensor/cache_dtype.h"

namespace hydra::cli {
namespace {

// Rules that heads have, with how many.
std::map<std::pair<double, double>, int64_t> RulesOf(const AttentionPlan& plan) {
  std::map<std::pair<double, double>, int64_t> rules;
  for (const LayerPlan& layer : plan.layers)
    for (const SpanRule& rule : layer.rules) ++rules[{rule.alpha, rule.beta}];
  return rules;
}

// Heads by how their span goes with the length, between the first and the last.
struct Growth {
  int64_t local = 0, grows = 0, whole = 0;  // the same span; a wider one; all of both lengths
};
Growth GrowthOf(const AttentionPlan& plan, int64_t first, int64_t last) {
  Growth growth;
  const int64_t heads = plan.unit == PlanUnit::kHead ? plan.model.n_heads : plan.model.n_kv_heads;
  const int64_t of_each = plan.model.n_heads / heads;
  for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer) {
    if (plan.layers[static_cast<size_t>(layer)].rules.empty()) continue;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t a = plan.HeadSpan(layer, h * of_each, first), b = plan.HeadSpan(layer, h * of_each, last);
      if (a == plan.DenseSpan(layer, first) && b == plan.DenseSpan(layer, last))
        ++growth.whole;
      else if (a == b)
        ++growth.local;
      else
        ++growth.grows;
    }
  }
  return growth;
}

int64_t RingBytes(const AttentionPlan& plan, int64_t rows) {
  return 2 * rows * KvRowBytes(KvDtype::kF16, plan.model.head_dim);
}

int64_t DenseRows(const AttentionPlan& plan, int64_t N) {
  int64_t rows = 0;
  for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer)
    rows += plan.model.n_kv_heads * plan.DenseSpan(layer, N);
  return rows;
}

// A character of a span: tenths of the text, '.' the least that there is, '#' all of it.
char SpanMark(const AttentionPlan& plan, int layer, int64_t head, int64_t N) {
  const int64_t span = plan.HeadSpan(layer, head, N), dense = plan.DenseSpan(layer, N);
  if (span == dense) return '#';
  const LayerPlan& l = plan.layers[static_cast<size_t>(layer)];
  if (span <= SpanOf({-1e9, 0}, l, plan.block_size, N)) return '.';
  return static_cast<char>('0' + std::min<int64_t>(9, 10 * span / dense));
}

void PrintMap(const AttentionPlan& plan, const std::vector<int64_t>& ctx) {
  fmt::print("\nspans: a row a layer, a column a head; tenths of the text, . the least, # all\n       ");
  const int64_t heads = plan.unit == PlanUnit::kHead ? plan.model.n_heads : plan.model.n_kv_heads;
  const int64_t of_each = plan.model.n_heads / heads;
  const auto width = static_cast<size_t>(std::max<int64_t>(heads, 6));
  for (const int64_t N : ctx) fmt::print("{:<{}}  ", N, width);
  fmt::print("\n");
  for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer) {
    if (plan.layers[static_cast<size_t>(layer)].rules.empty()) continue;
    fmt::print("{:5}  ", layer);
    for (const int64_t N : ctx) {
      std::string marks;
      for (int64_t h = 0; h < heads; ++h) marks += SpanMark(plan, layer, h * of_each, N);
      fmt::print("{:<{}}  ", marks, width);
    }
    fmt::print("\n");
  }
}

void PrintPlan(const AttentionPlan& plan, const std::vector<int64_t>& ctx) {
  constexpr double kMiB = 1 << 20;
  fmt::print("{}: {} of {} layers x {} KV heads x {}, unit {}, block {}\n\n", plan.name.empty() ? "plan" : plan.name,
             plan.model.name.empty() ? "a model" : plan.model.name, plan.model.n_layers, plan.model.n_kv_heads,
             plan.model.head_dim, PlanUnitName(plan.unit), plan.block_size);
  fmt::print("| length | density | pairs | KV, MiB in f16 | dense | predicted loss |\n");
  fmt::print("| ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const int64_t N : ctx) {
    const auto loss = plan.predicted_loss.find(N);
    fmt::print("| {} | {:.3f} | {:.3f} | {:.1f} | {:.1f} | {} |\n", N, plan.Density(N), plan.PairDensity(N),
               static_cast<double>(RingBytes(plan, plan.KvRows(N))) / kMiB,
               static_cast<double>(RingBytes(plan, DenseRows(plan, N))) / kMiB,
               loss == plan.predicted_loss.end() ? "" : fmt::format("{:+.4f}", loss->second));
  }
  const Growth growth = GrowthOf(plan, ctx.front(), ctx.back());
  fmt::print("\n{} heads grow from {} to {} tokens, {} stay as they are, {} see all\n\n", growth.grows, ctx.front(),
             ctx.back(), growth.local, growth.whole);
  fmt::print("| span | heads |");
  for (const int64_t N : ctx) fmt::print(" at {} |", N);
  fmt::print("\n| --- | ---: |");
  for (size_t i = 0; i < ctx.size(); ++i) fmt::print(" ---: |");
  fmt::print("\n");
  const auto some = std::ranges::find_if(plan.layers, [](const LayerPlan& l) { return !l.rules.empty(); });
  for (const auto& [rule, count] : RulesOf(plan)) {
    fmt::print("| {:g} + {:g} N | {} |", rule.first, rule.second, count);
    for (const int64_t N : ctx) fmt::print(" {} |", SpanOf({rule.first, rule.second}, *some, plan.block_size, N));
    fmt::print("\n");
  }
  PrintMap(plan, ctx);
}

Json PlanAsJson(const AttentionPlan& plan, const std::vector<int64_t>& ctx) {
  Json lengths = Json::array(), rules = Json::array();
  for (const int64_t N : ctx) {
    Json spans = Json::array();
    for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer) {
      Json row = Json::array();
      for (int64_t h = 0; h < plan.model.n_kv_heads && !plan.layers[static_cast<size_t>(layer)].rules.empty(); ++h)
        row.push_back(plan.Span(layer, h, N));
      spans.push_back(std::move(row));
    }
    lengths.push_back({{"length", N},
                       {"density", plan.Density(N)},
                       {"head_density", plan.HeadDensity(N)},
                       {"pair_density", plan.PairDensity(N)},
                       {"kv_bytes_f16", RingBytes(plan, plan.KvRows(N))},
                       {"dense_kv_bytes_f16", RingBytes(plan, DenseRows(plan, N))},
                       {"spans", spans}});
  }
  for (const auto& [rule, count] : RulesOf(plan))
    rules.push_back({{"alpha", rule.first}, {"beta", rule.second}, {"heads", count}});
  const Growth growth = GrowthOf(plan, ctx.front(), ctx.back());
  return {{"name", plan.name},
          {"model", plan.model.name},
          {"unit", PlanUnitName(plan.unit)},
          {"rules_sha256", plan.RulesSha256()},
          {"lengths", lengths},
          {"rules", rules},
          {"heads", {{"grow", growth.grows}, {"local", growth.local}, {"whole", growth.whole}}}};
}

// Layers x heads, colour the share of the text that a head sees, a panel a length.
Plot MapPlot(const AttentionPlan& plan, const std::vector<int64_t>& ctx) {
  const int64_t heads = plan.unit == PlanUnit::kHead ? plan.model.n_heads : plan.model.n_kv_heads;
  const int64_t of_each = plan.model.n_heads / heads;
  Plot plot;
  plot.table = "layer\thead";
  for (const int64_t N : ctx) plot.table += fmt::format("\t{}", N);
  plot.table += "\n";
  for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer) {
    if (plan.layers[static_cast<size_t>(layer)].rules.empty()) continue;
    for (int64_t h = 0; h < heads; ++h) {
      plot.table += fmt::format("{}\t{}", layer, h);
      for (const int64_t N : ctx)
        plot.table += fmt::format("\t{:.4f}", static_cast<double>(plan.HeadSpan(layer, h * of_each, N)) /
                                                  static_cast<double>(plan.DenseSpan(layer, N)));
      plot.table += "\n";
    }
  }
  plot.script = fmt::format(
      "unset grid\nset multiplot layout 1,{} title '{}: share of the text that a head sees'\n"
      "set cbrange [0:1]\nset palette defined (0 '#f7fbff', 0.3 '#6baed6', 1 '#08306b')\n"
      "set xtics 1\nset xlabel 'head'\nset ylabel 'layer'\nset yrange [*:*] reverse noextend\n"
      "set xrange [*:*] noextend\n",
      ctx.size(), plan.name);
  for (size_t i = 0; i < ctx.size(); ++i)
    plot.script += fmt::format("{}set title '{} tokens'\nplot @TABLE@ skip 1 using 2:1:{} with image notitle\n",
                               i + 1 < ctx.size() ? "unset colorbox\n" : "set colorbox\n", ctx[i], i + 3);
  plot.script += "unset multiplot";
  plot.width = 240 * static_cast<int>(ctx.size()) + 120;
  plot.height = std::clamp(160 + 18 * static_cast<int>(plan.model.n_layers), 360, 900);
  return plot;
}

}  // namespace

int ShowPlan(const PlanShowFlags& flags, const CommonFlags& common) {
  std::vector<int64_t> ctx = flags.ctx;
  std::ranges::sort(ctx);
  ctx.erase(std::unique(ctx.begin(), ctx.end()), ctx.end());
  AttentionPlan plan;
  if (flags.model.empty()) {
    plan = AttentionPlan::Load(flags.plan);
  } else {
    std::vector<std::string> warnings;
    plan = AttentionPlan::Load(flags.plan, OpenWeights(flags.model, &warnings).config);
    PrintWarnings(warnings);
  }
  if (plan.n_units() == 0)
    throw Error(ErrorCode::kUsage, flags.plan + ": the plan has no rules: no layer has attention");
  if (common.json)
    fmt::print("{}\n", DumpJson(PlanAsJson(plan, ctx)));
  else
    PrintPlan(plan, ctx);
  if (!flags.plot.empty()) DrawPlot(flags.plot, MapPlot(plan, ctx));
  return kDone;
}

}  // namespace hydra::cli
