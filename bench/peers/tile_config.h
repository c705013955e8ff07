// SPDX-License-Identifier: Apache-2.0
// Put before every unit of llama.cpp (ggml.sh): its AMX kernels, as GCC 12 compiles them, end with an illegal
// instruction. That compiler's _tile_loadconfig says that it reads the first 8 bytes of the 64, so the stores of the
// others are left out. Here it reads all.
#pragma once

#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14
#include <immintrin.h>

static inline void LoadWholeTileConfig(const void* config) {
  __asm__ volatile("ldtilecfg\t%0" : : "m"(*static_cast<const char(*)[64]>(config)));
}
#define _tile_loadconfig LoadWholeTileConfig
#endif
