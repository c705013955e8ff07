// SPDX-License-Identifier: Apache-2.0
// The copies that loading a model makes, known without making them. Beside weights.cc, which makes them.
#include <algorithm>

#include "hydra/runtime/weights.h"

namespace hydra {

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
