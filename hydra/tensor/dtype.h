// SPDX-License-Identifier: Apache-2.0
// Element types of tensors on disk and in memory, their names, sizes and conversions to float.
// Not here: quantised blocks (the runtime), file formats (safetensors.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hydra {

enum class DType { kF32, kF16, kBF16, kF64, kI64, kI32, kI16, kI8, kU8, kBool };

// Bytes of one element.
[[nodiscard]] int64_t DTypeSize(DType dtype);

// The name in safetensors headers: "F32", "BF16", ...
[[nodiscard]] const char* DTypeName(DType dtype);
// False when `name` is no such name.
[[nodiscard]] bool ParseDType(std::string_view name, DType* dtype);

// The torch_dtype spelling of config.json: "float32", "bfloat16", "float16", "float64".
[[nodiscard]] const char* TorchDTypeName(DType dtype);
[[nodiscard]] bool ParseTorchDType(std::string_view name, DType* dtype);

// A named, typed, contiguous array whose bytes somebody else owns.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t nbytes = 0;
};

// Product of the dimensions; 1 for a scalar.
[[nodiscard]] int64_t NumElements(const std::vector<int64_t>& shape);
// "[4, 12]", for messages.
[[nodiscard]] std::string ShapeText(const std::vector<int64_t>& shape);

// Exact widening; bf16 and f16 have no value that f32 lacks.
[[nodiscard]] float BF16ToFloat(uint16_t bits);
[[nodiscard]] float F16ToFloat(uint16_t bits);
// Round to nearest, ties to even; NaN stays NaN.
[[nodiscard]] uint16_t FloatToBF16(float value);
[[nodiscard]] uint16_t FloatToF16(float value);

}  // namespace hydra
