// SPDX-License-Identifier: Apache-2.0
// Documents in batches, training that is stopped and goes on, and scores against a slow reading of the logits.
#include "hydra/eval/task_train.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "hydra/base/error.h"
#include "hydra/eval/evidence.h"
#include "hydra/eval/task_batch.h"
#include "hydra/eval/task_score.h"
#include "hydra/train/testing.h"

namespace hydra::eval {
namespace {

using torch::Tensor;

std::unique_ptr<Task> SmallChaining() { return MakeChaining({.documents = 4, .test_documents = 6}); }
nn::Model Small(const std::string& name) {
  nn::Model model(EvidenceModel(name, EvidenceSize::kSmoke), {.initialise = false});
  model.InitWeights(3);
  return model;
}

TEST(TaskBatch, EveryDocumentIsThereOnceWithItsAnswers) {
  const std::vector<TaskDocument> documents = SmallChaining()->Test();
  std::set<size_t> seen;
  for (const TaskBatch& batch : MakeBatches(documents, 16, 1000)) {
    const int64_t T = batch.batch.ids.size(1);
    EXPECT_LE(batch.batch.ids.numel(), 1000);
    EXPECT_EQ(T % 16, 0);
    const auto flat = [](const Tensor& x) { return x.reshape({-1}); };
    const Tensor ids = flat(batch.batch.ids), targets = flat(batch.batch.targets), pos = flat(batch.batch.pos),
                 seq = flat(batch.batch.seq_idx);
    int64_t n_targets = 0, n_tokens = 0, n_chunks = 0;
    for (size_t i = 0; i < batch.documents.size(); ++i) {
      const TaskDocument& document = documents[batch.documents[i]];
      EXPECT_TRUE(seen.insert(batch.documents[i]).second);
      const int64_t start = batch.starts[i];
      EXPECT_EQ(start % 16, 0);
      for (size_t t = 0; t < document.ids.size(); ++t) {
        const int64_t at = start + static_cast<int64_t>(t);
        EXPECT_EQ(ids[at].item<int64_t>(), document.ids[t]);
        EXPECT_EQ(pos[at].item<int64_t>(), static_cast<int64_t>(t));
        EXPECT_EQ(seq[at].item<int64_t>(), seq[start].item<int64_t>());
      }
      for (const Question& question : document.questions)
        EXPECT_EQ(targets[start + question.at].item<int64_t>(), question.answer[0]);
      n_targets += static_cast<int64_t>(document.questions.size());
      n_tokens += static_cast<int64_t>(document.ids.size());
      n_chunks += (static_cast<int64_t>(document.ids.size()) + 15) / 16;
    }
    EXPECT_EQ((targets >= 0).sum().item<int64_t>(), n_targets);
    EXPECT_EQ(batch.n_targets, n_targets);
    EXPECT_EQ(batch.n_tokens, n_tokens);
    EXPECT_EQ(batch.n_chunks, n_chunks);
  }
  EXPECT_EQ(seen.size(), documents.size());
}

TEST(TaskBatch, TextPredictsEveryTokenAndLongAnswersEachOfTheirs) {
  const TaskBatch text = MakeBatches({{.ids = {5, 6, 7}, .questions = {}, .label = 0}}, 4, 100).front();
  EXPECT_TRUE(torch::equal(text.batch.targets, torch::tensor({6, 7, -100, -100}, torch::kInt64).unsqueeze(0)));
  const TaskBatch sum =
      MakeBatches({{.ids = {1, 10, 2, 13, 1}, .questions = {{.at = 3, .answer = {1, 2}}}}}, 4, 100).front();
  EXPECT_TRUE(torch::equal(sum.batch.targets,
                           torch::tensor({-100, -100, -100, 1, 2, -100, -100, -100}, torch::kInt64).unsqueeze(0)));
  EXPECT_THROW((void)MakeBatches({{.ids = {1, 10, 2, 13, 9}, .questions = {{.at = 3, .answer = {1, 2}}}}}, 4, 100),
               std::logic_error);
}

std::vector<Tensor> Weights(const nn::Model& model) {
  std::vector<Tensor> all;
  for (const auto& [spec, tensor] : model.Tensors()) all.push_back(tensor.detach().clone());
  return all;
}

// Stopped with a checkpoint, then broken off behind its last checkpoint as a kill does, a run ends with the bits of one
// that was left alone.
TEST(TaskTrain, GoesOnBitForBit) {
  struct Killed {};
  for (const char* name : {"hydra", "mamba2"}) {
    const auto task = SmallChaining();
    const TempDir dir;
    const auto train = [&](const std::string& folder, nn::Model& model, int64_t stop_at, int64_t kill_at) {
      std::atomic<int> stop{0};
      return TrainOnTask(model, *task,
                         {.steps = 12,
                          .lr = 1e-2,
                          .seed = 5,
                          .align = 16,
                          .folder = folder,
                          .checkpoint_seconds = kill_at < 0 ? 1e9 : 0,
                          .stop = &stop,
                          .on_step = [&](int64_t step, double) {
                            if (step == stop_at) stop = 15;
                            if (step == kill_at) throw Killed();
                          }});
    };
    nn::Model whole = Small(name);
    const TaskTrained want = train(dir / "whole", whole, -1, -1);
    EXPECT_TRUE(want.finished);
    EXPECT_EQ(want.step, 12);
    nn::Model first = Small(name), second = Small(name), last = Small(name), again = Small(name);
    EXPECT_FALSE(train(dir / "parts", first, 4, -1).finished);
    EXPECT_THROW((void)train(dir / "parts", second, -1, 9), Killed);
    const TaskTrained got = train(dir / "parts", last, -1, -1);
    EXPECT_TRUE(got.finished);
    EXPECT_EQ(got.tokens, want.tokens);
    EXPECT_EQ(got.curve, want.curve);
    const auto a = Weights(whole), b = Weights(last);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(train::testing::SameBits(a[i], b[i])) << name << " " << i;
    // Once more: nothing is trained again.
    EXPECT_EQ(train(dir / "parts", again, -1, -1).seconds, got.seconds);
  }
}

TEST(TaskTrain, MicroBatchesOfAStepCountAsOne) {
  const auto task = SmallChaining();
  const TempDir dir;
  const auto train = [&](const std::string& folder, int64_t micro) {
    nn::Model model = Small("transformer");
    (void)TrainOnTask(model, *task,
                      {.steps = 3, .lr = 1e-3, .seed = 5, .align = 16, .micro_tokens = micro, .folder = dir / folder});
    return Weights(model);
  };
  const auto a = train("one", 1 << 14), b = train("many", 1);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::allclose(a[i], b[i], 1e-4, 1e-5)) << i;
}

TEST(TaskTrain, ARunThatDivergesEndsAndSaysSo) {
  const auto task = SmallChaining();
  const TempDir dir;
  nn::Model model = Small("transformer");
  const auto train = [&] {
    return TrainOnTask(
        model, *task,
        {.steps = 12, .lr = std::numeric_limits<double>::infinity(), .seed = 5, .align = 16, .folder = dir / "run"});
  };
  const TaskTrained trained = train();
  EXPECT_TRUE(trained.finished);
  EXPECT_TRUE(trained.diverged);
  EXPECT_LT(trained.step, 12);
  EXPECT_GE(trained.skipped, 3);
  EXPECT_TRUE(train().diverged) << "it stays so";
}

TEST(TaskTrain, LearnsWhatCanBeLearned) {
  const auto task = MakeLanguages({.ids = 8, .successors = 2, .tokens = 48, .documents = 4, .test_documents = 4});
  const TempDir dir;
  nn::Model model = Small("hydra");
  const TaskTrained trained =
      TrainOnTask(model, *task, {.steps = 60, .lr = 1e-2, .seed = 1, .align = 16, .folder = dir / "run"});
  EXPECT_GT(trained.curve.front().second, 2.0);
  EXPECT_LT(trained.curve.back().second, trained.curve.front().second - 0.5);
}

// ---- scores ----

TEST(TaskScore, IsThatOfEachDocumentAlone) {
  for (const char* name : {"hydra", "transformer"}) {
    nn::Model model = Small(name);
    const torch::NoGradGuard no_grad;
    const auto task = MakeArithmetic({.test_documents = 3});
    const std::vector<TaskDocument> documents = task->Test();
    const TaskScores scores = ScoreTask(model, documents, 3, {.align = 16, .batch_tokens = 200});
    std::vector<int64_t> asked(3), right(3);
    std::vector<double> nats(3);
    for (size_t d = 0; d < documents.size(); ++d) {
      const TaskDocument& document = documents[d];
      const std::vector<int64_t> ids(document.ids.begin(), document.ids.end());
      const Tensor logits = model.Logits(model.Forward(nn::Batch::Pack({ids}, 16)).hidden)[0];
      const Question& question = document.questions[0];
      bool all = true;
      double sum = 0;
      for (size_t j = 0; j < question.answer.size(); ++j) {
        const Tensor row = logits[question.at + static_cast<int64_t>(j)];
        all = all && row.argmax().item<int64_t>() == question.answer[j];
        sum -= torch::log_softmax(row, -1)[question.answer[j]].item<double>();
      }
      const auto setting = static_cast<size_t>(question.setting);
      ++asked[setting];
      right[setting] += all ? 1 : 0;
      nats[setting] += sum;
      EXPECT_NEAR(scores.document_nats[d], sum, 1e-3);
      EXPECT_EQ(scores.document_asked[d], 1);
    }
    for (size_t s = 0; s < 3; ++s) {
      EXPECT_EQ(scores.settings[s].asked, asked[s]);
      EXPECT_EQ(scores.settings[s].right, right[s]);
      EXPECT_NEAR(scores.settings[s].loss, nats[s] / static_cast<double>(asked[s]), 1e-3);
    }
  }
}

// A model that gives the embedding of its input, a direction for each id, answers with the token at the question.
TEST(TaskScore, CountsAnswersThatAreRightToTheLastToken) {
  nn::Model model = Small("transformer");
  const torch::NoGradGuard no_grad;
  for (const auto& [spec, tensor] : model.Tensors())
    if (spec->role == TensorRole::kAttnO || spec->role == TensorRole::kFfnDown || spec->role == TensorRole::kEmbedding)
      tensor.zero_();
  for (int64_t id = 0; id < 10; ++id) model.at(TensorRole::kEmbedding)[id][id] = 1;
  const std::vector<TaskDocument> documents = {
      {.ids = {1, 2, 2}, .questions = {{.at = 1, .answer = {2, 2}, .setting = 0}}},  // both right
      {.ids = {1, 2, 3}, .questions = {{.at = 1, .answer = {3, 3}, .setting = 0}}},  // the first is wrong
      {.ids = {1, 2, 2}, .questions = {{.at = 1, .answer = {2, 4}, .setting = 0}}},  // the last is wrong
      {.ids = {7, 7, 8},
       .questions = {{.at = 0, .answer = {7}, .setting = 1},
                     {.at = 2, .answer = {8}, .setting = 0},
                     {.at = 1, .answer = {9}, .setting = -1}}},
      {.ids = {4, 4, 5, 5}, .questions = {}, .label = 1}};  // of three predicted tokens two repeat the one before
  const TaskScores scores = ScoreTask(model, documents, 2, {.align = 4});
  EXPECT_EQ(scores.settings[0].asked, 4);
  EXPECT_EQ(scores.settings[0].right, 2);
  EXPECT_EQ(scores.settings[1].asked, 4);
  EXPECT_EQ(scores.settings[1].right, 3);
}

TEST(TaskScore, PairsAreFoundInPools) {
  nn::Model model = Small("hydra");
  const auto task = MakeRecall({.pairs = 4, .train_least = 96, .train_most = 96, .lengths = {{96, 60, 32, 64}}});
  const std::vector<TaskDocument> documents = task->Test();
  // Every token is a landmark, or one of sixteen.
  ModelConfig all = model.config();
  all.attention.landmarks_per_chunk = 16;
  all.attention.landmark_budget = 96;
  nn::Model every(all, {.initialise = false});
  every.InitWeights(3);
  const auto of_all = SharesInPools(every, documents, 2, {.align = 16});
  // A question's own chunk and open ones are not in its pool; settings begin 16 tokens before that.
  EXPECT_GT(of_all[1], 0.99);
  const auto some = SharesInPools(model, documents, 2, {.align = 16});
  EXPECT_LT(some[1], 0.6);
  EXPECT_GT(some[1], 0.0);
  nn::Model other = Small("mamba2");
  EXPECT_TRUE(SharesInPools(other, documents, 2, {.align = 16}).empty());
}

TEST(TaskScore, ForgettingBeforeTheQuestionsIsARunWithoutState) {
  nn::Model model = Small("mamba2");
  const auto task = MakeRecall({.pairs = 4, .train_least = 96, .train_most = 96, .lengths = {{96, 4, 32, 64}}});
  std::vector<TaskDocument> documents = task->Test();
  const ScoreOptions forget{.align = 16, .forget_before_questions = true};
  const TaskScores got = ScoreTask(model, documents, 2, forget), kept = ScoreTask(model, documents, 2, {.align = 16});
  // What was before cannot matter to a model that has nothing but its state.
  for (TaskDocument& document : documents)
    for (int64_t t = 0; t < document.questions[0].at; ++t) document.ids[static_cast<size_t>(t)] = 1;
  const TaskScores other = ScoreTask(model, documents, 2, forget);
  for (size_t s = 0; s < 2; ++s) {
    EXPECT_NEAR(got.settings[s].loss, other.settings[s].loss, 1e-5);
    EXPECT_GT(std::abs(kept.settings[s].loss - got.settings[s].loss), 1e-5);
  }
}

TEST(TaskScore, ExpertCountsAreOfEachDocument) {
  nn::Model model = Small("hydra");
  const auto task = MakeLanguages({.tokens = 64, .test_documents = 2});
  const auto counts = ExpertCounts(model, task->Test(), {.align = 16});
  EXPECT_EQ(counts.size(), 8U);
  for (const auto& document : counts) {
    ASSERT_EQ(document.size(), 2U * 8U);  // layers times experts
    double sum = 0;
    for (const double n : document) sum += n;
    EXPECT_EQ(sum, 2 * 4 * 2);  // layers, chunks, experts a chunk
  }
}

}  // namespace
}  // namespace hydra::eval
