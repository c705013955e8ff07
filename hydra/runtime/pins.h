// SPDX-License-Identifier: Apache-2.0
// Landmarks that a user pins by their text. Not here: what a pin does (part_sparse_attention.cc).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hydra/model/controls.h"
#include "hydra/text/tokenizer.h"

namespace hydra {

// Positions of the tokens that spell `text`, at each place where it stands in `ids`, the first of which has position
// `first`; ascending.
[[nodiscard]] std::vector<int64_t> PositionsOf(std::string_view text, std::span<const int32_t> ids, int64_t first,
                                               const Tokenizer& tokenizer);

// The same controls with more pins.
[[nodiscard]] Controls WithPins(Controls controls, std::span<const int64_t> positions);

}  // namespace hydra
