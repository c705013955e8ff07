// SPDX-License-Identifier: Apache-2.0
// The joint inside of products: what the driver (matmul.cc) asks of the kernels of one SIMD level, the panels that
// weights are packed in, and the blocks that activations are rounded to. Not a public header.
// Dims: N rows of W, K columns of W, T tokens, L lanes: 32-bit numbers of a vector = rows of a panel.
#pragma once

#include <cstdint>

#include "hydra/kernels/matmul.h"
#include "hydra/tensor/weight_type.h"

namespace hydra::kernels {

// ---- Panels of narrow float matrices ----

inline constexpr int64_t kNarrowRows =
    16;  // of a panel: [K][16], the same for every level; rows that W lacks are zeros

// ---- Panels of quantised weights ----

inline constexpr int64_t kBlock = 32;  // columns that share a scale of x

// A panel holds L rows of W as vectors of 4 L bytes, in the order in which a product reads them: one stream. A block of
// 32 columns has `vectors` vectors; four bytes of a lane are four consecutive columns of that lane's row:
//   8 bits: vector g has the columns 4g ..;
//   4, 5, 6 bits: vector v < 4 has the low four bits of the columns 4v .. (low nibble) and 16 + 4v .. (high nibble);
//   5 bits: bit g of each byte of vector 4 is the fifth bit of the columns 4g ..;
//   6 bits: bits 2f, 2f + 1 of vector 4 + h are the high bits of the columns 16h + 4f ..
// Before them stands a vector of scales: the scales of the lanes, then the minima of those types that have them (f16
// bits; one byte each in Q4_K and Q5_K; two scales of one byte, for 16 columns each, in Q6_K). Where a block's take
// half a vector, it serves two blocks. Before each 256 columns of a K type stands a vector with d of the lanes, and
// dmin (f16 bits). Rows that W lacks are zeros.
struct PanelLayout {
  int64_t lanes = 0;
  int64_t vectors = 0;      // of a block, without scales
  int64_t scale_bytes = 0;  // of a block and a lane: 4, or 2
  int64_t super_bytes = 0;  // of 256 columns and a lane; 0: no K type
  int64_t bytes = 0;        // of the whole panel, whole cache lines

  // Where a block's parts begin, in bytes from the panel's begin; super is of a K type alone.
  struct Block {
    int64_t quants, scales, super;
  };
  [[nodiscard]] constexpr Block At(int64_t b) const {
    const int64_t vector = 4 * lanes, sharing = 4 / scale_bytes, group = (1 + sharing * vectors) * vector;
    int64_t super = 0, begin = 0;
    if (super_bytes > 0) {
      constexpr int64_t kBlocks = 8;  // of 256 columns
      super = b / kBlocks * (vector + kBlocks / sharing * group);
      begin = super + vector;
      b %= kBlocks;
    }
    begin += b / sharing * group;
    const int64_t i = b % sharing;
    return {begin + vector + i * vectors * vector, begin + i * scale_bytes * lanes, super};
  }
};
// Of a type's panels, without the size of one.
[[nodiscard]] constexpr PanelLayout PanelShape(WeightType type, int64_t lanes) {
  const auto shape = [&](int64_t vectors, int64_t scale_bytes, int64_t super_bytes) {
    return PanelLayout{.lanes = lanes, .vectors = vectors, .scale_bytes = scale_bytes, .super_bytes = super_bytes};
  };
  switch (type) {
    case WeightType::kQ8_0: return shape(8, 2, 0);
    case WeightType::kQ4_0: return shape(4, 2, 0);
    case WeightType::kQ4_1: return shape(4, 4, 0);
    case WeightType::kQ5_0: return shape(5, 2, 0);
    case WeightType::kQ5_1: return shape(5, 4, 0);
    case WeightType::kQ4_K: return shape(4, 2, 4);
    case WeightType::kQ5_K: return shape(5, 2, 4);
    case WeightType::kQ6_K: return shape(6, 2, 2);
    default: return shape(0, 4, 0);
  }
}
[[nodiscard]] PanelLayout LayoutOf(WeightType type, int64_t K, int64_t lanes);
// Packs the rows 0 .. rows - 1 (at most `lanes`) into one panel; the other lanes are zero. Q8_0's bytes are XORed
// with `flip`.
void PackPanel(WeightType type, const std::byte* w, int64_t rows, int64_t K, int64_t lanes, uint8_t flip,
               std::byte* panel);

// ---- Activations ----

// 32 values of x: q scale. The sums serve weights with an offset or a minimum.
struct XBlock {
  int8_t q[32];
  float scale;          // largest |x| / 127; not finite where x is not
  float scaled_sum;     // scale * sum of q
  int32_t minus_sum;    // - sum of q
  int32_t minus_first;  // - sum of the first 16 of q
};
static_assert(sizeof(XBlock) == 48);

// Where a tile's sums go: MatMulArgs without W and x.
struct Output {
  float* y = nullptr;
  int64_t y_stride = 0;
  const int32_t* y_rows = nullptr;
  const float* row_scale = nullptr;
  const float* bias = nullptr;
  bool accumulate = false;
  int64_t N = 0;
};

// ---- Kernels of one level ----

// Prepared x lies in tiles of `stride` tokens (the last tile too): [tile][K / 32][stride] blocks or [tile][K][stride]
// floats. A call takes the tokens t0 .. t1 - 1 and the rows from n0 on; t0 is a multiple of the stride.
struct Int8Call {
  WeightType type;
  PanelLayout layout;
  const uint8_t* panel = nullptr;  // of row n0
  int64_t panels = 1;              // 1 or 2, one after the other; of one token kStreams too
  int64_t panel_step = 0;          // bytes from one panel to the next
  int64_t row_step = 0;            // rows of W, too
  int64_t blocks = 0;              // K / 32
  const XBlock* x = nullptr;       // of token 0
  int64_t stride = 1, t0 = 0, t1 = 0, n0 = 0;
  // At most kSmallBatch, all of one tile from t0 = 0 on, so W comes from memory: one panel after the other, each
  // read once.
  bool few = false;
  int64_t ahead = 0;  // of few tokens: Tuning::ahead
  Output out;
};

// A slab of W, [k1 - k0][2 L] f32, times tokens: sums pass from slab to slab through `sums`. Of bf16: the slab is
// [(k1 - k0) / 2][2 L] pairs, and so are the first halves of the tiles of x, [K / 2][stride]; with AMX tiles of x are
// [K / 32][16 tokens][16 pairs], and both have zeros behind K.
struct GemmCall {
  const float* w = nullptr;
  const float* x = nullptr;  // of token 0 and column 0
  int64_t K = 0, k0 = 0, k1 = 0;
  int64_t x_tile = 0;  // floats from one tile of x to the next
  int64_t stride = 1, t0 = 0, t1 = 0, n0 = 0;
  float* sums = nullptr;             // [t1 - t0, 2 L], a tile of tokens more; read where k0 > 0, written where k1 < K
  const std::byte* later = nullptr;  // what the next slab is made of, asked for meanwhile with AMX
  int64_t later_bytes = 0;
  Output out;
};

// Rows of float weights, or narrow panels, times few tokens: the rows n0 .. n1 - 1, and where there is a row_step, of
// one token, those of kStreams places so many rows apart, side by side.
struct DotCall {
  WeightType type;
  const std::byte* w = nullptr;  // row 0, or panel 0
  int64_t K = 0, n0 = 0, n1 = 0, row_step = 0;
  const float* x = nullptr;
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;
  int64_t T = 0;
  int64_t ahead = 0;  // Tuning::ahead
  Output out;
};

struct LevelKernels {
  int64_t lanes;        // L
  int64_t int8_tokens;  // of a tile
  int64_t f32_tokens;
  uint8_t q8_flip;  // 0x80 where the panels of this level hold Q8_0 as unsigned bytes
  // One row of x to blocks, `stride` apart.
  void (*round)(const float* x, int64_t K, XBlock* out, int64_t stride);
  // `count` rows of x to a tile, [K][stride].
  void (*interleave)(const float* const* x, int64_t count, int64_t K, float* out, int64_t stride);
  void (*int8)(const Int8Call& call);
  // The columns k0 .. k1 - 1 (multiples of 256, or K) of a panel as f32, [k1 - k0][L] with `out_stride` from k to k.
  void (*decode)(WeightType type, const uint8_t* panel, int64_t k0, int64_t k1, float* out, int64_t out_stride);
  // The same of `rows` rows of float weights of K columns; lanes without a row are zeros. [k1 - k0][lanes2]
  void (*transpose)(WeightType type, const std::byte* w, int64_t rows, int64_t K, int64_t k0, int64_t k1, float* out,
                    int64_t lanes2);
  void (*gemm)(const GemmCall& call);
  void (*dot)(const DotCall& call);
  // These are null where the level has no dot products of bf16. Rows 2j and 2j + 1 of x [n, width], `pitch` floats
  // apart, become row j of pairs of bf16 in their place; an odd last row has zeros beside.
  void (*pairs)(float* x, int64_t n, int64_t width, int64_t pitch);
  // With AMX: what `transpose` and `pairs` make of `rows` rows from w on, at once: [(k1 - k0) / 2 up to whole tiles][2
  // L] pairs. Else null.
  void (*pair_slab)(WeightType type, const std::byte* w, int64_t rows, int64_t K, int64_t k0, int64_t k1, float* out);
  void (*gemm_pairs)(const GemmCall& call);
  int64_t pair_tokens;  // of a tile
  // With AMX: `count` rows of x to a tile of pairs. Else null: `interleave` and `pairs` make one.
  void (*pair_tile)(const float* const* x, int64_t count, int64_t K, float* out);
  void (*narrow)(const DotCall& call);
  // The columns k0 .. k1 - 1 of the rows n .. n + 2 L - 1 of narrow panels, [k1 - k0][2 L]; zeros from row N on.
  void (*narrow_slab)(WeightType type, const std::byte* w, int64_t N, int64_t K, int64_t n, int64_t k0, int64_t k1,
                      float* out);
  void (*scaled_silu)(float* y, int64_t n, float scale);  // y = scale silu(y), [n]
};
// Of the level in use.
[[nodiscard]] LevelKernels Kernels();

// The parts of it by unit.
struct Int8Kernels {
  int64_t tokens;
  uint8_t q8_flip;
  decltype(LevelKernels::int8) int8;
  decltype(LevelKernels::decode) decode;
};
struct FloatKernels {
  int64_t lanes, tokens;
  decltype(LevelKernels::round) round;
  decltype(LevelKernels::interleave) interleave;
  decltype(LevelKernels::transpose) transpose;
  decltype(LevelKernels::gemm) gemm;
  decltype(LevelKernels::dot) dot;
};
struct NarrowKernels {
  decltype(LevelKernels::narrow) narrow;
  decltype(LevelKernels::narrow_slab) narrow_slab;
  decltype(LevelKernels::scaled_silu) scaled_silu;
};
[[nodiscard]] Int8Kernels GetInt8Kernels();
struct Bf16Kernels {
  decltype(LevelKernels::pairs) pairs;
  decltype(LevelKernels::pair_slab) pair_slab;
  decltype(LevelKernels::gemm_pairs) gemm;
  int64_t tokens;
  decltype(LevelKernels::pair_tile) tile;
};
[[nodiscard]] FloatKernels GetFloatKernels();
[[nodiscard]] Bf16Kernels GetBf16Kernels();
[[nodiscard]] NarrowKernels GetNarrowKernels();

// Whether a row of x that goes as one of many, not as a step, is multiplied in pairs of bf16 at the level in use.
[[nodiscard]] bool GoesInPairs(WeightType type, ActType act);

// The rounding of x to XBlock, as every level does it: scale = amax (1 / 127) in f32, q = x (127 / amax) to nearest
// even. A block whose amax is below this is all zeros.
inline constexpr float kTinyBlock = 1e-30f;

}  // namespace hydra::kernels
