// SPDX-License-Identifier: Apache-2.0
// Sampler: greedy, each filter by hand, frequencies against probabilities, repeatability, bad options.
#include "hydra/runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/base/testing.h"

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

// The same chain over a list that is sorted whole.
int32_t PickSlowly(const SamplerOptions& o, Rng& rng, const std::vector<int32_t>& recent, std::span<const float> logits,
                   std::span<const uint64_t> allowed) {
  struct One {
    double logit;
    int32_t id;
  };
  std::vector<One> all;
  for (size_t i = 0; i < logits.size(); ++i) all.push_back({logits[i], static_cast<int32_t>(i)});
  for (const auto& [id, bias] : o.logit_bias) all[static_cast<size_t>(id)].logit += bias;
  const size_t from = recent.size() - std::min(recent.size(), static_cast<size_t>(o.repeat_last_n));
  for (const int32_t id : std::set<int32_t>(recent.begin() + static_cast<std::ptrdiff_t>(from), recent.end())) {
    double& logit = all[static_cast<size_t>(id)].logit;
    logit = logit > 0 ? logit / o.repeat_penalty : logit * o.repeat_penalty;
    const auto times = std::count(recent.begin() + static_cast<std::ptrdiff_t>(from), recent.end(), id);
    logit -= o.presence_penalty + static_cast<double>(times) * o.frequency_penalty;
  }
  if (!allowed.empty())
    std::erase_if(all, [&](const One& one) {
      return (allowed[static_cast<size_t>(one.id) / 64] >> (static_cast<size_t>(one.id) % 64) & 1) == 0;
    });
  std::stable_sort(all.begin(), all.end(), [](const One& a, const One& b) { return a.logit > b.logit; });
  if (o.temperature == 0) return all[0].id;
  if (o.top_k > 0 && all.size() > static_cast<size_t>(o.top_k)) all.resize(static_cast<size_t>(o.top_k));
  double total = 0, mass = 0;
  for (const One& one : all) total += std::exp(one.logit - all[0].logit);
  size_t n = 0;
  while (n < all.size() && mass < o.top_p * total) mass += std::exp(all[n++].logit - all[0].logit);
  if (o.top_p < 1) all.resize(std::max<size_t>(n, 1));
  while (o.min_p > 0 && all.size() > 1 && all.back().logit < all[0].logit + std::log(o.min_p)) all.pop_back();
  total = 0;
  for (const One& one : all) total += std::exp((one.logit - all[0].logit) / o.temperature);
  double left = rng.Uniform() * total;
  for (const One& one : all)
    if ((left -= std::exp((one.logit - all[0].logit) / o.temperature)) < 0) return one.id;
  return all.back().id;
}

TEST(Sampler, PicksWhatASortOfAllWouldPick) {
  constexpr size_t kVocab = 300;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Rng rng(seed);
    SamplerOptions o{.temperature = seed % 4 == 0 ? 0.0 : 0.5 + rng.Uniform(), .seed = seed};
    o.top_k = std::vector<int64_t>{0, 1, 5, 40, 1000}[seed % 5];
    if (seed % 3 == 0) o.top_p = 1;
    if (seed % 2 == 0) o.min_p = 0;
    if (seed % 7 < 4) o.repeat_penalty = 1.3, o.presence_penalty = 0.4, o.frequency_penalty = -0.2;
    o.repeat_last_n = 20;
    if (seed % 6 == 1) o.logit_bias = {{3, 4.0}, {7, -50.0}, {3, 1.0}};
    std::vector<uint64_t> allowed;
    if (seed % 5 > 2)
      for (size_t i = 0; i < (kVocab + 63) / 64; ++i) allowed.push_back(rng() | 1);
    Sampler fast(o);
    Rng slow(seed);
    std::vector<int32_t> recent;
    for (int step = 0; step < 60; ++step) {
      std::vector<float> logits(kVocab);
      for (float& logit : logits) logit = static_cast<float>(std::round(40 * rng.Normal()) / 10);  // with ties
      const int32_t want = PickSlowly(o, slow, recent, logits, allowed);
      ASSERT_EQ(fast.Pick(logits, allowed), want) << "seed " << seed << " step " << step;
      recent.push_back(want);
    }
  }
}

TEST(Sampler, NothingButWhatIsAllowedIsPicked) {
  const std::vector<float> logits{5, 4, 3, 2};
  const std::vector<uint64_t> odd{0b1010}, none{0};
  EXPECT_EQ(Sampler({.temperature = 0}).Pick(logits, odd), 1);
  ExpectError([&] { (void)Sampler({.temperature = 0}).Pick(logits, none); }, ErrorCode::kData, {"no logit"});
}

TEST(Logprobs, AreThoseOfTheSoftmax) {
  const std::vector<float> logits{1, 3, 3, -INFINITY, 2, 9};
  const Logprobs given(std::span<const float>(logits).first(5));
  double total = 0;
  for (size_t i = 0; i < 5; ++i) total += std::exp(double{logits[i]});
  EXPECT_NEAR(given.Of(0), 1 - std::log(total), 1e-12);
  EXPECT_EQ(given.Of(3), -INFINITY);
  const std::vector<TokenLogprob> best = given.Best(3, 4);  // id 4 means nothing
  ASSERT_EQ(best.size(), 3U);
  EXPECT_EQ(best[0].id, 1);
  EXPECT_EQ(best[1].id, 2);
  EXPECT_EQ(best[2].id, 0);
  EXPECT_EQ(best[0].logprob, given.Of(1));
  EXPECT_EQ(given.Best(99, 5).size(), 5U);
}

}  // namespace
}  // namespace hydra
