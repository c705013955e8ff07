// SPDX-License-Identifier: Apache-2.0
// Products of pairs of bf16 by tiles of AMX, for attention. Included by ops_attention.cc after PairGemm, in its
// namespace of bf16 kernels. Not here: the instructions (amx.h), products with weights (matmul_bf16.cc). No include
// guard: it is meant to be included once for each HWY_TARGET with dot products of bf16. Dims: as PairGemmArgs.

// Up to 16 rows of c from m on times V tiles of columns from n on, over the pairs k0 .. k1 - 1 in steps of `step`.
template <int V>
HWY_NOINLINE void TileColumns(const PairGemmArgs& g, int64_t m, int64_t n, int64_t k0, int64_t k1, int64_t step,
                              bool first) {
  float* c = g.c + m * g.c_row + n;
  Unroll<V>([&](auto v) HYDRA_LAMBDA { first ? amx::Zero<v>() : amx::Load<v>(c + v * kPairLanes, 4 * g.c_row); });
  for (int64_t k = k0; k < k1; k += step) {
    amx::Load<4>(g.a + 4 * (m * g.a_row + k), 4 * g.a_row);
    Unroll<V>([&](auto v) HYDRA_LAMBDA {
      amx::Load<5 + v % 3>(g.b + 4 * (k * g.b_row + n + v * kPairLanes), 4 * g.b_row);
      amx::AddPairs<v, 4, 5 + v % 3>();
    });
  }
  Unroll<V>([&](auto v) HYDRA_LAMBDA { amx::Store<v>(c + v * kPairLanes, 4 * g.c_row); });
}

// Tiles of `rows` rows of a and c, and of `pairs` pairs.
inline void ConfigureTiles(int rows, int pairs) {
  amx::Shapes shapes;
  for (int c = 0; c < 4; ++c) shapes.Set(c, rows, amx::kRowBytes);
  shapes.Set(4, rows, 4 * pairs);
  for (int b = 5; b < 8; ++b) shapes.Set(b, pairs, amx::kRowBytes);
  amx::Configure(shapes);
}

// PairGemm where a_k is 1.
inline void TileGemm(const PairGemmArgs& g) {
  if (g.beta != nullptr)
    for (int64_t m = 0; m < g.M; ++m)
      for (int64_t n = 0; n < g.N; n += kPairLanes) {
        float* c = g.c + m * g.c_row + n;
        _mm512_storeu_ps(c, _mm512_mul_ps(_mm512_set1_ps(g.beta[m]), _mm512_loadu_ps(c)));
      }
  int64_t rows = 0, step = 0;  // of the configuration
  for (int64_t k0 = 0, k1; k0 < g.K; k0 = k1) {
    const int64_t pairs = std::min(amx::kPairs, g.K - k0);
    k1 = k0 + (g.K - k0) / pairs * pairs;
    const bool first = g.beta == nullptr && k0 == 0;
    for (int64_t m = 0; m < g.M; m += amx::kRows) {
      const int64_t left = std::min<int64_t>(amx::kRows, g.M - m);
      if (left != rows || pairs != step) {
        rows = left, step = pairs;
        ConfigureTiles(static_cast<int>(rows), static_cast<int>(step));
      }
      int64_t n = 0;
      for (; n + 4 * kPairLanes <= g.N; n += 4 * kPairLanes) TileColumns<4>(g, m, n, k0, k1, step, first);
      for (; n + 2 * kPairLanes <= g.N; n += 2 * kPairLanes) TileColumns<2>(g, m, n, k0, k1, step, first);
      if (n < g.N) TileColumns<1>(g, m, n, k0, k1, step, first);
    }
  }
  amx::Release();
}

// n rows of `width` pairs, a multiple of 16, to [width][n rounded up to 16]; what stands behind the n rows is read,
// too.
inline void TransposePairs(const std::byte* in, int64_t n, int64_t width, int64_t in_row, std::byte* out,
                           int64_t out_row) {
  for (int64_t j = 0; j < n; j += amx::kPairs)
    for (int64_t i = 0; i < width; i += amx::kPairs)
      Transpose16([&](auto row) HYDRA_LAMBDA { return LoadPairs(in + 4 * ((j + row) * in_row + i)); },
                  out + 4 * (i * out_row + j), out_row);
}
