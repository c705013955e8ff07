// SPDX-License-Identifier: Apache-2.0
// Attention of many queries: tiles of them times blocks of cached keys. Formulas: specs/hydra.md 3. Not here: one query
// alone (ops_attention_query.cc), rows of the cache (ops_kv.cc), which landmarks there are (hydra/runtime).
// Dims: R rows of a tile = queries x heads, n keys of a block; Rp, Dkp and Dvp: R, Dk and Dv rounded up to kAlign.
#include "hydra/base/error.h"
#include "hydra/kernels/amx.h"
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

// ---- Products of pairs of bf16 ----

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
namespace bf16 {
#define HYDRA_ATTR __attribute__((target(HWY_TARGET_STR ",avx512bf16")))
#include "hydra/kernels/simd_bf16-inl.h"

// As SmallGemmArgs (simd_gemm-inl.h), of K pairs: a and b hold pairs, and their strides count pairs. N is a multiple of
// a vector.
struct PairGemmArgs {
  const std::byte* a;
  int64_t a_row, a_k;
  const std::byte* b;
  int64_t b_row;
  float* c;
  int64_t c_row;
  int64_t M, N, K;
  const float* beta = nullptr;  // [M]; null: 0
};

template <int R, int V>
HWY_NOINLINE void PairTile(const PairGemmArgs& g, int64_t m, int64_t n) {
  __m512 sums[R][V];
  float* c = g.c + m * g.c_row + n;
  Unroll<R>([&](auto r) HYDRA_LAMBDA {
    Unroll<V>([&](auto v) HYDRA_LAMBDA {
      sums[r][v] = g.beta == nullptr ? _mm512_setzero_ps()
                                     : _mm512_mul_ps(_mm512_set1_ps(g.beta[m + r]),
                                                     _mm512_loadu_ps(c + r * g.c_row + v * kPairLanes));
    });
  });
  const std::byte* a = g.a + 4 * m * g.a_row;
  const std::byte* b = g.b + 4 * n;
  for (int64_t k = 0; k < g.K; ++k, a += 4 * g.a_k, b += 4 * g.b_row) {
    __m512i columns[V];
    Unroll<V>([&](auto v) HYDRA_LAMBDA { columns[v] = LoadPairs(b + 4 * v * kPairLanes); });
    Unroll<R>([&](auto r) HYDRA_LAMBDA {
      const __m512i row = SetPair(a + 4 * r * g.a_row);
      Unroll<V>([&](auto v) HYDRA_LAMBDA { sums[r][v] = AddPairs(sums[r][v], row, columns[v]); });
    });
  }
  Unroll<R>([&](auto r) HYDRA_LAMBDA {
    Unroll<V>([&](auto v) HYDRA_LAMBDA { _mm512_storeu_ps(c + r * g.c_row + v * kPairLanes, sums[r][v]); });
  });
}

template <int R>
HWY_INLINE void PairRows(const PairGemmArgs& g, int64_t m) {
  int64_t n = 0;
  for (; n + 4 * kPairLanes <= g.N; n += 4 * kPairLanes) PairTile<R, 4>(g, m, n);
  for (; n + 2 * kPairLanes <= g.N; n += 2 * kPairLanes) PairTile<R, 2>(g, m, n);
  if (n < g.N) PairTile<R, 1>(g, m, n);
}

inline void PairGemm(const PairGemmArgs& g) {
  int64_t m = 0;
  for (; m + 6 <= g.M; m += 6) PairRows<6>(g, m);
  for (; m + 2 <= g.M; m += 2) PairRows<2>(g, m);
  if (m < g.M) PairRows<1>(g, m);
}

#include "hydra/kernels/ops_attention_amx-inl.h"
#undef HYDRA_LAMBDA
#undef HYDRA_ATTR
}  // namespace bf16
HWY_POP_ATTRIBUTES
#endif

// ---- A tile of queries ----

struct Tile {
  AttentionScratch s{};
  int64_t R, Rp, Dk, Dkp, Dv, Dvp;
  KvDtype dtype;
  bool bf16 = false;  // products of pairs of bf16
  bool amx = false;   // those by tiles
  bool first = true;  // no block yet: sums are not defined
};

// n rows of D numbers in any dtype to f32, out [n], rows Dp apart.
void Widen(KvDtype dtype, const std::byte* rows, int64_t stride, int64_t n, int64_t D, float* out, int64_t Dp) {
  const FloatTag d;
  WithKvRow(dtype, [&](auto type) HWY_ATTR {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < D; i += static_cast<int64_t>(hn::Lanes(d)))
        hn::StoreU(decltype(type)::Load(rows + j * stride, i, Left(D, i)), d, out + j * Dp + i);
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

#if HWY_TARGET == HWY_AVX3
// TileBlock by pairs of bf16: queries are pairs already, keys and values become pairs here, and so do the exps.
template <class Score>
HWY_INLINE void PairBlock(Tile* tile, const KeyBlock& block, Score&& score) {
  const AttentionScratch& s = tile->s;
  const auto whole = [](int64_t n) { return (n + bf16::kPairLanes - 1) / bf16::kPairLanes * bf16::kPairLanes; };
  const int64_t rows = whole(tile->R), width = whole(tile->Dv);
  const std::byte* k = block.k;
  int64_t k_row = block.k_stride / 4;
  if (tile->dtype != KvDtype::kBF16 || tile->Dk % 2 != 0 || block.k_stride % 4 != 0) {  // else they are as stored
    Widen(tile->dtype, block.k, block.k_stride, block.n, tile->Dk, s.k, tile->Dkp);
    bf16::PackRows(s.k, block.n, whole(tile->Dk), tile->Dkp);
    k = Bytes(s.k), k_row = tile->Dkp;
  }
  const auto gemm = tile->amx ? bf16::TileGemm : bf16::PairGemm;
  gemm({.a = k,
        .a_row = k_row,
        .a_k = 1,
        .b = Bytes(s.q),
        .b_row = tile->Rp,
        .c = s.s,
        .c_row = tile->Rp,
        .M = block.n,
        .N = rows,
        .K = (tile->Dk + 1) / 2});
  TileSoftmax(*tile, block.n, score);
  bf16::PackPairs(s.s, block.n, rows, tile->Rp);
  Widen(tile->dtype, block.v, block.v_stride, block.n, tile->Dv, s.v, tile->Dvp);
  bf16::PackPairs(s.v, block.n, width, tile->Dvp);
  const std::byte* exps = Bytes(s.s);
  int64_t exps_row = 1, exps_k = tile->Rp;
  if (tile->amx) {  // tiles want the pairs of a row one after another: behind the pairs is room for them
    std::byte* turned = reinterpret_cast<std::byte*>(s.s + kKeyBlock / 2 * tile->Rp);
    bf16::TransposePairs(exps, (block.n + 1) / 2, rows, tile->Rp, turned, kKeyBlock / 2);
    exps = turned, exps_row = kKeyBlock / 2, exps_k = 1;
  }
  gemm({.a = exps,
        .a_row = exps_row,
        .a_k = exps_k,
        .b = Bytes(s.v),
        .b_row = tile->Dvp,
        .c = s.o,
        .c_row = tile->Dvp,
        .M = tile->R,
        .N = width,
        .K = (block.n + 1) / 2,
        .beta = tile->first ? nullptr : s.keep});
  tile->first = false;
}
#endif

// One block of keys into the tile. The keys are the broadcast factor of the scores, so that neither they nor the values
// are transposed; widened once for all queries and heads of the tile.
template <class Score>
HWY_INLINE void TileBlock(Tile* tile, const KeyBlock& block, Score&& score) {
#if HWY_TARGET == HWY_AVX3
  if (tile->bf16) return PairBlock(tile, block, score);
#endif
  const AttentionScratch& s = tile->s;
  const bool direct = tile->dtype == KvDtype::kF32;
  const float* k = reinterpret_cast<const float*>(block.k);
  const float* v = reinterpret_cast<const float*>(block.v);
  if (!direct) {
    Widen(tile->dtype, block.k, block.k_stride, block.n, tile->Dk, s.k, tile->Dkp);
    Widen(tile->dtype, block.v, block.v_stride, block.n, tile->Dv, s.v, tile->Dvp);
    k = s.k, v = s.v;
  }
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  SmallGemm({.a = k,
             .a_row = direct ? block.k_stride / 4 : tile->Dkp,
             .a_k = 1,
             .b = Bytes(s.q),
             .b_row = tile->Rp * 4,
             .c = s.s,
             .c_row = tile->Rp,
             .M = block.n,
             .N = (tile->R + lanes - 1) / lanes * lanes,
             .K = tile->Dk});
  TileSoftmax(*tile, block.n, score);
  SmallGemm({.a = s.s,
             .a_row = 1,
             .a_k = tile->Rp,
             .b = Bytes(v),
             .b_row = direct ? block.v_stride : tile->Dvp * 4,
             .c = s.o,
             .c_row = tile->Dvp,
             .M = tile->R,
             .N = tile->Dv,
             .K = block.n,
             .beta = tile->first ? nullptr : s.keep,
             .beta_row = 1});
  tile->first = false;
}

// Rows r = head * queries + query.
void LoadTile(const AttentionArgs& a, int64_t t0, int64_t queries, const Tile& tile) {
  const AttentionScratch& s = tile.s;
  const int64_t qs = a.q_stride != 0 ? a.q_stride : a.heads * tile.Dk;
  for (int64_t head = 0; head < a.heads; ++head) {
    TransposeScaled(a.q + t0 * qs + head * tile.Dk, qs, queries, tile.Dk, a.scale, s.q + head * queries, tile.Rp);
    for (int64_t t = 0; t < queries; ++t) {
      const int64_t r = head * queries + t, position = a.pos + t0 + t;
      s.lambda[r] = a.lambda != nullptr ? a.lambda[head] : 0.0f;
      s.hi[r] = Clamp32(position);
      s.lo[r] = Clamp32(std::max<int64_t>(0, position - a.window + 1));
      s.far[r] = Clamp32(position - a.window);
    }
  }
  for (int64_t r = tile.R; r < tile.Rp; ++r) {  // rows that are not there: like the last, their sums go nowhere
    for (int64_t i = 0; i < tile.Dk; ++i) s.q[i * tile.Rp + r] = 0;
    s.lambda[r] = s.lambda[tile.R - 1], s.hi[r] = s.hi[tile.R - 1], s.lo[r] = s.lo[tile.R - 1],
    s.far[r] = s.far[tile.R - 1];
  }
#if HWY_TARGET == HWY_AVX3
  if (tile.bf16) bf16::PackPairs(s.q, tile.Dk, tile.Rp, tile.Rp);
#endif
}

// Sinks and window.
void TileKeys(const AttentionArgs& a, int64_t t0, int64_t queries, Tile* tile) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const int64_t first = a.pos + t0, last = first + queries - 1;
  const int64_t all_from = std::max<int64_t>(0, last - a.window + 1);  // up to `first`, all queries see
  ForVisible(a, first, last, tile->s, [&](const KeyBlock& block, int64_t begin) HWY_ATTR {
    const int64_t end = begin + block.n;
    if (a.tiles != nullptr) a.tiles->Visit(begin);
    if (end - 1 <= first && (begin >= all_from || end <= a.sinks)) {
      TileBlock(tile, block, [](int64_t, int64_t, FloatVec v) HWY_ATTR { return v; });
      return;
    }
    const int32_t *lo = tile->s.lo, *hi = tile->s.hi;
    const int64_t sinks = a.sinks;
    TileBlock(tile, block, [=](int64_t r, int64_t j, FloatVec v) HWY_ATTR {
      const auto position = hn::Set(di, static_cast<int32_t>(begin + j));
      auto hidden = hn::Gt(position, hn::LoadU(di, hi + r));
      if (begin + j >= sinks) hidden = hn::Or(hidden, hn::Gt(hn::LoadU(di, lo + r), position));
      return hn::IfThenElse(hn::RebindMask(d, hidden), hn::Set(d, -INFINITY), v);
    });
  });
}

void TileLandmarks(const AttentionArgs& a, int64_t t0, int64_t queries, Tile* tile) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const int64_t far_of_last = a.pos + t0 + queries - 1 - a.window;
  ForLandmarks(a, far_of_last, [&](const KeyBlock& block, const int32_t* pos, const float* bias) HWY_ATTR {
    const float* lambda = tile->s.lambda;
    const int32_t* far = tile->s.far;
    TileBlock(tile, block, [=](int64_t r, int64_t j, FloatVec v) HWY_ATTR {
      const auto hidden = hn::Gt(hn::Set(di, pos[j]), hn::LoadU(di, far + r));
      const auto biased = hn::MulAdd(hn::LoadU(d, lambda + r), hn::Set(d, bias != nullptr ? bias[j] : 0.0f), v);
      return hn::IfThenElse(hn::RebindMask(d, hidden), hn::Set(d, -INFINITY), biased);
    });
  });
}

void AttentionTile(const AttentionArgs& a, int64_t t0, int64_t queries) {
  const FloatTag d;
  const int64_t Dk = a.keys.Dk, Dv = a.keys.Dv, R = queries * a.heads;
  const int64_t ys = a.y_stride != 0 ? a.y_stride : a.heads * Dv;
  Tile tile{.R = R,
            .Rp = RoundUp(R),
            .Dk = Dk,
            .Dkp = RoundUp(Dk),
            .Dv = Dv,
            .Dvp = RoundUp(Dv),
            .dtype = a.keys.dtype,
            .bf16 = a.bf16 && internal::CurrentExtension() >= internal::Extension::kBf16,
            .amx = internal::CurrentExtension() >= internal::Extension::kAmx};
  LayOut(a.scratch, a.heads, Dk, Dv, &tile.s);
  LoadTile(a, t0, queries, tile);
  TileKeys(a, t0, queries, &tile);
  TileLandmarks(a, t0, queries, &tile);
  for (int64_t head = 0; head < a.heads; ++head)
    for (int64_t t = 0; t < queries; ++t) {
      const int64_t r = head * queries + t;
      const auto inverse = hn::Set(d, 1 / tile.s.sum[r]);
      float* y = a.y + (t0 + t) * ys + head * Dv;
      for (int64_t i = 0; i < Dv; i += static_cast<int64_t>(hn::Lanes(d)))
        StorePart(hn::Mul(inverse, hn::LoadU(d, tile.s.o + r * tile.Dvp + i)), d, y + i, Left(Dv, i));
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(AttentionTile);

void Attention(const AttentionArgs& a) {
  HYDRA_CHECK(a.heads >= 1 && a.window >= 1 && a.sinks >= 0 && a.pos >= 0 && a.keys.Dk >= 1 && a.keys.Dv >= 1);
  const auto tile = HYDRA_DISPATCH(AttentionTile);
  for (int64_t t = a.t0, queries = 0; t < a.t1; t += queries) {
    queries = QueriesAt(a, t);
    queries == 1 ? AttentionQuery(a, t) : tile(a, t, queries);
  }
}

int64_t AttentionTileQueries(int64_t heads, int64_t queries) {
  const int64_t most = TileQueries(heads), tiles = std::max<int64_t>(1, (queries + most - 1) / most);
  return std::max<int64_t>(1, (queries + tiles - 1) / tiles);  // equal ones
}

int64_t AttentionScratchFloats(int64_t heads, int64_t Dk, int64_t Dv) {
  AttentionScratch s{};
  return LayOut(nullptr, heads, Dk, Dv, &s);
}

}  // namespace hydra::kernels
#endif
