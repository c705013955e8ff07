// SPDX-License-Identifier: Apache-2.0
// Words and numbers that are planted into texts to be found again; those of one split are in no other (items.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/data/items.h"

namespace hydra {

// Common English words of one to three syllables, in a fixed order.
[[nodiscard]] std::vector<std::string> PlantedWords(ItemSplit split);
// A number of five digits.
[[nodiscard]] int64_t PlantedNumber(ItemSplit split, Rng& rng);

}  // namespace hydra
