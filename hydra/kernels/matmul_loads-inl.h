// SPDX-License-Identifier: Apache-2.0
// What the float kernels of products share on every SIMD level: loops over constants, loads of weights of each type.
// Compiled once a SIMD level, after simd.h. Not here: where sums go (matmul_store-inl.h).
#if defined(HYDRA_KERNELS_MATMUL_LOADS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HYDRA_KERNELS_MATMUL_LOADS_INL_H
#undef HYDRA_KERNELS_MATMUL_LOADS_INL_H
#else
#define HYDRA_KERNELS_MATMUL_LOADS_INL_H
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "hydra/kernels/matmul_kernels.h"
#include "hydra/kernels/simd.h"

#undef HYDRA_LAMBDA
#define HYDRA_LAMBDA HWY_ATTR __attribute__((always_inline))

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

constexpr int kLanes = static_cast<int>(HWY_LANES(float));
constexpr int kSums = 4;  // partial sums of an output, in every float product of few tokens

template <class F, int... I>
HWY_INLINE void UnrollSequence(F&& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
HWY_INLINE void Unroll(F&& f) {
  UnrollSequence(f, std::make_integer_sequence<int, N>{});
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

// f of the loads of a float type.
template <class F>
HWY_INLINE void WithFloatType(WeightType type, F&& f) {
  switch (type) {
    case WeightType::kF32: return f(F32Weights());
    case WeightType::kF16: return f(F16Weights());
    case WeightType::kBF16: return f(BF16Weights());
    default: return;  // the driver sends no other
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#endif  // HYDRA_KERNELS_MATMUL_LOADS_INL_H
