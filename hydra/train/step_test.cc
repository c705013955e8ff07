// SPDX-License-Identifier: Apache-2.0
// What one step of a run counts and weighs: batches without targets, shares of micro-batches, FLOPs; and validation
// that has nothing to predict. Not here: whole runs, resume (trainer_test.cc).
#include <gtest/gtest.h>

#include <cmath>

#include "hydra/base/error.h"
#include "hydra/model/accounting.h"
#include "hydra/train/batches.h"
#include "hydra/train/metrics_log.h"
#include "hydra/train/testing.h"
#include "hydra/train/trainer.h"

namespace hydra::train {
namespace {

using testing::MaskedCorpus;
using testing::RandomDocuments;

constexpr int64_t kRow = 32, kSeed = 5;

TrainerOptions StepOptions(Corpus corpus, const std::vector<std::string>& settings) {
  std::vector<std::string> all = {
      StrCat("optim.seq_len=", kRow), StrCat("optim.seed=", kSeed), "optim.batch_rows=1", "optim.lr=1e-2",
      "optim.warmup_steps=0",         "log.peak_flops=1e9",         "guard.sigma=0"};
  all.insert(all.end(), settings.begin(), settings.end());
  TrainerOptions options{.run = ParseRunConfig("", "test", all), .model = testing::TinyConfig(), .train = corpus};
  options.token_bytes.assign(64, 2);
  return options;
}

// Rows of one document each, of which every third has no token that counts.
Corpus EveryThirdMasked(const std::string& folder) {
  std::vector<std::vector<int32_t>> documents;
  std::vector<std::vector<uint8_t>> masks;
  for (int i = 0; i < 30; ++i) {
    documents.push_back(RandomDocuments(static_cast<uint64_t>(i), 1, 300, 64)[0]);
    documents.back().resize(kRow, 7);
    masks.emplace_back(kRow, i % 3 == 0 ? 0 : 1);
  }
  return MaskedCorpus(folder, documents, masks);
}

RowMix SameRows(const TrainerOptions& options) {
  std::vector<std::string> domains;
  for (const ExpertDomain& domain : options.model.moe.domains) domains.push_back(domain.name);
  return RowMix({{"", options.train.WithDomains(domains)}},
                {.chunk_len = options.model.chunk_len, .seed = static_cast<uint64_t>(kSeed)});
}

TEST(Step, WithoutTargetsItIsSkippedAndCounted) {
  TempDir data, dir;
  TrainerOptions options = StepOptions(EveryThirdMasked(data.path()), {"optim.steps=12", "log.every=4"});
  options.folder = dir / "run";
  std::vector<int64_t> targets;
  std::vector<std::string> warnings;
  options.callbacks.on_step = [&](const StepReport& report) {
    targets.push_back(report.targets);
    EXPECT_EQ(std::isnan(report.loss), report.targets == 0);
    EXPECT_EQ(std::isnan(report.grad_norm), report.targets == 0);
    EXPECT_EQ(StepLine(report).find("no targets") != std::string::npos, report.targets == 0);
  };
  options.callbacks.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  RowMix stream = SameRows(options);
  Trainer trainer(options);
  int64_t empty = 0, tokens = 0;
  for (int64_t step = 0; step < 12; ++step) {
    const torch::Tensor before = trainer.model().at(TensorRole::kEmbedding).detach().clone();
    const TrainResult result = trainer.Run(step + 1);
    const StepBatches want = NextStep(stream, 1, 1, kRow);
    EXPECT_EQ(targets.back(), want.n_targets);
    EXPECT_EQ(torch::equal(trainer.model().at(TensorRole::kEmbedding), before), want.n_targets == 0) << step;
    empty += want.n_targets == 0 ? 1 : 0;
    tokens += want.n_read;
    EXPECT_EQ(result.skipped, empty);
    EXPECT_EQ(result.tokens, tokens);  // they were read
  }
  EXPECT_GT(empty, 1);
  EXPECT_LT(empty, 12);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("no token of its batch counts in the loss"), std::string::npos) << warnings[0];
  const std::vector<MetricsRow> rows = ReadMetrics(dir / "run/train.jsonl");
  EXPECT_EQ(rows.back().values.at("train/skipped"), static_cast<double>(empty));
  EXPECT_TRUE(std::isfinite(rows.back().values.at("train/loss")));
}

TEST(Step, DataWithoutAnyTargetIsRefused) {
  TempDir data, dir;
  std::vector<std::vector<uint8_t>> masks(3, std::vector<uint8_t>(10, 0));
  masks[1][0] = 1;  // a document's first token, which nothing predicts
  const std::vector<std::vector<int32_t>> documents(3, std::vector<int32_t>(10, 4));
  TrainerOptions options = StepOptions(MaskedCorpus(data.path(), documents, masks), {"optim.steps=2"});
  EXPECT_NE(testing::ErrorText([&] { Trainer trainer(options); }).find("no token of the 3 documents"),
            std::string::npos);
  TempDir other;
  masks[1][9] = 1;
  options.train = MaskedCorpus(other.path(), documents, masks);
  EXPECT_TRUE(Trainer(options).Run().finished);
}

// Documents of two lengths: a row has one of 32 tokens (31 targets, 4 chunks) or four of 2 (4 targets, 4 chunks), so
// that shares of targets and of chunks differ. One micro-batch of masked rows must change nothing at all.
TEST(Step, MicroBatchesAreWeighedByTargetsAndTheirRoutersByChunks) {
  std::vector<std::vector<int32_t>> documents;
  std::vector<std::vector<uint8_t>> masks;
  std::vector<int> domains;
  for (int i = 0; i < 60; ++i) {
    documents.push_back(RandomDocuments(static_cast<uint64_t>(i), 1, 300, 64)[0]);
    domains.push_back(i % 4 - 1 > 1 ? -1 : i % 4 - 1);
    documents.back().resize(i % 3 == 0 ? kRow : 2, 9);
    masks.emplace_back(documents.back().size(), i % 6 == 0 ? 0 : 1);
  }
  TempDir data;
  TrainerOptions options = StepOptions(MaskedCorpus(data.path(), documents, masks, domains),
                                       {"optim.steps=1", "optim.accum=8", "optim.clip=0"});
  // Sets in another order than the shards' names, so that numbers must be translated.
  options.model.moe.domains = {{.name = "odd", .experts = {0, 1}}, {.name = "even", .experts = {2, 3}}};
  options.model.moe.domain_loss_coef = 0.4;
  options.model.moe.aux_loss_coef = 0.3;
  options.model.moe.z_loss_coef = 0.2;
  options.dtype = torch::kFloat64;
  nn::Model want(options.model, nn::ModelOptions{.dtype = torch::kFloat64});
  want.InitWeights(static_cast<uint64_t>(kSeed));
  RowMix stream = SameRows(options);
  std::vector<TokenBatch> batches;
  double n_targets = 0, n_chunks = 0;
  int left_out = 0;
  for (int i = 0; i < 8; ++i) {
    TokenBatch batch = NextBatch(stream, 1, kRow);
    if (batch.n_targets == 0) {
      ++left_out;
      continue;
    }
    for (int64_t t = 0; t < kRow; ++t) {
      const int64_t piece = batch.batch.seq_idx[0][t].item<int64_t>();
      if (piece < 0) continue;
      const int domain = domains[static_cast<size_t>(batch.row_documents[0][static_cast<size_t>(piece)])];
      EXPECT_EQ(batch.batch.domain[0][t].item<int64_t>(), domain < 0 ? -1 : 1 - domain);
    }
    EXPECT_EQ(batch.n_chunks, nn::Batch(batch.batch).seq_idx.slice(1, 0, kRow, 8).ge(0).sum().item<int64_t>());
    n_targets += static_cast<double>(batch.n_targets);
    n_chunks += static_cast<double>(batch.n_chunks);
    batches.push_back(std::move(batch));
  }
  ASSERT_GT(left_out, 0);
  ASSERT_GT(batches.size(), 1U);
  bool differ = false;
  for (const TokenBatch& batch : batches) {
    const nn::LossOut out = want.Loss(batch.batch);
    const double targets = static_cast<double>(batch.n_targets) / n_targets,
                 chunks = static_cast<double>(batch.n_chunks) / n_chunks;
    differ |= std::abs(targets - chunks) > 0.02;
    (targets * out.lm + chunks * (0.3 * out.router[nn::RouterTerm::kBalance] + 0.2 * out.router[nn::RouterTerm::kZ] +
                                  0.4 * out.router[nn::RouterTerm::kDomain]))
        .backward();
  }
  ASSERT_TRUE(differ);
  options.after_backward = [&](int64_t, nn::Model& model) {
    for (const auto& [spec, tensor] : model.Tensors()) {
      const torch::Tensor expected = want.at(spec->role, spec->layer).grad(), got = tensor.grad();
      ASSERT_EQ(got.defined(), expected.defined()) << spec->name;
      if (!got.defined()) continue;
      EXPECT_LT((got.to_dense() - expected.to_dense()).abs().max().item<double>(), 1e-9) << spec->name;
    }
  };
  EXPECT_TRUE(Trainer(options).Run().finished);
}

TEST(Step, FlopsAreThoseOfTheDocumentsInTheRow) {
  std::vector<std::vector<int32_t>> documents(40, std::vector<int32_t>(8, 3));
  TrainerOptions options = StepOptions(Corpus::FromDocuments(documents), {"optim.steps=1", "optim.seq_len=256"});
  options.model = TransformerNano();
  options.model.vocab_size = 64;
  options.model.layers.resize(1);
  options.model.chunk_len = 8;
  const double packed = 3 * 256 * MeanForwardFlops(options.model, 8);
  const auto flops_of = [](const TrainerOptions& o) {
    Trainer trainer(o);
    (void)trainer.Run();
    return trainer.StateJson()["flops"].get<double>();
  };
  EXPECT_NEAR(flops_of(options) / packed, 1, 1e-12);
  options.train = Corpus::FromDocuments({std::vector<int32_t>(256, 3)});
  EXPECT_NEAR(flops_of(options) / (3 * 256 * MeanForwardFlops(options.model, 256)), 1, 1e-12);
  EXPECT_GT(flops_of(options), 1.05 * packed);  // a full row asks for more attention
}

// Validation documents of which nothing can be predicted are no reason to lose a run.
TEST(Step, ValidationWithNothingToPredictWarnsOnce) {
  TempDir masked;
  const std::vector<std::vector<int32_t>> documents(2, std::vector<int32_t>(9, 3));
  const Corpus vals[] = {
      Corpus::FromDocuments({{1}, {2}, {3}}),
      MaskedCorpus(masked.path(), documents, std::vector<std::vector<uint8_t>>(2, std::vector<uint8_t>(9, 0)))};
  for (const Corpus& val : vals) {
    TempDir dir;
    TrainerOptions options = StepOptions(testing::TinyCorpus(1), {"optim.steps=6", "eval.every=2"});
    options.folder = dir / "run";
    options.val = val;
    std::vector<std::string> warnings;
    options.callbacks.on_warning = [&](const std::string& text) { warnings.push_back(text); };
    options.callbacks.on_eval = [](const EvalReport&) { ADD_FAILURE() << "there is no loss to report"; };
    const TrainResult result = Trainer(options).Run();
    EXPECT_TRUE(result.finished);
    EXPECT_TRUE(std::isnan(result.val_loss));
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_NE(warnings[0].find("no validation loss"), std::string::npos) << warnings[0];
  }
}

// The part of the validation documents that eval.tokens reads may be masked although the whole is not.
TEST(Step, AnEvaluatedPartWithNothingToPredictWarnsOnce) {
  TempDir data;
  std::vector<std::vector<int32_t>> documents(200, std::vector<int32_t>(kRow, 3));
  std::vector<std::vector<uint8_t>> masks(200, std::vector<uint8_t>(kRow, 0));
  masks[0].assign(kRow, 1);
  TrainerOptions options =
      StepOptions(testing::TinyCorpus(1), {"optim.steps=6", "eval.every=2", StrCat("eval.tokens=", kRow)});
  options.val = MaskedCorpus(data.path(), documents, masks);
  std::vector<std::string> warnings;
  options.callbacks.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  const TrainResult result = Trainer(options).Run();
  EXPECT_TRUE(result.finished);
  EXPECT_TRUE(std::isnan(result.val_loss));
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("eval.tokens = 32"), std::string::npos) << warnings[0];
}

TEST(Step, AnExtendedRunWarnsOfTheJumpInItsRate) {
  TempDir dir;
  TrainerOptions options = StepOptions(testing::TinyCorpus(1), {"optim.steps=20"});
  options.folder = dir / "run";
  { (void)Trainer(options).Run(); }
  std::vector<std::string> warnings;
  options.callbacks.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  options.run.optim.steps = 40;
  { Trainer trainer(options); }
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_EQ(warnings[0].rfind("step 21: the learning rate rises from 1.0e-03 to 5.", 0), 0U) << warnings[0];
  warnings.clear();
  options.run.optim.lr = 1e-3;  // the lowest of the first run is the highest of the second: no jump
  { Trainer trainer(options); }
  EXPECT_TRUE(warnings.empty());
}

}  // namespace
}  // namespace hydra::train
