// SPDX-License-Identifier: Apache-2.0
// The table of weight types, and the readings of their rows. Formulas: the reference code of ggml, whose blocks these
// are; each product and sum is rounded to f32 in its order. Not here: writing rows (weight_encode.cc).
#include "hydra/tensor/weight_type.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <string>

#include "hydra/base/error.h"
#include "hydra/tensor/weight_block.h"

namespace hydra {
namespace {

constexpr std::array<WeightTypeInfo, 11> kInfos{{
    {WeightType::kF32, "F32", 1, 4, 0},
    {WeightType::kF16, "F16", 1, 2, 1},
    {WeightType::kBF16, "BF16", 1, 2, 30},
    {WeightType::kQ8_0, "Q8_0", 32, sizeof(BlockQ8_0), 8},
    {WeightType::kQ4_0, "Q4_0", 32, sizeof(BlockQ4_0), 2},
    {WeightType::kQ4_1, "Q4_1", 32, sizeof(BlockQ4_1), 3},
    {WeightType::kQ5_0, "Q5_0", 32, sizeof(BlockQ5_0), 6},
    {WeightType::kQ5_1, "Q5_1", 32, sizeof(BlockQ5_1), 7},
    {WeightType::kQ4_K, "Q4_K", 256, sizeof(BlockQ4_K), 12},
    {WeightType::kQ5_K, "Q5_K", 256, sizeof(BlockQ5_K), 13},
    {WeightType::kQ6_K, "Q6_K", 256, sizeof(BlockQ6_K), 14},
}};

// The low four bits of a block of 32 are its first half, the high four its second.
constexpr int kHalf = 16;

void Decode(const BlockQ8_0& b, float* out) {
  const float d = F16ToFloat(b.d);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(b.qs[i]) * d;
}

void Decode(const BlockQ4_0& b, float* out) {
  const float d = F16ToFloat(b.d);
  for (int i = 0; i < kHalf; ++i) {
    out[i] = static_cast<float>((b.qs[i] & 15) - 8) * d;
    out[i + kHalf] = static_cast<float>((b.qs[i] >> 4) - 8) * d;
  }
}

void Decode(const BlockQ4_1& b, float* out) {
  const float d = F16ToFloat(b.d), m = F16ToFloat(b.m);
  for (int i = 0; i < kHalf; ++i) {
    out[i] = static_cast<float>(b.qs[i] & 15) * d + m;
    out[i + kHalf] = static_cast<float>(b.qs[i] >> 4) * d + m;
  }
}

// The fifth bit of weight i is bit i of the word of high bits.
int HighBit(const uint8_t* qh, int i) { return qh[i / 8] >> (i % 8) & 1; }

void Decode(const BlockQ5_0& b, float* out) {
  const float d = F16ToFloat(b.d);
  for (int i = 0; i < kHalf; ++i) {
    out[i] = static_cast<float>(((b.qs[i] & 15) | HighBit(b.qh, i) << 4) - 16) * d;
    out[i + kHalf] = static_cast<float>((b.qs[i] >> 4 | HighBit(b.qh, i + kHalf) << 4) - 16) * d;
  }
}

void Decode(const BlockQ5_1& b, float* out) {
  const float d = F16ToFloat(b.d), m = F16ToFloat(b.m);
  for (int i = 0; i < kHalf; ++i) {
    out[i] = static_cast<float>((b.qs[i] & 15) | HighBit(b.qh, i) << 4) * d + m;
    out[i + kHalf] = static_cast<float>(b.qs[i] >> 4 | HighBit(b.qh, i + kHalf) << 4) * d + m;
  }
}

// 32 bytes hold 64 weights: their low four bits are one group of 32, the high four the next.
void Decode(const BlockQ4_K& b, float* out) {
  const float d = F16ToFloat(b.d), dmin = F16ToFloat(b.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = ScaleMinK4(b.scales, j);
    const float scale = d * static_cast<float>(s.scale), min = dmin * static_cast<float>(s.min);
    const uint8_t* qs = b.qs + j / 2 * 32;
    for (int i = 0; i < 32; ++i) out[32 * j + i] = scale * static_cast<float>(qs[i] >> 4 * (j % 2) & 15) - min;
  }
}

// As Q4_K; bit j of qh[i] is the fifth bit of weight i of group j.
void Decode(const BlockQ5_K& b, float* out) {
  const float d = F16ToFloat(b.d), dmin = F16ToFloat(b.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = ScaleMinK4(b.scales, j);
    const float scale = d * static_cast<float>(s.scale), min = dmin * static_cast<float>(s.min);
    const uint8_t* qs = b.qs + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int q = (qs[i] >> 4 * (j % 2) & 15) | (b.qh[i] >> j & 1) << 4;
      out[32 * j + i] = scale * static_cast<float>(q) - min;
    }
  }
}

// Each half of 128 weights: quarter k of 32 has its low bits in ql[32 (k % 2) ..] (high four where k >= 2), its two
// high bits in bits 2k, 2k + 1 of qh. A scale is for 16 weights.
void Decode(const BlockQ6_K& b, float* out) {
  const float d = F16ToFloat(b.d);
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < 32; ++i) {
        const int low = b.ql[64 * half + 32 * (k % 2) + i] >> 4 * (k / 2) & 15;
        const int q = (low | (b.qh[32 * half + i] >> 2 * k & 3) << 4) - 32;
        const int part = 8 * half + 2 * k + i / 16;
        const float scale = d * static_cast<float>(b.scales[part]);
        out[128 * half + 32 * k + i] = scale * static_cast<float>(q);
      }
}

template <class Block>
void DecodeBlocks(const void* row, int64_t n, int64_t per_block, float* out) {
  const auto* bytes = static_cast<const std::byte*>(row);
  for (int64_t i = 0; i < n; i += per_block, bytes += sizeof(Block), out += per_block) {
    Block block;
    std::memcpy(&block, bytes, sizeof(block));
    Decode(block, out);
  }
}

template <float (*convert)(uint16_t)>
void DecodeHalves(const void* row, int64_t n, float* out) {
  const auto* bytes = static_cast<const std::byte*>(row);
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, 2);
    out[i] = convert(bits);
  }
}

}  // namespace

const WeightTypeInfo& Info(WeightType type) { return kInfos[static_cast<size_t>(type)]; }

std::span<const WeightTypeInfo> AllWeightTypes() { return kInfos; }

std::optional<WeightType> WeightTypeOfGgml(uint32_t ggml_id) {
  for (const WeightTypeInfo& info : kInfos)
    if (info.ggml_id == ggml_id) return info.type;
  return std::nullopt;
}

std::optional<WeightType> ParseWeightType(std::string_view name) {
  const auto same = [](char a, char b) {
    return std::toupper(static_cast<unsigned char>(a)) == std::toupper(static_cast<unsigned char>(b));
  };
  for (const WeightTypeInfo& info : kInfos)
    if (std::ranges::equal(name, std::string_view(info.name), same)) return info.type;
  return std::nullopt;
}

std::optional<WeightType> WeightTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32: return WeightType::kF32;
    case DType::kF16: return WeightType::kF16;
    case DType::kBF16: return WeightType::kBF16;
    default: return std::nullopt;
  }
}

int64_t RowBytes(WeightType type, int64_t n) {
  const WeightTypeInfo& info = Info(type);
  HYDRA_CHECK(n >= 0 && n % info.block == 0, info.name, " row of ", n);
  return n / info.block * info.block_bytes;
}

void DecodeRow(WeightType type, const void* row, int64_t n, float* out) {
  HYDRA_CHECK(n >= 0 && n % Info(type).block == 0, Info(type).name, " row of ", n);
  switch (type) {
    case WeightType::kF32: std::memcpy(out, row, static_cast<size_t>(n) * sizeof(float)); return;
    case WeightType::kF16: return DecodeHalves<F16ToFloat>(row, n, out);
    case WeightType::kBF16: return DecodeHalves<BF16ToFloat>(row, n, out);
    case WeightType::kQ8_0: return DecodeBlocks<BlockQ8_0>(row, n, 32, out);
    case WeightType::kQ4_0: return DecodeBlocks<BlockQ4_0>(row, n, 32, out);
    case WeightType::kQ4_1: return DecodeBlocks<BlockQ4_1>(row, n, 32, out);
    case WeightType::kQ5_0: return DecodeBlocks<BlockQ5_0>(row, n, 32, out);
    case WeightType::kQ5_1: return DecodeBlocks<BlockQ5_1>(row, n, 32, out);
    case WeightType::kQ4_K: return DecodeBlocks<BlockQ4_K>(row, n, 256, out);
    case WeightType::kQ5_K: return DecodeBlocks<BlockQ5_K>(row, n, 256, out);
    case WeightType::kQ6_K: return DecodeBlocks<BlockQ6_K>(row, n, 256, out);
  }
}

}  // namespace hydra
