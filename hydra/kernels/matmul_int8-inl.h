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

// A block's parts.
struct BlockAt {
  const uint8_t* quants;
  const uint8_t* scales;
  const uint8_t* supers;
};
template <class F>
HWY_INLINE BlockAt At(const uint8_t* panel, int64_t b) {
  constexpr PanelLayout kShape = PanelShape(F::kType, kLanes);
  const PanelLayout::Block at = kShape.At(b);
  return {panel + at.quants, panel + at.scales, panel + at.super};
}

// (q - offset) d, d a half a block.
template <WeightType kWeightType, int kQuantBits, int kOffsetShift_>
struct OffsetFormat {
  static constexpr WeightType kType = kWeightType;
  static constexpr int kBits = kQuantBits;
  static constexpr int kOffsetShift = kOffsetShift_;  // offset = 2^it; 0 = none
  static constexpr bool kMin = false, kHalves = false;
  static HWY_INLINE FloatVec Scale(const BlockAt& at, int) { return LoadHalves(at.scales); }
};
// q d + m, halves.
template <WeightType kWeightType, int kQuantBits>
struct MinFormat {
  static constexpr WeightType kType = kWeightType;
  static constexpr int kBits = kQuantBits, kOffsetShift = 0;
  static constexpr bool kMin = true, kHalves = false;
  static HWY_INLINE FloatVec Scale(const BlockAt& at, int) { return LoadHalves(at.scales); }
  static HWY_INLINE FloatVec Min(const BlockAt& at) { return LoadHalves(at.scales + 2 * kLanes); }
};
// q (d scale) + (-dmin min), scale and min bytes.
template <WeightType kWeightType, int kQuantBits>
struct SuperFormat {
  static constexpr WeightType kType = kWeightType;
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
  static constexpr WeightType kType = WeightType::kQ6_K;
  static constexpr int kBits = 6, kOffsetShift = 5;
  static constexpr bool kMin = false, kHalves = true;
  static HWY_INLINE FloatVec Scale(const BlockAt& at, int half) {
    return hn::Mul(LoadHalves(at.supers), LoadBytes<int8_t>(at.scales + half * kLanes));
  }
};
// f of the format of a type.
template <class Fn>
HWY_INLINE void WithFormat(WeightType type, Fn&& f) {
  using T = WeightType;
  switch (type) {
    case T::kQ8_0: return f(OffsetFormat < T::kQ8_0, 8, HYDRA_VNNI ? 7 : 0 > ());
    case T::kQ4_0: return f(OffsetFormat<T::kQ4_0, 4, 3>());
    case T::kQ4_1: return f(MinFormat<T::kQ4_1, 4>());
    case T::kQ5_0: return f(OffsetFormat<T::kQ5_0, 5, 4>());
    case T::kQ5_1: return f(MinFormat<T::kQ5_1, 5>());
    case T::kQ4_K: return f(SuperFormat<T::kQ4_K, 4>());
    case T::kQ5_K: return f(SuperFormat<T::kQ5_K, 5>());
    case T::kQ6_K: return f(Q6Format());
    default: return;  // the driver sends no other
  }
}

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

// Adds a block of P panels times TN tokens to `sums`; in parts of 16 columns where those have scales of their own.
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

// Behind what a product reads of block b.
template <class F>
HWY_INLINE const uint8_t* EndOf(const BlockAt& at) {
  return at.quants + PanelShape(F::kType, kLanes).vectors * kVectorBytes;
}

template <class F, int P, int TN>
HWY_NOINLINE void Tile(const Int8Call& c, int64_t t0) {
  auto ahead = BeginAhead<P>(c.panel, c.panel_step, c.ahead);
  FloatVec sums[P][TN];
  Unroll<P>([&](auto p) HYDRA_LAMBDA { Unroll<TN>([&](auto t) HYDRA_LAMBDA { sums[p][t] = hn::Zero(FloatTag()); }); });
  const XBlock* x = c.x + t0 / c.stride * c.stride * c.blocks + t0 % c.stride;
  for (int64_t b = 0; b < c.blocks; ++b, x += c.stride) {
    BlockAt at[P];
    Unroll<P>([&](auto p) HYDRA_LAMBDA { at[p] = At<F>(c.panel + p * c.panel_step, b); });
    if (c.few) ahead.Use(EndOf<F>(at[0]));
    AddBlock<F, P, TN>(at, x, sums);
  }
  Unroll<TN>([&](auto t) HYDRA_LAMBDA {
    Unroll<P>([&](auto p) HYDRA_LAMBDA { StoreSums(c.out, t0 + t, c.n0 + p * c.row_step, sums[p][t]); });
  });
}

// With VNNI 24 of 32 registers are sums: 6 tokens times 2 panels, int and float.
constexpr int kTilePanels = HYDRA_VNNI ? 2 : 1;
constexpr int kTileTokens = HWY_MAX_BYTES >= 64 ? 6 : 4;
// The level without SIMD, of processors from before 2013, is spared tiles of several tokens: they take long to compile.
constexpr bool kLongTiles = HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128;

// f(a constant) with the next tile's tokens where `left` are left; returns how many. `each`: a tile of any size up to
// the largest, so that few tokens are one; else those are cut, and fewer kinds compiled.
template <bool each, class Fn>
HWY_INLINE int64_t NextTile(int64_t left, Fn&& f) {
  int64_t taken = 0;
  const auto take = [&](auto tokens) HYDRA_LAMBDA {
    if (taken > 0 || left < tokens) return;
    f(tokens);
    taken = tokens;
  };
  if constexpr (kLongTiles) {
    if (kTileTokens > 4 && left != 8) take(std::integral_constant<int, kTileTokens>());  // 8 tokens are two tiles of 4
    if constexpr (each && kTileTokens > 4) take(std::integral_constant<int, 5>());
    take(std::integral_constant<int, 4>());
    if constexpr (each) take(std::integral_constant<int, 3>());
    take(std::integral_constant<int, 2>());
  }
  take(std::integral_constant<int, 1>());
  return taken;
}

template <class F, int P>
HWY_INLINE void Tiles(const Int8Call& c) {
  for (int64_t t = c.t0; t < c.t1;) {
    const int64_t left = std::min(c.t1, (t / c.stride + 1) * c.stride) - t;
    t += NextTile<P == 1>(left, [&](auto tokens) HYDRA_LAMBDA { Tile<F, P, tokens>(c, t); });
  }
}

// Few tokens, more than a tile: all of them pass a block before the next block comes, so that the panel is read once,
// as one stream, while they are multiplied. All lie in one tile of x.
template <class F>
HWY_NOINLINE void Stream(const Int8Call& c) {
  Ahead ahead(c.panel, c.ahead);
  HWY_ALIGN float sums[kSmallBatch * kLanes];
  std::fill_n(sums, c.t1 * kLanes, 0.0f);
  const XBlock* x = c.x;
  for (int64_t b = 0; b < c.blocks; ++b, x += c.stride) {
    const BlockAt at[1] = {At<F>(c.panel, b)};
    ahead.Use(EndOf<F>(at[0]));
    for (int64_t t = 0; t < c.t1;)
      t += NextTile<false>(c.t1 - t, [&](auto tokens) HYDRA_LAMBDA {
        float* kept = sums + t * kLanes;
        FloatVec part[1][tokens];
        Unroll<tokens>([&](auto i) HYDRA_LAMBDA { part[0][i] = hn::Load(FloatTag(), kept + i * kLanes); });
        AddBlock<F, 1, tokens>(at, x + t, part);
        Unroll<tokens>([&](auto i) HYDRA_LAMBDA { hn::Store(part[0][i], FloatTag(), kept + i * kLanes); });
      });
  }
  for (int64_t t = 0; t < c.t1; ++t) StoreSums(c.out, t, c.n0, hn::Load(FloatTag(), sums + t * kLanes));
}

template <class F>
void Product(const Int8Call& c) {
  if constexpr (kTilePanels == 2)
    if (c.panels == 2 && !c.few) return Tiles<F, 2>(c);
  if (c.panels == kStreams) return Tile<F, kStreams, 1>(c, 0);
  Int8Call one = c;
  for (int64_t p = 0; p < c.panels; ++p, one.panel += c.panel_step, one.n0 += c.row_step)
    c.few&& c.t1 > kTileTokens ? Stream<F>(one) : Tiles<F, 1>(one);
}

inline void Int8(const Int8Call& c) {
  WithFormat(c.type, [&](auto format) HYDRA_LAMBDA { Product<decltype(format)>(c); });
}

// ---- Panels back to f32: the formulas of weight_type.cc, in their order ----

template <class F>
void DecodeFormat(const uint8_t* panel, int64_t b0, int64_t b1, float* out, int64_t stride) {
  const FloatTag df;
  const I32Tag di;
  for (int64_t b = b0; b < b1; ++b, out += kBlock * stride) {
    const BlockAt at = At<F>(panel, b);
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

inline void Decode(WeightType type, const uint8_t* panel, int64_t k0, int64_t k1, float* out, int64_t stride) {
  WithFormat(type, [&](auto format)
                       HYDRA_LAMBDA { DecodeFormat<decltype(format)>(panel, k0 / kBlock, k1 / kBlock, out, stride); });
}
