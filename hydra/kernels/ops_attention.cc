// SPDX-License-Identifier: Apache-2.0
// Attention over cached keys: tiles of queries times blocks of keys, one query alone, parts of its keys and their
// merge. Formulas: specs/hydra.md 3. Not here: rows of the cache (ops_kv.cc), which landmarks there are
// (hydra/runtime). Dims: R rows of a tile = queries x heads of the KV group, Rp and Dp rounded up to kAlign, n keys of
// a block.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "hydra/core/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/ops_attention.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_kv-inl.h"
#include "hydra/kernels/simd_math-inl.h"
#include "hydra/kernels/small_gemm-inl.h"

#ifndef HYDRA_KERNELS_OPS_ATTENTION_ONCE  // what does not depend on the level
#define HYDRA_KERNELS_OPS_ATTENTION_ONCE
namespace hydra::kernels {

constexpr int64_t kAlign = 16;      // floats: a vector of the widest level
constexpr int64_t kMostRows = 128;  // of a tile, so that all of it stays in the second-level cache
constexpr int64_t kMostQueries = 64;
inline int64_t RoundUp(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }
// Queries of a tile.
inline int64_t TileQueries(int64_t group) { return std::clamp<int64_t>(kMostRows / group, 1, kMostQueries); }

struct AttentionScratch {
  float* q;          // [Dh, Rp]         queries times scale, transposed
  float* s;          // [kKeyBlock, Rp]  scores, then their exps; of one query [group, kKeyBlock]
  float* o;          // [Rp, Dp]         unnormalised sums of values
  float* k;          // [kKeyBlock, Dp]  keys and values widened
  float* v;          // [kKeyBlock, Dp]
  std::byte* raw_k;  // [kKeyBlock] rows  listed landmarks, gathered
  std::byte* raw_v;  // [kKeyBlock] rows
  float* max;        // [Rp]
  float* sum;        // [Rp]             of exps
  float* keep;       // [Rp]             exp(old max - new max)
  float* lambda;     // [Rp]
  int32_t* lo;       // [Rp]             first and last key row that a row sees
  int32_t* hi;       // [Rp]
  int32_t* far;      // [Rp]             last position of landmarks that it sees
};
// Lays the parts out from `base`; returns the floats of all.
inline int64_t LayOut(float* base, int64_t group, int64_t Dh, AttentionScratch* s) {
  const int64_t Rp = RoundUp(TileQueries(group) * group), Dp = RoundUp(Dh);
  int64_t used = 0;
  const auto take = [&](int64_t n) {
    float* part = base != nullptr ? base + used : nullptr;
    used += n;
    return part;
  };
  const int64_t keys = kKeyBlock * Dp;  // also enough for rows of any dtype as they are
  *s = {.q = take(Dh * Rp),
        .s = take(kKeyBlock * Rp),
        .o = take(Rp * Dp),
        .k = take(keys),
        .v = take(keys),
        .raw_k = reinterpret_cast<std::byte*>(take(keys)),
        .raw_v = reinterpret_cast<std::byte*>(take(keys)),
        .max = take(Rp),
        .sum = take(Rp),
        .keep = take(Rp),
        .lambda = take(Rp),
        .lo = reinterpret_cast<int32_t*>(take(Rp)),
        .hi = reinterpret_cast<int32_t*>(take(Rp)),
        .far = reinterpret_cast<int32_t*>(take(Rp))};
  return used;
}

// Rows of a cache that lie one after another.
struct KeyBlock {
  const std::byte* k;
  const std::byte* v;
  int64_t row_bytes, n;
};
struct Cache {
  const void* k;
  const void* v;
  int64_t head_rows, row_bytes;
  [[nodiscard]] KeyBlock Block(int64_t head, int64_t row, int64_t n) const {
    const int64_t at = (head * head_rows + row) * row_bytes;
    return {static_cast<const std::byte*>(k) + at, static_cast<const std::byte*>(v) + at, row_bytes, n};
  }
};
inline Cache CacheOf(const AttentionArgs& a) { return {a.k, a.v, a.head_rows, KvRowBytes(a.dtype, a.Dh)}; }

// The landmarks i .. i + n - 1 of a KV head: where they lie, or gathered into scratch if they are listed.
inline KeyBlock LandmarkBlock(const AttentionArgs& a, int64_t head, int64_t i, int64_t n, const AttentionScratch& s) {
  const LandmarkArgs& m = a.landmarks;
  const Cache cache{m.k, m.v, m.head_rows, KvRowBytes(a.dtype, a.Dh)};
  if (m.rows == nullptr) return cache.Block(head, i, n);
  for (int64_t j = 0; j < n; ++j) {
    const KeyBlock row = cache.Block(head, m.rows[i + j], 1);
    std::memcpy(s.raw_k + j * cache.row_bytes, row.k, static_cast<size_t>(cache.row_bytes));
    std::memcpy(s.raw_v + j * cache.row_bytes, row.v, static_cast<size_t>(cache.row_bytes));
  }
  return {s.raw_k, s.raw_v, cache.row_bytes, n};
}
// Does any of the landmarks i .. i + n - 1 lie at `far` or before?
inline bool AnyLandmark(const LandmarkArgs& m, int64_t i, int64_t n, int64_t far) {
  return std::any_of(m.pos + i, m.pos + i + n, [far](int32_t pos) { return pos <= far; });
}

inline int32_t Clamp32(int64_t n) { return static_cast<int32_t>(std::clamp<int64_t>(n, INT32_MIN, INT32_MAX)); }

}  // namespace hydra::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

HWY_INLINE size_t Left(int64_t n, int64_t i) { return static_cast<size_t>(n - i); }
HWY_INLINE const std::byte* Bytes(const float* x) { return reinterpret_cast<const std::byte*>(x); }

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
// vectors, keys go down. score(r, j, v) puts bias and mask into the scores v of the rows r .. .
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

// ---- One query: all heads of a KV head together, keys and values streamed ----

struct Query {
  AttentionScratch s{};
  const float* q;  // [group, Dh]
  int64_t group, Dh, Dp;
  float scale;
  KvDtype dtype;
  bool first = true;
};

// Into the second-level cache: the values of the keys j .. j + 3, and the same keys of the block behind this one. The
// processor's own prefetchers stop at pages and lose the thread where a value's row is read in halves. An address
// behind the cache's end does no harm.
HWY_INLINE void FetchAhead(const KeyBlock& block, int64_t j) {
  const std::byte* v = block.v + j * block.row_bytes;
  const std::byte* k = block.k + (j + kKeyBlock) * block.row_bytes;
  for (int64_t i = 0; i < 4 * block.row_bytes; i += 64) {
    __builtin_prefetch(v + i, 0, 3);
    __builtin_prefetch(k + i, 0, 3);
  }
}

// s[h, j] = q_h k_j for kHeads heads from h on. Four keys at a time, so that their sums over lanes come together.
template <class Row, int kHeads>
HWY_NOINLINE void QueryScores(const Query& query, const KeyBlock& block, int64_t h) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float* q = query.q + h * query.Dh;
  for (int64_t j = 0; j < block.n; j += 4) {
    const std::byte* k[4];  // behind the end the last one again; those scores are not read
    for (int64_t i = 0; i < 4; ++i) k[i] = block.k + std::min(j + i, block.n - 1) * block.row_bytes;
    if (h == 0) FetchAhead(block, j);
    FloatVec sums[kHeads][4];
    Repeat<kHeads>([&](auto g)
                       HYDRA_TILE_LAMBDA { Repeat<4>([&](auto x) HYDRA_TILE_LAMBDA { sums[g][x] = hn::Zero(d); }); });
    const auto step = [&](int64_t i, size_t left) HYDRA_TILE_LAMBDA {
      FloatVec kv[4];
      Repeat<4>([&](auto x) HYDRA_TILE_LAMBDA { kv[x] = Row::Load(k[x], i, left); });
      Repeat<kHeads>([&](auto g) HYDRA_TILE_LAMBDA {
        const auto qv = LoadPart(d, q + g * query.Dh + i, left);
        Repeat<4>([&](auto x) HYDRA_TILE_LAMBDA { sums[g][x] = hn::MulAdd(qv, kv[x], sums[g][x]); });
      });
    };
    int64_t i = 0;
    for (; i + lanes <= query.Dh; i += lanes) step(i, static_cast<size_t>(lanes));
    if (i < query.Dh) step(i, Left(query.Dh, i));
    Repeat<kHeads>([&](auto g) HYDRA_TILE_LAMBDA {
      ReduceSum4(sums[g][0], sums[g][1], sums[g][2], sums[g][3], query.s.s + (h + g) * kKeyBlock + j);
    });
  }
}

// Scores of one head [n] to exps, with its running maximum and sum. score(j, v) puts bias and mask into the scores j ..
// .
template <class Score>
HWY_INLINE void QuerySoftmax(const Query& query, int64_t h, int64_t n, Score&& score) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const AttentionScratch& s = query.s;
  float* row = s.s + h * kKeyBlock;
  const auto lowest = hn::Set(d, -INFINITY), scale = hn::Set(d, query.scale);
  auto max = lowest;
  for (int64_t j = 0; j < n; j += lanes) {
    auto v = score(j, hn::Mul(scale, hn::LoadU(d, row + j)));
    if (j + lanes > n) v = hn::IfThenElse(hn::FirstN(d, Left(n, j)), v, lowest);
    hn::StoreU(v, d, row + j);
    max = hn::Max(max, v);
  }
  const float old = query.first ? -INFINITY : s.max[h], top = std::max(old, ReduceMax(d, max));
  const auto base = hn::Set(d, top == -INFINITY ? 0.0f : top);
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < n; j += lanes) {
    const auto e = Exp<true>(hn::Sub(hn::LoadU(d, row + j), base));
    hn::StoreU(e, d, row + j);
    sum = hn::Add(sum, e);
  }
  const float keep = hn::GetLane(Exp<true>(hn::Sub(hn::Set(d, old), base)));
  s.keep[h] = keep;
  s.max[h] = top;
  s.sum[h] = (query.first ? 0.0f : keep * s.sum[h]) + ReduceSum(d, sum);
}

template <class Row, class Score>
HWY_INLINE void QueryBlock(Query* query, const KeyBlock& block, Score&& score) {
  constexpr int kHeads = HWY_MAX_BYTES >= 64 ? 4 : 2;
  int64_t h = 0;
  for (; h + kHeads <= query->group; h += kHeads) QueryScores<Row, kHeads>(*query, block, h);
  if constexpr (kHeads == 4) {
    if (h + 3 == query->group) QueryScores<Row, 3>(*query, block, h), h += 3;
    if (h + 2 == query->group) QueryScores<Row, 2>(*query, block, h), h += 2;
  }
  if (h < query->group) QueryScores<Row, 1>(*query, block, h);
  for (h = 0; h < query->group; ++h)
    QuerySoftmax(*query, h, block.n, [&](int64_t j, FloatVec v) HWY_ATTR { return score(h, j, v); });
  SmallGemm<Row, 4>({.a = query->s.s,
                     .a_row = kKeyBlock,
                     .a_k = 1,
                     .b = block.v,
                     .b_row = block.row_bytes,
                     .c = query->s.o,
                     .c_row = query->Dp,
                     .M = query->group,
                     .N = query->Dh,
                     .K = block.n,
                     .beta = query->first ? nullptr : query->s.keep,
                     .beta_row = 1});
  query->first = false;
}

void QueryRows(Query* query, const Cache& cache, int64_t kv, int64_t begin, int64_t end) {
  WithKvRow(query->dtype, [&](auto type) HWY_ATTR {
    for (int64_t block = begin / kKeyBlock * kKeyBlock; block < end; block += kKeyBlock) {
      const int64_t from = std::max(block, begin), to = std::min(block + kKeyBlock, end);
      QueryBlock<decltype(type)>(query, cache.Block(kv, from, to - from),
                                 [](int64_t, int64_t, FloatVec v) HWY_ATTR { return v; });
    }
  });
}

void QueryLandmarks(Query* query, const AttentionArgs& a, int64_t kv, int64_t t) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const LandmarkArgs& m = a.landmarks;
  const int64_t far = a.pos + t - a.window;
  const auto limit = hn::Set(di, Clamp32(far));
  WithKvRow(query->dtype, [&](auto type) HWY_ATTR {
    for (int64_t i = 0; i < m.n; i += kKeyBlock) {
      const int64_t n = std::min(kKeyBlock, m.n - i);
      if (!AnyLandmark(m, i, n, far)) continue;
      QueryBlock<decltype(type)>(query, LandmarkBlock(a, kv, i, n, query->s),
                                 [&](int64_t h, int64_t j, FloatVec v) HWY_ATTR {
                                   const auto bias = LoadPart(d, m.log_sigmoid + i + j, Left(n, j));
                                   const auto hidden = hn::Gt(LoadPart(di, m.pos + i + j, Left(n, j)), limit);
                                   const auto biased = hn::MulAdd(hn::Set(d, m.lambda[kv * query->group + h]), bias, v);
                                   return hn::IfThenElse(hn::RebindMask(d, hidden), hn::Set(d, -INFINITY), biased);
                                 });
    }
  });
}

void AttentionQuery(const AttentionArgs& a, int64_t kv, int64_t t) {
  const FloatTag d;
  const int64_t group = a.A / a.Akv, qs = a.q_stride != 0 ? a.q_stride : a.A * a.Dh,
                ys = a.y_stride != 0 ? a.y_stride : a.A * a.Dh;
  Query query{.q = a.q + t * qs + kv * group * a.Dh,
              .group = group,
              .Dh = a.Dh,
              .Dp = RoundUp(a.Dh),
              .scale = a.scale,
              .dtype = a.dtype};
  LayOut(a.scratch, group, a.Dh, &query.s);
  QueryRows(&query, CacheOf(a), kv, std::max<int64_t>(0, a.row + t - a.window + 1), a.row + t + 1);
  QueryLandmarks(&query, a, kv, t);
  for (int64_t h = 0; h < group; ++h) {
    const auto inverse = hn::Set(d, 1 / query.s.sum[h]);
    float* y = a.y + t * ys + (kv * group + h) * a.Dh;
    for (int64_t i = 0; i < a.Dh; i += static_cast<int64_t>(hn::Lanes(d)))
      StorePart(hn::Mul(inverse, hn::LoadU(d, query.s.o + h * query.Dp + i)), d, y + i, Left(a.Dh, i));
  }
}

void Attention(const AttentionArgs& a) {
  const int64_t most = TileQueries(a.A / a.Akv);
  for (int64_t kv = a.kv0; kv < a.kv1; ++kv)
    for (int64_t t = a.t0; t < a.t1; t += most) {
      const int64_t queries = std::min(most, a.t1 - t);
      queries == 1 ? AttentionQuery(a, kv, t) : AttentionTile(a, kv, t, queries);
    }
}

// ---- Parts ----

void AttentionPart(const AttentionPartArgs& a) {
  const int64_t group = a.A / a.Akv;
  Query query{.q = a.q + a.kv * group * a.Dh,
              .group = group,
              .Dh = a.Dh,
              .Dp = RoundUp(a.Dh),
              .scale = a.scale,
              .dtype = a.dtype};
  LayOut(a.scratch, group, a.Dh, &query.s);
  QueryRows(&query, {a.k, a.v, a.head_rows, KvRowBytes(a.dtype, a.Dh)}, a.kv, a.begin, a.end);
  for (int64_t h = 0; h < group; ++h) {
    float* part = a.part + h * (a.Dh + 2);
    std::memcpy(part, query.s.o + h * query.Dp, static_cast<size_t>(a.Dh) * sizeof(float));
    part[a.Dh] = query.s.max[h];
    part[a.Dh + 1] = query.s.sum[h];
  }
}

// Part by part in order, each by exp(its max - the max of all).
void AttentionMerge(const AttentionMergeArgs& a) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = a.Dh + 2;
  for (int64_t h = 0; h < a.heads; ++h) {
    const auto part = [&](int64_t p) { return a.parts + (p * a.heads + h) * width; };
    float max = -INFINITY, sum = 0;
    for (int64_t p = 0; p < a.n_parts; ++p) max = std::max(max, part(p)[a.Dh]);
    float* y = a.y + h * a.Dh;
    for (int64_t p = 0; p < a.n_parts; ++p) {
      const auto share = Exp<true>(hn::Set(d, part(p)[a.Dh] - max));
      sum += hn::GetLane(share) * part(p)[a.Dh + 1];
      for (int64_t i = 0; i < a.Dh; i += lanes) {
        const auto before = p == 0 ? hn::Zero(d) : LoadPart(d, y + i, Left(a.Dh, i));
        StorePart(hn::MulAdd(share, LoadPart(d, part(p) + i, Left(a.Dh, i)), before), d, y + i, Left(a.Dh, i));
      }
    }
    const auto inverse = hn::Set(d, 1 / sum);
    for (int64_t i = 0; i < a.Dh; i += lanes)
      StorePart(hn::Mul(inverse, LoadPart(d, y + i, Left(a.Dh, i))), d, y + i, Left(a.Dh, i));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(Attention);
HWY_EXPORT(AttentionPart);
HWY_EXPORT(AttentionMerge);

void Attention(const AttentionArgs& a) {
  HYDRA_CHECK(a.Akv >= 1 && a.A % a.Akv == 0 && 0 <= a.kv0 && a.kv1 <= a.Akv && a.window >= 1 && a.row >= 0);
  HYDRA_CHECK(a.row + a.t1 <= a.head_rows);
  HYDRA_DISPATCH(Attention)(a);
}
int64_t AttentionScratchFloats(int64_t group, int64_t Dh) {
  AttentionScratch s{};
  return LayOut(nullptr, group, Dh, &s);
}
void AttentionPart(const AttentionPartArgs& a) {
  HYDRA_CHECK(a.Akv >= 1 && a.A % a.Akv == 0 && 0 <= a.kv && a.kv < a.Akv && a.begin % kKeyBlock == 0);
  HYDRA_CHECK(a.begin < a.end && a.end <= a.head_rows);
  HYDRA_DISPATCH(AttentionPart)(a);
}
void AttentionMerge(const AttentionMergeArgs& a) {
  HYDRA_CHECK(a.n_parts >= 1);
  HYDRA_DISPATCH(AttentionMerge)(a);
}

}  // namespace hydra::kernels
#endif
