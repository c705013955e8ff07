// SPDX-License-Identifier: Apache-2.0
// The copies that loading a model makes, known without making them. Beside weights.cc, which makes them.
#include <algorithm>

#include "hydra/runtime/weights.h"

namespace hydra {

namespace {

// The two matrices of each expert; 0 where the down matrix cannot be cut, which loading refuses.
int64_t ExpertBytes(const ModelConfig& c, const TensorSpec& spec, WeightType type) {
  const int64_t D = c.d_model, F = c.moe.d_expert;
  if (spec.role == TensorRole::kBlockUp)
    return c.moe.n_experts * WholeLines(IsQuantised(type) ? kernels::PackedBytes(type, F, D) : F * RowBytes(type, D));
  if (F % Info(type).block != 0) return 0;
  return c.moe.n_experts *
         WholeLines(IsQuantised(type) ? kernels::PackedBytes(type, D, F) : kernels::NarrowBytes(type, D, F));
}

// The key maps of all heads; the value maps where those are packed.
int64_t LatentBytes(const ModelConfig& c, WeightType type) {
  const LatentConfig& l = c.attention.latent;
  const int64_t key = WholeLines(kernels::NarrowBytes(AbsorbedType(type), l.kv_rank, l.d_nope));
  return c.attention.n_heads * (key + kernels::PackedBytes(type, l.d_value, l.kv_rank));
}

}  // namespace

int64_t PackedCopyBytes(const WeightSource& source) {
  using R = TensorRole;
  const ModelConfig& c = source.config;
  const TensorTable table(c);
  int64_t sum = 0;
  for (const TensorSpec& spec : table.specs()) {
    int64_t parts = 1;  // matrices below one another
    switch (spec.role) {
      case R::kEmbedding:
        if (!c.tie_embeddings) continue;  // only looked up
        break;
      case R::kExpertGateUp:
      case R::kExpertDown: parts = c.moe.n_experts; break;
      case R::kPkmSubKeys: parts = 2 * c.pkm.n_heads; break;
      case R::kBlockUp:
      case R::kBlockDown: sum += ExpertBytes(c, spec, source.tensor(spec).type); continue;
      case R::kLatentKvUp: sum += LatentBytes(c, source.tensor(spec).type); continue;
      case R::kLatentQDown:
      case R::kLatentQUp:
      case R::kLatentKvDown:
      case R::kHead:
      case R::kSsmInProj:
      case R::kSsmOutProj:
      case R::kDiagonalParamProj:
      case R::kDiagonalSkipProj:
      case R::kAttnQ:
      case R::kAttnK:
      case R::kAttnV:
      case R::kAttnO:
      case R::kFfnGate:
      case R::kFfnUp:
      case R::kFfnDown:
      case R::kWsReadQ:
      case R::kWsWriteK:
      case R::kWsWriteV:
      case R::kWsReadV:
      case R::kWsOut:
      case R::kPkmQueryProj:
      case R::kPkmValueProj: break;
      default: continue;
    }
    const int64_t cols = spec.shape.back(), rows = spec.size() / cols / parts;
    sum += parts * kernels::PackedBytes(source.tensor(spec).type, rows, cols);
  }
  return sum;
}

}  // namespace hydra
