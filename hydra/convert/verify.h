// SPDX-License-Identifier: Apache-2.0
// Proof that a written model is its source: values of all tensors, logits, config, tokenizer.
// Not here: writing (convert.h), the verdict's bounds (hydra/cli/verb_convert.cc).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/runtime/weights.h"
#include "hydra/text/tokenizer.h"

namespace hydra {

struct VerifyReport {
  double worst_tensor = 0;  // largest RelativeError, and whose; infinite for NaN and for zeros that became something
  std::string worst_name;
  double logits = 0;  // largest difference, relative to max(1, largest logit); infinite for NaN
  int64_t tokens = 0;
  std::vector<std::string> differences;  // of configs and tokenizers, one line each
};

// Every tensor's values; the logits of random tokens with f32 activations; the configs, but for the matrices' type and
// for what GGUF cannot say and no result depends on. Where the configs have other tensors, only the configs are
// compared.
[[nodiscard]] VerifyReport VerifyModel(const WeightSource& source, const WeightSource& written, ThreadPool& pool);

// The first difference, or "": every token's bytes and kind, and the ids of texts that are hard to cut. The written one
// may have more tokens, which fill the vocabulary up to the embedding's rows.
[[nodiscard]] std::string CompareTokenizers(const Tokenizer& source, const Tokenizer& written);

}  // namespace hydra
