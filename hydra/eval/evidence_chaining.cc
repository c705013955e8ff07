// SPDX-License-Identifier: Apache-2.0
// 12.2: does the workspace help to follow links?
#include "hydra/base/error.h"
#include "hydra/eval/evidence_task.h"

namespace hydra::eval {
namespace {

constexpr const char* kReadOff = "workspace read off";

ChainingOptions ChainingSizes(EvidenceSize size) {
  if (size == EvidenceSize::kSmoke) return {.documents = 4, .test_documents = 8};
  if (size == EvidenceSize::k29M) return {.documents = 64, .test_documents = 1024};
  return {};
}

class ChainingExperiment final : public TaskExperiment {
 public:
  [[nodiscard]] std::string name() const override { return "chaining"; }
  [[nodiscard]] std::string title() const override { return "12.2 Following links"; }

 protected:
  [[nodiscard]] std::vector<std::string> models() const override {
    return {"hydra", "hydra-no-workspace", "transformer", "transformer-active", "mamba2"};
  }

  [[nodiscard]] TaskPlan MakePlan(EvidenceSize size) const override {
    const ChainingOptions o = ChainingSizes(size);
    return {.task = MakeChaining(o),
            .options = {{"chains", o.chains},
                        {"entities", o.entities},
                        {"train_most", o.train_most},
                        {"test_most", o.test_most},
                        {"documents", o.documents},
                        {"test_documents", o.test_documents}},
            .steps = size == EvidenceSize::kSmoke ? 8
                     : size == EvidenceSize::k29M ? 20000
                                                  : 5000,
            .test_passes = 2};
  }

  void Look(const TaskPlan& plan, nn::Model& model, const std::string& name, const ScoreOptions& options, CellContext&,
            Json* result) const override {
    if (name != "hydra") return;
    ScoreOptions off = options;
    off.forward.controls.workspace_read = 0;
    ScoreInto(*plan.task, model, kReadOff, off, result);
  }

 public:
  [[nodiscard]] ReportSection Report(const EvidencePlan& plan, const CellResults& results) const override {
    const TaskPlan task = MakePlan(plan.size);
    const ChainingOptions o = ChainingSizes(plan.size);
    ReportSection section{
        .name = name(),
        .title = title(),
        .about = StrCat(
            o.chains, " chains of k + 1 different entities of ", o.entities,
            "; every link is a fact, all facts are shuffled, and the end of each chain is asked. Trained on "
            "k from 1 to ",
            o.train_most, ", ", task.steps, " steps of ", o.documents,
            " documents; loss on the answers alone. Shares of right answers on ", o.test_documents,
            " held-out documents of each k with ", o.chains, " questions each, mean over seeds and 95% interval."),
        .claims = {},
        .tables = {},
        .plots = {},
        .rows = RawRows(plan, results, task)};
    const std::optional<bool> learned = Learned(plan, results, 0);
    const std::vector<size_t> hard = {2, 3};  // k = 3 and 4, which were trained
    const auto judge = [&](const char* id, const std::string& text, const std::string& measure, const Rule& rule,
                           Evidence evidence) {
      evidence.learned = learned;
      section.claims.push_back(Judge(StrCat("chaining.", id), text, measure, rule, evidence));
    };
    judge("workspace", "The workspace helps at three steps and more",
          "share right with it less share right of a Hydra trained without, k = 3 and 4", GainsOver(0, 0.05),
          Gain(plan, results, "hydra", "test", "hydra-no-workspace", "test", hard));
    judge("workspace-used", "A trained Hydra reads the workspace for it",
          "share right less that with the read switched off, k = 3 and 4", GainsOver(0, 0.05),
          Gain(plan, results, "hydra", "test", "hydra", kReadOff, hard));
    judge("end-finder", "Hydra beats the end-finder at three steps and more", "share right of Hydra, k = 3 and 4",
          GainsOver(1 / static_cast<double>(o.chains), 0.05), Level(plan, results, "hydra", "test", hard));
    judge("transformer", "Hydra is above the transformer of equal size at three steps and more",
          "share right of Hydra less that of the transformer, k = 3 and 4", GainsOver(0, 0.05),
          Gain(plan, results, "hydra", "test", "transformer", "test", hard));
    judge("longer", "Hydra follows chains longer than it was trained on", "share right of Hydra, k = 5 to 8",
          AtLeast(0.5), Level(plan, results, "hydra", "test", {4, 5, 6, 7}));
    Lines lines = TestLines();
    lines.insert(lines.begin() + 1, std::pair<std::string, std::string>("hydra", kReadOff));
    section.tables = {ScoreTable(plan, results, task, lines, "Shares of right answers."), RunTable(plan, results)};
    std::vector<double> x;
    for (size_t s = 0; s < task.task->settings().size(); ++s) x.push_back(static_cast<double>(s + 1));
    section.plots.push_back({.name = "chaining",
                             .title = "Right answers by steps of the chain",
                             .x_label = "steps k",
                             .y_label = "share right",
                             .lines = ScoreLines(plan, results, lines, x),
                             .levels = {{"end-finder", 1 / static_cast<double>(o.chains)}}});
    return section;
  }
};

}  // namespace

std::unique_ptr<Experiment> MakeChainingExperiment() { return std::make_unique<ChainingExperiment>(); }

}  // namespace hydra::eval
