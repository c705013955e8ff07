// SPDX-License-Identifier: Apache-2.0
// Tables of element types and the bit-level float conversions.
#include "hydra/tensor/dtype.h"

#include <bit>
#include <cmath>

#include "hydra/base/error.h"

namespace hydra {
namespace {

struct DTypeRow {
  DType dtype;
  int64_t size;
  const char* name;
  const char* torch_name;
};

constexpr DTypeRow kDTypes[] = {
    {DType::kF32, 4, "F32", "float32"}, {DType::kF16, 2, "F16", "float16"}, {DType::kBF16, 2, "BF16", "bfloat16"},
    {DType::kF64, 8, "F64", "float64"}, {DType::kI64, 8, "I64", "int64"},   {DType::kI32, 4, "I32", "int32"},
    {DType::kI16, 2, "I16", "int16"},   {DType::kI8, 1, "I8", "int8"},      {DType::kU8, 1, "U8", "uint8"},
    {DType::kBool, 1, "BOOL", "bool"},
};

const DTypeRow& Row(DType dtype) {
  for (const DTypeRow& row : kDTypes)
    if (row.dtype == dtype) return row;
  throw std::logic_error("unknown dtype");
}

}  // namespace

int64_t DTypeSize(DType dtype) { return Row(dtype).size; }
const char* DTypeName(DType dtype) { return Row(dtype).name; }
const char* TorchDTypeName(DType dtype) { return Row(dtype).torch_name; }

bool ParseDType(std::string_view name, DType* dtype) {
  for (const DTypeRow& row : kDTypes)
    if (name == row.name) return *dtype = row.dtype, true;
  return false;
}

bool ParseTorchDType(std::string_view name, DType* dtype) {
  for (const DTypeRow& row : kDTypes)
    if (name == row.torch_name) return *dtype = row.dtype, true;
  return false;
}

int64_t NumElements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

float BF16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);  // keep it a quiet NaN
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);  // zero or subnormal
  return sign ? -magnitude : magnitude;
}

uint16_t FloatToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;                      // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00;                     // rounds to 65536 or above: infinity
  if (magnitude < 0x38800000) {                                          // below 2^-14: subnormal, unit 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 16777216.0f;  // exact
    return sign | static_cast<uint16_t>(std::nearbyint(scaled));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

}  // namespace hydra
