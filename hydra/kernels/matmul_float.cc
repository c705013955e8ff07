// SPDX-License-Identifier: Apache-2.0
// The float kernels of products, for each SIMD level: rows of weights times few tokens (dot products straight from the
// rows), slabs of W times many tokens, and x to int8 blocks. Not here: int8 products (matmul_int8.cc), the driver.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/matmul_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/matmul_float.cc"
#include "hwy/foreach_target.h"
#include "hydra/kernels/matmul_store-inl.h"
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

constexpr int kLanes = static_cast<int>(HWY_LANES(float));
#define HYDRA_LAMBDA HWY_ATTR __attribute__((always_inline))

template <class F, int... I>
HWY_INLINE void UnrollSequence(F&& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
HWY_INLINE void Unroll(F&& f) {
  UnrollSequence(f, std::make_integer_sequence<int, N>{});
}

// ---- x to blocks ----

// |x| as bits: their order is that of the values, and NaN is above infinity.
HWY_INLINE float BlockMax(const float* x) {
  const hn::RebindToSigned<FloatTag> di;
  auto max = hn::Zero(di);
  for (int k = 0; k < kBlock; k += kLanes)
    max = hn::Max(max, hn::And(hn::BitCast(di, hn::LoadU(FloatTag(), x + k)), hn::Set(di, 0x7FFFFFFF)));
  const int32_t bits = ReduceMax(di, max);
  float amax;
  std::memcpy(&amax, &bits, sizeof(amax));
  return amax;
}

HWY_INLINE void RoundBlock(const float* x, XBlock* out) {
  const FloatTag df;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<int8_t, FloatTag> d8;
  const float amax = BlockMax(x);
  out->scale = amax / 127.0f;
  if (amax < kTinyBlock || !(amax <= 3.4e38f)) {  // nothing, or not finite: then the scale alone says so
    std::memset(out->q, 0, sizeof(out->q));
    out->scaled_sum = amax < kTinyBlock ? 0.0f : out->scale * 0.0f;  // NaN
    out->minus_sum = out->minus_first = 0;
    return;
  }
  const auto inverse = hn::Set(df, 127.0f / amax);
  auto sum = hn::Zero(di);
  for (int k = 0; k < kBlock; k += kLanes) {
    const auto q = hn::NearestInt(hn::Mul(hn::LoadU(df, x + k), inverse));
    hn::StoreU(hn::DemoteTo(d8, q), d8, out->q + k);
    sum = hn::Add(sum, q);
    if (k + kLanes == kBlock / 2) out->minus_first = -ReduceSum(di, sum);
  }
  const int32_t total = ReduceSum(di, sum);
  out->minus_sum = -total;
  out->scaled_sum = out->scale * static_cast<float>(total);
}

void Round(const float* x, int64_t K, XBlock* out, int64_t stride) {
  for (int64_t k = 0; k < K; k += kBlock, out += stride) RoundBlock(x + k, out);
}

// ---- Loads of weights ----

struct F32Weights {
  static constexpr int64_t kBytes = 4;
  static HWY_INLINE FloatVec Load(const std::byte* p, size_t n) {
    return LoadPart(FloatTag(), reinterpret_cast<const float*>(p), n);
  }
};
struct F16Weights {
  static constexpr int64_t kBytes = 2;
  static HWY_INLINE FloatVec Load(const std::byte* p, size_t n) {
    const hn::Rebind<uint16_t, FloatTag> d16;
    const hn::Rebind<hwy::float16_t, FloatTag> half;
    return hn::PromoteTo(FloatTag(), hn::BitCast(half, LoadPart(d16, reinterpret_cast<const uint16_t*>(p), n)));
  }
};
struct BF16Weights {
  static constexpr int64_t kBytes = 2;
  static HWY_INLINE FloatVec Load(const std::byte* p, size_t n) {
    const hn::Rebind<uint16_t, FloatTag> d16;
    const hn::RebindToUnsigned<FloatTag> d32;
    const auto bits = hn::PromoteTo(d32, LoadPart(d16, reinterpret_cast<const uint16_t*>(p), n));
    return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(bits));
  }
};

// ---- Dot products ----

// R rows times TN tokens. Each sum has one vector of partial sums, whatever R and TN are: the same bits.
template <class W, int R, int TN>
HWY_INLINE void DotTile(const DotCall& c, int64_t n, int64_t t0) {
  const std::byte* w = c.w + n * c.K * W::kBytes;
  const float* x[TN];
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    x[t] = c.x + (c.x_rows != nullptr ? c.x_rows[t0 + t] : t0 + t) * c.x_stride;
  });
  FloatVec sums[R][TN];
  Unroll<R>([&](auto r) HYDRA_LAMBDA { Unroll<TN>([&](auto t) HYDRA_LAMBDA { sums[r][t] = hn::Zero(FloatTag()); }); });
  const auto step = [&](int64_t k, size_t n_lanes) HYDRA_LAMBDA {
    FloatVec xv[TN];
    Unroll<TN>([&](auto t) HYDRA_LAMBDA { xv[t] = LoadPart(FloatTag(), x[t] + k, n_lanes); });
    Unroll<R>([&](auto r) HYDRA_LAMBDA {
      const auto wv = W::Load(w + (r * c.K + k) * W::kBytes, n_lanes);
      Unroll<TN>([&](auto t) HYDRA_LAMBDA { sums[r][t] = hn::MulAdd(wv, xv[t], sums[r][t]); });
    });
  };
  int64_t k = 0;
  for (; k + kLanes <= c.K; k += kLanes) step(k, static_cast<size_t>(kLanes));
  if (k < c.K) step(k, static_cast<size_t>(c.K - k));
  Unroll<R>([&](auto r) HYDRA_LAMBDA {
    Unroll<TN>([&](auto t) HYDRA_LAMBDA { StoreSum(c.out, t0 + t, n + r, ReduceSum(FloatTag(), sums[r][t])); });
  });
}

template <class W, int R, int TN>
HWY_NOINLINE void DotRows(const DotCall& c, int64_t n0, int64_t n1, int64_t t0) {
  for (int64_t n = n0; n < n1; n += R) DotTile<W, R, TN>(c, n, t0);
}

// Blocks of rows that stay in the first-level cache while all tokens pass.
template <class W>
void DotOf(const DotCall& c) {
  constexpr int kWide = HWY_MAX_BYTES >= 64 ? 4 : 2;  // rows with four tokens
  for (int64_t n = c.n0; n < c.n1;) {
    const int64_t rows = c.n1 - n >= 8 ? 8 : 1;
    int64_t t = 0;
    for (; t + 4 <= c.T; t += 4) rows == 8 ? DotRows<W, kWide, 4>(c, n, n + rows, t) : DotRows<W, 1, 4>(c, n, n + rows, t);
    for (; t + 2 <= c.T; t += 2) rows == 8 ? DotRows<W, 4, 2>(c, n, n + rows, t) : DotRows<W, 1, 2>(c, n, n + rows, t);
    for (; t < c.T; ++t) rows == 8 ? DotRows<W, 8, 1>(c, n, n + rows, t) : DotRows<W, 1, 1>(c, n, n + rows, t);
    n += rows;
  }
}

void Dot(const DotCall& c) {
  switch (c.type) {
    case WeightType::kF32: return DotOf<F32Weights>(c);
    case WeightType::kF16: return DotOf<F16Weights>(c);
    case WeightType::kBF16: return DotOf<BF16Weights>(c);
    default: return;  // the driver sends no other
  }
}

// ---- Slabs of W: [k][lanes2] f32 ----

template <class W>
void TransposeOf(const std::byte* w, int64_t rows, int64_t K, int64_t k0, int64_t k1, float* out, int64_t lanes2) {
  HWY_ALIGN float lanes[kLanes];
  for (int64_t k = k0; k < k1; k += kLanes) {
    const int64_t n = std::min<int64_t>(kLanes, k1 - k);
    for (int64_t r = 0; r < rows; ++r) {
      hn::Store(W::Load(w + (r * K + k) * W::kBytes, static_cast<size_t>(n)), FloatTag(), lanes);
      for (int64_t i = 0; i < n; ++i) out[(k - k0 + i) * lanes2 + r] = lanes[i];
    }
  }
  for (int64_t k = 0; rows < lanes2 && k < k1 - k0; ++k)
    std::memset(out + k * lanes2 + rows, 0, static_cast<size_t>(lanes2 - rows) * sizeof(float));
}

void Transpose(WeightType type, const std::byte* w, int64_t rows, int64_t K, int64_t k0, int64_t k1, float* out,
               int64_t lanes2) {
  switch (type) {
    case WeightType::kF32: return TransposeOf<F32Weights>(w, rows, K, k0, k1, out, lanes2);
    case WeightType::kF16: return TransposeOf<F16Weights>(w, rows, K, k0, k1, out, lanes2);
    case WeightType::kBF16: return TransposeOf<BF16Weights>(w, rows, K, k0, k1, out, lanes2);
    default: return;
  }
}

// ---- The product of a slab ----

#if HWY_MAX_BYTES >= 64
constexpr int kGemmTokens = 12;  // two vectors each: 24 of 32 registers are sums
#else
constexpr int kGemmTokens = 6;
#endif

template <int TN>
HWY_NOINLINE void GemmTile(const GemmCall& c, int64_t t0) {
  const FloatTag d;
  FloatVec sums[TN][2];
  float* kept = c.sums + (t0 - c.t0) * 2 * kLanes;
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<2>([&](auto v) HYDRA_LAMBDA {
      sums[t][v] = c.k0 == 0 ? hn::Zero(d) : hn::LoadU(d, kept + (2 * t + v) * kLanes);
    });
  });
  const float* w = c.w;
  const float* x = c.x + t0 / c.stride * c.stride * c.K + t0 % c.stride + c.k0 * c.stride;
  for (int64_t k = c.k0; k < c.k1; ++k, w += 2 * kLanes, x += c.stride) {
    const auto w0 = hn::LoadU(d, w), w1 = hn::LoadU(d, w + kLanes);
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      const auto xv = hn::Set(d, x[t]);
      sums[t][0] = hn::MulAdd(xv, w0, sums[t][0]);
      sums[t][1] = hn::MulAdd(xv, w1, sums[t][1]);
    });
  }
  if (c.k1 < c.K) {
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      Unroll<2>([&](auto v) HYDRA_LAMBDA { hn::StoreU(sums[t][v], d, kept + (2 * t + v) * kLanes); });
    });
  } else {
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      Unroll<2>([&](auto v) HYDRA_LAMBDA { StoreSums(c.out, t0 + t, c.n0 + v * kLanes, sums[t][v]); });
    });
  }
}

void Gemm(const GemmCall& c) {
  for (int64_t t = c.t0; t < c.t1;) {
    const int64_t left = std::min(c.t1, (t / c.stride + 1) * c.stride) - t;
    if (left >= kGemmTokens) {
      GemmTile<kGemmTokens>(c, t);
      t += kGemmTokens;
    } else if (kGemmTokens > 6 && left >= 6) {
      GemmTile<6>(c, t);
      t += 6;
    } else if (left >= 4) {
      GemmTile<4>(c, t);
      t += 4;
    } else if (left >= 2) {
      GemmTile<2>(c, t);
      t += 2;
    } else {
      GemmTile<1>(c, t);
      t += 1;
    }
  }
}

FloatKernels FloatKernelsOf() { return {kLanes, kGemmTokens, Round, Transpose, Gemm, Dot}; }

#undef HYDRA_LAMBDA
}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(FloatKernelsOf);

FloatKernels GetFloatKernels() { return HYDRA_DISPATCH(FloatKernelsOf)(); }

}  // namespace hydra::kernels
#endif
