// SPDX-License-Identifier: Apache-2.0
// Mamba-2 between its two projections, for training: convolution, SSD, gated norm, and the gradients of all three. One
// call is one chunk's share of a phase, on the calling thread; hydra/nn/mamba2.cc calls the phases in order. Twins are
// in namespace ref. Not here: inference (ops.h), the projections, the form of torch operators (hydra/nn/ssm.cc).
// Dims: M tokens of all rows, H heads, P head_dim, di = H P, N d_state, G groups, cd = di + 2 G N channels of the
// convolution, K taps, W = di + cd + H, Q scan_chunk.
#pragma once

#include <cstdint>

namespace hydra::kernels {

// At most Q tokens of one document. Chunks of a document follow each other from its first token on, so none has tokens
// of two, and a document's numbers do not depend on where in a row it is.
struct MambaChunk {
  int64_t begin, end;  // tokens, counted through all rows
  int64_t document;    // its document's first token
};

inline constexpr int64_t kMambaTaps = 4;      // most taps
inline constexpr int64_t kMambaChunk = 1024;  // longest scan_chunk: a thread takes 3 numbers for each of its pairs

struct MambaTrainArgs {
  int64_t H, P, G, N, K, Q, norm_groups;
  float eps, dt_lo, dt_hi;
  const float* projected;    // [M, W]: z, x, B, C, raw dt
  const float* taps;         // [K, cd], oldest first
  const float* conv_b;       // [cd] or null
  const float* dt_bias;      // [H]
  const float* A;            // [H], negative
  const float* D;            // [H]
  const float* norm;         // [di]
  const bool* real;          // [M], null: all; where false dt is 0
  const MambaChunk* chunks;  // [n_chunks], in the order of tokens
  int64_t n_chunks;
  // Written by the forward phases, read by the backward ones.
  float* xBC;     // [M, cd] after the convolution; not kept for the backward phases
  float* states;  // [n_chunks, G, N, di / G] before each chunk
  float* decay;   // [n_chunks, H] of a state through a chunk
  float* y;       // [M, di] before the gate
  float* out;     // [M, di]
  // The backward phases.
  const float* dout = nullptr;  // [M, di]
  float* dprojected = nullptr;  // [M, W]; holds intermediate gradients between the phases
  float* dstates = nullptr;     // [n_chunks, G, N, di / G] gradients of the states after each chunk
};
[[nodiscard]] int64_t MambaScratchFloats(const MambaTrainArgs& a);  // for each concurrent call

// Sums that a backward phase adds to, for the caller to add up over calls: gradients of norm [di], D, A, dt_bias [H].
[[nodiscard]] inline int64_t MambaSums(const MambaTrainArgs& a) { return a.H * a.P + 3 * a.H; }

// Forward: every chunk's own state; what passes from chunk to chunk, for the chunks c0 .. c1 - 1 of one row and the
// rows n0 .. n1 - 1 of [G N]; every chunk's outputs.
void MambaChunkStates(const MambaTrainArgs& a, int64_t chunk, float* scratch);
void MambaPassStates(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1, float* scratch);
void MambaChunkOutputs(const MambaTrainArgs& a, int64_t chunk, float* scratch);

// Backward: the gate and the norm, and what a chunk's outputs want of the state before it; passing back; gradients of
// everything before the convolution's silu; the convolution of the channels d0 .. d1 - 1 of one row's chunks, which
// adds to dtaps [K + 1, cd] (the last row: of the bias).
void MambaBackwardStates(const MambaTrainArgs& a, int64_t chunk, float* sums, float* scratch);
void MambaPassGradients(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1, float* scratch);
void MambaBackwardInputs(const MambaTrainArgs& a, int64_t chunk, float* sums, float* scratch);
void MambaBackwardConv(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t d0, int64_t d1, float* dtaps);

namespace ref {  // train_mamba_ref.cc; no scratch
void MambaChunkStates(const MambaTrainArgs& a, int64_t chunk);
void MambaPassStates(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1);
void MambaChunkOutputs(const MambaTrainArgs& a, int64_t chunk);
void MambaBackwardStates(const MambaTrainArgs& a, int64_t chunk, float* sums);
void MambaPassGradients(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1);
void MambaBackwardInputs(const MambaTrainArgs& a, int64_t chunk, float* sums);
void MambaBackwardConv(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t d0, int64_t d1, float* dtaps);
}  // namespace ref

}  // namespace hydra::kernels
