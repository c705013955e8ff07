// SPDX-License-Identifier: Apache-2.0
// The choice among plans by the loss of answers at a length that none was searched for (specs/moa.md 5), and whether
// predicted losses order plans as true ones do. Not here: measuring answers (the runtime's and nn's evaluations).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/base/statistics.h"

namespace hydra::moa {

// What one plan was measured at.
struct AnswerRow {
  std::string name;
  double predicted = 0;  // loss at the longest profiled length, nats
  struct Item {
    std::string kind;
    double loss = 0;  // mean nats of the answer's tokens
  };
  std::vector<Item> items;  // the same ones for all rows, in one order
};

// Mean over kinds of the mean over items, and its standard error.
[[nodiscard]] MeanError LossOfAnswers(const AnswerRow& row);

// Which row: the least loss; of all within one standard error of it, the least predicted one. Throws kUsage where there
// is none, or where rows have other items than the first.
[[nodiscard]] size_t ChooseAnswerRow(const std::vector<AnswerRow>& rows);

// Spearman's correlation of predicted losses with the true increase over the dense model, and how many plans it is of.
struct FirstOrder {
  double correlation = 0;
  int64_t plans = 0;
};
[[nodiscard]] FirstOrder CheckFirstOrder(const std::vector<AnswerRow>& rows, const AnswerRow& dense);

}  // namespace hydra::moa
