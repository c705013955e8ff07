// SPDX-License-Identifier: Apache-2.0
// The choice among plans by the loss of answers at a length that none was searched for (specs/moa.md 5). Not here:
// measuring answers (runtime/answer_scores.h), tables of them (cli/verb_eval_report.h).
#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace hydra::moa {

// What one plan was measured at.
struct AnswerRow {
  double loss = 0;       // nats of answers: mean over kinds of the mean over items
  double error = 0;      // standard error of what it is above the dense model
  double predicted = 0;  // at the longest profiled length; infinite where the plan says nothing
  bool counts = true;    // false: it is no candidate, such as the dense model
};

// Which row: the least loss; of all within its error of it, the one of least predicted loss, or the least loss itself
// where none of them predicts anything. Nothing where there is no candidate.
[[nodiscard]] std::optional<size_t> ChooseAnswerRow(std::span<const AnswerRow> rows);

}  // namespace hydra::moa
