// SPDX-License-Identifier: Apache-2.0
// Provisional passes: bits of single steps, a state that stays as it was, commits of any length; over every kind of
// model, type of weights, keys and state, number of threads, alone and beside prompts and steps of other sequences.
#include "hydra/runtime/provisional.h"

#include "hydra/base/testing.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::Case;
using testing::ExpectSameBits;
using testing::LogitsInPieces;
using testing::RandomIds;

// The cases of the other tests; a window as short as a chunk, so that new landmarks are seen at once; heads of one
// layer that keep everything, a ring, and a ring with sinks.
struct PlannedCase : Case {
  KvPlan plan = nullptr;
};
std::vector<PlannedCase> PlannedCases() {
  std::vector<PlannedCase> cases;
  for (Case& c : testing::Cases()) cases.push_back({std::move(c)});
  PlannedCase tight = cases[0];
  tight.name = "window of a chunk";
  tight.config.attention.window = tight.config.chunk_len;
  cases.push_back(tight);
  PlannedCase planned = cases[3];
  planned.name = "planned heads";
  planned.plan = [](int layer, int64_t head) -> std::shared_ptr<const KvFilling> {
    if (layer == 0) return head % 2 == 0 ? KeepRing(24) : nullptr;
    return KeepRing(70 + head, 3);
  };
  cases.push_back(planned);
  PlannedCase spans = cases[5];
  spans.name = "spans of a plan, query heads with their own";
  spans.plan = [](int /*layer*/, int64_t head) {
    return head == 0 ? KeepSpan(64, 64) : KeepSpan(192, 64, {64, 128, 192});
  };
  cases.push_back(spans);
  return cases;
}

std::vector<std::byte> SnapshotOf(const SequenceState& state) {
  std::vector<std::byte> out(static_cast<size_t>(state.SnapshotBytes()));
  state.Snapshot(out);
  return out;
}

// All logits of a provisional pass over ids.
std::vector<float> Try(const Model& model, SequenceState& state, std::span<const int32_t> ids, Provisional& kept,
                       ThreadPool& pool, ForwardScratch& scratch) {
  const Segment segment{&state, ids, LogitsOf::kAll, &kept};
  const auto logits = model.Forward({&segment, 1}, pool, scratch);
  return {logits.begin(), logits.end()};
}

// A pass over `n` tokens behind the state `before` gives the logits of steps and changes nothing; what Commit takes of
// it is what as many steps leave.
void ExpectStepsAndCommits(const Model& model, const SequenceState& before, std::span<const int32_t> ids,
                           ThreadPool& pool) {
  const auto n = static_cast<int64_t>(ids.size()) - 1;  // the last one is a step behind the commits
  const auto V = static_cast<size_t>(model.config().vocab_size);
  std::vector<SequenceState> after;  // 0 .. n steps
  std::vector<float> want;
  after.push_back(before.Fork());
  for (int64_t t = 0; t < n; ++t) {
    after.push_back(after.back().Fork());
    const auto logits = LogitsInPieces(model, after.back(), ids.subspan(static_cast<size_t>(t), 1), {1}, pool);
    want.insert(want.end(), logits.begin(), logits.end());
  }
  SequenceState state = before.Fork();
  Provisional kept(state, kProvisionalTokens);
  ForwardScratch scratch;
  for (const int64_t m : {n, int64_t{0}, int64_t{1}, n / 2}) {
    SCOPED_TRACE(StrCat("commit of ", m));
    const auto drafted = ids.first(static_cast<size_t>(n));
    ExpectSameBits(Try(model, state, drafted, kept, pool, scratch), want);
    EXPECT_EQ(state.pos(), before.pos());
    EXPECT_TRUE(SnapshotOf(state) == SnapshotOf(before));
    model.Commit(state, kept, m, pool, scratch);
    EXPECT_EQ(kept.waiting(), 0);
    const SequenceState& steps = after[static_cast<size_t>(m)];
    EXPECT_EQ(state.pos(), steps.pos());
    EXPECT_TRUE(SnapshotOf(state) == SnapshotOf(steps));
    SequenceState one = state.Fork(), two = steps.Fork();
    const auto next = ids.subspan(static_cast<size_t>(m), 1);
    ExpectSameBits(LogitsInPieces(model, one, next, {1}, pool), LogitsInPieces(model, two, next, {1}, pool));
    state = before.Fork();
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_EQ(want.size(), static_cast<size_t>(n) * V);
}

struct Types {
  WeightType weights;
  Activations act;
  KvDtype kv;
  StateDtype state;
};
constexpr Types kTypes[] = {{WeightType::kF32, Activations::kF32, KvDtype::kF32, StateDtype::kF32},
                            {WeightType::kBF16, Activations::kF32, KvDtype::kF16, StateDtype::kBF16},
                            {WeightType::kQ8_0, Activations::kQ8, KvDtype::kQ8_0, StateDtype::kF32},
                            {WeightType::kQ4_0, Activations::kF32, KvDtype::kBF16, StateDtype::kF32}};

TEST(Provisional, GivesTheBitsOfStepsAndCommitsThem) {
  for (const PlannedCase& c : PlannedCases())
    for (const Types& types : kTypes)
      for (const int threads : {1, 3}) {
        if (kSanitized && (threads == 1 || types.kv == KvDtype::kF32 || types.kv == KvDtype::kBF16)) continue;
        const Model model =
            testing::BuildModel(testing::RandomSource(c.config, 21, types.weights),
                                {.ctx_size = 512, .kv_dtype = types.kv, .state_dtype = types.state, .act = types.act});
        ThreadPool pool(threads);
        const auto ids = RandomIds(400, c.config.vocab_size, 22);
        // From the start; over the end of a chunk; where landmarks are full and the ring has turned.
        for (const auto& [at, n] : {std::pair<size_t, size_t>{0, 3}, {62, 5}, {340, 32}}) {
          SCOPED_TRACE(
              StrCat(c.name, ", ", Info(types.weights).name, ", threads ", threads, ", ", n, " tokens at ", at));
          SequenceState state(model, {}, c.plan);
          if (at > 0) (void)LogitsInPieces(model, state, std::span(ids).first(at), {100}, pool);
          ExpectStepsAndCommits(model, state, std::span(ids).subspan(at, n + 1), pool);
          if (::testing::Test::HasFailure()) return;
        }
      }
}

// Queries of a long context are cut into ranges of keys: before and behind the place where that begins, with all keys,
// with a ring, and with one whose sinks are apart. Steps are what a prompt read at once gives.
TEST(Provisional, CrossesTheCutOfALongContext) {
  const Case c = testing::Cases()[3];
  const Model model =
      testing::BuildModel(testing::RandomSource(c.config, 23), {.ctx_size = 2200, .kv_dtype = KvDtype::kF16});
  const auto ids = RandomIds(2100, c.config.vocab_size, 24);
  const KvPlan plans[] = {nullptr, [](int, int64_t head) { return KeepRing(1100 + head); },
                          [](int, int64_t) { return KeepRing(1030, 7); },
                          [](int, int64_t) { return KeepSpan(960, 64); }};
  for (const KvPlan& plan : plans)
    for (const size_t at : {size_t{504}, size_t{1016}, size_t{2040}}) {
      if (kSanitized && at > 2000) continue;
      SCOPED_TRACE(StrCat(at, " tokens, ", plan ? plan(0, 0)->Describe() : "all"));
      ThreadPool pool(2), one(1);
      const auto before = std::span(ids).first(at), next = std::span(ids).subspan(at, 17);
      SequenceState state(model, {}, plan), whole(model, {}, plan), steps(model, {}, plan);
      (void)LogitsInPieces(model, state, before, {512}, pool);
      ExpectStepsAndCommits(model, state, next, pool);
      if (!kSanitized) ExpectStepsAndCommits(model, state, next, one);
      (void)LogitsInPieces(model, whole, before, {512}, pool);
      (void)LogitsInPieces(model, steps, before, {512}, pool);
      EXPECT_LT(testing::Difference(LogitsInPieces(model, steps, next, {1}, pool),
                                    LogitsInPieces(model, whole, next, {17}, pool)),
                1e-3);  // f16 keys
    }
}

// The keys of a long window are not cut into ranges where landmarks change in the middle of a pass.
TEST(Provisional, CrossesTheEndOfALongChunk) {
  Case c = testing::Cases()[0];
  c.config.chunk_len = c.config.attention.window = 1088;
  const Model model =
      testing::BuildModel(testing::RandomSource(c.config, 31), {.ctx_size = 1200, .kv_dtype = KvDtype::kF16});
  const auto ids = RandomIds(1100, c.config.vocab_size, 32);
  ThreadPool pool(2);
  SequenceState state(model);
  (void)LogitsInPieces(model, state, std::span(ids).first(1080), {512}, pool);
  ExpectStepsAndCommits(model, state, std::span(ids).subspan(1080, 17), pool);
}

// A prompt's numbers are its own, also where the last token of another one stands behind it.
TEST(Provisional, APromptsTailIsNoStep) {
  const Case c = testing::Cases()[3];
  const Model model = testing::BuildModel(testing::RandomSource(c.config, 33), {.ctx_size = 600});
  const auto ids = RandomIds(511, c.config.vocab_size, 34), other = RandomIds(50, c.config.vocab_size, 35);
  ThreadPool pool(2);
  ForwardScratch scratch;
  SequenceState alone(model), first(model), second(model);
  const auto want = LogitsInPieces(model, alone, ids, {511}, pool);
  const Segment segments[] = {{&first, ids, LogitsOf::kAll}, {&second, other, LogitsOf::kNone}};
  ExpectSameBits(model.Forward(segments, pool, scratch), want);
}

// Prompts, steps and provisional passes share a forward call: more steps than a small batch has, of float weights.
TEST(Provisional, SharesAPassWithPromptsAndSteps) {
  for (const Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    const Model model = testing::BuildModel(testing::RandomSource(c.config, 25, WeightType::kF16), {.ctx_size = 128});
    ThreadPool pool(2);
    ForwardScratch scratch;
    const auto V = static_cast<size_t>(c.config.vocab_size);
    constexpr size_t kOthers = 20, kDraft = 6, kPrompt = 60;
    std::vector<SequenceState> states;
    std::vector<Provisional> kept;
    std::vector<std::vector<int32_t>> ids;
    std::vector<float> want;
    kept.reserve(kOthers);
    for (size_t i = 0; i < kOthers; ++i) {
      ids.push_back(RandomIds(40, c.config.vocab_size, 30 + i));
      states.emplace_back(model);
      (void)LogitsInPieces(model, states[i], std::span(ids[i]).first(10 + i), {100}, pool);
      SequenceState alone = states[i].Fork();
      const size_t n = i % 2 == 0 ? 1 : kDraft;
      const auto logits = LogitsInPieces(model, alone, std::span(ids[i]).subspan(10 + i, n), {1}, pool);
      want.insert(want.end(), logits.begin(), logits.end());
      kept.emplace_back(states[i], static_cast<int64_t>(kDraft));
    }
    SequenceState prompt(model), prompt_alone(model);
    const auto text = RandomIds(kPrompt, c.config.vocab_size, 60);
    std::vector<Segment> segments{{&prompt, text, LogitsOf::kNone}};
    for (size_t i = 0; i < kOthers; ++i) {
      const bool step = i % 2 == 0;
      segments.push_back({&states[i], std::span(ids[i]).subspan(10 + i, step ? 1 : kDraft),
                          step ? LogitsOf::kLast : LogitsOf::kAll, step ? nullptr : &kept[i]});
    }
    const auto got = model.Forward(segments, pool, scratch);
    ExpectSameBits(got, want);
    EXPECT_EQ(got.size() % V, 0U);
    const auto next = std::span(text).first(1);
    (void)LogitsInPieces(model, prompt_alone, text, {1 << 20}, pool);
    EXPECT_LT(testing::Difference(LogitsInPieces(model, prompt, next, {1}, pool),
                                  LogitsInPieces(model, prompt_alone, next, {1}, pool)),
              testing::kTolF32);
  }
}

TEST(Provisional, MovesTheWeightsOfOneStepAndCommitMovesNone) {
  for (const Case& c : {testing::Cases()[3], testing::Cases()[4]}) {
    SCOPED_TRACE(c.name);
    const Model model = testing::BuildModel(testing::RandomSource(c.config, 26));
    ThreadPool pool(1);
    ForwardScratch scratch;
    SequenceState state(model);
    const auto ids = RandomIds(8, c.config.vocab_size, 27);
    Provisional kept(state, 8);
    (void)Try(model, state, ids, kept, pool, scratch);
    const PassBytes pass = scratch.moved();
    model.Commit(state, kept, 8, pool, scratch);
    const PassBytes commit = scratch.moved() - pass;  // that it reads no weights is in touched_test.cc
    EXPECT_EQ(commit.weights, 0);
    EXPECT_EQ(commit.state_written, CountState(c.config, KvDtype::kF32, StateDtype::kF32).total());
    EXPECT_EQ(commit.kv_written, 0);  // the caches grow
    ForwardScratch other;
    (void)model.Step(state, 1, pool, other);
    const int64_t rows = 7 * RowBytes(WeightType::kF32, c.config.d_model);  // of the embedding
    EXPECT_EQ(pass.weights - rows, other.moved().weights);
    EXPECT_EQ(pass.state_written, 0);
  }
}

TEST(Provisional, WrongUseIsRefused) {
  const Case c = testing::Cases()[0];
  const Model model = testing::BuildModel(testing::RandomSource(c.config, 28));
  ThreadPool pool(1);
  ForwardScratch scratch;
  SequenceState state(model), other(model);
  Provisional kept(state, 4);
  const auto ids = RandomIds(5, c.config.vocab_size, 29);
  const auto refused = [](auto&& f) { EXPECT_THROW(f(), std::exception); };
  refused([&] { (void)Try(model, state, ids, kept, pool, scratch); });  // more than there is room for
  refused([&] { model.Commit(state, kept, 1, pool, scratch); });        // nothing waits
  (void)Try(model, state, std::span(ids).first(3), kept, pool, scratch);
  refused([&] { model.Commit(state, kept, 4, pool, scratch); });
  refused([&] { model.Commit(other, kept, 3, pool, scratch); });
  model.Commit(state, kept, 2, pool, scratch);
  EXPECT_EQ(state.pos(), 2);
  EXPECT_FALSE(state.broken());
}

// What waits is for the state as it was in the pass: rows of caches that grow lie in the state.
TEST(Provisional, OnlyTheLastPassOverAnUnchangedStateCanBeTaken) {
  const Case c = testing::Cases()[3];
  const Model model = testing::BuildModel(testing::RandomSource(c.config, 36));
  ThreadPool pool(1);
  ForwardScratch scratch;
  const auto ids = RandomIds(8, c.config.vocab_size, 37);
  SequenceState state(model);
  Provisional kept(state, 4), second(state, 4);
  std::vector<std::byte> start(static_cast<size_t>(state.SnapshotBytes()));
  state.Snapshot(start);
  const auto try_it = [&](Provisional& k) { (void)Try(model, state, std::span(ids).first(3), k, pool, scratch); };
  const auto refused = [&](SequenceState& of) {
    EXPECT_THROW(model.Commit(of, kept, 2, pool, scratch), std::exception);
    EXPECT_FALSE(of.broken());
  };
  try_it(kept);
  SequenceState fork = state.Fork();
  refused(fork);
  try_it(second);
  refused(state);
  model.Commit(state, second, 2, pool, scratch);
  state.Truncate(0);
  try_it(kept);
  (void)model.Step(state, ids[5], pool, scratch);
  state.Restore(start);
  refused(state);
  try_it(kept);
  state.SetControls({});
  refused(state);
  SequenceState other(model);
  const Segment twice[] = {{&state, std::span(ids).first(2), LogitsOf::kAll, &kept},
                           {&other, std::span(ids).first(2), LogitsOf::kAll, &kept}};
  EXPECT_THROW((void)model.Forward(twice, pool, scratch), std::exception);
}

}  // namespace
}  // namespace hydra
