// SPDX-License-Identifier: Apache-2.0
// Attention of many queries: tiles of them times blocks of cached keys. Formulas: specs/hydra.md 3. Not here: one query
// alone (ops_attention_query.cc), rows of the cache (ops_kv.cc), which landmarks there are (hydra/runtime).
// Dims: R rows of a tile = queries x heads of the KV group, Rp and Dp rounded up to kAlign, n keys of a block.
#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"
#include "hydra/kernels/ops_attention_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/ops_attention.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_gemm-inl.h"
#include "hydra/kernels/simd_kv-inl.h"
#include "hydra/kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// ---- A tile of queries ----

struct Tile {
  AttentionScratch s{};
  int64_t R, Rp, Dh, Dp;
  KvDtype dtype;
  bool first = true;  // no block yet: sums are not defined
};

// n rows of any dtype to f32, [n, Dp].
void Widen(KvDtype dtype, const std::byte* rows, int64_t row_bytes, int64_t n, int64_t Dh, float* out, int64_t Dp) {
  const FloatTag d;
  WithKvRow(dtype, [&](auto type) HWY_ATTR {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < Dh; i += static_cast<int64_t>(hn::Lanes(d)))
        hn::StoreU(decltype(type)::Load(rows + j * row_bytes, i, Left(Dh, i)), d, out + j * Dp + i);
  });
}

// Scores of n keys in s.s [n, Rp] to exps, with the running maximum and sum of each row: everything is a column of
// vectors, keys go down. score(r, j, v) puts bias and mask into the scores v of the rows from r on.
template <class Score>
HWY_INLINE void TileSoftmax(const Tile& tile, int64_t n, Score&& score) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const AttentionScratch& s = tile.s;
  const auto lowest = hn::Set(d, -INFINITY);
  for (int64_t r = 0; r < tile.R; r += lanes) {
    float* column = s.s + r;
    const auto old = tile.first ? lowest : hn::LoadU(d, s.max + r);
    auto max = old;
    for (int64_t j = 0; j < n; ++j) {
      const auto v = score(r, j, hn::LoadU(d, column + j * tile.Rp));
      hn::StoreU(v, d, column + j * tile.Rp);
      max = hn::Max(max, v);
    }
    const auto base = hn::IfThenElse(hn::Eq(max, lowest), hn::Zero(d), max);  // nothing seen yet: exps are 0, not NaN
    auto sum = hn::Zero(d);
    for (int64_t j = 0; j < n; ++j) {
      const auto e = Exp<true>(hn::Sub(hn::LoadU(d, column + j * tile.Rp), base));
      hn::StoreU(e, d, column + j * tile.Rp);
      sum = hn::Add(sum, e);
    }
    const auto keep = Exp<true>(hn::Sub(old, base));
    hn::StoreU(keep, d, s.keep + r);
    hn::StoreU(max, d, s.max + r);
    hn::StoreU(tile.first ? sum : hn::MulAdd(keep, hn::LoadU(d, s.sum + r), sum), d, s.sum + r);
  }
}

// One block of keys into the tile. The keys are the broadcast factor of the scores, so that neither they nor the values
// are transposed; widened once for all queries and heads of the tile.
template <class Score>
HWY_INLINE void TileBlock(Tile* tile, const KeyBlock& block, Score&& score) {
  const AttentionScratch& s = tile->s;
  const bool direct = tile->dtype == KvDtype::kF32;
  const float* k = reinterpret_cast<const float*>(block.k);
  const float* v = reinterpret_cast<const float*>(block.v);
  if (!direct) {
    Widen(tile->dtype, block.k, block.row_bytes, block.n, tile->Dh, s.k, tile->Dp);
    Widen(tile->dtype, block.v, block.row_bytes, block.n, tile->Dh, s.v, tile->Dp);
    k = s.k, v = s.v;
  }
  const int64_t stride = direct ? tile->Dh : tile->Dp;
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  SmallGemm({.a = k,
             .a_row = stride,
             .a_k = 1,
             .b = Bytes(s.q),
             .b_row = tile->Rp * 4,
             .c = s.s,
             .c_row = tile->Rp,
             .M = block.n,
             .N = (tile->R + lanes - 1) / lanes * lanes,
             .K = tile->Dh});
  TileSoftmax(*tile, block.n, score);
  SmallGemm({.a = s.s,
             .a_row = 1,
             .a_k = tile->Rp,
             .b = Bytes(v),
             .b_row = stride * 4,
             .c = s.o,
             .c_row = tile->Dp,
             .M = tile->R,
             .N = tile->Dh,
             .K = block.n,
             .beta = tile->first ? nullptr : s.keep,
             .beta_row = 1});
  tile->first = false;
}

// Rows r = head of the group * queries + query.
void LoadTile(const AttentionArgs& a, int64_t kv, int64_t t0, int64_t queries, const Tile& tile) {
  const AttentionScratch& s = tile.s;
  const int64_t group = a.A / a.Akv, qs = a.q_stride != 0 ? a.q_stride : a.A * a.Dh;
  for (int64_t g = 0; g < group; ++g) {
    const int64_t head = kv * group + g;
    TransposeScaled(a.q + t0 * qs + head * a.Dh, qs, queries, a.Dh, a.scale, s.q + g * queries, tile.Rp);
    for (int64_t t = 0; t < queries; ++t) {
      const int64_t r = g * queries + t, row = a.row + t0 + t;
      s.lambda[r] = a.landmarks.n > 0 ? a.landmarks.lambda[head] : 0.0f;
      s.hi[r] = Clamp32(row);
      s.lo[r] = Clamp32(std::max<int64_t>(0, row - a.window + 1));
      s.far[r] = Clamp32(a.pos + t0 + t - a.window);
    }
  }
  for (int64_t r = tile.R; r < tile.Rp; ++r) {  // rows that are not there: like the last, their sums go nowhere
    for (int64_t i = 0; i < a.Dh; ++i) s.q[i * tile.Rp + r] = 0;
    s.lambda[r] = s.lambda[tile.R - 1], s.hi[r] = s.hi[tile.R - 1], s.lo[r] = s.lo[tile.R - 1],
    s.far[r] = s.far[tile.R - 1];
  }
}

void WindowBlocks(const AttentionArgs& a, int64_t kv, int64_t t0, int64_t queries, Tile* tile) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const Cache cache = CacheOf(a);
  const int64_t first = std::max<int64_t>(0, a.row + t0 - a.window + 1), last = a.row + t0 + queries - 1;
  const int64_t all_from = std::max<int64_t>(0, last - a.window + 1), all_to = a.row + t0;  // rows that all queries see
  for (int64_t block = first / kKeyBlock * kKeyBlock; block <= last; block += kKeyBlock) {
    const int64_t begin = std::max(block, first), end = std::min(block + kKeyBlock, last + 1);
    const KeyBlock keys = cache.Block(kv, begin, end - begin);
    if (begin >= all_from && end - 1 <= all_to) {
      TileBlock(tile, keys, [](int64_t, int64_t, FloatVec v) HWY_ATTR { return v; });
      continue;
    }
    const int32_t *lo = tile->s.lo, *hi = tile->s.hi;
    TileBlock(tile, keys, [=](int64_t r, int64_t j, FloatVec v) HWY_ATTR {
      const auto row = hn::Set(di, static_cast<int32_t>(begin + j));
      const auto hidden = hn::Or(hn::Gt(row, hn::LoadU(di, hi + r)), hn::Gt(hn::LoadU(di, lo + r), row));
      return hn::IfThenElse(hn::RebindMask(d, hidden), hn::Set(d, -INFINITY), v);
    });
  }
}

void LandmarkBlocks(const AttentionArgs& a, int64_t kv, int64_t t0, int64_t queries, Tile* tile) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const LandmarkArgs& m = a.landmarks;
  for (int64_t i = 0; i < m.n; i += kKeyBlock) {
    const int64_t n = std::min(kKeyBlock, m.n - i);
    if (!AnyLandmark(m, i, n, a.pos + t0 + queries - 1 - a.window)) continue;
    const float* lambda = tile->s.lambda;
    const int32_t* far = tile->s.far;
    TileBlock(tile, LandmarkBlock(a, kv, i, n, tile->s), [=](int64_t r, int64_t j, FloatVec v) HWY_ATTR {
      const auto hidden = hn::Gt(hn::Set(di, m.pos[i + j]), hn::LoadU(di, far + r));
      const auto biased = hn::MulAdd(hn::LoadU(d, lambda + r), hn::Set(d, m.log_sigmoid[i + j]), v);
      return hn::IfThenElse(hn::RebindMask(d, hidden), hn::Set(d, -INFINITY), biased);
    });
  }
}

void AttentionTile(const AttentionArgs& a, int64_t kv, int64_t t0, int64_t queries) {
  const FloatTag d;
  const int64_t group = a.A / a.Akv, ys = a.y_stride != 0 ? a.y_stride : a.A * a.Dh;
  Tile tile{.R = queries * group, .Rp = RoundUp(queries * group), .Dh = a.Dh, .Dp = RoundUp(a.Dh), .dtype = a.dtype};
  LayOut(a.scratch, group, a.Dh, &tile.s);
  LoadTile(a, kv, t0, queries, tile);
  WindowBlocks(a, kv, t0, queries, &tile);
  LandmarkBlocks(a, kv, t0, queries, &tile);
  for (int64_t g = 0; g < group; ++g)
    for (int64_t t = 0; t < queries; ++t) {
      const int64_t r = g * queries + t;
      const auto inverse = hn::Set(d, 1 / tile.s.sum[r]);
      float* y = a.y + (t0 + t) * ys + (kv * group + g) * a.Dh;
      for (int64_t i = 0; i < a.Dh; i += static_cast<int64_t>(hn::Lanes(d)))
        StorePart(hn::Mul(inverse, hn::LoadU(d, tile.s.o + r * tile.Dp + i)), d, y + i, Left(a.Dh, i));
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(AttentionTile);

void Attention(const AttentionArgs& a) {
  HYDRA_CHECK(a.Akv >= 1 && a.A % a.Akv == 0 && 0 <= a.kv0 && a.kv1 <= a.Akv && a.window >= 1 && a.row >= 0);
  HYDRA_CHECK(a.row + a.t1 <= a.head_rows);
  const auto tile = HYDRA_DISPATCH(AttentionTile);
  const int64_t most = TileQueries(a.A / a.Akv);
  for (int64_t kv = a.kv0; kv < a.kv1; ++kv)
    for (int64_t t = a.t0; t < a.t1; t += most) {
      const int64_t queries = std::min(most, a.t1 - t);
      queries == 1 ? AttentionQuery(a, kv, t) : tile(a, kv, t, queries);
    }
}

int64_t AttentionScratchFloats(int64_t group, int64_t Dh) {
  AttentionScratch s{};
  return LayOut(nullptr, group, Dh, &s);
}

}  // namespace hydra::kernels
#endif
