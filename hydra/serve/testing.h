// SPDX-License-Identifier: Apache-2.0
// What the tests of the server share: small models of every family with a tokenizer of bytes, texts written by a plain
// loop to compare with. Not for use outside tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/runtime/testing.h"
#include "hydra/runtime/testing_tokenizer.h"
#include "hydra/serve/engine.h"
#include "hydra/serve/metrics.h"

namespace hydra::serve::testing {

inline constexpr int64_t kVocab = 320;

// The cases of the runtime's tests that differ in what their states hold, with a vocabulary for the tokenizer.
inline std::vector<hydra::testing::Case> Families() {
  std::vector<hydra::testing::Case> all = hydra::testing::Cases(), few;
  for (const size_t i : {0, 3, 4}) {  // Hydra, a transformer, Mamba-2
    few.push_back(all[i]);
    few.back().config.vocab_size = kVocab;
    if (few.back().config.layers.size() > 3) few.back().config.layers.resize(3);
  }
  return few;
}

// A model, and what an engine for it needs.
struct Kit {
  explicit Kit(const ModelConfig& config, uint64_t seed = 71)
      : model(hydra::testing::BuildModel(hydra::testing::RandomSource(config, seed),
                                         {.ctx_size = 4096, .kv_dtype = KvDtype::kF32, .act = Activations::kF32})) {}
  [[nodiscard]] std::unique_ptr<Engine> Start(EngineOptions options = {}) {
    return std::make_unique<Engine>(model, tokenizer, pool, metrics, std::move(options));
  }

  Model model;
  Tokenizer tokenizer = hydra::testing::ByteTokenizer({"<|im_start|>", "<|im_end|>"});
  ThreadPool pool{2};
  Metrics metrics;
};

inline std::vector<int32_t> RandomPrompt(int64_t n, uint64_t seed) {
  return hydra::testing::RandomIds(n, 128, seed);  // bytes of ASCII
}

inline TextRequest Greedy(std::vector<int32_t> prompt, int64_t max_tokens) {
  TextRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling = {.temperature = 0};
  return request;
}

// What came of one text.
struct Result {
  std::vector<int32_t> ids;
  std::string words;
  std::vector<PickedToken> tokens;
  std::vector<XrayToken> traces;
  std::optional<TextEnd> end;
};

// All texts of a job; gives up after a while, which leaves ends out.
inline std::vector<Result> Collect(Job& job, double seconds = 60) {
  std::vector<Result> results(job.texts().size());
  size_t open = results.size();
  for (const double until = Seconds() + seconds; open > 0 && Seconds() < until;) {
    std::optional<TextPiece> piece = job.Take(0.05);
    if (!piece) continue;
    Result& result = results[static_cast<size_t>(piece->text)];
    result.words += piece->words;
    for (PickedToken& token : piece->tokens) {
      if (!token.in_prompt) result.ids.push_back(token.id);
      result.tokens.push_back(std::move(token));
    }
    for (XrayToken& trace : piece->traces) result.traces.push_back(std::move(trace));
    if (piece->end) {
      result.end = *piece->end;
      --open;
    }
  }
  EXPECT_EQ(open, 0U) << "texts have not ended";
  return results;
}

inline Result Run(Engine& engine, TextRequest request) {
  std::vector<TextRequest> texts;
  texts.push_back(std::move(request));
  const auto job = engine.Submit(std::move(texts));
  return std::move(Collect(*job)[0]);
}

// The same by the plainest loop: the prompt whole, then step by step. `gaps`: of each pick, how far the second best
// logit is from the best, as a share of the largest: below 1e-4 another cut of the prompt may pick the other.
struct Plain {
  std::vector<int32_t> ids;
  std::vector<double> gaps;
};
inline Plain WritePlainly(const Kit& kit, std::span<const int32_t> prompt, int64_t n, const SamplerOptions& sampling) {
  Plain plain;
  ThreadPool pool(1);
  ForwardScratch scratch;
  SequenceState state(kit.model);
  Sampler sampler(sampling);
  for (const int32_t id : prompt) sampler.Accept(id);
  auto logits = kit.model.Prefill(state, prompt, pool, scratch);
  while (static_cast<int64_t>(plain.ids.size()) < n) {
    const auto known = logits.first(static_cast<size_t>(kit.tokenizer.vocab_size()));
    std::vector<float> sorted(known.begin(), known.end());
    std::partial_sort(sorted.begin(), sorted.begin() + 2, sorted.end(), std::greater<>());
    plain.gaps.push_back((sorted[0] - sorted[1]) / std::max(1.0F, std::abs(sorted[0])));
    plain.ids.push_back(sampler.Pick(known));
    logits = kit.model.Step(state, plain.ids.back(), pool, scratch);
  }
  return plain;
}

// The equality rule of specs/product.md: a token may differ where the plain run was undecided; what follows then does.
inline void ExpectSameText(std::span<const int32_t> got, const Plain& want) {
  ASSERT_EQ(got.size(), want.ids.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want.ids[i]) continue;
    EXPECT_LT(want.gaps[i], 1e-4) << "token " << i << ": " << got[i] << " in the place of " << want.ids[i];
    return;
  }
}

}  // namespace hydra::serve::testing
