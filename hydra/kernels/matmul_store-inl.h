// SPDX-License-Identifier: Apache-2.0
// How a product's sums become y: bias, row scale, accumulation, scattered rows, the end of the last panel cut off.
// Compiled once for each SIMD level, after simd.h. Not here: the sums (matmul_int8-inl.h, matmul_float.cc).
#if defined(HYDRA_KERNELS_MATMUL_STORE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HYDRA_KERNELS_MATMUL_STORE_INL_H
#undef HYDRA_KERNELS_MATMUL_STORE_INL_H
#else
#define HYDRA_KERNELS_MATMUL_STORE_INL_H
#endif

#include "hydra/kernels/matmul_kernels.h"
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

HWY_INLINE float* RowOfY(const Output& out, int64_t t) {
  return out.y + (out.y_rows != nullptr ? out.y_rows[t] : t) * out.y_stride;
}

// The sums of token t and the rows n .. n + lanes - 1 of W, those behind N dropped.
HWY_INLINE void StoreSums(const Output& out, int64_t t, int64_t n, FloatVec sums) {
  const FloatTag d;
  if (n >= out.N) return;
  const auto left = static_cast<size_t>(out.N - n);
  float* y = RowOfY(out, t) + n;
  if (out.bias != nullptr) sums = hn::Add(sums, LoadPart(d, out.bias + n, left));
  if (out.row_scale != nullptr) sums = hn::Mul(sums, hn::Set(d, out.row_scale[t]));
  if (out.accumulate) sums = hn::Add(LoadPart(d, y, left), sums);
  StorePart(sums, d, y, left);
}
// One number.
HWY_INLINE void StoreSum(const Output& out, int64_t t, int64_t n, float sum) {
  float* y = RowOfY(out, t) + n;
  if (out.bias != nullptr) sum += out.bias[n];
  if (out.row_scale != nullptr) sum *= out.row_scale[t];
  *y = out.accumulate ? *y + sum : sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#endif  // HYDRA_KERNELS_MATMUL_STORE_INL_H
