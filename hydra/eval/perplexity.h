// SPDX-License-Identifier: Apache-2.0
// Loss, perplexity and bits per byte of a model on held-out shards or on a text. Silent.
// Not here: loss during training (train/validation.h, which does the work), other tasks, text for people (cli).
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "hydra/text/tokenizer.h"
#include "hydra/train/validation.h"

namespace hydra::eval {

struct PerplexityOptions {
  int64_t ctx = 0;         // longest context, tokens; 0 = min(8192, the model's)
  int64_t max_tokens = 0;  // predicted, to the token; 0 = all
  EncodeOptions text = {.parse_special = false, .add_special = false};  // of EvaluateText
  train::Device device = {};
  nn::ForwardOptions forward = {};  // controls that it is measured with
};

struct PerplexityResult {
  train::ValidationResult sums;
  int64_t documents = 0;  // of the split; those of which a token was predicted: sums.documents
  int64_t ctx = 0;
  [[nodiscard]] double loss() const { return sums.loss(); }  // nats a predicted token
  [[nodiscard]] double perplexity() const;
  [[nodiscard]] double bits_per_byte() const { return sums.bits_per_byte(); }
};

// Documents whose tokens are ids of the tokenizer; kData when nothing can be predicted.
[[nodiscard]] PerplexityResult EvaluateCorpus(nn::Model& model, const train::Corpus& corpus, const Tokenizer& tokenizer,
                                              const PerplexityOptions& options);
// The documents of a split of a folder made by `hydralm data build` with the same tokenizer; kData otherwise, or when
// there are none.
[[nodiscard]] train::Corpus OpenSplit(const nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                                      const std::string& split);
// A split of a folder made by `hydralm data build` with the same tokenizer; kData otherwise, or when it is empty.
[[nodiscard]] PerplexityResult EvaluateShards(nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                                              const std::string& split, const PerplexityOptions& options);
// One text as one document; kData when it has fewer than two tokens. `name` stands for it in messages.
[[nodiscard]] PerplexityResult EvaluateText(nn::Model& model, const Tokenizer& tokenizer, std::string_view text,
                                            const std::string& name, const PerplexityOptions& options);

// {loss, perplexity, bits_per_byte, tokens, bytes, documents, of_documents, ctx, by_position: [{begin, end, tokens,
// loss}]}: `documents` are those of which a token was predicted.
[[nodiscard]] nlohmann::ordered_json ToJson(const PerplexityResult& result);

}  // namespace hydra::eval
