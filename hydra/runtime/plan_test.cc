// SPDX-License-Identifier: Apache-2.0
// Sequences that follow an attention plan (specs/moa.md 6): rings against masks to the bit, any chunks and turns,
// forks, files, drafts, batches and threads; bytes held, bytes read and tiles of prompts as the formulas say. Not here:
// the rule and its file (model/attention_plan_test.cc), an independent program's numbers (tests/parity/plan_parity.py).
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/model/attention_plan.h"
#include "hydra/runtime/perplexity.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/speculation.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::BuildModel;
using testing::Difference;
using testing::ExpectSameBits;
using testing::kTolF32;
using testing::LogitsInPieces;
using testing::RandomIds;
using testing::RandomSource;

// Two layers of full attention, 6 heads on 2 KV heads.
ModelConfig GroupedConfig() { return testing::Cases()[5].config; }

// Spans 128, 192, half and all of the text.
AttentionPlan FourSpans() {
  AttentionPlan plan = AttentionPlan::Dense(GroupedConfig());
  plan.name = "four";
  plan.layers[0].rules = {{0, 0}, {192, 0}};
  plan.layers[1].rules = {{0, 0.5}, {0, 1}};
  return plan;
}

// Every position in a row of its own; what queries see of them is masked. The oracle of rings.
class MaskedAll final : public KvFilling {
 public:
  MaskedAll(int64_t window, int64_t sinks, std::vector<int64_t> own = {})
      : window_(window), sinks_(sinks), own_(std::move(own)) {}
  [[nodiscard]] int64_t Rows(int64_t ctx) const override { return ctx; }
  [[nodiscard]] int64_t MostTokens(int64_t ctx) const override { return ctx; }
  [[nodiscard]] bool grows() const override { return true; }
  [[nodiscard]] int64_t RowOf(int64_t pos) const override { return pos; }
  void AddRanges(int64_t pos, std::vector<RowRange>& out) const override {
    if (pos > 0) out.push_back({0, pos, 0});
  }
  [[nodiscard]] int64_t window() const override { return window_; }
  [[nodiscard]] int64_t sinks() const override { return sinks_; }
  [[nodiscard]] std::span<const int64_t> own_windows() const override { return own_; }
  [[nodiscard]] std::string Describe() const override { return "masked"; }

 private:
  int64_t window_, sinks_;
  std::vector<int64_t> own_;
};

KvPlan MaskedPlan(const AttentionPlan& plan, int64_t N, HeadSpans spans = HeadSpans::kRing) {
  return [rings = plan.Fillings(N, spans)](int layer, int64_t head) -> std::shared_ptr<const KvFilling> {
    const auto ring = rings(layer, head);
    const auto own = ring->own_windows();
    return std::make_shared<MaskedAll>(ring->window(), ring->sinks(), std::vector<int64_t>(own.begin(), own.end()));
  };
}

TEST(SpanPlan, RingsGiveTheBitsOfMasks) {
  const Model model = BuildModel(RandomSource(GroupedConfig(), 61), {.ctx_size = 2048, .kv_dtype = KvDtype::kF16});
  ThreadPool pool(2);
  for (const int64_t span : {128, 192, 256, 320, 640})
    for (const int64_t sinks : {0, 64}) {
      if (kSanitized && span != 192) continue;
      const int64_t n = 3 * span + 50;
      const auto ids = RandomIds(n, 128, 62);
      for (const int64_t piece : {int64_t{1}, int64_t{7}, int64_t{64}, int64_t{513}, n}) {
        SCOPED_TRACE(StrCat("span ", span, ", sinks ", sinks, ", pieces of ", piece));
        SequenceState ring(model, {}, [=](int, int64_t) { return KeepSpan(span - sinks, sinks); }),
            masked(model, {}, [=](int, int64_t) { return std::make_shared<MaskedAll>(span - sinks, sinks); });
        ExpectSameBits(LogitsInPieces(model, ring, ids, {piece}, pool),
                       LogitsInPieces(model, masked, ids, {piece}, pool));
        if (::testing::Test::HasFailure()) return;
      }
    }
}

TEST(SpanPlan, TheDensePlanGivesTheModelsLogits) {
  const ModelConfig config = GroupedConfig();
  const Model model = BuildModel(RandomSource(config, 63));
  const AttentionPlan dense = AttentionPlan::Dense(config);
  ThreadPool pool(2);
  const auto ids = RandomIds(300, 128, 64);
  SequenceState plain(model);
  const auto want = LogitsInPieces(model, plain, ids, {300}, pool);
  for (const int64_t piece : {1, 50, 300}) {
    SequenceState planned(model, {}, dense.Fillings(300));
    EXPECT_LT(Difference(LogitsInPieces(model, planned, ids, {piece}, pool), want), kTolF32) << piece;
  }
  SequenceState narrow(model, {}, FourSpans().Fillings(300));
  EXPECT_GT(Difference(LogitsInPieces(model, narrow, ids, {300}, pool), want), 1e-3);
}

// Row-exact windows: whatever is read at once, and in how many turns.
TEST(SpanPlan, ChunksAndTurnsGiveTheSameLogits) {
  const Model model = BuildModel(RandomSource(GroupedConfig(), 65), {.ctx_size = 1024, .kv_dtype = KvDtype::kF32});
  ThreadPool pool(2);
  const int64_t n = kSanitized ? 450 : 700;
  const auto ids = RandomIds(n, 128, 66);
  const KvPlan plan = FourSpans().Fillings(448);  // the text runs past the plan's length: spans stay
  SequenceState whole(model, {}, plan);
  const auto want = LogitsInPieces(model, whole, ids, {n}, pool);
  for (const std::vector<int64_t>& pieces :
       {std::vector<int64_t>{1}, {7}, {64}, {513}, {100, 1, 1, 1, 300}, {63, 65, 1}}) {
    SequenceState state(model, {}, plan);
    EXPECT_LT(Difference(LogitsInPieces(model, state, ids, pieces, pool), want), kTolF32) << pieces[0];
  }
}

// ---- What is counted ----

// Tiles of 64 x 64 that a prompt of n tokens visits in a head (specs/moa.md 6).
int64_t TilesOf(int64_t span, int64_t sinks, int64_t n) {
  const int64_t m = (span - sinks) / 64, nb = (n + 63) / 64;
  int64_t tiles = 0;
  for (int64_t qb = 0; qb < nb; ++qb) {
    const int64_t f = sinks > 0 && qb >= 1 ? 1 : 0;
    tiles += f + std::min(qb + 1 - f, m + 1);
  }
  return tiles;
}

TEST(SpanPlan, BytesAndTilesAreThoseOfTheFormulas) {
  const ModelConfig config = GroupedConfig();
  const AttentionPlan plan = FourSpans();
  constexpr int64_t kLength = 640;
  ThreadPool pool(2);
  for (const KvDtype kv : {KvDtype::kF32, KvDtype::kF16, KvDtype::kQ8_0}) {
    SCOPED_TRACE(KvDtypeName(kv));
    const Model model = BuildModel(RandomSource(config, 67), {.ctx_size = 2048, .kv_dtype = kv});
    const int64_t row = KvRowBytes(kv, config.attention.head_dim);
    std::vector<int64_t> spans;
    for (int layer = 0; layer < 2; ++layer)
      for (int64_t h = 0; h < 2; ++h) spans.push_back(plan.Span(layer, h, kLength));
    EXPECT_EQ(spans, (std::vector<int64_t>{128, 192, 320, 640}));

    SequenceState state(model, {}, plan.Fillings(kLength));
    EXPECT_EQ(state.kv_bytes(), 2 * row * (128 + 192 + 320 + 640));
    EXPECT_EQ(state.kv_bytes(), state.bytes());
    const RunBytes run = CountRun(config, {.ctx = 2048, .batch = 3, .kv = kv, .plan = plan.Fillings(kLength)});
    EXPECT_EQ(run.kv, 3 * state.kv_bytes());
    EXPECT_EQ(run.state, 0);
    const SequenceState dense(model, {}, AttentionPlan::Dense(config).Fillings(kLength));
    EXPECT_DOUBLE_EQ(static_cast<double>(state.kv_bytes()) / static_cast<double>(dense.kv_bytes()),
                     plan.Density(kLength));

    ForwardScratch scratch;
    const auto ids = RandomIds(700, 128, 68);
    const Segment prompt{&state, std::span(ids).first(600), LogitsOf::kNone};
    (void)model.Forward({&prompt, 1}, pool, scratch);
    int64_t tiles = 0;
    for (const int64_t span : spans) tiles += TilesOf(span, 64, 600);
    EXPECT_EQ(scratch.moved().key_tiles, tiles);
    EXPECT_LT(tiles, 4 * TilesOf(640, 64, 600));
    for (size_t at = 600; at < 700; ++at) {
      const PassBytes before = scratch.moved();
      (void)model.Step(state, ids[at], pool, scratch);
      int64_t rows = 0;
      for (const int64_t span : spans) rows += std::min(span, static_cast<int64_t>(at) + 1);
      const PassBytes step = scratch.moved() - before;
      ASSERT_EQ(step.kv_read, 2 * row * rows) << at;
      ASSERT_EQ(step.kv_written, 2 * row * 4);
      ASSERT_EQ(step.key_tiles, 0);
    }
  }
}

// What is held is taken as it is filled, and only that is saved.
TEST(SpanPlan, FilesHoldTheRowsThatAreThere) {
  const Model model = BuildModel(RandomSource(GroupedConfig(), 69), {.ctx_size = 2048, .kv_dtype = KvDtype::kF16});
  const AttentionPlan plan = FourSpans();
  ThreadPool pool(2);
  const auto ids = RandomIds(500, 128, 70);
  const TempDir folder;
  const std::string path = folder / "a.state";
  for (const size_t n : {size_t{40}, size_t{400}}) {
    SequenceState state(model, {}, plan.Fillings(1024));
    (void)LogitsInPieces(model, state, std::span(ids).first(n), {100}, pool);
    state.Save(path);
    int64_t rows = 0;
    for (const int64_t span : {128, 192, 512, 1024}) rows += std::min<int64_t>(span, static_cast<int64_t>(n));
    const auto size = static_cast<int64_t>(ReadFile(path).size());
    EXPECT_GT(size, 2 * 64 * rows);
    EXPECT_LT(size, 2 * 64 * rows + 4 * static_cast<int64_t>(n) + 4096);
    EXPECT_EQ(SequenceState::PlanLengthIn(path), 1024);
    SequenceState loaded = SequenceState::Load(path, model, plan.Fillings(1024)), child = state.Fork();
    const auto next = std::span(ids).subspan(n, 100);
    const auto want = LogitsInPieces(model, state, next, {1, 30, 1}, pool);
    ExpectSameBits(LogitsInPieces(model, loaded, next, {1, 30, 1}, pool), want);
    ExpectSameBits(LogitsInPieces(model, child, next, {1, 30, 1}, pool), want);
  }
  ExpectError([&] { (void)SequenceState::Load(path, model); }, ErrorCode::kUsage, {"a.state: kv_plan = \"four "});
  ExpectError([&] { (void)SequenceState::Load(path, model, plan.Fillings(512)); }, ErrorCode::kUsage,
              {"a.state: kv_plan_length = 1024: this run has 512 tokens"});
  AttentionPlan other = plan;
  other.layers[0].rules[1].alpha = 256;
  ExpectError([&] { (void)SequenceState::Load(path, model, other.Fillings(1024)); }, ErrorCode::kUsage,
              {"a.state: kv_plan = \"four "});
  SequenceState plain(model);
  (void)LogitsInPieces(model, plain, std::span(ids).first(10), {10}, pool);
  plain.Save(path);
  EXPECT_EQ(SequenceState::PlanLengthIn(path), 0);
  ExpectError([&] { (void)SequenceState::Load(path, model, plan.Fillings(512)); }, ErrorCode::kUsage,
              {"a.state: kv_plan = \"\""});
}

TEST(SpanPlan, TheContextBoundsASequenceAndRingsGoBackUntilTheyTurn) {
  const Model model = BuildModel(RandomSource(GroupedConfig(), 71), {.ctx_size = 200, .kv_dtype = KvDtype::kF16});
  ThreadPool pool(1);
  const auto ids = RandomIds(201, 128, 72);
  SequenceState state(model, {}, FourSpans().Fillings(128));  // four rings of 128 rows
  ExpectError([&] { (void)LogitsInPieces(model, state, ids, {201}, pool); }, ErrorCode::kUsage,
              {"--ctx-size 200", "201 tokens"});
  (void)LogitsInPieces(model, state, std::span(ids).first(128), {128}, pool);
  state.Truncate(100);
  SequenceState fresh(model, {}, FourSpans().Fillings(128));
  (void)LogitsInPieces(model, fresh, std::span(ids).first(100), {128}, pool);
  const auto next = std::span(ids).subspan(100, 100);
  EXPECT_LT(Difference(LogitsInPieces(model, state, next, {1}, pool), LogitsInPieces(model, fresh, next, {1}, pool)),
            1e-3);  // f16 keys
  ExpectError([&] { state.Truncate(150); }, ErrorCode::kUsage, {"200 to 150", "snapshot"});
  std::vector<std::byte> snapshot(static_cast<size_t>(fresh.SnapshotBytes()));
  fresh.Snapshot(snapshot);
  fresh.Reset();
  EXPECT_EQ(fresh.pos(), 0);
}

// ---- Batches, threads, drafts ----

TEST(SpanPlan, ThreadsAndBatchesChangeNoBit) {
  const Model model = BuildModel(RandomSource(GroupedConfig(), 73), {.ctx_size = 2048, .kv_dtype = KvDtype::kF16});
  const AttentionPlan plan = FourSpans();
  const std::array<int64_t, 3> lengths{100, 700, 1300};
  const size_t steps = 12;
  std::vector<std::vector<int32_t>> ids;
  for (const int64_t n : lengths) ids.push_back(RandomIds(n + 20, 128, 74 + static_cast<uint64_t>(n)));
  const auto prefilled = [&](size_t i, ThreadPool& pool) {
    SequenceState state(model, {}, plan.Fillings(lengths[i]));
    ForwardScratch scratch;
    (void)model.Prefill(state, std::span(ids[i]).first(static_cast<size_t>(lengths[i])), pool, scratch);
    return state;
  };
  const auto next = [&](size_t i, size_t n) { return std::span(ids[i]).subspan(static_cast<size_t>(lengths[i]), n); };
  std::vector<std::vector<float>> alone;
  for (const int threads : {1, 2, 3, 8}) {
    if (kSanitized && threads > 2) continue;
    ThreadPool pool(threads);
    for (size_t i = 0; i < lengths.size(); ++i) {
      SequenceState state = prefilled(i, pool);
      auto logits = LogitsInPieces(model, state, next(i, steps), {1}, pool);
      if (threads == 1) {
        alone.push_back(std::move(logits));
      } else {
        ExpectSameBits(logits, alone[i]);
      }
    }
    std::vector<SequenceState> states;
    for (size_t i = 0; i < lengths.size(); ++i) states.push_back(prefilled(i, pool));
    ForwardScratch scratch;
    for (size_t step = 0; step < steps; ++step) {
      std::vector<Segment> segments;
      for (size_t i = 0; i < lengths.size(); ++i) segments.push_back({&states[i], next(i, steps).subspan(step, 1)});
      const auto logits = model.Forward(segments, pool, scratch);
      for (size_t i = 0; i < lengths.size(); ++i)
        ExpectSameBits(logits.subspan(i * 128, 128), std::span<const float>(alone[i]).subspan(step * 128, 128));
    }
  }
}

// Says what comes, and now and then something else.
class Teller final : public Drafter {
 public:
  explicit Teller(std::vector<int32_t> text) : text_(std::move(text)) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  void Read(std::span<const int32_t> /*text*/) override {}
  [[nodiscard]] const Rates& expected() const override { return rates_; }
  int Look(std::span<const int32_t> text) override {
    at_ = text.size();
    return at_ < text_.size() ? 0 : -1;
  }
  std::span<const int32_t> Draft(int n) override {
    const size_t end = std::min(text_.size(), at_ + static_cast<size_t>(n));
    draft_.assign(text_.begin() + static_cast<std::ptrdiff_t>(at_), text_.begin() + static_cast<std::ptrdiff_t>(end));
    for (size_t i = 0; i < draft_.size(); ++i)
      if ((at_ + i) % 3 == 0) draft_[i] = (draft_[i] + 1) % 128;
    return draft_;
  }
  [[nodiscard]] int64_t bytes() const override { return 0; }

 private:
  std::string name_ = "teller";
  Rates rates_{0.9, 0.9, 0.9, 0.9};
  std::vector<int32_t> text_, draft_;
  size_t at_ = 0;
};

TEST(SpanPlan, GuessesChangeNoTokenAndNoRing) {
  const Model model = BuildModel(RandomSource(GroupedConfig(), 75), {.ctx_size = 2048, .kv_dtype = KvDtype::kF16});
  const KvPlan plan = FourSpans().Fillings(384);
  ThreadPool pool(2);
  const auto prompt = RandomIds(180, 128, 76);
  const auto decode = [&](std::unique_ptr<Drafter> drafter, std::vector<std::byte>* snapshot) {
    SequenceState state(model, {}, plan);
    ForwardScratch scratch;
    std::optional<Speculation> speculation;
    if (drafter) speculation.emplace(std::move(drafter), 5, true);
    std::vector<int32_t> text(prompt);
    auto logits = model.Prefill(state, prompt, pool, scratch);
    DecodeSteps steps(model, state, speculation ? &*speculation : nullptr, pool, scratch);
    for (int i = 0; i < 80; ++i) {
      text.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
      logits = steps.Next(text.back());
    }
    steps.End();
    snapshot->resize(static_cast<size_t>(state.SnapshotBytes()));
    state.Snapshot(*snapshot);
    return text;
  };
  std::vector<std::byte> plain, guessed;
  const auto text = decode(nullptr, &plain);
  EXPECT_EQ(decode(std::make_unique<Teller>(text), &guessed), text);
  EXPECT_TRUE(guessed == plain);
}

// ---- Spans of query heads, windows of Hydra, perplexity ----

TEST(SpanPlan, QueryHeadsMaySeeTheirOwnPartOfTheRing) {
  const ModelConfig config = GroupedConfig();
  const Model model = BuildModel(RandomSource(config, 77), {.ctx_size = 1024, .kv_dtype = KvDtype::kF32});
  AttentionPlan plan = AttentionPlan::Dense(config);
  plan.unit = PlanUnit::kHead;
  plan.layers[0].rules = {{0, 0}, {192, 0}, {256, 0}, {0, 1}, {0, 0}, {0, 0.25}};
  plan.layers[1].rules = {{320, 0}, {128, 0}, {0, 0.5}, {0, 0}, {0, 0}, {0, 0}};
  ThreadPool pool(2);
  const auto ids = RandomIds(500, 128, 78);
  for (const int64_t piece : {1, 100}) {
    SequenceState own(model, {}, plan.Fillings(512, HeadSpans::kOwn)), ring(model, {}, plan.Fillings(512)),
        masked(model, {}, MaskedPlan(plan, 512, HeadSpans::kOwn));
    EXPECT_EQ(own.kv_bytes(), ring.kv_bytes());
    const auto got = LogitsInPieces(model, own, ids, {piece}, pool);
    ExpectSameBits(got, LogitsInPieces(model, masked, ids, {piece}, pool));
    EXPECT_GT(Difference(LogitsInPieces(model, ring, ids, {piece}, pool), got), 1e-3);
  }
  ExpectError([] { (void)ParseHeadSpans("all", "--head-spans"); }, ErrorCode::kUsage,
              {"--head-spans = all", "ring or own"});
}

// Landmarks take the place of what a narrower window leaves out; a window that is the config's own changes nothing.
TEST(SpanPlan, HydrasHeadsHaveNarrowerWindows) {
  ModelConfig config = testing::Cases()[0].config;
  config.attention.window = 256;
  const Model model = BuildModel(RandomSource(config, 79));
  AttentionPlan plan = AttentionPlan::Dense(config);
  ThreadPool pool(2);
  const auto ids = RandomIds(420, config.vocab_size, 80);
  SequenceState plain(model), dense(model, {}, plan.Fillings(1024));
  const auto want = LogitsInPieces(model, plain, ids, {420}, pool);
  ExpectSameBits(LogitsInPieces(model, dense, ids, {420}, pool), want);
  for (LayerPlan& layer : plan.layers)
    for (size_t h = 0; h < layer.rules.size(); ++h) layer.rules[h] = {64.0 * static_cast<double>(1 + h % 3), 0};
  const KvPlan narrow = plan.Fillings(1024);
  SequenceState whole(model, {}, narrow), steps(model, {}, narrow);
  EXPECT_LT(whole.bytes(), plain.bytes());
  const auto got = LogitsInPieces(model, whole, ids, {420}, pool);
  EXPECT_GT(Difference(got, want), 1e-3);
  // Where two landmarks' scores are closer than rounding, another split may choose the other one: not with this seed.
  EXPECT_LT(Difference(LogitsInPieces(model, steps, ids, {1, 30, 7}, pool), got), kTolF32);
  const RunBytes run = CountRun(config, {.ctx = 512, .kv = KvDtype::kF32, .plan = narrow});
  EXPECT_EQ(run.state, whole.bytes());
  EXPECT_EQ(run.kv, 0);
}

TEST(SpanPlan, PerplexityScoresTheShareThatIsAskedFor) {
  const Model model = BuildModel(RandomSource(GroupedConfig(), 81), {.ctx_size = 512, .kv_dtype = KvDtype::kF32});
  ThreadPool pool(2);
  const auto ids = RandomIds(1100, 128, 82);
  const auto measure = [&](double scored, const KvPlan& plan) {
    return MeasurePerplexity(model, ids, {.chunk = 512, .scored = scored, .plan = plan}, pool);
  };
  const TextPerplexity half = measure(0.5, nullptr), quarter = measure(0.25, nullptr);
  EXPECT_EQ(half.tokens, 2 * 255);
  EXPECT_EQ(quarter.tokens, 2 * 127);
  ASSERT_EQ(quarter.chunk_losses.size(), 2U);
  EXPECT_NEAR(127 * (quarter.chunk_losses[0] + quarter.chunk_losses[1]), quarter.sum, 1e-9 * quarter.sum);
  const AttentionPlan dense = AttentionPlan::Dense(GroupedConfig());
  EXPECT_NEAR(measure(0.25, dense.Fillings(512)).loss(), quarter.loss(), 1e-4);
  EXPECT_GT(std::abs(measure(0.25, FourSpans().Fillings(512)).loss() - quarter.loss()), 1e-3);
  EXPECT_EQ(measure(1, nullptr).tokens, 2 * 510);
  ExpectError([&] { (void)measure(0, nullptr); }, ErrorCode::kUsage, {"scored share of 0"});
}

}  // namespace
}  // namespace hydra
