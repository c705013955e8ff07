// SPDX-License-Identifier: Apache-2.0
// A text read once, as far as later questions share it; then each question and its answers.
#include "hydra/runtime/answer_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "hydra/base/error.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/sequence_state.h"

namespace hydra {
namespace {

// Scores answers behind a state that has read all of a prompt but its last token.
class AnswerReader {
 public:
  AnswerReader(const Model& model, ThreadPool& pool, ForwardScratch& scratch)
      : model_(model), pool_(pool), scratch_(scratch) {}

  // The state may have read the answer afterwards.
  AnswerScore Read(SequenceState& state, int32_t last, std::span<const int32_t> answer) {
    ids_.assign(1, last);
    ids_.insert(ids_.end(), answer.begin(), answer.end() - 1);
    const Segment segment{&state, ids_, LogitsOf::kAll};
    return Of(model_.Forward({&segment, 1}, pool_, scratch_), answer);
  }

  // The state stays as it is: in a provisional pass where the answer is short enough for one, else in a fork.
  AnswerScore Try(SequenceState& state, int32_t last, std::span<const int32_t> answer) {
    if (static_cast<int64_t>(answer.size()) > kProvisionalTokens) {
      SequenceState fork = state.Fork();
      return Read(fork, last, answer);
    }
    if (!kept_) kept_.emplace(state, kProvisionalTokens);
    ids_.assign(1, last);
    ids_.insert(ids_.end(), answer.begin(), answer.end() - 1);
    const Segment segment{&state, ids_, LogitsOf::kAll, &*kept_};
    const AnswerScore score = Of(model_.Forward({&segment, 1}, pool_, scratch_), answer);
    model_.Commit(state, *kept_, 0, pool_, scratch_);
    return score;
  }

 private:
  // logits [answer, V]
  AnswerScore Of(std::span<const float> logits, std::span<const int32_t> answer) {
    const auto V = static_cast<size_t>(model_.config().vocab_size);
    losses_.assign(answer.size(), 0);
    best_.assign(answer.size(), 0);
    pool_.For(static_cast<int64_t>(answer.size()), [&](int64_t t, int) {
      const auto at = static_cast<size_t>(t);
      const auto row = logits.subspan(at * V, V);
      const auto top = std::ranges::max_element(row);
      double sum = 0;
      for (const float v : row) sum += std::exp(static_cast<double>(v - *top));
      losses_[at] = std::log(sum) - static_cast<double>(row[static_cast<size_t>(answer[at])] - *top);
      best_[at] = static_cast<int32_t>(top - row.begin());
    });
    AnswerScore score{.tokens = static_cast<int64_t>(answer.size())};
    for (const double loss : losses_) score.nll += loss;
    if (!std::isfinite(score.nll))
      throw Error(ErrorCode::kData, StrCat("the loss of an answer of ", answer.size(), " tokens is ", score.nll));
    score.exact = std::ranges::equal(best_, answer);
    return score;
  }

  const Model& model_;
  ThreadPool& pool_;
  ForwardScratch& scratch_;
  std::vector<int32_t> ids_, best_;
  std::vector<double> losses_;
  std::optional<Provisional> kept_;
};

void CheckTask(const AnswerTask& task) {
  if (task.prompt.empty() || task.answer.empty())
    throw Error(ErrorCode::kUsage, "a question needs a prompt and an answer of a token at least");
  for (const auto& other : task.others) HYDRA_CHECK(!other.empty(), "an answer without a token");
}

// For each task, how many tokens its prompt and all later ones begin with alike; never a prompt's last one. Ascends.
std::vector<size_t> SharedTokens(std::span<const AnswerTask> tasks) {
  std::vector<size_t> shared(tasks.size());
  size_t least = tasks.back().prompt.size() - 1;
  for (size_t i = tasks.size(); i-- > 0;) {
    const auto& prompt = tasks[i].prompt;
    least = std::min(least, prompt.size() - 1);
    if (i + 1 < tasks.size()) {
      const auto& next = tasks[i + 1].prompt;
      const auto alike = std::ranges::mismatch(prompt.first(least), next).in1 - prompt.begin();
      least = static_cast<size_t>(alike);
    }
    shared[i] = least;
  }
  return shared;
}

}  // namespace

std::vector<AnswerScore> ScoreAnswers(const Model& model, std::span<const AnswerTask> tasks,
                                      const AnswerOptions& options, ThreadPool& pool) {
  std::vector<AnswerScore> scores;
  if (tasks.empty()) return scores;
  for (const AnswerTask& task : tasks) CheckTask(task);
  const std::vector<size_t> shared = SharedTokens(tasks);
  ForwardScratch scratch;
  AnswerReader reader(model, pool, scratch);
  const auto read = [&](SequenceState& state, std::span<const int32_t> ids) {
    if (ids.empty()) return;
    const Segment segment{&state, ids, LogitsOf::kNone};
    (void)model.Forward({&segment, 1}, pool, scratch);
  };
  SequenceState text(model, options.controls, options.plan);
  for (size_t i = 0, at = 0; i < tasks.size(); ++i) {
    const AnswerTask& task = tasks[i];
    const std::span<const int32_t> before = task.prompt.first(task.prompt.size() - 1);
    read(text, before.subspan(at, shared[i] - at));
    at = shared[i];
    SequenceState state = text.Fork();
    read(state, before.subspan(at));
    const int32_t last = task.prompt.back();
    double best_other = std::numeric_limits<double>::infinity();
    for (const auto& other : task.others) best_other = std::min(best_other, reader.Try(state, last, other).nll);
    AnswerScore score = reader.Read(state, last, task.answer);
    score.chosen = !task.others.empty() && score.nll < best_other;
    scores.push_back(score);
    if (options.on_score && !options.on_score(i, score)) break;
  }
  return scores;
}

}  // namespace hydra
