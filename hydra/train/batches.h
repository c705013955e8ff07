// SPDX-License-Identifier: Apache-2.0
// Rows of packed documents as tensors. Not here: which piece goes where (packing.h), the model's view (nn/batch.h).
// Dims: B rows, T tokens of a row.
#pragma once

#include <cstdint>
#include <vector>

#include "hydra/nn/batch.h"
#include "hydra/train/packing.h"
#include "hydra/train/row_mix.h"

namespace hydra::train {

struct TokenBatch {
  nn::Batch batch;                                  // on the CPU
  std::vector<int64_t> documents;                   // tokens of each piece, in the order of rows
  std::vector<std::vector<int64_t>> row_documents;  // of each row: number in its corpus by seq_idx
  int64_t n_targets = 0;                            // targets that are not -100
  int64_t n_tokens = 0;                             // without pads
  int64_t n_chunks = 0;                             // that hold a token: what routers choose experts for
  int64_t n_rows = 0;  // fewer than asked for only at the end of a packer that does not repeat
};

// The next `rows` rows of `seq_len` tokens. Pads hold id 0.
[[nodiscard]] TokenBatch NextBatch(RowPacker& packer, int64_t rows, int64_t seq_len);
[[nodiscard]] TokenBatch NextBatch(RowMix& mix, int64_t rows, int64_t seq_len);

// The batches of one optimiser step that have a target; those that have none change nothing and are left out. With
// masked documents (chats) all of them may be.
struct StepBatches {
  std::vector<TokenBatch> micro;                      // at most `accum`
  int64_t n_targets = 0, n_chunks = 0, n_tokens = 0;  // of those
  int64_t n_read = 0;                                 // tokens of all, also of those that were left out
};
[[nodiscard]] StepBatches NextStep(RowMix& mix, int64_t accum, int64_t rows, int64_t seq_len);

}  // namespace hydra::train
