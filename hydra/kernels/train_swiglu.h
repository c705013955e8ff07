// SPDX-License-Identifier: Apache-2.0
// SwiGLU of routed rows for training, y = p silu(gate) up, and its gradients. On the calling thread; callers cut rows.
// Not here: inference (ops.h), the products around it and the form of torch operators (hydra/nn/experts.cc).
// Dims: M rows, F width.
#pragma once

#include <cstdint>

namespace hydra::kernels {

struct SwiGluTrainArgs {
  const float* gate_up;  // [M, 2 F], gate first
  const float* p;        // [M]
  float* y;              // [M, F], written by both calls
  int64_t M, F;
  // Backward.
  const float* dy = nullptr;  // [M, F]
  float* dgate_up = nullptr;  // [M, 2 F], written; may be gate_up
  float* dp = nullptr;        // [M], written
};
void SwiGluTrain(const SwiGluTrainArgs& a);
void SwiGluTrainBackward(const SwiGluTrainArgs& a);

namespace ref {  // train_ref.cc
void SwiGluTrain(const SwiGluTrainArgs& a);
void SwiGluTrainBackward(const SwiGluTrainArgs& a);
}  // namespace ref

}  // namespace hydra::kernels
