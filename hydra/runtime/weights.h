// SPDX-License-Identifier: Apache-2.0
// The weights of a model as the forward pass reads them: matrices mapped from the file or packed for the SIMD level,
// small tensors as f32. Immutable once built. Not here: file formats (io/safetensors.h, io/gguf.h).
// Dims: D d_model, V vocab, H SSM heads, A attention heads, Dh head_dim, E experts, F d_expert, S slots, r rank, C
// chunk_len; of latent attention Rq q_rank, Rk kv_rank, Dn d_nope, Dr d_rope, Dl d_value.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hydra/kernels/matmul.h"
#include "hydra/model/config.h"
#include "hydra/model/tensor_table.h"
#include "hydra/runtime/model.h"
#include "hydra/tensor/weight_type.h"

namespace hydra {

// One tensor as it lies in a file; data may be unaligned.
struct StoredTensor {
  WeightType type = WeightType::kF32;
  const std::byte* data = nullptr;
  int64_t nbytes = 0;
  std::shared_ptr<const void> owner{};  // of bytes that were put into the table's order for this call; else empty
};

// Where weights come from. `tensor` returns the bytes of a tensor of the table, in the table's shape and order; the
// bytes live as long as `keep`, or as long as their owner where they have one.
struct WeightSource {
  ModelConfig config;
  std::string path;  // what messages call it
  std::function<StoredTensor(const TensorSpec&)> tensor;
  std::shared_ptr<const void> keep;
  // Throws kIo where a mapped file was written to since it was opened; empty for weights in memory.
  std::function<void()> check_unchanged;
  std::map<std::string, std::string> metadata;  // of a safetensors file; of GGUF what memory packs need
  bool mapped = true;                           // pages of packed tensors may be given back to the system
  bool rope_interleaved = false;                // Q and K rows are stored in GGUF's llama order
  bool A_is_negative = false;                   // kSsmALog holds -exp(A_log), as GGUF stores it
  void CheckUnchanged() const {
    if (check_unchanged) check_unchanged();
  }
};

// A tensor whose bytes were made for this call.
[[nodiscard]] StoredTensor OwnedTensor(WeightType type, std::vector<std::byte> bytes);

// Opens a model folder, a .gguf or a .safetensors file and checks every tensor against the table: each found once, with
// its shape; none left over. Throws Error naming file and tensor. Warnings are one line each.
[[nodiscard]] WeightSource OpenWeights(const std::string& path, std::vector<std::string>* warnings = nullptr);
// Whether any tensor has a quantised type: products then round their inputs, unless told otherwise.
[[nodiscard]] bool AnyQuantised(const WeightSource& source);

// Bytes of the copies that ModelWeights::Build would make for the SIMD level in use (packed_bytes).
[[nodiscard]] int64_t PackedCopyBytes(const WeightSource& source);

// Bytes of a copy among the packed weights, each of which begins on a cache line.
inline int64_t WholeLines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Type of the absorbed key maps of latent attention, which are transposed: quantised blocks cannot be.
inline WeightType AbsorbedType(WeightType type) { return IsQuantised(type) ? WeightType::kF16 : type; }

using F32 = std::vector<float>;

struct SsmWeights {
  kernels::Matrix in_proj, out_proj;
  F32 conv_w, conv_b;                     // [cd, K], [cd] or empty
  F32 A, D, dt_bias;                      // [H]; A = -exp(A_log)
  F32 norm;                               // [di]
  kernels::Matrix param_proj, skip_proj;  // diagonal
  F32 lambda;                             // [D]
};
// Latent attention in its absorbed form: queries are brought to the cached vectors, sums of these back to values.
struct LatentWeights {
  kernels::Matrix q_down, q_up, kv_down;     // [Rq, D], [A (Dn + Dr), Rq], [Rk + Dr, D]
  F32 q_norm, kv_norm;                       // [Rq], [Rk]
  std::vector<kernels::Matrix> key, values;  // of each head: [Rk, Dn], transposed and narrow; [Dl, Rk]
};
struct AttentionWeights {
  kernels::Matrix q, k, v, o;
  F32 q_bias, k_bias, v_bias;  // qwen2, else empty
  F32 q_norm, k_norm;          // [Dh] or empty
  F32 scorer;                  // [D] or empty
  float scorer_bias = 0;
  F32 lambda;  // [A] softplus(landmark_scale)
  LatentWeights latent;
};
struct DenseWeights {
  F32 norm;
  kernels::Matrix gate, up, down;
};
struct MoeWeights {
  F32 prev, first;                             // [E, D]
  F32 init_summary;                            // [D]
  F32 balance_bias;                            // [E]
  std::vector<kernels::Matrix> gate_up, down;  // of each expert: [2F, D], [D, F]
};
// Experts behind a ReLU router. Each expert's two matrices lie one after the other, from a cache line's start on.
struct BlockFfnWeights {
  F32 norm;                               // [D]; of sequential blocks
  kernels::Matrix router;                 // [E, D] f32; those of all layers lie together
  F32 router_scale;                       // [E]
  std::vector<kernels::Matrix> up, down;  // of each expert: [F, D], [D, F]
};
struct WorkspaceWeights {
  F32 norm, memory_norm;
  kernels::Matrix read_q, write_k, write_v;  // [r, D]
  kernels::Matrix read_k_t, read_v;          // [r, r]; read_k transposed: scores are (W_kr^T q) . R(M)
  kernels::Matrix out;                       // [D, r]
  F32 slot_queries, init_state;              // [S, r]
  F32 write_gate, write_gate_bias;           // [r], [S]
  F32 controller, controller_bias;           // [2, D], [2]
};
struct PkmWeights {
  F32 norm, query_norm;                   // [D], [2 Hp dk]
  kernels::Matrix query, value;           // [2 Hp dk, D], [D, dv]
  std::vector<kernels::Matrix> sub_keys;  // of each head and half: [n, dk]
  F32 gate;                               // [D]
  float gate_bias = 0;
};
struct BlockWeights {
  F32 norm;
  float gates[3] = {1, 1, 1};
  F32 controller, controller_bias;  // [3, D], [3] or empty
  SsmWeights ssm;
  AttentionWeights attention;
  DenseWeights dense;
  MoeWeights moe;
  BlockFfnWeights block_ffn;
  WorkspaceWeights workspace;
  PkmWeights pkm;
};

struct ModelWeights {
  ModelConfig config;
  LoadOptions options;  // ctx_size and act resolved
  std::string path, target;
  bool rope_interleaved = false;
  std::vector<double> inv_freq;  // [Dh / 2]
  kernels::Matrix embedding, head;
  kernels::Matrix pkm_table;
  F32 final_norm;
  std::vector<BlockWeights> blocks;
  int64_t file_bytes = 0;    // of the tensors as stored
  int64_t packed_bytes = 0;  // of copies made for the SIMD level; their source pages are given back
  int64_t copied_bytes = 0;  // f32 copies of small tensors, and rows that were not aligned
  bool quantised = false;
  TuningChoice tuning;
  std::shared_ptr<const void> keep;                 // the mapped files
  std::vector<std::shared_ptr<std::byte>> owned;    // packed and copied matrices
  std::vector<std::shared_ptr<const void>> owners;  // of matrices that the files have in another order
  WeightSource source;                              // to name the model by its bytes

  // How activations enter products with weights.
  [[nodiscard]] kernels::ActType act() const;
  // f(what it is for, such as "ffn down", the matrix) for each matrix, in the order in which a pass reads them.
  void ForEachMatrix(const std::function<void(const std::string& part, const kernels::Matrix& w)>& f) const;
  // Throws kIo where a file of the model was written to since it was opened.
  void CheckUnchanged() const { source.CheckUnchanged(); }
  // SHA-256 over config and every tensor's type and bytes, in hexadecimal; computed when first asked for.
  [[nodiscard]] const std::string& Fingerprint() const;

  [[nodiscard]] static std::shared_ptr<const ModelWeights> Build(const WeightSource& source, const LoadOptions& options,
                                                                 ThreadPool* pool);

 private:
  mutable std::once_flag fingerprint_once_;
  mutable std::string fingerprint_;
};

}  // namespace hydra
