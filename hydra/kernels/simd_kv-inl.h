// SPDX-License-Identifier: Apache-2.0
// Rows of keys, values and recurrent state in each dtype, widened to vectors of f32; vectors to f32 and bf16 rows.
// Compiled once a SIMD level, after simd.h. Not here: f32 to other rows (ops_kv.cc), GGUF's weights (weight_type.h).
#if defined(HYDRA_KERNELS_SIMD_KV_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HYDRA_KERNELS_SIMD_KV_INL_H
#undef HYDRA_KERNELS_SIMD_KV_INL_H
#else
#define HYDRA_KERNELS_SIMD_KV_INL_H
#endif

#include "hydra/kernels/simd.h"
#include "hydra/tensor/cache_dtype.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// Load(row, i, left): the numbers i .. of a row as a vector, i a multiple of the lanes; those behind `left` are zeros
// and are not touched in memory. Store: the first `left` of a vector, to nearest even.
struct F32Row {
  static constexpr int64_t kBytes = 4;  // of a number
  static HWY_INLINE FloatVec Load(const std::byte* row, int64_t i, size_t left) {
    return LoadPart(FloatTag(), reinterpret_cast<const float*>(row) + i, left);
  }
  static HWY_INLINE void Store(FloatVec v, std::byte* row, int64_t i, size_t left) {
    StorePart(v, FloatTag(), reinterpret_cast<float*>(row) + i, left);
  }
};
struct BF16Row {
  static constexpr int64_t kBytes = 2;
  static HWY_INLINE FloatVec Load(const std::byte* row, int64_t i, size_t left) {
    const hn::RebindToUnsigned<FloatTag> d32;
    const hn::Rebind<uint16_t, FloatTag> d16;
    const auto bits = hn::PromoteTo(d32, LoadPart(d16, reinterpret_cast<const uint16_t*>(row) + i, left));
    return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(bits));
  }
  static HWY_INLINE void Store(FloatVec v, std::byte* row, int64_t i, size_t left) {
    const hn::RebindToUnsigned<FloatTag> d32;
    const hn::Rebind<uint16_t, FloatTag> d16;
    const auto bits = hn::BitCast(d32, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(d32, 0x7FFF)), odd));
    const auto nan = hn::Or(hn::ShiftRight<16>(bits), hn::Set(d32, 64));  // a NaN stays a NaN
    const auto kept = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), nan, rounded);
    StorePart(hn::TruncateTo(d16, kept), d16, reinterpret_cast<uint16_t*>(row) + i, left);
  }
};
struct F16Row {
  static HWY_INLINE FloatVec Load(const std::byte* row, int64_t i, size_t left) {
    const hn::Rebind<uint16_t, FloatTag> d16;
    const hn::Rebind<hwy::float16_t, FloatTag> half;
    return hn::PromoteTo(FloatTag(),
                         hn::BitCast(half, LoadPart(d16, reinterpret_cast<const uint16_t*>(row) + i, left)));
  }
};
// Always whole blocks of 32: behind the row's numbers there are zeros, which StoreKvRow wrote.
struct Q8Row {
  static HWY_INLINE FloatVec Load(const std::byte* row, int64_t i, size_t /*left*/) {
    const FloatTag d;
    const hn::RebindToSigned<FloatTag> di;
    const hn::Rebind<int8_t, FloatTag> d8;
    const std::byte* block = row + i / 32 * 34;
    uint16_t bits;
    std::memcpy(&bits, block, sizeof(bits));
    const hn::Rebind<uint16_t, FloatTag> d16;
    const hn::Rebind<hwy::float16_t, FloatTag> half;
    const auto scale = hn::PromoteTo(d, hn::BitCast(half, hn::Set(d16, bits)));
    const auto q = hn::LoadU(d8, reinterpret_cast<const int8_t*>(block + 2 + i % 32));
    return hn::Mul(scale, hn::ConvertTo(d, hn::PromoteTo(di, q)));
  }
};

// f(Row()) with the row type of a dtype.
template <class F>
HWY_INLINE void WithKvRow(KvDtype dtype, F&& f) {
  switch (dtype) {
    case KvDtype::kF32: return f(F32Row());
    case KvDtype::kBF16: return f(BF16Row());
    case KvDtype::kF16: return f(F16Row());
    case KvDtype::kQ8_0: return f(Q8Row());
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#endif  // HYDRA_KERNELS_SIMD_KV_INL_H
