// SPDX-License-Identifier: Apache-2.0
// Scores of items under plans, for `hydralm eval retrieval` and `answers`: each haystack read once a plan, rows kept in
// a file so that a run that was stopped goes on. Not here: scoring a question (runtime/answer_scores.h), what is made
// of the rows (verb_eval_report.h), the flags (verb_eval.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hydra/cli/model_flags.h"
#include "hydra/cli/plan_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/data/items.h"
#include "hydra/runtime/answer_scores.h"

namespace hydra::cli {

// A plan to be judged; "dense": the model as it is.
struct JudgedPlan {
  std::string name, path;  // path: "" for dense
  UsedPlan plan{};
  // What names it in rows: its rules, and how query heads see them.
  [[nodiscard]] std::string Key() const;
};
// "dense", files, and all .json files of `folder` by name ("": none); each once. Throws as UsedPlan does.
[[nodiscard]] std::vector<JudgedPlan> OpenJudgedPlans(const std::vector<std::string>& words, const std::string& folder,
                                                      const std::string& head_spans, const ModelConfig& config);

// A file of items and what it is called.
struct JudgedItems {
  std::string path, sha256;
  ItemFile file;
};

// One item under one plan.
struct ItemRow {
  size_t plan = 0, items = 0, item = 0;  // places in the lists
  AnswerScore score{};
  int64_t choices = 0;  // answers that it was chosen from, its own among them; 0: no choice
};

struct ItemRunOptions {
  std::string rows;  // file of rows, read first and written after each haystack; "": none
  std::string what;  // what a progress line calls it
  Controls controls{};
  bool progress = false;  // draw it
};

// Every item of every file under every plan: rows by haystack, the plans of a haystack side by side. Ends early, with
// what there is, where a signal asks for it.
[[nodiscard]] std::vector<ItemRow> ScoreItems(const Runner& runner, const std::vector<JudgedPlan>& plans,
                                              const std::vector<JudgedItems>& items, const ItemRunOptions& options);

// Throws where a file of rows, if there is one, is none.
void CheckItemRows(const std::string& path);

// The right answer, or the model's own where there is no other.
[[nodiscard]] std::span<const int32_t> AnswerOf(const LongItem& item);

}  // namespace hydra::cli
