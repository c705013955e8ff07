// SPDX-License-Identifier: Apache-2.0
// The one list of a state's buffers, block by block.
#include "hydra/model/state_layout.h"

namespace hydra {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kF32 = 4;

}  // namespace

int64_t StateLayout::Add(int block, StatePart part, const char* name, int64_t n, DType dtype, int64_t growing_heads) {
  const int64_t offset = bytes;
  buffers[static_cast<size_t>(block)].push_back({name, offset, n, dtype, part, growing_heads});
  bytes += (n + kAlign - 1) / kAlign * kAlign;
  if (growing_heads == 0) constant_bytes += n;
  return offset;
}

StateLayout::StateLayout(const ModelConfig& config, KvDtype kv_dtype, StateDtype state_dtype, int64_t ctx,
                         int64_t experts)
    : blocks(config.layers.size()),
      buffers(config.layers.size()),
      kv(kv_dtype),
      state(state_dtype),
      ctx_size(ctx),
      moe_k(experts) {
  const SsmConfig& s = config.ssm;
  const AttentionConfig& a = config.attention;
  const WorkspaceConfig& w = config.workspace;
  const DType f = DType::kF32, i = DType::kI32;
  const DType kv_type = kv == KvDtype::kF32    ? DType::kF32
                        : kv == KvDtype::kF16  ? DType::kF16
                        : kv == KvDtype::kBF16 ? DType::kBF16
                                               : DType::kU8;
  const int64_t row = a.n_kv_heads * KvRowBytes(kv, a.head_dim);
  for (int n = 0; n < static_cast<int>(blocks.size()); ++n) {
    const LayerConfig& layer = config.layers[static_cast<size_t>(n)];
    BlockOffsets& b = blocks[static_cast<size_t>(n)];
    if (layer.ssm && s.kind == SsmKind::kMamba2) {
      b.conv = Add(n, StatePart::kConv, "conv_state", (s.d_conv - 1) * s.conv_dim() * kF32, f);
      const DType number = state == StateDtype::kBF16 ? DType::kBF16 : f;
      b.ssm = Add(n, StatePart::kSsm, "ssm_state", s.d_inner() * s.d_state * DTypeSize(number), number);
    } else if (layer.ssm) {
      b.ssm = Add(n, StatePart::kSsm, "ssm_state", config.d_model * kF32, f);
    }
    if (layer.attention == AttentionKind::kFull) {
      b.k = Add(n, StatePart::kKv, "k", ctx * row, kv_type, a.n_kv_heads);
      b.v = Add(n, StatePart::kKv, "v", ctx * row, kv_type, a.n_kv_heads);
    } else if (layer.attention == AttentionKind::kSparse) {
      b.k = Add(n, StatePart::kKv, "k", a.window * row, kv_type);
      b.v = Add(n, StatePart::kKv, "v", a.window * row, kv_type);
      if (a.landmark_budget > 0) {
        b.pool_k = Add(n, StatePart::kKv, "pool_k", a.landmark_budget * row, kv_type);
        b.pool_v = Add(n, StatePart::kKv, "pool_v", a.landmark_budget * row, kv_type);
        b.ring_scores = Add(n, StatePart::kLandmarks, "ring_scores", a.window * kF32, f);
        b.pool_scores = Add(n, StatePart::kLandmarks, "pool_scores", a.landmark_budget * kF32, f);
        b.pool_pos = Add(n, StatePart::kLandmarks, "pool_pos", a.landmark_budget * kF32, i);
      }
    }
    if (layer.ffn == FfnKind::kChunkMoe) {
      b.moe_sum = Add(n, StatePart::kMoe, "moe_sum", config.d_model * kF32, f);
      b.moe_mean = Add(n, StatePart::kMoe, "moe_mean", config.d_model * kF32, f);
      b.moe_ids = Add(n, StatePart::kMoe, "moe_ids", experts * kF32, i);
      b.moe_weights = Add(n, StatePart::kMoe, "moe_weights", experts * kF32, f);
    }
    if (layer.workspace) {
      b.ws_M = Add(n, StatePart::kWorkspace, "workspace_M", w.n_slots * w.rank * kF32, f);
      b.ws_acc = Add(n, StatePart::kWorkspace, "workspace_acc", w.n_slots * w.rank * kF32, f);
      b.ws_sum = Add(n, StatePart::kWorkspace, "workspace_sum", w.n_slots * kF32, f);
      b.ws_max = Add(n, StatePart::kWorkspace, "workspace_max", w.n_slots * kF32, f);
    }
  }
}

}  // namespace hydra
