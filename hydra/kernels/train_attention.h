// SPDX-License-Identifier: Apache-2.0
// Window + landmark attention for training, chunk by chunk: outputs, and the gradients of all inputs. One call is one
// KV head of some chunks on the calling thread; hydra/nn/fused_attention.cc cuts the work. Twins are in namespace ref.
// Not here: inference (ops.h), the form of torch operators (hydra/nn/sparse_attention.cc).
// Dims: M tokens of all rows, A query heads, Akv KV heads, Dh head_dim, C chunk_len, W window, G pool places a chunk.
#pragma once

#include <cstdint>

namespace hydra::kernels {

// Query t sees the keys of its document from t - W + 1 to t, and of its chunk's pool those with pos <= pos[t] - W,
// whose scores have lambda log_sigma added.
struct AttentionTrainArgs {
  int64_t M, A, Akv, Dh, C, W, G;
  float scale;              // of scores
  const float* q;           // [M, A, Dh]
  const float* k;           // [M, Akv, Dh]
  const float* v;           // [M, Akv, Dh]
  const int64_t* document;  // [M] first token of the token's document
  const int64_t* pos;       // [M]; read where G > 0
  const int64_t* pools;     // [M / C, G] tokens in the order of positions, -1 behind the last; null where G = 0
  const float* log_sigma;   // [M]; read where G > 0
  const float* lambda;      // [A]; read where G > 0
  float* out;               // [M, A, Dh]
  float* log_sum;           // [M, A] log of the sum of exp(score); the forward call writes it
  // Backward.
  const float* dout = nullptr;  // [M, A, Dh]
  float* dq = nullptr;          // [M, A, Dh], written
  float* dk = nullptr;          // [M, Akv, Dh], added to
  float* dv = nullptr;          // [M, Akv, Dh], added to
  float* dsigma = nullptr;      // [Akv, M], of log_sigma by KV head, added to; null where G = 0
  float* dlambda = nullptr;     // [A] of this call's chunks, added to; null where G = 0
};
[[nodiscard]] int64_t AttentionTrainScratchFloats(const AttentionTrainArgs& a);  // for each concurrent call

// The chunks c0 .. c1 - 1 of KV head kv. Concurrent backward calls must not share both head and row: what they add to
// is the head's in the whole row.
void AttentionTrain(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1, float* scratch);
void AttentionTrainBackward(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1, float* scratch);

namespace ref {  // train_ref.cc; no scratch
void AttentionTrain(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1);
void AttentionTrainBackward(const AttentionTrainArgs& a, int64_t kv, int64_t c0, int64_t c1);
}  // namespace ref

}  // namespace hydra::kernels
