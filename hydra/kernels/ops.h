// SPDX-License-Identifier: Apache-2.0
// Kernel families other than products with weights (matmul.h): one args struct each, F(args) in SIMD with run-time
// dispatch and ref::F(args), its scalar twin (ops_ref.cc). They run on the calling thread; a range in the args lets
// callers cut the work. y never aliases an input unless said. Pointers need no alignment.
// Dims: T tokens, D width, H SSM heads, P head_dim, N d_state, G groups, K taps, C channels, Dh attention head_dim, Dk
// and Dv numbers of a key and of a value.
#pragma once

#include <cstdint>

#include "hydra/tensor/cache_dtype.h"

namespace hydra::kernels {

// ---- Rows ----

// y = x / sqrt(mean x^2 + eps) * w, the mean over each of `groups` equal parts of a row. With z: x * silu(z) in the
// place of x (Mamba-2's gated norm). y may be x.
struct RmsNormArgs {
  const float* x;  // [T, D], rows x_stride apart
  const float* w;  // [D], or [D / groups] with shared_weight
  float* y;        // [T, D], rows y_stride apart
  int64_t T, D;
  int64_t x_stride = 0, y_stride = 0;  // 0 = D
  int64_t groups = 1;
  float eps = 1e-5f;
  const float* z = nullptr;    // [T, D], rows z_stride apart
  int64_t z_stride = 0;        // 0 = D
  bool shared_weight = false;  // every group has the same weight (QK-norm: groups = heads)
};
void RmsNorm(const RmsNormArgs& a);

// Rotates pairs of x in place by the angle pos * inv_freq[i].
struct RopeArgs {
  float* x;                // [T, heads, Dh], rows x_stride apart
  const int64_t* pos;      // [T]
  const double* inv_freq;  // [Dh / 2]
  int64_t T, heads, Dh;
  int64_t x_stride = 0;      // 0 = heads * Dh
  bool interleaved = false;  // pairs (2i, 2i + 1); else (i, i + Dh / 2)
  int64_t head_stride = 0;   // 0 = Dh
};
void Rope(const RopeArgs& a);

// y = silu(gate) * up.
struct SwiGluArgs {
  const float* gate;  // [T, F], rows stride apart
  const float* up;    // [T, F], rows stride apart
  float* y;           // [T, F]; may be gate or up where y_stride = stride
  int64_t T, F;
  int64_t stride = 0, y_stride = 0;  // 0 = F
};
void SwiGlu(const SwiGluArgs& a);

// y = softmax(scale * x) of each row; y may be x. A row whose inputs are all -inf is an error of the caller.
struct SoftmaxArgs {
  const float* x;  // [T, D]
  float* y;        // [T, D]
  int64_t T, D;
  float scale = 1;
};
void Softmax(const SoftmaxArgs& a);

// ---- SSM ----

// y[t,c] = silu(b[c] + sum_k w[c,k] u[t+k,c]), u = state rows, then x rows; on return state = last K-1 rows of u.
// One call equals any split of its tokens; calls for other channels may run beside it.
struct ConvArgs {
  const float* x;  // [T, C], rows x_stride apart
  const float* w;  // [C, K]
  const float* b;  // [C] or null
  float* state;    // [K - 1, C], oldest first
  float* y;        // [T, C], rows y_stride apart
  int64_t T, C, K;
  int64_t x_stride = 0, y_stride = 0;  // 0 = C
  int64_t c0 = 0, c1 = 0;              // channels of this call; c1 = 0: all from c0 on
};
void Conv(const ConvArgs& a);

// dt = clamp(softplus(raw + bias), lo, hi).
struct DtArgs {
  const float* raw;   // [T, H], rows stride apart
  const float* bias;  // [H]
  float* dt;          // [T, H]
  int64_t T, H;
  int64_t stride = 0;  // 0 = H
  float lo = 0, hi = __builtin_huge_valf();
};
void Dt(const DtArgs& a);

// h_t = exp(dt_t A) h_{t-1} + dt_t x_t (x) B_t;  y_t = h_t C_t + D x_t: specs/hydra.md 2.2 and 2.3, for the heads
// h0 .. h1 - 1. Head h reads group h G / H. T = 1 steps; more tokens go by chunks of Q. Any split of T gives the same
// state and y within rounding.
struct SsdArgs {
  const float* x;   // [T, H, P], rows x_stride apart
  const float* B;   // [T, G, N], rows bc_stride apart
  const float* C;   // [T, G, N], rows bc_stride apart
  const float* dt;  // [T, H], after softplus and clamp
  const float* A;   // [H], negative
  const float* D;   // [H]
  void* state;      // [H, P, N] of state_dtype, in place
  float* y;         // [T, H, P], rows y_stride apart
  float* scratch;   // SsdScratchFloats(Q, P, N) for each concurrent call
  int64_t T, H, P, G, N, Q;
  int64_t h0 = 0, h1 = 0;                             // heads of this call
  int64_t x_stride = 0, bc_stride = 0, y_stride = 0;  // 0 = H P, G N, H P
  StateDtype state_dtype = StateDtype::kF32;          // sums are f32; bf16 is rounded when a step or a chunk is done
};
void Ssd(const SsdArgs& a);
[[nodiscard]] int64_t SsdScratchFloats(int64_t Q, int64_t P, int64_t N);

// The published diagonal form, specs/hydra.md 2.6: y_t = C_t s_t; s_{t+1} = exp(-softplus(delta_t) lambda) s_t + B_t
// U_t. Channels d0 .. d1 - 1. y gets += when `accumulate` (the skip product is there already).
struct DiagonalArgs {
  const float* params;  // [T, 4, D]: delta, B, C, U
  const float* lambda;  // [D], positive
  float* state;         // [D], in place
  float* y;             // [T, D]
  int64_t T, D;
  int64_t d0 = 0, d1 = 0;
  bool accumulate = false;
};
void Diagonal(const DiagonalArgs& a);

// ---- Attention ----

// Bytes of one row of n numbers in a KV dtype: KvRowBytes of cache_dtype.h. f32 to a row, and back.
void StoreKvRow(KvDtype dtype, const float* x, int64_t n, void* row);
void LoadKvRow(KvDtype dtype, const void* row, int64_t n, float* x);

// Rows of keys and values of one KV head that lie one after another.
struct KeyRun {
  const void* k = nullptr;  // first row of the keys
  const void* v = nullptr;  // first row of the values
  int64_t n = 0;
  int64_t first = 0;             // position of the first row; those behind it follow one by one
  const int32_t* pos = nullptr;  // [n] positions in any order, in the place of `first`: landmarks
  const float* bias = nullptr;   // [n] of landmarks, times lambda of the head: added to the scaled score; null: 0
};
// The keys and values of one KV head. Runs without a list of positions are ascending and do not overlap; they may hold
// rows that no query sees. A value may be a part of its key's row (v in the row of k, the strides equal).
struct KeySet {
  const KeyRun* runs = nullptr;
  int64_t n_runs = 0;
  KvDtype dtype = KvDtype::kF32;
  int64_t Dk = 0, Dv = 0;              // numbers of a key and of a value
  int64_t k_stride = 0, v_stride = 0;  // bytes from row to row; 0 = KvRowBytes of Dk, of Dv
};

// y_t = sum_p softmax_p(q_t k_p scale + bias) v_p over the visible keys, for the query heads of one KV head and the
// queries t0 .. t1 - 1. Query t has position pos + t and sees the positions
//   p <= pos + t with p > pos + t - window or p < sinks,
// and the landmarks with position <= pos + t - window (specs/hydra.md 3). Keys are merged in blocks of the positions
// [kKeyBlock i, kKeyBlock (i + 1)), which the end of the sinks and a gap between runs cut as well, in ascending order;
// then landmarks, in blocks of kKeyBlock. So neither the cut of heads over threads nor that of rows into runs changes a
// bit. Blocks that no query of a tile sees are neither read nor computed.
inline constexpr int64_t kKeyBlock = 64;
// Counts the blocks of kKeyBlock positions that are read, each once, by walks of which none begins or ends before the
// one before it.
struct KeyTiles {
  int64_t n = 0, last = -1;  // how many; the block that was counted last
  void Visit(int64_t position) {
    const int64_t block = position / kKeyBlock;
    if (block > last) last = block, ++n;
  }
};
struct AttentionArgs {
  const float* q;  // [T, heads, Dk], rows q_stride apart
  float* y;        // [T, heads, Dv], rows y_stride apart
  KeySet keys;
  int64_t heads;  // that share the keys
  int64_t pos;    // of query 0
  int64_t window = INT64_MAX, sinks = 0;
  float scale;  // 1 / sqrt(Dk)
  int64_t t0 = 0, t1 = 0;
  const float* lambda = nullptr;       // [heads] softplus(landmark_scale), where there are landmarks
  bool alone = false;                  // each query gets the bits that it would get alone; slower for many
  bool bf16 = false;                   // factors of tiles may be rounded to bf16, where the level has such dot products
  int64_t q_stride = 0, y_stride = 0;  // 0 = heads Dk, heads Dv
  float* scratch;                      // AttentionScratchFloats(heads, Dk, Dv) for each concurrent call
  KeyTiles* tiles = nullptr;           // [1] told of each block of sinks and window that is read; null: nobody asks
};
void Attention(const AttentionArgs& a);
// So many of `queries` queries, which are not alone, read the keys together.
[[nodiscard]] int64_t AttentionTileQueries(int64_t heads, int64_t queries);
[[nodiscard]] int64_t AttentionScratchFloats(int64_t heads, int64_t Dk, int64_t Dv);

// One query's keys cut into fixed ranges, for long contexts: partial results of the positions [begin, end), and
// their merge in order. No landmarks. The same bits for any number of threads.
struct AttentionPartArgs {
  const float* q;  // [heads, Dk]
  KeySet keys;
  int64_t heads;
  int64_t begin, end;  // positions
  float scale;
  float* part;     // [heads, Dv + 2]: unnormalised sum, max, sum of exps
  float* scratch;  // AttentionScratchFloats(heads, Dk, Dv)
};
void AttentionPart(const AttentionPartArgs& a);
struct AttentionMergeArgs {
  const float* parts;  // [n_parts, heads, Dv + 2]
  float* y;            // [heads, Dv]
  int64_t n_parts, heads, Dv;
};
void AttentionMerge(const AttentionMergeArgs& a);

// ---- Selection and small dense maps ----

// BlockFFN's router (specs/blockffn.md 1): gates = r / sqrt(mean r^2 + eps) * scale of each token, r = max(raw, 0) and
// the mean over all E. An expert is active where raw > 0 and scale != 0; gates of the others are 0.
struct ReluGatesArgs {
  const float* raw;    // [n, E]
  const float* scale;  // [E]
  float* gates;        // [n, E]; may be raw
  uint32_t* active;    // [n, ceil(E / 32)] bits, expert e is bit e mod 32 of word e / 32
  int64_t n, E;
  float eps = 1e-5f;
};
void ReluGates(const ReluGatesArgs& a);

// The k largest of n scores, best first, ties to the lower index. ids [k], values [k] or null
void TopK(const float* scores, int64_t n, int64_t k, int32_t* ids, float* values);
// sum x[i] y[i]
[[nodiscard]] float Dot(const float* x, const float* y, int64_t n);
// y = log sigmoid(x)
void LogSigmoid(const float* x, float* y, int64_t n);
// y += scale * x
void Axpy(float scale, const float* x, float* y, int64_t n);

namespace ref {
void RmsNorm(const RmsNormArgs& a);
void Rope(const RopeArgs& a);
void SwiGlu(const SwiGluArgs& a);
void Softmax(const SoftmaxArgs& a);
void Conv(const ConvArgs& a);
void Dt(const DtArgs& a);
void Ssd(const SsdArgs& a);  // the recurrence, token by token
void Diagonal(const DiagonalArgs& a);
void StoreKvRow(KvDtype dtype, const float* x, int64_t n, void* row);  // ops_kv_ref.cc
void LoadKvRow(KvDtype dtype, const void* row, int64_t n, float* x);
void Attention(const AttentionArgs& a);
void AttentionPart(const AttentionPartArgs& a);
void AttentionMerge(const AttentionMergeArgs& a);
void ReluGates(const ReluGatesArgs& a);
void TopK(const float* scores, int64_t n, int64_t k, int32_t* ids, float* values);
float Dot(const float* x, const float* y, int64_t n);
void LogSigmoid(const float* x, float* y, int64_t n);
void Axpy(float scale, const float* x, float* y, int64_t n);
}  // namespace ref

}  // namespace hydra::kernels
