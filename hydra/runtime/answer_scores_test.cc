// SPDX-License-Identifier: Apache-2.0
// Scores of answers against plain passes over prompt and answer: losses, what greedy decoding writes, choices; shared
// beginnings, plans, ends.
#include "hydra/runtime/answer_scores.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/testing.h"
#include "hydra/model/attention_plan.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::LogitsInPieces;
using testing::RandomIds;

constexpr int64_t kVocab = 128;

Model ScoredModel() {
  return testing::BuildModel(testing::RandomSource(testing::Cases()[5].config, 91),
                             {.ctx_size = 512, .kv_dtype = KvDtype::kF32});
}

// The greedy continuation of a prompt.
std::vector<int32_t> GreedyAnswer(const Model& model, std::span<const int32_t> prompt, int n, ThreadPool& pool) {
  SequenceState state(model);
  std::vector<int32_t> out;
  std::vector<float> logits = LogitsInPieces(model, state, prompt, {static_cast<int64_t>(prompt.size())}, pool);
  for (int i = 0; i < n; ++i) {
    const auto row = std::span(logits).last(kVocab);
    out.push_back(static_cast<int32_t>(std::ranges::max_element(row) - row.begin()));
    logits = LogitsInPieces(model, state, std::span(out).last(1), {1}, pool);
  }
  return out;
}

// Nats of an answer, from one pass over all.
double NllByHand(const Model& model, std::span<const int32_t> prompt, std::span<const int32_t> answer,
                 const KvPlan& plan, ThreadPool& pool) {
  std::vector<int32_t> all(prompt.begin(), prompt.end());
  all.insert(all.end(), answer.begin(), answer.end());
  SequenceState state(model, {}, plan);
  const auto logits = LogitsInPieces(model, state, all, {static_cast<int64_t>(all.size())}, pool);
  double nll = 0;
  for (size_t t = prompt.size(); t < all.size(); ++t) {
    const auto row = std::span(logits).subspan((t - 1) * kVocab, kVocab);
    double sum = 0;
    for (const float v : row) sum += std::exp(static_cast<double>(v));
    nll += std::log(sum) - row[static_cast<size_t>(all[t])];
  }
  return nll;
}

TEST(AnswerScores, AreThoseOfPlainPasses) {
  const Model model = ScoredModel();
  ThreadPool pool(2);
  const auto text = RandomIds(300, kVocab, 92);
  std::vector<std::vector<int32_t>> prompts, answers;
  for (uint64_t i = 0; i < 4; ++i) {
    std::vector<int32_t> prompt(text);
    for (const int32_t id : RandomIds(5 + static_cast<int64_t>(i), kVocab, 93 + i)) prompt.push_back(id);
    prompts.push_back(std::move(prompt));
    answers.push_back(RandomIds(i == 3 ? 50 : 6, kVocab, 100 + i));
  }
  answers[1] = GreedyAnswer(model, prompts[1], 6, pool);
  std::vector<AnswerTask> tasks;
  for (size_t i = 0; i < prompts.size(); ++i) tasks.push_back({.prompt = prompts[i], .answer = answers[i]});
  const AttentionPlan plan = AttentionPlan::Dense(model.config());
  AttentionPlan narrow = plan;
  for (LayerPlan& layer : narrow.layers)
    for (SpanRule& rule : layer.rules) rule = {.alpha = 128, .beta = 0};
  for (const KvPlan& caches : {KvPlan(), plan.Fillings(384), narrow.Fillings(384)}) {
    const auto scores = ScoreAnswers(model, tasks, {.plan = caches}, pool);
    ASSERT_EQ(scores.size(), tasks.size());
    for (size_t i = 0; i < tasks.size(); ++i) {
      const double want = NllByHand(model, prompts[i], answers[i], caches, pool);
      EXPECT_NEAR(scores[i].nll, want, 1e-3 * std::abs(want)) << i;
      EXPECT_EQ(scores[i].tokens, static_cast<int64_t>(answers[i].size()));
      EXPECT_FALSE(scores[i].chosen);
      const bool all = !caches || caches(0, 0)->window() > 300;
      if (all) {
        EXPECT_EQ(scores[i].exact, i == 1) << i;
      }
    }
  }
}

// A line at another depth of the same text each time; then in the other order, a prompt that is another's beginning,
// one that shares nothing.
TEST(AnswerScores, PromptsMayPartAnywhere) {
  const Model model = ScoredModel();
  ThreadPool pool(2);
  const auto text = RandomIds(200, kVocab, 101), line = RandomIds(8, kVocab, 102), answer = RandomIds(4, kVocab, 103);
  std::vector<std::vector<int32_t>> prompts;
  for (const int64_t depth : {10, 90, 170}) {
    prompts.emplace_back(text);
    prompts.back().insert(prompts.back().begin() + depth, line.begin(), line.end());
  }
  prompts.emplace_back(prompts[2]);
  prompts.emplace_back(prompts[1]);
  prompts.emplace_back(prompts[1].begin(), prompts[1].begin() + 60);
  prompts.push_back(RandomIds(30, kVocab, 104));
  std::vector<AnswerTask> tasks;
  for (const auto& prompt : prompts) tasks.push_back({.prompt = prompt, .answer = answer});
  for (const size_t n : {size_t{3}, size_t{6}, tasks.size()}) {
    const auto scores = ScoreAnswers(model, std::span(tasks).first(n), {}, pool);
    ASSERT_EQ(scores.size(), n);
    for (size_t i = 0; i < n; ++i) {
      const double want = NllByHand(model, prompts[i], answer, nullptr, pool);
      EXPECT_NEAR(scores[i].nll, want, 1e-3 * want) << i << " of " << n;
    }
  }
}

TEST(AnswerScores, OneQuestion) {
  const Model model = ScoredModel();
  ThreadPool pool(1);
  const auto prompt = RandomIds(40, kVocab, 94), answer = RandomIds(3, kVocab, 95);
  const AnswerTask task{.prompt = prompt, .answer = answer};
  const auto scores = ScoreAnswers(model, {&task, 1}, {}, pool);
  EXPECT_NEAR(scores[0].nll, NllByHand(model, prompt, answer, nullptr, pool), 1e-3);
}

TEST(AnswerScores, TheMostProbableAnswerIsChosen) {
  const Model model = ScoredModel();
  ThreadPool pool(2);
  const auto prompt = RandomIds(60, kVocab, 96);
  const auto greedy = GreedyAnswer(model, prompt, 5, pool), one = RandomIds(5, kVocab, 97),
             longer = RandomIds(40, kVocab, 98);
  const AnswerTask tasks[] = {{.prompt = prompt, .answer = greedy, .others = {one, longer}},
                              {.prompt = prompt, .answer = one, .others = {longer, greedy}},
                              {.prompt = prompt, .answer = longer}};
  const auto scores = ScoreAnswers(model, tasks, {}, pool);
  ASSERT_EQ(scores.size(), 3U);
  EXPECT_TRUE(scores[0].chosen);
  EXPECT_TRUE(scores[0].exact);
  EXPECT_FALSE(scores[1].chosen);
  EXPECT_FALSE(scores[1].exact);
  // Trying others leaves the state as it was.
  EXPECT_NEAR(scores[1].nll, NllByHand(model, prompt, one, nullptr, pool), 1e-3 * scores[1].nll);
}

TEST(AnswerScores, EndsWhereItIsTold) {
  const Model model = ScoredModel();
  ThreadPool pool(1);
  const auto prompt = RandomIds(20, kVocab, 99), answer = RandomIds(2, kVocab, 100);
  const std::vector<AnswerTask> tasks(3, AnswerTask{.prompt = prompt, .answer = answer});
  size_t asked = 0;
  const auto scores = ScoreAnswers(model, tasks,
                                   {.on_score =
                                        [&](size_t task, const AnswerScore&) {
                                          asked = task;
                                          return task == 0;
                                        }},
                                   pool);
  EXPECT_EQ(scores.size(), 2U);
  EXPECT_EQ(asked, 1U);
  const AnswerTask empty{.prompt = prompt, .answer = {}};
  ExpectError([&] { (void)ScoreAnswers(model, {&empty, 1}, {}, pool); }, ErrorCode::kUsage, {"an answer"});
  const std::vector<int32_t> beyond{500};
  const AnswerTask other{.prompt = beyond, .answer = answer};
  ExpectError([&] { (void)ScoreAnswers(model, {&other, 1}, {}, pool); }, ErrorCode::kUsage, {"token id 500"});
  EXPECT_TRUE(ScoreAnswers(model, {}, {}, pool).empty());
}

}  // namespace
}  // namespace hydra
