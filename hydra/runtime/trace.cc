// SPDX-License-Identifier: Apache-2.0
// Sorting of what a trace keeps.
#include "hydra/runtime/trace.h"

#include <algorithm>

namespace hydra {

std::vector<Weighted> Heaviest(std::vector<Weighted> all, size_t most) {
  const auto before = [](const Weighted& a, const Weighted& b) {
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
  };
  const auto end = all.begin() + static_cast<std::ptrdiff_t>(std::min(most, all.size()));
  std::partial_sort(all.begin(), end, all.end(), before);
  all.erase(end, all.end());
  return all;
}

}  // namespace hydra
