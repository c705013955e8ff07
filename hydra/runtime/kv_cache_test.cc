// SPDX-License-Identifier: Apache-2.0
// Caches: what each filling keeps and where; rows in and runs out; a new kind of cache written here, paged memory, that
// gives the bits of the plain one; states that go back by snapshots and by truncation; files of planned states.
#include "hydra/runtime/kv_cache.h"

#include <filesystem>
#include <map>

#include "hydra/base/testing.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::Case;
using testing::ExpectSameBits;
using testing::LogitsInPieces;
using testing::RandomIds;

// Position -> row, once `pos` positions have come.
std::map<int64_t, int64_t> Held(const KvFilling& filling, int64_t pos) {
  std::vector<RowRange> ranges;
  filling.AddRanges(pos, ranges);
  std::map<int64_t, int64_t> held;
  int64_t last = -1;
  for (const RowRange& range : ranges) {
    EXPECT_GT(range.first, last) << "ranges ascend";
    EXPECT_GT(range.n, 0);
    for (int64_t i = 0; i < range.n; ++i) held[range.first + i] = range.row + i;
    last = range.first + range.n - 1;
  }
  return held;
}

// A filling holds what its window and sinks say, each position in the row that RowOf names.
void ExpectHolds(const KvFilling& filling) {
  for (int64_t pos = 0; pos < 50; ++pos) {
    const auto held = Held(filling, pos);
    for (int64_t p = 0; p < pos; ++p) {
      const bool kept = p < filling.sinks() || filling.window() > pos || p >= pos - filling.window();
      ASSERT_EQ(held.count(p), kept ? 1U : 0U) << filling.Describe() << ": position " << p << " of " << pos;
      if (!kept) continue;
      EXPECT_EQ(held.at(p), filling.RowOf(p));
      EXPECT_LT(held.at(p), filling.Rows(64));
    }
  }
}

TEST(KvFilling, HoldsWindowAndSinks) {
  ExpectHolds(*KeepAll());
  for (const int64_t window : {1, 2, 7, 16})
    for (const int64_t sinks : {0, 1, 5}) ExpectHolds(*KeepRing(window, sinks));
  ExpectHolds(*KeepSpan(16, 5));
  EXPECT_EQ(KeepSpan(16, 5)->UsedRows(7, 21), 7);
  EXPECT_EQ(KeepSpan(16, 5)->UsedRows(70, 21), 21);
  EXPECT_EQ(KeepRing(16, 5)->UsedRows(7, 21), 21);
  EXPECT_EQ(KeepSpan(16, 5)->MostTokens(64), 64);
  EXPECT_EQ(KeepAll()->Describe(), "all");
  EXPECT_EQ(KeepRing(16, 4)->Describe(), "ring 16 + 4");
  EXPECT_FALSE(KeepRing(8, 2)->CanTruncate(11, 10, 64));
  EXPECT_TRUE(KeepRing(8, 2)->CanTruncate(10, 3, 64));
  EXPECT_TRUE(KeepAll()->CanTruncate(11, 1, 64));
}

// A latent cache: one a layer, whose values are the first 256 of the keys' 320 numbers.
TEST(KvCache, AValueMayLieInItsKeysRow) {
  const int64_t stride = KvRowBytes(KvDtype::kF16, 320), rows = 5;
  std::vector<std::byte> memory(static_cast<size_t>(rows * stride) + 64);
  const KvCacheLayout layout{KeepRing(4, 1), 64, 64, stride, stride};
  const KvCache cache(layout, memory.data());
  std::vector<std::byte> row(static_cast<size_t>(stride));
  for (int64_t p = 0; p < 11; ++p) {
    std::fill(row.begin(), row.end(), static_cast<std::byte>(p));
    cache.Put(layout.filling->RowOf(p), row.data(), nullptr);
  }
  std::vector<RowRange> ranges;
  std::vector<kernels::KeyRun> runs;
  cache.AddRuns(11, ranges, runs);
  std::vector<int64_t> seen;
  for (const kernels::KeyRun& run : runs)
    for (int64_t i = 0; i < run.n; ++i) {
      EXPECT_EQ(static_cast<const std::byte*>(run.k)[i * stride], static_cast<std::byte>(run.first + i));
      EXPECT_EQ(run.k, run.v);
      seen.push_back(run.first + i);
    }
  EXPECT_EQ(seen, (std::vector<int64_t>{0, 7, 8, 9, 10}));
}

// ---- A new kind of cache ----

// Every position, in pages of 16 rows that lie in reverse order.
class Paged final : public KvFilling {
 public:
  explicit Paged(int64_t pages) : pages_(pages) {}
  [[nodiscard]] int64_t Rows(int64_t /*ctx*/) const override { return pages_ * kPage; }
  [[nodiscard]] int64_t MostTokens(int64_t /*ctx*/) const override { return pages_ * kPage; }
  [[nodiscard]] bool grows() const override { return false; }
  [[nodiscard]] int64_t RowOf(int64_t pos) const override { return (pages_ - 1 - pos / kPage) * kPage + pos % kPage; }
  void AddRanges(int64_t pos, std::vector<RowRange>& out) const override {
    for (int64_t p = 0; p < pos; p += kPage) out.push_back({RowOf(p), std::min(kPage, pos - p), p});
  }
  [[nodiscard]] int64_t window() const override { return INT64_MAX; }
  [[nodiscard]] int64_t sinks() const override { return 0; }
  [[nodiscard]] std::string Describe() const override { return "paged"; }

 private:
  static constexpr int64_t kPage = 16;
  int64_t pages_;
};

TEST(KvCache, ANewKindGivesTheBitsOfTheOldOne) {
  const Case c = testing::Cases()[3];
  const Model model = testing::BuildModel(testing::RandomSource(c.config, 41), {.ctx_size = 256});
  ThreadPool pool(2);
  const auto ids = RandomIds(200, c.config.vocab_size, 42);
  SequenceState plain(model), paged(model, {}, [](int, int64_t) { return std::make_shared<Paged>(16); });
  for (const auto& [at, n, piece] : {std::array<size_t, 3>{0, 150, 90}, {150, 50, 1}})
    ExpectSameBits(LogitsInPieces(model, paged, std::span(ids).subspan(at, n), {static_cast<int64_t>(piece)}, pool),
                   LogitsInPieces(model, plain, std::span(ids).subspan(at, n), {static_cast<int64_t>(piece)}, pool));
  // A sequence has as many tokens as its smallest cache holds, whatever the config says.
  SequenceState small(model, {}, [](int, int64_t) { return std::make_shared<Paged>(2); }),
      rings(model, {}, [](int, int64_t) { return KeepRing(20); });
  ExpectError([&] { (void)LogitsInPieces(model, small, std::span(ids).first(33), {33}, pool); }, ErrorCode::kUsage,
              {"caches of 32", "33 tokens"});
  EXPECT_EQ(small.pos(), 0);
  const auto long_ids = RandomIds(300, c.config.vocab_size, 49);
  (void)LogitsInPieces(model, rings, long_ids, {300}, pool);  // beyond --ctx-size, which only caches that grow have
  ExpectError([&] { (void)LogitsInPieces(model, plain, std::span(long_ids).first(57), {57}, pool); }, ErrorCode::kUsage,
              {"--ctx-size 256", "257 tokens"});
}

// A layer with landmarks looks back to a chunk's start where the chunk ends.
TEST(KvCache, PlansThatALayerCannotFollowAreRefused) {
  const Case c = testing::Cases()[0];
  const Model model = testing::BuildModel(testing::RandomSource(c.config, 50), {.ctx_size = 64});
  const auto with = [&](const std::shared_ptr<const KvFilling>& filling) {
    return SequenceState(model, {}, [&](int, int64_t) { return filling; });
  };
  ExpectError([&] { (void)with(KeepRing(c.config.chunk_len - 1)); }, ErrorCode::kUsage,
              {"plan: layers.", StrCat("ring ", c.config.chunk_len - 1), StrCat("at least ", c.config.chunk_len)});
  ExpectError([&] { (void)with(KeepRing(c.config.chunk_len, 4)); }, ErrorCode::kUsage, {"plan: layers.", "no sinks"});
  ExpectError([&] { (void)KeepRing(0); }, ErrorCode::kUsage, {"a ring of 0 positions"});
  ExpectError([&] { (void)KeepRing(INT64_MAX, 4); }, ErrorCode::kUsage, {"a ring of 9223372036854775807 positions"});
  ThreadPool pool(1);
  SequenceState all = with(KeepAll());  // the config has rings, so nothing but the plan bounds the sequence
  const auto ids = RandomIds(65, c.config.vocab_size, 51);
  ExpectError([&] { (void)LogitsInPieces(model, all, ids, {65}, pool); }, ErrorCode::kUsage, {"--ctx-size 64", "65"});
  (void)LogitsInPieces(model, all, std::span(ids).first(64), {64}, pool);
}

// ---- Spans of heads ----

// A ring that is longer than the text sees what full attention sees; a shorter one forgets.
TEST(KvCache, HeadsKeepSpansOfTheirOwn) {
  const Case c = testing::Cases()[3];
  const Model model = testing::BuildModel(testing::RandomSource(c.config, 43), {.ctx_size = 256});
  ThreadPool pool(2);
  const auto ids = RandomIds(120, c.config.vocab_size, 44);
  SequenceState full(model), wide(model, {}, [](int, int64_t head) { return KeepRing(200 + head, head); }),
      narrow(model, {}, [](int, int64_t head) { return head == 1 ? KeepRing(30, 2) : nullptr; });
  const auto want = LogitsInPieces(model, full, ids, {50}, pool);
  EXPECT_LT(testing::Difference(LogitsInPieces(model, wide, ids, {50}, pool), want), testing::kTolF32);
  const auto got = LogitsInPieces(model, narrow, ids, {50}, pool);
  const size_t seen_whole = 30 * static_cast<size_t>(c.config.vocab_size);
  EXPECT_LT(testing::Difference(std::span(got).first(seen_whole), std::span(want).first(seen_whole)), testing::kTolF32);
  EXPECT_GT(testing::Difference(got, want), 1e-3);
  EXPECT_LT(narrow.bytes(), full.bytes());
  // One token at a time, and saved and loaded half way: the same within rounding, and to the bit.
  SequenceState steps(model, {}, narrow.plan());
  EXPECT_LT(testing::Difference(LogitsInPieces(model, steps, ids, {1}, pool), got), testing::kTolF32);
  const TempDir folder;
  steps.Save(folder / "a.state");
  SequenceState loaded = SequenceState::Load(folder / "a.state", model, narrow.plan());
  const auto next = std::span(ids).first(3);
  ExpectSameBits(LogitsInPieces(model, loaded, next, {1}, pool), LogitsInPieces(model, steps, next, {1}, pool));
  ExpectError([&] { (void)SequenceState::Load(folder / "a.state", model); }, ErrorCode::kUsage, {"a.state", "kv_plan"});
}

// ---- Back to an earlier position ----

TEST(SequenceState, SnapshotsBringBackWhatWas) {
  ThreadPool pool(2);
  for (const Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    const Model model = testing::BuildModel(testing::RandomSource(c.config, 45));
    const auto ids = RandomIds(160, c.config.vocab_size, 46);
    SequenceState state(model);
    (void)LogitsInPieces(model, state, std::span(ids).first(70), {70}, pool);
    std::vector<std::byte> snapshot(static_cast<size_t>(state.SnapshotBytes()));
    if (c.config.HasSsm()) {
      EXPECT_EQ(state.SnapshotBytes(), CountRun(c.config, {.ctx = 512, .kv = KvDtype::kF32}).snapshot);
    }
    state.Snapshot(snapshot);
    const auto rest = std::span(ids).subspan(70);
    const auto want = LogitsInPieces(model, state, rest, {1}, pool);
    state.Restore(snapshot);
    EXPECT_EQ(state.pos(), 70);
    ExpectSameBits(LogitsInPieces(model, state, rest, {1}, pool), want);
    SequenceState other(model);  // began otherwise
    (void)LogitsInPieces(model, other, rest, {100}, pool);
    ExpectError([&] { other.Restore(snapshot); }, ErrorCode::kUsage, {"70 tokens", "began otherwise"});
    ExpectError([&] { state.Restore(std::span(snapshot).first(10)); }, ErrorCode::kUsage, {"10 bytes"});
  }
}

TEST(SequenceState, TruncatesWhatGrowsAndRefusesTheRest) {
  ThreadPool pool(1);
  for (const Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    const Model model = testing::BuildModel(testing::RandomSource(c.config, 47));
    const auto ids = RandomIds(60, c.config.vocab_size, 48);
    SequenceState state(model), fresh(model);
    (void)LogitsInPieces(model, state, ids, {60}, pool);
    if (c.config.HasSsm()) {
      ExpectError([&] { state.Truncate(40); }, ErrorCode::kUsage, {"40", "snapshot"});
      EXPECT_EQ(state.pos(), 60);
    } else {
      state.Truncate(40);
      (void)LogitsInPieces(model, fresh, std::span(ids).first(40), {60}, pool);
      const auto next = std::span(ids).first(5);
      EXPECT_LT(testing::Difference(LogitsInPieces(model, state, next, {1}, pool),
                                    LogitsInPieces(model, fresh, next, {1}, pool)),
                testing::kTolF32);
    }
    state.Truncate(0);
    EXPECT_EQ(state.pos(), 0);
  }
}

}  // namespace
}  // namespace hydra
