// SPDX-License-Identifier: Apache-2.0
// What each drafter guesses, and how many guesses the rule allows. That guesses change no token is in
// speculation_same_test.cc, speed in bench/.
#include "hydra/runtime/speculation.h"

#include <algorithm>

#include "hydra/base/testing.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::BuildModel;
using testing::RandomIds;
using testing::RandomSource;

// ---- Drafters ----

std::vector<int32_t> Guesses(Drafter& drafter, const std::vector<int32_t>& text, int n) {
  if (drafter.Look(text) < 0) return {};
  const auto made = drafter.Draft(n);
  return {made.begin(), made.end()};
}

using Ids = std::vector<int32_t>;

TEST(NgramDrafter, GoesOnAsTheTextDidBefore) {
  NgramDrafter drafter;
  EXPECT_EQ(Guesses(drafter, {}, 4), Ids());
  EXPECT_EQ(Guesses(drafter, {1, 2}, 4), Ids());
  EXPECT_EQ(Guesses(drafter, {1, 2, 3, 1, 2}, 4), (Ids{3, 1, 2}));
  EXPECT_EQ(Guesses(drafter, {1, 2, 3, 1, 2}, 1), (Ids{3}));
  EXPECT_EQ(Guesses(drafter, {1, 2, 3, 1, 2, 4}, 4), Ids());  // 2 4 is new
  // Three tokens say more than two, and a later place more than an earlier one.
  EXPECT_EQ(Guesses(drafter, {5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2}, 2), (Ids{7, 6}));
  EXPECT_EQ(Guesses(drafter, {5, 1, 2, 7, 6, 1, 2, 8, 9, 1, 2}, 2), (Ids{8, 9}));
}

TEST(NgramDrafter, KindsAreLengthsOfWhatRepeats) {
  NgramDrafter drafter;
  const auto kind = [&](int same) {  // a text whose last `same` tokens stood there before
    Ids text{100};
    for (int i = 0; i < same; ++i) text.push_back(i);
    text.insert(text.end(), {101, 102});
    for (int i = 0; i < same; ++i) text.push_back(i);
    return drafter.Look(text);
  };
  EXPECT_EQ(kind(1), -1);
  EXPECT_EQ(kind(2), 0);
  EXPECT_EQ(kind(3), 1);
  EXPECT_EQ(kind(4), 2);
  EXPECT_EQ(kind(7), 2);
  EXPECT_EQ(kind(8), 3);
  EXPECT_EQ(kind(30), 3);
}

TEST(NgramDrafter, AnotherTextIsAnother) {
  NgramDrafter drafter;
  EXPECT_EQ(Guesses(drafter, {1, 2, 3, 1, 2}, 1), (Ids{3}));
  EXPECT_EQ(Guesses(drafter, {1, 2, 4, 1, 2}, 1), (Ids{4}));
  EXPECT_EQ(Guesses(drafter, {1, 2}, 1), Ids());
  EXPECT_GT(drafter.bytes(), 0);
}

// A model drafter over a text must guess what the model itself says, however much of the text was new and whichever of
// its guesses came true.
TEST(ModelDrafter, GuessesAreTheModelsOwn) {
  ThreadPool pool(2);
  for (const testing::Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    const Model model = BuildModel(RandomSource(c.config, 61));
    ForwardScratch scratch, other;
    ModelDrafter drafter("itself", model, {}, 4, c.config.vocab_size, pool, scratch);
    Ids text = RandomIds(40, c.config.vocab_size, 62);
    for (int round = 0; round < 6; ++round) {
      SequenceState state(model);
      const auto best = [&](std::span<const float> logits) {
        return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
      };
      Ids want{best(model.Prefill(state, text, pool, other))};
      while (want.size() < 4) want.push_back(best(model.Step(state, want.back(), pool, other)));
      ASSERT_EQ(Guesses(drafter, text, 4), want) << "round " << round;
      const int right = round % 5;  // so many come true, then another token, and sometimes many
      text.insert(text.end(), want.begin(), want.begin() + right);
      const Ids more = RandomIds(round == 3 ? 30 : 1, c.config.vocab_size, 63 + static_cast<uint64_t>(round));
      text.insert(text.end(), more.begin(), more.end());
    }
  }
}

TEST(SelfDraft, IsForModelsWithAPathBesideTheSsm) {
  const auto cases = testing::Cases();
  EXPECT_EQ(SelfDraftControls(cases[0].config).path_scale, (std::array<double, 3>{1, 0, 0}));
  ExpectError([&] { (void)SelfDraftControls(cases[3].config); }, ErrorCode::kUsage, {"--spec self", "no path"});
  ExpectError([&] { (void)SelfDraftControls(cases[4].config); }, ErrorCode::kUsage, {"--spec self"});
}

// ---- The rule ----

// Decodes with passes of known cost and guesses that are right with a known probability.
struct Simulated {
  double seconds = 0, plain_seconds = 0;
  int64_t guessed = 0, tokens = 0;
};
Simulated Simulate(double right, double slope, double draft, int64_t tokens, uint64_t seed) {
  Rng rng(seed);
  SpeculationRule rule(4);
  Simulated out;
  while (out.tokens < tokens) {
    const int n = rule.On() ? rule.Choose(0) : 0;
    const double pass = 1 + slope * n, draft_seconds = n * draft;
    if (n == 0) {
      rule.Plain(pass, 0);
      ++out.tokens;
    } else {
      int m = 0;
      while (m < n && rng.Uniform() < right) ++m;
      rule.Tried(0, n, std::min(n, m + 1), m, pass, draft_seconds);
      out.tokens += m + 1;
      out.guessed += n;
    }
    out.seconds += pass + draft_seconds;
  }
  out.plain_seconds = static_cast<double>(out.tokens);
  return out;
}

TEST(SpeculationRule, LosesLittleWhereNoGuessIsRight) {
  for (const int64_t tokens : {50, 200, 2000}) {
    const Simulated made = Simulate(0, 0.1, 0.2, tokens, 1);
    EXPECT_LE(made.seconds, 1.03 * made.plain_seconds + 1) << tokens;  // and one try of a length not measured yet
    EXPECT_GT(made.guessed, 0);
  }
}

TEST(SpeculationRule, TakesLongGuessesWhereTheyAreRight) {
  const Simulated made = Simulate(0.95, 0.1, 0, 2000, 2);
  EXPECT_LT(made.seconds, 0.4 * made.plain_seconds);
  const Simulated costly = Simulate(0.6, 0.1, 0.9, 2000, 3);  // a drafter as slow as the model: no gain, little loss
  EXPECT_LT(costly.seconds, 1.03 * costly.plain_seconds + 1);
}

TEST(SpeculationRule, GainsOnHalfRightGuesses) {
  const Simulated made = Simulate(0.5, 0.1, 0.02, 5000, 4);
  EXPECT_LT(made.seconds, 0.75 * made.plain_seconds);
}

TEST(SpeculationRule, BeginsWithPlainSteps) {
  SpeculationRule rule(4);
  EXPECT_FALSE(rule.On());
  rule.Plain(1, 0);
  EXPECT_FALSE(rule.On());
  rule.Plain(1, 0);
  EXPECT_TRUE(rule.On());
  EXPECT_GT(rule.Choose(0), 0);
}

TEST(SpeculationRule, APlainStepComesBackNowAndThen) {
  SpeculationRule rule(4);
  for (int i = 0; i < 2; ++i) rule.Plain(1, 0);
  int passes = 0;
  for (; rule.On() && passes < 1000; ++passes) rule.Tried(0, 4, 4, 4, 1.2, 0);
  EXPECT_EQ(passes, 64);
  rule.Plain(1, 0);
  EXPECT_TRUE(rule.On());
}

}  // namespace
}  // namespace hydra
