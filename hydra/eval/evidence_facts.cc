// SPDX-License-Identifier: Apache-2.0
// 12.4: do product keys hold facts, better than a dense layer of as many parameters, and can new ones be taught?
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/eval/evidence_task.h"
#include "hydra/train/teach.h"

namespace hydra::eval {
namespace {

constexpr const char* kTableOff = "table read off";

FactsOptions FactsSizes(EvidenceSize size) {
  if (size == EvidenceSize::kSmoke)
    return {.subjects = 20, .statements = 8, .documents = 4, .test_documents = 16, .new_subjects = 2};
  if (size == EvidenceSize::k29M) return {.documents = 64};
  return {};
}

std::vector<train::FactExample> Examples(const std::vector<FactsTask::Asked>& asked) {
  std::vector<train::FactExample> examples;
  for (const FactsTask::Asked& one : asked) {
    examples.push_back(
        {.ids = one.ids, .answer = static_cast<int64_t>(one.ids.size()), .fact = static_cast<size_t>(one.fact)});
    examples.back().ids.push_back(one.object);
  }
  return examples;
}

class FactsExperiment final : public TaskExperiment {
 public:
  [[nodiscard]] std::string name() const override { return "facts"; }
  [[nodiscard]] std::string title() const override { return "12.4 Facts in product keys"; }

  [[nodiscard]] ReportSection Report(const EvidencePlan& plan, const CellResults& results) const override {
    const TaskPlan task = MakePlan(plan.size);
    const FactsOptions o = FactsSizes(plan.size);
    ReportSection section{
        .name = name(),
        .title = title(),
        .about =
            StrCat(o.subjects * o.relations, " facts: ", o.subjects, " subjects of three ids, ", o.relations,
                   " relations of ", o.templates, " templates, ", o.objects, " objects. Each fact is trained in ",
                   o.templates - 1, " templates and asked, without any text that tells it, in the other. ", task.steps,
                   " steps of ", o.documents, " documents of ", o.statements,
                   " statements; loss on the objects alone. Then ", o.new_subjects * o.relations,
                   " new facts are taught, into rows of the table alone where there is one, else into a low-rank "
                   "change, and asked in a template that was not taught. Shares of right answers, mean over seeds and "
                   "95% interval."),
        .claims = {},
        .tables = {},
        .plots = {},
        .rows = RawRows(plan, results, task)};
    const std::optional<bool> learned = Learned(plan, results, kTrained);
    const auto judge = [&](const char* id, const std::string& text, const std::string& measure, const Rule& rule,
                           Evidence evidence) {
      evidence.learned = learned;
      section.claims.push_back(Judge(StrCat("facts.", id), text, measure, rule, evidence));
    };
    judge("dense", "Product keys hold more facts than a dense layer of equal parameters",
          "share right of Hydra less that with the dense layer, template that was not trained", GainsOver(0, 0.02),
          Gain(plan, results, "hydra", "test", "hydra-pkm-dense", "test", {kHeldOut}));
    judge("pkm", "Product keys add to what a Hydra without them holds",
          "share right less that of a Hydra without, template that was not trained", GainsOver(0, 0.02),
          Gain(plan, results, "hydra", "test", "hydra-no-pkm", "test", {kHeldOut}));
    judge("taught", "New facts can be taught into the table alone", "share right of new facts in a template not taught",
          AtLeast(0.9), OfTeaching(plan, results, "held_out_after", {}));
    judge("kept", "Teaching them costs none of the old", "share right of old facts after less before", NoWorseBy(0.02),
          OfTeaching(plan, results, "old_after", "old_before"));
    Lines lines = TestLines();
    lines.insert(lines.begin() + 1, std::pair<std::string, std::string>("hydra", kTableOff));
    section.tables = {ScoreTable(plan, results, task, lines, "Shares of right answers."), TeachingTable(plan, results),
                      RunTable(plan, results)};
    AddCurves(plan, results, &section);
    return section;
  }

 protected:
  [[nodiscard]] std::vector<std::string> models() const override {
    return {"hydra", "hydra-no-pkm", "hydra-pkm-dense"};
  }

  [[nodiscard]] TaskPlan MakePlan(EvidenceSize size) const override {
    const FactsOptions o = FactsSizes(size);
    return {.task = MakeFacts(o),
            .options = {{"subjects", o.subjects},
                        {"relations", o.relations},
                        {"templates", o.templates},
                        {"objects", o.objects},
                        {"letters", o.letters},
                        {"statements", o.statements},
                        {"documents", o.documents},
                        {"test_documents", o.test_documents},
                        {"new_subjects", o.new_subjects},
                        {"teach_steps", TeachSteps(size)}},
            .steps = size == EvidenceSize::kSmoke ? 8
                     : size == EvidenceSize::k29M ? 20000
                                                  : 3000,
            .test_passes = 3 + TeachPasses(size)};
  }

  void Look(const TaskPlan& plan, nn::Model& model, const std::string& name, const ScoreOptions& options,
            CellContext& context, Json* result) const override {
    if (name == "hydra") ReadsOfTable(*plan.task, model, options, result);
    const auto& task = dynamic_cast<const FactsTask&>(*plan.task);
    const auto held = [&] {
      return ScoreTask(model, task.Test(), static_cast<int64_t>(task.settings().size()), options).settings[kHeldOut];
    };
    const Share before = held();
    context.check();
    const auto trained = Examples(task.NewFacts(false)), held_out = Examples(task.NewFacts(true));
    const auto steps = plan.options["teach_steps"].get<int64_t>();
    const train::TeachReport report =
        train::Teach(model, trained, held_out, Rehearsal(task), "",
                     {.into = model.config().HasPkm() ? train::TeachInto::kTable : train::TeachInto::kLowRank,
                      .steps = steps,
                      .examples = 64,
                      .rehearsal_rows = 8,
                      .rehearsal_tokens = RehearsalTokens(task, model.config()),
                      .low_rank = model.config().HasPkm() ? 0 : LowRank(model.config()),
                      .stop = context.stop,
                      .on_step = [&](int64_t step, double, double) { context.progress(step, steps); }});
    context.check();  // a report of teaching that was stopped says nothing
    const Share after = held();
    (*result)["teach"] = {{"steps", report.steps},
                          {"trained", report.trained},
                          {"held_out", report.held_out},
                          {"trained_before", report.trained_before},
                          {"trained_after", report.trained_after},
                          {"held_out_before", report.held_out_before},
                          {"held_out_after", report.held_out_after},
                          {"rows", report.rows},
                          {"numbers", report.numbers},
                          {"mean_gate", report.mean_gate},
                          {"old_before", ToJson(before)},
                          {"old_after", ToJson(after)}};
  }

 private:
  static constexpr size_t kTrained = 0, kHeldOut = 1;  // settings of the task

  [[nodiscard]] static int64_t TeachSteps(EvidenceSize size) { return size == EvidenceSize::kSmoke ? 4 : 500; }
  // What teaching costs, in passes over the test documents: each step has a forward pass of rehearsal before its own
  // forward and backward ones.
  [[nodiscard]] static double TeachPasses(EvidenceSize size) { return size == EvidenceSize::kSmoke ? 1 : 20; }

  [[nodiscard]] static train::Corpus Rehearsal(const Task& task) {
    constexpr int64_t kSteps = 64;  // of training, as text
    constexpr uint64_t kSeed = 1 << 20;
    std::vector<std::vector<int32_t>> documents;
    for (int64_t step = 0; step < kSteps; ++step)
      for (TaskDocument& document : task.TrainStep(kSeed, step)) documents.push_back(std::move(document.ids));
    return train::Corpus::FromDocuments(std::move(documents));
  }
  // As many rows of one document each.
  [[nodiscard]] static int64_t RehearsalTokens(const Task& task, const ModelConfig& config) {
    const auto n = static_cast<int64_t>(task.TrainStep(0, 0).front().ids.size());
    return (n + config.chunk_len - 1) / config.chunk_len * config.chunk_len;
  }
  // About as many numbers as the rows of the table that Hydra's facts may move: all of them.
  [[nodiscard]] static int64_t LowRank(const ModelConfig& config) {
    const ModelConfig hydra = config.d_model == Hydra29M().d_model ? Hydra29M() : HydraNano();
    const int64_t numbers = hydra.pkm.n_keys * hydra.pkm.n_keys * hydra.pkm.d_value;
    const int64_t a_rank = config.n_layers() * (config.d_model + config.ssm.d_inner());
    return std::max<int64_t>(1, numbers / a_rank);
  }

  // The mean gate and the rows that the questions read.
  static void ReadsOfTable(const Task& task, nn::Model& model, const ScoreOptions& options, Json* result) {
    std::vector<bool> read(static_cast<size_t>(model.config().pkm.n_keys * model.config().pkm.n_keys));
    double gates = 0, reads = 0;
    const nn::PkmWatch watch = [&](const torch::Tensor& rows, const torch::Tensor& gate) {
      const torch::Tensor flat = rows.to(torch::kCPU).contiguous().view({-1});
      for (int64_t i = 0; i < flat.numel(); ++i) read[static_cast<size_t>(flat.const_data_ptr<int64_t>()[i])] = true;
      gates += gate.sum().item<double>();
      reads += static_cast<double>(gate.numel());
    };
    ScoreOptions watched = options;
    watched.forward.pkm_watch = &watch;
    (void)ScoreTask(model, task.Test(), static_cast<int64_t>(task.settings().size()), watched);
    (*result)["table"] = {
        {"mean_gate", gates / reads}, {"rows_read", std::ranges::count(read, true)}, {"rows", read.size()}};
    ScoreOptions off = options;
    off.forward.controls.pkm_read = 0;
    ScoreInto(task, model, kTableOff, off, result);
  }

  // A share of the teaching report, less another one; errors are those of that many questions.
  [[nodiscard]] Evidence OfTeaching(const EvidencePlan& plan, const CellResults& results, const std::string& key,
                                    const std::optional<std::string>& less) const {
    std::vector<Share> of, minus;
    for (const int64_t seed : plan.seeds) {
      const auto found = results.find(SeedCell("hydra", seed));
      if (found == results.end() || !found->second.contains("teach")) return {.seeds = plan.seeds.size()};
      const Json& teach = found->second["teach"];
      if (less) {
        of.push_back(ParseShare(teach[key], found->first));
        minus.push_back(ParseShare(teach[*less], found->first));
        continue;
      }
      const auto asked = teach["held_out"].get<int64_t>();
      const double share = teach[key].get<double>();
      of.push_back({.documents = asked,
                    .asked = asked,
                    .right = static_cast<int64_t>(share * static_cast<double>(asked) + 0.5),
                    .error = std::sqrt(share * (1 - share) / static_cast<double>(asked))});
    }
    Evidence evidence{.seeds = plan.seeds.size()};
    evidence.interval = less ? Difference(of, minus) : OverSeeds(of);
    return evidence;
  }

  [[nodiscard]] ReportTable TeachingTable(const EvidencePlan& plan, const CellResults& results) const {
    ReportTable table{
        "Teaching new facts. Rows: of the table that moved; numbers: that could. Gate: mean over the "
        "questions' tokens. Rows read: share of the table that the test's tokens read, before teaching.",
        {"model", "seed", "steps", "new, as taught", "new, template not taught", "old before", "old after",
         "old loss before", "old loss after", "rows", "numbers", "mean gate", "rows read"},
        {}};
    for (const std::string& model : models())
      for (const int64_t seed : plan.seeds) {
        const auto found = results.find(SeedCell(model, seed));
        if (found == results.end() || !found->second.contains("teach")) continue;
        const Json& teach = found->second["teach"];
        const Share before = ParseShare(teach["old_before"], found->first),
                    after = ParseShare(teach["old_after"], found->first);
        const bool has_table = found->second.contains("table");
        const Json read = has_table ? found->second["table"] : Json();
        table.rows.push_back(
            {model, StrCat(seed), StrCat(teach["steps"].get<int64_t>()), Fixed(teach["trained_after"].get<double>(), 3),
             Fixed(teach["held_out_after"].get<double>(), 3), Fixed(before.share(), 3), Fixed(after.share(), 3),
             Fixed(before.loss, 4), Fixed(after.loss, 4), StrCat(teach["rows"].get<int64_t>()),
             StrCat(teach["numbers"].get<int64_t>()), has_table ? Fixed(read["mean_gate"].get<double>(), 3) : "-",
             has_table ? Fixed(read["rows_read"].get<double>() / read["rows"].get<double>(), 3) : "-"});
      }
    return table;
  }

  // Training losses of each model's first seed.
  void AddCurves(const EvidencePlan& plan, const CellResults& results, ReportSection* section) const {
    ReportPlot plot{.name = "facts",
                    .title = "Loss while the facts are learned, first seed",
                    .x_label = "steps",
                    .y_label = "nats an object",
                    .lines = {}};
    for (const std::string& model : models()) {
      const auto found = results.find(SeedCell(model, plan.seeds.front()));
      if (found == results.end()) continue;
      ReportLine line{model, {}, {}};
      for (const Json& point : found->second["curve"]) {
        const auto loss = point[1].get<double>();
        line.x.push_back(point[0].get<double>());
        line.y.push_back({loss, loss, loss});
      }
      plot.lines.push_back(std::move(line));
    }
    section->plots.push_back(std::move(plot));
  }
};

}  // namespace

std::unique_ptr<Experiment> MakeFactsExperiment() { return std::make_unique<FactsExperiment>(); }

}  // namespace hydra::eval
