// SPDX-License-Identifier: Apache-2.0
// Products of slabs of W with many tokens by bf16 dot products: both factors are rounded to pairs of bf16, sums are
// f32. For AVX-512 with AVX512_BF16; other levels have none. Not here: f32 (matmul_float.cc), the driver (matmul.cc).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/matmul_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/matmul_bf16.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/matmul_store-inl.h"
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
namespace bf16 {
#define HYDRA_ATTR __attribute__((target(HWY_TARGET_STR ",avx512bf16")))
#include "hydra/kernels/simd_bf16-inl.h"

constexpr int kTokens = 12;  // two vectors each: 24 of 32 registers are sums

// As the f32 tile does it (matmul_float.cc), two columns at a time.
template <int TN>
HWY_NOINLINE void GemmTile(const GemmCall& c, int64_t t0) {
  __m512 sums[TN][2];
  float* kept = c.sums + (t0 - c.t0) * 2 * kPairLanes;
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<2>([&](auto v) HYDRA_LAMBDA {
      sums[t][v] = c.k0 == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(kept + (2 * t + v) * kPairLanes);
    });
  });
  const float* w = c.w;
  const float* x = c.x + t0 / c.stride * c.stride * c.K + t0 % c.stride + c.k0 / 2 * c.stride;
  for (int64_t k = c.k0; k < c.k1; k += 2, w += 2 * kPairLanes, x += c.stride) {
    const __m512i w0 = LoadPairs(w), w1 = LoadPairs(w + kPairLanes);
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      const __m512i pair = SetPair(x + t);
      sums[t][0] = AddPairs(sums[t][0], w0, pair);
      sums[t][1] = AddPairs(sums[t][1], w1, pair);
    });
  }
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<2>([&](auto v) HYDRA_LAMBDA {
      if (c.k1 < c.K) {
        _mm512_storeu_ps(kept + (2 * t + v) * kPairLanes, sums[t][v]);
      } else {
        StoreSums(c.out, t0 + t, c.n0 + v * kPairLanes, FloatVec{sums[t][v]});
      }
    });
  });
}

inline void Gemm(const GemmCall& c) {
  for (int64_t t = c.t0; t < c.t1;) {
    const int64_t left = std::min(c.t1, (t / c.stride + 1) * c.stride) - t;
    if (left >= kTokens) {
      GemmTile<kTokens>(c, t);
      t += kTokens;
    } else if (left >= 6) {
      GemmTile<6>(c, t);
      t += 6;
    } else if (left >= 3) {
      GemmTile<3>(c, t);
      t += 3;
    } else {
      GemmTile<1>(c, t);
      t += 1;
    }
  }
}
#undef HYDRA_LAMBDA
#undef HYDRA_ATTR
}  // namespace bf16
HWY_POP_ATTRIBUTES
#endif

Bf16Kernels Bf16KernelsOf(bool use_bf16) {
#if HWY_TARGET == HWY_AVX3
  if (use_bf16) return {bf16::PackPairs, bf16::Gemm};
#endif
  (void)use_bf16;
  return {nullptr, nullptr};
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(Bf16KernelsOf);

Bf16Kernels GetBf16Kernels() {
  internal::EnsureTarget();
  return HWY_DYNAMIC_DISPATCH(Bf16KernelsOf)(internal::UseBf16());
}

}  // namespace hydra::kernels
#endif
