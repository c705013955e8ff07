// SPDX-License-Identifier: Apache-2.0
// How well a model gives the answers to questions about one long text: what their prompts begin with alike is read
// once, each question in a fork, its answer teacher-forced, which also says what greedy decoding would write. Silent.
// Not here: where questions come from (data/items.h), what is made of scores (cli/verb_eval_items.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/model/controls.h"
#include "hydra/model/kv_filling.h"
#include "hydra/runtime/model.h"

namespace hydra {

struct AnswerTask {
  std::span<const int32_t> prompt;  // all of it
  std::span<const int32_t> answer;  // at least one token
  // Answers that this one is chosen from by their probability.
  std::vector<std::span<const int32_t>> others{};
};

struct AnswerScore {
  double nll = 0;       // nats of the answer's tokens, summed
  int64_t tokens = 0;   // of the answer
  bool exact = false;   // each of them is the most probable one: what greedy decoding writes
  bool chosen = false;  // no other answer is as probable; false where there is no other
};

struct AnswerOptions {
  KvPlan plan = nullptr;
  Controls controls{};
  // After each task, in their order; false ends the work.
  std::function<bool(size_t task, const AnswerScore& score)> on_score{};
};

// Scores of tasks, of those that were scored. One state reads what a prompt and all later ones begin with alike, so the
// prompts of one text cost least when those that part from the others early stand first. Throws kUsage for a prompt or
// an answer without a token and for ids that the model does not have, kData for a loss that is not finite.
[[nodiscard]] std::vector<AnswerScore> ScoreAnswers(const Model& model, std::span<const AnswerTask> tasks,
                                                    const AnswerOptions& options, ThreadPool& pool);

}  // namespace hydra
