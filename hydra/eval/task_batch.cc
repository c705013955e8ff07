// SPDX-License-Identifier: Apache-2.0
// Packs documents into rows.
#include "hydra/eval/task_batch.h"

#include <algorithm>
#include <numeric>

#include "hydra/base/error.h"

namespace hydra::eval {
namespace {

constexpr int64_t kNoAnswer = -100;

int64_t Room(const TaskDocument& document, int64_t align) {
  return (static_cast<int64_t>(document.ids.size()) + align - 1) / align * align;
}

// Numbers of documents of each row.
std::vector<std::vector<size_t>> Rows(const std::vector<TaskDocument>& documents, int64_t align, int64_t T) {
  std::vector<size_t> order(documents.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order,
                           [&](size_t a, size_t b) { return Room(documents[a], align) > Room(documents[b], align); });
  std::vector<std::vector<size_t>> rows;
  std::vector<int64_t> left;
  for (const size_t i : order) {
    const int64_t room = Room(documents[i], align);
    size_t row = 0;
    while (row < rows.size() && left[row] < room) ++row;
    if (row == rows.size()) {
      rows.emplace_back();
      left.push_back(T);
    }
    rows[row].push_back(i);
    left[row] -= room;
  }
  return rows;
}

void AddTargets(const TaskDocument& document, int64_t* targets) {
  if (document.questions.empty()) {
    for (size_t t = 0; t + 1 < document.ids.size(); ++t) targets[t] = document.ids[t + 1];
    return;
  }
  for (const Question& question : document.questions) {
    for (size_t j = 0; j < question.answer.size(); ++j) {
      const size_t at = static_cast<size_t>(question.at) + j;
      HYDRA_CHECK(at < document.ids.size() && (j == 0 || document.ids[at] == question.answer[j - 1]),
                  "an answer that the document does not go on with");
      targets[at] = question.answer[j];
    }
  }
}

TaskBatch BatchOf(const std::vector<TaskDocument>& documents, const std::vector<std::vector<size_t>>& rows,
                  int64_t align, int64_t T) {
  TaskBatch out;
  std::vector<nn::Batch> packed;
  for (const std::vector<size_t>& row : rows) {
    std::vector<std::vector<int64_t>> ids;
    for (const size_t i : row) ids.emplace_back(documents[i].ids.begin(), documents[i].ids.end());
    packed.push_back(nn::Batch::Pack(ids, align, T));
    packed.back().targets.fill_(kNoAnswer);
    auto* targets = packed.back().targets.data_ptr<int64_t>();
    int64_t at = 0;
    for (const size_t i : row) {
      AddTargets(documents[i], targets + at);
      out.documents.push_back(i);
      out.starts.push_back(static_cast<int64_t>(packed.size() - 1) * T + at);
      out.n_tokens += static_cast<int64_t>(documents[i].ids.size());
      out.n_chunks += Room(documents[i], align) / align;
      at += Room(documents[i], align);
    }
  }
  out.batch = nn::Batch::Stack(packed);
  out.n_targets = (out.batch.targets != kNoAnswer).sum().item<int64_t>();
  return out;
}

}  // namespace

std::vector<TaskBatch> MakeBatches(const std::vector<TaskDocument>& documents, int64_t align, int64_t most_tokens) {
  std::vector<TaskBatch> batches;
  int64_t T = 0;
  for (const TaskDocument& document : documents) T = std::max(T, Room(document, align));
  const std::vector<std::vector<size_t>> rows = Rows(documents, align, T);
  const auto length = [&](const std::vector<size_t>& row) {
    int64_t sum = 0;
    for (const size_t i : row) sum += Room(documents[i], align);
    return sum;
  };
  for (size_t begin = 0; begin < rows.size();) {
    int64_t longest = 0;
    size_t end = begin;
    for (; end < rows.size(); ++end) {
      const int64_t with = std::max(longest, length(rows[end]));
      if (end > begin && with * static_cast<int64_t>(end + 1 - begin) > most_tokens) break;
      longest = with;
    }
    batches.push_back(BatchOf(
        documents, {rows.begin() + static_cast<std::ptrdiff_t>(begin), rows.begin() + static_cast<std::ptrdiff_t>(end)},
        align, longest));
    begin = end;
  }
  return batches;
}

}  // namespace hydra::eval
