// SPDX-License-Identifier: Apache-2.0
// How many words of held-out text a model predicts whole: all their tokens are its first choices, given all the text
// before. Silent. Not here: losses (perplexity.h).
#pragma once

#include <cstdint>
#include <string>

#include "hydra/eval/perplexity.h"

namespace hydra::eval {

// A word begins with a token that begins with white space and ends before the next such token, the end of its document
// or that of the row that was read. What stands before the first such token of a row is no word.
struct WordAccuracy {
  int64_t words = 0, right = 0;
  int64_t commonest = 0;  // of them, the word that comes most often: what always guessing it would score
  [[nodiscard]] double accuracy() const { return static_cast<double>(right) / static_cast<double>(words); }
  [[nodiscard]] double chance() const { return static_cast<double>(commonest) / static_cast<double>(words); }
};

// Over the documents of a split in the order of EvaluateShards, max_tokens of them read at most. Throws kData where
// there is no word, and as EvaluateShards.
[[nodiscard]] WordAccuracy MeasureWords(nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                                        const std::string& split, const PerplexityOptions& options);

// The same of a text as one document; `name` stands for it in messages.
[[nodiscard]] WordAccuracy MeasureWords(nn::Model& model, const Tokenizer& tokenizer, const train::Corpus& corpus,
                                        const std::string& name, const PerplexityOptions& options);

}  // namespace hydra::eval
