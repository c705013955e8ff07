// SPDX-License-Identifier: Apache-2.0
// The choice among plans by hand-made losses.
#include "hydra/moa/answer_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace hydra::moa {
namespace {

TEST(AnswerRows, TheLeastLossWinsAndWithinItsErrorTheLeastPrediction) {
  std::vector<AnswerRow> rows{{.loss = 2.0, .error = 0.1, .predicted = 3},
                              {.loss = 2.05, .error = 0.5, .predicted = 2},
                              {.loss = 2.2, .error = 0.5, .predicted = 1},
                              {.loss = 1.0, .error = 0.1, .predicted = 0, .counts = false}};
  EXPECT_EQ(ChooseAnswerRow(rows), 1U);  // the third is beyond the error of the first
  rows[0].error = 0.3;
  EXPECT_EQ(ChooseAnswerRow(rows), 2U);
  for (AnswerRow& row : rows) row.predicted = INFINITY;
  EXPECT_EQ(ChooseAnswerRow(rows), 0U);
  rows[2].predicted = 5;
  EXPECT_EQ(ChooseAnswerRow(rows), 2U);
  for (AnswerRow& row : rows) row.counts = false;
  EXPECT_EQ(ChooseAnswerRow(rows), std::nullopt);
  EXPECT_EQ(ChooseAnswerRow({}), std::nullopt);
}

}  // namespace
}  // namespace hydra::moa
