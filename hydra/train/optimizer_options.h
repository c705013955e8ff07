// SPDX-License-Identifier: Apache-2.0
// Which optimiser a run takes and its numbers; free of LibTorch, for run.toml. Not here: the optimisers (optim.h).
#pragma once

#include <array>

namespace hydra::train {

enum class OptimizerKind {
  kAdamW,      // two moments a weight (Loshchilov and Hutter, 2019)
  kAdafactor,  // a second moment a row and a column, no first one (Shazeer and Stern, 2018): adafactor.h
};

struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::kAdamW;
  std::array<double, 2> betas{0.9, 0.95};  // AdamW's
  double eps = 1e-8;                       // AdamW's
  double weight_decay = 0.1;               // decoupled: w -= lr * decay * w
  double clip = 1.0;                       // largest norm of all gradients together; 0 = not clipped
};

}  // namespace hydra::train
