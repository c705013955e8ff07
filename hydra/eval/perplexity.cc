// SPDX-License-Identifier: Apache-2.0
// Perplexity of shards and texts.
#include "hydra/eval/perplexity.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/train/corpus.h"

namespace hydra::eval {
namespace {

constexpr int64_t kLongestDefault = 8192;
constexpr int64_t kBatchTokens = 8192;  // enough to keep matrix products busy; memory stays small

void CheckVocabulary(const nn::Model& model, const Tokenizer& tokenizer) {
  if (tokenizer.vocab_size() > model.config().vocab_size)
    throw Error(ErrorCode::kData, StrCat("the tokenizer has ", tokenizer.vocab_size(),
                                         " entries, the model's vocab_size is ", model.config().vocab_size));
}

}  // namespace

double PerplexityResult::perplexity() const { return std::exp(loss()); }

PerplexityResult EvaluateCorpus(nn::Model& model, const train::Corpus& corpus, const Tokenizer& tokenizer,
                                const PerplexityOptions& options) {
  PerplexityResult result;
  result.ctx = options.ctx > 0 ? options.ctx : std::min(kLongestDefault, model.config().max_position_embeddings);
  // A row longer than every document would be pads.
  int64_t longest = 2;
  for (int64_t doc = 0; doc < corpus.n_docs(); ++doc) longest = std::max(longest, corpus.DocLength(doc));
  result.ctx = std::min(result.ctx, longest);
  result.documents = corpus.n_docs();
  result.sums = train::Validate(model, corpus, train::TokenByteCounts(tokenizer),
                                {.seq_len = result.ctx,
                                 .rows = std::max<int64_t>(1, kBatchTokens / result.ctx),
                                 .max_targets = options.max_tokens,
                                 .device = options.device,
                                 .forward = options.forward});
  if (result.sums.tokens == 0)
    throw Error(ErrorCode::kData, "nothing to predict: every document has one token only, or all tokens are masked");
  return result;
}

train::Corpus OpenSplit(const nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                        const std::string& split) {
  CheckVocabulary(model, tokenizer);
  train::Corpus corpus = train::Corpus::Open(
      folder, split, {.tokenizer_sha256 = Hex(tokenizer.sha256()), .vocab_size = model.config().vocab_size});
  if (corpus.n_docs() == 0) throw Error(ErrorCode::kData, StrCat(folder, ": the split ", split, " has no documents"));
  return corpus;
}

PerplexityResult EvaluateShards(nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                                const std::string& split, const PerplexityOptions& options) {
  return EvaluateCorpus(model, OpenSplit(model, tokenizer, folder, split), tokenizer, options);
}

PerplexityResult EvaluateText(nn::Model& model, const Tokenizer& tokenizer, std::string_view text,
                              const std::string& name, const PerplexityOptions& options) {
  CheckVocabulary(model, tokenizer);
  std::vector<int32_t> ids = tokenizer.Encode(text, options.text);
  if (ids.size() < 2)
    throw Error(ErrorCode::kData, StrCat(name, ": ", ids.size(), " tokens: two or more are needed to predict one"));
  return EvaluateCorpus(model, train::Corpus::FromDocuments({std::move(ids)}), tokenizer, options);
}

nlohmann::ordered_json ToJson(const PerplexityResult& result) {
  nlohmann::ordered_json buckets = nlohmann::ordered_json::array();
  for (const train::PositionBucket& bucket : result.sums.by_position)
    buckets.push_back(
        {{"begin", bucket.begin}, {"end", bucket.end}, {"tokens", bucket.tokens}, {"loss", bucket.loss()}});
  return {{"loss", result.loss()},
          {"perplexity", result.perplexity()},
          {"bits_per_byte", result.bits_per_byte()},
          {"tokens", result.sums.tokens},
          {"bytes", result.sums.bytes},
          {"documents", result.sums.documents},
          {"of_documents", result.documents},
          {"ctx", result.ctx},
          {"by_position", buckets}};
}

}  // namespace hydra::eval
