// SPDX-License-Identifier: Apache-2.0
// Types of stored weights, GGUF's quantised blocks among them: sizes, and the slow, bit-exact readings and writings
// of one row. Not here: plain element types (dtype.h), fast products (hydra/kernels/matmul.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "hydra/tensor/dtype.h"

namespace hydra {

enum class WeightType { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K };

struct WeightTypeInfo {
  WeightType type;
  const char* name;  // "F32", "Q4_K", as GGUF's tools print it
  int64_t block;     // weights of one block: 1, 32 or 256; a row is whole blocks
  int64_t block_bytes;
  uint32_t ggml_id;  // in GGUF files
};

[[nodiscard]] const WeightTypeInfo& Info(WeightType type);
[[nodiscard]] std::span<const WeightTypeInfo> AllWeightTypes();
[[nodiscard]] inline bool IsQuantised(WeightType type) { return Info(type).block > 1; }
[[nodiscard]] std::optional<WeightType> WeightTypeOfGgml(uint32_t ggml_id);
// By name, in any case: "q8_0", "F32".
[[nodiscard]] std::optional<WeightType> ParseWeightType(std::string_view name);
// kF32, kF16, kBF16; nullopt for others.
[[nodiscard]] std::optional<WeightType> WeightTypeOf(DType dtype);

// Bytes of a row of n weights; n must be a multiple of the block.
[[nodiscard]] int64_t RowBytes(WeightType type, int64_t n);

// One row of n weights to f32: the very value that the format defines, computed in its order. Any alignment.
void DecodeRow(WeightType type, const void* row, int64_t n, float* out);
// f32 to one row, rounding and choosing scales as ggml's reference code does (without an importance matrix), so that
// files made here equal those of its tools. Throws kTensor when a value is not finite.
void EncodeRow(WeightType type, const float* values, int64_t n, void* row);

}  // namespace hydra
