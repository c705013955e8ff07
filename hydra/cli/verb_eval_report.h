// SPDX-License-Identifier: Apache-2.0
// What rows of items say of plans, for `hydralm eval retrieval` and `answers`: accuracies with intervals by kind,
// length and depth, losses, which plan is chosen, whether predicted losses order the true ones. Not here: the rows
// (verb_eval_items.h).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hydra/base/statistics.h"
#include "hydra/cli/verb_eval_items.h"
#include "hydra/io/json.h"

namespace hydra::cli {

struct ReportOptions {
  int draws = 1000;  // of the intervals
  uint64_t seed = 1;
};

// One kind of item at one length under one plan.
struct Cell {
  size_t plan = 0;
  std::string kind{};
  int64_t length = 0;
  int64_t n = 0, haystacks = 0;
  MeanInterval accuracy{}, nll{};         // of right answers; of nats a token
  MeanInterval lead{};                    // accuracy less that of the first plan on the same items
  std::optional<double> choice{};         // share of right choices; nothing where there is no choice
  double chance = 0;                      // of a right choice by guessing
  double density = 1, span = 0;           // of keys and values; mean rows of a KV head
  std::map<int, SampleGroup> by_depth{};  // right answers by tenths of the text
};
[[nodiscard]] std::vector<Cell> CellsOf(const std::vector<ItemRow>& rows, const std::vector<JudgedPlan>& plans,
                                        const std::vector<JudgedItems>& items, const ModelConfig& config,
                                        const ReportOptions& options);
// Of guessing a right answer: a number of five digits, one of 10 words or of 4 passages; 0 for words in a row.
[[nodiscard]] double ChanceOf(const std::string& kind);

// The longest length up to which a plan's accuracies of a kind are 0.9 at least, and that divided by the mean span
// there.
struct EffectiveContext {
  int64_t length = 0;  // 0: at no length
  double spans = 0;
};
[[nodiscard]] EffectiveContext EffectiveOf(const std::vector<Cell>& cells, size_t plan, const std::string& kind);

// Losses of answers under one plan.
struct AnswerLoss {
  double loss = 0, error = 0;               // mean over kinds of the mean over items; its standard error
  double above = 0, above_error = 0;        // what the items lose against the first plan, and its standard error
  std::map<std::string, double> by_kind{};  // means over items
  std::map<int64_t, double> by_length{};    // means over kinds
  int64_t items = 0;
};
[[nodiscard]] std::vector<AnswerLoss> LossesOf(const std::vector<ItemRow>& rows, const std::vector<JudgedPlan>& plans,
                                               const std::vector<JudgedItems>& items);

// The plan of least loss (specs/moa.md 5): within a standard error of it, that of least predicted loss at the longest
// profiled length. Dense is none of them; nothing where there is no other.
[[nodiscard]] std::optional<size_t> ChoosePlan(const std::vector<AnswerLoss>& losses,
                                               const std::vector<JudgedPlan>& plans);

// Rank correlation of predicted losses and what plans lose at each length that all predict, over plans but dense.
struct FirstOrder {
  double correlation = 0;
  int64_t plans = 0;
};
[[nodiscard]] std::map<int64_t, FirstOrder> FirstOrderOf(const std::vector<AnswerLoss>& losses,
                                                         const std::vector<JudgedPlan>& plans);

[[nodiscard]] Json CellJson(const Cell& cell);
[[nodiscard]] Json LossJson(const AnswerLoss& loss);

}  // namespace hydra::cli
