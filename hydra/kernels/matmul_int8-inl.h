// SPDX-License-Identifier: Apache-2.0
// Int8 products of packed panels with rounded activations, and panels back to f32. Included by matmul_int8.cc after
// simd_int8-inl.h, in the same namespaces. Not here: the float kernels (matmul_float.cc).
// No include guard: it is meant to be included more than once, for each HWY_TARGET and for VNNI.

constexpr int kLanes = static_cast<int>(HWY_LANES(uint32_t));
constexpr int kVectorBytes = 4 * kLanes;

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

// The integer sums begin with minus offset * sum of q.
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

// Asks for the cache lines of a block of P panels; past the last block, for those of the next P panels. The processor's
// own prefetching ends with each page, and a panel is about as long.
template <class F, int P>
HWY_INLINE void PrefetchBlock(const Int8Call& c, int64_t b) {
  constexpr int kBytes = F::kBits * kVectorBytes;  // quants; scales are less than a line
  const uint8_t* panel = c.panel;
  while (b >= c.blocks) b -= c.blocks, panel += P * c.layout.bytes;
  Unroll<P>([&](auto p) HYDRA_LAMBDA {
    const BlockAt block = At(c.layout, panel + p * c.layout.bytes, b);
    Unroll<(kBytes + 63) / 64>([&](auto i) HYDRA_LAMBDA { hwy::Prefetch(block.quants + 64 * i); });
    hwy::Prefetch(block.scales);
  });
}

// Which tile over the same panels this is. Where there are two equal tiles, each asks for a half, so that the memory
// does not rest during the second: the first tile asks for the second half of these panels, the second one for the
// first half of the next panels. Otherwise the first tile asks for all.
enum class Turn { kLong, kFirst, kSecond, kLater };

template <class F, int P, int TN>
HWY_NOINLINE void Tile(const Int8Call& c, int64_t t0, Turn turn) {
  constexpr int64_t kAhead = 4096 / (P * F::kBits * kVectorBytes);  // blocks
  const bool prefetch = c.prefetch && turn != Turn::kLater;
  const int64_t half = turn == Turn::kLong ? 0 : 1;  // of the blocks
  int64_t ask = kAhead + half * (turn == Turn::kFirst ? c.blocks / 2 : c.blocks);
  FloatVec sums[P][TN];
  Unroll<P>([&](auto p) HYDRA_LAMBDA { Unroll<TN>([&](auto t) HYDRA_LAMBDA { sums[p][t] = hn::Zero(FloatTag()); }); });
  const XBlock* x = c.x + t0 / c.stride * c.stride * c.blocks + t0 % c.stride;
  for (int64_t b = 0; b < c.blocks; ++b, x += c.stride) {
    if (prefetch && (b & half) == 0) PrefetchBlock<F, P>(c, ask++);
    BlockAt at[P];
    Unroll<P>([&](auto p) HYDRA_LAMBDA { at[p] = At(c.layout, c.panel + p * c.layout.bytes, b); });
    AddBlock<F, P, TN>(at, x, sums);
  }
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<P>([&](auto p) HYDRA_LAMBDA { StoreSums(c.out, t0 + t, c.n0 + p * kLanes, sums[p][t]); });
  });
}

// With VNNI 24 of 32 registers are sums: 6 tokens times 2 panels, int and float.
constexpr int kTilePanels = HYDRA_VNNI ? 2 : 1;
constexpr int kTileTokens = HWY_MAX_BYTES >= 64 ? 6 : 4;
// The level without SIMD, of processors from before 2013, is spared tiles of several tokens: they take long to compile.
constexpr bool kLongTiles = HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128;

template <class F, int P>
HWY_INLINE void Tiles(const Int8Call& c) {
  Turn turn = c.t1 - c.t0 == 8 ? Turn::kFirst : Turn::kLong;
  const auto next = [&] { turn = turn == Turn::kFirst ? Turn::kSecond : Turn::kLater; };
  for (int64_t t = c.t0; t < c.t1; next()) {
    const int64_t left = std::min(c.t1, (t / c.stride + 1) * c.stride) - t;
    const auto tile = [&](auto tokens) HYDRA_LAMBDA {
      Tile<F, P, tokens>(c, t, turn);
      t += tokens;
    };
    if constexpr (kLongTiles) {
      if (kTileTokens > 4 && left >= kTileTokens && left != 8) {  // 8 tokens are two tiles of 4
        tile(std::integral_constant<int, kTileTokens>());
        continue;
      }
      if (left >= 4) {
        tile(std::integral_constant<int, 4>());
        continue;
      }
      if (left >= 2) {
        tile(std::integral_constant<int, 2>());
        continue;
      }
    }
    tile(std::integral_constant<int, 1>());
  }
}

template <class F>
void Product(const Int8Call& c) {
  if constexpr (kTilePanels == 2)
    if (c.panels == 2 && c.t1 - c.t0 >= 2) return Tiles<F, 2>(c);
  Int8Call one = c;
  for (int64_t p = 0; p < c.panels; ++p, one.panel += c.layout.bytes, one.n0 += kLanes) Tiles<F, 1>(one);
}

inline void Int8(const Int8Call& c) {
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

inline void Decode(WeightType type, const PanelLayout& l, const uint8_t* panel, int64_t k0, int64_t k1, float* out,
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
