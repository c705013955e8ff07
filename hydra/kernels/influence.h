// SPDX-License-Identifier: Apache-2.0
// What a loss would change if keys of an attention head were masked, to first order in the head's output, by distance
// (specs/moa.md 3). No [T, T] anywhere: a strip of queries at a time. The twin is in namespace ref. Not here: where
// gradients come from and how the work is cut over threads (hydra/nn/influence.h).
// Dims: T tokens, A query heads, Akv KV heads, Dh head_dim, b block, nb = ceil(T / b), C chunk_len, G pool places.
#pragma once

#include <cstdint>

namespace hydra::kernels {

// Row i of a head has probabilities A_ij over the keys that the model sees, G_ij = dO_i . v_j and D_i = sum_j A_ij
// G_ij. Entries j >= n_sinks lie in bin (i - j) / b. Summed over rows and added to what is there:
//   f[bin]   |A_ij / max(1 - A_ij, 1e-6) (D_i - G_ij)|, the change from masking one entry
//   jabs[m]  |J_i|, and jsgn[m]  J_i, m >= 1: the change from masking all entries of the bins >= m together,
//            (a D_i - c) / (1 - a) where their probability a is at most 1/2, else C' / A' - D_i of what stays
// Landmarks and sinks always stay. Where A' < 1e-30 the next larger m's value stands, and `guarded` counts it. Rows
// whose dO is 0 add nothing and cost little.
struct AttentionInfluenceArgs {
  int64_t T, A, Akv, Dh;
  int64_t b = 64, n_sinks = 64;      // n_sinks: 0 or b
  int64_t W = 0;                     // keys that the model sees, the query's own included; 0: all before
  float scale;                       // of scores
  const float* q;                    // [T, A, Dh] positions turned in
  const float* k;                    // [T, Akv, Dh]
  const float* v;                    // [T, Akv, Dh]
  const float* d_out;                // [T, A, Dh] dO
  double* f;                         // [nb] of the call's head, added to, as are the next three
  double* jabs;                      // [nb]
  double* jsgn;                      // [nb]
  int64_t* guarded;                  // [1]
  int64_t C = 1, G = 0;              // landmarks, where W > 0: row i also sees those of its chunk with token <= i - W
  const int64_t* pools = nullptr;    // [ceil(T / C), G] tokens in ascending order, -1 behind the last
  const float* log_sigma = nullptr;  // [T] their scores have lambda log_sigma added
  const float* lambda = nullptr;     // [A]
};
[[nodiscard]] int64_t InfluenceScratchFloats(const AttentionInfluenceArgs& a);   // for each concurrent call
[[nodiscard]] int64_t InfluenceScratchDoubles(const AttentionInfluenceArgs& a);  // for each concurrent call

// Memory of one call; nothing in it has to be set.
struct InfluenceScratch {
  float* floats;    // InfluenceScratchFloats
  double* doubles;  // InfluenceScratchDoubles
};

// The queries t0 b .. t1 b - 1 (as far as there are any) of one query head, on the calling thread.
void AttentionInfluence(const AttentionInfluenceArgs& a, int64_t head, int64_t t0, int64_t t1,
                        const InfluenceScratch& scratch);

namespace ref {  // influence_ref.cc; no scratch
void AttentionInfluence(const AttentionInfluenceArgs& a, int64_t head, int64_t t0, int64_t t1);
}  // namespace ref

}  // namespace hydra::kernels
