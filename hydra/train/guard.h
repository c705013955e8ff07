// SPDX-License-Identifier: Apache-2.0
// Decides, from loss and gradient norm, whether an update is made, skipped, or the run ends; and from validation
// losses, whether it still learns. Not here: the model, files, printing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/io/json.h"

namespace hydra::train {

// [guard] of the run file; 0 turns a guard off.
struct GuardConfig {
  int64_t nonfinite_stop = 3;  // so many non-finite steps in a row end the run; each is skipped in any case
  // A loss above the mean of the window + sigma deviations is skipped, and so is a gradient norm whose logarithm is,
  // the deviation being 0.25 at least: norms have a long tail, and one of four times the usual size is nothing strange,
  // nor harmful behind the clip.
  double sigma = 6;
  int64_t window = 200;             // accepted steps that mean and deviation look back on
  double max_skip_share = 0.01;     // of the steps so far; beyond it outliers are let through
  double val_rise = 0.5;            // nats above the best validation loss
  int64_t val_times = 3;            // so many times running end the run
  int64_t dead_expert_steps = 500;  // an expert without a chunk for so long is reported, once
  bool operator==(const GuardConfig&) const = default;
};

class Guard {
 public:
  enum class Verdict { kUpdate, kSkip, kStop };
  enum class Cause { kNone, kNonFiniteLoss, kNonFiniteGrad, kLossOutlier, kGradOutlier };

  struct Decision {
    Verdict verdict = Verdict::kUpdate;
    Cause cause = Cause::kNone;
    std::string text;  // "loss 9.1 above 4.2 + 6 * 0.3 of the last 200 steps"; empty for kUpdate
  };

  explicit Guard(const GuardConfig& config) : config_(config) {}

  // Called once for each step, in order, with the step's loss and gradient norm before clipping.
  Decision Check(int64_t step, double loss, double grad_norm);

  // In the place of Check() for a step whose batch has no target: nothing is known of it, so it is counted and nothing
  // else; a row of steps that are not finite is neither ended nor made longer by it.
  void CountEmpty() { ++empty_; }

  // Called after each validation; true when the run should end. The best loss and its step are kept.
  bool CheckValidation(int64_t step, double loss);

  [[nodiscard]] int64_t skipped() const { return nonfinite_ + outliers_ + empty_; }
  [[nodiscard]] int64_t nonfinite() const { return nonfinite_; }
  [[nodiscard]] int64_t outliers() const { return outliers_; }
  [[nodiscard]] int64_t empty() const { return empty_; }
  [[nodiscard]] int64_t nonfinite_streak() const { return streak_; }
  [[nodiscard]] bool has_best() const { return best_step_ >= 0; }
  [[nodiscard]] double best_val() const { return best_val_; }
  [[nodiscard]] int64_t best_step() const { return best_step_; }

  // Exact: a restored guard decides as the saved one would have. Load throws kFormat naming `where`; what older states
  // do not have (empty) is 0.
  [[nodiscard]] nlohmann::ordered_json Save() const;
  void Load(const nlohmann::ordered_json& json, const std::string& where);

 private:
  // `history` has the last `window` values, oldest first; they are judged as they are or by their logarithms.
  [[nodiscard]] bool IsOutlier(const std::vector<double>& history, double value, bool logarithms, double* mean,
                               double* deviation) const;
  void Remember(std::vector<double>& history, double value) const;

  GuardConfig config_;
  std::vector<double> losses_, norms_;
  int64_t nonfinite_ = 0, outliers_ = 0, empty_ = 0, streak_ = 0;
  double best_val_ = 0;
  int64_t best_step_ = -1, rises_ = 0;
};

[[nodiscard]] const char* CauseName(Guard::Cause cause);

}  // namespace hydra::train
