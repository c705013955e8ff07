// SPDX-License-Identifier: Apache-2.0
// The products of BlockFFN's experts. Not here: what multiplies (matmul.cc), the scalar twin (blockffn_ref.cc).
#include "hydra/kernels/blockffn.h"

#include <algorithm>
#include <bit>

#include "hydra/base/error.h"
#include "hydra/kernels/ops.h"

namespace hydra::kernels {

int64_t ExpertLists::CountBelow(int64_t e, int64_t end) const {
  return std::lower_bound(rows(e), rows(e) + count(e), end) - rows(e);
}

namespace {

// f(expert) for the bits of a token.
template <class F>
void ForBits(const uint32_t* words, int64_t E, F&& f) {
  constexpr int64_t kBits = 32;
  for (int64_t w = 0; w * kBits < E; ++w)
    for (uint32_t bits = words[w]; bits != 0; bits &= bits - 1) f(w * kBits + std::countr_zero(bits));
}

}  // namespace

void ExpertProducts::Begin(const ExpertGates& g, int64_t steps) {
  n_ = g.n;
  steps_ = steps;
  next_ = 0;
  const int64_t words = (g.E + 31) / 32;
  const auto row = [&](int64_t i) { return g.list != nullptr ? g.list[i] : i; };
  const auto each_active = [&](auto&& f) {
    for (int64_t i = 0; i < g.n; ++i) ForBits(g.active + row(i) * words, g.E, [&](int64_t e) { f(row(i), e); });
  };
  counts_.assign(static_cast<size_t>(g.E), 0);
  int64_t total = 0;
  each_active([&](int64_t, int64_t e) { ++counts_[static_cast<size_t>(e)], ++total; });
  // A token of a few has its own experts alone; all of them may be listed without gathering even so.
  const auto all = static_cast<double>(g.n);
  const bool few = g.n <= kFew,
             layer = !few && static_cast<double>(total) > kWholeLayer * all * static_cast<double>(g.E);
  whole_.assign(counts_.size(), 0);
  for (size_t e = 0; g.list == nullptr && e < counts_.size(); ++e)
    whole_[e] = counts_[e] > 0 &&
                (counts_[e] == g.n || layer || (!few && static_cast<double>(counts_[e]) >= kWholeExpert * all));
  lists_.Build(g.E, [&](auto&& f) {
    const auto add = [&](int64_t t, int64_t e) {
      f(t, e, g.gates[t * g.E + e] * (g.scale != nullptr ? g.scale[t] : 1.0f));
    };
    each_active([&](int64_t t, int64_t e) {
      if (!Whole(e)) add(t, e);
    });
    for (int64_t e = 0; e < g.E; ++e)
      for (int64_t t = 0; Whole(e) && t < g.n; ++t) add(t, e);
  });
}

int64_t ExpertProducts::StepsOf(int64_t e) const { return n_ <= kFew ? lists_.count(e) : lists_.CountBelow(e, steps_); }

bool ExpertProducts::AddUp(std::span<const Matrix> up, const float* x, std::vector<MatMulArgs>& out) {
  const auto E = static_cast<int64_t>(up.size());
  while (next_ < E && lists_.count(next_) == 0) ++next_;
  if (next_ == E) return false;
  const int64_t de = up[static_cast<size_t>(next_)].rows;
  float* hidden = hidden_.Get(lists_.total() * de);
  int64_t gathered = 0;
  for (; next_ < E; ++next_) {
    const int64_t count = lists_.count(next_);
    if (count == 0) continue;
    if (!Whole(next_)) gathered += count;
    if (gathered > (n_ > kFew ? 2 * n_ : kFewGathered)) break;  // never at the first: a list has n tokens at most
    out.push_back({.w = up[static_cast<size_t>(next_)],
                   .x = x,
                   .y = hidden + lists_.begin(next_) * de,
                   .T = count,
                   .x_rows = Whole(next_) ? nullptr : lists_.rows(next_),
                   .row_scale = lists_.weights(next_),
                   .silu = true,
                   .steps = StepsOf(next_)});
  }
  return true;
}

void ExpertProducts::AddDown(std::span<const Matrix> down, float* y, std::vector<MatMulArgs>& out) const {
  lists_.ForEach([&](int64_t e) {
    const Matrix& w = down[static_cast<size_t>(e)];
    out.push_back({.w = w,
                   .x = hidden_.data() + lists_.begin(e) * w.cols,
                   .y = y,
                   .T = lists_.count(e),
                   .y_rows = Whole(e) ? nullptr : lists_.rows(e),
                   .accumulate = true,
                   .steps = StepsOf(e)});
  });
}

void BlockFfn(const BlockFfnArgs& a, const MatMulOptions& options, ThreadPool& pool, BlockFfnScratch& s) {
  HYDRA_CHECK(static_cast<int64_t>(a.up.size()) == a.E && static_cast<int64_t>(a.down.size()) == a.E);
  const int64_t words = (a.E + 31) / 32;
  float* gates = s.gates.Get(a.n * a.E);
  uint32_t* active = a.active_bits != nullptr ? a.active_bits : s.active.Get(a.n * words);
  const int64_t steps = a.n <= ExpertProducts::kFew ? a.n : 0;
  MatMul({.w = a.router, .x = a.x, .y = gates, .T = a.n, .f32 = true, .steps = steps}, options, pool, s.matmul);
  ReluGates(
      {.raw = gates, .scale = a.router_scale, .gates = gates, .active = active, .n = a.n, .E = a.E, .eps = a.eps});
  s.products.Begin({.gates = gates, .active = active, .n = a.n, .E = a.E}, steps);
  s.maps.clear();
  while (s.products.AddUp(a.up, a.x, s.maps)) {
    MatMul(s.maps, options, pool, s.matmul);
    s.maps.clear();
  }
  std::fill_n(a.y, a.n * a.D, 0.0f);
  s.products.AddDown(a.down, a.y, s.maps);
  MatMul(s.maps, options, pool, s.matmul);
}

}  // namespace hydra::kernels
