// SPDX-License-Identifier: Apache-2.0
// Means, intervals, choices.
#include "hydra/cli/verb_eval_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "hydra/data/long_items.h"
#include "hydra/moa/answer_rows.h"

namespace hydra::cli {
namespace {

const LongItem& ItemOf(const ItemRow& row, const std::vector<JudgedItems>& items) {
  return items[row.items].file.items[row.item];
}

// The answer that the model writes; of a question with others beside it, the one that it chooses.
bool IsRight(const ItemRow& row, const std::vector<JudgedItems>& items) {
  return ItemOf(row, items).others.empty() ? row.score.exact : row.score.chosen;
}

double NllOf(const ItemRow& row) { return row.score.nll / static_cast<double>(row.score.tokens); }

// Rows of one plan, kind and length.
using CellKey = std::tuple<size_t, std::string, int64_t>;
std::map<CellKey, std::vector<const ItemRow*>> ByCell(const std::vector<ItemRow>& rows,
                                                      const std::vector<JudgedItems>& items) {
  std::map<CellKey, std::vector<const ItemRow*>> cells;
  for (const ItemRow& row : rows) {
    const LongItem& item = ItemOf(row, items);
    cells[{row.plan, item.kind, item.length}].push_back(&row);
  }
  return cells;
}

// The first plan's row of each item.
using ItemKey = std::pair<size_t, size_t>;
std::map<ItemKey, const ItemRow*> FirstPlan(const std::vector<ItemRow>& rows) {
  std::map<ItemKey, const ItemRow*> first;
  for (const ItemRow& row : rows)
    if (row.plan == 0) first[{row.items, row.item}] = &row;
  return first;
}

// value(row) summed by haystack: what is drawn anew for intervals. Rows without a value are left out.
template <class F>
std::vector<SampleGroup> ByHaystack(const std::vector<const ItemRow*>& rows, const std::vector<JudgedItems>& items,
                                    F&& value) {
  std::map<std::pair<size_t, std::string>, SampleGroup> groups;
  for (const ItemRow* row : rows) {
    const std::optional<double> x = value(*row);
    if (!x) continue;
    SampleGroup& group = groups[{row->items, ItemOf(*row, items).group}];
    group.sum += *x, ++group.n;
  }
  std::vector<SampleGroup> out;
  for (const auto& [name, group] : groups) out.push_back(group);
  return out;
}

void AddChoices(const std::vector<const ItemRow*>& rows, Cell* cell) {
  double right = 0, chance = 0;
  int64_t n = 0;
  for (const ItemRow* row : rows) {
    if (row->choices == 0) continue;
    right += row->score.chosen ? 1 : 0;
    chance += 1 / static_cast<double>(row->choices);
    ++n;
  }
  if (n == 0) return;
  cell->choice = right / static_cast<double>(n);
  cell->chance = chance / static_cast<double>(n);
}

void AddSpans(const JudgedPlan& plan, const ModelConfig& config, Cell* cell) {
  if (plan.plan) {
    const AttentionPlan& p = plan.plan.plan();
    cell->density = plan.plan.spans() == HeadSpans::kOwn ? p.HeadDensity(cell->length) : p.Density(cell->length);
    cell->span = static_cast<double>(p.KvRows(cell->length)) / static_cast<double>(std::max<int64_t>(1, p.n_units()));
    return;
  }
  // Of full attention all tokens, of a window no more than it holds.
  double rows = 0, layers = 0;
  for (const LayerConfig& layer : config.layers) {
    if (layer.attention == AttentionKind::kNone) continue;
    const bool window = layer.attention == AttentionKind::kSparse;
    rows += static_cast<double>(window ? std::min(cell->length, config.attention.window) : cell->length);
    ++layers;
  }
  cell->span = layers > 0 ? rows / layers : 0;
}

}  // namespace

double ChanceOf(const std::string& kind) {
  if (kind == LongItemKindName(LongItemKind::kCloze)) return 0.1;
  if (kind == LongItemKindName(LongItemKind::kContinuation)) return 0.25;
  return kind == "lookup" || kind == "passkey" ? 1e-5 : 0;
}

std::vector<Cell> CellsOf(const std::vector<ItemRow>& rows, const std::vector<JudgedPlan>& plans,
                          const std::vector<JudgedItems>& items, const ModelConfig& config,
                          const ReportOptions& options) {
  const auto first = FirstPlan(rows);
  std::vector<Cell> cells;
  for (const auto& [key, own] : ByCell(rows, items)) {
    Cell cell{.plan = std::get<0>(key), .kind = std::get<1>(key), .length = std::get<2>(key)};
    const auto exact = [&](const ItemRow& row) -> std::optional<double> { return IsRight(row, items) ? 1 : 0; };
    const auto lead = [&](const ItemRow& row) -> std::optional<double> {
      const auto other = first.find({row.items, row.item});
      if (other == first.end()) return std::nullopt;
      return *exact(row) - *exact(*other->second);
    };
    const std::vector<SampleGroup> groups = ByHaystack(own, items, exact);
    cell.n = static_cast<int64_t>(own.size());
    cell.haystacks = static_cast<int64_t>(groups.size());
    cell.accuracy = BootstrapMean(groups, options.draws, options.seed);
    cell.nll =
        BootstrapMean(ByHaystack(own, items, [](const ItemRow& row) -> std::optional<double> { return NllOf(row); }),
                      options.draws, options.seed);
    cell.lead = BootstrapMean(ByHaystack(own, items, lead), options.draws, options.seed);
    AddChoices(own, &cell);
    AddSpans(plans[cell.plan], config, &cell);
    for (const ItemRow* row : own) {
      const double depth = ItemOf(*row, items).depth;
      if (depth < 0) continue;
      constexpr int kTenths = 10;
      SampleGroup& tenth = cell.by_depth[std::min(kTenths - 1, static_cast<int>(depth * kTenths))];
      tenth.sum += IsRight(*row, items) ? 1 : 0, ++tenth.n;
    }
    cells.push_back(std::move(cell));
  }
  return cells;
}

EffectiveContext EffectiveOf(const std::vector<Cell>& cells, size_t plan, const std::string& kind) {
  constexpr double kEnough = 0.9;
  EffectiveContext out;
  for (const Cell& cell : cells) {  // lengths ascend
    if (cell.plan != plan || cell.kind != kind) continue;
    if (cell.accuracy.mean < kEnough) break;
    out = {cell.length, static_cast<double>(cell.length) / std::max(cell.span, 1.0)};
  }
  return out;
}

// ---- Losses of answers ----

namespace {

// Mean over kinds of the mean over items, and the standard error of that.
std::pair<double, double> MeanOfKinds(const std::map<std::string, std::vector<double>>& kinds) {
  double mean = 0, variance = 0;
  for (const auto& [kind, values] : kinds) {
    const auto n = static_cast<double>(values.size());
    double sum = 0, squares = 0;
    for (const double v : values) sum += v;
    for (const double v : values) squares += (v - sum / n) * (v - sum / n);
    mean += sum / n;
    if (n > 1) variance += squares / (n - 1) / n;
  }
  const auto k = static_cast<double>(kinds.size());
  return {mean / k, std::sqrt(variance) / k};
}

}  // namespace

std::vector<AnswerLoss> LossesOf(const std::vector<ItemRow>& rows, const std::vector<JudgedPlan>& plans,
                                 const std::vector<JudgedItems>& items) {
  const auto first = FirstPlan(rows);
  struct Sums {
    std::map<std::string, std::vector<double>> all, above;
    std::map<int64_t, std::map<std::string, std::vector<double>>> by_length;
  };
  std::vector<Sums> sums(plans.size());
  for (const ItemRow& row : rows) {
    const LongItem& item = ItemOf(row, items);
    Sums& s = sums[row.plan];
    s.all[item.kind].push_back(NllOf(row));
    s.by_length[item.length][item.kind].push_back(NllOf(row));
    if (const auto other = first.find({row.items, row.item}); other != first.end())
      s.above[item.kind].push_back(NllOf(row) - NllOf(*other->second));
  }
  std::vector<AnswerLoss> losses(plans.size());
  for (size_t p = 0; p < plans.size(); ++p) {
    AnswerLoss& out = losses[p];
    if (sums[p].all.empty()) continue;
    std::tie(out.loss, out.error) = MeanOfKinds(sums[p].all);
    if (!sums[p].above.empty()) std::tie(out.above, out.above_error) = MeanOfKinds(sums[p].above);
    for (const auto& [kind, values] : sums[p].all) {
      out.by_kind[kind] = MeanOfKinds({{kind, values}}).first;
      out.items += static_cast<int64_t>(values.size());
    }
    for (const auto& [length, kinds] : sums[p].by_length) out.by_length[length] = MeanOfKinds(kinds).first;
  }
  return losses;
}

namespace {

// A plan's predicted loss at its longest profiled length; infinite where it says nothing.
double PredictedAtLongest(const JudgedPlan& plan) {
  const auto& predicted = plan.plan.plan().predicted_loss;
  return predicted.empty() ? std::numeric_limits<double>::infinity() : predicted.rbegin()->second;
}

}  // namespace

std::optional<size_t> ChoosePlan(const std::vector<AnswerLoss>& losses, const std::vector<JudgedPlan>& plans) {
  std::vector<moa::AnswerRow> rows;
  for (size_t p = 0; p < plans.size(); ++p) {
    const bool counts = plans[p].plan && losses[p].items > 0;
    rows.push_back({.loss = losses[p].loss,
                    .error = losses[p].above_error,
                    .predicted = counts ? PredictedAtLongest(plans[p]) : 0,
                    .counts = counts});
  }
  return moa::ChooseAnswerRow(rows);
}

std::map<int64_t, FirstOrder> FirstOrderOf(const std::vector<AnswerLoss>& losses,
                                           const std::vector<JudgedPlan>& plans) {
  std::map<int64_t, std::pair<std::vector<double>, std::vector<double>>> pairs;  // predicted, true
  for (size_t p = 0; p < plans.size(); ++p) {
    if (!plans[p].plan) continue;
    for (const auto& [length, predicted] : plans[p].plan.plan().predicted_loss)
      if (const auto found = losses[p].by_length.find(length); found != losses[p].by_length.end()) {
        pairs[length].first.push_back(predicted);
        pairs[length].second.push_back(found->second);
      }
  }
  std::map<int64_t, FirstOrder> out;
  for (const auto& [length, both] : pairs)
    out[length] = {Spearman(both.first, both.second), static_cast<int64_t>(both.first.size())};
  return out;
}

// ---- JSON ----

namespace {

Json NumberOrNull(double x) { return std::isfinite(x) ? Json(x) : Json(); }

Json IntervalJson(const MeanInterval& i) {
  return {{"mean", NumberOrNull(i.mean)}, {"low", NumberOrNull(i.low)}, {"high", NumberOrNull(i.high)}};
}

}  // namespace

Json CellJson(const Cell& cell) {
  Json depths = Json::array();
  for (const auto& [tenth, group] : cell.by_depth)
    depths.push_back(
        {{"depth", (tenth + 0.5) / 10}, {"n", group.n}, {"accuracy", group.sum / static_cast<double>(group.n)}});
  Json json{{"kind", cell.kind},
            {"length", cell.length},
            {"n", cell.n},
            {"haystacks", cell.haystacks},
            {"density", cell.density},
            {"mean_span", cell.span},
            {"accuracy", IntervalJson(cell.accuracy)},
            {"accuracy_chance", ChanceOf(cell.kind)},
            {"lead", IntervalJson(cell.lead)},
            {"nll", IntervalJson(cell.nll)},
            {"by_depth", depths}};
  if (cell.choice) json["choice"] = *cell.choice, json["choice_chance"] = cell.chance;
  return json;
}

Json LossJson(const AnswerLoss& loss) {
  Json kinds = Json::object(), lengths = Json::object();
  for (const auto& [kind, value] : loss.by_kind) kinds[kind] = value;
  for (const auto& [length, value] : loss.by_length) lengths[std::to_string(length)] = value;
  return {{"loss", loss.loss}, {"error", loss.error},  {"above_first", loss.above}, {"above_error", loss.above_error},
          {"by_kind", kinds},  {"by_length", lengths}, {"items", loss.items}};
}

}  // namespace hydra::cli
