// SPDX-License-Identifier: Apache-2.0
// Adafactor (Shazeer and Stern, 2018, algorithms 4 and 5) with a given learning rate: for models whose moments do not
// fit beside them. Not here: what optimisers share (optim.h).
#pragma once

#include <vector>

#include "hydra/train/optim.h"

namespace hydra::train {

// The second moment of a matrix [.., R, C] is kept as means of rows [.., R] and columns [.., C], that of a vector
// whole, that of a row-wise table as the mean of each row [R, 1]; no first moment. An update's root mean square is
// clipped to 1. The decay is 1 - t^-0.8 at step t, so it needs no betas; eps is the paper's 1e-30.
// State: NAME.exp_avg_sq_row and NAME.exp_avg_sq_col, or NAME.exp_avg_sq.
class Adafactor final : public Optimizer {
 public:
  Adafactor(std::vector<OptimParam> params, const OptimizerOptions& options);
  [[nodiscard]] NamedTensors State() const override;

 private:
  void StepDense(double lr, double scale) override;
  void StepRows(size_t i, double lr, const torch::Tensor& rows, const torch::Tensor& grad) override;
  // Takes grad^2 into the moments of parameter i, 1 / (their root) out, in the gradient's shape or one that broadcasts.
  torch::Tensor Scale(size_t i, const torch::Tensor& grad, double decay);

  struct Moments {
    torch::Tensor row{}, col{};  // of a matrix; else both undefined
    torch::Tensor all{};         // of a vector or of rows
  };
  std::vector<Moments> moments_;
};

}  // namespace hydra::train
