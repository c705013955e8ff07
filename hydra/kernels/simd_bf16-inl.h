// SPDX-License-Identifier: Apache-2.0
// Dot products of bf16, which Highway 1.0.3 lacks: a lane adds the products of two pairs (VDPBF16PS). A pair is 32
// bits, the lower term in the lower half. Included in a namespace of the AVX-512 level (HWY_TARGET) that may use
// AVX512_BF16; HYDRA_ATTR is the attribute that lambdas need. No include guard: it is meant to be included more than
// once, inside of a namespace, after simd.h.

#define HYDRA_LAMBDA HYDRA_ATTR __attribute__((always_inline))

// f(0), ..., f(N - 1) with constants, so that arrays of vectors become registers.
template <class F, int... I>
HWY_INLINE void UnrollSequence(F&& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
HWY_INLINE void Unroll(F&& f) {
  UnrollSequence(f, std::make_integer_sequence<int, N>{});
}

constexpr int64_t kPairLanes = 16;  // pairs of a vector

// sum += a's lower x b's lower + a's upper x b's upper, in each lane.
HWY_INLINE __m512 AddPairs(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
HWY_INLINE __m512i LoadPairs(const void* p) { return _mm512_loadu_si512(p); }
// One pair in all lanes.
HWY_INLINE __m512i SetPair(const void* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof(pair));
  return _mm512_set1_epi32(pair);
}

// 16 floats to nearest even.
HWY_INLINE __m256i ToBf16(__m512 x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }
HWY_INLINE __mmask16 MaskOf(int64_t left) {
  return left >= kPairLanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1U << left) - 1);
}

// Rows 2j and 2j + 1 of x become row j of pairs, in their place: x [n, width] with rows `pitch` numbers apart. The last
// row of an odd n has zeros beside.
inline void PackPairs(float* x, int64_t n, int64_t width, int64_t pitch) {
  for (int64_t j = 0; 2 * j < n; ++j)
    for (int64_t i = 0; i < width; i += kPairLanes) {
      const __mmask16 mask = MaskOf(width - i);
      const float* low = x + 2 * j * pitch + i;
      const __m512i a = _mm512_cvtepu16_epi32(ToBf16(_mm512_maskz_loadu_ps(mask, low)));
      __m512i b = _mm512_setzero_si512();
      if (2 * j + 1 < n) b = _mm512_cvtepu16_epi32(ToBf16(_mm512_maskz_loadu_ps(mask, low + pitch)));
      _mm512_mask_storeu_epi32(x + j * pitch + i, mask, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
    }
}

// The numbers of each row become pairs of neighbours, in the row's own place: x [n, width], width a multiple of 16.
inline void PackRows(float* x, int64_t n, int64_t width, int64_t pitch) {
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < width; i += kPairLanes) {
      const __m256i packed = ToBf16(_mm512_loadu_ps(x + j * pitch + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<std::byte*>(x + j * pitch) + 2 * i), packed);
    }
}

// 16 rows of 16 pairs, row(i), become the columns of what is stored, in rows out_row pairs apart.
template <class Row>
HWY_INLINE void Transpose16(Row&& row, std::byte* out, int64_t out_row) {
  __m512i r[16], t[16];
  Unroll<16>([&](auto i) HYDRA_LAMBDA { r[i] = row(i); });
  Unroll<8>([&](auto i) HYDRA_LAMBDA {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  });
  // Then lane L of r[4 i + j] holds column 4 L + j of the rows 4 i .. 4 i + 3.
  Unroll<8>([&](auto h) HYDRA_LAMBDA {
    constexpr int i = h / 2, s = h % 2;
    r[4 * i + 2 * s] = _mm512_unpacklo_epi64(t[4 * i + s], t[4 * i + 2 + s]);
    r[4 * i + 2 * s + 1] = _mm512_unpackhi_epi64(t[4 * i + s], t[4 * i + 2 + s]);
  });
  Unroll<4>([&](auto j) HYDRA_LAMBDA {
    t[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xDD);
    t[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xDD);
  });
  Unroll<4>([&](auto j) HYDRA_LAMBDA {
    _mm512_storeu_si512(out + 4 * j * out_row, _mm512_shuffle_i32x4(t[j], t[4 + j], 0x88));
    _mm512_storeu_si512(out + 4 * (4 + j) * out_row, _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x88));
    _mm512_storeu_si512(out + 4 * (8 + j) * out_row, _mm512_shuffle_i32x4(t[j], t[4 + j], 0xDD));
    _mm512_storeu_si512(out + 4 * (12 + j) * out_row, _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xDD));
  });
}
