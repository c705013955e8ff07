// SPDX-License-Identifier: Apache-2.0
// Multiple choice by log-probability, for `hydralm eval choice`: questions from a file, their choices as tokens behind
// the context, and which of them a model finds most probable; as lm-eval asks it. Not here: scoring tokens
// (runtime/answer_scores.h), the flags and the table (verb_eval.cc).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/base/statistics.h"
#include "hydra/base/thread_pool.h"
#include "hydra/io/json.h"
#include "hydra/runtime/answer_scores.h"
#include "hydra/runtime/model.h"
#include "hydra/text/tokenizer.h"

namespace hydra::cli {

struct ChoiceQuestion {
  std::string where;      // "FILE:LINE", for messages
  std::string context{};  // may be empty
  std::string delimiter = " ";
  std::vector<std::string> choices{};  // two at least
  int64_t answer = 0;                  // the right one
};
// A JSON line each: {"context", "choices", "answer"} and, where it is not a space, "delimiter"; others are not read.
// Throws naming line and field.
[[nodiscard]] std::vector<ChoiceQuestion> ReadQuestions(const std::string& path);

// A question as tokens. Context and choice are encoded as one text; what that has beyond the context's own tokens is
// the choice. Spaces at the end of the context count as the choice's; an empty context is bos, else eos.
struct ChoiceIds {
  std::vector<int32_t> context{};
  std::vector<std::vector<int32_t>> choices{};
  [[nodiscard]] int64_t longest() const;
};
// Throws kData where a choice has no token of its own.
[[nodiscard]] ChoiceIds EncodeQuestion(const ChoiceQuestion& question, const Tokenizer& tokenizer,
                                       const EncodeOptions& options);

// What a model makes of one question.
struct ChoiceScore {
  std::vector<double> logprobs{};    // of each choice, nats
  std::vector<bool> greedy{};        // whether it is what greedy decoding would write
  bool right = false;                // the most probable one is the answer
  bool right_by_characters = false;  // ... where each is divided by its characters
};
[[nodiscard]] ChoiceScore ScoreQuestion(const Model& model, const ChoiceQuestion& question, const ChoiceIds& ids,
                                        const AnswerOptions& options, ThreadPool& pool);

struct ChoiceReport {
  MeanError accuracy{}, by_characters{};
  double chance = 0;  // of a right answer by guessing
};
[[nodiscard]] ChoiceReport ReportOf(const std::vector<ChoiceQuestion>& questions,
                                    const std::vector<ChoiceScore>& scores);
[[nodiscard]] Json ChoiceJson(const ChoiceReport& report, const std::vector<ChoiceScore>& scores);

}  // namespace hydra::cli
