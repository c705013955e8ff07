// SPDX-License-Identifier: Apache-2.0
// An experiment on a task: for each model a small sweep of learning rates, then a run for each seed with the best one;
// scores, and what an experiment looks at besides. Not here: the experiments (evidence_chaining.cc and its neighbours).
#pragma once

#include "hydra/nn/torch.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hydra/eval/evidence.h"
#include "hydra/eval/task.h"
#include "hydra/eval/task_score.h"
#include "hydra/nn/model.h"

namespace hydra::eval {

struct TaskPlan {
  std::unique_ptr<Task> task;
  Json options;       // of the task, for the settings of cells
  int64_t steps = 0;  // of a seed's run; a run of the sweep has a quarter of them
  std::vector<double> rates = {1e-3, 3e-3};
  double test_passes = 1;  // over the test documents, with what the experiment looks at besides
};

class TaskExperiment : public Experiment {
 public:
  [[nodiscard]] std::vector<Cell> Cells(const EvidencePlan& plan) const override;
  [[nodiscard]] Json Run(const EvidencePlan& plan, const Cell& cell, CellContext& context) const override;

 protected:
  [[nodiscard]] virtual std::vector<std::string> models() const = 0;
  [[nodiscard]] virtual TaskPlan MakePlan(EvidenceSize size) const = 0;
  // What else is looked at in a trained model: goes into `result`.
  virtual void Look(const TaskPlan& plan, nn::Model& model, const std::string& name, const ScoreOptions& options,
                    CellContext& context, Json* result) const;
  // More cells, after the others.
  [[nodiscard]] virtual std::vector<Cell> MoreCells(const EvidencePlan& plan) const;
  [[nodiscard]] virtual Json RunOther(const EvidencePlan& plan, const Cell& cell, CellContext& context) const;

  // ---- for reports ----

  [[nodiscard]] std::string SeedCell(const std::string& model, int64_t seed) const;
  // results[cell]["scores"][what][setting] of every seed; nothing where a seed is missing.
  [[nodiscard]] std::vector<Share> Shares(const EvidencePlan& plan, const CellResults& results,
                                          const std::string& model, const std::string& what, size_t setting) const;
  // Settings taken together: their questions as those of one.
  [[nodiscard]] std::vector<Share> Shares(const EvidencePlan& plan, const CellResults& results,
                                          const std::string& model, const std::string& what,
                                          const std::vector<size_t>& settings) const;
  // One number of each seed's result, by a path: {"routing", "cv"}.
  [[nodiscard]] std::vector<double> Numbers(const EvidencePlan& plan, const CellResults& results,
                                            const std::string& model, const std::vector<std::string>& path) const;
  // Whether some model answers kLearned of a setting's questions; nothing while none does and some are missing.
  [[nodiscard]] std::optional<bool> Learned(const EvidencePlan& plan, const CellResults& results, size_t setting) const;
  // Models with what was scored: "test", or what Look() put there.
  using Lines = std::vector<std::pair<std::string, std::string>>;
  [[nodiscard]] Lines TestLines() const;
  // Rows: the shares of each line at each setting; then solvers.
  [[nodiscard]] ReportTable ScoreTable(const EvidencePlan& plan, const CellResults& results, const TaskPlan& task,
                                       const Lines& lines, const std::string& title) const;
  // The same for a plot; x of each setting. Lines without results are left out.
  [[nodiscard]] std::vector<ReportLine> ScoreLines(const EvidencePlan& plan, const CellResults& results,
                                                   const Lines& lines, const std::vector<double>& x) const;
  [[nodiscard]] ReportTable RunTable(const EvidencePlan& plan, const CellResults& results) const;
  [[nodiscard]] ReportTable RawRows(const EvidencePlan& plan, const CellResults& results, const TaskPlan& task) const;
  // A claim's evidence: the share right at settings together; and that of a less that of b, seed by seed.
  [[nodiscard]] Evidence Level(const EvidencePlan& plan, const CellResults& results, const std::string& model,
                               const std::string& what, const std::vector<size_t>& settings) const;
  [[nodiscard]] Evidence Gain(const EvidencePlan& plan, const CellResults& results, const std::string& a,
                              const std::string& what_a, const std::string& b, const std::string& what_b,
                              const std::vector<size_t>& settings) const;
};

// The scores of the test documents under result["scores"][what].
void ScoreInto(const Task& task, nn::Model& model, const std::string& what, const ScoreOptions& options, Json* result);

// Shares of several settings as one.
[[nodiscard]] Share Pool(const std::vector<Share>& parts);

}  // namespace hydra::eval
