// SPDX-License-Identifier: Apache-2.0
// Forward passes over test documents, and what is counted in them.
#include "hydra/eval/task_score.h"

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/eval/task_batch.h"

namespace hydra::eval {
namespace {

using torch::Tensor;

// A token that is predicted: where, of which document and question, and what it is.
struct Predicted {
  int64_t row = 0;  // b T + t
  size_t document = 0, question = 0;
  int setting = 0;
  int32_t token = 0;
};

std::vector<Predicted> PredictedTokens(const std::vector<TaskDocument>& documents, const TaskBatch& batch) {
  std::vector<Predicted> all;
  for (size_t i = 0; i < batch.documents.size(); ++i) {
    const size_t number = batch.documents[i];
    const TaskDocument& document = documents[number];
    if (document.questions.empty())
      for (size_t t = 1; t < document.ids.size(); ++t)
        all.push_back({batch.starts[i] + static_cast<int64_t>(t) - 1, number, t, document.label, document.ids[t]});
    for (size_t q = 0; q < document.questions.size(); ++q) {
      const Question& question = document.questions[q];
      if (question.setting < 0) continue;
      for (size_t j = 0; j < question.answer.size(); ++j)
        all.push_back(
            {batch.starts[i] + question.at + static_cast<int64_t>(j), number, q, question.setting, question.answer[j]});
    }
  }
  return all;
}

struct Answers {
  std::vector<float> nats;  // of each predicted token
  std::vector<bool> best;   // it is the most probable one
};

Answers Predict(const nn::Model& model, const Tensor& hidden, const std::vector<Predicted>& tokens) {
  constexpr size_t kRows = 4096;  // logits held at once
  const Tensor flat = hidden.reshape({-1, hidden.size(-1)});
  Answers out;
  for (size_t begin = 0; begin < tokens.size(); begin += kRows) {
    const size_t end = std::min(tokens.size(), begin + kRows);
    std::vector<int64_t> rows, wanted;
    for (size_t i = begin; i < end; ++i) {
      rows.push_back(tokens[i].row);
      wanted.push_back(tokens[i].token);
    }
    const auto ids = [&](const std::vector<int64_t>& v) { return torch::tensor(v, torch::kInt64).to(flat.device()); };
    const Tensor logits = model.Logits(flat.index_select(0, ids(rows))).to(torch::kFloat32);
    const Tensor target = ids(wanted);
    const Tensor nats = -torch::log_softmax(logits, -1).gather(1, target.unsqueeze(1)).squeeze(1).to(torch::kCPU);
    const Tensor best = (logits.argmax(-1) == target).to(torch::kCPU).contiguous();
    const Tensor flat_nats = nats.contiguous();
    for (int64_t i = 0; i < best.numel(); ++i) {
      out.nats.push_back(flat_nats.const_data_ptr<float>()[i]);
      out.best.push_back(best.const_data_ptr<bool>()[i]);
    }
  }
  return out;
}

// [B, T] bool: the first question of each document.
Tensor FirstQuestions(const std::vector<TaskDocument>& documents, const TaskBatch& batch) {
  Tensor resets = torch::zeros_like(batch.batch.ids, torch::kBool);
  bool* at = resets.data_ptr<bool>();
  for (size_t i = 0; i < batch.documents.size(); ++i) {
    const TaskDocument& document = documents[batch.documents[i]];
    if (!document.questions.empty()) at[batch.starts[i] + document.questions.front().at] = true;
  }
  return resets;
}

}  // namespace

TaskScores ScoreTask(nn::Model& model, const std::vector<TaskDocument>& documents, int64_t n_settings,
                     const ScoreOptions& options) {
  const torch::NoGradGuard no_grad;
  const auto settings = static_cast<size_t>(n_settings);
  const std::vector<int64_t> none(documents.size());
  std::vector<std::vector<int64_t>> asked(settings, none), right(settings, none);
  std::vector<std::vector<double>> nats(settings, std::vector<double>(documents.size()));
  for (const TaskBatch& batch : MakeBatches(documents, options.align, options.batch_tokens)) {
    if (options.check) options.check();
    nn::ForwardOptions forward = options.forward;
    if (options.forget_before_questions)
      forward.ssm_resets = FirstQuestions(documents, batch).to(options.device.device);
    const train::AutocastScope autocast(options.device);
    const Tensor hidden = model.Forward(batch.batch.To(options.device.device), forward).hidden;
    const std::vector<Predicted> tokens = PredictedTokens(documents, batch);
    const Answers answers = Predict(model, hidden, tokens);
    bool all_right = true;  // of the question so far
    for (size_t i = 0; i < tokens.size(); ++i) {
      const Predicted& token = tokens[i];
      const auto setting = static_cast<size_t>(token.setting);
      nats[setting][token.document] += answers.nats[i];
      all_right = all_right && answers.best[i];
      const bool last = i + 1 == tokens.size() || tokens[i + 1].document != token.document ||
                        tokens[i + 1].question != token.question;
      if (!last) continue;
      ++asked[setting][token.document];
      right[setting][token.document] += all_right ? 1 : 0;
      all_right = true;
    }
  }
  TaskScores scores{.settings = {},
                    .document_nats = std::vector<double>(documents.size()),
                    .document_asked = std::vector<int64_t>(documents.size())};
  for (size_t s = 0; s < settings; ++s) {
    scores.settings.push_back(ShareOf(asked[s], right[s], nats[s]));
    for (size_t d = 0; d < documents.size(); ++d) {
      scores.document_nats[d] += nats[s][d];
      scores.document_asked[d] += asked[s][d];
    }
  }
  return scores;
}

std::vector<double> SharesInPools(nn::Model& model, const std::vector<TaskDocument>& documents, int64_t n_settings,
                                  const ScoreOptions& options) {
  if (!model.config().HasLandmarks()) return {};
  std::vector<double> asked(static_cast<size_t>(n_settings)), found(static_cast<size_t>(n_settings));
  for (const TaskBatch& batch : MakeBatches(documents, options.align, options.batch_tokens)) {
    if (options.check) options.check();
    std::vector<Tensor> pools;
    for (const Tensor& pool : model.CollectPools(batch.batch.To(options.device.device), options.forward))
      pools.push_back(pool.to(torch::kCPU).contiguous());
    const int64_t chunk = model.config().chunk_len;
    const auto in_a_pool = [&](int64_t row, int64_t wanted) {
      return std::ranges::any_of(pools, [&](const Tensor& pool) {
        const int64_t G = pool.size(2);
        const int64_t* of_chunk = pool.const_data_ptr<int64_t>() + row / chunk * G;
        return std::any_of(of_chunk, of_chunk + G, [&](int64_t p) { return p == wanted || p == wanted + 1; });
      });
    };
    for (size_t i = 0; i < batch.documents.size(); ++i)
      for (const Question& question : documents[batch.documents[i]].questions) {
        if (question.setting < 0 || question.about < 0) continue;
        const auto setting = static_cast<size_t>(question.setting);
        asked[setting] += 1;
        found[setting] += in_a_pool(batch.starts[i] + question.at, batch.starts[i] + question.about) ? 1 : 0;
      }
  }
  for (size_t s = 0; s < asked.size(); ++s) found[s] = asked[s] > 0 ? found[s] / asked[s] : 0;
  return found;
}

std::vector<std::vector<double>> ExpertCounts(nn::Model& model, const std::vector<TaskDocument>& documents,
                                              const ScoreOptions& options) {
  const torch::NoGradGuard no_grad;
  std::vector<std::vector<double>> counts;
  for (const TaskDocument& document : documents) {  // a pass each, since loads are of a whole batch
    if (options.check) options.check();
    const TaskBatch batch = MakeBatches({document}, options.align, options.batch_tokens).front();
    const train::AutocastScope autocast(options.device);
    const Tensor load = model.Forward(batch.batch.To(options.device.device), options.forward)
                            .router.load.to(torch::kCPU, torch::kFloat64)
                            .contiguous();
    const double* values = load.const_data_ptr<double>();
    counts.emplace_back(values, values + load.numel());
  }
  return counts;
}

}  // namespace hydra::eval
