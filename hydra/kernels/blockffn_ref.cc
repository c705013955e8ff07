// SPDX-License-Identifier: Apache-2.0
// The scalar twin of BlockFFN: the formula of specs/blockffn.md 1, every expert, sums in double through the twin of
// products. Not here: anything fast (blockffn.cc).
#include <algorithm>
#include <vector>

#include "hydra/kernels/blockffn.h"
#include "hydra/kernels/ops.h"

namespace hydra::kernels::ref {

void BlockFfn(const BlockFfnArgs& a, ActType act) {
  const int64_t words = (a.E + 31) / 32;
  std::vector<float> gates(static_cast<size_t>(a.n * a.E)), hidden, gate(static_cast<size_t>(a.n));
  std::vector<uint32_t> active(static_cast<size_t>(a.n * words));
  MatMul({.w = a.router, .x = a.x, .y = gates.data(), .T = a.n, .f32 = true}, act);
  ReluGates({.raw = gates.data(),
             .scale = a.router_scale,
             .gates = gates.data(),
             .active = active.data(),
             .n = a.n,
             .E = a.E,
             .eps = a.eps});
  std::fill_n(a.y, a.n * a.D, 0.0f);
  for (int64_t e = 0; e < a.E; ++e) {
    const Matrix &up = a.up[static_cast<size_t>(e)], &down = a.down[static_cast<size_t>(e)];
    hidden.assign(static_cast<size_t>(a.n * up.rows), 0);
    for (int64_t t = 0; t < a.n; ++t) gate[static_cast<size_t>(t)] = gates[static_cast<size_t>(t * a.E + e)];
    MatMul({.w = up, .x = a.x, .y = hidden.data(), .T = a.n, .row_scale = gate.data(), .silu = true}, act);
    MatMul({.w = down, .x = hidden.data(), .y = a.y, .T = a.n, .accumulate = true}, act);
  }
  if (a.active_bits != nullptr) std::ranges::copy(active, a.active_bits);
}

}  // namespace hydra::kernels::ref
