// SPDX-License-Identifier: Apache-2.0
// What a Trainer holds and does, for the three files that say how: trainer.cc trains, trainer_eval.cc looks at the
// model and judges its stages, trainer_resume.cc starts, saves and resumes. Included by nothing else.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "hydra/model/accounting.h"
#include "hydra/train/batches.h"
#include "hydra/train/blockffn_terms.h"
#include "hydra/train/checkpoint.h"
#include "hydra/train/curriculum.h"
#include "hydra/train/experts.h"
#include "hydra/train/guard.h"
#include "hydra/train/metrics_log.h"
#include "hydra/train/optim.h"
#include "hydra/train/run_folder.h"
#include "hydra/train/source_files.h"
#include "hydra/train/trainer.h"
#include "hydra/train/trainer_state.h"
#include "hydra/train/validation.h"

namespace hydra::train {

// What one step's forward and backward passes give. NaN and undefined where the step's batch has no target.
struct StepSums {
  static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  double loss = kNone, lm = kNone;                         // nats a target; loss with the router's terms
  std::array<double, nn::kRouterTerms> terms = NoTerms();  // NaN: the model has none
  double grad_norm = kNone;                                // before clipping
  torch::Tensor load;                                      // [n_moe, E]; undefined without experts
  torch::Tensor in_set;                                    // [2], see nn::RouterOut; undefined without labels
};

class Trainer::Impl {
 public:
  explicit Impl(TrainerOptions options);
  TrainResult Run(int64_t until);
  [[nodiscard]] TrainState State() const;
  nn::Model& model() { return model_; }
  [[nodiscard]] int64_t step() const { return now_.step; }
  [[nodiscard]] int64_t total_steps() const { return total_steps_; }
  [[nodiscard]] NamedTensors OptimiserState() const { return optim_->State(); }

 private:
  void Start();
  [[nodiscard]] std::optional<Checkpoint> FirstCheckpoint();
  void Restore(const Checkpoint& checkpoint);
  void OpenLog(const std::optional<Checkpoint>& checkpoint);
  void WatchSources();
  void CheckSources();
  void BeginStep();
  void TrainStep();
  void CountOther();  // the time since forward, backward and optimiser, or since this was called
  StepSums ForwardBackward(const StepBatches& batches);
  // Gradients, guards and the update of a step that began at `position` with the guard as `guard`.
  StepSums Update(const StepBatches& batches, double lr, const RowMix::Position& position, const Guard& guard);
  void Skip(const Guard::Decision& decision, const TrainState& before);
  void SkipEmpty();
  void WarnOfLrJump(const RunConfig& before);
  void Report(double lr, const StepSums& sums, double bytes, int64_t n_targets);
  void LogTrainRow(double lr, double grad_norm, double rate, double mfu);
  void Evaluate();
  // The step's options, with the weights of BlockFFN's terms.
  [[nodiscard]] nn::ForwardOptions ForwardNow() const;
  // How sparse BlockFFN's layers are on a batch.
  void MeasureSparsity(const nn::Batch& batch, nn::ForwardOptions forward, MetricsRow* row);
  // What each part is worth: bits per byte (nats a token where bytes are unknown) that switching it off costs.
  void MeasureParts(ValidationOptions how, MetricsRow* row);
  // Whether a watch of the stage looks at this series.
  [[nodiscard]] bool IsWatched(const std::string& series) const;
  // At the end of a stage: warns of watches that failed; what the first of those says that ends the run, or "".
  std::string JudgeStage();
  bool Save(const TrainState& state);
  void LeaveLater();
  void SaveLastModel();
  [[nodiscard]] std::string DataText() const;
  [[nodiscard]] std::string Lost() const;
  void WriteRow(MetricsSplit split, MetricsRow row);
  [[nodiscard]] double FlopsOf(const StepBatches& batches) const;
  double PeakFlops();
  // At multiples of `every`, and where a stage or the run ends.
  [[nodiscard]] bool Due(int64_t every) const;
  void Note(const std::string& text) const;
  void Warn(const std::string& text) const;

  TrainerOptions options_;
  RunFolder folder_;
  Curriculum curriculum_;
  int64_t total_steps_;
  LrSchedule lr_;
  RowMix rows_;
  nn::Model model_;
  std::unique_ptr<Optimizer> optim_;
  Guard guard_;
  ExpertWatch experts_;
  BlockFfnTerms block_terms_;
  std::optional<MetricsLog> log_;
  TrainState now_;                  // its loader, guard, experts and rng are filled in by State()
  std::optional<TrainState> good_;  // before the first of the non-finite steps in a row
  int64_t saved_step_ = -1;
  int64_t went_back_to_ = -1;  // the step of a resume that later checkpoints lie beyond, until the first save
  SourceFiles sources_;
  std::string tokenizer_json_;
  std::string newest_;  // checkpoint
  int failed_saves_ = 0;
  double peak_flops_ = 0;
  double other_seconds_ = 0;  // of the steps since the last row, outside forward, backward and optimiser
  int64_t other_steps_ = 0;
  double idle_since_ = 0;             // Seconds()
  bool validates_ = false;            // there is something to predict in the validation documents
  std::vector<DocumentFlops> flops_;  // of each stage, or of the run
  int stage_ = -1;                    // whose rates the optimiser has and whose corpora rows_ gives
};

}  // namespace hydra::train
