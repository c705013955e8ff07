// SPDX-License-Identifier: Apache-2.0
// 12.5: do routed experts give what a dense layer of their active size gives, at a fraction of the work of their total?
#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/eval/evidence_speed.h"
#include "hydra/eval/evidence_task.h"

namespace hydra::eval {
namespace {

ArithmeticOptions ArithmeticSizes(EvidenceSize size) {
  if (size == EvidenceSize::kSmoke) return {.documents = 4, .test_documents = 8};
  if (size == EvidenceSize::k29M) return {.documents = 64};
  return {};
}

class ExpertsExperiment final : public TaskExperiment {
 public:
  [[nodiscard]] std::string name() const override { return "experts"; }
  [[nodiscard]] std::string title() const override { return "12.5 Conditional compute"; }

  [[nodiscard]] ReportSection Report(const EvidencePlan& plan, const CellResults& results) const override {
    const TaskPlan task = MakePlan(plan.size);
    const ArithmeticOptions o = ArithmeticSizes(plan.size);
    ReportSection section{
        .name = name(),
        .title = title(),
        .about = StrCat(
            "a op b = c in digits, a and b from 0 to ", o.most,
            "; a fifth of the unordered pairs is held out for every op. ", task.steps, " steps of ", o.documents,
            " documents of at most ", o.tokens,
            " tokens; loss on the digits of c and its end. Shares of held-out problems whose answer is right to "
            "the last token, mean over seeds and 95% interval. hydra-moe-active and hydra-moe-total have a dense "
            "SwiGLU in the place of the experts: as wide as those that a chunk uses, and as all of them."),
        .claims = {},
        .tables = {},
        .plots = {},
        .rows = RawRows(plan, results, task)};
    const std::optional<bool> learned = LearnedAny(plan, results);
    const std::vector<size_t> all = {0, 1, 2};
    const auto judge = [&](const char* id, const std::string& text, const std::string& measure, const Rule& rule,
                           Evidence evidence) {
      section.claims.push_back(Judge(StrCat("experts.", id), text, measure, rule, evidence));
    };
    Evidence as_good = Gain(plan, results, "hydra", "test", "hydra-moe-active", "test", all);
    as_good.learned = learned;
    judge("active", "Experts are as good as a dense layer of their active size",
          "share right of Hydra less that with the dense layer, all ops", NoWorseBy(0.02), as_good);
    Evidence capacity = Gain(plan, results, "hydra", "test", "hydra-moe-total", "test", all);
    capacity.learned = learned;
    judge("total", "Experts are as good as a dense layer of their total size",
          "share right of Hydra less that with the dense layer, all ops", NoWorseBy(0.02), capacity);
    for (const auto& [id, phase] : {std::pair{"prefill", "reads prompts"}, std::pair{"decode", "decodes"}})
      judge(id, StrCat("It ", phase, " faster than with a dense layer of the experts' total size"), "ratio of tokens/s",
            GainsOver(1, 0), SpeedEvidence(results, SpeedName(id), "hydra", "hydra-moe-total"));
    judge("rows", "Each token goes through as many experts as it should, and no more",
          "rows of the experts' products a token, counted", Within(TopK(plan), TopK(plan)), Rows(plan, results));
    section.tables = {ScoreTable(plan, results, task, TestLines(), "Shares of right answers to held-out problems."),
                      SpeedTable(results), RunTable(plan, results)};
    section.plots.push_back({.name = "experts",
                             .title = "Right answers by op (1: +, 2: -, 3: x)",
                             .x_label = "op",
                             .y_label = "share right",
                             .lines = ScoreLines(plan, results, TestLines(), {1, 2, 3})});
    return section;
  }

 protected:
  [[nodiscard]] std::vector<std::string> models() const override {
    return {"hydra", "hydra-moe-active", "hydra-moe-total"};
  }

  [[nodiscard]] TaskPlan MakePlan(EvidenceSize size) const override {
    const ArithmeticOptions o = ArithmeticSizes(size);
    return {.task = MakeArithmetic(o),
            .options = {{"most", o.most},
                        {"tokens", o.tokens},
                        {"documents", o.documents},
                        {"test_documents", o.test_documents}},
            .steps = size == EvidenceSize::kSmoke ? 8
                     : size == EvidenceSize::k29M ? 20000
                                                  : 3000,
            .test_passes = 2};
  }

  // Counts the rows that the experts' products have, by the chunks that each expert took. Test documents are as long as
  // they come, so the last chunk of each counts by its tokens.
  void Look(const TaskPlan& plan, nn::Model& model, const std::string& name, const ScoreOptions& options, CellContext&,
            Json* result) const override {
    if (name != "hydra") return;
    constexpr size_t kDocuments = 64;
    std::vector<TaskDocument> documents = plan.task->Test();
    documents.resize(std::min(documents.size(), kDocuments));
    // Whole chunks, so that a chunk's rows are its length.
    const auto chunk = static_cast<size_t>(model.config().chunk_len);
    double tokens = 0;
    for (TaskDocument& document : documents) {
      document.ids.resize(document.ids.size() / chunk * chunk);
      document.questions.clear();
      tokens += static_cast<double>(document.ids.size());
    }
    double rows = 0;
    size_t layers = 0;
    for (const std::vector<double>& counts : ExpertCounts(model, documents, options)) {
      for (const double n : counts) rows += n * static_cast<double>(chunk);
      layers = counts.size() / static_cast<size_t>(model.config().moe.n_experts);
    }
    (*result)["rows_per_token"] = rows / tokens / static_cast<double>(layers);
  }

  [[nodiscard]] std::vector<Cell> MoreCells(const EvidencePlan& plan) const override {
    const bool smoke = plan.size == EvidenceSize::kSmoke;
    const SpeedTurns turns{.rounds = smoke ? 3 : 10, .repeats = smoke ? 1 : 5};
    return {SpeedCell(SpeedName("prefill"), models(), plan.size, {.prompt = smoke ? 64 : 2048}, turns),
            SpeedCell(SpeedName("decode"), models(), plan.size,
                      {.generate = smoke ? 8 : 128, .depth = smoke ? 32 : 1024}, turns)};
  }
  [[nodiscard]] Json RunOther(const EvidencePlan&, const Cell& cell, CellContext& context) const override {
    return RunSpeedCell(cell, context);
  }

 private:
  [[nodiscard]] std::string SpeedName(const std::string& phase) const { return StrCat(name(), "-speed-", phase); }
  [[nodiscard]] static double TopK(const EvidencePlan& plan) {
    return static_cast<double>(EvidenceModel("hydra", plan.size).moe.top_k);
  }

  // Which op is the easiest is for the models to say.
  [[nodiscard]] std::optional<bool> LearnedAny(const EvidencePlan& plan, const CellResults& results) const {
    std::optional<bool> learned;
    for (size_t op = 0; op < 3; ++op) {
      const std::optional<bool> one = Learned(plan, results, op);
      if (one == true) return true;
      learned = one;
    }
    return learned;
  }

  [[nodiscard]] Evidence Rows(const EvidencePlan& plan, const CellResults& results) const {
    Evidence evidence;
    const std::vector<double> rows = Numbers(plan, results, "hydra", {"rows_per_token"});
    if (rows.empty()) return evidence;
    const auto [least, most] = std::ranges::minmax(rows);
    evidence.interval = Interval{Median(rows), least, most};
    return evidence;
  }

  [[nodiscard]] ReportTable SpeedTable(const CellResults& results) const {
    ReportTable table{
        "Tokens a second of the runtime, bf16, one sequence: median and the order statistics that enclose "
        "it; and ratios of Hydra to each.",
        {"phase"},
        {}};
    for (const std::string& model : models()) table.head.push_back(model);
    for (const std::string& model : models())
      if (model != "hydra") table.head.push_back("hydra / " + model);
    for (const char* phase : {"prefill", "decode"}) {
      std::vector<std::string> row{phase};
      for (const std::string& model : models()) {
        const auto samples = SpeedSamples(results, SpeedName(phase), model);
        row.push_back(samples.empty() ? "-" : IntervalText(MedianOf(samples), 0));
      }
      for (const std::string& model : models()) {
        if (model == "hydra") continue;
        const auto ratios = SpeedRatios(results, SpeedName(phase), "hydra", model);
        row.push_back(ratios.empty() ? "-" : IntervalText(MedianOf(ratios), 3));
      }
      table.rows.push_back(std::move(row));
    }
    return table;
  }
};

}  // namespace

std::unique_ptr<Experiment> MakeExpertsExperiment() { return std::make_unique<ExpertsExperiment>(); }

}  // namespace hydra::eval
