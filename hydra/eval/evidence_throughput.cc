// SPDX-License-Identifier: Apache-2.0
// 12.1: at which length is Hydra faster than its controls, and by how much?
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/eval/evidence_speed.h"

namespace hydra::eval {
namespace {

const std::vector<std::string> kModels = {"hydra", "transformer", "transformer-active", "mamba2"};
const std::vector<std::string> kAblated = {"hydra", "hydra-no-sga", "hydra-no-moe", "hydra-no-memories"};
constexpr int64_t kGenerate = 256;

std::vector<int64_t> Lengths(EvidenceSize size) {
  if (size == EvidenceSize::kSmoke) return {64, 128};
  return {1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16};
}
// Longest with eight sequences, and where parts are taken out.
int64_t Middle(EvidenceSize size) { return size == EvidenceSize::kSmoke ? 128 : 1 << 13; }

SpeedTurns Turns(const SpeedShape& shape, EvidenceSize size) {
  if (size == EvidenceSize::kSmoke) return {.rounds = 1, .repeats = 3};  // most of it is a process's start
  const int64_t most = shape.tokens() <= 1 << 13 ? 10 : shape.tokens() <= 1 << 15 ? 5 : 3;
  // What comes before the steps takes longer than they do: it is read once.
  if (!shape.prefill() && shape.tokens() > 1 << 13) return {.rounds = 1, .repeats = most};
  return {.rounds = most, .repeats = shape.tokens() <= 1 << 12 ? 5 : 1};
}

struct Point {
  std::string cell;
  SpeedShape shape;
  bool ablated = false;
};

std::vector<Point> Points(EvidenceSize size) {
  std::vector<Point> points;
  const auto name = [](const SpeedShape& shape, const char* what) {
    return StrCat("throughput-", shape.prefill() ? "prefill" : "decode", "-", shape.tokens(),
                  shape.batch > 1 ? StrCat("-batch-", shape.batch) : "", what);
  };
  const int64_t steps = size == EvidenceSize::kSmoke ? 8 : kGenerate;
  for (const int64_t batch : {1, 8})
    for (const bool prefill : {true, false})
      for (const int64_t T : Lengths(size)) {
        if (batch > 1 && T > Middle(size)) continue;
        const SpeedShape shape = prefill ? SpeedShape{.prompt = T, .batch = batch}
                                         : SpeedShape{.generate = steps, .depth = T, .batch = batch};
        points.push_back({name(shape, ""), shape});
        if (batch == 1 && T == Middle(size)) points.push_back({name(shape, "-parts"), shape, true});
      }
  return points;
}

class ThroughputExperiment final : public Experiment {
 public:
  [[nodiscard]] std::string name() const override { return "throughput"; }
  [[nodiscard]] std::string title() const override { return "12.1 Throughput by length"; }

  [[nodiscard]] std::vector<Cell> Cells(const EvidencePlan& plan) const override {
    std::vector<Cell> cells;
    for (const Point& point : Points(plan.size))
      cells.push_back(SpeedCell(point.cell, point.ablated ? kAblated : kModels, plan.size, point.shape,
                                Turns(point.shape, plan.size)));
    return cells;
  }

  [[nodiscard]] Json Run(const EvidencePlan&, const Cell& cell, CellContext& context) const override {
    return RunSpeedCell(cell, context);
  }

  [[nodiscard]] ReportSection Report(const EvidencePlan& plan, const CellResults& results) const override {
    ReportSection section{
        .name = name(),
        .title = title(),
        .about =
            StrCat("Prompts of random ids, and ", kGenerate,
                   " steps behind them, by the runtime: weights in bf16, keys "
                   "and values in f16, the same threads. Models take turns, a process each, which warms up with one "
                   "pass; tokens a second of all sequences, median and the order statistics that enclose it. Ratios "
                   "are of Hydra's samples to those of the same round. Where a ratio is below 1, Hydra is slower."),
        .claims = {},
        .tables = {},
        .plots = {},
        .rows = RawTimes(plan, results)};
    Judgements(plan, results, &section);
    for (const int64_t batch : {1, 8})
      for (const bool prefill : {true, false}) section.tables.push_back(SpeedTable(plan, results, prefill, batch));
    section.tables.push_back(PartsTable(plan, results));
    for (const bool prefill : {true, false}) section.plots.push_back(SpeedPlot(plan, results, prefill));
    return section;
  }

 private:
  [[nodiscard]] static std::string CellName(const EvidencePlan& plan, bool prefill, int64_t T, int64_t batch = 1) {
    for (const Point& point : Points(plan.size))
      if (point.shape.prefill() == prefill && point.shape.tokens() == T && point.shape.batch == batch && !point.ablated)
        return point.cell;
    return "";
  }

  void Judgements(const EvidencePlan& plan, const CellResults& results, ReportSection* section) const {
    const int64_t longest = Lengths(plan.size).back(), middle = Middle(plan.size);
    const auto judge = [&](const std::string& id, const std::string& text, const std::string& measure, const Rule& rule,
                           const Evidence& evidence) {
      Claim claim = Judge("throughput." + id, text, measure, rule, evidence);
      if (!claim.interval && evidence.note.rfind("void", 0) == 0) claim.verdict = Verdict::kVoid;
      section->claims.push_back(std::move(claim));
    };
    const auto of = [&](bool prefill, int64_t T, const char* below) {
      return SpeedEvidence(results, CellName(plan, prefill, T), "hydra", below);
    };
    if (plan.size == EvidenceSize::k29M) {
      judge("prefill-8k", "Hydra reads prompts of 8K three times as fast as a transformer of equal total size",
            "ratio of tokens/s", AtLeast(3), of(true, middle, "transformer"));
      judge("prefill-64k",
            StrCat("At 64K it gains three quarters of the ratio of counted FLOP, ", Fixed(kCountedRatio, 1)),
            "ratio of tokens/s", AtLeast(std::round(100 * 0.75 * kCountedRatio) / 100),
            of(true, longest, "transformer"));
    } else {
      judge("prefill-64k", "Hydra-nano reads prompts of 64K twenty times as fast as a transformer of equal total size",
            "ratio of tokens/s", AtLeast(20), of(true, longest, "transformer"));
    }
    judge("crossover-prefill", "It is faster than a transformer of equal active size from 4K on in prefill",
          "length at which the ratio of tokens/s passes 1", AtMost(4096), CrossoverOf(plan, results, true));
    judge("crossover-decode", "It is faster than a transformer of equal active size from 1K on in decode",
          "length at which the ratio of tokens/s passes 1", AtMost(1024), CrossoverOf(plan, results, false));
    judge("memory", "The memory of a prompt grows no faster than its length",
          "slope of peak memory over length, both as logarithms, half the lengths and more", AtMost(1.1),
          MemorySlope(plan, results));
  }

  // The crossover by the ratios' ends: the upper ends cross first.
  [[nodiscard]] static Evidence CrossoverOf(const EvidencePlan& plan, const CellResults& results, bool prefill) {
    std::vector<double> x, value, low, high;
    Evidence evidence;
    for (const int64_t T : Lengths(plan.size)) {
      const Evidence at = SpeedEvidence(results, CellName(plan, prefill, T), "hydra", "transformer-active");
      if (!at.interval) {
        evidence.note = at.note;
        return evidence;
      }
      x.push_back(static_cast<double>(T));
      value.push_back(at.interval->value);
      low.push_back(at.interval->low);
      high.push_back(at.interval->high);
    }
    evidence.interval = Interval{Crossover(x, value), Crossover(x, high), Crossover(x, low)};
    if (evidence.interval->value == 0) evidence.note = StrCat("faster from the shortest length on, ", x.front());
    return evidence;
  }

  [[nodiscard]] static Evidence MemorySlope(const EvidencePlan& plan, const CellResults& results) {
    std::vector<double> x, y;
    const std::vector<int64_t> lengths = Lengths(plan.size);
    for (size_t i = lengths.size() / 2; i < lengths.size(); ++i)
      if (const auto peak = PeakBytes(results, CellName(plan, true, lengths[i]), "hydra")) {
        x.push_back(static_cast<double>(lengths[i]));
        y.push_back(*peak);
      }
    Evidence evidence;
    if (x.size() < lengths.size() - lengths.size() / 2) return evidence;
    const double slope = x.size() > 1 ? LogSlope(x, y) : 0;
    evidence.interval = Interval{slope, slope, slope};
    return evidence;
  }

  [[nodiscard]] static ReportTable SpeedTable(const EvidencePlan& plan, const CellResults& results, bool prefill,
                                              int64_t batch) {
    ReportTable table{StrCat(prefill ? "Prefill" : "Decode", batch > 1 ? StrCat(" of ", batch, " sequences") : "",
                             ": tokens a second; ratios of Hydra to each control; peak memory in MB."),
                      {prefill ? "tokens" : "tokens before"},
                      {}};
    for (const std::string& model : kModels) table.head.push_back(model);
    for (size_t i = 1; i < kModels.size(); ++i) table.head.push_back("/ " + kModels[i]);
    for (const std::string& model : kModels) table.head.push_back(model + " MB");
    for (const int64_t T : Lengths(plan.size)) {
      const std::string cell = CellName(plan, prefill, T, batch);
      if (cell.empty()) continue;
      std::vector<std::string> row{StrCat(T)};
      for (const std::string& model : kModels) row.push_back(Text(SpeedSamples(results, cell, model), 0));
      for (size_t i = 1; i < kModels.size(); ++i)
        row.push_back(Text(SpeedRatios(results, cell, "hydra", kModels[i]), 2));
      for (const std::string& model : kModels) {
        const auto peak = PeakBytes(results, cell, model);
        row.push_back(peak ? Fixed(*peak / 1e6, 0) : "-");
      }
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  [[nodiscard]] static ReportTable PartsTable(const EvidencePlan& plan, const CellResults& results) {
    ReportTable table{
        StrCat("Without a part, at ", Middle(plan.size), " tokens: tokens a second, and against the whole."),
        {"phase"},
        {}};
    for (const std::string& model : kAblated) table.head.push_back(model);
    for (size_t i = 1; i < kAblated.size(); ++i) table.head.push_back(kAblated[i] + " / hydra");
    for (const Point& point : Points(plan.size)) {
      if (!point.ablated) continue;
      const std::string& cell = point.cell;
      std::vector<std::string> row{point.shape.prefill() ? "prefill" : "decode"};
      for (const std::string& model : kAblated) row.push_back(Text(SpeedSamples(results, cell, model), 0));
      for (size_t i = 1; i < kAblated.size(); ++i)
        row.push_back(Text(SpeedRatios(results, cell, kAblated[i], "hydra"), 2));
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  [[nodiscard]] static std::string Text(const std::vector<double>& values, int digits) {
    return values.empty() ? "-" : IntervalText(MedianOf(values), digits);
  }

  [[nodiscard]] static ReportPlot SpeedPlot(const EvidencePlan& plan, const CellResults& results, bool prefill) {
    ReportPlot plot{.name = prefill ? "throughput-prefill" : "throughput-decode",
                    .title = prefill ? "Prefill by length" : "Decode by tokens before",
                    .x_label = "tokens",
                    .y_label = "tokens a second",
                    .log_x = true,
                    .log_y = true,
                    .lines = {}};
    for (const std::string& model : kModels) {
      ReportLine line{model, {}, {}};
      for (const int64_t T : Lengths(plan.size)) {
        const auto samples = SpeedSamples(results, CellName(plan, prefill, T), model);
        if (samples.empty()) continue;
        line.x.push_back(static_cast<double>(T));
        line.y.push_back(MedianOf(samples));
      }
      if (!line.x.empty()) plot.lines.push_back(std::move(line));
    }
    return plot;
  }

  [[nodiscard]] static ReportTable RawTimes(const EvidencePlan& plan, const CellResults& results) {
    ReportTable table{"", {"cell", "model", "sample", "tokens_per_s", "void", "peak_bytes"}, {}};
    for (const Point& point : Points(plan.size)) {
      const auto found = results.find(point.cell);
      if (found == results.end()) continue;
      for (const auto& [model, samples] : found->second["samples"].items())
        for (size_t i = 0; i < samples.size(); ++i)
          table.rows.push_back({found->first, model, StrCat(i + 1), Fixed(samples[i].get<double>(), 3),
                                found->second["void"][i] == true ? "yes" : "no",
                                StrCat(found->second["peak_bytes"][model].get<int64_t>())});
    }
    return table;
  }
};

}  // namespace

std::unique_ptr<Experiment> MakeThroughputExperiment() { return std::make_unique<ThroughputExperiment>(); }

}  // namespace hydra::eval
