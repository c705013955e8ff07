// SPDX-License-Identifier: Apache-2.0
// Losses of answers: means, choice, order.
#include "hydra/moa/answer_rows.h"

#include <cmath>
#include <map>

#include "hydra/base/error.h"

namespace hydra::moa {

MeanError LossOfAnswers(const AnswerRow& row) {
  std::map<std::string, std::vector<double>> by_kind;
  for (const AnswerRow::Item& item : row.items) by_kind[item.kind].push_back(item.loss);
  MeanError out;
  const auto kinds = static_cast<double>(by_kind.size());
  double squares = 0;
  for (const auto& [kind, losses] : by_kind) {
    const MeanError one = MeanOf(losses);
    out.mean += one.mean / kinds;
    squares += one.error * one.error;
  }
  if (!by_kind.empty()) out.error = std::sqrt(squares) / kinds;
  return out;
}

size_t ChooseAnswerRow(const std::vector<AnswerRow>& rows) {
  if (rows.empty()) throw Error(ErrorCode::kUsage, "no plans to choose from");
  std::vector<MeanError> losses;
  size_t best = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].items.size() != rows[0].items.size())
      throw Error(ErrorCode::kUsage, StrCat(rows[i].name, ": was measured on ", rows[i].items.size(), " items, ",
                                            rows[0].name, " on ", rows[0].items.size()));
    losses.push_back(LossOfAnswers(rows[i]));
    if (losses[i].mean < losses[best].mean) best = i;
  }
  size_t chosen = best;
  for (size_t i = 0; i < rows.size(); ++i)
    if (losses[i].mean <= losses[best].mean + losses[best].error && rows[i].predicted < rows[chosen].predicted)
      chosen = i;
  return chosen;
}

FirstOrder CheckFirstOrder(const std::vector<AnswerRow>& rows, const AnswerRow& dense) {
  const double base = LossOfAnswers(dense).mean;
  std::vector<double> predicted, increase;
  for (const AnswerRow& row : rows) {
    predicted.push_back(row.predicted);
    increase.push_back(LossOfAnswers(row).mean - base);
  }
  return {.correlation = Spearman(predicted, increase), .plans = static_cast<int64_t>(rows.size())};
}

}  // namespace hydra::moa
