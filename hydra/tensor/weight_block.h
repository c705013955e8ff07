// SPDX-License-Identifier: Apache-2.0
// GGUF's quantised blocks as they lie in files. Not here: what reads and writes them (weight_type.h, kernels).
// d, m, dmin are f16 bits: scale, minimum, scale of the group minima.
#pragma once

#include <cstdint>

namespace hydra {

// 32 weights each.
struct BlockQ8_0 {  // q d
  uint16_t d;
  int8_t qs[32];
};
struct BlockQ4_0 {  // (q - 8) d
  uint16_t d;
  uint8_t qs[16];
};
struct BlockQ4_1 {  // q d + m
  uint16_t d, m;
  uint8_t qs[16];
};
struct BlockQ5_0 {  // (q - 16) d
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ5_1 {  // q d + m
  uint16_t d, m;
  uint8_t qh[4];
  uint8_t qs[16];
};

// 256 weights each: 8 groups of 32 with six-bit scales and minima, or (Q6_K) 16 groups of 16 with eight-bit scales.
struct BlockQ4_K {  // (d scale) q - dmin min
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
struct BlockQ5_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
struct BlockQ6_K {  // (d scale) (q - 32)
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20);
static_assert(sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

struct ScaleMin {
  int scale, min;
};

// The six-bit scale and minimum of group j: of groups 0 to 3 in the low bits of bytes 0 to 7; of groups 4 to 7 in
// bytes 8 to 11 (low nibble scale, high nibble minimum), their two high bits on top of those of groups 0 to 3.
[[nodiscard]] inline ScaleMin ScaleMinK4(const uint8_t* scales, int j) {
  if (j < 4) return {scales[j] & 63, scales[j + 4] & 63};
  return {(scales[j + 4] & 15) | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4};
}
inline void SetScaleMinK4(uint8_t* scales, int j, ScaleMin s) {
  if (j < 4) {
    scales[j] = static_cast<uint8_t>((scales[j] & 0xC0) | s.scale);
    scales[j + 4] = static_cast<uint8_t>((scales[j + 4] & 0xC0) | s.min);
  } else {
    scales[j + 4] = static_cast<uint8_t>((s.scale & 15) | (s.min & 15) << 4);
    scales[j - 4] = static_cast<uint8_t>((scales[j - 4] & 63) | s.scale >> 4 << 6);
    scales[j] = static_cast<uint8_t>((scales[j] & 63) | s.min >> 4 << 6);
  }
}

}  // namespace hydra
