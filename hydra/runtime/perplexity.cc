// SPDX-License-Identifier: Apache-2.0
// Chunk after chunk: first half read, second half scored.
#include "hydra/runtime/perplexity.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/runtime/sequence_state.h"

namespace hydra {
namespace {

// -log softmax(row)[target]. row [n]
double Loss(std::span<const float> row, int32_t target) {
  const float top = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float v : row) sum += std::exp(static_cast<double>(v - top));
  return std::log(sum) - static_cast<double>(row[static_cast<size_t>(target)] - top);
}

}  // namespace

void CheckPerplexity(const Model& model, std::span<const int32_t> ids, const PerplexityOptions& options) {
  constexpr int64_t kLeast = 4;
  if (options.chunk < kLeast)
    throw Error(ErrorCode::kUsage,
                StrCat("perplexity: chunks of ", options.chunk, " tokens: must be ", kLeast, " or more"));
  if (options.chunk > model.options().ctx_size)
    throw Error(ErrorCode::kUsage,
                StrCat("perplexity: chunks of ", options.chunk, " tokens: --ctx-size is ", model.options().ctx_size));
  if (!(options.scored > 0 && options.scored <= 1))
    throw Error(ErrorCode::kUsage,
                StrCat("perplexity: a scored share of ", options.scored, ": must be above 0 and at most 1"));
  if (static_cast<int64_t>(ids.size()) < options.chunk)
    throw Error(ErrorCode::kData,
                StrCat(options.name, ": the text has ", ids.size(), " tokens: a chunk needs ", options.chunk));
}

double TextPerplexity::perplexity() const { return std::exp(loss()); }

double TextPerplexity::standard_error() const {
  if (tokens < 2) return 0;
  const double n = static_cast<double>(tokens), variance = sum_of_squares / n - loss() * loss();
  return std::sqrt(std::max(variance, 0.0) / (n - 1)) * perplexity();
}

TextPerplexity MeasurePerplexity(const Model& model, std::span<const int32_t> ids, const PerplexityOptions& options,
                                 ThreadPool& pool) {
  CheckPerplexity(model, ids, options);
  constexpr int64_t kRows = 256;  // logits held at once
  const int64_t C = options.chunk, V = model.config().vocab_size;
  const auto unscored = static_cast<int64_t>(static_cast<double>(C) * (1 - options.scored));
  const int64_t first = std::clamp<int64_t>(unscored, 1, C - 2);
  const int64_t chunks = static_cast<int64_t>(ids.size()) / C;
  SequenceState state(model, options.controls, options.plan);
  ForwardScratch scratch;
  std::vector<int32_t> chunk;
  std::vector<double> losses;
  TextPerplexity result;
  for (int64_t i = 0; i < chunks; ++i) {
    const auto text = ids.subspan(static_cast<size_t>(i * C), static_cast<size_t>(C));
    chunk.assign(text.begin(), text.end());
    if (options.bos) chunk[0] = *options.bos;
    state.Reset();
    const Segment head{&state, std::span(chunk).first(static_cast<size_t>(first)), LogitsOf::kNone};
    (void)model.Forward({&head, 1}, pool, scratch);
    const double before = result.sum;
    for (int64_t t = first; t < C - 1; t += kRows) {
      const int64_t rows = std::min(kRows, C - 1 - t);
      const Segment piece{&state, std::span(chunk).subspan(static_cast<size_t>(t), static_cast<size_t>(rows)),
                          LogitsOf::kAll};
      const auto logits = model.Forward({&piece, 1}, pool, scratch);
      losses.assign(static_cast<size_t>(rows), 0);
      pool.For(rows, [&](int64_t r, int) {
        losses[static_cast<size_t>(r)] = Loss(logits.subspan(static_cast<size_t>(r * V), static_cast<size_t>(V)),
                                              chunk[static_cast<size_t>(t + r + 1)]);
      });
      for (const double loss : losses) {
        if (!std::isfinite(loss)) throw Error(ErrorCode::kData, StrCat("perplexity: chunk ", i, ": a loss is ", loss));
        result.sum += loss;
        result.sum_of_squares += loss * loss;
        ++result.tokens;
      }
    }
    result.chunk_losses.push_back((result.sum - before) / static_cast<double>(C - 1 - first));
    ++result.chunks;
    if (options.progress && !options.progress(result.chunks, chunks)) break;
  }
  return result;
}

}  // namespace hydra
