// SPDX-License-Identifier: Apache-2.0
// The float kernels of products, for each SIMD level: rows of weights times few tokens (dot products straight from the
// rows), slabs of W times many tokens, and x to int8 blocks. Not here: narrow panels (matmul_narrow.cc), int8 products
// (matmul_int8.cc), the driver.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/matmul_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/matmul_float.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/matmul_loads-inl.h"
#include "hydra/kernels/matmul_store-inl.h"
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

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

// The sum of 16 signed bytes.
HWY_INLINE int32_t SumOf16(const int8_t* q) {
#if HWY_TARGET == HWY_SCALAR
  int32_t sum = 0;
  for (int k = 0; k < 16; ++k) sum += q[k];
  return sum;
#else
  const hn::Full128<uint8_t> d8;
  const hn::Full128<uint64_t> d64;
  const auto shifted = hn::Xor(hn::LoadU(d8, reinterpret_cast<const uint8_t*>(q)), hn::Set(d8, 0x80));  // 128 more each
  return static_cast<int32_t>(ReduceSum(d64, hn::SumsOf8(shifted))) - 16 * 128;
#endif
}

HWY_INLINE void RoundBlock(const float* x, XBlock* out) {
  const FloatTag df;
  const hn::Rebind<int8_t, FloatTag> d8;
  const float amax = BlockMax(x);
  out->scale = amax * (1.0f / 127.0f);
  if (amax < kTinyBlock || !(amax <= 3.4e38f)) {  // nothing, or not finite: then the scale alone says so
    std::memset(out->q, 0, sizeof(out->q));
    out->scaled_sum = amax < kTinyBlock ? 0.0f : out->scale * 0.0f;  // NaN
    out->minus_sum = out->minus_first = 0;
    return;
  }
  const auto inverse = hn::Set(df, 127.0f / amax);
  Unroll<kBlock / kLanes>([&](auto i) HYDRA_LAMBDA {
    const auto q = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i * kLanes), inverse));
    hn::StoreU(hn::DemoteTo(d8, q), d8, out->q + i * kLanes);
  });
  const int32_t first = SumOf16(out->q), total = first + SumOf16(out->q + 16);
  out->minus_first = -first;
  out->minus_sum = -total;
  out->scaled_sum = out->scale * static_cast<float>(total);
}

void Round(const float* x, int64_t K, XBlock* out, int64_t stride) {
  for (int64_t k = 0; k < K; k += kBlock, out += stride) RoundBlock(x + k, out);
}

// ---- Dot products ----

// R rows, `step` apart, times TN tokens. A row is read from its begin to its end, and the next row follows, so that
// each thread reads one stream, or R that are far apart; kSums partial sums along a row keep the multipliers busy.
// Their number and order are the same for any R and TN: the same bits.

template <class W, int R, int TN>
HWY_INLINE void DotRows(const DotCall& c, int64_t n, int64_t step, int64_t t0) {
  const FloatTag d;
  const std::byte* w = c.w + n * c.K * W::kBytes;
  const int64_t bytes = step * c.K * W::kBytes;
  auto ahead = BeginAhead<R>(w, bytes, t0 == 0 ? c.ahead : 0);
  const float* x[TN];
  Unroll<TN>([&](auto t) HYDRA_LAMBDA { x[t] = c.x + (c.x_rows != nullptr ? c.x_rows[t0 + t] : t0 + t) * c.x_stride; });
  FloatVec sums[kSums][R][TN];
  Unroll<kSums>([&](auto s) HYDRA_LAMBDA {
    Unroll<R>([&](auto r) HYDRA_LAMBDA { Unroll<TN>([&](auto t) HYDRA_LAMBDA { sums[s][r][t] = hn::Zero(d); }); });
  });
  const auto add = [&](auto s, int64_t k, size_t lanes) HYDRA_LAMBDA {
    FloatVec xv[TN];
    Unroll<TN>([&](auto t) HYDRA_LAMBDA { xv[t] = LoadPart(d, x[t] + k, lanes); });
    Unroll<R>([&](auto r) HYDRA_LAMBDA {
      const auto wv = W::Load(w + r * bytes + k * W::kBytes, lanes);
      Unroll<TN>([&](auto t) HYDRA_LAMBDA { sums[s][r][t] = hn::MulAdd(wv, xv[t], sums[s][r][t]); });
    });
  };
  int64_t k = 0;
  for (; k + kSums * kLanes <= c.K; k += kSums * kLanes) {
    ahead.Use(w + (k + kSums * kLanes) * W::kBytes);
    Unroll<kSums>([&](auto s) HYDRA_LAMBDA { add(s, k + s * kLanes, static_cast<size_t>(kLanes)); });
  }
  ahead.Use(w + c.K * W::kBytes);
  Unroll<kSums>([&](auto s) HYDRA_LAMBDA {
    const int64_t at = k + s * kLanes;
    if (at < c.K) add(s, at, static_cast<size_t>(std::min<int64_t>(kLanes, c.K - at)));
  });
  static_assert(kSums == 4);
  Unroll<R>([&](auto r) HYDRA_LAMBDA {
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      const auto sum = hn::Add(hn::Add(sums[0][r][t], sums[1][r][t]), hn::Add(sums[2][r][t], sums[3][r][t]));
      StoreSum(c.out, t0 + t, n + r * step, ReduceSum(d, sum));
    });
  });
}

// Rows of streams that go side by side: as many sums as there are registers for.
constexpr int kSideBySide = HWY_MAX_BYTES == 32 ? 1 : kStreams;

template <class W, int TN>
HWY_NOINLINE void DotTokens(const DotCall& c, int64_t n, int64_t t0) {
  DotRows<W, 1, TN>(c, n, 0, t0);
}

template <class W>
HWY_NOINLINE void DotOneToken(const DotCall& c) {
  if (c.row_step == 0) {
    for (int64_t n = c.n0; n < c.n1; ++n) DotRows<W, 1, 1>(c, n, 0, 0);
    return;
  }
  for (int64_t n = c.n0; n < c.n1; ++n)
    for (int64_t stream = 0; stream < kStreams; stream += kSideBySide)
      DotRows<W, kSideBySide, 1>(c, n + stream * c.row_step, c.row_step, 0);
}

// Each row stays in the first-level cache while all tokens pass.
template <class W>
void DotOf(const DotCall& c) {
  if (c.T == 1) return DotOneToken<W>(c);
  constexpr int kWide = HWY_MAX_BYTES >= 64 ? 4 : 2;  // tokens: as many sums as there are registers for
  for (int64_t n = c.n0; n < c.n1; ++n) {
    int64_t t = 0;
    for (; t + kWide <= c.T; t += kWide) DotTokens<W, kWide>(c, n, t);
    for (; t < c.T; ++t) DotTokens<W, 1>(c, n, t);
  }
}

void Dot(const DotCall& c) {
  WithFloatType(c.type, [&](auto w) HYDRA_LAMBDA { DotOf<decltype(w)>(c); });
}

// ---- Rows to columns: slabs of W, tiles of x ----

// Rows r of `rows` become columns: rows[k] then holds lane k of each.
HWY_INLINE void TransposeSquare(FloatVec (&rows)[kLanes]) {
#if HWY_TARGET == HWY_SCALAR
  (void)rows;
#else
  const FloatTag d;
  const hn::Repartition<double, FloatTag> d64;
  // 4 x 4 inside of each 128-bit block.
  FloatVec part[kLanes];
  Unroll<kLanes / 4>([&](auto g) HYDRA_LAMBDA {
    constexpr int r = 4 * g;
    const auto a = hn::InterleaveLower(d, rows[r], rows[r + 1]), b = hn::InterleaveLower(d, rows[r + 2], rows[r + 3]);
    const auto u = hn::InterleaveUpper(d, rows[r], rows[r + 1]), v = hn::InterleaveUpper(d, rows[r + 2], rows[r + 3]);
    part[r] = hn::BitCast(d, hn::InterleaveLower(d64, hn::BitCast(d64, a), hn::BitCast(d64, b)));
    part[r + 1] = hn::BitCast(d, hn::InterleaveUpper(d64, hn::BitCast(d64, a), hn::BitCast(d64, b)));
    part[r + 2] = hn::BitCast(d, hn::InterleaveLower(d64, hn::BitCast(d64, u), hn::BitCast(d64, v)));
    part[r + 3] = hn::BitCast(d, hn::InterleaveUpper(d64, hn::BitCast(d64, u), hn::BitCast(d64, v)));
  });
  // Block b of part[4 g + j] has lane 4 b + j of the rows 4 g ..: now the blocks change places.
  Unroll<4>([&](auto j) HYDRA_LAMBDA {
#if HWY_MAX_BYTES == 16
    rows[j] = part[j];
#elif HWY_MAX_BYTES == 32
    rows[j] = hn::ConcatLowerLower(d, part[4 + j], part[j]);
    rows[4 + j] = hn::ConcatUpperUpper(d, part[4 + j], part[j]);
#else
    const auto a = _mm512_shuffle_f32x4(part[j].raw, part[4 + j].raw, 0x44),
               b = _mm512_shuffle_f32x4(part[j].raw, part[4 + j].raw, 0xEE);
    const auto e = _mm512_shuffle_f32x4(part[8 + j].raw, part[12 + j].raw, 0x44),
               f = _mm512_shuffle_f32x4(part[8 + j].raw, part[12 + j].raw, 0xEE);
    rows[j] = FloatVec{_mm512_shuffle_f32x4(a, e, 0x88)};
    rows[4 + j] = FloatVec{_mm512_shuffle_f32x4(a, e, 0xDD)};
    rows[8 + j] = FloatVec{_mm512_shuffle_f32x4(b, f, 0x88)};
    rows[12 + j] = FloatVec{_mm512_shuffle_f32x4(b, f, 0xDD)};
#endif
  });
#endif
}

// out[k * stride + r] = lane k of load(r, n) for r < count <= kLanes and the columns k < K.
template <class Load>
HWY_INLINE void TransposeRows(const Load& load, int64_t count, int64_t K, float* out, int64_t stride) {
  const FloatTag d;
  const auto lanes = static_cast<size_t>(count);
  for (int64_t k = 0; k < K; k += kLanes) {
    const int64_t n = std::min<int64_t>(kLanes, K - k);
    FloatVec rows[kLanes];
    Unroll<kLanes>([&](auto r)
                       HYDRA_LAMBDA { rows[r] = r < count ? load(r, k, static_cast<size_t>(n)) : hn::Zero(d); });
    TransposeSquare(rows);
    Unroll<kLanes>([&](auto i) HYDRA_LAMBDA {
      if (i < n) StorePart(rows[i], d, out + (k + i) * stride, lanes);
    });
  }
}

template <class W>
void TransposeOf(const std::byte* w, int64_t rows, int64_t K, int64_t k0, int64_t k1, float* out, int64_t lanes2) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const std::byte* first = w + (r * K + k0) * W::kBytes;
    const auto load = [&](int64_t row, int64_t k, size_t n)
                          HYDRA_LAMBDA { return W::Load(first + (row * K + k) * W::kBytes, n); };
    TransposeRows(load, std::min<int64_t>(kLanes, rows - r), k1 - k0, out + r, lanes2);
  }
  for (int64_t k = 0; rows < lanes2 && k < k1 - k0; ++k)
    std::memset(out + k * lanes2 + rows, 0, static_cast<size_t>(lanes2 - rows) * sizeof(float));
}

void Transpose(WeightType type, const std::byte* w, int64_t rows, int64_t K, int64_t k0, int64_t k1, float* out,
               int64_t lanes2) {
  WithFloatType(type, [&](auto loads) HYDRA_LAMBDA { TransposeOf<decltype(loads)>(w, rows, K, k0, k1, out, lanes2); });
}

void Interleave(const float* const* x, int64_t count, int64_t K, float* out, int64_t stride) {
  for (int64_t t = 0; t < count; t += kLanes) {
    const auto load = [&](int64_t row, int64_t k, size_t n)
                          HYDRA_LAMBDA { return LoadPart(FloatTag(), x[t + row] + k, n); };
    TransposeRows(load, std::min<int64_t>(kLanes, count - t), K, out + t, stride);
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
    Unroll<2>([&](auto v)
                  HYDRA_LAMBDA { sums[t][v] = c.k0 == 0 ? hn::Zero(d) : hn::LoadU(d, kept + (2 * t + v) * kLanes); });
  });
  const float* w = c.w;
  const float* x = c.x + t0 / c.stride * c.x_tile + t0 % c.stride + c.k0 * c.stride;
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

FloatKernels FloatKernelsOf() { return {kLanes, kGemmTokens, Round, Interleave, Transpose, Gemm, Dot}; }

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(FloatKernelsOf);

FloatKernels GetFloatKernels() { return HYDRA_DISPATCH(FloatKernelsOf)(); }

}  // namespace hydra::kernels
#endif
