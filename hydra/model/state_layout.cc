// SPDX-License-Identifier: Apache-2.0
// The one list of a state's buffers, block by block.
#include "hydra/model/state_layout.h"

#include <algorithm>

#include "hydra/base/error.h"

namespace hydra {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kF32 = 4;

}  // namespace

int64_t StateBuffer::growing_bytes() const {
  int64_t sum = 0;
  for (const Head& head : heads) sum += head.filling->grows() ? head.bytes : 0;
  return sum;
}

int64_t StateBuffer::bounded_bytes() const {
  int64_t sum = 0;
  for (const Head& head : heads) sum += head.filling->MostTokens(0) != INT64_MAX ? head.bytes : 0;
  return sum;
}

int64_t StateBuffer::UsedBytes(int64_t pos) const {
  int64_t sum = 0;
  ForUsed(pos, [&](int64_t, int64_t n) { sum += n; });
  return sum;
}

int64_t StateLayout::Add(int block, StatePart part, const char* name, int64_t n, DType dtype,
                         std::vector<StateBuffer::Head> heads) {
  const int64_t offset = bytes;
  const StateBuffer& buffer =
      buffers[static_cast<size_t>(block)].emplace_back(StateBuffer{name, offset, n, dtype, part, std::move(heads)});
  bytes += (n + kAlign - 1) / kAlign * kAlign;
  constant_bytes += n - buffer.growing_bytes();
  return offset;
}

std::vector<KvCacheLayout> StateLayout::AddCaches(int block, const char* k_name, const char* v_name, int64_t head_dim,
                                                  std::span<const std::shared_ptr<const KvFilling>> fillings) {
  const int64_t stride = KvRowBytes(kv, head_dim);
  int64_t n = 0;
  std::vector<StateBuffer::Head> heads;
  for (const auto& filling : fillings) {
    heads.push_back({filling, filling->Rows(ctx_size) * stride, stride});
    most_tokens = std::min(most_tokens, filling->MostTokens(ctx_size));
    n += heads.back().bytes;
  }
  const DType type = kv == KvDtype::kF32    ? DType::kF32
                     : kv == KvDtype::kF16  ? DType::kF16
                     : kv == KvDtype::kBF16 ? DType::kBF16
                                            : DType::kU8;
  int64_t k = Add(block, StatePart::kKv, k_name, n, type, heads),
          v = v_name == nullptr ? k : Add(block, StatePart::kKv, v_name, n, type, heads);
  std::vector<KvCacheLayout> caches;
  for (const StateBuffer::Head& head : heads) {
    caches.push_back({head.filling, k, v, stride, stride});
    k += head.bytes, v += head.bytes;
  }
  return caches;
}

namespace {

// What a head of a layer keeps: the plan's filling, or what the config says.
std::vector<std::shared_ptr<const KvFilling>> FillingsOf(const ModelConfig& config, int layer, const KvPlan& plan) {
  const AttentionConfig& a = config.attention;
  const AttentionKind kind = config.layers[static_cast<size_t>(layer)].attention;
  const bool latent = kind == AttentionKind::kLatent, all = latent || kind == AttentionKind::kFull;
  const std::shared_ptr<const KvFilling> own = all ? KeepAll() : KeepRing(a.window);
  std::vector<std::shared_ptr<const KvFilling>> fillings;
  for (int64_t h = 0; h < (latent ? 1 : a.n_kv_heads); ++h) {
    auto planned = plan ? plan(layer, h) : nullptr;
    if (planned && !all && a.landmark_budget > 0 && (planned->window() < config.chunk_len || planned->sinks() > 0))
      throw Error(ErrorCode::kUsage, StrCat("plan: layers.", layer, ", KV head ", h, ": ", planned->Describe(),
                                            ": a layer with landmarks ", "needs a window of at least ",
                                            config.chunk_len, " and no sinks"));
    fillings.push_back(planned ? std::move(planned) : own);
  }
  return fillings;
}

}  // namespace

StateLayout::StateLayout(const ModelConfig& config, KvDtype kv_dtype, StateDtype state_dtype, int64_t ctx,
                         int64_t experts, const KvPlan& plan)
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
    if (layer.attention == AttentionKind::kLatent)
      b.caches = AddCaches(n, "latent", nullptr, a.latent.cache_width(), FillingsOf(config, n, plan));
    else if (layer.attention != AttentionKind::kNone)
      b.caches = AddCaches(n, "k", "v", a.head_dim, FillingsOf(config, n, plan));
    if (layer.attention == AttentionKind::kSparse && a.landmark_budget > 0) {
      const std::vector<std::shared_ptr<const KvFilling>> pools(static_cast<size_t>(a.n_kv_heads),
                                                                KeepPool(a.landmark_budget));
      b.pools = AddCaches(n, "pool_k", "pool_v", a.head_dim, pools);
      b.ring_scores = Add(n, StatePart::kLandmarks, "ring_scores", a.window * kF32, f);
      b.pool_scores = Add(n, StatePart::kLandmarks, "pool_scores", a.landmark_budget * kF32, f);
      b.pool_pos = Add(n, StatePart::kLandmarks, "pool_pos", a.landmark_budget * kF32, i);
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
