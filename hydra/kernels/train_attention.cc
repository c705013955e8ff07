// SPDX-License-Identifier: Apache-2.0
// Window + landmark attention for training. A chunk's keys are its pool, gathered, then its band, which lies in order.
// Not here: how the work is cut over threads (hydra/nn/fused_attention.cc).
// Dims as in train_attention.h; g pool keys that the chunk's last query sees, gp rounded up, n keys in all with their
// gaps.
#include "hydra/kernels/train_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/train_attention.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_gemm-inl.h"
#include "hydra/kernels/simd_math-inl.h"

#ifndef HYDRA_KERNELS_ATTENTION_TRAIN_ONCE  // what does not depend on the level
#define HYDRA_KERNELS_ATTENTION_TRAIN_ONCE
namespace hydra::kernels {

constexpr int64_t kPanel = 6;  // queries whose keys are cut alike
constexpr float kAdd = 1;      // beta of products that add

// One call's own memory; what follows `out` is the backward's only.
struct AttentionTrainScratch {
  float* kT;         // [Dh, n] keys times scale, transposed
  float* k;          // [gp, Dp] pool keys
  float* v;          // [gp, Dp] pool values
  float* log_sigma;  // [gp]
  float* p;          // [C, n] scores, then probabilities
  float* vT;         // [Dh, n]
  float* ds;         // [C, n]
  float* dk;         // [gp, Dp] of pool keys
  float* dv;         // [gp, Dp]
  float* dsigma;     // [gp]
};
inline int64_t MostKeys(const AttentionTrainArgs& a) { return RoundUp(a.G) + RoundUp(a.W - 1 + a.C); }
inline int64_t LayOut(float* base, const AttentionTrainArgs& a, AttentionTrainScratch* s) {
  const int64_t n = MostKeys(a), pool = RoundUp(a.G) * RoundUp(a.Dh);
  ScratchParts take(base);
  *s = {take(a.Dh * n), take(pool),    take(pool), take(RoundUp(a.G)), take(a.C * n),
        take(a.Dh * n), take(a.C * n), take(pool), take(pool),         take(RoundUp(a.G))};
  return take.used();
}

// Which keys a chunk sees.
struct AttentionChunk {
  int64_t first;      // its first token
  int64_t lo, width;  // band: tokens lo .. lo + width - 1
  int64_t g, gp, n;
  const int64_t* pool;

  AttentionChunk(const AttentionTrainArgs& a, int64_t c) : first(c * a.C) {
    lo = std::max(a.document[first], first - a.W + 1);
    width = first + a.C - lo;
    pool = a.G > 0 ? a.pools + c * a.G : nullptr;
    g = Seen(a, first + a.C - 1, a.G);
    gp = RoundUp(g);
    n = gp + RoundUp(width);
  }
  // Of the first `most` in the pool.
  [[nodiscard]] int64_t Seen(const AttentionTrainArgs& a, int64_t t, int64_t most) const {
    int64_t seen = 0;
    while (seen < most && pool[seen] >= 0 && a.pos[pool[seen]] <= a.pos[t] - a.W) ++seen;
    return seen;
  }
};

}  // namespace hydra::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

struct AttentionHead {
  const AttentionTrainArgs& a;
  AttentionTrainScratch s;
  int64_t kv, Dp, lanes, q_row, kv_row;

  AttentionHead(const AttentionTrainArgs& args, int64_t head, float* scratch) : a(args), kv(head) {
    LayOut(scratch, a, &s);
    Dp = RoundUp(a.Dh);
    lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
    q_row = a.A * a.Dh, kv_row = a.Akv * a.Dh;
  }
};

// to [Dh, c.n]: the pool's rows, then the band's, as columns; 0 in the gaps.
void TransposeKeys(const AttentionHead& h, const AttentionChunk& c, const float* pool, const float* x, float scale,
                   float* to) {
  const int64_t Dh = h.a.Dh;
  TransposeScaled(pool, h.Dp, c.g, Dh, scale, to, c.n);
  TransposeScaled(x + c.lo * h.kv_row + h.kv * Dh, h.kv_row, c.width, Dh, scale, to + c.gp, c.n);
  for (int64_t i = 0; i < Dh; ++i) {
    std::fill(to + i * c.n + c.g, to + i * c.n + c.gp, 0.0f);
    std::fill(to + i * c.n + c.gp + c.width, to + (i + 1) * c.n, 0.0f);
  }
}

// The chunk's pool rows of the head, and its keys as columns.
void GatherKeys(const AttentionHead& h, const AttentionChunk& c) {
  const AttentionTrainArgs& a = h.a;
  for (int64_t j = 0; j < c.g; ++j) {
    const int64_t at = c.pool[j] * h.kv_row + h.kv * a.Dh;
    std::memcpy(h.s.k + j * h.Dp, a.k + at, static_cast<size_t>(a.Dh) * sizeof(float));
    std::memcpy(h.s.v + j * h.Dp, a.v + at, static_cast<size_t>(a.Dh) * sizeof(float));
    h.s.log_sigma[j] = a.log_sigma[c.pool[j]];
  }
  std::fill(h.s.log_sigma + c.g, h.s.log_sigma + c.gp, 0.0f);
  TransposeKeys(h, c, h.s.k, a.k, a.scale, h.s.kT);
}

// A row's scores with the pool's bias, -inf where it does not see the key. Returns the largest.
HWY_INLINE float MaskScores(const AttentionHead& h, const AttentionChunk& c, int64_t t, float lambda, float* scores) {
  const FloatTag d;
  const auto lowest = hn::Set(d, -INFINITY), slope = hn::Set(d, lambda);
  const auto first = [&](int64_t n)
                         HWY_ATTR { return hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(n, 0, h.lanes))); };
  const int64_t seen = c.Seen(h.a, t, c.g);
  auto max = lowest;
  for (int64_t j = 0; j < c.gp; j += h.lanes) {
    const auto v = hn::MulAdd(slope, hn::LoadU(d, h.s.log_sigma + j), hn::LoadU(d, scores + j));
    const auto masked = hn::IfThenElse(first(seen - j), v, lowest);
    hn::StoreU(masked, d, scores + j);
    max = hn::Max(max, masked);
  }
  const int64_t begin = std::max<int64_t>(0, t - h.a.W + 1 - c.lo), end = t - c.lo + 1;
  float* band = scores + c.gp;
  for (int64_t j = 0; j < c.n - c.gp; j += h.lanes) {
    auto v = hn::LoadU(d, band + j);
    if (j < begin || j + h.lanes > end)
      v = hn::IfThenElse(first(begin - j), lowest, hn::IfThenElse(first(end - j), v, lowest));
    hn::StoreU(v, d, band + j);
    max = hn::Max(max, v);
  }
  return ReduceMax(d, max);
}

// p = exp(p - base). Returns the sum.
HWY_INLINE float ExpRow(const AttentionHead& h, int64_t n, float base, float* p) {
  const FloatTag d;
  const auto from = hn::Set(d, base);
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < n; j += h.lanes) {
    const auto e = Exp(hn::Sub(hn::LoadU(d, p + j), from));
    hn::StoreU(e, d, p + j);
    sum = hn::Add(sum, e);
  }
  return ReduceSum(d, sum);
}

// Products over keys: of the pool, then of the band as far as the panel's last query sees.
template <class F>
HWY_INLINE void ForPanels(const AttentionHead& h, const AttentionChunk& c, F&& f) {
  for (int64_t i = 0; i < h.a.C; i += kPanel) {
    const int64_t rows = HWY_MIN(kPanel, h.a.C - i);
    f(i, rows, c.first + i + rows - c.lo);
  }
}

// to [C] rows to_row apart = w [C, n] times the pool's rows and the band's.
void TimesKeys(const AttentionHead& h, const AttentionChunk& c, const float* w, const float* pool, const float* band,
               float* to) {
  const float* from = band + c.lo * h.kv_row + h.kv * h.a.Dh;
  ForPanels(h, c, [&](int64_t i, int64_t rows, int64_t keys) HWY_ATTR {
    if (c.g > 0)
      SmallGemm({.a = w + i * c.n,
                 .a_row = c.n,
                 .a_k = 1,
                 .b = Bytes(pool),
                 .b_row = h.Dp * 4,
                 .c = to + i * h.q_row,
                 .c_row = h.q_row,
                 .M = rows,
                 .N = h.a.Dh,
                 .K = c.g});
    SmallGemm({.a = w + i * c.n + c.gp,
               .a_row = c.n,
               .a_k = 1,
               .b = Bytes(from),
               .b_row = h.kv_row * 4,
               .c = to + i * h.q_row,
               .c_row = h.q_row,
               .M = rows,
               .N = h.a.Dh,
               .K = keys,
               .beta = c.g > 0 ? &kAdd : nullptr});
  });
}

// Rows of w^T [n, C] times x [C, Dh], added to the pool's sums and to the band's tokens.
void AddKeys(const AttentionHead& h, const AttentionChunk& c, const float* w, const float* x, float* pool,
             float* band) {
  if (c.g > 0)
    SmallGemm({.a = w,
               .a_row = 1,
               .a_k = c.n,
               .b = Bytes(x),
               .b_row = h.q_row * 4,
               .c = pool,
               .c_row = h.Dp,
               .M = c.g,
               .N = h.a.Dh,
               .K = h.a.C,
               .beta = &kAdd});
  SmallGemm({.a = w + c.gp,
             .a_row = 1,
             .a_k = c.n,
             .b = Bytes(x),
             .b_row = h.q_row * 4,
             .c = band + c.lo * h.kv_row + h.kv * h.a.Dh,
             .c_row = h.kv_row,
             .M = c.width,
             .N = h.a.Dh,
             .K = h.a.C,
             .beta = &kAdd});
}

// Scores of a query head, [C, n].
HWY_INLINE void Scores(const AttentionHead& h, const AttentionChunk& c, const float* q, float* to) {
  SmallGemm({.a = q,
             .a_row = h.q_row,
             .a_k = 1,
             .b = Bytes(h.s.kT),
             .b_row = c.n * 4,
             .c = to,
             .c_row = c.n,
             .M = h.a.C,
             .N = c.n,
             .K = h.a.Dh});
}

void AttentionTrain(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1, float* scratch) {
  const AttentionHead h(a, kv, scratch);
  const FloatTag d;
  const int64_t R = a.A / a.Akv;
  for (int64_t chunk = c0; chunk < c1; ++chunk) {
    const AttentionChunk c(a, chunk);
    GatherKeys(h, c);
    for (int64_t head = kv * R; head < (kv + 1) * R; ++head) {
      const int64_t at = c.first * h.q_row + head * a.Dh;
      Scores(h, c, a.q + at, h.s.p);
      for (int64_t i = 0; i < a.C; ++i) {
        const int64_t t = c.first + i;
        float* p = h.s.p + i * c.n;
        const float max = MaskScores(h, c, t, a.G > 0 ? a.lambda[head] : 0.0f, p), sum = ExpRow(h, c.n, max, p);
        a.log_sum[t * a.A + head] = max + std::log(sum);
        const auto inverse = hn::Set(d, 1.0f / sum);
        for (int64_t j = 0; j < c.n; j += h.lanes) hn::StoreU(hn::Mul(inverse, hn::LoadU(d, p + j)), d, p + j);
      }
      TimesKeys(h, c, h.s.p, h.s.v, a.v, a.out + at);
    }
  }
}

// Row i of a head: p from the scores; ds = p (dp - sum_j p_j dp_j), which is left times scale. Returns the sum of ds
// log_sigma.
HWY_INLINE float BackwardRow(const AttentionHead& h, const AttentionChunk& c, int64_t head, int64_t i) {
  const AttentionTrainArgs& a = h.a;
  const FloatTag d;
  const int64_t t = c.first + i, at = t * h.q_row + head * a.Dh;
  const float lambda = a.G > 0 ? a.lambda[head] : 0.0f;
  float *p = h.s.p + i * c.n, *ds = h.s.ds + i * c.n;
  MaskScores(h, c, t, lambda, p);
  ExpRow(h, c.n, a.log_sum[t * a.A + head], p);
  auto dot = hn::Zero(d);
  for (int64_t j = 0; j < a.Dh; j += h.lanes)
    dot = hn::MulAdd(LoadPart(d, a.dout + at + j, Left(a.Dh, j)), LoadPart(d, a.out + at + j, Left(a.Dh, j)), dot);
  const auto mean = hn::Set(d, ReduceSum(d, dot)), scale = hn::Set(d, a.scale), slope = hn::Set(d, lambda);
  const auto row = [&](int64_t j)
                       HWY_ATTR { return hn::Mul(hn::LoadU(d, p + j), hn::Sub(hn::LoadU(d, ds + j), mean)); };
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < c.gp; j += h.lanes) {
    const auto v = row(j);
    sum = hn::MulAdd(v, hn::LoadU(d, h.s.log_sigma + j), sum);
    hn::StoreU(hn::MulAdd(v, slope, hn::LoadU(d, h.s.dsigma + j)), d, h.s.dsigma + j);
    hn::StoreU(hn::Mul(v, scale), d, ds + j);
  }
  for (int64_t j = c.gp; j < c.n; j += h.lanes) hn::StoreU(hn::Mul(row(j), scale), d, ds + j);
  return c.gp > 0 ? ReduceSum(d, sum) : 0.0f;
}

// The pool's sums to their tokens.
void ScatterPool(const AttentionHead& h, const AttentionChunk& c) {
  const AttentionTrainArgs& a = h.a;
  const FloatTag d;
  for (int64_t j = 0; j < c.g; ++j) {
    const int64_t at = c.pool[j] * h.kv_row + h.kv * a.Dh;
    for (int64_t i = 0; i < a.Dh; i += h.lanes) {
      const size_t left = Left(a.Dh, i);
      StorePart(hn::Add(LoadPart(d, a.dk + at + i, left), LoadPart(d, h.s.dk + j * h.Dp + i, left)), d, a.dk + at + i,
                left);
      StorePart(hn::Add(LoadPart(d, a.dv + at + i, left), LoadPart(d, h.s.dv + j * h.Dp + i, left)), d, a.dv + at + i,
                left);
    }
    a.dsigma[h.kv * a.M + c.pool[j]] += h.s.dsigma[j];
  }
}

void AttentionTrainBackward(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1, float* scratch) {
  const AttentionHead h(a, kv, scratch);
  const int64_t R = a.A / a.Akv;
  for (int64_t chunk = c0; chunk < c1; ++chunk) {
    const AttentionChunk c(a, chunk);
    GatherKeys(h, c);
    TransposeKeys(h, c, h.s.v, a.v, 1.0f, h.s.vT);
    std::fill(h.s.dk, h.s.dk + c.g * h.Dp, 0.0f);
    std::fill(h.s.dv, h.s.dv + c.g * h.Dp, 0.0f);
    std::fill(h.s.dsigma, h.s.dsigma + c.gp, 0.0f);
    for (int64_t head = kv * R; head < (kv + 1) * R; ++head) {
      const int64_t at = c.first * h.q_row + head * a.Dh;
      Scores(h, c, a.q + at, h.s.p);
      SmallGemm({.a = a.dout + at,
                 .a_row = h.q_row,
                 .a_k = 1,
                 .b = Bytes(h.s.vT),
                 .b_row = c.n * 4,
                 .c = h.s.ds,
                 .c_row = c.n,
                 .M = a.C,
                 .N = c.n,
                 .K = a.Dh});
      float dlambda = 0;
      for (int64_t i = 0; i < a.C; ++i) dlambda += BackwardRow(h, c, head, i);
      if (a.G > 0) a.dlambda[head] += dlambda;
      TimesKeys(h, c, h.s.ds, h.s.k, a.k, a.dq + at);
      AddKeys(h, c, h.s.ds, a.q + at, h.s.dk, a.dk);
      AddKeys(h, c, h.s.p, a.dout + at, h.s.dv, a.dv);
    }
    if (c.g > 0) ScatterPool(h, c);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(AttentionTrain);
HWY_EXPORT(AttentionTrainBackward);

int64_t AttentionTrainScratchFloats(const AttentionTrainArgs& a) {
  AttentionTrainScratch s;
  return LayOut(nullptr, a, &s);
}
void AttentionTrain(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1, float* scratch) {
  HYDRA_CHECK(a.C >= 1 && a.W >= 1 && a.A % a.Akv == 0 && 0 <= kv && kv < a.Akv && c0 <= c1 && c1 * a.C <= a.M);
  HYDRA_DISPATCH(AttentionTrain)(a, kv, c0, c1, scratch);
}
void AttentionTrainBackward(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1, float* scratch) {
  HYDRA_CHECK(a.C >= 1 && a.W >= 1 && a.A % a.Akv == 0 && 0 <= kv && kv < a.Akv && c0 <= c1 && c1 * a.C <= a.M);
  HYDRA_DISPATCH(AttentionTrainBackward)(a, kv, c0, c1, scratch);
}

}  // namespace hydra::kernels
#endif
