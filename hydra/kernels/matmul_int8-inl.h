// SPDX-License-Identifier: Apache-2.0
// Int8 dot products of packed panels with rounded activations, and panels back to f32. Included by matmul_int8.cc in a
// namespace of each SIMD level, and once more for AVX-512 with VNNI: HYDRA_VNNI says which, HYDRA_ATTR is the attribute
// that lambdas need. Not here: the float kernels (matmul_float.cc).
// No include guard: it is meant to be included more than once, inside of a namespace, after simd.h.

using I32Tag = hn::ScalableTag<int32_t>;
using I32Vec = hn::Vec<I32Tag>;
using U32Tag = hn::ScalableTag<uint32_t>;
using U32Vec = hn::Vec<U32Tag>;  // four bytes a lane
constexpr int kLanes = static_cast<int>(HWY_LANES(uint32_t));
constexpr int kVectorBytes = 4 * kLanes;

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

#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4

// Pairs of products in 16 bits (PMADDUBSW), which saturate at 2^15: 2 * 127 * (2^bits - 1) leaves room for kDepth of
// them; then 32 bits. Weights of 8 bits are signed: |w| <= 128 times x with the sign of w is at most 2 * 128 * 127.
template <int kBits>
struct DotSum {
  static constexpr int kDepth = kBits == 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
  using I16Vec = hn::Vec<hn::Repartition<int16_t, I32Tag>>;
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
#elif HWY_TARGET == HWY_AVX2
    if constexpr (kBits == 8) {
      return I16Vec{_mm256_maddubs_epi16(_mm256_abs_epi8(w.raw), _mm256_sign_epi8(x.raw, w.raw))};
    } else {
      return I16Vec{_mm256_maddubs_epi16(w.raw, x.raw)};
    }
#else
    if constexpr (kBits == 8) {
      return I16Vec{_mm_maddubs_epi16(_mm_abs_epi8(w.raw), _mm_sign_epi8(x.raw, w.raw))};
    } else {
      return I16Vec{_mm_maddubs_epi16(w.raw, x.raw)};
    }
#endif
  }
  static HWY_INLINE I32Vec Widen(I16Vec v) {
#if HWY_TARGET == HWY_AVX3
    return I32Vec{_mm512_madd_epi16(v.raw, _mm512_set1_epi16(1))};
#elif HWY_TARGET == HWY_AVX2
    return I32Vec{_mm256_madd_epi16(v.raw, _mm256_set1_epi16(1))};
#else
    return I32Vec{_mm_madd_epi16(v.raw, _mm_set1_epi16(1))};
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

// ---- Formats: what a panel's block of 32 columns holds (matmul_kernels.h) ----

HWY_INLINE U32Vec LoadVector(const uint8_t* p, int v) {
  return hn::LoadU(U32Tag(), reinterpret_cast<const uint32_t*>(p + v * kVectorBytes));
}

// Columns 4 g .. 4 g + 3 of each row.
template <int kBits, int g>
HWY_INLINE U32Vec Quants(const uint8_t* block) {
  const U32Tag d;
  if constexpr (kBits == 8) {
    return LoadVector(block, g);
  } else {
    auto low = LoadVector(block, g % 4);
    if constexpr (g >= 4) low = hn::ShiftRight<4>(low);
    low = hn::And(low, hn::Set(d, 0x0F0F0F0Fu));
    if constexpr (kBits == 4) return low;
    constexpr int kShift = kBits == 5 ? 4 - g : 4 - 2 * (g % 4);  // of the high bits, to the left
    auto high = LoadVector(block, kBits == 5 ? 4 : 4 + g / 4);
    if constexpr (kShift > 0) high = hn::ShiftLeft<kShift>(high);
    if constexpr (kShift < 0) high = hn::ShiftRight<-kShift>(high);
    return hn::Or(low, hn::And(high, hn::Set(d, kBits == 5 ? 0x10101010u : 0x30303030u)));
  }
}

HWY_INLINE FloatVec LoadHalves(const uint8_t* p) {
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  return hn::PromoteTo(FloatTag(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}
template <class T>
HWY_INLINE FloatVec LoadBytes(const uint8_t* p) {
  const hn::Rebind<T, I32Tag> d8;
  return hn::ConvertTo(FloatTag(), hn::PromoteTo(I32Tag(), hn::LoadU(d8, reinterpret_cast<const T*>(p))));
}

// Where block b of a panel has its parts.
struct BlockAt {
  const uint8_t* quants;
  const uint8_t* scales;
  const uint8_t* supers;
};
HWY_INLINE BlockAt At(const PanelLayout& l, const uint8_t* panel, int64_t b) {
  return {panel + b * l.vectors * kVectorBytes, panel + l.scales_at + b * l.scale_bytes * kLanes,
          panel + l.supers_at + b / 8 * l.super_bytes * kLanes};
}

// (q - offset) d, d a half a block.
template <int kQuantBits, int kOffsetShift_>
struct OffsetFormat {
  static constexpr int kBits = kQuantBits;
  static constexpr int kOffsetShift = kOffsetShift_;  // offset = 2^it; 0 = none
  static constexpr bool kMin = false, kHalves = false;
  static HWY_INLINE FloatVec Scale(const BlockAt& at, int) { return LoadHalves(at.scales); }
};
// q d + m, halves.
template <int kQuantBits>
struct MinFormat {
  static constexpr int kBits = kQuantBits, kOffsetShift = 0;
  static constexpr bool kMin = true, kHalves = false;
  static HWY_INLINE FloatVec Scale(const BlockAt& at, int) { return LoadHalves(at.scales); }
  static HWY_INLINE FloatVec Min(const BlockAt& at) { return LoadHalves(at.scales + 2 * kLanes); }
};
// q (d scale) + (-dmin min), scale and min bytes.
template <int kQuantBits>
struct SuperFormat {
  static constexpr int kBits = kQuantBits, kOffsetShift = 0;
  static constexpr bool kMin = true, kHalves = false;
  static HWY_INLINE FloatVec Scale(const BlockAt& at, int) {
    return hn::Mul(LoadHalves(at.supers), LoadBytes<uint8_t>(at.scales));
  }
  static HWY_INLINE FloatVec Min(const BlockAt& at) {
    return hn::Neg(hn::Mul(LoadHalves(at.supers + 2 * kLanes), LoadBytes<uint8_t>(at.scales + kLanes)));
  }
};
// (q - 32) (d scale), a signed byte for each 16 columns.
struct Q6Format {
  static constexpr int kBits = 6, kOffsetShift = 5;
  static constexpr bool kMin = false, kHalves = true;
  static HWY_INLINE FloatVec Scale(const BlockAt& at, int half) {
    return hn::Mul(LoadHalves(at.supers), LoadBytes<int8_t>(at.scales + half * kLanes));
  }
};
using Q8Format = OffsetFormat<8, HYDRA_VNNI ? 7 : 0>;

// ---- Tiles: P panels times TN tokens ----

// What the integer sums begin with: minus offset * sum of q.
template <class F>
HWY_INLINE I32Vec Start(const XBlock& x, int half) {
  const I32Tag d;
  if constexpr (F::kOffsetShift == 0) {
    return hn::Zero(d);
  } else {
    const int32_t sum = !F::kHalves ? x.minus_sum : half == 0 ? x.minus_first : x.minus_sum - x.minus_first;
    return hn::ShiftLeft<F::kOffsetShift>(hn::Set(d, sum));
  }
}

// Adds block b of P panels times TN tokens to `sums`; in parts of 16 columns where those have scales of their own.
template <class F, int P, int TN>
HWY_INLINE void AddBlock(const BlockAt (&at)[P], const XBlock* x, FloatVec (&sums)[P][TN]) {
  const FloatTag df;
  constexpr int kParts = F::kHalves ? 2 : 1, kSteps = 8 / kParts;
  Unroll<kParts>([&](auto part) HYDRA_LAMBDA {
    DotSum<F::kBits> dots[P][TN];
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      const auto start = Start<F>(x[t], part);
      Unroll<P>([&](auto p) HYDRA_LAMBDA { dots[p][t].Init(start); });
    });
    Unroll<kSteps>([&](auto step) HYDRA_LAMBDA {
      constexpr int g = part * kSteps + step;
      U32Vec w[P];
      Unroll<P>([&](auto p) HYDRA_LAMBDA { w[p] = Quants<F::kBits, g>(at[p].quants); });
      Unroll<TN>([&](auto t) HYDRA_LAMBDA {
        uint32_t bytes;
        std::memcpy(&bytes, x[t].q + 4 * g, 4);
        const auto xv = hn::Set(U32Tag(), bytes);
        Unroll<P>([&](auto p) HYDRA_LAMBDA { dots[p][t].template Add<step, kSteps>(w[p], xv); });
      });
    });
    FloatVec scale[P];
    Unroll<P>([&](auto p) HYDRA_LAMBDA { scale[p] = F::Scale(at[p], part); });
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      const auto x_scale = hn::Set(df, x[t].scale);
      Unroll<P>([&](auto p) HYDRA_LAMBDA {
        sums[p][t] = hn::MulAdd(hn::ConvertTo(df, dots[p][t].Sum()), hn::Mul(scale[p], x_scale), sums[p][t]);
      });
    });
  });
  if constexpr (F::kMin) {
    FloatVec min[P];
    Unroll<P>([&](auto p) HYDRA_LAMBDA { min[p] = F::Min(at[p]); });
    Unroll<TN>([&](auto t) HYDRA_LAMBDA {
      const auto x_sum = hn::Set(df, x[t].scaled_sum);
      Unroll<P>([&](auto p) HYDRA_LAMBDA { sums[p][t] = hn::MulAdd(min[p], x_sum, sums[p][t]); });
    });
  }
}

template <class F, int P, int TN>
HWY_NOINLINE void Tile(const Int8Call& c, int64_t t0) {
  FloatVec sums[P][TN];
  Unroll<P>([&](auto p) HYDRA_LAMBDA { Unroll<TN>([&](auto t) HYDRA_LAMBDA { sums[p][t] = hn::Zero(FloatTag()); }); });
  const XBlock* x = c.x + t0 / c.stride * c.stride * c.blocks + t0 % c.stride;
  for (int64_t b = 0; b < c.blocks; ++b, x += c.stride) {
    BlockAt at[P];
    Unroll<P>([&](auto p) HYDRA_LAMBDA { at[p] = At(c.layout, c.panel + p * c.layout.bytes, b); });
    AddBlock<F, P, TN>(at, x, sums);
  }
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<P>([&](auto p) HYDRA_LAMBDA { StoreSums(c.out, t0 + t, c.n0 + p * kLanes, sums[p][t]); });
  });
}

#if HWY_MAX_BYTES >= 64
constexpr int kTileTokens = 6;  // with two panels 24 of 32 registers are sums
#else
constexpr int kTileTokens = 4;
#endif

template <class F, int P>
HWY_INLINE void Tiles(const Int8Call& c) {
  for (int64_t t = c.t0; t < c.t1;) {
    const int64_t left = std::min(c.t1, (t / c.stride + 1) * c.stride) - t;
    if (left >= kTileTokens) {
      Tile<F, P, kTileTokens>(c, t);
      t += kTileTokens;
    } else if (kTileTokens > 4 && left >= 4) {
      Tile<F, P, 4>(c, t);
      t += 4;
    } else if (left >= 2) {
      Tile<F, P, 2>(c, t);
      t += 2;
    } else {
      Tile<F, P, 1>(c, t);
      t += 1;
    }
  }
}

template <class F>
void Product(const Int8Call& c) {
#if HWY_MAX_BYTES >= 64
  if (c.panels == 2) return Tiles<F, 2>(c);
#endif
  Int8Call one = c;
  for (int64_t p = 0; p < c.panels; ++p, one.panel += c.layout.bytes, one.n0 += kLanes) Tiles<F, 1>(one);
}

void Int8(const Int8Call& c) {
  switch (c.type) {
    case WeightType::kQ8_0: return Product<Q8Format>(c);
    case WeightType::kQ4_0: return Product<OffsetFormat<4, 3>>(c);
    case WeightType::kQ4_1: return Product<MinFormat<4>>(c);
    case WeightType::kQ5_0: return Product<OffsetFormat<5, 4>>(c);
    case WeightType::kQ5_1: return Product<MinFormat<5>>(c);
    case WeightType::kQ4_K: return Product<SuperFormat<4>>(c);
    case WeightType::kQ5_K: return Product<SuperFormat<5>>(c);
    case WeightType::kQ6_K: return Product<Q6Format>(c);
    default: return;  // the driver sends no other
  }
}

// ---- Panels back to f32: the formulas of weight_type.cc, in their order ----

template <class F>
void DecodeFormat(const PanelLayout& l, const uint8_t* panel, int64_t b0, int64_t b1, float* out, int64_t stride) {
  const FloatTag df;
  const I32Tag di;
  for (int64_t b = b0; b < b1; ++b, out += kBlock * stride) {
    const BlockAt at = At(l, panel, b);
    FloatVec min = hn::Zero(df);
    if constexpr (F::kMin) min = F::Min(at);
    Unroll<8>([&](auto g) HYDRA_LAMBDA {
      const auto scale = F::Scale(at, F::kHalves ? g / 4 : 0);
      const auto quants = hn::BitCast(di, Quants<F::kBits, g>(at.quants));
      Unroll<4>([&](auto j) HYDRA_LAMBDA {
        const auto top = hn::ShiftLeft<24 - 8 * j>(quants);
        I32Vec q;
        if constexpr (F::kBits == 8 && !HYDRA_VNNI) {
          q = hn::ShiftRight<24>(top);
        } else {
          q = hn::BitCast(di, hn::ShiftRight<24>(hn::BitCast(U32Tag(), top)));
        }
        if constexpr (F::kOffsetShift > 0) q = hn::Sub(q, hn::Set(di, 1 << F::kOffsetShift));
        auto value = hn::Mul(hn::ConvertTo(df, q), scale);
        if constexpr (F::kMin) value = hn::Add(value, min);
        hn::StoreU(value, df, out + (4 * g + j) * stride);
      });
    });
  }
}

void Decode(WeightType type, const PanelLayout& l, const uint8_t* panel, int64_t k0, int64_t k1, float* out,
            int64_t stride) {
  const int64_t b0 = k0 / kBlock, b1 = k1 / kBlock;
  switch (type) {
    case WeightType::kQ8_0: return DecodeFormat<Q8Format>(l, panel, b0, b1, out, stride);
    case WeightType::kQ4_0: return DecodeFormat<OffsetFormat<4, 3>>(l, panel, b0, b1, out, stride);
    case WeightType::kQ4_1: return DecodeFormat<MinFormat<4>>(l, panel, b0, b1, out, stride);
    case WeightType::kQ5_0: return DecodeFormat<OffsetFormat<5, 4>>(l, panel, b0, b1, out, stride);
    case WeightType::kQ5_1: return DecodeFormat<MinFormat<5>>(l, panel, b0, b1, out, stride);
    case WeightType::kQ4_K: return DecodeFormat<SuperFormat<4>>(l, panel, b0, b1, out, stride);
    case WeightType::kQ5_K: return DecodeFormat<SuperFormat<5>>(l, panel, b0, b1, out, stride);
    case WeightType::kQ6_K: return DecodeFormat<Q6Format>(l, panel, b0, b1, out, stride);
    default: return;
  }
}

#undef HYDRA_LAMBDA
