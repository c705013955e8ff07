// SPDX-License-Identifier: Apache-2.0
// Training memory: masters, gradients and moments exactly, activations as an estimate from the tensors that the
// backward pass needs. Not here: running memory (accounting.cc), what the allocator really holds (bench/).
#include <algorithm>

#include "hydra/model/accounting.h"

namespace hydra {
namespace {

// Numbers that stay until the backward pass, for one token of one block: the inputs of each product, norm and
// non-linearity. Counted per part of specs/hydra.md 1 to 6; small ones (rows of rstd, gates) are left out.
int64_t SavedNumbers(const ModelConfig& c, const LayerConfig& l) {
  const int64_t D = c.d_model;
  const AttentionConfig& a = c.attention;
  int64_t n = 2 * D;  // residual and its norm, shared by the paths
  if (l.ssm && c.ssm.kind == SsmKind::kMamba2) {
    const int64_t Q = c.ssm.scan_chunk, di = c.ssm.d_inner();
    n += c.ssm.in_proj_dim() + di * c.ssm.d_state / Q;  // raw projections, the state before each chunk
    n += 2 * di + D;                                    // y before the gate, normed y, output
  }
  if (l.ssm && c.ssm.kind == SsmKind::kDiagonal) n += 9 * D;  // four projections, alpha, B U, s, two outputs
  if (l.attention == AttentionKind::kLatent) {
    const LatentConfig& m = a.latent;
    n += 2 * m.q_rank + 2 * m.kv_rank + m.d_rope + D;             // ranks before and after their norms; output
    n += a.n_heads * (3 * m.d_key() + m.d_nope + 3 * m.d_value);  // q raw and turned, k; keys and values; sums
  } else if (l.attention != AttentionKind::kNone) {
    const int64_t q = a.n_heads * a.head_dim, kv = a.n_kv_heads * a.head_dim;
    n += (a.qk_norm ? 3 : 2) * (q + kv) + kv + q + D;  // before norm, normed, rotated; v; sums; output
  }
  if (l.ffn == FfnKind::kDense) n += D + 4 * c.d_ff;  // own norm; gate, up, silu, product
  // Own norm; raw scores, gates and their norm; of every expert up, its activation and the product: an upper bound,
  // since experts that are not active are left out.
  if (l.ffn == FfnKind::kBlockFfn) n += D + c.moe.n_experts * (3 + 3 * c.moe.d_expert);
  if (l.ffn == FfnKind::kChunkMoe) n += D + c.moe.top_k * 2 * c.moe.d_expert;  // output; gate and up of each row
  if (l.workspace) n += 2 * D + 4 * c.workspace.rank + 3 * c.workspace.n_slots + D;
  if (l.pkm) n += 2 * D + c.pkm.n_heads * (4 * c.pkm.d_key + 2 * c.pkm.n_keys) + 2 * c.pkm.d_value + D;
  return n;
}

// Adafactor's: one for each row and column of a matrix [.., R, C], each number of a vector, each row of the table.
int64_t FactoredMoments(const TensorSpec& spec) {
  if (spec.role == TensorRole::kPkmTable) return spec.shape[0];
  if (spec.shape.size() < 2) return spec.size();
  const int64_t rows = spec.shape[spec.shape.size() - 2], columns = spec.shape.back();
  return spec.size() / (rows * columns) * (rows + columns);
}

}  // namespace

TrainMemory CountTrainMemory(const ModelConfig& config, const TrainMemoryOptions& options) {
  const TensorTable table(config);
  TrainMemory m;
  for (const TensorSpec& spec : table.specs()) {
    m.weights += spec.size() * kF32Bytes;
    if (!spec.parameter) continue;
    m.moments += kF32Bytes * (options.factored_moments ? FactoredMoments(spec) : 2 * spec.size());
    if (spec.role == TensorRole::kPkmTable) {
      int64_t sites = 0;
      for (const LayerConfig& l : config.layers) sites += l.pkm ? 1 : 0;
      const int64_t hit = options.tokens * sites * config.pkm.n_heads * config.pkm.top_k;
      m.gradients += std::min(spec.shape[0], hit) * (spec.shape[1] * kF32Bytes + 8);  // rows and their i64 numbers
      m.moments += spec.shape[0] * kF32Bytes;                                         // steps of each row
    } else {
      m.gradients += spec.size() * kF32Bytes;
    }
  }
  // Last residual and its norm; the head's rows and their gradient. Logits live for a block of rows only.
  int64_t per_token = 4 * config.d_model, widest = 0;
  for (const LayerConfig& l : config.layers) {
    const int64_t n = SavedNumbers(config, l);
    widest = std::max(widest, n);
    per_token += options.checkpoint_blocks ? config.d_model : n;
  }
  if (options.checkpoint_blocks) per_token += widest;  // of the block that is being recomputed
  m.activations = options.tokens * per_token * kF32Bytes;
  return m;
}

}  // namespace hydra
