// SPDX-License-Identifier: Apache-2.0
// The engine over every family: many texts at once are those that each would be alone, with and without cache, guesses
// and cancelled neighbours; what fails ends one text. Not here: the cache alone (prefix_cache_test.cc), HTTP.
#include "hydra/serve/engine.h"

#include <atomic>
#include <chrono>
#include <limits>
#include <span>
#include <stdexcept>
#include <thread>

#include "hydra/base/testing.h"
#include "hydra/runtime/drafter.h"
#include "hydra/serve/testing.h"
#include "hydra/serve/text_forms.h"
#include "hydra/text/json_schema.h"

namespace hydra::serve {
namespace {

using testing::Collect;
using testing::ExpectSameText;
using testing::Greedy;
using testing::Kit;
using testing::Plain;
using testing::RandomPrompt;
using testing::Result;
using testing::WritePlainly;

std::vector<TextRequest> One(TextRequest request) {
  std::vector<TextRequest> texts;
  texts.push_back(std::move(request));
  return texts;
}

// Guesses the text that it was given, and each third token wrong.
class Oracle : public Drafter {
 public:
  explicit Oracle(std::vector<int32_t> text) : text_(std::move(text)) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  int Look(std::span<const int32_t> text) override {
    at_ = text.size();
    return at_ < text_.size() ? 0 : -1;
  }
  void Read(std::span<const int32_t>) override {}
  [[nodiscard]] const Rates& expected() const override { return expected_; }
  std::span<const int32_t> Draft(int n) override {
    draft_.clear();
    for (size_t i = at_; i < text_.size() && draft_.size() < static_cast<size_t>(n); ++i)
      draft_.push_back(i % 3 == 0 ? text_[i] ^ 1 : text_[i]);
    return draft_;
  }
  [[nodiscard]] int64_t bytes() const override { return 0; }

 private:
  const std::string name_ = "oracle";
  const Rates expected_{0.9, 0.9, 0.9, 0.9};
  std::vector<int32_t> text_, draft_;
  size_t at_ = 0;
};

// Makes such guesses for every text.
std::function<std::unique_ptr<Speculation>(ForwardScratch&)> Guesses(std::vector<int32_t> text) {
  return [text = std::move(text)](ForwardScratch&) {
    return std::make_unique<Speculation>(std::make_unique<Oracle>(text), 4, true);
  };
}

std::vector<int32_t> Joined(std::vector<int32_t> prompt, std::span<const int32_t> text) {
  prompt.insert(prompt.end(), text.begin(), text.end());
  return prompt;
}

// Prompts of many lengths: within a piece, over several, at borders.
const std::vector<int64_t> kLengths{1, 2, 7, 31, 32, 33, 64, 130, 300, 700};

TEST(Engine, ManyTextsAtOnceAreThoseThatEachWouldBeAlone) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    std::vector<Plain> alone;
    for (size_t i = 0; i < kLengths.size(); ++i)
      alone.push_back(WritePlainly(kit, RandomPrompt(kLengths[i], 100 + i), 24, {.temperature = 0}));
    for (const int slots : {1, 3, 8}) {
      SCOPED_TRACE(StrCat(slots, " slots"));
      const auto engine = kit.Start({.slots = slots, .cache_bytes = 0});
      std::vector<std::shared_ptr<Job>> jobs;
      for (size_t i = 0; i < kLengths.size(); ++i)
        jobs.push_back(engine->Submit(One(Greedy(RandomPrompt(kLengths[i], 100 + i), 24))));
      for (size_t i = 0; i < jobs.size(); ++i) {
        const Result result = std::move(Collect(*jobs[i])[0]);
        ExpectSameText(result.ids, alone[i]);
        ASSERT_TRUE(result.end);
        EXPECT_EQ(result.end->reason, FinishReason::kLength);
        EXPECT_EQ(result.end->prompt_tokens, kLengths[i]);
        EXPECT_EQ(result.end->cached_tokens, 0);
        EXPECT_EQ(result.end->new_tokens, 24);
      }
    }
  }
}

TEST(Engine, SampledTextsFollowTheirSeedWhateverRunsBesides) {
  Kit kit(testing::Families()[0].config);
  const SamplerOptions sampling{.repeat_penalty = 1.1, .temperature = 1, .seed = 5};
  const std::vector<int32_t> prompt = RandomPrompt(40, 8);
  const Plain alone = WritePlainly(kit, prompt, 30, sampling);
  const auto engine = kit.Start({.slots = 4});
  std::vector<std::shared_ptr<Job>> jobs;
  for (uint64_t i = 0; i < 6; ++i) {
    TextRequest request = Greedy(i == 3 ? prompt : RandomPrompt(50, 60 + i), 30);
    request.sampling = sampling;
    if (i != 3) request.sampling.seed = 1000 + i;
    jobs.push_back(engine->Submit(One(std::move(request))));
  }
  EXPECT_EQ(Collect(*jobs[3])[0].ids, alone.ids);
}

TEST(Engine, TheSecondTurnReadsWhatIsNewAndOneIntervalAtMost) {
  constexpr int64_t kInterval = 64;
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    const auto engine = kit.Start({.slots = 2, .snapshot_every = kInterval});
    const std::vector<int32_t> first = RandomPrompt(500, 9);
    const Result one = testing::Run(*engine, Greedy(first, 40));
    std::vector<int32_t> second = first;
    second.insert(second.end(), one.ids.begin(), one.ids.end());
    for (const int32_t id : RandomPrompt(20, 10)) second.push_back(id);
    const auto n = static_cast<int64_t>(second.size());
    const Plain want = WritePlainly(kit, second, 20, {.temperature = 0});
    const Result two = testing::Run(*engine, Greedy(second, 20));
    ExpectSameText(two.ids, want);
    EXPECT_GE(two.end->cached_tokens, n - 20 - 1);  // the last token of the answer was not read
    // Another end of the same conversation, and the same question once more.
    std::vector<int32_t> other(second.begin(), second.begin() + 520);
    other.push_back(second[520] ^ 1);
    const Result three = testing::Run(*engine, Greedy(other, 10));
    ExpectSameText(three.ids, WritePlainly(kit, other, 10, {.temperature = 0}));
    EXPECT_GE(three.end->cached_tokens, 520 - kInterval);
    const Result again = testing::Run(*engine, Greedy(second, 20));
    EXPECT_EQ(again.end->prompt_tokens, n);
    ExpectSameText(again.ids, want);
    EXPECT_GE(again.end->cached_tokens, n - 20 - kInterval);
    EXPECT_GE(kit.metrics.Value(Metrics::Count::kPrefixHits), 3);
  }
}

TEST(Engine, SequencesOfAnotherKeyAreNeverUsed) {
  Kit kit(testing::Families()[1].config);
  const auto engine = kit.Start();
  TextRequest mine = Greedy(RandomPrompt(100, 11), 4);
  mine.owner = "anna";
  (void)testing::Run(*engine, std::move(mine));
  for (const char* owner : {"bert", "anna"}) {
    TextRequest request = Greedy(RandomPrompt(100, 11), 4);
    request.owner = owner;
    EXPECT_EQ(testing::Run(*engine, std::move(request)).end->cached_tokens > 0, std::string(owner) == "anna") << owner;
  }
}

TEST(Engine, SeveralAnswersReadTheirPromptOnce) {
  for (const auto& family : testing::Families())
    for (const int64_t cache : {int64_t{0}, int64_t{1} << 30}) {
      SCOPED_TRACE(StrCat(family.name, ", cache ", cache));
      Kit kit(family.config);
      const auto engine = kit.Start({.slots = 2, .cache_bytes = cache});
      std::vector<TextRequest> texts;
      for (uint64_t i = 0; i < 4; ++i) {
        TextRequest request = Greedy(RandomPrompt(200, 12), 15);
        request.borders = {199};
        request.sampling = {.temperature = 1, .seed = 30 + i};
        texts.push_back(std::move(request));
      }
      const auto job = engine->Submit(std::move(texts));
      const std::vector<Result> results = Collect(*job);
      for (uint64_t i = 0; i < 4; ++i) {
        EXPECT_EQ(results[i].ids, WritePlainly(kit, RandomPrompt(200, 12), 15, {.temperature = 1, .seed = 30 + i}).ids);
        // With the cache off, only texts that begin while another one runs can take its prompt over.
        if (i == 1 || (i > 0 && cache > 0)) {
          EXPECT_EQ(results[i].end->cached_tokens, 199) << i;
        }
      }
    }
}

TEST(Engine, GuessesChangeNoToken) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    const std::vector<int32_t> prompt = RandomPrompt(50, 40);
    const Plain want = WritePlainly(kit, prompt, 60, {.temperature = 0});
    EngineOptions options{.slots = 3};
    options.speculation = Guesses(Joined(prompt, want.ids));
    const auto engine = kit.Start(std::move(options));
    std::vector<std::shared_ptr<Job>> jobs;
    for (int i = 0; i < 3; ++i) jobs.push_back(engine->Submit(One(Greedy(prompt, 60))));
    int64_t guessed = 0, accepted = 0;
    for (const auto& job : jobs) {
      const Result result = std::move(Collect(*job)[0]);
      ExpectSameText(result.ids, want);
      guessed += result.end->guessed;
      accepted += result.end->accepted;
    }
    EXPECT_GT(accepted, 30);
    EXPECT_LT(accepted, guessed);
    TextRequest plain = Greedy(prompt, 60);
    plain.speculate = false;
    EXPECT_EQ(testing::Run(*engine, std::move(plain)).end->guessed, 0);
  }
}

TEST(Engine, EndsWhereItShould) {
  Kit kit(testing::Families()[0].config);
  const auto engine = kit.Start();
  const std::vector<int32_t> prompt = RandomPrompt(30, 13);
  const Plain want = WritePlainly(kit, prompt, 40, {.temperature = 0});
  TextRequest ends = Greedy(prompt, 40);
  ends.end_ids = {want.ids[10]};
  const auto first = std::ranges::find(want.ids, want.ids[10]) - want.ids.begin();
  const Result ended = testing::Run(*engine, std::move(ends));
  EXPECT_EQ(ended.end->reason, FinishReason::kEnd);
  EXPECT_EQ(static_cast<std::ptrdiff_t>(ended.ids.size()), first);
  const std::string all = testing::Run(*engine, Greedy(prompt, 40)).words;
  const auto letter = std::ranges::find_if(all.begin() + 8, all.end(), [](char c) { return 'a' <= c && c <= 'z'; });
  ASSERT_NE(letter, all.end()) << all;
  TextRequest stops = Greedy(prompt, 40);
  stops.stops = {std::string(1, *letter)};
  const Result stopped = testing::Run(*engine, std::move(stops));
  EXPECT_EQ(stopped.end->reason, FinishReason::kStop);
  EXPECT_EQ(stopped.words, all.substr(0, all.find(*letter)));
  TextRequest none = Greedy(prompt, 0);
  const Result read = testing::Run(*engine, std::move(none));
  EXPECT_EQ(read.end->reason, FinishReason::kLength);
  EXPECT_TRUE(read.ids.empty());
}

TEST(Engine, AFullContextEndsAText) {
  ModelConfig config = testing::Families()[1].config;
  Kit kit(config);
  const Model small = hydra::testing::BuildModel(hydra::testing::RandomSource(config, 71), {.ctx_size = 64});
  Engine engine(small, kit.tokenizer, kit.pool, kit.metrics, {});
  const Result result = testing::Run(engine, Greedy(RandomPrompt(50, 14), 100));
  EXPECT_EQ(result.end->reason, FinishReason::kContext);
  EXPECT_EQ(result.ids.size(), 15U);  // the last one is picked and not read
}

TEST(Engine, LogprobsAreThoseOfTheModel) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    const std::vector<int32_t> prompt = RandomPrompt(150, 15);
    ThreadPool pool(1);
    ForwardScratch scratch;
    SequenceState state(kit.model);
    const Segment whole{&state, prompt, LogitsOf::kAll};
    const auto logits = kit.model.Forward({&whole, 1}, pool, scratch);
    const auto engine = kit.Start();
    (void)testing::Run(*engine, Greedy(prompt, 1));  // a cached prefix is of no use: its logits are gone
    TextRequest request = Greedy(prompt, 3);
    request.logprobs = 2;
    request.prompt_logprobs = true;
    const Result result = testing::Run(*engine, std::move(request));
    ASSERT_EQ(result.tokens.size(), 153U);
    EXPECT_EQ(result.end->cached_tokens, 0);
    EXPECT_TRUE(std::isnan(result.tokens[0].logprob));
    for (size_t i = 1; i < 150; ++i) {
      const PickedToken& token = result.tokens[i];
      ASSERT_EQ(token.id, prompt[i]);
      const Logprobs want(logits.subspan((i - 1) * testing::kVocab, testing::kVocab));
      EXPECT_NEAR(token.logprob, want.Of(token.id), 1e-3) << i;
      ASSERT_EQ(token.best.size(), 2U);
      EXPECT_GE(token.best[0].logprob, token.best[1].logprob);
    }
    EXPECT_EQ(result.tokens[150].logprob, result.tokens[150].best[0].logprob);  // greedy: the best one was picked
  }
}

TEST(Engine, TracesTellOfEachTokenThatWasRead) {
  Kit kit(testing::Families()[0].config);
  const std::vector<int32_t> prompt = RandomPrompt(40, 41);
  const Plain want = WritePlainly(kit, prompt, 12, {.temperature = 0});
  for (const bool guesses : {false, true}) {
    EngineOptions options;
    if (guesses) options.speculation = Guesses(Joined(prompt, want.ids));
    const auto engine = kit.Start(std::move(options));
    TextRequest request = Greedy(prompt, 12);
    request.trace = true;
    const Result result = testing::Run(*engine, std::move(request));
    ASSERT_EQ(result.traces.size(), 11U);  // all but the last one picked
    for (size_t i = 0; i < result.traces.size(); ++i) {
      EXPECT_EQ(result.traces[i].trace.position, 40 + static_cast<int64_t>(i));
      EXPECT_EQ(result.traces[i].trace.id, result.ids[i]);
      EXPECT_EQ(result.traces[i].trace.layers.size(), 3U);
      EXPECT_TRUE(std::isfinite(result.traces[i].entropy));
    }
    EXPECT_EQ(std::ranges::any_of(result.tokens, &PickedToken::guessed), guesses);
  }
}

TEST(Engine, ACancelledTextFreesItsSlotAtOnceAndHarmsNoOther) {
  Kit kit(testing::Families()[2].config);
  const auto engine = kit.Start({.slots = 2});
  const Plain want = WritePlainly(kit, RandomPrompt(30, 16), 50, {.temperature = 0});
  const auto endless = engine->Submit(One(Greedy(RandomPrompt(40, 17), 1 << 20)));
  const auto long_prompt = engine->Submit(One(Greedy(RandomPrompt(20000, 18), 1)));
  const auto waiting = engine->Submit(One(Greedy(RandomPrompt(30, 16), 50)));
  ASSERT_TRUE(endless->Take(30));
  endless->Cancel();
  long_prompt->Cancel();
  ExpectSameText(Collect(*waiting)[0].ids, want);
  for (const auto& job : {endless, long_prompt}) EXPECT_EQ(Collect(*job)[0].end->reason, FinishReason::kCancelled);
  EXPECT_GE(kit.metrics.Value(Metrics::Count::kCancelled), 2);
  for (int i = 0; i < 100 && !engine->Idle(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(engine->Idle());
}

// A sequence that has read a prompt, with one number in its state that is none.
SequenceState Poisoned(const Kit& kit, std::span<const int32_t> prompt) {
  ThreadPool pool(1);
  ForwardScratch scratch;
  SequenceState state(kit.model);
  (void)kit.model.Prefill(state, prompt, pool, scratch);
  const BlockOffsets& block = state.layout().blocks[0];
  *state.At<float>(block.ssm >= 0 ? block.ssm : block.caches[0].k) = std::numeric_limits<float>::quiet_NaN();
  return state;
}

TEST(Engine, ALogitThatIsNotFiniteEndsItsTextAlone) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    const auto engine = kit.Start({.slots = 3});
    const Plain want = WritePlainly(kit, RandomPrompt(20, 21), 10, {.temperature = 0});
    std::vector<int32_t> prompt = RandomPrompt(20, 20);
    std::vector<std::shared_ptr<Job>> jobs;
    for (int i = 0; i < 3; ++i) {
      TextRequest request = Greedy(RandomPrompt(20, 21), 10);
      if (i == 1) {
        request.base = Poisoned(kit, prompt);
        prompt.push_back(1);
        request.prompt = prompt;
      }
      jobs.push_back(engine->Submit(One(std::move(request))));
    }
    ExpectSameText(Collect(*jobs[0])[0].ids, want);
    const Result bad = std::move(Collect(*jobs[1])[0]);
    EXPECT_EQ(bad.end->error_status, 500);
    EXPECT_NE(bad.end->error.find("logit"), std::string::npos) << bad.end->error;
    ExpectSameText(Collect(*jobs[2])[0].ids, want);
    EXPECT_EQ(kit.metrics.Value(Metrics::Count::kNanResets), 1);
    EXPECT_EQ(engine->failure(), "");
    // What it read is not kept for others.
    EXPECT_EQ(testing::Run(*engine, Greedy(prompt, 2)).end->cached_tokens, 0);
  }
}

TEST(Engine, APassThatFailsIsDoneAgainAndTheTextAtFaultEnds) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    std::vector<Plain> alone;
    for (uint64_t i = 0; i < 3; ++i)
      alone.push_back(WritePlainly(kit, RandomPrompt(60, 22 + i), 30, {.temperature = 0}));
    // Passes of three fail now and then: each text goes on as if nothing had happened.
    std::atomic<int> passes{0}, failed{0};
    EngineOptions options{.slots = 3};
    options.on_pass = [&](size_t texts) {
      if (texts == 3 && ++passes % 5 == 0) {
        ++failed;
        throw std::runtime_error("a pass that fails");
      }
    };
    const auto engine = kit.Start(std::move(options));
    std::vector<std::shared_ptr<Job>> jobs;
    for (uint64_t i = 0; i < 3; ++i) jobs.push_back(engine->Submit(One(Greedy(RandomPrompt(60, 22 + i), 30))));
    for (size_t i = 0; i < 3; ++i) ExpectSameText(Collect(*jobs[i])[0].ids, alone[i]);
    EXPECT_GT(failed.load(), 1);
  }
}

TEST(Engine, ATextWhosePassesFailAloneEndsWithTheReason) {
  Kit kit(testing::Families()[0].config);
  std::atomic<bool> fails{true};
  EngineOptions options;
  options.on_pass = [&](size_t) {
    if (fails.exchange(false)) throw std::runtime_error("out of luck");
  };
  const auto engine = kit.Start(std::move(options));
  const Result first = testing::Run(*engine, Greedy(RandomPrompt(10, 25), 5));
  EXPECT_EQ(first.end->error_status, 500);
  EXPECT_EQ(first.end->error, "out of luck");
  EXPECT_EQ(testing::Run(*engine, Greedy(RandomPrompt(10, 25), 5)).ids.size(), 5U);
}

TextRequest Held(TextForms& forms, const std::string& schema, const std::vector<int32_t>& end_ids = {}) {
  TextRequest request = Greedy(RandomPrompt(10, 26), 40);
  request.end_ids = end_ids;
  const auto masks = forms.Get(schema, [&] { return JsonSchemaGrammar(Json::parse(schema), "schema"); });
  request.grammar = std::make_unique<GrammarMatcher>(masks, end_ids);
  return request;
}

TEST(Engine, AGrammarDecidesWhatMayComeAndWhenTheTextEnds) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    TextForms forms(kit.tokenizer, testing::kVocab);
    const std::string schema = R"({"type": "string", "pattern": "^[0-9]{8}$"})";
    const Result plain = testing::Run(*kit.Start(), Held(forms, schema));
    EXPECT_EQ(plain.end->reason, FinishReason::kComplete);
    ASSERT_EQ(plain.words.size(), 10U) << plain.words;
    EXPECT_EQ(plain.words.find_first_not_of("0123456789", 1), 9U) << plain.words;
    // With guesses, a third of them wrong, and beside a text that is free.
    const auto engine = kit.Start({.speculation = Guesses(Joined(RandomPrompt(10, 26), plain.ids))});
    const auto free = engine->Submit(One(Greedy(RandomPrompt(10, 27), 20)));
    EXPECT_EQ(testing::Run(*engine, Held(forms, schema)).ids, plain.ids);
    ExpectSameText(Collect(*free)[0].ids, WritePlainly(kit, RandomPrompt(10, 27), 20, {.temperature = 0}));
  }
}

TEST(Engine, AFormThatTheVocabularyCannotSayEndsItsTextAlone) {
  Kit kit(testing::Families()[0].config);
  TextForms forms(hydra::testing::ByteTokenizer({"<|im_start|>", "<|im_end|>"}, "a"), testing::kVocab);
  const auto engine = kit.Start();
  const Result failed = testing::Run(*engine, Held(forms, R"({"const": "1a"})"));
  EXPECT_EQ(failed.end->error_status, 500);
  EXPECT_NE(failed.end->error.find("no token of the vocabulary"), std::string::npos) << failed.end->error;
  EXPECT_EQ(failed.words, "\"1");
  EXPECT_EQ(kit.metrics.Value(Metrics::Count::kNanResets), 0);
  EXPECT_EQ(testing::Run(*engine, Held(forms, R"({"const": 12})")).words, "12");
}

TEST(Engine, QueuesAreBoundedAndStoppingEndsWhatRuns) {
  Kit kit(testing::Families()[2].config);
  const auto engine = kit.Start({.slots = 1, .queue = 2});
  const auto running = engine->Submit(One(Greedy(RandomPrompt(20, 27), 1 << 20)));
  ASSERT_TRUE(running->Take(30));  // it has a slot
  std::vector<std::shared_ptr<Job>> waiting;
  for (int i = 0; i < 2; ++i) waiting.push_back(engine->Submit(One(Greedy(RandomPrompt(20, 28), 5))));
  try {
    (void)engine->Submit(One(Greedy(RandomPrompt(20, 29), 5)));
    ADD_FAILURE() << "the queue took one too many";
  } catch (const JobRefused& refused) {
    EXPECT_EQ(refused.why(), JobRefused::Why::kQueueFull);
  }
  engine->Stop(0.05);
  for (const auto& job : {running, waiting[0], waiting[1]}) EXPECT_EQ(Collect(*job)[0].end->error_status, 503);
  try {
    (void)engine->Submit(One(Greedy(RandomPrompt(20, 29), 5)));
    ADD_FAILURE() << "a job was taken while the engine ends";
  } catch (const JobRefused& refused) {
    EXPECT_EQ(refused.why(), JobRefused::Why::kShuttingDown);
  }
}

TEST(Engine, StoppingLetsShortTextsEnd) {
  Kit kit(testing::Families()[0].config);
  const auto engine = kit.Start({.slots = 1});
  std::vector<std::shared_ptr<Job>> jobs;
  for (uint64_t i = 0; i < 3; ++i) jobs.push_back(engine->Submit(One(Greedy(RandomPrompt(20, 30 + i), 5))));
  engine->Stop(60);
  for (const auto& job : jobs) EXPECT_EQ(Collect(*job, 1)[0].ids.size(), 5U);
}

TEST(Engine, AClientThatTakesNothingHoldsNothingUp) {
  Kit kit(testing::Families()[2].config);
  const auto engine = kit.Start({.slots = 2});
  const auto slow = engine->Submit(One(Greedy(RandomPrompt(20, 33), 3000)));
  // Its pieces stay within bounds while another text is written.
  EXPECT_EQ(testing::Run(*engine, Greedy(RandomPrompt(20, 34), 1000)).ids.size(), 1000U);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(slow->Full());
  EXPECT_EQ(Collect(*slow)[0].ids.size(), 3000U);
}

TEST(Engine, KeptStatesGoOnExactly) {
  for (const auto& family : testing::Families()) {
    SCOPED_TRACE(family.name);
    Kit kit(family.config);
    const auto engine = kit.Start();
    const std::vector<int32_t> prompt = RandomPrompt(80, 35);
    TextRequest keeps = Greedy({prompt.begin(), prompt.begin() + 60}, 0);
    keeps.keep_state = true;
    const Result kept = testing::Run(*engine, std::move(keeps));
    ASSERT_NE(kept.end->state, nullptr);
    EXPECT_EQ(kept.end->state->pos(), 60);
    TextRequest goes_on = Greedy(prompt, 20);
    goes_on.base = kept.end->state->Fork();
    const Result result = testing::Run(*engine, std::move(goes_on));
    EXPECT_EQ(result.end->cached_tokens, 60);
    ExpectSameText(result.ids, WritePlainly(kit, prompt, 20, {.temperature = 0}));
  }
}

}  // namespace
}  // namespace hydra::serve
