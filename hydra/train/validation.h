// SPDX-License-Identifier: Apache-2.0
// Loss of a model on held-out documents: nats, bits per byte, and by position in the document.
// Not here: text files and tables (hydra/eval), when to validate (trainer.h).
#pragma once

#include <cstdint>
#include <vector>

#include "hydra/nn/model.h"
#include "hydra/text/tokenizer.h"
#include "hydra/train/corpus.h"
#include "hydra/train/device.h"

namespace hydra::train {

// Predicted tokens at positions [begin, end) of their documents; position 1 is the first that is predicted.
struct PositionBucket {
  int64_t begin = 0, end = 0, tokens = 0;
  double nats = 0;
  [[nodiscard]] double loss() const { return nats / static_cast<double>(tokens); }
};

struct ValidationResult {
  double nats = 0;                          // summed over predicted tokens
  int64_t tokens = 0;                       // predicted; a document's first token never is. 0: nothing to predict
  int64_t bytes = 0;                        // of text that the predicted tokens stand for; 0 when unknown
  int64_t documents = 0;                    // of which a token was predicted
  std::vector<PositionBucket> by_position;  // widths double; buckets without tokens are left out
  [[nodiscard]] double loss() const { return nats / static_cast<double>(tokens); }  // NaN where tokens is 0
  // nats / ln 2 / bytes; NaN where bytes are unknown. Predicted ends of text cost bits and add no bytes.
  [[nodiscard]] double bits_per_byte() const;
};

struct ValidationOptions {
  int64_t seq_len = 256;    // longest context; longer documents are cut. Rounded up to a multiple of chunk_len
  int64_t rows = 8;         // of a batch; no influence on the result but rounding
  int64_t max_tokens = 0;   // of rows, pads included: whole batches are read until there are so many; 0 = no limit
  int64_t max_targets = 0;  // predicted tokens, to the token; 0 = no limit
  Device device = {};
  nn::ForwardOptions forward = {};
};

// Bytes of text for each id, 0 for special tokens.
[[nodiscard]] std::vector<int32_t> TokenByteCounts(const Tokenizer& tokenizer);

// Documents in an order that depends on the corpus alone, so that a part is a fair and constant sample.
// `token_bytes` may be empty. Where the part that was read has nothing to predict (documents of one token, everything
// masked) the result has no tokens and no loss.
[[nodiscard]] ValidationResult Validate(nn::Model& model, const Corpus& corpus, const std::vector<int32_t>& token_bytes,
                                        const ValidationOptions& options);

}  // namespace hydra::train
