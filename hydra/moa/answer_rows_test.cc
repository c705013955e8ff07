// SPDX-License-Identifier: Apache-2.0
// The choice among plans by hand-made losses.
#include "hydra/moa/answer_rows.h"

#include "hydra/base/testing.h"

namespace hydra::moa {
namespace {

AnswerRow Row(const std::string& name, double predicted, const std::vector<double>& copies,
              const std::vector<double>& summaries) {
  AnswerRow row{.name = name, .predicted = predicted, .items = {}};
  for (const double loss : copies) row.items.push_back({"copy", loss});
  for (const double loss : summaries) row.items.push_back({"summary", loss});
  return row;
}

TEST(AnswerRows, KindsCountAlike) {
  const AnswerRow row = Row("a", 0, {1, 3}, {5});
  EXPECT_DOUBLE_EQ(LossOfAnswers(row).mean, 3.5);
  EXPECT_DOUBLE_EQ(LossOfAnswers(row).error, 0.5);  // of copies 1, of one summary 0, halved
}

TEST(AnswerRows, TheLeastLossWinsAndWithinItsErrorTheLeastPrediction) {
  const std::vector<AnswerRow> rows{Row("a", 3, {1.0, 1.4}, {2}), Row("b", 2, {1.2, 1.3}, {2}),
                                    Row("c", 1, {3, 3.2}, {4})};
  EXPECT_EQ(ChooseAnswerRow(rows), 1U);  // b is within the error of a, c is not
  EXPECT_EQ(ChooseAnswerRow({rows[2]}), 0U);
  ExpectError([] { (void)ChooseAnswerRow({}); }, ErrorCode::kUsage, {"no plans"});
  ExpectError(
      [&] {
        (void)ChooseAnswerRow({rows[0], Row("d", 0, {1}, {})});
      },
      ErrorCode::kUsage, {"d", "1 items", "a"});
}

TEST(AnswerRows, FirstOrderIsTheCorrelationOfRanks) {
  const AnswerRow dense = Row("dense", 0, {1}, {1});
  const std::vector<AnswerRow> rows{Row("a", 1, {1.1}, {1}), Row("b", 2, {2}, {1.5}), Row("c", 3, {1.5}, {1.5})};
  EXPECT_DOUBLE_EQ(CheckFirstOrder(rows, dense).correlation, 0.5);
  EXPECT_EQ(CheckFirstOrder(rows, dense).plans, 3);
}

}  // namespace
}  // namespace hydra::moa
