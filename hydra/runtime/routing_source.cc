// SPDX-License-Identifier: Apache-2.0
// Planted traces.
#include "hydra/runtime/routing_source.h"

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"

namespace hydra {

MarkovRouting::MarkovRouting(int64_t layers, int64_t experts, int64_t positions, const Options& o)
    : words_((experts + 31) / 32), positions_(positions), bits_(static_cast<size_t>(layers * positions * words_)) {
  if (!(o.a > 0 && o.a <= 1))
    throw Error(ErrorCode::kUsage, StrCat("planted activity ", o.a, ": must be above 0, at most 1"));
  if (!(o.r >= 0 && o.r <= 1) || (o.a < 1 && o.a * (1 - o.r) > 1 - o.a))
    throw Error(ErrorCode::kUsage, StrCat("planted reuse ", o.r, ": must be ", std::max(0.0, 2 - 1 / o.a),
                                          " to 1 where a share of ", o.a, " is active"));
  const double begins = o.a < 1 ? o.a * (1 - o.r) / (1 - o.a) : 1;  // of an expert that was not active
  for (int64_t layer = 0; layer < layers; ++layer) {
    Rng rng(o.seed, static_cast<uint64_t>(layer));
    uint32_t* row = bits_.data() + layer * positions * words_;
    for (int64_t p = 0; p < positions; ++p, row += words_)
      for (int64_t e = 0; e < experts; ++e) {
        const bool was = p > 0 && (row[e / 32 - words_] >> (e % 32) & 1) != 0;
        const double active = o.a == 1 ? 1 : p == 0 ? o.a : was ? o.r : begins;
        row[e / 32] |= static_cast<uint32_t>(rng.Uniform() < active) << (e % 32);
      }
  }
}

void MarkovRouting::Experts(int layer, int64_t position, std::span<uint32_t> bits) const {
  HYDRA_CHECK(position < positions_ && static_cast<int64_t>(bits.size()) == words_, "position ", position);
  std::copy_n(bits_.data() + (layer * positions_ + position) * words_, words_, bits.data());
}

}  // namespace hydra
