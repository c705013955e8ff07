// SPDX-License-Identifier: Apache-2.0
// Queries, keys and values of random numbers, as caches hold them: for the list's cases of attention and for its tests.
// Not here: attention (ops.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hydra/kernels/ops.h"

namespace hydra::kernels {

struct AttentionShape {
  int64_t T = 1, heads = 1, Dk = 64, Dv = 64, pos = 0, window = INT64_MAX, sinks = 0;
  KvDtype dtype = KvDtype::kF32;
  int64_t landmarks = 0;
  std::vector<int64_t> cuts = {};  // positions where a run ends and the next one begins
  bool latent = false;             // the value is the first Dv numbers of the key
  bool landmarks_first = false;    // their run stands before the others: where it stands does not matter
  bool bf16 = false;               // AttentionArgs::bf16
};

// T queries, `q_stride` numbers apart, and what they see: the positions 0 .. pos + T - 1 in runs, and landmarks, whose
// positions lie on both sides of every query's limit, in no order.
struct AttentionInputs {
  AttentionInputs(const AttentionShape& shape, int64_t q_stride, uint64_t seed);
  // Points into this object: to be asked for again after a copy, and after other cuts or landmarks.
  [[nodiscard]] KeySet Keys();
  // Roundings of an output: a score is a sum of Dk products and moves an exp by its error.
  [[nodiscard]] int64_t Terms() const;

  AttentionShape s;
  int64_t k_bytes, v_bytes;  // of a row
  std::vector<float> q, bias, lambda, scratch;
  std::vector<std::byte> k, v, pool_k, pool_v;  // v and pool_v are empty where values are in keys
  std::vector<int32_t> positions;               // of landmarks
  std::vector<KeyRun> runs;
};

}  // namespace hydra::kernels
