// SPDX-License-Identifier: Apache-2.0
// Perplexity of a text: sums, bytes, JSON, and what is refused.
#include "hydra/eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hydra/base/error.h"
#include "hydra/eval/testing.h"
#include "hydra/train/testing.h"

namespace hydra::eval {
namespace {

using testing::kText;
using testing::SmallTokenizer;

ModelConfig Config(const Tokenizer& tokenizer) {
  ModelConfig config = train::testing::TinyConfig();
  config.vocab_size = tokenizer.vocab_size();
  return config;
}

TEST(Perplexity, OfATextIsItsTokenLoss) {
  const Tokenizer tokenizer = SmallTokenizer();
  nn::Model model(Config(tokenizer), nn::ModelOptions{.dtype = torch::kFloat64});
  const std::vector<int32_t> ids = tokenizer.Encode(kText);
  const double nats =
      model.TokenLoss(nn::Batch::Pack({std::vector<int64_t>(ids.begin(), ids.end())}, 8)).sum().item<double>();
  const PerplexityResult result = EvaluateText(model, tokenizer, kText, "text", {});
  EXPECT_NEAR(result.sums.nats, nats, 1e-9 * nats);
  EXPECT_EQ(result.sums.tokens, static_cast<int64_t>(ids.size()) - 1);
  // All bytes but those of the first token, which nothing predicts.
  const auto first = static_cast<int64_t>(tokenizer.TokenBytes(ids[0]).size());
  EXPECT_EQ(result.sums.bytes, static_cast<int64_t>(kText.size()) - first);
  EXPECT_DOUBLE_EQ(result.perplexity(), std::exp(result.loss()));
  const auto json = ToJson(result);
  EXPECT_EQ(json["tokens"], result.sums.tokens);
  EXPECT_EQ(json["by_position"].size(), result.sums.by_position.size());
  EXPECT_EQ(json["documents"], 1);
  EXPECT_EQ(EvaluateText(model, tokenizer, kText, "text", {.max_tokens = 5}).sums.tokens, 5);
  // A short context cuts the text, and predicts each token once all the same.
  EXPECT_EQ(EvaluateText(model, tokenizer, kText, "text", {.ctx = 16}).sums.tokens, result.sums.tokens);
}

TEST(Perplexity, RefusesWhatHasNothingToPredictOrAnotherVocabulary) {
  const Tokenizer tokenizer = SmallTokenizer();
  nn::Model model(Config(tokenizer));
  for (const char* text : {"", "a"})
    EXPECT_THROW((void)EvaluateText(model, tokenizer, text, "text", {}), Error) << text;
  EXPECT_THROW((void)EvaluateShards(model, tokenizer, "/nonexistent", "val", {}), Error);
  nn::Model small(train::testing::TinyConfig());  // 64 entries
  const std::string message =
      train::testing::ErrorText([&] { (void)EvaluateText(small, tokenizer, kText, "text", {}); });
  EXPECT_NE(message.find("the model's vocab_size is 64"), std::string::npos) << message;
}

}  // namespace
}  // namespace hydra::eval
