// SPDX-License-Identifier: Apache-2.0
// What a loss would change if a layer's heads saw fewer keys, from the gradient of their outputs: the statistics of
// specs/moa.md 3. Not here: going through a model (hydra/eval/influence.h), the formulas (kernels/influence.h).
// Dims: T tokens, A heads, Dh head_dim, nb bins of distance, C chunk_len.
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>

#include "hydra/nn/batch.h"

namespace hydra::nn {

// Sums over rows and calls, fp64 on the CPU.
struct InfluenceStats {
  torch::Tensor f, jabs, jsgn;  // [A, nb] each
  int64_t guarded = 0;          // values that stand for others (kernels/influence.h)

  // Zeros for `tokens` tokens in bins of `block`.
  [[nodiscard]] static InfluenceStats Zeros(int64_t heads, int64_t tokens, int64_t block);
};

struct InfluenceOptions {
  int64_t block = 64, n_sinks = 64;  // sinks: 0 or a block
  int64_t chunk_len = 1;             // C, of landmarks
};

// Adds what one document says: `seen` of one row that begins at position 0, d_out [1, T, A, Dh] the gradient of
// seen.out. No gradient.
void AttentionInfluence(const AttentionSeen& seen, const torch::Tensor& d_out, const InfluenceOptions& options,
                        InfluenceStats* stats);
namespace composite {  // the slow twin, for every device and type: strips of rows in torch operators
void AttentionInfluence(const AttentionSeen& seen, const torch::Tensor& d_out, const InfluenceOptions& options,
                        InfluenceStats* stats);
}  // namespace composite

}  // namespace hydra::nn
