// SPDX-License-Identifier: Apache-2.0
// Generation over random models of byte tokens, whose texts break UTF-8 at every turn; perplexity; random weights; the
// count of bytes; packed copies.
#include "hydra/runtime/generate.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "hydra/base/error.h"
#include "hydra/base/testing.h"
#include "hydra/base/utf8.h"
#include "hydra/runtime/perplexity.h"
#include "hydra/runtime/read_meter.h"
#include "hydra/runtime/speed.h"
#include "hydra/runtime/testing.h"
#include "hydra/runtime/testing_tokenizer.h"
#include "hydra/text/json_schema.h"

namespace hydra {
namespace {

using testing::BuildModel;
using testing::RandomIds;
using testing::RandomSource;

constexpr int32_t kBytes = 256;

ModelConfig Config(bool transformer) {
  ModelConfig config = transformer ? TransformerNano() : HydraNano();
  if (transformer) config.layers.resize(2);
  config.vocab_size = 320;  // padded beyond the tokenizer's
  return config;
}

struct Writer {
  explicit Writer(bool transformer = false, int64_t ctx = 512, uint64_t seed = 7)
      : model(BuildModel(RandomSource(Config(transformer), seed),
                         {.ctx_size = ctx, .kv_dtype = KvDtype::kF32, .act = Activations::kF32})) {}
  Model model;
  Tokenizer tokenizer = testing::ByteTokenizer();
  ThreadPool pool{2};
  mutable ForwardScratch scratch;
  Generator generator{model, tokenizer, pool, scratch};
  std::vector<int32_t> prompt = RandomIds(37, kBytes, 3);

  GenerateResult Write(SequenceState& state, std::span<const int32_t> ids, const GenerateOptions& options,
                       double temperature = 0) const {
    Sampler sampler({.temperature = temperature, .seed = 5});
    return generator.Generate(state, sampler, ids, options, {});
  }
};

TEST(Generate, PiecesAreValidUtf8AndMakeTheText) {
  for (const bool transformer : {false, true}) {
    const Writer s(transformer);
    SequenceState state(s.model);
    Sampler sampler({.top_k = 0, .top_p = 1, .min_p = 0, .temperature = 2, .seed = 11});
    std::string text;
    const GenerateResult result =
        s.generator.Generate(state, sampler, s.prompt, {.max_tokens = 200}, [&](std::string_view piece) {
          EXPECT_FALSE(piece.empty());
          EXPECT_EQ(ValidUtf8Prefix(piece), piece.size());
          text += piece;
        });
    ASSERT_EQ(result.ids.size(), 200U);
    EXPECT_EQ(text, s.tokenizer.Decode(result.ids));
    EXPECT_EQ(text, result.text);
    EXPECT_NE(text.find(kReplacementChar), std::string::npos);  // or the test shows nothing
    EXPECT_EQ(result.reason, FinishReason::kLength);
    EXPECT_EQ(result.prompt_tokens, 37);
    EXPECT_EQ(result.steps, 199);
    EXPECT_TRUE(std::all_of(result.ids.begin(), result.ids.end(), [](int32_t id) { return id < kBytes; }));
  }
}

TEST(Generate, PiecesOfAWholeGoOnExactly) {
  for (const auto& [transformer, seed] : {std::pair{false, 7}, {false, 8}, {false, 9}, {true, 7}, {true, 8}}) {
    SCOPED_TRACE(StrCat("seed ", seed));
    const Writer s(transformer, 512, static_cast<uint64_t>(seed));
    SequenceState whole(s.model);
    const std::vector<int32_t> want = s.Write(whole, s.prompt, {.max_tokens = 24}).ids;
    for (const int64_t first : {0, 1, 9, 23}) {
      SequenceState state(s.model);
      std::vector<int32_t> got = s.Write(state, s.prompt, {.max_tokens = first}).ids;
      EXPECT_EQ(state.pos() + 1, 37 + first);
      SequenceState fork = state.Fork();
      for (SequenceState* next : {&state, &fork}) {
        std::vector<int32_t> both = got;
        const std::vector<int32_t> rest = s.Write(*next, {}, {.max_tokens = 24 - first}).ids;
        both.insert(both.end(), rest.begin(), rest.end());
        EXPECT_EQ(both, want) << first;
        EXPECT_TRUE(std::equal(next->ids().begin(), next->ids().end(), whole.ids().begin(), whole.ids().end()));
        EXPECT_TRUE(
            std::equal(next->pending().begin(), next->pending().end(), whole.pending().begin(), whole.pending().end()));
      }
    }
  }
}

// A text of bytes, cut inside its characters: what is begun in one call is finished by the next.
TEST(Generate, ACharacterIsWholeAcrossCalls) {
  const Writer s;
  // Only bytes of two-byte characters are picked: one call of an odd number of tokens ends inside one.
  SamplerOptions bytes{.top_k = 0, .top_p = 1, .min_p = 0, .temperature = 1.5, .seed = 3};
  for (int32_t id = 0; id < kBytes; ++id)
    if (id < 0x80 || id >= 0xE0 || id == 0xC0 || id == 0xC1) bytes.logit_bias.emplace_back(id, -1e9);
  SequenceState whole(s.model);
  Sampler one(bytes);
  const GenerateResult want = s.generator.Generate(whole, one, s.prompt, {.max_tokens = 60}, {});
  EXPECT_GT(want.text.size(), 40U);
  for (const int64_t first : {1, 2, 3, 10, 31}) {
    SCOPED_TRACE(first);
    SequenceState state(s.model);
    Sampler sampler(bytes);
    std::string text;
    const std::vector<int64_t> pieces = {first, 1, 59 - first};
    for (size_t i = 0; i < pieces.size(); ++i)
      text += s.generator
                  .Generate(state, sampler, i == 0 ? std::span<const int32_t>(s.prompt) : std::span<const int32_t>(),
                            {.max_tokens = pieces[i], .continues = i > 0, .to_be_continued = i < 2}, {})
                  .text;
    EXPECT_EQ(text, want.text);
  }
  // A prompt ends what was begun.
  SequenceState state(s.model);
  state.SetPending({'a', 0xC3});
  EXPECT_EQ(s.generator.TailOf(state).Finish(), kReplacementChar);
  state.SetPending({'a', 0xC3, 0xA9});
  EXPECT_EQ(s.generator.TailOf(state).Finish(), "");
}

TEST(Generate, CancelledInThePromptKeepsTheRest) {
  const Writer s;
  const std::vector<int32_t> prompt = RandomIds(1300, kBytes, 4);
  for (const int64_t max_tokens : {0, 5}) {
    SequenceState state(s.model);
    state.SetPending({7});
    int asked = 0;
    const GenerateResult result =
        s.Write(state, prompt, {.max_tokens = max_tokens, .cancelled = [&] { return ++asked > 1; }});
    EXPECT_EQ(result.reason, FinishReason::kCancelled);
    EXPECT_EQ(state.pos(), 512);
    std::vector<int32_t> all(state.ids().begin(), state.ids().end()), want = {7};
    all.insert(all.end(), state.pending().begin(), state.pending().end());
    want.insert(want.end(), prompt.begin(), prompt.end());
    EXPECT_EQ(all, want);
  }
}

TEST(Generate, EndsBeforeAnEndTokenAndKeepsIt) {
  const Writer s;
  SequenceState whole(s.model);
  const std::vector<int32_t> ids = s.Write(whole, s.prompt, {.max_tokens = 30}).ids;
  size_t at = 5;
  while (std::find(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(at), ids[at]) !=
         ids.begin() + static_cast<std::ptrdiff_t>(at))
    ++at;
  SequenceState state(s.model);
  const GenerateResult result =
      s.Write(state, s.prompt, {.max_tokens = 30, .end_ids = {kBytes - 1 == ids[at] ? 0 : kBytes - 1, ids[at]}});
  EXPECT_EQ(result.reason, FinishReason::kEnd);
  EXPECT_EQ(result.ids, std::vector<int32_t>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(at)));
  ASSERT_EQ(state.pending().size(), 1U);
  EXPECT_EQ(state.pending()[0], ids[at]);
}

TEST(Generate, StopStringsCutTheText) {
  const Writer s;
  SequenceState whole(s.model), state(s.model);
  const std::string text = s.Write(whole, s.prompt, {.max_tokens = 40}).text;
  const std::string stop = text.substr(text.size() / 2, 2);
  const GenerateResult result = s.Write(state, s.prompt, {.max_tokens = 40, .stops = {"\x01\x02 never", stop}});
  EXPECT_EQ(result.reason, FinishReason::kStop);
  EXPECT_EQ(result.text, text.substr(0, text.find(stop)));
}

// A random model says anything: held to a schema it says what fits, with guesses and without, and ends there.
TEST(Generate, AGrammarHoldsTheTextWhateverIsGuessed) {
  const Writer s;
  const Json schema = ParseJson(
      R"({"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}, "b": {"type": "array",
          "maxItems": 3,
          "items": {"enum": ["x", 1, null]}}}, "required": ["a", "b"]})",
      "schema");
  const auto masks =
      std::make_shared<GrammarMasks>(std::make_shared<const Grammar>(JsonSchemaGrammar(schema, "schema")),
                                     std::make_shared<const TokenTrie>(s.tokenizer, s.model.config().vocab_size));
  for (const uint64_t seed : {1, 2, 3}) {
    std::vector<int32_t> plain;
    for (const bool guess : {false, true}) {
      SCOPED_TRACE(StrCat("seed ", seed, guess ? ", with guesses" : ""));
      SequenceState state(s.model);
      Sampler sampler({.top_k = 0, .top_p = 1, .min_p = 0, .temperature = 2, .seed = seed});
      GrammarMatcher matcher(masks, {});
      Speculation speculation(std::make_unique<NgramDrafter>(), 4, true);
      const GenerateResult result = s.generator.Generate(
          state, sampler, s.prompt,
          {.max_tokens = 2000, .speculation = guess ? &speculation : nullptr, .grammar = &matcher}, {});
      EXPECT_EQ(result.reason, FinishReason::kComplete) << result.text;
      EXPECT_TRUE(matcher.is_over());
      const Json made = ParseJson(result.text, "made");
      EXPECT_TRUE(made["a"].is_string() && made["b"].size() <= 3) << result.text;
      if (!guess) plain = result.ids;
      EXPECT_EQ(result.ids, plain);
    }
  }
  // An end token is picked only where the text may end.
  SequenceState state(s.model);
  Sampler sampler({.temperature = 0, .logit_bias = {{0, 1e9}}});
  const auto number = std::make_shared<GrammarMasks>(
      std::make_shared<const Grammar>(JsonSchemaGrammar(ParseJson(R"({"type": "integer"})", "schema"), "schema")),
      std::make_shared<const TokenTrie>(s.tokenizer, s.model.config().vocab_size));
  GrammarMatcher matcher(number, {0});
  const GenerateResult result =
      s.generator.Generate(state, sampler, s.prompt, {.max_tokens = 50, .end_ids = {0}, .grammar = &matcher}, {});
  EXPECT_EQ(result.reason, FinishReason::kEnd);
  EXPECT_FALSE(result.text.empty());
  EXPECT_EQ(result.text.find_first_not_of("-0123456789"), std::string::npos) << result.text;
}

TEST(Generate, CancelledItGoesOnWhereItStopped) {
  const Writer s(true, 2048);
  SequenceState whole(s.model), state(s.model);
  const std::vector<int32_t> want = s.Write(whole, s.prompt, {.max_tokens = 20}).ids;
  int asked = 0;
  const GenerateResult head = s.Write(state, s.prompt, {.max_tokens = 20, .cancelled = [&] { return ++asked > 8; }});
  EXPECT_EQ(head.reason, FinishReason::kCancelled);
  ASSERT_LT(head.ids.size(), 20U);
  ASSERT_GT(head.ids.size(), 0U);
  std::vector<int32_t> got = head.ids;
  const std::vector<int32_t> rest = s.Write(state, {}, {.max_tokens = 20 - static_cast<int64_t>(head.ids.size())}).ids;
  got.insert(got.end(), rest.begin(), rest.end());
  EXPECT_EQ(got, want);
  // In the middle of a prompt: whole pieces are read.
  SequenceState fresh(s.model);
  asked = 0;
  const GenerateResult none = s.Write(fresh, RandomIds(1500, kBytes, 4), {.cancelled = [&] { return ++asked > 2; }});
  EXPECT_EQ(none.reason, FinishReason::kCancelled);
  EXPECT_EQ(none.prompt_tokens, 1024);
  EXPECT_EQ(fresh.pos(), 1024);
}

TEST(Generate, RefusesBeforeAnythingIsRead) {
  const Writer s(true, 40);
  SequenceState state(s.model);
  ExpectError([&] { (void)s.Write(state, {}, {}); }, ErrorCode::kUsage, {"no tokens"});
  ExpectError([&] { (void)s.Write(state, RandomIds(41, kBytes, 1), {}); }, ErrorCode::kUsage, {"--ctx-size is 40"});
  ExpectError([&] { (void)s.Write(state, std::vector<int32_t>{1, 320}, {}); }, ErrorCode::kUsage, {"token id 320"});
  EXPECT_EQ(state.pos(), 0);
  const GenerateResult full = s.Write(state, s.prompt, {.max_tokens = -1});
  EXPECT_EQ(full.reason, FinishReason::kContext);
  EXPECT_EQ(full.ids.size(), 4U);  // three are read, the last is pending
  EXPECT_EQ(state.pos(), 40);
}

TEST(Perplexity, IsThatOfTheLogits) {
  const Writer s(true);
  const std::vector<int32_t> ids = RandomIds(205, 320, 9);
  for (const int64_t chunk : {4, 33, 64}) {
    double sum = 0;
    int64_t n = 0;
    const int64_t chunks = 205 / chunk;
    for (int64_t i = 0; i < chunks; ++i) {
      SequenceState state(s.model);
      std::vector<int32_t> part(ids.begin() + i * chunk, ids.begin() + (i + 1) * chunk);
      part[0] = 17;
      ThreadPool pool(1);
      const std::vector<float> logits = testing::LogitsInPieces(s.model, state, part, {1}, pool);
      for (int64_t t = chunk / 2; t < chunk - 1; ++t) {
        double total = 0;
        for (int64_t v = 0; v < 320; ++v)
          total += std::exp(static_cast<double>(logits[static_cast<size_t>(t * 320 + v)]));
        sum += std::log(total) - logits[static_cast<size_t>(t * 320 + part[static_cast<size_t>(t + 1)])];
        ++n;
      }
    }
    ThreadPool pool(2);
    const TextPerplexity got = MeasurePerplexity(s.model, ids, {.chunk = chunk, .bos = 17}, pool);
    EXPECT_EQ(got.chunks, chunks);
    EXPECT_EQ(got.tokens, n);
    EXPECT_NEAR(got.loss(), sum / static_cast<double>(n), 1e-4 * sum / static_cast<double>(n));
    EXPECT_GT(got.standard_error(), 0);
  }
  ThreadPool pool(1);
  ExpectError([&] { (void)MeasurePerplexity(s.model, ids, {.chunk = 300}, pool); }, ErrorCode::kData,
              {"a chunk needs 300"});
  ExpectError([&] { (void)MeasurePerplexity(s.model, ids, {.chunk = 3}, pool); }, ErrorCode::kUsage,
              {"must be 4 or more"});
  ExpectError([&] { (void)MeasurePerplexity(s.model, ids, {.chunk = 513}, pool); }, ErrorCode::kUsage, {"--ctx-size"});
}

// What passes count against the formulas of model/accounting.h.
PassBytes Moved(const Model& model, const SpeedTest& test) {
  ThreadPool pool(1);
  SpeedRunner runner(model, test, pool);
  runner.Run();
  return runner.moved();
}

TEST(Speed, CountsTheWeightsThatAreRead) {
  for (const ModelConfig& config : {TransformerNano(), MambaNano(), HydraNano()}) {
    const Model model = BuildModel(RandomSource(config, 1));
    const TensorTable table(config);
    const TensorBytes bytes = [&](const TensorSpec& spec) { return spec.size() * kF32Bytes; };
    const int64_t steps = 2 * config.chunk_len;
    const auto counted = static_cast<double>(Moved(model, {.generate = steps}).weights) / static_cast<double>(steps);
    // The formula has the router as if each token were routed, initial states as if each token read them, and a tied
    // embedding without the row of the token; those are small.
    EXPECT_NEAR(counted, static_cast<double>(StepWeightBytes(config, table, 1, bytes)), 0.04 * counted)
        << table.specs().size() << " tensors";
  }
  const Model model = BuildModel(RandomSource(TransformerNano(), 1));
  const TensorTable table(model.config());
  const TensorBytes bytes = [&](const TensorSpec& spec) { return spec.size() * kF32Bytes; };
  const int64_t row = model.config().d_model * kF32Bytes, all = StepWeightBytes(model.config(), table, 1, bytes);
  EXPECT_EQ(Moved(model, {.generate = 5}).weights, 5 * (all + row));
  EXPECT_EQ(Moved(model, {.generate = 5, .batch = 4}).weights, 5 * (all + 4 * row));
  // One pass reads the prompts of all sequences.
  EXPECT_EQ(Moved(model, {.prompt = 128}).weights, all + 128 * row);
  EXPECT_EQ(Moved(model, {.prompt = 128, .batch = 4}).weights, all + 512 * row);
}

TEST(Speed, CountsTheExpertsThatWereChosen) {
  const ModelConfig config = HydraNano();
  const Model model = BuildModel(RandomSource(config, 1));
  const int64_t expert = 3 * config.moe.d_expert * config.d_model * kF32Bytes;
  ThreadPool pool(1);
  const auto weights = [&](std::vector<int64_t> experts) {
    Controls controls;
    controls.force_experts = std::move(experts);
    SequenceState state(model, controls);
    ForwardScratch scratch;
    (void)model.Step(state, 1, pool, scratch);
    return scratch.moved().weights;
  };
  int64_t layers = 0;
  for (const LayerConfig& layer : config.layers) layers += layer.ffn == FfnKind::kChunkMoe ? 1 : 0;
  EXPECT_EQ(weights({0, 1, 2}) - weights({0}), layers * 2 * expert);
}

TEST(Speed, CountsStateAndKeys) {
  const Model transformer = BuildModel(RandomSource(TransformerNano(), 1));
  const int64_t kv = KvBytesPerToken(transformer.config(), KvDtype::kF32);
  const PassBytes steps = Moved(transformer, {.generate = 3, .depth = 10});
  EXPECT_EQ(steps.kv_read, (11 + 12 + 13) * kv);
  EXPECT_EQ(steps.kv_written, 3 * kv);
  EXPECT_EQ(steps.state_read, 0);
  EXPECT_EQ(Moved(transformer, {.generate = 3, .depth = 10, .batch = 4}).kv_read, 4 * steps.kv_read);
  const PassBytes prompt = Moved(transformer, {.prompt = 100});
  EXPECT_EQ(prompt.kv_read, (64 + 100) * kv);  // tiles of 64 queries
  EXPECT_EQ(prompt.key_tiles, (1 + 2) * transformer.config().n_layers() * transformer.config().attention.n_kv_heads);
  EXPECT_EQ(steps.key_tiles, 0);
  const Model hydra = BuildModel(RandomSource(HydraNano(), 1));
  const StateBytes state = CountState(hydra.config(), KvDtype::kF32);
  const PassBytes step = Moved(hydra, {.generate = 1, .depth = 700});
  EXPECT_EQ(step.state_read, state.total() - state.kv);
  EXPECT_EQ(step.state_written, step.state_read);
  EXPECT_LE(step.kv_read, state.kv);  // the pool is not full yet
  EXPECT_GT(step.kv_read, state.kv / 2);
}

TEST(Speed, RunsFromTheSameStates) {
  const Model model = BuildModel(RandomSource(HydraNano(), 1));
  ThreadPool pool(2);
  for (const SpeedTest& test : {SpeedTest{.prompt = 20, .depth = 5}, SpeedTest{.generate = 4, .batch = 3}}) {
    SpeedRunner runner(model, test, pool);
    EXPECT_GT(runner.Run(), 0);
    EXPECT_GT(runner.Run(), 0);
  }
}

TEST(ReadMeter, MeasuresAnyNumberOfBytes) {
  ThreadPool pool(2);
  ReadMeter meter(pool, 3 << 20);
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{100000}, int64_t{3} << 20, INT64_MAX})
    EXPECT_GT(meter.Measure(bytes).bytes_per_s, 1e6) << bytes;
}

TEST(Speed, Summarises) {
  const Summary s = Summarise({4, 1, 3, 2});
  EXPECT_EQ(s.mean, 2.5);
  EXPECT_EQ(s.median, 2.5);
  EXPECT_EQ(s.min, 1);
  EXPECT_EQ(s.max, 4);
  EXPECT_NEAR(s.sd, std::sqrt(5.0 / 3), 1e-12);
  EXPECT_EQ(Summarise({7}).sd, 0);
  EXPECT_EQ(Summarise({9, 7, 8}).median, 8);
}

}  // namespace
}  // namespace hydra
