// SPDX-License-Identifier: Apache-2.0
// Exp and what is made of it, to a few ulp in f32; sums of four vectors at once; small transposes. Compiled once a SIMD
// level, after simd.h. Not here: loads and stores of partial vectors (simd.h), small products (simd_gemm-inl.h).
#if defined(HYDRA_KERNELS_SIMD_MATH_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HYDRA_KERNELS_SIMD_MATH_INL_H
#undef HYDRA_KERNELS_SIMD_MATH_INL_H
#else
#define HYDRA_KERNELS_SIMD_MATH_INL_H
#endif

#include <cmath>

#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// exp(x), within 2 ulp; 0 below -126 ln 2 (no subnormals), inf above 128 ln 2, NaN of NaN. x = q ln 2 + r with
// |r| <= ln 2 / 2, exp(r) by Cephes' polynomial (expf), then q goes into the exponent. kNotPositive: x <= 0 or NaN.
template <bool kNotPositive = false>
HWY_INLINE FloatVec Exp(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto low = hn::Set(d, -87.336544f), high = hn::Set(d, 88.72283f);
  auto clamped = hn::Max(hn::Set(d, -88.0f), x);  // x second: x86's Max gives the second if either is NaN
  if constexpr (!kNotPositive) clamped = hn::Min(hn::Set(d, 89.0f), clamped);
  const auto q = hn::NearestInt(hn::Mul(clamped, hn::Set(d, 1.44269504089f)));
  const auto qf = hn::ConvertTo(d, q);
  auto r = hn::NegMulAdd(qf, hn::Set(d, 0.693359375f), clamped);  // exact: ln 2 in 9 bits
  r = hn::NegMulAdd(qf, hn::Set(d, -2.12194440e-4f), r);
  auto p = hn::MulAdd(hn::Set(d, 1.9875691500e-4f), r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  // p is in [0.7, 1.42], and at least 1 where q = -126, at most 1 where q = 128: the sum is never a wrong exponent.
  auto y = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(q)));
  y = hn::IfThenZeroElse(hn::Lt(x, low), y);
  if constexpr (!kNotPositive) y = hn::IfThenElse(hn::Gt(x, high), hn::Set(d, INFINITY), y);
  return y;
}

// log(1 + u) for u in [0, 1], within 2 ulp: 2 artanh(s), s = u / (2 + u) <= 1/3; the next term is below 2e-8 of it.
HWY_INLINE FloatVec Log1pOfUnit(FloatVec u) {
  const FloatTag d;
  const auto s = hn::Div(u, hn::Add(u, hn::Set(d, 2.0f))), s2 = hn::Mul(s, s);
  auto p = hn::MulAdd(hn::Set(d, 1 / 13.0f), s2, hn::Set(d, 1 / 11.0f));
  p = hn::MulAdd(p, s2, hn::Set(d, 1 / 9.0f));
  p = hn::MulAdd(p, s2, hn::Set(d, 1 / 7.0f));
  p = hn::MulAdd(p, s2, hn::Set(d, 1 / 5.0f));
  p = hn::MulAdd(p, s2, hn::Set(d, 1 / 3.0f));
  p = hn::Mul(p, s2);
  const auto twice = hn::Add(s, s);
  return hn::MulAdd(p, twice, twice);
}

// log(1 + exp(-|x|)), what softplus and log sigmoid share.
HWY_INLINE FloatVec Log1pExpNegAbs(FloatVec x) { return Log1pOfUnit(Exp<true>(hn::Neg(hn::Abs(x)))); }
// log(1 + exp(x)). Above 20 it is x: the other term is less than half an ulp.
HWY_INLINE FloatVec Softplus(FloatVec x) { return hn::Add(hn::Max(x, hn::Zero(FloatTag())), Log1pExpNegAbs(x)); }
HWY_INLINE FloatVec LogSigmoidOf(FloatVec x) { return hn::Sub(hn::Min(x, hn::Zero(FloatTag())), Log1pExpNegAbs(x)); }

// x / (1 + exp(-x)).
HWY_INLINE FloatVec Silu(FloatVec x) { return hn::Div(x, hn::Add(hn::Set(FloatTag(), 1.0f), Exp(hn::Neg(x)))); }

// ---- Sums of lanes ----

// out[i] = sum of the lanes of the i-th vector, four at once for the price of about one and a half.
HWY_INLINE void ReduceSum4(FloatVec a, FloatVec b, FloatVec c, FloatVec e, float* out) {
#if HWY_TARGET == HWY_SCALAR
  out[0] = hn::GetLane(a), out[1] = hn::GetLane(b), out[2] = hn::GetLane(c), out[3] = hn::GetLane(e);
#else
  const FloatTag d;
  const hn::Repartition<uint64_t, FloatTag> d64;
  const auto ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));  // a02 b02 a13 b13, a block of 4
  const auto ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto ab64 = hn::BitCast(d64, ab), ce64 = hn::BitCast(d64, ce);
  auto sums = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64)),
                      hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64)));
#if HWY_MAX_BYTES >= 64
  const hn::Half<FloatTag> d2;
  const hn::Half<decltype(d2)> d4;
  const auto half = hn::Add(hn::LowerHalf(d2, sums), hn::UpperHalf(d2, sums));
  hn::StoreU(hn::Add(hn::LowerHalf(d4, half), hn::UpperHalf(d4, half)), d4, out);
#elif HWY_MAX_BYTES == 32
  const hn::Half<FloatTag> d4;
  hn::StoreU(hn::Add(hn::LowerHalf(d4, sums), hn::UpperHalf(d4, sums)), d4, out);
#else
  hn::StoreU(sums, d, out);
#endif
#endif
}

// ---- Transposes ----

// out[c * out_stride + r] = x[r * x_stride + c] * scale for rows x cols numbers.
HWY_INLINE void TransposeScaled(const float* x, int64_t x_stride, int64_t rows, int64_t cols, float scale, float* out,
                                int64_t out_stride) {
  int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  const auto factor = hn::Set(d, scale);
  for (; r + 4 <= rows; r += 4) {
    const float* in = x + r * x_stride;
    int64_t c = 0;
    for (; c + 4 <= cols; c += 4, in += 4) {
      const auto v0 = hn::Mul(factor, hn::LoadU(d, in)), v1 = hn::Mul(factor, hn::LoadU(d, in + x_stride));
      const auto v2 = hn::Mul(factor, hn::LoadU(d, in + 2 * x_stride)),
                 v3 = hn::Mul(factor, hn::LoadU(d, in + 3 * x_stride));
      const auto a = hn::BitCast(d64, hn::InterleaveLower(d, v0, v1)),
                 b = hn::BitCast(d64, hn::InterleaveUpper(d, v0, v1));
      const auto e = hn::BitCast(d64, hn::InterleaveLower(d, v2, v3)),
                 f = hn::BitCast(d64, hn::InterleaveUpper(d, v2, v3));
      float* to = out + c * out_stride + r;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, a, e)), d, to);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, a, e)), d, to + out_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, b, f)), d, to + 2 * out_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, b, f)), d, to + 3 * out_stride);
    }
    for (; c < cols; ++c)
      for (int64_t i = r; i < r + 4; ++i) out[c * out_stride + i] = x[i * x_stride + c] * scale;
  }
#endif
  for (; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) out[c * out_stride + r] = x[r * x_stride + c] * scale;
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#endif  // HYDRA_KERNELS_SIMD_MATH_INL_H
