// SPDX-License-Identifier: Apache-2.0
// Speculative decoding: whatever is guessed and however tokens are picked, they are those of plain decoding and so is
// the state; what each drafter guesses; how many guesses the rule allows. How a text is generated is in
// generate_test.cc, speed in bench/.
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

// ---- The same tokens ----

// Guesses what it is told to: the text itself up to a place where it errs, or nonsense.
class ToldDrafter : public Drafter {
 public:
  ToldDrafter(Ids text, int64_t wrong_each) : text_(std::move(text)), wrong_each_(wrong_each) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  int Look(std::span<const int32_t> text) override {
    at_ = text.size();
    return at_ < text_.size() ? 0 : -1;
  }
  std::span<const int32_t> Draft(int n) override {
    draft_.assign(text_.begin() + static_cast<int64_t>(at_),
                  text_.begin() + static_cast<int64_t>(std::min(text_.size(), at_ + static_cast<size_t>(n))));
    for (size_t i = 0; i < draft_.size(); ++i)
      if (static_cast<int64_t>(at_ + i) % wrong_each_ == 0) draft_[i] = (draft_[i] + 1) % 2;
    return draft_;
  }
  [[nodiscard]] int64_t bytes() const override { return 0; }

 private:
  std::string name_ = "told";
  Ids text_, draft_;
  int64_t wrong_each_;
  size_t at_ = 0;
};

struct Decoded {
  Ids text;
  std::vector<std::byte> snapshot;
  SpeculationStats stats;
};

Decoded Decode(const Model& model, const Ids& prompt, size_t n, const SamplerOptions& sampling,
               std::unique_ptr<Drafter> drafter, ThreadPool& pool, int most = 4) {
  SequenceState state(model);
  ForwardScratch scratch;
  Sampler sampler(sampling);
  std::optional<Speculation> speculation;
  if (drafter) speculation.emplace(std::move(drafter), most);
  Decoded out{prompt, {}, {}};
  for (const int32_t id : prompt) sampler.Accept(id);
  auto logits = model.Prefill(state, prompt, pool, scratch);
  {
    DecodeSteps steps(model, state, speculation ? &*speculation : nullptr, pool, scratch);
    for (size_t i = 0; i < n; ++i) {
      out.text.push_back(sampler.Pick(logits));
      if (i + 1 < n) logits = steps.Next(out.text.back());
    }
    steps.End();
  }
  EXPECT_EQ(Ids(state.ids().begin(), state.ids().end()), Ids(out.text.begin(), out.text.end() - 1));
  out.snapshot.resize(static_cast<size_t>(state.SnapshotBytes()));
  state.Snapshot(out.snapshot);
  if (speculation) out.stats = speculation->stats();
  return out;
}

std::vector<SamplerOptions> Samplings() {
  std::vector<SamplerOptions> all(3);
  all[0].temperature = 0;
  all[1].temperature = 1.2, all[1].seed = 5;
  all[2].temperature = 0, all[2].repeat_penalty = 1.3, all[2].frequency_penalty = 0.4, all[2].presence_penalty = 0.2;
  all[2].logit_bias = {{3, 2.0}};
  return all;
}

TEST(DecodeSteps, NoGuessChangesATokenOrTheState) {
  ThreadPool pool(2);
  const size_t tokens = kSanitized ? 24 : 80;
  for (const WeightType type : {WeightType::kQ8_0, WeightType::kF32})
    for (const testing::Case& c : testing::Cases()) {
      if (kSanitized && type == WeightType::kF32) continue;
      SCOPED_TRACE(c.name + " " + std::string(Info(type).name));
      const Model model = BuildModel(RandomSource(c.config, 64, type), {.ctx_size = 512, .act = Activations::kAuto});
      const Model small = BuildModel(RandomSource(testing::Cases()[4].config, 65));
      const Ids prompt = RandomIds(25, c.config.vocab_size, 66);
      for (const SamplerOptions& sampling : Samplings()) {
        const Decoded plain = Decode(model, prompt, tokens, sampling, nullptr, pool);
        ForwardScratch scratch;
        std::vector<std::unique_ptr<Drafter>> drafters;
        drafters.push_back(std::make_unique<NgramDrafter>());
        for (const int64_t wrong_each : {int64_t{1}, int64_t{3}, int64_t{1000000}})
          drafters.push_back(std::make_unique<ToldDrafter>(plain.text, wrong_each));
        drafters.push_back(
            std::make_unique<ModelDrafter>("small", small, Controls(), 4, c.config.vocab_size, pool, scratch));
        if (c.config.wiring == Wiring::kParallel)
          drafters.push_back(std::make_unique<ModelDrafter>("self", model, SelfDraftControls(c.config), 4,
                                                            c.config.vocab_size, pool, scratch));
        for (auto& drafter : drafters) {
          SCOPED_TRACE(drafter->name());
          const Decoded made = Decode(model, prompt, tokens, sampling, std::move(drafter), pool);
          EXPECT_EQ(made.text, plain.text);
          EXPECT_EQ(made.snapshot, plain.snapshot);
          EXPECT_EQ(made.stats.tokens, static_cast<int64_t>(tokens) - 1);
        }
      }
    }
}

TEST(DecodeSteps, RightGuessesSavePasses) {
  ThreadPool pool(2);
  const testing::Case c = testing::Cases()[3];
  const Model model = BuildModel(RandomSource(c.config, 67));
  const Ids prompt = RandomIds(20, c.config.vocab_size, 68);
  constexpr size_t kTokens = 200;
  SamplerOptions greedy;
  greedy.temperature = 0;
  const Decoded plain = Decode(model, prompt, kTokens, greedy, nullptr, pool);
  const Decoded made = Decode(model, prompt, kTokens, greedy, std::make_unique<ToldDrafter>(plain.text, 1000000), pool);
  EXPECT_EQ(made.text, plain.text);
  EXPECT_EQ(made.stats.Right(), made.stats.Guessed());
  EXPECT_LT(made.stats.passes, static_cast<int64_t>(kTokens) - made.stats.Right() + 1);
}

TEST(DecodeSteps, GuessesStayInsideTheContext) {
  ThreadPool pool(1);
  const testing::Case c = testing::Cases()[3];
  const Model model = BuildModel(RandomSource(c.config, 69), {.ctx_size = 64, .act = Activations::kF32});
  const Ids prompt = RandomIds(20, c.config.vocab_size, 70);
  SamplerOptions greedy;
  greedy.temperature = 0;
  const Decoded plain = Decode(model, prompt, 45, greedy, nullptr, pool);  // fills the context
  EXPECT_EQ(Decode(model, prompt, 45, greedy, std::make_unique<ToldDrafter>(plain.text, 1000000), pool).text,
            plain.text);
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
