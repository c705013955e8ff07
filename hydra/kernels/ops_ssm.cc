// SPDX-License-Identifier: Apache-2.0
// Kernels along time, channel by channel: causal convolution, dt, the diagonal recurrence. Formulas: specs/hydra.md 2.
// Not here: SSD (ops_ssd.cc).
#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/ops_ssm.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_math-inl.h"

#ifndef HYDRA_KERNELS_OPS_SSM_ONCE  // what does not depend on the level
#define HYDRA_KERNELS_OPS_SSM_ONCE
namespace hydra::kernels {
constexpr int64_t kMaxTaps = 64;  // of a convolution; models have 2 to 4
}  // namespace hydra::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// ---- Convolution ----

int64_t End(const ConvArgs& a) { return a.c1 == 0 ? a.C : a.c1; }

// The taps of the channels c .. as K vectors.
HWY_INLINE void LoadTaps(const ConvArgs& a, int64_t c, float* taps) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  for (int64_t i = 0; i < lanes; ++i)
    for (int64_t k = 0; k < a.K; ++k) taps[k * lanes + i] = c + i < End(a) ? a.w[(c + i) * a.K + k] : 0.0f;
}

// Four taps, the usual number: the three rows before stay in registers while time passes.
HWY_INLINE void Conv4(const ConvArgs& a, int64_t c, FloatVec w0, FloatVec w1, FloatVec w2, FloatVec w3, int64_t xs,
                      int64_t ys) {
  const FloatTag d;
  const size_t left = Left(End(a), c);
  const auto b = a.b != nullptr ? LoadPart(d, a.b + c, left) : hn::Zero(d);
  float* state = a.state + c;
  auto u0 = LoadPart(d, state, left), u1 = LoadPart(d, state + a.C, left), u2 = LoadPart(d, state + 2 * a.C, left);
  const float* x = a.x + c;
  float* y = a.y + c;
  for (int64_t t = 0; t < a.T; ++t, x += xs, y += ys) {
    const auto u3 = LoadPart(d, x, left);
    const auto sum = hn::MulAdd(w3, u3, hn::MulAdd(w2, u2, hn::MulAdd(w1, u1, hn::MulAdd(w0, u0, b))));
    StorePart(Silu(sum), d, y, left);
    u0 = u1, u1 = u2, u2 = u3;
  }
  StorePart(u0, d, state, left);
  StorePart(u1, d, state + a.C, left);
  StorePart(u2, d, state + 2 * a.C, left);
}

// Any other number of taps up to kMaxTaps.
HWY_INLINE void ConvAny(const ConvArgs& a, int64_t c, const float* taps, int64_t xs, int64_t ys) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t S = a.K - 1;
  const size_t left = Left(End(a), c);
  const auto b = a.b != nullptr ? LoadPart(d, a.b + c, left) : hn::Zero(d);
  const auto u = [&](int64_t i)
                     HWY_ATTR { return LoadPart(d, (i < S ? a.state + i * a.C : a.x + (i - S) * xs) + c, left); };
  for (int64_t t = 0; t < a.T; ++t) {
    auto sum = b;
    for (int64_t k = 0; k < a.K; ++k) sum = hn::MulAdd(hn::LoadU(d, taps + k * lanes), u(t + k), sum);
    StorePart(Silu(sum), d, a.y + t * ys + c, left);
  }
  // Row i takes a later row, so ascending order overwrites nothing still needed.
  for (int64_t i = 0; i < S; ++i) StorePart(u(i + a.T), d, a.state + i * a.C + c, left);
}

void Conv(const ConvArgs& a) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t xs = a.x_stride != 0 ? a.x_stride : a.C, ys = a.y_stride != 0 ? a.y_stride : a.C;
  HWY_ALIGN float taps[kMaxTaps * HWY_LANES(float)];
  int64_t c = a.c0;
#if HWY_TARGET != HWY_SCALAR
  for (; a.K == 4 && c + lanes <= End(a); c += lanes) {
    FloatVec w0, w1, w2, w3;
    hn::LoadInterleaved4(d, a.w + c * 4, w0, w1, w2, w3);
    Conv4(a, c, w0, w1, w2, w3, xs, ys);
  }
#endif
  for (; c < End(a); c += lanes) {
    LoadTaps(a, c, taps);
    if (a.K == 4)
      Conv4(a, c, hn::LoadU(d, taps), hn::LoadU(d, taps + lanes), hn::LoadU(d, taps + 2 * lanes),
            hn::LoadU(d, taps + 3 * lanes), xs, ys);
    else
      ConvAny(a, c, taps, xs, ys);
  }
}

// ---- dt ----

void Dt(const DtArgs& a) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t stride = a.stride != 0 ? a.stride : a.H;
  const auto lo = hn::Set(d, a.lo), hi = hn::Set(d, a.hi);
  for (int64_t t = 0; t < a.T; ++t)
    for (int64_t h = 0; h < a.H; h += lanes) {
      const size_t left = Left(a.H, h);
      const auto v = hn::Add(LoadPart(d, a.raw + t * stride + h, left), LoadPart(d, a.bias + h, left));
      StorePart(hn::Min(hi, hn::Max(lo, Softplus(v))), d, a.dt + t * a.H + h, left);
    }
}

// ---- The diagonal recurrence ----

void Diagonal(const DiagonalArgs& a) {
  const FloatTag d;
  for (int64_t i = a.d0; i < a.d1; i += static_cast<int64_t>(hn::Lanes(d))) {
    const size_t left = Left(a.d1, i);
    const auto minus_lambda = hn::Neg(LoadPart(d, a.lambda + i, left));
    auto s = LoadPart(d, a.state + i, left);
    const float* p = a.params + i;
    float* y = a.y + i;
    for (int64_t t = 0; t < a.T; ++t, p += 4 * a.D, y += a.D) {
      const auto C = LoadPart(d, p + 2 * a.D, left), U = LoadPart(d, p + 3 * a.D, left);
      StorePart(a.accumulate ? hn::MulAdd(C, s, LoadPart(d, y, left)) : hn::Mul(C, s), d, y, left);
      const auto decay = Exp<true>(hn::Mul(Softplus(LoadPart(d, p, left)), minus_lambda));
      s = hn::MulAdd(decay, s, hn::Mul(LoadPart(d, p + a.D, left), U));
    }
    StorePart(s, d, a.state + i, left);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(Conv);
HWY_EXPORT(Dt);
HWY_EXPORT(Diagonal);

void Conv(const ConvArgs& a) {
  HYDRA_CHECK(1 <= a.K && a.K <= kMaxTaps && 0 <= a.c0 && a.c1 <= a.C);
  HYDRA_DISPATCH(Conv)(a);
}
void Dt(const DtArgs& a) { HYDRA_DISPATCH(Dt)(a); }
void Diagonal(const DiagonalArgs& a) {
  HYDRA_CHECK(0 <= a.d0 && a.d1 <= a.D);
  HYDRA_DISPATCH(Diagonal)(a);
}

}  // namespace hydra::kernels
#endif
