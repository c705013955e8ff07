// SPDX-License-Identifier: Apache-2.0
// Cells, runs and tables that experiments on tasks share.
#include "hydra/eval/evidence_task.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/eval/task_train.h"
#include "hydra/model/accounting.h"

namespace hydra::eval {
namespace {

// Of results: raised where the code that makes them changes what they are, so that cells are made anew.
constexpr int kResultVersion = 1;
constexpr int64_t kSweepSeed = 0;
constexpr int64_t kSweepShare = 4;  // a run of the sweep has a quarter of the steps

// Documents begin at multiples of Hydra's chunk for every model, so that all see the same rows.
int64_t Align(EvidenceSize size) { return EvidenceModel("hydra", size).chunk_len; }

double ForwardFlops(const ModelConfig& config, const std::vector<TaskDocument>& documents) {
  double tokens = 0;
  for (const TaskDocument& document : documents) tokens += static_cast<double>(document.ids.size());
  if (documents.empty()) return 0;
  return tokens * MeanForwardFlops(config, static_cast<int64_t>(tokens / static_cast<double>(documents.size())));
}

double StepFlops(const ModelConfig& config, const Task& task) {
  constexpr int64_t kLook = 4;
  double sum = 0;
  for (int64_t step = 0; step < kLook; ++step) sum += 3 * ForwardFlops(config, task.TrainStep(0, step));
  return sum / static_cast<double>(kLook);
}

std::string RateCell(const std::string& experiment, const std::string& model, double rate) {
  return StrCat(experiment, "-", model, "-rate-", rate);
}

// The rate whose run left the lowest loss on the tuning documents; a run that diverged counts as none.
double BestRate(const std::string& experiment, const std::string& model, const std::vector<double>& rates,
                const CellResults& results) {
  double best = rates.front(), lowest = std::numeric_limits<double>::infinity();
  for (const double rate : rates) {
    const auto found = results.find(RateCell(experiment, model, rate));
    if (found == results.end()) continue;
    const Json& loss = found->second["tuning"]["loss"];
    if (!loss.is_number() || found->second["diverged"] == true || loss.get<double>() >= lowest) continue;
    lowest = loss.get<double>();
    best = rate;
  }
  return best;
}

std::string LineName(const std::string& model, const std::string& what) {
  return what == "test" ? model : StrCat(model, ", ", what);
}

}  // namespace

Json ToJson(const Share& s) {
  return {{"documents", s.documents}, {"asked", s.asked}, {"right", s.right},
          {"error", s.error},         {"loss", s.loss},   {"loss_error", s.loss_error}};
}

Share ParseShare(const Json& json, const std::string& where) {
  Share s;
  const auto at = [&](const char* key) -> const Json& {
    if (!json.is_object() || !json.contains(key))
      throw Error(ErrorCode::kFormat, StrCat(where, ": ", key, ": missing"));
    return json[key];
  };
  const std::string field = where + ": ";
  ReadJson(at("documents"), field + "documents", &s.documents);
  ReadJson(at("asked"), field + "asked", &s.asked);
  ReadJson(at("right"), field + "right", &s.right);
  ReadJson(at("error"), field + "error", &s.error);
  // A model that diverged may have a loss that is no number.
  if (at("loss").is_number()) s.loss = json["loss"].get<double>();
  if (at("loss_error").is_number()) s.loss_error = json["loss_error"].get<double>();
  return s;
}

void ScoreInto(const Task& task, nn::Model& model, const std::string& what, const ScoreOptions& options, Json* result) {
  Json list = Json::array();
  for (const Share& share :
       ScoreTask(model, task.Test(), static_cast<int64_t>(task.settings().size()), options).settings)
    list.push_back(ToJson(share));
  (*result)["scores"][what] = std::move(list);
}

Share Pool(const std::vector<Share>& parts) {
  Share all;
  double variance = 0, loss = 0, loss_variance = 0;
  for (const Share& s : parts) {
    const auto asked = static_cast<double>(s.asked);
    all.documents += s.documents;
    all.asked += s.asked;
    all.right += s.right;
    variance += std::pow(asked * s.error, 2);
    loss += asked * s.loss;
    loss_variance += std::pow(asked * s.loss_error, 2);
  }
  if (all.asked == 0) return all;
  const auto asked = static_cast<double>(all.asked);
  all.error = std::sqrt(variance) / asked;
  all.loss = loss / asked;
  all.loss_error = std::sqrt(loss_variance) / asked;
  return all;
}

void TaskExperiment::Look(const TaskPlan&, nn::Model&, const std::string&, const ScoreOptions&, CellContext&,
                          Json*) const {}
std::vector<Cell> TaskExperiment::MoreCells(const EvidencePlan&) const { return {}; }
Json TaskExperiment::RunOther(const EvidencePlan&, const Cell& cell, CellContext&) const {
  throw Error(ErrorCode::kUsage, StrCat("cell ", cell.name, ": unknown"));
}

std::string TaskExperiment::SeedCell(const std::string& model, int64_t seed) const {
  return StrCat(name(), "-", model, "-seed-", seed);
}

std::vector<Cell> TaskExperiment::Cells(const EvidencePlan& plan) const {
  const TaskPlan task = MakePlan(plan.size);
  const std::vector<TaskDocument> test = task.task->Test(), tuning = task.task->Tuning();
  std::vector<Cell> sweeps, runs;
  for (const std::string& model : models()) {
    const ModelConfig config = EvidenceModel(model, plan.size);
    const double step = StepFlops(config, *task.task);
    const Json common = {{"version", kResultVersion},
                         {"size", SizeName(plan.size)},
                         {"model", model},
                         {"parameters", CountParams(config).total},
                         {"task", task.options}};
    std::vector<std::string> needs;
    for (const double rate : task.rates) {
      Json settings = common;
      settings.update({{"kind", "sweep"}, {"rate", rate}, {"seed", kSweepSeed}, {"steps", task.steps / kSweepShare}});
      sweeps.push_back({.name = RateCell(name(), model, rate),
                        .settings = settings,
                        .needs = {},
                        .flops = step * static_cast<double>(task.steps / kSweepShare) + ForwardFlops(config, tuning)});
      needs.push_back(sweeps.back().name);
    }
    for (const int64_t seed : plan.seeds) {
      Json settings = common;
      settings.update({{"kind", "seed"}, {"rates", task.rates}, {"seed", seed}, {"steps", task.steps}});
      runs.push_back({.name = SeedCell(model, seed),
                      .settings = settings,
                      .needs = needs,
                      .flops = step * static_cast<double>(task.steps) + task.test_passes * ForwardFlops(config, test)});
    }
  }
  // All models of a seed before the next seed: a part of the cells is then a fair comparison already.
  std::ranges::stable_sort(runs, {}, [](const Cell& cell) { return cell.settings["seed"].get<int64_t>(); });
  std::vector<Cell> cells = std::move(sweeps);
  cells.insert(cells.end(), runs.begin(), runs.end());
  for (Cell& cell : MoreCells(plan)) cells.push_back(std::move(cell));
  return cells;
}

Json TaskExperiment::Run(const EvidencePlan& plan, const Cell& cell, CellContext& context) const {
  const Json& settings = cell.settings;
  if (!settings.contains("kind")) return RunOther(plan, cell, context);
  const TaskPlan task = MakePlan(plan.size);
  const bool sweep = settings["kind"] == "sweep";
  const auto model_name = settings["model"].get<std::string>();
  const auto seed = settings["seed"].get<int64_t>(), steps = settings["steps"].get<int64_t>();
  const double rate =
      sweep ? settings["rate"].get<double>() : BestRate(name(), model_name, task.rates, context.results);
  const ModelConfig config = EvidenceModel(model_name, plan.size);
  nn::Model model(config, {.device = context.device.device, .initialise = false});
  const int64_t align = Align(plan.size);
  const TaskTrained trained = TrainOnTask(model, *task.task,
                                          {.steps = steps,
                                           .lr = rate,
                                           .seed = static_cast<uint64_t>(seed),
                                           .align = align,
                                           .folder = context.folder,
                                           .device = context.device,
                                           .stop = context.stop,
                                           .on_step = [&](int64_t step, double) { context.progress(step, steps); }});
  context.check();
  HYDRA_CHECK(trained.finished, "training ended at step ", trained.step);
  Json curve = Json::array();
  for (const auto& [step, loss] : trained.curve) curve.push_back({step, loss});
  Json result = {{"rate", rate},
                 {"tokens", trained.tokens},
                 {"train_seconds", trained.seconds},
                 {"skipped", trained.skipped},
                 {"diverged", trained.diverged},
                 {"parameters", {{"total", CountParams(config).total}, {"active", CountParams(config).active}}},
                 {"curve", curve}};
  const ScoreOptions options{.align = align, .device = context.device, .check = context.check};
  if (sweep) {
    const auto n_settings = static_cast<int64_t>(task.task->settings().size());
    result["tuning"] = ToJson(Pool(ScoreTask(model, task.task->Tuning(), n_settings, options).settings));
    return result;
  }
  ScoreInto(*task.task, model, "test", options, &result);
  Look(task, model, model_name, options, context, &result);
  return result;
}

std::vector<Share> TaskExperiment::Shares(const EvidencePlan& plan, const CellResults& results,
                                          const std::string& model, const std::string& what, size_t setting) const {
  return Shares(plan, results, model, what, std::vector<size_t>{setting});
}

std::vector<Share> TaskExperiment::Shares(const EvidencePlan& plan, const CellResults& results,
                                          const std::string& model, const std::string& what,
                                          const std::vector<size_t>& settings) const {
  std::vector<Share> seeds;
  for (const int64_t seed : plan.seeds) {
    const auto found = results.find(SeedCell(model, seed));
    if (found == results.end() || !found->second.contains("scores") || !found->second["scores"].contains(what))
      return {};
    std::vector<Share> parts;
    for (const size_t setting : settings) {
      const Json& list = found->second["scores"][what];
      if (setting >= list.size()) return {};
      parts.push_back(ParseShare(list[setting], found->first));
    }
    seeds.push_back(Pool(parts));
  }
  return seeds;
}

std::vector<double> TaskExperiment::Numbers(const EvidencePlan& plan, const CellResults& results,
                                            const std::string& model, const std::vector<std::string>& path) const {
  std::vector<double> numbers;
  for (const int64_t seed : plan.seeds) {
    const auto found = results.find(SeedCell(model, seed));
    if (found == results.end()) return {};
    const Json* at = &found->second;
    for (const std::string& key : path) {
      if (!at->is_object() || !at->contains(key)) return {};
      at = &(*at)[key];
    }
    if (!at->is_number()) return {};
    numbers.push_back(at->get<double>());
  }
  return numbers;
}

std::optional<bool> TaskExperiment::Learned(const EvidencePlan& plan, const CellResults& results,
                                            size_t setting) const {
  bool all = true;
  for (const std::string& model : models()) {
    const std::vector<Share> seeds = Shares(plan, results, model, "test", setting);
    if (seeds.empty()) all = false;
    if (!seeds.empty() && OverSeeds(seeds).value >= kLearned) return true;
  }
  if (all) return false;
  return std::nullopt;
}

Evidence TaskExperiment::Gain(const EvidencePlan& plan, const CellResults& results, const std::string& a,
                              const std::string& what_a, const std::string& b, const std::string& what_b,
                              const std::vector<size_t>& settings) const {
  const std::vector<Share> of_a = Shares(plan, results, a, what_a, settings),
                           of_b = Shares(plan, results, b, what_b, settings);
  Evidence evidence{.seeds = plan.seeds.size()};
  if (!of_a.empty() && !of_b.empty()) evidence.interval = Difference(of_a, of_b);
  return evidence;
}

Evidence TaskExperiment::Level(const EvidencePlan& plan, const CellResults& results, const std::string& model,
                               const std::string& what, const std::vector<size_t>& settings) const {
  Evidence evidence{.seeds = plan.seeds.size()};
  if (const auto seeds = Shares(plan, results, model, what, settings); !seeds.empty())
    evidence.interval = OverSeeds(seeds);
  return evidence;
}

TaskExperiment::Lines TaskExperiment::TestLines() const {
  Lines lines;
  for (const std::string& model : models()) lines.emplace_back(model, "test");
  return lines;
}

ReportTable TaskExperiment::ScoreTable(const EvidencePlan& plan, const CellResults& results, const TaskPlan& task,
                                       const Lines& lines, const std::string& title) const {
  const std::vector<std::string> settings = task.task->settings();
  ReportTable table{title, {"model"}, {}};
  table.head.insert(table.head.end(), settings.begin(), settings.end());
  for (const auto& [model, what] : lines) {
    std::vector<std::string> row{LineName(model, what)};
    for (size_t s = 0; s < settings.size(); ++s) {
      const std::vector<Share> seeds = Shares(plan, results, model, what, s);
      row.push_back(seeds.empty() ? "-" : IntervalText(OverSeeds(seeds), 3));
    }
    table.rows.push_back(std::move(row));
  }
  for (const Solver& solver : task.task->solvers()) {
    std::vector<std::string> row{solver.name};
    for (const double share : solver.share) row.push_back(Fixed(share, 4));
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::vector<ReportLine> TaskExperiment::ScoreLines(const EvidencePlan& plan, const CellResults& results,
                                                   const Lines& lines, const std::vector<double>& x) const {
  std::vector<ReportLine> out;
  for (const auto& [model, what] : lines) {
    ReportLine line{LineName(model, what), {}, {}};
    for (size_t s = 0; s < x.size(); ++s)
      if (const auto seeds = Shares(plan, results, model, what, s); !seeds.empty()) {
        line.x.push_back(x[s]);
        line.y.push_back(OverSeeds(seeds));
      }
    if (!line.x.empty()) out.push_back(std::move(line));
  }
  return out;
}

ReportTable TaskExperiment::RunTable(const EvidencePlan& plan, const CellResults& results) const {
  ReportTable table{
      "The runs. Equal seeds have equal documents in equal order.",
      {"model", "parameters", "active", "rate", "tokens of a run", "seconds of a run", "skipped updates", "diverged"},
      {}};
  for (const std::string& model : models()) {
    const std::vector<double> rate = Numbers(plan, results, model, {"rate"}),
                              seconds = Numbers(plan, results, model, {"train_seconds"}),
                              tokens = Numbers(plan, results, model, {"tokens"}),
                              skipped = Numbers(plan, results, model, {"skipped"});
    if (rate.empty() || seconds.empty() || tokens.empty() || skipped.empty()) continue;
    double all_skipped = 0;
    for (const double n : skipped) all_skipped += n;
    int64_t diverged = 0;
    for (const int64_t seed : plan.seeds) diverged += results.at(SeedCell(model, seed))["diverged"] == true ? 1 : 0;
    const ParamCounts params = CountParams(EvidenceModel(model, plan.size));
    table.rows.push_back({model, StrCat(params.total), StrCat(params.active), StrCat(rate.front()),
                          Fixed(tokens.front(), 0), Fixed(Median(seconds), 0), Fixed(all_skipped, 0),
                          StrCat(diverged, " of ", plan.seeds.size())});
  }
  return table;
}

ReportTable TaskExperiment::RawRows(const EvidencePlan& plan, const CellResults& results, const TaskPlan& task) const {
  const std::vector<std::string> settings = task.task->settings();
  ReportTable table{"",
                    {"model", "seed", "rate", "scored", "setting", "documents", "asked", "right", "share", "error",
                     "loss", "loss_error"},
                    {}};
  for (const std::string& model : models())
    for (const int64_t seed : plan.seeds) {
      const auto found = results.find(SeedCell(model, seed));
      if (found == results.end()) continue;
      for (const auto& [what, list] : found->second["scores"].items())
        for (size_t s = 0; s < list.size() && s < settings.size(); ++s) {
          const Share share = ParseShare(list[s], found->first);
          table.rows.push_back({model, StrCat(seed), StrCat(found->second["rate"].get<double>()), what, settings[s],
                                StrCat(share.documents), StrCat(share.asked), StrCat(share.right),
                                Fixed(share.share(), 6), Fixed(share.error, 6), Fixed(share.loss, 6),
                                Fixed(share.loss_error, 6)});
        }
    }
  return table;
}

}  // namespace hydra::eval
