// SPDX-License-Identifier: Apache-2.0
// Picks the next token from logits: penalties, top-k, top-p, min-p, temperature, in that order (specs/interfaces.md 1);
// and the probabilities that the model itself gives. Not here: where logits come from, when generation stops.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/rng.h"

namespace hydra {

struct SamplerOptions {
  double repeat_penalty = 1.0;   // > 0; logits of recent tokens are divided by it when positive, else multiplied
  int64_t repeat_last_n = 64;    // recent tokens that penalties look at; 0 = none
  double presence_penalty = 0;   // subtracted once from the logit of each recent token
  double frequency_penalty = 0;  // subtracted for each time it occurs there
  int64_t top_k = 40;            // 0 = off
  double top_p = 0.95;           // smallest set of the most probable tokens that reaches this mass; 1 = off
  double min_p = 0.05;           // tokens below this share of the best one's probability are dropped; 0 = off
  double temperature = 0.8;      // 0 = greedy
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, double>> logit_bias{};  // added before all else

  // Throws Error(kUsage) naming the flag, its value and the rule.
  void Validate() const;
  // The same for the ids of logit_bias: each must be one of the vocabulary's.
  void CheckIds(int64_t vocab) const;
};

// A token and the natural logarithm of its probability.
struct TokenLogprob {
  int32_t id = 0;
  double logprob = 0;
};

// The model's own distribution over all logits, before any option of sampling. The n most probable of the first `vocab`
// tokens, most first, the lower id of equals. Not finite where a logit is NaN.
class Logprobs {
 public:
  explicit Logprobs(std::span<const float> logits);
  [[nodiscard]] double Of(int32_t id) const { return logits_[static_cast<size_t>(id)] - log_sum_; }
  [[nodiscard]] std::vector<TokenLogprob> Best(int64_t n, int64_t vocab) const;

 private:
  std::span<const float> logits_;  // [vocab]
  double log_sum_;                 // of their exponentials
};

// The id with the largest of the first `vocab` logits, the lower one of equals.
[[nodiscard]] int32_t BestId(std::span<const float> logits, int64_t vocab);

// One stream's sampler. Not thread-safe. The same seed and logits give the same tokens everywhere.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  // The id of the next token, remembered for the penalties. Ties go to the lower id. Throws kData when a logit is NaN
  // or none is finite. logits [vocab]; `allowed`: a bit for each id that may be picked, the lowest bits first, in
  // ceil(vocab / 64) words; empty: all may be.
  int32_t Pick(std::span<const float> logits, std::span<const uint64_t> allowed = {});
  // Remembers a token that was not picked here (the prompt's).
  void Accept(int32_t id);

 private:
  struct Candidate {
    int32_t id;
    double logit;
  };
  // Fills changed_: the logits that biases and penalties change.
  void ApplyPenalties(std::span<const float> logits);
  // Fills best_: the n best of those that may be picked, best first.
  void Select(std::span<const float> logits, std::span<const uint64_t> allowed, size_t n);
  void Truncate();

  SamplerOptions options_;
  Rng rng_;
  std::deque<int32_t> recent_;
  std::vector<Candidate> changed_, best_;  // by id; working memory of Pick
};

}  // namespace hydra
