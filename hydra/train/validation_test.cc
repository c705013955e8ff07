// SPDX-License-Identifier: Apache-2.0
// Held-out loss against sums made one document at a time; experts' loads and bias balancing.
#include "hydra/train/validation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hydra/base/error.h"
#include "hydra/train/experts.h"
#include "hydra/train/testing.h"

namespace hydra::train {
namespace {

using hydra::train::testing::RandomDocuments;
using hydra::train::testing::TinyConfig;

// fp64, so packing may only change the last digits; selections of the tiny model have no ties.
TEST(Validate, EqualsOneDocumentAtATime) {
  for (const uint64_t seed : {1, 2}) {
    SCOPED_TRACE(seed);
    nn::Model model(TinyConfig(), nn::ModelOptions{.dtype = torch::kFloat64});
    model.InitWeights(seed);
    const auto documents = RandomDocuments(seed, 12, 60, 64);
    double nats = 0;
    int64_t tokens = 0, early = 0;
    for (const auto& document : documents) {
      const std::vector<int64_t> ids(document.begin(), document.end());
      nats += model.TokenLoss(nn::Batch::Pack({ids}, 8)).sum().item<double>();
      tokens += static_cast<int64_t>(ids.size()) - 1;
      early += std::min<int64_t>(static_cast<int64_t>(ids.size()) - 1, 15);
    }
    std::vector<int32_t> bytes(64, 3);
    for (const int64_t rows : {1, 4}) {
      const ValidationResult result =
          Validate(model, Corpus::FromDocuments(documents), bytes, {.seq_len = 64, .rows = rows});
      EXPECT_NEAR(result.nats, nats, 1e-9 * nats);
      EXPECT_EQ(result.tokens, tokens);
      EXPECT_EQ(result.bytes, 3 * tokens);
      EXPECT_NEAR(result.bits_per_byte(), nats / std::log(2.0) / static_cast<double>(3 * tokens), 1e-9);
      double sum = 0;
      int64_t count = 0, end = 1;
      for (const PositionBucket& bucket : result.by_position) {
        EXPECT_EQ(bucket.begin, end);
        end = bucket.end;
        sum += bucket.nats;
        count += bucket.tokens;
      }
      EXPECT_EQ(result.by_position[0].tokens, early);
      EXPECT_EQ(count, tokens);
      EXPECT_NEAR(sum, nats, 1e-9 * nats);
    }
  }
}

TEST(Validate, APartIsConstantAndLongDocumentsAreCut) {
  nn::Model model(TinyConfig());
  const Corpus corpus = Corpus::FromDocuments(RandomDocuments(3, 10, 400, 64));
  const ValidationResult part = Validate(model, corpus, {}, {.seq_len = 60, .rows = 2, .max_tokens = 512});
  EXPECT_EQ(Validate(model, corpus, {}, {.seq_len = 60, .rows = 2, .max_tokens = 512}).nats, part.nats);
  EXPECT_LE(part.tokens, 512);
  EXPECT_EQ(part.bytes, 0);
  for (const int64_t n : {1, 7, 100, 511}) {
    const ValidationResult some = Validate(model, corpus, {}, {.seq_len = 60, .rows = 2, .max_targets = n});
    EXPECT_EQ(some.tokens, n);
    EXPECT_GE(some.documents, 1);
    EXPECT_LE(some.documents, n == 1 ? 1 : 9);
  }
  EXPECT_TRUE(std::isnan(part.bits_per_byte()));
  EXPECT_LE(part.by_position.back().end, 64);  // 60 rounded up to chunks
  const ValidationResult all = Validate(model, corpus, {}, {.seq_len = 64, .rows = 2});
  EXPECT_EQ(all.tokens, corpus.n_tokens() - corpus.n_docs());
  EXPECT_EQ(all.documents, corpus.n_docs());
  const int64_t beyond = all.tokens + 1;
  EXPECT_EQ(Validate(model, corpus, {}, {.seq_len = 64, .rows = 2, .max_targets = beyond}).nats, all.nats);
  const ValidationResult nothing = Validate(model, Corpus::FromDocuments({{1}, {2}}), {}, {});
  EXPECT_EQ(nothing.tokens, 0);
  EXPECT_TRUE(std::isnan(nothing.loss()));
  EXPECT_TRUE(nothing.by_position.empty());
}

TEST(Experts, BiasFollowsTheLoad) {
  ModelConfig config = TinyConfig();
  config.moe.bias_rate = 0.5;
  nn::Model model(config);
  // Blocks 0 and 2 have experts; means 2 and 1.
  BalanceRouters(model, torch::tensor({{8.0, 0.0, 0.0, 0.0}, {1.0, 1.0, 2.0, 0.0}}));
  const auto bias = [&](int layer) { return model.at(TensorRole::kRouterBalanceBias, layer); };
  EXPECT_TRUE(torch::equal(bias(0), torch::tensor({-0.5, 0.5, 0.5, 0.5}).to(torch::kFloat32)));
  EXPECT_TRUE(torch::equal(bias(2), torch::tensor({0.0, 0.0, -0.5, 0.5}).to(torch::kFloat32)));
}

TEST(Experts, LoadsAndAlarms) {
  ExpertWatch watch(TinyConfig());
  const torch::Tensor load = torch::tensor({{4.0, 4.0, 4.0, 4.0}, {8.0, 4.0, 4.0, 0.0}});
  for (int step = 1; step < 5; ++step) EXPECT_TRUE(watch.Step(load, 8, 5).empty());
  ExpertWatch other(TinyConfig());
  other.Load(nlohmann::ordered_json::parse(watch.Save().dump()), "experts");
  const auto alarms = other.Step(load, 8, 5);
  ASSERT_EQ(alarms.size(), 1U);
  EXPECT_EQ(alarms[0], "layers.2: expert 3 was not used for 5 steps");
  EXPECT_TRUE(other.Step(load, 8, 5).empty());  // once
  std::map<std::string, double> values;
  other.TakeMetrics(&values);
  EXPECT_EQ(values.at("moe/dead_experts"), 1);
  EXPECT_DOUBLE_EQ(values.at("moe/load/0/1"), 0.25);
  EXPECT_DOUBLE_EQ(values.at("moe/load/2/0"), 0.5);
  EXPECT_NEAR(values.at("moe/load_cv"), std::sqrt(0.5) / 2, 1e-12);  // 0 and sqrt(8) / 4
  EXPECT_THROW(other.Load(nlohmann::ordered_json::parse(R"({"load": [1], "unused": [1]})"), "experts"), Error);
}

}  // namespace
}  // namespace hydra::train
