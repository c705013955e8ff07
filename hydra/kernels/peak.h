// SPDX-License-Identifier: Apache-2.0
// What the arithmetic of this machine can do: multiply-adds on registers, without loads. The speed of products is
// compared with it. Not here: the memory's read rate (runtime/speed.h).
#pragma once

#include "hydra/base/thread_pool.h"
#include "hydra/kernels/matmul.h"
#include "hydra/tensor/weight_type.h"

namespace hydra::kernels {

// Multiply-adds a second of all threads of the pool together, times two, on the SIMD level in use, with the
// instructions that products of such weights take: f32, or dot products of bytes. Best of many runs in a fifth of a
// second.
[[nodiscard]] double MeasurePeak(WeightType type, ActType act, ThreadPool& pool);

}  // namespace hydra::kernels
