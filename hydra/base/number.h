// SPDX-License-Identifier: Apache-2.0
// Numbers that a user writes, in flags and in files of their own: one rule for all of them.
// Not here: numbers in JSON (io/json.h) and TOML, which their libraries read; CheckNumber is for those too.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hydra {

// Refuses what no computation can use: NaN, infinity, and what f32 turns into infinity or 0 although it is neither.
// Throws kUsage "WHERE = VALUE: RULE".
void CheckNumber(double value, const std::string& where);

// A decimal number, such as -1.5 or 2e-3: the whole text, no hexadecimal, no space. Then CheckNumber. Throws kUsage
// "WHERE = TEXT: must be a number".
[[nodiscard]] double ParseNumber(std::string_view text, const std::string& where);

// A whole decimal number from low to high. Throws kUsage "WHERE = TEXT: must be a whole number from LOW to HIGH".
[[nodiscard]] int64_t ParseWholeNumber(std::string_view text, int64_t low, int64_t high, const std::string& where);

}  // namespace hydra
