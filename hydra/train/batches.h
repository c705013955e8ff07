// SPDX-License-Identifier: Apache-2.0
// Rows of packed documents as tensors. Not here: which piece goes where (packing.h), the model's view (nn/batch.h).
// Dims: B rows, T tokens of a row.
#pragma once

#include <cstdint>
#include <vector>

#include "hydra/nn/batch.h"
#include "hydra/train/packing.h"

namespace hydra::train {

struct TokenBatch {
  nn::Batch batch;        // on the CPU
  int64_t n_targets = 0;  // targets that are not -100
  int64_t n_tokens = 0;   // without pads
  int64_t n_rows = 0;     // fewer than asked for only at the end of a packer that does not repeat
};

// The next `rows` rows of `seq_len` tokens. Pads hold id 0.
[[nodiscard]] TokenBatch NextBatch(RowPacker& packer, int64_t rows, int64_t seq_len);

// The batches of one optimiser step: `accum` of them, and their targets together.
struct StepBatches {
  std::vector<TokenBatch> micro;
  int64_t n_targets = 0, n_tokens = 0;
};
[[nodiscard]] StepBatches NextStep(RowPacker& packer, int64_t accum, int64_t rows, int64_t seq_len);

}  // namespace hydra::train
