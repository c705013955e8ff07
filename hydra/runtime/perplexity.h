// SPDX-License-Identifier: Apache-2.0
// Perplexity of a model over the tokens of a text, in chunks, as llama-perplexity measures it: each chunk starts from
// an empty context, its second half, or another share, is scored. Silent. Not here: LibTorch's, over documents
// (eval/perplexity.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/model/controls.h"
#include "hydra/model/kv_filling.h"
#include "hydra/runtime/model.h"

namespace hydra {

struct PerplexityOptions {
  std::string name = "perplexity";  // of the text, in errors
  int64_t chunk = 512;              // tokens of a chunk, at least 4; at most the model's ctx_size
  std::optional<int32_t> bos{};     // takes the place of each chunk's first token
  double scored = 0.5;              // share of a chunk, its end; above 0, at most 1
  Controls controls{};
  KvPlan plan = nullptr;
  std::function<bool(int64_t done, int64_t chunks)> progress{};  // after each chunk; false ends the measurement
};

struct TextPerplexity {
  int64_t chunks = 0;                  // whole ones; what is left of the text is not read
  int64_t tokens = 0;                  // scored: of each chunk, those behind (1 - scored) of it, the first one left out
  double sum = 0, sum_of_squares = 0;  // of their losses, nats
  std::vector<double> chunk_losses{};  // their means
  [[nodiscard]] double loss() const { return sum / static_cast<double>(tokens); }
  [[nodiscard]] double perplexity() const;
  [[nodiscard]] double standard_error() const;  // of the perplexity
};

// Throws kData when the text is shorter than one chunk, kUsage for a chunk that is too short or longer than ctx_size
// and for a share outside of its range.
void CheckPerplexity(const Model& model, std::span<const int32_t> ids, const PerplexityOptions& options);
// Throws the same, and kData where a loss is not finite.
[[nodiscard]] TextPerplexity MeasurePerplexity(const Model& model, std::span<const int32_t> ids,
                                               const PerplexityOptions& options, ThreadPool& pool);

}  // namespace hydra
