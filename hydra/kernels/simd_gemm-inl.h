// SPDX-License-Identifier: Apache-2.0
// Small dense products of f32 in the cache, what SSD and attention are made of. Compiled once a SIMD level, after
// simd.h. Not here: products with weights (matmul.h).
// Dims: M rows, N columns, K terms.
#if defined(HYDRA_KERNELS_SMALL_GEMM_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HYDRA_KERNELS_SMALL_GEMM_INL_H
#undef HYDRA_KERNELS_SMALL_GEMM_INL_H
#else
#define HYDRA_KERNELS_SMALL_GEMM_INL_H
#endif

#include <type_traits>
#include <utility>

#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_kv-inl.h"

#undef HYDRA_TILE_LAMBDA
#define HYDRA_TILE_LAMBDA HWY_ATTR __attribute__((always_inline))

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// Columns of sums a tile keeps in registers, in vectors; 6 rows of them leave room for the factors.
#if HWY_MAX_BYTES >= 64
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
constexpr int kTileRows = 6;

template <int... I, class F>
HWY_INLINE void RepeatSequence(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
HWY_INLINE void Repeat(F&& f) {
  RepeatSequence(std::make_integer_sequence<int, N>{}, f);
}

HWY_INLINE const std::byte* Bytes(const float* x) { return reinterpret_cast<const std::byte*>(x); }

// c[m, n] = beta[m] from[m, n] + sum_k a[m, k] b[k, n]. Terms are added in the order of k, whatever the tile, so a
// row's bits do not depend on the rows beside it.
struct SmallGemmArgs {
  const float* a;
  int64_t a_row, a_k;  // floats from row to row and from k to k
  const std::byte* b;  // rows of f32, or of a KV dtype
  int64_t b_row;       // bytes
  float* c;
  int64_t c_row;
  int64_t M, N, K;
  const float* beta = nullptr;  // null: 0, from is not read
  int64_t beta_row = 0;         // floats from row to row; 0: one beta for all
  const float* from = nullptr;  // null: c itself
  int64_t from_row = 0;
};

// R rows from m on, V vectors from n on, of which the last has `left` lanes if kPart.
template <class Row, int R, int V, bool kPart>
HWY_NOINLINE void SmallGemmTile(const SmallGemmArgs& g, int64_t m, int64_t n, size_t left) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec sums[R][V];
  float* c = g.c + m * g.c_row + n;
  const auto width = [&](int v) HYDRA_TILE_LAMBDA { return kPart && v == V - 1 ? left : static_cast<size_t>(lanes); };
  Repeat<R>([&](auto r) HYDRA_TILE_LAMBDA {
    if (g.beta == nullptr) {
      Repeat<V>([&](auto v) HYDRA_TILE_LAMBDA { sums[r][v] = hn::Zero(d); });
    } else {
      const float* from = g.from != nullptr ? g.from + (m + r) * g.from_row + n : c + r * g.c_row;
      const auto beta = hn::Set(d, g.beta[(m + r) * g.beta_row]);
      Repeat<V>([&](auto v) HYDRA_TILE_LAMBDA { sums[r][v] = hn::Mul(beta, LoadPart(d, from + v * lanes, width(v))); });
    }
  });
  const float* a = g.a + m * g.a_row;
  const std::byte* b = g.b;
  for (int64_t k = 0; k < g.K; ++k, a += g.a_k, b += g.b_row) {
    FloatVec bv[V];
    Repeat<V>([&](auto v) HYDRA_TILE_LAMBDA { bv[v] = Row::Load(b, n + v * lanes, width(v)); });
    Repeat<R>([&](auto r) HYDRA_TILE_LAMBDA {
      const auto av = hn::Set(d, a[r * g.a_row]);
      Repeat<V>([&](auto v) HYDRA_TILE_LAMBDA { sums[r][v] = hn::MulAdd(av, bv[v], sums[r][v]); });
    });
  }
  Repeat<R>([&](auto r) HYDRA_TILE_LAMBDA {
    Repeat<V>([&](auto v) HYDRA_TILE_LAMBDA { StorePart(sums[r][v], d, c + r * g.c_row + v * lanes, width(v)); });
  });
}

template <class Row, int R>
HWY_INLINE void SmallGemmRows(const SmallGemmArgs& g, int64_t m) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  int64_t n = 0;
  for (; n + kTileVectors * lanes <= g.N; n += kTileVectors * lanes)
    SmallGemmTile<Row, R, kTileVectors, false>(g, m, n, 0);
#if HWY_MAX_BYTES >= 64
  if (n + 2 * lanes <= g.N) {
    SmallGemmTile<Row, R, 2, false>(g, m, n, 0);
    n += 2 * lanes;
  }
#endif
  if (n + lanes <= g.N) {
    SmallGemmTile<Row, R, 1, false>(g, m, n, 0);
    n += lanes;
  }
  if (n < g.N) SmallGemmTile<Row, R, 1, true>(g, m, n, static_cast<size_t>(g.N - n));
}

// kRows at a time, then the rest.
template <class Row = F32Row, int kRows = kTileRows>
HWY_INLINE void SmallGemm(const SmallGemmArgs& g) {
  int64_t m = 0;
  for (; m + kRows <= g.M; m += kRows) SmallGemmRows<Row, kRows>(g, m);
  Repeat<kRows>([&](auto r) HYDRA_TILE_LAMBDA {
    if constexpr (r > 0) {
      if (g.M - m == r) SmallGemmRows<Row, r>(g, m);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#endif  // HYDRA_KERNELS_SMALL_GEMM_INL_H
