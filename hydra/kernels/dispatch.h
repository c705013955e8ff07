// SPDX-License-Identifier: Apache-2.0
// What a Highway unit of this folder needs to be compiled for each SIMD level and called through the level in use.
// Not here: operations that Highway 1.0.3 lacks (simd.h), choosing a level (target.h). A unit reads:
//
//   #include "hydra/kernels/ops.h"
//   #include "hydra/kernels/dispatch.h"
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "hydra/kernels/ops_rows.cc"  // this very file
//   #include <hwy/foreach_target.h>                         // compiles the part below once a level
//   #include "hydra/kernels/simd.h"                         // Highway, and what it lacks; per level
//
//   HWY_BEFORE_NAMESPACE();
//   namespace hydra::kernels {
//   namespace HWY_NAMESPACE {
//   namespace hn = hwy::HWY_NAMESPACE;
//   void Axpy(float scale, const float* x, float* y, int64_t n) { ... }  // lambdas need HWY_ATTR
//   }  // namespace HWY_NAMESPACE
//   }  // namespace hydra::kernels
//   HWY_AFTER_NAMESPACE();
//
//   #if HWY_ONCE
//   namespace hydra::kernels {
//   HWY_EXPORT(Axpy);
//   void Axpy(float scale, const float* x, float* y, int64_t n) { HYDRA_DISPATCH(Axpy)(scale, x, y, n); }
//   }  // namespace hydra::kernels
//   #endif
#pragma once

// Levels of processors from before 2013: those take the baseline. Every level costs compile time and size.
// Sanitised builds, where a level takes minutes, keep AVX2 and the baseline.
// Arm's SVE: its vectors have no size that the compiler knows, so tiles cannot keep arrays of them. NEON it is.
#define HYDRA_NO_SVE (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#ifdef HYDRA_SANITIZED
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3 | HYDRA_NO_SVE)
#else
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HYDRA_NO_SVE)
#endif
#include <hwy/targets.h>

namespace hydra::kernels::internal {

// Chooses the level on the first call (HYDRALM_ARG_TARGET, else the best); throws kUsage for an impossible one.
void ChooseTarget();
inline void EnsureTarget() {
  if (!hwy::GetChosenTarget().IsInitialized()) ChooseTarget();
}
// What a level that Highway takes for AVX3 has beside: dot products of int8, those of bf16, tiles of both. Each has
// what stands before it.
enum class Extension { kNone, kVnni, kBf16, kAmx };
// Of the level in use. After EnsureTarget().
[[nodiscard]] Extension CurrentExtension();

}  // namespace hydra::kernels::internal

#define HYDRA_DISPATCH(function) (::hydra::kernels::internal::EnsureTarget(), HWY_DYNAMIC_DISPATCH(function))
