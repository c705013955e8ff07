// SPDX-License-Identifier: Apache-2.0
// Products of slabs of W with many tokens by bf16 dot products: both factors are rounded to pairs of bf16, sums are
// f32. For AVX-512 with AVX512_BF16, by vectors or by tiles of AMX; other levels have none. Not here: f32
// (matmul_float.cc), the driver (matmul.cc).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "hydra/kernels/amx.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/matmul_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/matmul_bf16.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/matmul_store-inl.h"
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
namespace bf16 {
#define HYDRA_ATTR __attribute__((target(HWY_TARGET_STR ",avx512bf16")))
#include "hydra/kernels/simd_bf16-inl.h"

constexpr int kTokens = 12;  // two vectors each: 24 of 32 registers are sums

// As the f32 tile does it (matmul_float.cc), two columns at a time.
template <int TN>
HWY_NOINLINE void GemmTile(const GemmCall& c, int64_t t0) {
  __m512 sums[TN][2];
  float* kept = c.sums + (t0 - c.t0) * 2 * kPairLanes;
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<2>([&](auto v) HYDRA_LAMBDA {
      sums[t][v] = c.k0 == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(kept + (2 * t + v) * kPairLanes);
    });
  });
  const float* w = c.w;
  const float* x = c.x + t0 / c.stride * c.x_tile + t0 % c.stride + c.k0 / 2 * c.stride;
  for (int64_t k = c.k0; k < c.k1; k += 2, w += 2 * kPairLanes, x += c.stride) {
    const __m512i w0 = LoadPairs(w), w1 = LoadPairs(w + kPairLanes);
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      const __m512i pair = SetPair(x + t);
      sums[t][0] = AddPairs(sums[t][0], w0, pair);
      sums[t][1] = AddPairs(sums[t][1], w1, pair);
    });
  }
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<2>([&](auto v) HYDRA_LAMBDA {
      if (c.k1 < c.K) {
        _mm512_storeu_ps(kept + (2 * t + v) * kPairLanes, sums[t][v]);
      } else {
        StoreSums(c.out, t0 + t, c.n0 + v * kPairLanes, FloatVec{sums[t][v]});
      }
    });
  });
}

inline void Gemm(const GemmCall& c) {
  for (int64_t t = c.t0; t < c.t1;) {
    const int64_t left = std::min(c.t1, (t / c.stride + 1) * c.stride) - t;
    if (left >= kTokens) {
      GemmTile<kTokens>(c, t);
      t += kTokens;
    } else if (left >= 6) {
      GemmTile<6>(c, t);
      t += 6;
    } else if (left >= 3) {
      GemmTile<3>(c, t);
      t += 3;
    } else {
      GemmTile<1>(c, t);
      t += 1;
    }
  }
}

// ---- Tiles ----

constexpr int64_t kTileColumns = 2 * amx::kPairs;

// PackPairs with zeros up to whole tiles.
inline void PackTileSlab(float* x, int64_t n, int64_t width, int64_t pitch) {
  PackPairs(x, n, width, pitch);
  const int64_t rows = (n + 1) / 2, whole = (rows + amx::kPairs - 1) / amx::kPairs * amx::kPairs;
  for (int64_t j = rows; j < whole; ++j) std::fill_n(x + j * pitch, width, 0.0f);
}

// 32 numbers of a row of float weights from p on, the first `left` of them, as pairs; zeros behind.
HWY_INLINE __m512i RoundPairs(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}
HWY_INLINE __mmask32 HalvesMask(int64_t left) { return left >= 32 ? ~__mmask32{0} : (__mmask32{1} << left) - 1; }
struct BF16Pairs {
  static constexpr int64_t kBytes = 2;
  static HWY_INLINE __m512i Load(const std::byte* p, int64_t left) {
    return _mm512_maskz_loadu_epi16(HalvesMask(left), p);
  }
};
struct F16Pairs {
  static constexpr int64_t kBytes = 2;
  static HWY_INLINE __m512i Load(const std::byte* p, int64_t left) {
    const __m512i halves = _mm512_maskz_loadu_epi16(HalvesMask(left), p);
    return RoundPairs(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
                      _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
  }
};
struct F32Pairs {
  static constexpr int64_t kBytes = 4;
  static HWY_INLINE __m512i Load(const std::byte* p, int64_t left) {
    const auto* x = reinterpret_cast<const float*>(p);
    const __m512 high =
        left > kPairLanes ? _mm512_maskz_loadu_ps(MaskOf(left - kPairLanes), x + kPairLanes) : _mm512_setzero_ps();
    return RoundPairs(_mm512_maskz_loadu_ps(MaskOf(left), x), high);
  }
};

template <class W>
void PairSlabOf(const std::byte* w, int64_t rows, int64_t K, int64_t k0, int64_t k1, float* out) {
  for (int64_t r = 0; r < 2 * kPairLanes; r += amx::kRows)
    for (int64_t k = k0; k < k1; k += kTileColumns) {
      const std::byte* first = w + (r * K + k) * W::kBytes;
      Transpose16(
          [&](auto i) HYDRA_LAMBDA {
            return r + i < rows ? W::Load(first + i * K * W::kBytes, k1 - k) : _mm512_setzero_si512();
          },
          reinterpret_cast<std::byte*>(out + (k - k0) / 2 * 2 * kPairLanes + r), 2 * kPairLanes);
    }
}

inline void PairSlab(WeightType type, const std::byte* w, int64_t rows, int64_t K, int64_t k0, int64_t k1, float* out) {
  switch (type) {
    case WeightType::kF32: return PairSlabOf<F32Pairs>(w, rows, K, k0, k1, out);
    case WeightType::kF16: return PairSlabOf<F16Pairs>(w, rows, K, k0, k1, out);
    case WeightType::kBF16: return PairSlabOf<BF16Pairs>(w, rows, K, k0, k1, out);
    default: return;  // the driver sends no other
  }
}

// Rows of x to [K / 32][16 tokens][16 pairs]. Rows that are not there stay as they are: their sums are not kept.
inline void RowTile(const float* const* x, int64_t count, int64_t K, float* out) {
  for (int64_t t = 0; t < count; ++t)
    for (int64_t k = 0; k < K; k += kTileColumns) {
      const __m512 low = _mm512_maskz_loadu_ps(MaskOf(K - k), x[t] + k);
      __m512 high = _mm512_setzero_ps();
      if (k + kPairLanes < K) high = _mm512_maskz_loadu_ps(MaskOf(K - k - kPairLanes), x[t] + k + kPairLanes);
      const __m512bh row = _mm512_cvtne2ps_pbh(high, low);
      _mm512_storeu_si512(out + (k / kTileColumns * amx::kRows + t) * amx::kPairs, reinterpret_cast<__m512i>(row));
    }
}

// 16 M tokens times 2 L rows of W.
template <int M>
HWY_NOINLINE void TileGemm(const GemmCall& c, int64_t t0) {
  constexpr int64_t kPitch = 2 * kPairLanes * 4;  // bytes from token to token of the sums, and from pair to pair of W
  float* kept = c.sums + (t0 - c.t0) * 2 * kPairLanes;
  const auto sum = [&](auto i) HYDRA_LAMBDA { return kept + (i / 2 * amx::kRows * 2 + i % 2) * kPairLanes; };  // [M][2]
  Unroll<2 * M>([&](auto i) HYDRA_LAMBDA { c.k0 == 0 ? amx::Zero<i>() : amx::Load<i>(sum(i), kPitch); });
  const float* x = c.x + t0 / c.stride * c.x_tile;
  for (int64_t k = c.k0; k < c.k1; k += kTileColumns) {
    const float* w = c.w + (k - c.k0) / 2 * 2 * kPairLanes;
    amx::Load<6>(w, kPitch);
    amx::Load<7>(w + kPairLanes, kPitch);
    Unroll<M>([&](auto m) HYDRA_LAMBDA {
      amx::Load<4 + m>(x + m * c.x_tile + k / kTileColumns * amx::kRows * amx::kPairs, amx::kRowBytes);
      amx::AddPairs<2 * m, 4 + m, 6>();
      amx::AddPairs<2 * m + 1, 4 + m, 7>();
    });
  }
  Unroll<2 * M>([&](auto i) HYDRA_LAMBDA { amx::Store<i>(sum(i), kPitch); });
  if (c.k1 < c.K) return;
  const int64_t end = std::min<int64_t>(c.t1, t0 + M * amx::kRows);
  for (int64_t t = t0; t < end; ++t, kept += 2 * kPairLanes)
    for (int64_t v = 0; v < 2; ++v)
      StoreSums(c.out, t, c.n0 + v * kPairLanes, hn::LoadU(FloatTag(), kept + v * kPairLanes));
}

inline void TilesGemm(const GemmCall& c) {
  amx::Shapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.Set(tile, amx::kRows, amx::kRowBytes);
  amx::Configure(shapes);
  // Part by part, since one long burst would hold the queue of misses that tiles are loaded through.
  const int64_t tiles = std::max<int64_t>(1, (c.t1 - c.t0) / (2 * amx::kRows));
  const int64_t part = (c.later_bytes / tiles + 63) / 64 * 64;
  int64_t asked = 0, t = c.t0;
  const auto ask = [&]() HYDRA_LAMBDA {
    for (const int64_t end = std::min(c.later_bytes, asked + part); asked < end; asked += 64)
      __builtin_prefetch(c.later + asked, 0, 2);
  };
  for (; t + amx::kRows < c.t1; t += 2 * amx::kRows) ask(), TileGemm<2>(c, t);
  if (t < c.t1) TileGemm<1>(c, t);
  amx::Release();
}

#undef HYDRA_LAMBDA
#undef HYDRA_ATTR
}  // namespace bf16
HWY_POP_ATTRIBUTES
#endif

Bf16Kernels Bf16KernelsOf([[maybe_unused]] internal::Extension extension) {
#if HWY_TARGET == HWY_AVX3
  using internal::Extension;
  if (extension >= Extension::kAmx)
    return {bf16::PackTileSlab, bf16::PairSlab, bf16::TilesGemm, amx::kRows, bf16::RowTile};
  if (extension >= Extension::kBf16) return {bf16::PackPairs, nullptr, bf16::Gemm, bf16::kTokens, nullptr};
#endif
  return {};
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(Bf16KernelsOf);

Bf16Kernels GetBf16Kernels() {
  internal::EnsureTarget();
  return HWY_DYNAMIC_DISPATCH(Bf16KernelsOf)(internal::CurrentExtension());
}

}  // namespace hydra::kernels
#endif
