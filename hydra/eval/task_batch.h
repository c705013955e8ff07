// SPDX-License-Identifier: Apache-2.0
// Documents of a task as batches: which row each lies in, and which targets count. Not here: the tasks (task.h).
// Dims: B rows, T tokens of a row.
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>
#include <vector>

#include "hydra/eval/task.h"
#include "hydra/nn/batch.h"

namespace hydra::eval {

struct TaskBatch {
  nn::Batch batch;                     // on the CPU; targets are the answers alone
  std::vector<size_t> documents;       // by number among those given
  std::vector<int64_t> starts;         // of each: b T + t of its first token
  int64_t n_tokens = 0, n_chunks = 0;  // without pads; chunks that hold a token
  int64_t n_targets = 0;
};

// Documents are packed, the longest first, into rows as long as the longest of them; those of one length have a row
// each. `align`: documents begin at its multiples, for every model alike, whatever its own clock is. At most
// `most_tokens` a batch, pads included, but a row at least.
[[nodiscard]] std::vector<TaskBatch> MakeBatches(const std::vector<TaskDocument>& documents, int64_t align,
                                                 int64_t most_tokens);

}  // namespace hydra::eval
