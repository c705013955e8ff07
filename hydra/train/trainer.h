// SPDX-License-Identifier: Apache-2.0
// One training run, from a config and a corpus to a model folder: steps, guards, logs, evaluation, checkpoints, resume.
// Silent: what people see leaves through callbacks. Not here: flags and text for terminals (hydra/cli/torch_train.cc).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hydra/io/file.h"
#include "hydra/nn/model.h"
#include "hydra/train/corpus.h"
#include "hydra/train/device.h"
#include "hydra/train/run_config.h"

namespace hydra::train {

// After each step; rates and means are over the steps since the last row of the log.
struct StepReport {
  int64_t step = 0, total_steps = 0;
  int64_t targets = 0;  // tokens that count in the loss of this step; 0: nothing was computed, loss and norm are NaN
  double loss = 0;      // language-model loss of this step, nats a token
  double bpb = 0;       // bits per byte of this step; NaN where the tokenizer is unknown
  double lr = 0, grad_norm = 0;
  double tok_per_sec = 0, mfu = 0;
  double eta_seconds = 0;
  int64_t skipped = 0;  // updates left out so far: by guards, or for want of targets
  bool logged = false;  // this step has a row in the log
};

struct EvalReport {
  int64_t step = 0, total_steps = 0;
  double loss = 0, bpb = 0;  // bpb NaN where the tokenizer is unknown
  bool best = false;
};

struct TrainerCallbacks {
  std::function<void(const StepReport&)> on_step;
  std::function<void(const EvalReport&)> on_eval;
  std::function<void(const std::string&)> on_note;     // "resumed at step 400 of .."
  std::function<void(const std::string&)> on_warning;  // a skipped update, a failed save, an expert without use
};

struct TrainerOptions {
  RunConfig run;
  ModelConfig model;
  Corpus train;
  std::map<std::string, Corpus> mixed = {};  // other corpora that stages read, by path; data.dir's is `train`
  std::optional<Corpus> val = {};            // none, or one without documents: no evaluation
  std::vector<int32_t> token_bytes = {};     // of each id, for bits per byte; may be empty
  std::string folder = {};                   // of the run; empty: nothing is written
  std::string tokenizer_path = {};  // a tokenizer.json, copied into the model folder as it is now; may be empty
  std::string resume = "auto";      // "auto", "none", or a checkpoint's folder
  std::string init = {};            // model folder whose weights a fresh run starts with; may be empty
  Device device = {};
  torch::Dtype dtype = torch::kFloat32;         // of the master weights; kFloat64 in tests
  const std::atomic<int>* stop = nullptr;       // not 0: checkpoint and return
  std::map<std::string, std::string> env = {};  // more lines of env.json
  const FileOps* file_ops = &FileOps::Real();   // of checkpoints; tests inject failures
  TrainerCallbacks callbacks = {};
  // Called when a step's gradients are there, before anything reads them; tests put faults into them.
  std::function<void(int64_t step, nn::Model& model)> after_backward = {};
};

struct TrainResult {
  int64_t step = 0, total_steps = 0;
  bool finished = false;             // else interrupted, or stopped at `until`
  double val_loss = 0, val_bpb = 0;  // of the last evaluation; NaN without one
  double seconds = 0;                // of training, earlier sessions included
  int64_t tokens = 0, skipped = 0;
  std::string checkpoint;    // newest; "" when none was written
  std::string model_folder;  // "" unless finished
};

// Not thread-safe. Throws Error: kConfig and kData before anything is trained, kData when a file that the run has read
// changes under it (after a checkpoint), kUsage where another process holds the folder, kIo, kDiverged when a guard or
// a third failed save in a row ends the run, or when what was trained last is lost because it could not be saved.
class Trainer {
 public:
  // Builds model and optimiser, opens the logs, and resumes as options.resume says. A folder whose checkpoints cannot
  // be opened is refused (kFormat), never begun anew, and so is one with a finished model and no checkpoint (kUsage).
  explicit Trainer(TrainerOptions options);
  ~Trainer();

  // Trains to the end of the run, or to step `until` (no checkpoint is made for that), or to a stop signal.
  TrainResult Run(int64_t until = -1);

  [[nodiscard]] nn::Model& model();
  [[nodiscard]] int64_t step() const;
  [[nodiscard]] int64_t total_steps() const;
  // Everything that decides the rest of the run, as a checkpoint holds it; weights and optimiser apart. For tests.
  [[nodiscard]] nlohmann::ordered_json StateJson() const;
  // Moments and step counts. For tests.
  [[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> OptimiserState() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// "step 200/5000 | loss 4.113 | bpb 1.782 | lr 3.0e-04 | 11,902 tok/s | mfu 0.31 | eta 3:21"
[[nodiscard]] std::string StepLine(const StepReport& report);
// Warns that the rate of step `step` (from 1) is to be `is`, where the checkpoint's run would have gone on with `was`.
[[nodiscard]] std::string LrJumpLine(int64_t step, double was, double is);
// "step 200/5000 | val loss 4.113 | val bpb 1.782 | best"
[[nodiscard]] std::string EvalLine(const EvalReport& report);

}  // namespace hydra::train
