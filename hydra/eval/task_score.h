// SPDX-License-Identifier: Apache-2.0
// How a model answers the questions of a task: greedy answers that are right to the last token, and losses. Silent.
// Not here: what a score says (claims.h).
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>
#include <functional>
#include <vector>

#include "hydra/eval/intervals.h"
#include "hydra/eval/task.h"
#include "hydra/nn/model.h"
#include "hydra/train/device.h"

namespace hydra::eval {

struct ScoreOptions {
  int64_t align = 1;  // as in training
  int64_t batch_tokens = 1 << 12;
  train::Device device = {};
  nn::ForwardOptions forward = {};
  bool forget_before_questions = false;  // SSM paths lose their state at each document's first question
  std::function<void()> check = {};      // called between batches; may throw
};

struct TaskScores {
  std::vector<Share> settings;          // of the task's settings
  std::vector<double> document_nats;    // of each document: losses of its scored questions, summed
  std::vector<int64_t> document_asked;  // ... and their number
};

// Every question with a setting is scored; in documents without questions every token but the first is one, of the
// setting that is the document's label.
[[nodiscard]] TaskScores ScoreTask(nn::Model& model, const std::vector<TaskDocument>& documents, int64_t n_settings,
                                   const ScoreOptions& options);

// Of each setting: the share of its questions whose pair (the token asked about, or the next) is a landmark of the
// question's chunk in any layer. Nothing in a model without landmarks.
[[nodiscard]] std::vector<double> SharesInPools(nn::Model& model, const std::vector<TaskDocument>& documents,
                                                int64_t n_settings, const ScoreOptions& options);

// Of each document: how many of its chunks each expert of each layer took [layers * E].
[[nodiscard]] std::vector<std::vector<double>> ExpertCounts(nn::Model& model,
                                                            const std::vector<TaskDocument>& documents,
                                                            const ScoreOptions& options);

}  // namespace hydra::eval
