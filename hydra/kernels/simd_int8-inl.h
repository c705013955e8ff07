// SPDX-License-Identifier: Apache-2.0
// Dot products of bytes, which Highway 1.0.3 lacks: VPDPBUSD, PMADDUBSW, or shifts. Included in a namespace of each
// SIMD level, and once more for AVX-512 with VNNI: HYDRA_VNNI says which, HYDRA_ATTR is the attribute that lambdas
// need. Not here: what is multiplied (matmul_int8-inl.h). No include guard: it is meant to be included more than once,
// inside of a namespace, after simd.h.

using I32Tag = hn::ScalableTag<int32_t>;
using I32Vec = hn::Vec<I32Tag>;
using U32Tag = hn::ScalableTag<uint32_t>;
using U32Vec = hn::Vec<U32Tag>;  // four bytes a lane

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

// ---- Dot products: sum += w0 x0 + w1 x1 + w2 x2 + w3 x3 in each lane, bytes w times signed bytes x, exact ----

// Where weights of 8 bits are unsigned (offset 128) in panels: VPDPBUSD takes them so.
constexpr uint8_t kQ8Flip = HYDRA_VNNI ? 0x80 : 0;

#if HYDRA_VNNI

template <int kBits>
struct DotSum {
  I32Vec sum;
  HWY_INLINE void Init(I32Vec start) { sum = start; }
  template <int kStep, int kSteps>
  HWY_INLINE void Add(U32Vec w, U32Vec x) {
    sum.raw = _mm512_dpbusd_epi32(sum.raw, w.raw, x.raw);
  }
  HWY_INLINE I32Vec Sum() const { return sum; }
};

#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2

// Pairs of products in 16 bits (PMADDUBSW), which saturate at 2^15: 2 * 127 * (2^bits - 1) leaves room for kDepth of
// them; then 32 bits. Weights of 8 bits are signed: |w| <= 128 times x with the sign of w is at most 2 * 128 * 127.
template <int kBits>
struct DotSum {
  static constexpr int kDepth = kBits == 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
  using I16Vec = hn::Vec<hn::Repartition<int16_t, I32Tag> >;
  I32Vec sum;
  I16Vec part;
  HWY_INLINE void Init(I32Vec start) { sum = start; }

  static HWY_INLINE I16Vec Pairs(U32Vec w, U32Vec x) {
#if HWY_TARGET == HWY_AVX3
    if constexpr (kBits == 8) {
      const auto signed_x = _mm512_mask_sub_epi8(x.raw, _mm512_movepi8_mask(w.raw), _mm512_setzero_si512(), x.raw);
      return I16Vec{_mm512_maddubs_epi16(_mm512_abs_epi8(w.raw), signed_x)};
    } else {
      return I16Vec{_mm512_maddubs_epi16(w.raw, x.raw)};
    }
#else
    if constexpr (kBits == 8) {
      return I16Vec{_mm256_maddubs_epi16(_mm256_abs_epi8(w.raw), _mm256_sign_epi8(x.raw, w.raw))};
    } else {
      return I16Vec{_mm256_maddubs_epi16(w.raw, x.raw)};
    }
#endif
  }
  static HWY_INLINE I32Vec Widen(I16Vec v) {
#if HWY_TARGET == HWY_AVX3
    return I32Vec{_mm512_madd_epi16(v.raw, _mm512_set1_epi16(1))};
#else
    return I32Vec{_mm256_madd_epi16(v.raw, _mm256_set1_epi16(1))};
#endif
  }
  // Step kStep of kSteps.
  template <int kStep, int kSteps>
  HWY_INLINE void Add(U32Vec w, U32Vec x) {
    if constexpr (kStep % kDepth == 0) {
      part = Pairs(w, x);
    } else {
      part = hn::Add(part, Pairs(w, x));
    }
    if constexpr (kStep % kDepth == kDepth - 1 || kStep == kSteps - 1) sum = hn::Add(sum, Widen(part));
  }
  HWY_INLINE I32Vec Sum() const { return sum; }
};

#else

// Any level: bytes are moved to the top of their lane and shifted down with their sign. w and x fit 16 bits, so does
// no product overflow.
template <int kBits>
struct DotSum {
  I32Vec sum;
  HWY_INLINE DotSum() {}  // one that the compiler writes has not NEON's target, which the vector's constructor needs
  HWY_INLINE void Init(I32Vec start) { sum = start; }
  template <int kShift, bool kSigned>
  static HWY_INLINE I32Vec Byte(U32Vec v) {
    const I32Tag d;
    const auto top = hn::ShiftLeft<24 - kShift>(hn::BitCast(d, v));
    if constexpr (kSigned) return hn::ShiftRight<24>(top);
    return hn::BitCast(d, hn::ShiftRight<24>(hn::BitCast(U32Tag(), top)));
  }
  template <int kStep, int kSteps>
  HWY_INLINE void Add(U32Vec w, U32Vec x) {
    sum = hn::Add(sum, hn::Mul(Byte<0, kBits == 8>(w), Byte<0, true>(x)));
    sum = hn::Add(sum, hn::Mul(Byte<8, kBits == 8>(w), Byte<8, true>(x)));
    sum = hn::Add(sum, hn::Mul(Byte<16, kBits == 8>(w), Byte<16, true>(x)));
    sum = hn::Add(sum, hn::Mul(Byte<24, kBits == 8>(w), Byte<24, true>(x)));
  }
  HWY_INLINE I32Vec Sum() const { return sum; }
};

#endif
