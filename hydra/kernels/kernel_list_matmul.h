// SPDX-License-Identifier: Apache-2.0
// Stored weights of random bits, and how far a product with them may be off: for the list's cases of MatMul and for its
// tests. Not here: the products (matmul.h).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "hydra/kernels/matmul.h"

namespace hydra::kernels {

// W as rows of random bits in the type's blocks, every quant and small scale possible, the halves d and m ordinary;
// and, where the type has them, in panels of the level in use, or in narrow panels.
struct RandomWeights {
  RandomWeights(WeightType type, int64_t N, int64_t K, uint64_t seed);
  void PackFor(ThreadPool& pool);  // once more, for another level or other bytes

  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::vector<std::byte> bytes;
  Matrix rows;
  std::unique_ptr<std::byte, Free> panels, narrow_panels;  // 64-byte aligned
  Matrix packed;                                           // rows where the type has no panels
  Matrix narrow;                                           // rows where the type is quantised
};

// Of products in f32 or with x rounded as the twin rounds it.
[[nodiscard]] double SumOfTerms(const MatMulArgs& a);  // a bound of sum |terms| of any output
[[nodiscard]] double ToleranceOf(const MatMulArgs& a);

}  // namespace hydra::kernels
