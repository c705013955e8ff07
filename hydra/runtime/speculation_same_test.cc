// SPDX-License-Identifier: Apache-2.0
// Speculative decoding changes no token and no state, whatever is guessed, however tokens are picked, alone and in
// batches, over every family; sampled tokens keep their distribution. The drafters and the rule are in
// speculation_test.cc.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "hydra/base/testing.h"
#include "hydra/runtime/generate.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/speculation.h"
#include "hydra/runtime/testing.h"
#include "hydra/runtime/testing_tokenizer.h"

namespace hydra {
namespace {

using testing::BuildModel;
using testing::RandomIds;
using testing::RandomSource;
using Ids = std::vector<int32_t>;

constexpr int kMost = 4;  // guesses of a pass

SamplerOptions Greedy() {
  SamplerOptions greedy;
  greedy.temperature = 0;
  return greedy;
}

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
  void Read(std::span<const int32_t>) override {}
  [[nodiscard]] const Rates& expected() const override { return expected_; }
  [[nodiscard]] int64_t bytes() const override { return 0; }

 private:
  const std::string name_ = "told";
  const Rates expected_{0.7};
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
               std::unique_ptr<Drafter> drafter, ThreadPool& pool, bool always = false) {
  SequenceState state(model);
  ForwardScratch scratch;
  Sampler sampler(sampling);
  std::optional<Speculation> speculation;
  if (drafter) speculation.emplace(std::move(drafter), kMost, always);
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
  const size_t tokens = kSanitized ? 24 : 48;
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
        std::optional<Model> part;
        if (c.config.wiring == Wiring::kParallel)
          drafters.push_back(std::make_unique<ModelDrafter>("self", model, SelfDraftControls(c.config), 4,
                                                            c.config.vocab_size, pool, scratch));
        if (SelfDraftsByLayers(c.config)) {
          part.emplace(SelfDraftModel(model, {.tokens = 100}));
          drafters.push_back(std::make_unique<ModelDrafter>("self", *part, Controls(), 4, 100, pool, scratch));
        }
        for (auto& drafter : drafters) {
          SCOPED_TRACE(drafter->name());
          const Decoded made = Decode(model, prompt, tokens, sampling, std::move(drafter), pool, true);
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
  const Decoded made =
      Decode(model, prompt, kTokens, greedy, std::make_unique<ToldDrafter>(plain.text, 1000000), pool, true);
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

// ---- Many prompts, alone and in batches ----

// Blocks of each kind of part, few of them: many prompts are read.
std::vector<testing::Case> SmallCases() {
  std::vector<testing::Case> cases = testing::Cases();
  for (testing::Case& c : cases) {
    if (c.config.wiring == Wiring::kParallel)
      c.config.layers.erase(c.config.layers.begin(), c.config.layers.begin() + 3);
    c.config.vocab_size = 96;
  }
  return cases;
}

// Texts of several sequences that share their passes, each with a drafter of its own.
std::vector<Ids> DecodeBatch(const Model& model, std::span<const Ids> prompts, size_t n,
                             const std::function<std::unique_ptr<Drafter>(ForwardScratch&)>& drafter,
                             ThreadPool& pool) {
  ForwardScratch scratch, of_drafts;
  struct Sequence {
    SequenceState state;
    Sampler sampler{Greedy()};
    Speculation speculation;
    std::unique_ptr<DecodeSteps> steps{};
    Ids text{};
    int32_t picked = 0;
  };
  std::vector<std::unique_ptr<Sequence>> all;
  for (const Ids& prompt : prompts) {
    all.push_back(std::unique_ptr<Sequence>(
        new Sequence{.state = SequenceState(model), .speculation = Speculation(drafter(of_drafts), kMost, true)}));
    Sequence& one = *all.back();
    one.steps = std::make_unique<DecodeSteps>(model, one.state, &one.speculation, pool, scratch);
    one.text = prompt;
    one.text.push_back(one.picked = one.sampler.Pick(model.Prefill(one.state, prompt, pool, scratch)));
  }
  const size_t whole = prompts[0].size() + n;
  for (;;) {
    std::vector<DecodeSteps*> asking;
    Ids picked;
    for (const auto& one : all) {
      if (one->text.size() == whole) continue;
      asking.push_back(one->steps.get());
      picked.push_back(one->picked);
    }
    if (asking.empty()) break;
    DecodeSteps::Pass(asking, picked);
    for (const auto& one : all) {
      if (one->text.size() == whole) continue;
      do one->text.push_back(one->picked = one->sampler.Pick(one->steps->logits()));
      while (one->text.size() < whole && one->steps->Knows(one->picked));
    }
  }
  std::vector<Ids> texts;
  for (const auto& one : all) {
    one->steps->End();
    EXPECT_EQ(one->state.pos(), static_cast<int64_t>(whole) - 1);
    texts.push_back(one->text);
  }
  return texts;
}

// Pieces of prompts through the passes of texts that are being written: neither notices.
TEST(DecodeSteps, PromptsInTheSamePassesChangeNoBitOfAText) {
  ThreadPool pool(2);
  for (const WeightType type : {WeightType::kF32, WeightType::kQ8_0})
    for (const testing::Case& c : SmallCases()) {
      SCOPED_TRACE(c.name + " " + std::string(Info(type).name));
      const Model model = BuildModel(RandomSource(c.config, 81, type), {.ctx_size = 512});
      const Ids prompt = RandomIds(20, c.config.vocab_size, 82), other = RandomIds(200, c.config.vocab_size, 83);
      const Decoded alone = Decode(model, prompt, 30, Greedy(), nullptr, pool);
      SequenceState state(model), reads(model), reads_alone(model);
      ForwardScratch scratch, own;
      Sampler sampler(Greedy());
      Ids text = prompt;
      text.push_back(sampler.Pick(model.Prefill(state, prompt, pool, scratch)));
      Speculation speculation(std::make_unique<ToldDrafter>(alone.text, 3), kMost, true);
      DecodeSteps steps(model, state, &speculation, pool, scratch);
      DecodeSteps* const self = &steps;
      for (size_t at = 0; text.size() < alone.text.size();) {
        const auto piece = std::span(other).subspan(at, std::min<size_t>(40, other.size() - at));
        const Segment prompts{&reads, piece, LogitsOf::kLast}, same{&reads_alone, piece, LogitsOf::kLast};
        const size_t n = piece.empty() ? 0 : 1;
        const auto behind = DecodeSteps::Pass({&self, 1}, {&text.back(), 1}, {&prompts, n});
        EXPECT_EQ(behind.size(), n * static_cast<size_t>(c.config.vocab_size));
        if (n > 0) {
          EXPECT_LT(testing::Difference(behind, model.Forward({&same, 1}, pool, own)), testing::kTolF32);
        }
        at += piece.size();
        do text.push_back(sampler.Pick(steps.logits()));
        while (text.size() < alone.text.size() && steps.Knows(text.back()));
      }
      steps.End();
      EXPECT_EQ(text, alone.text);
      EXPECT_EQ(reads.pos(), 200);
      EXPECT_GT(speculation.stats().Guessed(), 0);  // once no prompt was along
    }
}

TEST(DecodeSteps, SixtyFourPromptsAloneAndInBatches) {
  ThreadPool pool(2);
  constexpr size_t kPrompts = kSanitized ? 4 : 64, kBatch = 4, kTokens = 12;
  for (const WeightType type : {WeightType::kF32, WeightType::kQ8_0})
    for (const testing::Case& c : SmallCases()) {
      if (kSanitized && type == WeightType::kF32) continue;
      SCOPED_TRACE(c.name + " " + std::string(Info(type).name));
      const Model model = BuildModel(RandomSource(c.config, 71, type), {.ctx_size = 64});
      ModelConfig smaller = testing::Cases()[4].config;
      smaller.layers.resize(1);
      smaller.vocab_size = c.config.vocab_size;
      const Model small = BuildModel(RandomSource(smaller, 72));
      std::vector<Ids> prompts;
      std::vector<Ids> plain;
      for (size_t i = 0; i < kPrompts; ++i) {
        // Of few tokens, so that a text repeats itself and is guessed.
        prompts.push_back(RandomIds(12, i % 2 == 0 ? 3 : c.config.vocab_size, 73 + i));
        plain.push_back(Decode(model, prompts.back(), kTokens, Greedy(), nullptr, pool).text);
      }
      using Make = std::function<std::unique_ptr<Drafter>(ForwardScratch&)>;
      const auto by_model = [&](const Model& guesses, const Controls& controls) -> Make {
        return [&, controls](ForwardScratch& scratch) {
          return std::make_unique<ModelDrafter>("model", guesses, controls, kMost, c.config.vocab_size, pool, scratch);
        };
      };
      std::vector<std::pair<std::string, Make>> drafters;
      drafters.emplace_back("ngram", [](ForwardScratch&) { return std::make_unique<NgramDrafter>(); });
      drafters.emplace_back("model", by_model(small, {}));
      if (c.config.wiring == Wiring::kParallel)
        drafters.emplace_back("self", by_model(model, SelfDraftControls(c.config)));
      for (const auto& [name, make] : drafters) {
        SCOPED_TRACE(name);
        for (size_t i = 0; i < kPrompts; i += kBatch) {
          const auto texts = DecodeBatch(model, std::span(prompts).subspan(i, kBatch), kTokens, make, pool);
          for (size_t j = 0; j < kBatch; ++j) {
            ForwardScratch scratch;
            const Ids& prompt = prompts[i + j];
            EXPECT_EQ(Decode(model, prompt, kTokens, Greedy(), make(scratch), pool, true).text, plain[i + j]);
            EXPECT_EQ(texts[j], plain[i + j]) << "prompt " << i + j;
          }
        }
      }
    }
}

// ---- Texts ----

// Ends, stop strings, biases and the edge of the context, seen in the middle of guesses.
TEST(Generate, EndsWhereItEndsWithoutGuesses) {
  for (const bool hydra : {false, true}) {
    ModelConfig config = hydra ? HydraNano() : TransformerNano();
    if (!hydra) config.layers.resize(2);
    config.vocab_size = 320;
    const Model model = BuildModel(RandomSource(config, 75), {.ctx_size = 128});
    const Tokenizer tokenizer = testing::ByteTokenizer();
    ThreadPool pool(2);
    ForwardScratch scratch;
    const Generator generator{model, tokenizer, pool, scratch};
    const Ids prompt = RandomIds(30, 256, 76);
    const auto write = [&](const SamplerOptions& sampling, GenerateOptions options, Speculation* speculation,
                           SequenceState& state) {
      Sampler sampler(sampling);
      options.speculation = speculation;
      GenerateResult first = generator.Generate(state, sampler, prompt, options, {});
      if (first.reason == FinishReason::kContext) return first;
      options.continues = true;
      const GenerateResult more = generator.Generate(state, sampler, {}, options, {});  // goes on behind the guesses
      first.ids.insert(first.ids.end(), more.ids.begin(), more.ids.end());
      first.text += more.text;
      return first;
    };
    SequenceState state(model);
    const GenerateResult whole = write(Greedy(), {.max_tokens = 40}, nullptr, state);
    std::vector<std::pair<SamplerOptions, GenerateOptions>> wishes;
    wishes.push_back({Greedy(), {.max_tokens = 40}});
    if (!hydra) wishes.push_back({Greedy(), {.max_tokens = -1}});  // to the end of the context
    wishes.push_back({Greedy(), {.max_tokens = 40, .end_ids = {whole.ids[17]}}});
    wishes.push_back({Greedy(), {.max_tokens = 40, .stops = {whole.text.substr(whole.text.size() / 3, 3)}}});
    wishes.push_back({{.temperature = 1.1, .seed = 77, .logit_bias = {{65, 4.0}, {66, -3.0}}}, {.max_tokens = 40}});
    wishes.push_back({{.repeat_penalty = 1.4, .presence_penalty = .5, .temperature = 0}, {.max_tokens = 40}});
    for (size_t i = 0; i < wishes.size(); ++i) {
      SCOPED_TRACE(StrCat(config.n_layers(), " layers, wish ", i));
      const auto& [sampling, options] = wishes[i];
      SequenceState plain(model), guessed(model);
      const GenerateResult want = write(sampling, options, nullptr, plain);
      Ids text = prompt;
      text.insert(text.end(), want.ids.begin(), want.ids.end());
      text.resize(text.size() + kMost, 65);
      Speculation speculation(std::make_unique<ToldDrafter>(text, 7), kMost, true);
      const GenerateResult got = write(sampling, options, &speculation, guessed);
      EXPECT_EQ(got.ids, want.ids);
      EXPECT_EQ(got.text, want.text);
      EXPECT_EQ(got.reason, want.reason);
      EXPECT_TRUE(std::ranges::equal(guessed.pending(), plain.pending()));
      EXPECT_TRUE(std::ranges::equal(guessed.ids(), plain.ids()));
      EXPECT_GT(speculation.stats().Right(), 0);
    }
  }
}

// ---- Distribution ----

// Behind a prompt, softmax of the logits at temperature 1.
std::vector<double> Probabilities(std::span<const float> logits) {
  std::vector<double> p;
  const double most = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += p.emplace_back(std::exp(logit - most));
  for (double& one : p) one /= sum;
  return p;
}

// P(X >= x) < 0.001 for chi-squared with k degrees of freedom, by the cube root of Wilson and Hilferty.
bool IsUnlikely(double x, double k) {
  constexpr double kNormal999 = 3.0902;
  return std::cbrt(x / k) > 1 - 2 / (9 * k) + kNormal999 * std::sqrt(2 / (9 * k));
}

// Three tokens, the second and third of which were guessed: their joint distribution is the product of the softmaxes.
TEST(DecodeSteps, SampledTokensKeepTheirDistribution) {
  ModelConfig config = TransformerNano();
  config.layers.resize(1);
  config.vocab_size = 6;
  config.d_model = 32;
  config.attention.n_heads = config.attention.n_kv_heads = 2;
  config.attention.head_dim = 16;
  config.d_ff = 32;
  const Model model = BuildModel(RandomSource(config, 80), {.ctx_size = 16});
  ThreadPool pool(1);
  ForwardScratch scratch;
  const auto V = static_cast<size_t>(config.vocab_size);
  const Ids prompt{1, 4, 2};
  std::vector<double> want;  // [V, V, V]
  SequenceState read(model);
  const auto first_logits = model.Prefill(read, prompt, pool, scratch);
  const std::vector<float> behind_prompt(first_logits.begin(), first_logits.end());
  const auto p1 = Probabilities(behind_prompt);
  for (size_t a = 0; a < V; ++a) {
    SequenceState one = read.Fork();
    const auto p2 = Probabilities(model.Step(one, static_cast<int32_t>(a), pool, scratch));
    for (size_t b = 0; b < V; ++b) {
      SequenceState two = one.Fork();
      for (const double p3 : Probabilities(model.Step(two, static_cast<int32_t>(b), pool, scratch)))
        want.push_back(p1[a] * p2[b] * p3);
    }
  }
  constexpr int64_t kDraws = kSanitized ? 2000 : 200'000;
  std::vector<int64_t> seen(want.size());
  Ids guess = prompt;
  guess.insert(guess.end(), {0, 3, 5});
  guess[3] = static_cast<int32_t>(std::ranges::max_element(p1) - p1.begin());
  Speculation speculation(std::make_unique<ToldDrafter>(guess, 1'000'000), 2, true);
  for (int64_t draw = 0; draw < kDraws; ++draw) {
    SequenceState state = read.Fork();
    DecodeSteps steps(model, state, &speculation, pool, scratch);
    Sampler sampler({.top_k = 0, .top_p = 1, .min_p = 0, .temperature = 1, .seed = static_cast<uint64_t>(draw)});
    const int32_t a = sampler.Pick(behind_prompt), b = sampler.Pick(steps.Next(a)), c = sampler.Pick(steps.Next(b));
    ++seen[(static_cast<size_t>(a) * V + static_cast<size_t>(b)) * V + static_cast<size_t>(c)];
  }
  EXPECT_GT(speculation.stats().Right(), kDraws / 50);
  EXPECT_GT(speculation.stats().Guessed() - speculation.stats().Right(), kDraws / 50);
  // Cells too rare for the approximation count as one.
  double x = 0, rare = 0;
  int64_t rare_seen = 0, cells = 0;
  const auto add = [&](int64_t count, double expected) {
    x += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected) / expected;
    ++cells;
  };
  for (size_t i = 0; i < want.size(); ++i) {
    const double expected = want[i] * static_cast<double>(kDraws);
    if (expected >= 5)
      add(seen[i], expected);
    else
      rare += expected, rare_seen += seen[i];
  }
  if (rare >= 5) add(rare_seen, rare);
  EXPECT_GT(cells, 30);
  EXPECT_FALSE(IsUnlikely(x, static_cast<double>(cells - 1))) << "chi-squared " << x << " over " << cells << " cells";
}

}  // namespace
}  // namespace hydra
