// SPDX-License-Identifier: Apache-2.0
// Influence of keys by distance: a tile of queries against all keys that it sees, scores and gradients in two strips,
// then row by row. Products in f32, sums of a tile's row in f32, all longer ones in double.
// Dims as in influence.h; B = b rounded up to vectors, n columns of a strip: landmarks, then key tiles of B each.
#include "hydra/kernels/influence.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/influence.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_gemm-inl.h"
#include "hydra/kernels/simd_math-inl.h"

#ifndef HYDRA_KERNELS_INFLUENCE_ONCE  // what does not depend on the level
#define HYDRA_KERNELS_INFLUENCE_ONCE
namespace hydra::kernels {

// An entry of more than this probability has its change computed from what else the row sees: 1 - A and D - G would
// cancel in f32. A row has at most one such entry.
constexpr float kLargeEntry = 0.75f;
constexpr double kRestFloor = 1e-6, kLeastVisible = 1e-30;

struct InfluenceStrips {
  float* kT;                  // [tiles, Dh, B] keys times scale, a tile's as columns
  float* vT;                  // [tiles, Dh, B]
  float* e;                   // [b, n] scores, then exp(score - row's largest)
  float* g;                   // [b, n] dO . v
  float* pool_k;              // [Dh, Gp] of one chunk's landmarks
  float* pool_v;              // [Dh, Gp]
  double *za, *zc, *pa, *pc;  // [nb] each: sums of A and A G by bin; of all that stays below a bin
};
inline int64_t TilesOfKeys(const AttentionInfluenceArgs& a) { return (a.T + a.b - 1) / a.b; }
// Tiles of keys that a tile of queries may see.
inline int64_t SeenTiles(const AttentionInfluenceArgs& a) {
  return a.W > 0 ? std::min(TilesOfKeys(a), (a.W - 1 + a.b - 1) / a.b + 1) : TilesOfKeys(a);
}
inline int64_t LayOut(const AttentionInfluenceArgs& a, float* base, InfluenceStrips* s) {
  const int64_t B = RoundUp(a.b), all = TilesOfKeys(a) * a.Dh * B, pool = a.Dh * RoundUp(a.G);
  const int64_t strip = a.b * (RoundUp(a.G) + SeenTiles(a) * B);
  ScratchParts take(base);
  s->kT = take(all), s->vT = take(all), s->e = take(strip), s->g = take(strip);
  s->pool_k = take(pool), s->pool_v = take(pool);
  return take.used();
}

// Adds the J of a row: za, zc hold its sums by bin, sa, sc those of sinks and landmarks, `last` is its largest bin.
inline void AddJoint(const AttentionInfluenceArgs& a, const InfluenceStrips& s, double sa, double sc, int64_t last) {
  double total = sa, mean = sc;
  for (int64_t m = 0; m <= last; ++m) {
    s.pa[m] = total, s.pc[m] = mean;  // what stays where bins >= m are masked
    total += s.za[m], mean += s.zc[m];
  }
  const double inverse = 1 / total, D = mean * inverse;
  double ma = 0, mc = 0, wider = 0;
  for (int64_t m = last; m >= 1; --m) {
    ma += s.za[m] * inverse, mc += s.zc[m] * inverse;
    const double va = s.pa[m] * inverse;
    double J = wider;
    if (ma <= 0.5)
      J = (ma * D - mc) / (1 - ma);
    else if (va >= kLeastVisible)
      J = s.pc[m] * inverse / va - D;
    else
      ++*a.guarded;
    a.jabs[m] += std::abs(J);
    a.jsgn[m] += J;
    wider = J;
  }
}

}  // namespace hydra::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// One query head of one call.
struct InfluenceHead {
  const AttentionInfluenceArgs& a;
  InfluenceStrips s{};
  int64_t head, kv, B, Gp, lanes;

  InfluenceHead(const AttentionInfluenceArgs& args, int64_t h, const InfluenceScratch& scratch)
      : a(args), head(h), kv(h / (args.A / args.Akv)), B(RoundUp(args.b)), Gp(RoundUp(args.G)) {
    LayOut(a, scratch.floats, &s);
    const int64_t nb = TilesOfKeys(a);
    s.za = scratch.doubles, s.zc = s.za + nb, s.pa = s.zc + nb, s.pc = s.pa + nb;
    lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  }
};

// A tile's rows of keys or values as columns, 0 in the gaps.
void TileAsColumns(const InfluenceHead& h, const float* x, int64_t tile, float scale, float* to) {
  const AttentionInfluenceArgs& a = h.a;
  const int64_t first = tile * a.b, n = std::min(a.b, a.T - first);
  TransposeScaled(x + (first * a.Akv + h.kv) * a.Dh, a.Akv * a.Dh, n, a.Dh, scale, to, h.B);
  for (int64_t i = 0; i < a.Dh; ++i) std::fill(to + i * h.B + n, to + (i + 1) * h.B, 0.0f);
}

// The landmarks of a chunk as columns, 0 in the gaps. Returns how many there are.
int64_t PoolAsColumns(const InfluenceHead& h, const int64_t* pool) {
  const AttentionInfluenceArgs& a = h.a;
  int64_t n = 0;
  while (n < a.G && pool[n] >= 0) ++n;
  for (int64_t i = 0; i < a.Dh; ++i) {
    float *k = h.s.pool_k + i * h.Gp, *v = h.s.pool_v + i * h.Gp;
    for (int64_t g = 0; g < n; ++g) {
      const int64_t at = (pool[g] * a.Akv + h.kv) * a.Dh + i;
      k[g] = a.k[at] * a.scale, v[g] = a.v[at];
    }
    std::fill(k + n, k + h.Gp, 0.0f);
    std::fill(v + n, v + h.Gp, 0.0f);
  }
  return n;
}

// to [rows, columns] rows n apart = x rows times the columns, [Dh, columns].
void TimesColumns(const InfluenceHead& h, const float* x, const float* columns, int64_t count, int64_t rows, float* to,
                  int64_t n) {
  SmallGemm({.a = x,
             .a_row = h.a.A * h.a.Dh,
             .a_k = 1,
             .b = Bytes(columns),
             .b_row = count * 4,
             .c = to,
             .c_row = n,
             .M = rows,
             .N = count,
             .K = h.a.Dh});
}

// -inf outside of begin .. end - 1 of `count` scores. Returns the largest that stays.
HWY_INLINE float MaskOutside(const InfluenceHead& h, int64_t begin, int64_t end, int64_t count, float* scores) {
  const FloatTag d;
  const auto lowest = hn::Set(d, -INFINITY);
  const auto first = [&](int64_t n)
                         HWY_ATTR { return hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(n, 0, h.lanes))); };
  auto max = lowest;
  for (int64_t j = 0; j < count; j += h.lanes) {
    auto v = hn::LoadU(d, scores + j);
    if (j < begin || j + h.lanes > end) {
      v = hn::IfThenElse(first(begin - j), lowest, hn::IfThenElse(first(end - j), v, lowest));
      hn::StoreU(v, d, scores + j);
    }
    max = hn::Max(max, v);
  }
  return ReduceMax(d, max);
}

// Sums of e and of e g over a tile's row, the first `near` columns apart from the others.
struct TileSums {
  float near_e, near_eg, far_e, far_eg;
};
HWY_INLINE TileSums SumTile(const InfluenceHead& h, const float* e, const float* g, int64_t count, int64_t near) {
  const FloatTag d;
  auto near_e = hn::Zero(d), near_eg = hn::Zero(d), far_e = hn::Zero(d), far_eg = hn::Zero(d);
  for (int64_t j = 0; j < count; j += h.lanes) {
    const auto v = hn::LoadU(d, e + j), p = hn::Mul(v, hn::LoadU(d, g + j));
    const auto mask = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(near - j, 0, h.lanes)));
    near_e = hn::Add(near_e, hn::IfThenElseZero(mask, v));
    near_eg = hn::Add(near_eg, hn::IfThenElseZero(mask, p));
    far_e = hn::Add(far_e, hn::IfThenZeroElse(mask, v));
    far_eg = hn::Add(far_eg, hn::IfThenZeroElse(mask, p));
  }
  float sums[4];
  ReduceSum4(near_e, near_eg, far_e, far_eg, sums);
  return {sums[0], sums[1], sums[2], sums[3]};
}

// Sums of |E| over a tile's row, near and far, without an entry above kLargeEntry, whose column goes to *large.
struct TileChanges {
  float near, far;
};
HWY_INLINE TileChanges ChangesOfTile(const InfluenceHead& h, const float* e, const float* g, int64_t near,
                                     float inverse, float D, int64_t* large) {
  const FloatTag d;
  const auto to_A = hn::Set(d, inverse), mean = hn::Set(d, D), one = hn::Set(d, 1.0f), most = hn::Set(d, kLargeEntry);
  auto sum_near = hn::Zero(d), sum_far = hn::Zero(d);
  for (int64_t j = 0; j < h.B; j += h.lanes) {
    const auto A = hn::Mul(hn::LoadU(d, e + j), to_A);
    const auto above = hn::Gt(A, most);
    if (!hn::AllFalse(d, above)) {
      for (int64_t i = 0; i < h.lanes; ++i)
        if (e[j + i] * inverse > kLargeEntry) *large = j + i;
    }
    const auto change = hn::Div(hn::Mul(A, hn::Abs(hn::Sub(mean, hn::LoadU(d, g + j)))), hn::Sub(one, A));
    const auto E = hn::IfThenZeroElse(above, change);
    const auto mask = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(near - j, 0, h.lanes)));
    sum_near = hn::Add(sum_near, hn::IfThenElseZero(mask, E));
    sum_far = hn::Add(sum_far, hn::IfThenZeroElse(mask, E));
  }
  return {ReduceSum(d, sum_near), ReduceSum(d, sum_far)};
}

// The tiles of keys that a tile of queries sees, and where they lie in its strips.
struct InfluenceTile {
  int64_t qb, first, rows;  // queries first .. first + rows - 1
  int64_t kb0, n;           // first tile of keys; columns of the strips
  InfluenceTile(const InfluenceHead& h, int64_t tile) : qb(tile), first(tile * h.a.b) {
    rows = std::min(h.a.b, h.a.T - first);
    kb0 = h.a.W > 0 ? std::max<int64_t>(0, first - h.a.W + 1) / h.a.b : 0;
    n = h.Gp + (qb + 1 - kb0) * h.B;
  }
  [[nodiscard]] int64_t Column(const InfluenceHead& h, int64_t kb) const { return h.Gp + (kb - kb0) * h.B; }
};

// Scores and gradients of a tile of queries.
void FillStrips(const InfluenceHead& h, const InfluenceTile& t) {
  const AttentionInfluenceArgs& a = h.a;
  const float *q = a.q + (t.first * a.A + h.head) * a.Dh, *d_out = a.d_out + (t.first * a.A + h.head) * a.Dh;
  for (int64_t kb = t.kb0; kb <= t.qb; ++kb) {
    const int64_t at = t.Column(h, kb);
    TimesColumns(h, q, h.s.kT + kb * a.Dh * h.B, h.B, t.rows, h.s.e + at, t.n);
    TimesColumns(h, d_out, h.s.vT + kb * a.Dh * h.B, h.B, t.rows, h.s.g + at, t.n);
  }
  // Landmarks, for the rows of one chunk at a time.
  for (int64_t r = 0, next = 0; r < t.rows && h.Gp > 0; r = next) {
    const int64_t chunk = (t.first + r) / a.C;
    next = std::min(t.rows, (chunk + 1) * a.C - t.first);
    const int64_t* pool = a.pools + chunk * a.G;
    const int64_t count = PoolAsColumns(h, pool);
    float* e = h.s.e + r * t.n;
    TimesColumns(h, q + r * a.A * a.Dh, h.s.pool_k, h.Gp, next - r, e, t.n);
    TimesColumns(h, d_out + r * a.A * a.Dh, h.s.pool_v, h.Gp, next - r, h.s.g + r * t.n, t.n);
    for (int64_t i = r; i < next; ++i, e += t.n)
      for (int64_t g = 0; g < count; ++g) e[g] += a.lambda[h.head] * a.log_sigma[pool[g]];
  }
}

// Row r's scores to exp(score - largest), 0 where the model does not see the key.
void ExpOfRow(const InfluenceHead& h, const InfluenceTile& t, int64_t r) {
  const AttentionInfluenceArgs& a = h.a;
  const FloatTag d;
  const int64_t i = t.first + r;
  float* e = h.s.e + r * t.n;
  float max = -INFINITY;
  if (h.Gp > 0) {
    const int64_t* pool = a.pools + i / a.C * a.G;
    int64_t seen = 0;
    while (seen < a.G && pool[seen] >= 0 && pool[seen] <= i - a.W) ++seen;
    max = MaskOutside(h, 0, seen, h.Gp, e);
  }
  for (int64_t kb = t.kb0; kb <= t.qb; ++kb) {
    const int64_t key = kb * a.b, lowest = a.W > 0 ? i - a.W + 1 - key : 0;
    max = std::max(max, MaskOutside(h, lowest, std::min(a.b, i + 1 - key), h.B, e + t.Column(h, kb)));
  }
  const auto base = hn::Set(d, max);
  for (int64_t j = 0; j < t.n; j += h.lanes) hn::StoreU(Exp<true>(hn::Sub(hn::LoadU(d, e + j), base)), d, e + j);
}

// The change of a row's large entry, from sums over all others; it is in none of the sums yet.
HWY_INLINE double ChangeOfLarge(double e, double g, double rest_e, double rest_eg) {
  const double total = rest_e + e, A = e / total, rest = rest_e / total;
  return std::abs(A / std::max(rest, kRestFloor) * (rest_eg / total - rest * g));
}

// Adds a row to f, jabs and jsgn.
void AddRow(const InfluenceHead& h, const InfluenceTile& t, int64_t r) {
  const AttentionInfluenceArgs& a = h.a;
  ExpOfRow(h, t, r);
  float* e = h.s.e + r * t.n;
  const float* g = h.s.g + r * t.n;
  const int64_t bins = t.qb - t.kb0 + 1;
  std::fill(h.s.za, h.s.za + bins, 0.0);
  std::fill(h.s.zc, h.s.zc + bins, 0.0);
  double sa = 0, sc = 0;
  const auto stays = [&](const TileSums& sums) {
    sa += double{sums.near_e} + sums.far_e, sc += double{sums.near_eg} + sums.far_eg;
  };
  // Columns up to the row's own are as many bins back as the tile is tiles back, those behind it one fewer.
  const auto add = [&](int64_t bin, const TileSums& sums, double sign) {
    h.s.za[bin] += sign * sums.near_e, h.s.zc[bin] += sign * sums.near_eg;
    if (bin > 0) h.s.za[bin - 1] += sign * sums.far_e, h.s.zc[bin - 1] += sign * sums.far_eg;
  };
  if (h.Gp > 0) stays(SumTile(h, e, g, h.Gp, h.Gp));
  const int64_t tile0 = std::max(t.kb0, a.n_sinks / a.b);  // sinks fill whole tiles
  for (int64_t kb = t.kb0; kb <= t.qb; ++kb) {
    const int64_t at = t.Column(h, kb);
    const TileSums sums = SumTile(h, e + at, g + at, h.B, r + 1);
    if (kb < tile0)
      stays(sums);
    else
      add(t.qb - kb, sums, 1);
  }
  double total = sa, mean = sc;
  for (int64_t m = 0; m < bins; ++m) total += h.s.za[m], mean += h.s.zc[m];
  const auto inverse = static_cast<float>(1 / total), D = static_cast<float>(mean / total);
  for (int64_t kb = tile0; kb <= t.qb; ++kb) {
    const int64_t at = t.Column(h, kb), bin = t.qb - kb;
    int64_t large = -1;
    const TileChanges changes = ChangesOfTile(h, e + at, g + at, r + 1, inverse, D, &large);
    a.f[bin] += changes.near;
    if (bin > 0) a.f[bin - 1] += changes.far;
    if (large < 0) continue;
    const double of_large = e[at + large], its_g = g[at + large];
    add(bin, SumTile(h, e + at, g + at, h.B, r + 1), -1);
    e[at + large] = 0;
    add(bin, SumTile(h, e + at, g + at, h.B, r + 1), 1);
    double rest = sa, rest_g = sc;
    for (int64_t m = 0; m < bins; ++m) rest += h.s.za[m], rest_g += h.s.zc[m];
    const int64_t its_bin = large <= r ? bin : bin - 1;
    a.f[its_bin] += ChangeOfLarge(of_large, its_g, rest, rest_g);
    h.s.za[its_bin] += of_large, h.s.zc[its_bin] += of_large * its_g;
  }
  const int64_t i = t.first + r, oldest = a.W > 0 ? std::min(i - a.n_sinks, a.W - 1) : i - a.n_sinks;
  if (oldest >= a.b) AddJoint(a, h.s, sa, sc, oldest / a.b);
}

void AttentionInfluence(const AttentionInfluenceArgs& a, int64_t head, int64_t t0, int64_t t1,
                        const InfluenceScratch& scratch) {
  const InfluenceHead h(a, head, scratch);
  const auto any = [&](int64_t i) {
    const float* row = a.d_out + (i * a.A + head) * a.Dh;
    return std::any_of(row, row + a.Dh, [](float x) { return x != 0; });
  };
  int64_t ready = a.W > 0 ? std::max<int64_t>(0, t0 * a.b - a.W + 1) / a.b : 0;  // tiles before it are not seen
  for (int64_t tile = t0; tile < std::min(t1, TilesOfKeys(a)); ++tile) {
    const InfluenceTile t(h, tile);
    int64_t r = 0;
    while (r < t.rows && !any(t.first + r)) ++r;
    if (r == t.rows) continue;
    for (; ready <= tile; ++ready) {
      TileAsColumns(h, a.k, ready, a.scale, h.s.kT + ready * a.Dh * h.B);
      TileAsColumns(h, a.v, ready, 1.0f, h.s.vT + ready * a.Dh * h.B);
    }
    FillStrips(h, t);
    for (; r < t.rows; ++r)
      if (any(t.first + r)) AddRow(h, t, r);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(AttentionInfluence);

int64_t InfluenceScratchFloats(const AttentionInfluenceArgs& a) {
  InfluenceStrips s{};
  return LayOut(a, nullptr, &s);
}
int64_t InfluenceScratchDoubles(const AttentionInfluenceArgs& a) { return 4 * TilesOfKeys(a); }
void AttentionInfluence(const AttentionInfluenceArgs& a, int64_t head, int64_t t0, int64_t t1,
                        const InfluenceScratch& scratch) {
  HYDRA_CHECK(a.A % a.Akv == 0 && 0 <= head && head < a.A && 0 <= t0 && t0 <= t1, head, " of ", a.A);
  HYDRA_CHECK(a.b >= 1 && (a.n_sinks == 0 || (a.n_sinks == a.b && a.W == 0)), "sinks ", a.n_sinks, " b ", a.b);
  HYDRA_CHECK(a.G == 0 || (a.W > 0 && a.C >= 1 && a.pools != nullptr), "landmarks need a window");
  HYDRA_DISPATCH(AttentionInfluence)(a, head, t0, t1, scratch);
}

}  // namespace hydra::kernels
#endif
