// SPDX-License-Identifier: Apache-2.0
// Memory that runs out at each allocation of a pass, a commit, a fork or new controls: the state is as it was, or says
// that it is broken and can be restored. This file replaces operator new for its whole test binary.
#ifndef HYDRA_SANITIZED  // sanitizers have an operator new of their own
#include <atomic>
#include <cstdlib>
#include <new>

#include "hydra/base/testing.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/testing.h"

namespace {

std::atomic<int64_t> g_allocations_left{INT64_MAX};  // then operator new throws

void* Allocate(std::size_t n, std::size_t align) {
  if (g_allocations_left.fetch_sub(1, std::memory_order_relaxed) <= 0) throw std::bad_alloc();
  const std::size_t rounded = (std::max<std::size_t>(n, 1) + align - 1) / align * align;
  void* p = align <= alignof(std::max_align_t) ? std::malloc(n) : std::aligned_alloc(align, rounded);
  if (p == nullptr && n > 0) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t n) { return Allocate(std::max<std::size_t>(n, 1), alignof(std::max_align_t)); }
void* operator new(std::size_t n, std::align_val_t align) { return Allocate(n, static_cast<std::size_t>(align)); }
void* operator new[](std::size_t n) { return ::operator new(n); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return std::malloc(std::max<std::size_t>(n, 1)); }
void* operator new[](std::size_t n, const std::nothrow_t& tag) noexcept { return ::operator new(n, tag); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace hydra {
namespace {

using testing::Case;
using testing::ExpectSameBits;
using testing::LogitsInPieces;
using testing::RandomIds;

// Runs f with the n-th allocation failing; false when f has fewer.
template <class F>
bool FailsAt(int64_t n, F&& f) {
  g_allocations_left = n;
  bool failed = false;
  try {
    f();
  } catch (const std::bad_alloc&) {
    failed = true;
  } catch (...) {
    g_allocations_left = INT64_MAX;
    throw;
  }
  g_allocations_left = INT64_MAX;
  return failed;
}

struct Scene {
  explicit Scene(const Case& c)
      : model(testing::BuildModel(testing::RandomSource(c.config, 51),
                                  {.ctx_size = 1024, .kv_dtype = KvDtype::kF32, .act = Activations::kF32})),
        ids(RandomIds(150, c.config.vocab_size, 52)) {
    (void)LogitsInPieces(model, base, std::span(ids).first(60), {60}, pool);
    snapshot.resize(static_cast<size_t>(base.SnapshotBytes()));
    base.Snapshot(snapshot);
    SequenceState state = base.Fork();
    next = LogitsInPieces(model, state, std::span(ids).subspan(60, 2), {1}, pool);
  }
  // The state gives what it gave at 60 tokens, where a broken one is restored first.
  void ExpectAsItWas(SequenceState& state, bool may_be_broken) {
    EXPECT_TRUE(may_be_broken || !state.broken());
    if (state.broken()) {
      ForwardScratch scratch;
      ExpectError([&] { (void)model.Step(state, 1, pool, scratch); }, ErrorCode::kUsage, {"half way"});
      ExpectError([&] { (void)state.Fork(); }, ErrorCode::kUsage, {"half way"});
      state.Restore(snapshot);
    }
    EXPECT_EQ(state.pos(), 60);
    ExpectSameBits(LogitsInPieces(model, state, std::span(ids).subspan(60, 2), {1}, pool), next);
  }

  Model model;
  std::vector<int32_t> ids;
  ThreadPool pool{2};
  SequenceState base{model};
  std::vector<std::byte> snapshot;
  std::vector<float> next;
};

TEST(Failure, APassThatFailsLeavesTheStateOrMarksIt) {
  for (const Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    Scene s(c);
    for (const size_t tokens : {1, 70}) {
      int64_t failures = 0, broken = 0;
      for (bool failed = true; failed; ++failures) {
        SequenceState state = s.base.Fork();
        ForwardScratch scratch;
        const auto piece = std::span(s.ids).subspan(60, tokens);
        failed = FailsAt(failures, [&] { (void)s.model.Prefill(state, piece, s.pool, scratch); });
        if (!failed) break;
        broken += state.broken() ? 1 : 0;
        s.ExpectAsItWas(state, true);
        // The same scratch works for the next pass.
        SequenceState again = s.base.Fork();
        const auto logits = s.model.Step(again, s.ids[60], s.pool, scratch);
        ExpectSameBits(logits, std::span(s.next).first(logits.size()));
        if (::testing::Test::HasFailure()) return;
      }
      EXPECT_GT(failures, 20);
      EXPECT_GT(broken, 0);
    }
  }
}

// A prompt of several passes beside one that ends in the first of them: as they were, or marked, both of them.
TEST(Failure, ABatchOfSeveralPassesThatFails) {
  const Case c = testing::Cases()[0];  // landmarks take memory in each pass
  Scene s(c);
  const auto text = RandomIds(kPassTokens + 30, c.config.vocab_size, 53);
  const std::span<const int32_t> ids(text);
  int64_t failures = 0, in_the_second = 0;
  for (bool failed = true; failed; failures += 3) {
    SequenceState states[] = {s.base.Fork(), s.base.Fork()};
    SequenceState drafted = s.base.Fork();
    Provisional kept(drafted, 4);
    ForwardScratch scratch;
    const Segment segments[] = {
        {&states[0], ids.first(50)}, {&states[1], ids}, {&drafted, ids.first(4), LogitsOf::kAll, &kept}};
    failed = FailsAt(failures, [&] { (void)s.model.Forward(segments, s.pool, scratch); });
    if (!failed) break;
    EXPECT_EQ(kept.waiting(), 0);
    in_the_second += states[0].pos() > 60 ? 1 : 0;
    for (SequenceState& state : states) s.ExpectAsItWas(state, true);
    s.ExpectAsItWas(drafted, false);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(failures, 20);
  EXPECT_GT(in_the_second, 0);
}

TEST(Failure, ABrokenStateInABatchHarmsNoOther) {
  const Case c = testing::Cases()[3];
  Scene s(c);
  ForwardScratch scratch;
  SequenceState good = s.base.Fork(), drafted = s.base.Fork(), broken = s.base.Fork();
  broken.BeginPass();
  Provisional kept(drafted, 4), other(broken, 4);
  const std::span<const int32_t> ids(s.ids);
  const Segment beside[] = {
      {&good, ids.first(2)}, {&drafted, ids.first(2), LogitsOf::kAll, &kept}, {&broken, ids.first(2)}};
  ExpectError([&] { (void)s.model.Forward(beside, s.pool, scratch); }, ErrorCode::kUsage, {"half way"});
  EXPECT_EQ(kept.waiting(), 0);
  s.ExpectAsItWas(good, false);
  s.ExpectAsItWas(drafted, false);
  const Segment alone{&broken, ids.first(2), LogitsOf::kAll, &other};
  ExpectError([&] { (void)s.model.Forward({&alone, 1}, s.pool, scratch); }, ErrorCode::kUsage, {"half way"});
}

TEST(Failure, AProvisionalPassThatFailsLeavesTheStateAsItWas) {
  for (const Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    Scene s(c);
    const auto draft = std::span<const int32_t>(s.ids).subspan(60, 20);  // over the end of a chunk
    int64_t failures = 0;
    for (bool failed = true; failed; ++failures) {
      SequenceState state = s.base.Fork();
      ForwardScratch scratch;
      Provisional kept(state, 20);
      const Segment segment{&state, draft, LogitsOf::kAll, &kept};
      failed = FailsAt(failures, [&] { (void)s.model.Forward({&segment, 1}, s.pool, scratch); });
      if (failed) {
        EXPECT_EQ(kept.waiting(), 0);
      }
      s.ExpectAsItWas(state, false);
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_GT(failures, 20);
  }
}

TEST(Failure, CommitsForksAndControlsThatFail) {
  for (const Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    Scene s(c);
    ForwardScratch scratch;
    for (int64_t n = 0, failed = 1; failed != 0; ++n) {
      SequenceState state = s.base.Fork();
      Provisional kept(state, 20);
      const Segment segment{&state, std::span<const int32_t>(s.ids).subspan(60, 20), LogitsOf::kNone, &kept};
      (void)s.model.Forward({&segment, 1}, s.pool, scratch);
      failed = FailsAt(n, [&] { s.model.Commit(state, kept, 20, s.pool, scratch); }) ? 1 : 0;
      if (failed != 0) s.ExpectAsItWas(state, true);
    }
    for (int64_t n = 0, failed = 1; failed != 0; ++n) {
      SequenceState state = s.base.Fork();
      failed = FailsAt(n, [&] { (void)state.Fork(); }) ? 1 : 0;
      s.ExpectAsItWas(state, false);
    }
    for (int64_t n = 0, failed = c.config.HasFfn(FfnKind::kChunkMoe) ? 1 : 0; failed != 0; ++n) {
      SequenceState state = s.base.Fork();
      failed = FailsAt(n, [&] { state.SetControls({.moe_top_k = 5}); }) ? 1 : 0;
      if (failed == 0) continue;
      EXPECT_FALSE(state.controls().moe_top_k.has_value());
      s.ExpectAsItWas(state, false);
    }
  }
}

}  // namespace
}  // namespace hydra
#endif  // HYDRA_SANITIZED
