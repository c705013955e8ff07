// SPDX-License-Identifier: Apache-2.0
// What a step of a run does: length and rows of its batch, parts that are on, rates, biases that are set and not
// learned. Without stages all parts are on. Not here: the fields of stages (stage.h), the optimiser (optim.h).
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "hydra/nn/model.h"
#include "hydra/train/optim.h"
#include "hydra/train/run_config.h"

namespace hydra::train {

// Entries of parameters that the optimiser shall leave alone for a step: it sees no gradient of them, and what it made
// of them is put back.
class HeldEntries {
 public:
  // Entry `index` of the first dimension.
  void Add(const torch::Tensor& parameter, int64_t index) { entries_.push_back({parameter, index, {}}); }
  void BeforeStep();  // between the backward pass and the gradient's norm
  void AfterStep();

 private:
  struct Entry {
    torch::Tensor parameter;
    int64_t index;
    torch::Tensor value;
  };
  std::vector<Entry> entries_;
};

class Curriculum {
 public:
  // Stages that ResolveCurriculum has checked.
  Curriculum(const RunConfig& run, const ModelConfig& model);

  [[nodiscard]] int64_t total_steps() const { return total_steps_; }
  [[nodiscard]] int n_stages() const { return static_cast<int>(run_.stages.size()); }
  // Of a step, from 0; -1 without stages.
  [[nodiscard]] int StageAt(int64_t step) const;
  // Whether a stage ends with `done` steps.
  [[nodiscard]] bool EndsStage(int64_t done) const;
  [[nodiscard]] int64_t RowsAt(int64_t step) const;
  [[nodiscard]] int64_t SeqLenAt(int64_t step) const;
  // Rows of a step by corpus: path and share; empty: all from data.dir.
  [[nodiscard]] const std::vector<DataShare>& DataAt(int64_t step) const;
  [[nodiscard]] nn::ForwardOptions ForwardAt(int64_t step) const;
  // Parts that this step computes.
  [[nodiscard]] std::vector<ModelPart> PartsAt(int64_t step) const;
  // Factor on the run's learning rate.
  [[nodiscard]] double LrScaleAt(int64_t step) const;
  // Factors of each parameter on that, in the order of OptimParams.
  [[nodiscard]] std::vector<double> RateFactorsAt(int64_t step, const nn::Model& model) const;
  // Sets the biases that a stage schedules.
  void SetBiases(int64_t step, nn::Model& model) const;
  // Those biases, and what belongs to paths that are off.
  [[nodiscard]] HeldEntries HeldAt(int64_t step, const nn::Model& model) const;
  // "stage 3 of 6, attention: steps 301 to 500, 8 rows of 256 tokens, ssm moe sga"
  [[nodiscard]] std::string StageLine(int stage) const;
  // The model as far as a stage computes it: what a step costs.
  [[nodiscard]] ModelConfig ConfigOf(int stage) const;
  [[nodiscard]] const Stage& stage(int i) const { return run_.stages[static_cast<size_t>(i)]; }
  [[nodiscard]] const StageSpan& span(int i) const { return spans_[static_cast<size_t>(i)]; }

 private:
  // Of its stage, with this step: above 0 and up to 1.
  [[nodiscard]] double ShareAt(int64_t step) const;
  [[nodiscard]] bool IsOnAt(ModelPart part, int64_t step) const;

  RunConfig run_;
  ModelConfig model_;
  std::vector<StageSpan> spans_;
  int64_t total_steps_;
};

}  // namespace hydra::train
