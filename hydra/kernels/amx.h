// SPDX-License-Identifier: Apache-2.0
// Tiles of AMX: eight registers of up to 16 rows of 64 bytes, as instructions of the assembler, so that no compiler's
// intrinsics are needed (GCC 12's tell of 8 of the 64 bytes that a configuration has). Not here: what is multiplied
// (matmul_amx-inl.h), whether the processor and the system allow it (target.cc).
// Dims: M rows of A and C, K rows of B.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

namespace hydra::kernels::amx {

inline constexpr int kRows = 16, kRowBytes = 64;  // of a tile, at most
inline constexpr int64_t kPairs = kRowBytes / 4;  // of bf16 in a row of A, and rows of B that they meet

// Shapes of the tile registers of the calling thread. The processor's own layout.
struct alignas(64) Shapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void Set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(Shapes) == 64);

inline void Configure(const Shapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
// Without it the thread would carry eight kilobytes through each switch to another.
inline void Release() { asm volatile("tilerelease" : : : "memory"); }

template <int kTile>
inline void Zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows `stride` bytes apart.
template <int kTile>
inline void Load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void Store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
// C [M, 16] += A [M, 4 K] B [K, 16, 4]: signed bytes in sums of 32 bits.
template <int kC, int kA, int kB>
inline void AddBytes() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

// The same of pairs of bf16, A [M, 2 K] and B [K, 16, 2], in sums of f32.
template <int kC, int kA, int kB>
inline void AddPairs() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

}  // namespace hydra::kernels::amx

#endif
