// SPDX-License-Identifier: Apache-2.0
// Scalar twins of the rows of keys and values (ops_kv.cc): number by number, as specs/interfaces.md has the dtypes. The
// two must agree to the bit. Not here: attention over such rows (ops_ref.cc).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "hydra/kernels/ops.h"
#include "hydra/tensor/dtype.h"

namespace hydra::kernels::ref {
namespace {

void PutHalf(std::byte* row, int64_t at, uint16_t bits) { std::memcpy(row + at, &bits, sizeof(bits)); }
uint16_t HalfAt(const std::byte* row, int64_t at) {
  uint16_t bits = 0;
  std::memcpy(&bits, row + at, sizeof(bits));
  return bits;
}

// Blocks of 32: d = amax / 127 as f16, q = x (127 / amax) in f32, to nearest even; zeros behind the row's end.
void StoreQ8(const float* x, int64_t n, std::byte* row) {
  for (int64_t i = 0; i < n; i += 32, row += 34) {
    const int64_t count = std::min<int64_t>(32, n - i);
    float amax = 0;
    for (int64_t j = 0; j < count; ++j) amax = std::max(amax, std::abs(x[i + j]));
    const float inverse = amax > 0 ? 127 / amax : 0;
    PutHalf(row, 0, FloatToF16(amax / 127));
    for (int64_t j = 0; j < 32; ++j)
      row[2 + j] = static_cast<std::byte>(j < count ? static_cast<int8_t>(std::nearbyint(x[i + j] * inverse)) : 0);
  }
}

}  // namespace

void StoreKvRow(KvDtype dtype, const float* x, int64_t n, void* row) {
  auto* bytes = static_cast<std::byte*>(row);
  if (dtype == KvDtype::kQ8_0) return StoreQ8(x, n, bytes);
  if (dtype == KvDtype::kF32) {
    std::memcpy(bytes, x, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < n; ++i) PutHalf(bytes, 2 * i, dtype == KvDtype::kBF16 ? FloatToBF16(x[i]) : FloatToF16(x[i]));
}

void LoadKvRow(KvDtype dtype, const void* row, int64_t n, float* x) {
  const auto* bytes = static_cast<const std::byte*>(row);
  for (int64_t i = 0; i < n; ++i) switch (dtype) {
      case KvDtype::kF32: std::memcpy(x + i, bytes + 4 * i, sizeof(float)); break;
      case KvDtype::kBF16: x[i] = BF16ToFloat(HalfAt(bytes, 2 * i)); break;
      case KvDtype::kF16: x[i] = F16ToFloat(HalfAt(bytes, 2 * i)); break;
      case KvDtype::kQ8_0: {
        const std::byte* block = bytes + i / 32 * 34;
        x[i] = F16ToFloat(HalfAt(block, 0)) * static_cast<float>(static_cast<int8_t>(block[2 + i % 32]));
        break;
      }
    }
}

}  // namespace hydra::kernels::ref
