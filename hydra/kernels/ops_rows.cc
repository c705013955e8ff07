// SPDX-License-Identifier: Apache-2.0
// Kernels that go row by row: norms, rotary positions, SwiGLU, softmax, gates of experts, dot products and sums of
// rows. Not here: along time (ops_ssm.cc), selection (ops_select.cc).
#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/ops_rows.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// ---- Norms ----

// Sum of squares of n numbers in four partial sums; with z the numbers are x silu(z) and are put into y.
HWY_INLINE float SumSquares(const float* x, const float* z, float* y, int64_t n) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  if (z != nullptr) {
    for (int64_t i = 0; i < n; i += lanes) {
      const auto v = hn::Mul(LoadPart(d, x + i, Left(n, i)), Silu(LoadPart(d, z + i, Left(n, i))));
      StorePart(v, d, y + i, Left(n, i));
      s0 = hn::MulAdd(v, v, s0);
    }
    return ReduceSum(d, s0);
  }
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto v0 = hn::LoadU(d, x + i), v1 = hn::LoadU(d, x + i + lanes);
    const auto v2 = hn::LoadU(d, x + i + 2 * lanes), v3 = hn::LoadU(d, x + i + 3 * lanes);
    s0 = hn::MulAdd(v0, v0, s0), s1 = hn::MulAdd(v1, v1, s1);
    s2 = hn::MulAdd(v2, v2, s2), s3 = hn::MulAdd(v3, v3, s3);
  }
  for (; i < n; i += lanes) {
    const auto v = LoadPart(d, x + i, Left(n, i));
    s0 = hn::MulAdd(v, v, s0);
  }
  return ReduceSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

void RmsNorm(const RmsNormArgs& a) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t xs = a.x_stride != 0 ? a.x_stride : a.D, ys = a.y_stride != 0 ? a.y_stride : a.D;
  const int64_t zs = a.z_stride != 0 ? a.z_stride : a.D, width = a.D / a.groups;
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t g = 0; g < a.groups; ++g) {
      const float* x = a.x + t * xs + g * width;
      float* y = a.y + t * ys + g * width;
      const float* w = a.shared_weight ? a.w : a.w + g * width;
      const float squares = SumSquares(x, a.z != nullptr ? a.z + t * zs + g * width : nullptr, y, width);
      const auto scale = hn::Set(d, 1.0f / std::sqrt(squares / static_cast<float>(width) + a.eps));
      const float* from = a.z != nullptr ? y : x;
      for (int64_t i = 0; i < width; i += lanes) {
        const auto v = hn::Mul(LoadPart(d, from + i, Left(width, i)), scale);
        StorePart(hn::Mul(v, LoadPart(d, w + i, Left(width, i))), d, y + i, Left(width, i));
      }
    }
}

// ---- Rotary positions ----

constexpr int64_t kPairs = 64;  // of a token, rotated in all heads at a time

// cos and sin of pos * inv_freq in double: the angle loses nothing at any position. With q = round(angle / (pi / 2))
// and r = angle - q pi / 2 by two parts, Taylor's sums on |r| <= pi / 4 are within 1e-9 of sin r and cos r.
void Angles(double pos, const double* inv_freq, int64_t n, float* cos_out, float* sin_out) {
#if HWY_HAVE_FLOAT64 && HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<double> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<float, decltype(d)> df;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto round = hn::Set(d, 6755399441055744.0);  // 1.5 * 2^52: adding it rounds, the low bits are the integer
  for (int64_t i = 0; i < n; i += lanes) {
    const auto angle = hn::Mul(hn::Set(d, pos), LoadPart(d, inv_freq + i, Left(n, i)));
    const auto shifted = hn::Add(hn::Mul(angle, hn::Set(d, 0.63661977236758134308)), round);
    const auto q = hn::Sub(shifted, round);
    // pi / 2 in 33 bits and the rest: q up to 2^20 times the first is exact.
    auto r = hn::NegMulAdd(q, hn::Set(d, 1.57079632673412561417), angle);
    r = hn::NegMulAdd(q, hn::Set(d, 6.07710050650619224932e-11), r);
    const auto r2 = hn::Mul(r, r);
    auto s = hn::MulAdd(r2, hn::Set(d, 1 / 362880.0), hn::Set(d, -1 / 5040.0));
    s = hn::MulAdd(hn::MulAdd(s, r2, hn::Set(d, 1 / 120.0)), r2, hn::Set(d, -1 / 6.0));
    s = hn::MulAdd(hn::Mul(s, r2), r, r);
    auto c = hn::MulAdd(r2, hn::Set(d, -1 / 3628800.0), hn::Set(d, 1 / 40320.0));
    c = hn::MulAdd(hn::MulAdd(c, r2, hn::Set(d, -1 / 720.0)), r2, hn::Set(d, 1 / 24.0));
    c = hn::MulAdd(hn::MulAdd(c, r2, hn::Set(d, -0.5)), r2, hn::Set(d, 1.0));
    // Quadrants 1 and 3 swap; the sine is negative in 2 and 3, the cosine in 1 and 2.
    const auto bits = hn::BitCast(du, shifted), one = hn::Set(du, 1);
    const auto odd = hn::RebindMask(d, hn::Ne(hn::And(bits, one), hn::Zero(du)));
    const auto sin_sign = hn::ShiftLeft<62>(hn::And(bits, hn::Set(du, 2)));
    const auto cos_sign = hn::ShiftLeft<62>(hn::And(hn::Add(bits, one), hn::Set(du, 2)));
    const auto sin = hn::Xor(hn::BitCast(d, sin_sign), hn::IfThenElse(odd, c, s));
    const auto cos = hn::Xor(hn::BitCast(d, cos_sign), hn::IfThenElse(odd, s, c));
    StorePart(hn::DemoteTo(df, sin), df, sin_out + i, Left(n, i));
    StorePart(hn::DemoteTo(df, cos), df, cos_out + i, Left(n, i));
  }
#else
  for (int64_t i = 0; i < n; ++i) {
    cos_out[i] = static_cast<float>(std::cos(pos * inv_freq[i]));
    sin_out[i] = static_cast<float>(std::sin(pos * inv_freq[i]));
  }
#endif
}

// Pairs (x[i], x[i + half]).
HWY_INLINE void RotateHalves(float* x, float* y, const float* cos, const float* sin, int64_t n) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    const auto c = LoadPart(d, cos + i, Left(n, i)), s = LoadPart(d, sin + i, Left(n, i));
    const auto u = LoadPart(d, x + i, Left(n, i)), v = LoadPart(d, y + i, Left(n, i));
    StorePart(hn::NegMulAdd(v, s, hn::Mul(u, c)), d, x + i, Left(n, i));
    StorePart(hn::MulAdd(u, s, hn::Mul(v, c)), d, y + i, Left(n, i));
  }
}
// Pairs (x[2 i], x[2 i + 1]).
HWY_INLINE void RotateNeighbours(float* x, const float* cos, const float* sin, int64_t n) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (; i + lanes <= n; i += lanes) {
    const auto c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    FloatVec u, v;
    hn::LoadInterleaved2(d, x + 2 * i, u, v);
    hn::StoreInterleaved2(hn::NegMulAdd(v, s, hn::Mul(u, c)), hn::MulAdd(u, s, hn::Mul(v, c)), d, x + 2 * i);
  }
#endif
  for (; i < n; ++i) {
    const float u = x[2 * i], v = x[2 * i + 1];
    x[2 * i] = u * cos[i] - v * sin[i];
    x[2 * i + 1] = v * cos[i] + u * sin[i];
  }
}

void Rope(const RopeArgs& a) {
  HWY_ALIGN float cos[kPairs], sin[kPairs];
  const int64_t half = a.Dh / 2, stride = a.x_stride != 0 ? a.x_stride : a.heads * a.Dh;
  const int64_t head_stride = a.head_stride != 0 ? a.head_stride : a.Dh;
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t i = 0; i < half; i += kPairs) {
      const int64_t n = half - i < kPairs ? half - i : kPairs;
      Angles(static_cast<double>(a.pos[t]), a.inv_freq + i, n, cos, sin);
      for (int64_t h = 0; h < a.heads; ++h) {
        float* x = a.x + t * stride + h * head_stride;
        a.interleaved ? RotateNeighbours(x + 2 * i, cos, sin, n) : RotateHalves(x + i, x + half + i, cos, sin, n);
      }
    }
}

// ---- Gates of experts ----

void ReluGates(const ReluGatesArgs& a) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto zero = hn::Zero(d);
  const int64_t words = (a.E + 31) / 32;
  for (int64_t t = 0; t < a.n; ++t) {
    const float* raw = a.raw + t * a.E;
    uint32_t* active = a.active + t * words;
    for (int64_t w = 0; w < words; ++w) active[w] = 0;
    for (int64_t e = 0; e < a.E; ++e)
      active[e / 32] |= static_cast<uint32_t>(raw[e] > 0 && a.scale[e] != 0) << (e % 32);
    auto squares = zero;
    for (int64_t e = 0; e < a.E; e += lanes) {
      const auto x = LoadPart(d, raw + e, Left(a.E, e));
      const auto r = hn::IfThenElse(hn::Gt(x, zero), x, zero);
      squares = hn::MulAdd(r, r, squares);
    }
    const auto inverse = hn::Set(d, 1.0f / std::sqrt(ReduceSum(d, squares) / static_cast<float>(a.E) + a.eps));
    for (int64_t e = 0; e < a.E; e += lanes) {
      const auto x = LoadPart(d, raw + e, Left(a.E, e)), scale = LoadPart(d, a.scale + e, Left(a.E, e));
      const auto on = hn::And(hn::Gt(x, zero), hn::Ne(scale, zero));
      const auto gate = hn::IfThenElse(on, hn::Mul(hn::Mul(x, inverse), scale), zero);
      StorePart(gate, d, a.gates + t * a.E + e, Left(a.E, e));
    }
  }
}

// ---- Maps of elements ----

void SwiGlu(const SwiGluArgs& a) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t stride = a.stride != 0 ? a.stride : a.F, ys = a.y_stride != 0 ? a.y_stride : a.F;
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t i = 0; i < a.F; i += lanes) {
      const auto gate = LoadPart(d, a.gate + t * stride + i, Left(a.F, i));
      const auto up = LoadPart(d, a.up + t * stride + i, Left(a.F, i));
      StorePart(hn::Mul(Silu(gate), up), d, a.y + t * ys + i, Left(a.F, i));
    }
}

void LogSigmoid(const float* x, float* y, int64_t n) {
  const FloatTag d;
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d)))
    StorePart(LogSigmoidOf(LoadPart(d, x + i, Left(n, i))), d, y + i, Left(n, i));
}

void Axpy(float scale, const float* x, float* y, int64_t n) {
  const FloatTag d;
  const auto factor = hn::Set(d, scale);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d)))
    StorePart(hn::MulAdd(factor, LoadPart(d, x + i, Left(n, i)), LoadPart(d, y + i, Left(n, i))), d, y + i, Left(n, i));
}

// ---- Sums of rows ----

float Dot(const float* x, const float* y, int64_t n) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), s0);
    s1 = hn::MulAdd(hn::LoadU(d, x + i + lanes), hn::LoadU(d, y + i + lanes), s1);
    s2 = hn::MulAdd(hn::LoadU(d, x + i + 2 * lanes), hn::LoadU(d, y + i + 2 * lanes), s2);
    s3 = hn::MulAdd(hn::LoadU(d, x + i + 3 * lanes), hn::LoadU(d, y + i + 3 * lanes), s3);
  }
  for (; i < n; i += lanes) s0 = hn::MulAdd(LoadPart(d, x + i, Left(n, i)), LoadPart(d, y + i, Left(n, i)), s0);
  return ReduceSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

// The maximum first, then exps (stored) and their sum, then the division.
void Softmax(const SoftmaxArgs& a) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, a.scale), lowest = hn::Set(d, -INFINITY);
  const auto whole = static_cast<size_t>(lanes);
  for (int64_t t = 0; t < a.T; ++t) {
    const float* x = a.x + t * a.D;
    float* y = a.y + t * a.D;
    const auto at = [&](int64_t i) HWY_ATTR {  // lanes without a number are -inf: they count in no maximum and no sum
      const auto v = hn::Mul(scale, LoadPart(d, x + i, Left(a.D, i)));
      return Left(a.D, i) >= whole ? v : hn::IfThenElse(hn::FirstN(d, Left(a.D, i)), v, lowest);
    };
    auto max = lowest;
    for (int64_t i = 0; i < a.D; i += lanes) max = hn::Max(max, at(i));
    const auto top = hn::MaxOfLanes(d, max);
    auto sum = hn::Zero(d);
    for (int64_t i = 0; i < a.D; i += lanes) {
      const auto e = Exp<true>(hn::Sub(at(i), top));
      sum = hn::Add(sum, e);
      StorePart(e, d, y + i, Left(a.D, i));
    }
    const auto inverse = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sum));
    for (int64_t i = 0; i < a.D; i += lanes)
      StorePart(hn::Mul(inverse, LoadPart(d, y + i, Left(a.D, i))), d, y + i, Left(a.D, i));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(RmsNorm);
HWY_EXPORT(Rope);
HWY_EXPORT(ReluGates);
HWY_EXPORT(SwiGlu);
HWY_EXPORT(LogSigmoid);
HWY_EXPORT(Axpy);
HWY_EXPORT(Dot);
HWY_EXPORT(Softmax);

void RmsNorm(const RmsNormArgs& a) {
  HYDRA_CHECK(a.groups > 0 && a.D % a.groups == 0);
  HYDRA_DISPATCH(RmsNorm)(a);
}
void Rope(const RopeArgs& a) {
  HYDRA_CHECK(a.Dh % 2 == 0);
  HYDRA_DISPATCH(Rope)(a);
}
void ReluGates(const ReluGatesArgs& a) { HYDRA_DISPATCH(ReluGates)(a); }
void SwiGlu(const SwiGluArgs& a) { HYDRA_DISPATCH(SwiGlu)(a); }
void LogSigmoid(const float* x, float* y, int64_t n) { HYDRA_DISPATCH(LogSigmoid)(x, y, n); }
void Axpy(float scale, const float* x, float* y, int64_t n) { HYDRA_DISPATCH(Axpy)(scale, x, y, n); }
float Dot(const float* x, const float* y, int64_t n) { return HYDRA_DISPATCH(Dot)(x, y, n); }
void Softmax(const SoftmaxArgs& a) { HYDRA_DISPATCH(Softmax)(a); }

}  // namespace hydra::kernels
#endif
