// SPDX-License-Identifier: Apache-2.0
// Float kernels of narrow matrices, for each SIMD level: panels of 16 rows, column by column, times few tokens; the
// same panels as slabs of the float GEMM; and the SiLU behind a product. Not here: rows as files hold them
// (matmul_float.cc), panels of quantised weights (matmul_int8.cc), packing (matmul_pack.cc).
#include <algorithm>
#include <cstdint>

#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/matmul_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/matmul_narrow.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/matmul_loads-inl.h"
#include "hydra/kernels/matmul_store-inl.h"
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

constexpr int kRows = static_cast<int>(kNarrowRows);
constexpr int kPanelVectors = kRows / kLanes;
// Of a panel at a time with one token, so that kSums times as many sums are at work.
constexpr int kOneTokenVectors = std::min(kPanelVectors, 2);

// V vectors of a panel's rows, from vector v0 on, times TN tokens. Column k goes to sum k mod kSums: the same bits for
// any TN and V.
template <class W, int TN, int V>
HWY_INLINE void NarrowTile(const DotCall& c, const std::byte* panel, int64_t n, int v0, int64_t t0) {
  const FloatTag d;
  const float* x[TN];
  Unroll<TN>([&](auto t) HYDRA_LAMBDA { x[t] = c.x + (c.x_rows != nullptr ? c.x_rows[t0 + t] : t0 + t) * c.x_stride; });
  FloatVec sums[kSums][TN][V];
  Unroll<kSums>([&](auto s) HYDRA_LAMBDA {
    Unroll<TN>([&](auto t) HYDRA_LAMBDA { Unroll<V>([&](auto v) HYDRA_LAMBDA { sums[s][t][v] = hn::Zero(d); }); });
  });
  const auto add = [&](auto s, int64_t k) HYDRA_LAMBDA {
    FloatVec w[V];
    Unroll<V>([&](auto v) HYDRA_LAMBDA {
      w[v] = W::Load(panel + (k * kRows + (v0 + v) * kLanes) * W::kBytes, static_cast<size_t>(kLanes));
    });
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      const auto xv = hn::Set(d, x[t][k]);
      Unroll<V>([&](auto v) HYDRA_LAMBDA { sums[s][t][v] = hn::MulAdd(w[v], xv, sums[s][t][v]); });
    });
  };
  Ahead ahead(panel, t0 == 0 && v0 == 0 ? c.ahead : 0);
  int64_t k = 0;
  for (; k + kSums <= c.K; k += kSums) {
    ahead.Use(panel + (k + kSums) * kRows * W::kBytes);
    Unroll<kSums>([&](auto s) HYDRA_LAMBDA { add(s, k + s); });
  }
  Unroll<kSums>([&](auto s) HYDRA_LAMBDA {
    if (k + s < c.K) add(s, k + s);
  });
  static_assert(kSums == 4);
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<V>([&](auto v) HYDRA_LAMBDA {
      const auto sum = hn::Add(hn::Add(sums[0][t][v], sums[1][t][v]), hn::Add(sums[2][t][v], sums[3][t][v]));
      StoreSums(c.out, t0 + t, n + (v0 + v) * kLanes, sum);
    });
  });
}

template <class W, int TN, int V>
HWY_NOINLINE void NarrowTokens(const DotCall& c, const std::byte* panel, int64_t n, int64_t t0) {
  for (int v = 0; v < kPanelVectors; v += V) NarrowTile<W, TN, V>(c, panel, n, v, t0);
}

template <class W>
HWY_NOINLINE void NarrowOneToken(const DotCall& c) {
  const int64_t bytes = c.K * kRows * W::kBytes;
  const std::byte* panel = c.w + c.n0 / kRows * bytes;
  for (int64_t n = c.n0; n < c.n1; n += kRows, panel += bytes)
    for (int v = 0; v < kPanelVectors; v += kOneTokenVectors) NarrowTile<W, 1, kOneTokenVectors>(c, panel, n, v, 0);
}

// Each panel stays in the first-level cache while all tokens pass.
template <class W>
void NarrowOf(const DotCall& c) {
  if (c.T == 1) return NarrowOneToken<W>(c);
  constexpr int kWide = HWY_MAX_BYTES >= 64 ? 4 : 2;  // tokens: as many sums as there are registers for
  const int64_t bytes = c.K * kRows * W::kBytes;
  const std::byte* panel = c.w + c.n0 / kRows * bytes;
  for (int64_t n = c.n0; n < c.n1; n += kRows, panel += bytes) {
    int64_t t = 0;
    for (; t + kWide <= c.T; t += kWide) NarrowTokens<W, kWide, 1>(c, panel, n, t);
    for (; t < c.T; ++t) NarrowTokens<W, 1, kOneTokenVectors>(c, panel, n, t);
  }
}

void Narrow(const DotCall& c) {
  WithFloatType(c.type, [&](auto w) HYDRA_LAMBDA { NarrowOf<decltype(w)>(c); });
}

template <class W>
void NarrowSlabOf(const std::byte* w, int64_t N, int64_t K, int64_t n, int64_t k0, int64_t k1, float* out) {
  const FloatTag d;
  for (int v = 0; v < 2; ++v) {
    const int64_t row = n + v * kLanes;
    const std::byte* from = w + (row / kRows * K * kRows + row % kRows) * W::kBytes;
    for (int64_t k = k0; k < k1; ++k) {
      const auto weights = row < N ? W::Load(from + k * kRows * W::kBytes, static_cast<size_t>(kLanes)) : hn::Zero(d);
      hn::StoreU(weights, d, out + (2 * (k - k0) + v) * kLanes);
    }
  }
}

void NarrowSlab(WeightType type, const std::byte* w, int64_t N, int64_t K, int64_t n, int64_t k0, int64_t k1,
                float* out) {
  WithFloatType(type, [&](auto loads) HYDRA_LAMBDA { NarrowSlabOf<decltype(loads)>(w, N, K, n, k0, k1, out); });
}

void ScaledSilu(float* y, int64_t n, float scale) {
  const FloatTag d;
  const auto factor = hn::Set(d, scale);
  for (int64_t i = 0; i < n; i += kLanes)
    StorePart(hn::Mul(factor, Silu(LoadPart(d, y + i, Left(n, i)))), d, y + i, Left(n, i));
}

NarrowKernels NarrowKernelsOf() { return {Narrow, NarrowSlab, ScaledSilu}; }

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(NarrowKernelsOf);

NarrowKernels GetNarrowKernels() { return HYDRA_DISPATCH(NarrowKernelsOf)(); }

}  // namespace hydra::kernels
#endif
