// SPDX-License-Identifier: Apache-2.0
// SwiGLU of routed rows and its gradients. Not here: the products around it. Dims as in train_swiglu.h.
#include "hydra/kernels/train_swiglu.h"

#include "hydra/kernels/dispatch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/train_swiglu.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

void SwiGluTrain(const SwiGluTrainArgs& a) {
  const FloatTag d;
  for (int64_t m = 0; m < a.M; ++m) {
    const float *gate = a.gate_up + m * 2 * a.F, *up = gate + a.F;
    const auto p = hn::Set(d, a.p[m]);
    for (int64_t i = 0; i < a.F; i += static_cast<int64_t>(hn::Lanes(d))) {
      const auto left = static_cast<size_t>(a.F - i);
      const auto v = hn::Mul(Silu(LoadPart(d, gate + i, left)), LoadPart(d, up + i, left));
      StorePart(hn::Mul(p, v), d, a.y + m * a.F + i, left);
    }
  }
}

// silu'(x) = s (1 + x (1 - s)), s = 1 / (1 + exp(-x)).
void SwiGluTrainBackward(const SwiGluTrainArgs& a) {
  const FloatTag d;
  const auto one = hn::Set(d, 1.0f);
  for (int64_t m = 0; m < a.M; ++m) {
    const float *gate = a.gate_up + m * 2 * a.F, *up = gate + a.F;
    float *dgate = a.dgate_up + m * 2 * a.F, *dup = dgate + a.F;
    const auto p = hn::Set(d, a.p[m]);
    auto dp = hn::Zero(d);
    for (int64_t i = 0; i < a.F; i += static_cast<int64_t>(hn::Lanes(d))) {
      const auto left = static_cast<size_t>(a.F - i);
      const auto g = LoadPart(d, gate + i, left), u = LoadPart(d, up + i, left),
                 dy = LoadPart(d, a.dy + m * a.F + i, left);
      const auto s = hn::Div(one, hn::Add(one, Exp(hn::Neg(g)))), silu = hn::Mul(g, s), v = hn::Mul(silu, u);
      const auto dv = hn::Mul(p, dy), slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
      dp = hn::MulAdd(dy, v, dp);
      StorePart(hn::Mul(p, v), d, a.y + m * a.F + i, left);
      StorePart(hn::Mul(hn::Mul(dv, u), slope), d, dgate + i, left);
      StorePart(hn::Mul(dv, silu), d, dup + i, left);
    }
    a.dp[m] = ReduceSum(d, dp);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(SwiGluTrain);
HWY_EXPORT(SwiGluTrainBackward);

void SwiGluTrain(const SwiGluTrainArgs& a) { HYDRA_DISPATCH(SwiGluTrain)(a); }
void SwiGluTrainBackward(const SwiGluTrainArgs& a) { HYDRA_DISPATCH(SwiGluTrainBackward)(a); }

}  // namespace hydra::kernels
#endif
