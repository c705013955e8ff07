// SPDX-License-Identifier: Apache-2.0
// The int8 kernels of every SIMD level: matmul_int8-inl.h, compiled for each, and twice for AVX-512: with VNNI and
// without; beside the former those with tiles of AMX (matmul_amx-inl.h). Not here: the driver (matmul.cc).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "hydra/kernels/amx.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/matmul_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/matmul_int8.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/matmul_store-inl.h"
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

namespace plain {
#define HYDRA_VNNI 0
#define HYDRA_ATTR HWY_ATTR
#include "hydra/kernels/simd_int8-inl.h"

#include "hydra/kernels/matmul_int8-inl.h"
#undef HYDRA_VNNI
#undef HYDRA_ATTR
#undef HYDRA_LAMBDA
}  // namespace plain

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
namespace vnni {
#define HYDRA_VNNI 1
#define HYDRA_ATTR __attribute__((target(HWY_TARGET_STR ",avx512vnni")))
#include "hydra/kernels/simd_int8-inl.h"

#include "hydra/kernels/matmul_int8-inl.h"

#include "hydra/kernels/matmul_amx-inl.h"
#undef HYDRA_VNNI
#undef HYDRA_ATTR
#undef HYDRA_LAMBDA
}  // namespace vnni
HWY_POP_ATTRIBUTES
#endif

Int8Kernels Int8KernelsOf([[maybe_unused]] internal::Extension extension) {
#if HWY_TARGET == HWY_AVX3
  using internal::Extension;
  if (extension >= Extension::kAmx) return {vnni::kAmxTokens, vnni::kQ8Flip, vnni::AmxInt8, vnni::Decode};
  if (extension >= Extension::kVnni) return {vnni::kTileTokens, vnni::kQ8Flip, vnni::Int8, vnni::Decode};
#endif
  return {plain::kTileTokens, plain::kQ8Flip, plain::Int8, plain::Decode};
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(Int8KernelsOf);

Int8Kernels GetInt8Kernels() {
  internal::EnsureTarget();
  return HWY_DYNAMIC_DISPATCH(Int8KernelsOf)(internal::CurrentExtension());
}

}  // namespace hydra::kernels
#endif
