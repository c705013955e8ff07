// SPDX-License-Identifier: Apache-2.0
// BlockFFN layers of random weights: for the list's cases, its tests and benchmarks. Not here: the layer (blockffn.h).
// Dims as in blockffn.h.
#pragma once

#include <cstdint>
#include <vector>

#include "hydra/kernels/blockffn.h"
#include "hydra/kernels/kernel_list_matmul.h"

namespace hydra::kernels {

struct BlockFfnShape {
  WeightType type;
  int64_t n, D, E, de;
  double shift;  // of the router's scores, whose deviation is about 1
};

// Experts' weights at random, in the layout that the layer wants on the level in use.
struct RandomBlockFfn {
  RandomBlockFfn(const BlockFfnShape& shape, uint64_t seed);
  void PackFor(ThreadPool& pool);
  // Of the tokens first .. first + n - 1; y [shape.n, D] and active [shape.n, ceil(E / 32)] are those of all tokens.
  [[nodiscard]] BlockFfnArgs Args(float* y, uint32_t* active, int64_t first, int64_t n) const;
  // A bound of the error of any number of y in f32, from the terms of its sums.
  [[nodiscard]] double ErrorInRoundoffs() const;

  BlockFfnShape shape;
  std::vector<float> x, scale;  // [n, D], [E]
  RandomWeights router;
  std::vector<RandomWeights> up, down;  // of each expert
  std::vector<Matrix> ups, downs;       // as the layer reads them
};

}  // namespace hydra::kernels
