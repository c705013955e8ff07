// SPDX-License-Identifier: Apache-2.0
// Words that are predicted whole: where they begin and end, and what counts as right.
#include "hydra/eval/word_accuracy.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "hydra/base/testing.h"
#include "hydra/eval/testing.h"
#include "hydra/train/testing.h"

namespace hydra::eval {
namespace {

using testing::kText;
using testing::SmallTokenizer;

nn::Model ModelFor(const Tokenizer& tokenizer) {
  ModelConfig config = train::testing::TinyConfig();
  config.vocab_size = tokenizer.vocab_size();
  return nn::Model(config, nn::ModelOptions{.dtype = torch::kFloat64});
}

train::Corpus CorpusOf(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  std::vector<std::vector<int32_t>> documents;
  for (const std::string& text : texts) documents.push_back(tokenizer.Encode(text));
  return train::Corpus::FromDocuments(std::move(documents));
}

TEST(WordAccuracy, CountsWordsBehindTheFirst) {
  const Tokenizer tokenizer = SmallTokenizer();
  nn::Model model = ModelFor(tokenizer);
  // The first word of a document begins with no space.
  const WordAccuracy one = MeasureWords(model, tokenizer, CorpusOf(tokenizer, {kText}), "text", {.ctx = 256});
  EXPECT_EQ(one.words, 22);
  EXPECT_EQ(one.commonest, 6);  // " the"
  EXPECT_LE(one.right, one.words);
  const WordAccuracy two = MeasureWords(model, tokenizer, CorpusOf(tokenizer, {kText, kText}), "text", {.ctx = 256});
  EXPECT_EQ(two.words, 2 * one.words);
  EXPECT_EQ(two.right, 2 * one.right);
}

// A model that was trained on the text until it knows it by heart is right everywhere behind the first words.
TEST(WordAccuracy, OfATextLearntByHeart) {
  const Tokenizer tokenizer = SmallTokenizer();
  nn::Model model = ModelFor(tokenizer);
  const std::vector<int32_t> ids = tokenizer.Encode(kText);
  const nn::Batch batch = nn::Batch::Pack({std::vector<int64_t>(ids.begin(), ids.end())}, 64);
  const auto corpus = CorpusOf(tokenizer, {kText});
  const double before = MeasureWords(model, tokenizer, corpus, "text", {.ctx = 64}).accuracy();
  for (int step = 0; step < 400; ++step) {
    model.Loss(batch).total.backward();
    const torch::NoGradGuard no_grad;
    for (const auto& [spec, tensor] : model.Tensors()) {
      if (!tensor.grad().defined()) continue;
      const torch::Tensor grad = tensor.grad().is_sparse() ? tensor.grad().to_dense() : tensor.grad();
      tensor.sub_(0.05 * grad / (grad.norm() + 1e-6));
      tensor.mutable_grad() = torch::Tensor();
    }
  }
  EXPECT_GT(MeasureWords(model, tokenizer, corpus, "text", {.ctx = 64}).accuracy(), std::max(0.9, before));
}

TEST(WordAccuracy, RefusesTextWithoutWords) {
  const Tokenizer tokenizer = SmallTokenizer();
  nn::Model model = ModelFor(tokenizer);
  ExpectError([&] { (void)MeasureWords(model, tokenizer, CorpusOf(tokenizer, {"thethe"}), "some text", {.ctx = 64}); },
              ErrorCode::kData, {"some text", "no word"});
}

}  // namespace
}  // namespace hydra::eval
