// SPDX-License-Identifier: Apache-2.0
// Helpers of kernel tests: every SIMD level, sizes around the vector widths, comparison of arrays. Not part of any
// library. Not here: tolerances and numbers at random (kernel_list.h), which benchmarks need, too.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/target.h"
#include "hydra/tensor/dtype.h"

namespace hydra::kernels {

// f(name) with each level that this machine has, named in what fails. The level that was in use comes back. With
// HYDRALM_ARG_TARGET set, that level alone.
template <class F>
void ForEachTarget(F&& f) {
  const std::string before = CurrentTarget();
  const bool forced = std::getenv("HYDRALM_ARG_TARGET") != nullptr;
  for (const std::string& name : forced ? std::vector<std::string>{before} : Targets()) {
    SCOPED_TRACE("target " + name);
    SetTarget(name);
    f(name);
    if (::testing::Test::HasFatalFailure()) break;
  }
  SetTarget(before);
}

// Sizes where vector loops break: 1 .. 9, then around each multiple of 8, 16 and 32 lanes up to `max`.
inline std::vector<int64_t> EdgeSizes(int64_t max) {
  std::vector<int64_t> sizes;
  for (int64_t n = 1; n <= max; ++n) {
    const bool edge = n <= 9 || (n <= 72 && (n % 8 <= 1 || n % 8 == 7)) || (n % 64 <= 1 || n % 64 == 63);
    if (edge || n == max) sizes.push_back(n);
  }
  return sizes;
}

// f(n) for EdgeSizes(max).
template <class F>
void ForEachSize(int64_t max, F&& f) {
  for (const int64_t n : EdgeSizes(max)) {
    SCOPED_TRACE("size " + std::to_string(n));
    f(n);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

// Each element within `tolerance`; NaN is never close.
inline void ExpectClose(std::span<const float> want, std::span<const float> got, double tolerance) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_TRUE(std::abs(static_cast<double>(want[i]) - static_cast<double>(got[i])) <= tolerance)
        << "at " << i << " of " << want.size() << ": want " << want[i] << ", got " << got[i] << ", tolerance "
        << tolerance;
}

}  // namespace hydra::kernels
