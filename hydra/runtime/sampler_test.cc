// SPDX-License-Identifier: Apache-2.0
// Sampler: greedy, each filter by hand, frequencies against probabilities, repeatability, bad options.
#include "hydra/runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "hydra/base/error.h"

namespace hydra {
namespace {

const SamplerOptions kPlain{.top_k = 0, .top_p = 1, .min_p = 0, .temperature = 1, .seed = 7};

std::set<int32_t> Seen(const SamplerOptions& options, const std::vector<float>& logits, int draws = 2000) {
  Sampler sampler(options);
  std::set<int32_t> seen;
  for (int i = 0; i < draws; ++i) seen.insert(sampler.Pick(logits));
  return seen;
}

TEST(Sampler, GreedyTakesTheBestAndTiesGoToTheLowerId) {
  Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.Pick(std::vector<float>{1, 3, 2}), 1);
  EXPECT_EQ(sampler.Pick(std::vector<float>{5, 3, 5}), 0);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {0, 1, 2, -1};
  Sampler sampler(kPlain);
  constexpr int kDraws = 40000;
  std::vector<int> count(4);
  for (int i = 0; i < kDraws; ++i) ++count[static_cast<size_t>(sampler.Pick(logits))];
  double total = 0;
  for (const float l : logits) total += std::exp(l);
  for (size_t i = 0; i < 4; ++i) {
    const double p = std::exp(logits[i]) / total;
    // five standard deviations: a false alarm in about 2 million runs for each token; the seed is fixed besides
    EXPECT_NEAR(count[i] / double{kDraws}, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << i;
  }
}

TEST(Sampler, FiltersKeepTheRightTokens) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  SamplerOptions o = kPlain;
  o.top_k = 2;
  EXPECT_EQ(Seen(o, logits), (std::set<int32_t>{0, 1}));
  o = kPlain;
  o.top_p = 0.7;
  EXPECT_EQ(Seen(o, logits), (std::set<int32_t>{0, 1}));
  o = kPlain;
  o.min_p = 0.2;
  EXPECT_EQ(Seen(o, logits), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(Seen(kPlain, logits).size(), 4U);
}

TEST(Sampler, PenaltiesAndBiasMoveLogits) {
  SamplerOptions o{.repeat_penalty = 2, .temperature = 0};
  Sampler repeat(o);
  const std::vector<float> logits = {3, 2};
  EXPECT_EQ(repeat.Pick(logits), 0);
  EXPECT_EQ(repeat.Pick(logits), 1);  // 3 / 2 < 2
  Sampler presence({.presence_penalty = 1.5, .temperature = 0});
  EXPECT_EQ(presence.Pick(logits), 0);
  EXPECT_EQ(presence.Pick(logits), 1);
  Sampler bias({.temperature = 0, .logit_bias = {{1, 5.0}}});
  EXPECT_EQ(bias.Pick(logits), 1);
}

TEST(Sampler, TheSameSeedGivesTheSameTokens) {
  const std::vector<float> logits = {0.1f, 0.2f, 0.3f, 0.4f};
  Sampler a(kPlain), b(kPlain);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Pick(logits), b.Pick(logits));
}

TEST(Sampler, RefusesBadOptionsAndLogits) {
  const auto refuse = [](const SamplerOptions& o) { EXPECT_THROW(Sampler{o}, Error); };
  refuse({.temperature = -1});
  refuse({.top_p = 0});
  refuse({.min_p = 2});
  refuse({.repeat_penalty = 0});
  refuse({.top_k = -1});
  for (const double bad : {std::nan(""), HUGE_VAL, 1e-50, 1e39}) {  // none of them is a number of f32
    refuse({.repeat_penalty = bad});
    refuse({.presence_penalty = bad});
    refuse({.frequency_penalty = -bad});
    refuse({.top_p = bad});
    refuse({.min_p = bad});
    refuse({.temperature = bad});
    refuse({.logit_bias = {{3, bad}}});
  }
  const SamplerOptions bias{.logit_bias = {{3, 1.0}}};
  bias.CheckIds(4);
  EXPECT_THROW(bias.CheckIds(3), Error);
  Sampler sampler(kPlain);
  EXPECT_THROW(sampler.Pick(std::vector<float>{NAN, 1}), Error);
  EXPECT_THROW(sampler.Pick(std::vector<float>{-INFINITY, -INFINITY}), Error);
}

}  // namespace
}  // namespace hydra
