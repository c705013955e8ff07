// SPDX-License-Identifier: Apache-2.0
// Which SIMD level the kernels run on: the best that CPUID offers, or one that was asked for. The dispatch table is the
// only global state of the library. HYDRALM_ARG_TARGET is read when a kernel is first called.
#pragma once

#include <string>
#include <vector>

namespace hydra::kernels {

// Names of the levels that this machine can run and this build holds, best first: "avx3_amx" (AVX-512 with VNNI, dot
// products of bf16, and AMX tiles of both), "avx3_bf16" (without tiles), "avx3_vnni" (with VNNI alone), "avx3", "avx2",
// the baseline, "scalar" (the emulated one); on 64-bit Arm "neon" alone.
[[nodiscard]] std::vector<std::string> Targets();
// The level in use.
[[nodiscard]] std::string CurrentTarget();
// Whether the level in use multiplies pairs of bf16.
[[nodiscard]] bool HasBf16Dots();
// Forces a level, or gives the choice back with "best". Throws kUsage with the list for one that is not in Targets().
// Not while a kernel runs. Matrices packed before (matmul.h) must be packed again.
void SetTarget(const std::string& name);

}  // namespace hydra::kernels
