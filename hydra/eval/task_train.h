// SPDX-License-Identifier: Apache-2.0
// Trains a model on a task, step by step, and goes on from its own checkpoint: the same task, seed and length give the
// same weights bit for bit on a CPU, however often it was stopped. Silent. Not here: training on text
// (train/trainer.h).
#pragma once

#include "hydra/nn/torch.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "hydra/eval/task.h"
#include "hydra/nn/model.h"
#include "hydra/train/device.h"

namespace hydra::eval {

struct TaskTraining {
  int64_t steps = 0;
  double lr = 1e-3;                // highest; linear warm-up over a twentieth of the steps, then cosine to a twentieth
  uint64_t seed = 1;               // of initial weights and documents
  int64_t align = 1;               // of documents in rows (MakeBatches)
  int64_t micro_tokens = 1 << 14;  // of a forward pass; a step may have several
  std::string folder;              // of checkpoints; made where it is missing
  double checkpoint_seconds = 60;
  train::Device device = {};
  const std::atomic<int>* stop = nullptr;  // not 0: checkpoint and return
  std::function<void(int64_t step, double loss)> on_step = {};
};

struct TaskTrained {
  int64_t step = 0;
  bool finished = false;
  int64_t tokens = 0;                             // without pads
  double seconds = 0;                             // of all sessions
  int64_t skipped = 0;                            // updates that the guard left out
  bool diverged = false;                          // three steps in a row were not finite: it ended there
  std::vector<std::pair<int64_t, double>> curve;  // step, mean loss since the point before: nats a target
};

// `model`'s weights are set, from the seed or from the checkpoint. The guards are those of `hydralm train`, with their
// defaults. Throws kIo, and what the checkpoint's reader throws.
[[nodiscard]] TaskTrained TrainOnTask(nn::Model& model, const Task& task, const TaskTraining& options);

}  // namespace hydra::eval
