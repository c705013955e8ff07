// SPDX-License-Identifier: Apache-2.0
// What each drafter guesses, and how many guesses the rule allows. That guesses change no token is in
// speculation_same_test.cc, speed in bench/.
#include "hydra/runtime/speculation.h"

#include <algorithm>
#include <cmath>

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
  EXPECT_EQ(Guesses(drafter, {1, 2, 3, 1, 2}, 4), (Ids{3, 1, 2, 3}));  // what repeats is shorter than the guess
  EXPECT_EQ(Guesses(drafter, {9, 7, 7, 7}, 4), (Ids{7, 7, 7, 7}));
  EXPECT_EQ(Guesses(drafter, {1, 2, 3, 1, 2}, 1), (Ids{3}));
  EXPECT_EQ(Guesses(drafter, {1, 2, 3, 1, 2, 4}, 4), Ids());  // 2 4 is new, and so is 4
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

TEST(NgramDrafter, FindsTheWayBackIntoACopy) {
  const Ids source{1, 2, 3, 4, 5, 6, 7, 8};
  const auto guess = [&](const Ids& copy) {  // the copy as it comes, token by token
    NgramDrafter drafter;
    Ids text = source, guesses;
    text.push_back(100);
    for (const int32_t id : copy) {
      text.push_back(id);
      guesses = Guesses(drafter, text, 2);
    }
    return guesses;
  };
  EXPECT_EQ(guess({1, 2, 50}), Ids());
  EXPECT_EQ(guess({1, 2, 50, 4}), (Ids{5, 6}));                        // a token changed
  EXPECT_EQ(guess({1, 2, 50, 3}), (Ids{4, 5}));                        // put in
  EXPECT_EQ(guess({1, 2, 4}), (Ids{5, 6}));                            // left out
  EXPECT_EQ(guess({1, 2, 50, 51, 52, 53, 54, 55, 56, 57, 3}), Ids());  // too long ago
  EXPECT_EQ(guess({1, 50, 3}), Ids());                                 // nothing was copied before
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

// Attention alone, of all layers or of some, with the first rows of the head: what a model says whose config has no
// experts and whose blocks are those layers.
TEST(SelfDraft, OfBlockFfnIsTheModelWithoutExperts) {
  ThreadPool pool(2);
  for (const bool latent : {false, true})
    for (const WeightType type : {WeightType::kF32, WeightType::kQ8_0}) {
      ModelConfig config = testing::SmallBlockFfn(latent);
      config.layers.resize(4, LayerConfig(config.layers[0]));
      const WeightSource source = RandomSource(config, 67, type);
      const Model model = BuildModel(source);
      EXPECT_TRUE(SelfDraftsByLayers(config));
      for (const std::vector<int64_t>& layers : std::vector<std::vector<int64_t>>{{}, {1, 3}}) {
        const Model draft = SelfDraftModel(model, {.layers = layers, .tokens = 40});
        ModelConfig bare = config;
        bare.layers.resize(layers.empty() ? 4 : 2);
        for (LayerConfig& layer : bare.layers) layer.ffn = FfnKind::kNone;
        bare.scale_depth = config.residual_scale() * std::sqrt(static_cast<double>(bare.layers.size()));
        WeightSource part = source;
        part.config = bare;
        part.tensor = [&source, &config, layers](const TensorSpec& spec) {
          const TensorTable table(config);
          const int layer =
              spec.layer < 0 || layers.empty() ? spec.layer : static_cast<int>(layers[static_cast<size_t>(spec.layer)]);
          return source.tensor(*table.Find(spec.role, layer));
        };
        const Model want_model = BuildModel(part);
        SequenceState got_state(draft), want_state(want_model);
        ForwardScratch scratch;
        const Ids ids = RandomIds(30, config.vocab_size, 68);
        const auto got_logits = draft.Prefill(got_state, ids, pool, scratch);
        ASSERT_EQ(got_logits.size(), 40U);
        const std::vector<float> got(got_logits.begin(), got_logits.end());
        const auto want = want_model.Prefill(want_state, ids, pool, scratch);
        testing::ExpectSameBits(got, want.first(40));
      }
    }
  const Model model = BuildModel(RandomSource(testing::SmallBlockFfn(true), 67));
  ExpectError([&] { (void)SelfDraftModel(model, {.layers = {2}}); }, ErrorCode::kUsage, {"layer 2", "0 to 1"});
  ExpectError([&] { (void)SelfDraftModel(model, {.layers = {1, 0}}); }, ErrorCode::kUsage, {"layer 0", "ascend"});
  EXPECT_FALSE(SelfDraftsByLayers(testing::Cases()[3].config));
}

// ---- The rule ----

// How often guesses of each kind are right, as a drafter says.
constexpr Drafter::Rates kExpected{0.5, 0.5, 0.5, 0.5};

// Decodes with passes of known cost and guesses that are right with a known probability. Times vary by `noise`.
struct Simulated {
  double seconds = 0, plain_seconds = 0;
  int64_t guessed = 0, tokens = 0;
};
struct Simulation {
  double right, slope, draft;  // the times are those of plain steps, for a guess
  int64_t tokens;
  double noise = 0;
};
Simulated Simulate(const Simulation& sim, uint64_t seed) {
  Rng rng(seed);
  SpeculationRule rule(4, kExpected);
  Simulated out;
  const auto noisy = [&](double seconds) { return seconds * (1 + sim.noise * (2 * rng.Uniform() - 1)); };
  while (out.tokens < sim.tokens) {
    const int n = rule.On() ? rule.Choose(0) : 0;
    const double pass = noisy(1 + sim.slope * n), draft = noisy(n * sim.draft);
    if (n == 0) {
      rule.Plain(pass, 0);
      ++out.tokens;
    } else {
      int m = 0;
      while (m < n && rng.Uniform() < sim.right) ++m;
      rule.Tried(0, n, std::min(n, m + 1), m, pass, draft);
      out.tokens += m + 1;
      out.guessed += n;
    }
    out.seconds += pass + draft;
  }
  out.plain_seconds = static_cast<double>(out.tokens);
  return out;
}

// The ledger's promise: 1% and half a step, and what the first try of a length costs beyond what was thought of it.
TEST(SpeculationRule, LosesLittleWhereNoGuessIsRight) {
  for (const int64_t tokens : {20, 50, 128, 500, 2000})
    for (const double slope : {0.02, 0.1, 0.3})
      for (const double draft : {0.0, 0.1, 0.4}) {
        const Simulated made = Simulate({0, slope, draft, tokens}, 1);
        const double first = 4 * (std::max(slope - 0.08, 0.0) + draft);
        EXPECT_LE(made.seconds, 1.01 * made.plain_seconds + 0.5 + first) << tokens << " " << slope << " " << draft;
        EXPECT_GT(made.guessed, 0);
      }
}

TEST(SpeculationRule, TriesWhatFailedLessAndLess) {
  const int64_t few = Simulate({0, 0.1, 0, 1000}, 1).guessed, many = Simulate({0, 0.1, 0, 20'000}, 1).guessed;
  EXPECT_LT(many, few + 30);  // once in 1,024 tokens
  EXPECT_GT(many, few + 5);
}

TEST(SpeculationRule, LeavesADrafterThatCannotPay) {
  // Each guess takes as long as a step: no share of right ones makes up for it.
  EXPECT_LT(Simulate({0.9, 0.1, 1.0, 20'000}, 1).guessed, 20);
  EXPECT_GT(Simulate({0.9, 0.1, 0.5, 20'000}, 1).guessed, 5'000);
  // What a guess is expected to take holds until it was timed.
  SpeculationRule rule(4, kExpected);
  for (int i = 0; i < 3; ++i) rule.Plain(1, 0);
  EXPECT_EQ(rule.Choose(1), 3);
  EXPECT_EQ(rule.Choose(1, 0.9), 0);  // it has fallen behind, and would need most of a step to read on
  rule.ExpectDraft(0.9);              // steps
  EXPECT_EQ(rule.Choose(1), 0);
}

TEST(SpeculationRule, NoiseOfTheMachineCostsLittle) {
  double guessed = 0, plain = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const Simulated made = Simulate({0, 0.1, 0.1, 128, 0.2}, seed);
    guessed += made.seconds, plain += made.plain_seconds;
  }
  EXPECT_LE(guessed, 1.03 * plain);
}

TEST(SpeculationRule, TakesLongGuessesWhereTheyAreRight) {
  const Simulated made = Simulate({0.95, 0.1, 0, 2000}, 2);
  EXPECT_LT(made.seconds, 0.4 * made.plain_seconds);
  // A drafter as slow as the model: no gain, little loss.
  const Simulated costly = Simulate({0.6, 0.1, 0.9, 2000}, 3);
  EXPECT_LT(costly.seconds, 1.02 * costly.plain_seconds + 4);
}

TEST(SpeculationRule, GainsOnHalfRightGuesses) {
  const Simulated made = Simulate({0.5, 0.1, 0.02, 5000}, 4);
  EXPECT_LT(made.seconds, 0.75 * made.plain_seconds);
}

TEST(SpeculationRule, BeginsWithPlainSteps) {
  SpeculationRule rule(4, kExpected);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(rule.On());
    rule.Plain(1, 0);
  }
  EXPECT_TRUE(rule.On());
  EXPECT_GT(rule.Choose(0), 0);
}

TEST(SpeculationRule, KindsAreJudgedApart) {
  SpeculationRule rule(4, {0.3, 0.3, 0.3, 0.9});
  for (int i = 0; i < 3; ++i) rule.Plain(1, 0);
  EXPECT_GT(rule.Choose(3), rule.Choose(0));
  for (int i = 0; i < 40; ++i) {
    rule.Plain(1, 0);
    rule.Tried(0, 1, 1, 0, 1.05, 0);
    rule.Tried(3, 4, 4, 4, 1.3, 0);
  }
  EXPECT_EQ(rule.Choose(0), 0);
  EXPECT_EQ(rule.Choose(3), 4);
}

// One pass that took a hundred times as long says nothing of the next.
TEST(SpeculationRule, ABusyMomentIsForgotten) {
  SpeculationRule rule(4, kExpected);
  for (int i = 0; i < 20; ++i) {
    rule.Plain(1, 0);
    rule.Tried(0, 4, 4, 4, i == 5 ? 100 : 1.3, 0);
  }
  rule.Plain(100, 0);
  EXPECT_EQ(rule.Choose(0), 4);
}

TEST(SpeculationRule, APlainStepComesBackNowAndThen) {
  SpeculationRule rule(4, kExpected);
  for (int i = 0; i < 3; ++i) rule.Plain(1, 0);
  int passes = 0;
  for (; rule.On() && passes < 1000; ++passes) rule.Tried(0, 4, 4, 4, 1.2, 0);
  EXPECT_EQ(passes, 64);
  rule.Plain(1, 0);
  EXPECT_TRUE(rule.On());
}

}  // namespace
}  // namespace hydra
