// SPDX-License-Identifier: Apache-2.0
// Element types of what a sequence carries from token to token: keys and values, recurrent state.
// Not here: types of tensors in files (dtype.h), of stored weights (weight_type.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hydra {

// Element type of cached keys and values; q8_0 is blocks of 32 int8 with one f16 scale.
enum class KvDtype { kF32, kBF16, kF16, kQ8_0 };
[[nodiscard]] const char* KvDtypeName(KvDtype dtype);  // "f32", "bf16", "f16", "q8_0"
[[nodiscard]] KvDtype ParseKvDtype(std::string_view name, const std::string& where);
// Bytes of one cached row of `n` numbers (a head's key or value).
[[nodiscard]] int64_t KvRowBytes(KvDtype dtype, int64_t n);

// Element type of Mamba-2's recurrent state; the diagonal recurrence, a row of numbers, is f32 always.
enum class StateDtype { kF32, kBF16 };
[[nodiscard]] const char* StateDtypeName(StateDtype dtype);  // "f32", "bf16"
[[nodiscard]] StateDtype ParseStateDtype(std::string_view name, const std::string& where);

}  // namespace hydra
