// SPDX-License-Identifier: Apache-2.0
// The one list of what a provisional pass keeps, block by block.
#include "hydra/model/kept_layout.h"

#include "hydra/base/error.h"

namespace hydra {

KeptLayout::KeptLayout(const ModelConfig& config, const StateLayout& state, int64_t most)
    : blocks(config.layers.size()), tokens(most), chunks((most + config.chunk_len - 1) / config.chunk_len) {
  HYDRA_CHECK(most >= 1, "tokens ", most);
  constexpr int64_t kNumber = 4, kAlign = 64;
  const auto add = [&](int64_t n) {
    const int64_t offset = bytes;
    bytes += (n + kAlign - 1) / kAlign * kAlign;
    return offset;
  };
  const SsmConfig& s = config.ssm;
  const AttentionConfig& a = config.attention;
  const WorkspaceConfig& w = config.workspace;
  for (size_t n = 0; n < blocks.size(); ++n) {
    const LayerConfig& layer = config.layers[n];
    KeptOffsets& b = blocks[n];
    if (layer.ssm && s.kind == SsmKind::kMamba2) {
      b.conv = add(tokens * s.conv_dim() * kNumber);
      b.conv_state = add((s.d_conv - 1) * s.conv_dim() * kNumber);
      b.xbc = add(tokens * s.conv_dim() * kNumber);
      b.dt = add(tokens * s.n_heads * kNumber);
      b.y = add(s.d_inner() * kNumber);
    } else if (layer.ssm) {
      b.params = add(tokens * 4 * config.d_model * kNumber);
      b.ssm_state = add(config.d_model * kNumber);
      b.y = add(tokens * config.d_model * kNumber);
    }
    for (const KvCacheLayout& cache : state.blocks[n].caches) {
      const bool grows = cache.filling->grows();
      b.k.push_back(grows ? -1 : add(tokens * cache.k_stride));
      b.v.push_back(grows ? -1 : cache.value_in_key() ? b.k.back() : add(tokens * cache.v_stride));
    }
    if (const auto& pools = state.blocks[n].pools; !pools.empty()) {
      b.scores = add(tokens * kNumber);
      // Of each landmark that enters: score, position and all rows of its slot.
      int64_t slot = 2 * kNumber;
      for (const KvCacheLayout& pool : pools) slot += pool.k_stride + pool.v_stride;
      undo_bytes += chunks * (a.landmarks_per_chunk * slot + kNumber);
    }
    if (layer.ffn == FfnKind::kChunkMoe) {
      b.u = add(tokens * config.d_model * kNumber);
      b.moe = add(2 * (config.d_model + state.moe_k) * kNumber);
      b.route_ids = add(chunks * state.moe_k * kNumber);
      b.route_weights = add(chunks * state.moe_k * kNumber);
      b.route_counts = add(chunks * kNumber);
    }
    if (layer.workspace) {
      b.workspace = add(2 * w.n_slots * (w.rank + 1) * kNumber);
      b.write_logits = add(tokens * w.n_slots * kNumber);
      b.write_values = add(tokens * w.rank * kNumber);
      b.slots = add(chunks * w.n_slots * w.rank * kNumber);
    }
  }
}

}  // namespace hydra
