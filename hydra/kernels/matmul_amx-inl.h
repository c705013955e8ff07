// SPDX-License-Identifier: Apache-2.0
// Int8 products of packed panels with many tokens by AMX: one instruction gives the integer sums of 16 rows of W and 16
// tokens over a block. They are the sums that the vectors give and are scaled in the same order, so that no bit tells
// which of the two it was. Included by matmul_int8.cc after matmul_int8-inl.h, in the namespace with VNNI, whose
// kernels take the tokens behind the last 16. Not here: the instructions (amx.h).
// No include guard: it is meant to be included once for each HWY_TARGET with VNNI.

static_assert(kLanes == amx::kRows);

constexpr int64_t kAmxTokens = amx::kRows;
constexpr int64_t kAmxBlocks = 16;  // blocks of two panels at a time: with those of x, in the first-level cache
constexpr int64_t kAmxGroup = 192;  // tokens that pass them before the next blocks; their sums lie in the second-level
constexpr int64_t kAmxPanels = 2;

// Blocks of a panel as tiles read them: signed bytes, so that no offset is left.
struct AmxPanel {
  alignas(64) uint8_t quants[kAmxBlocks][8 * kVectorBytes];
  alignas(64) float scale[kAmxBlocks][2][kLanes];  // of both halves where those have their own
  alignas(64) float min[kAmxBlocks][kLanes];
};

template <class F>
HWY_NOINLINE void Unpack(const uint8_t* panel, int64_t b0, int64_t b1, AmxPanel* out) {
  const hn::Repartition<uint8_t, U32Tag> bytes;
  const auto offset = hn::Set(bytes, F::kOffsetShift > 0 ? 1 << F::kOffsetShift : 0);
  for (int64_t b = b0; b < b1; ++b) {
    const BlockAt at = At<F>(panel, b);
    const int64_t i = b - b0;
    Unroll<8>([&](auto g) HYDRA_LAMBDA {
      const auto q = hn::Sub(hn::BitCast(bytes, Quants<F::kBits, g>(at.quants)), offset);
      hn::Store(q, bytes, out->quants[i] + g * kVectorBytes);
    });
    Unroll<F::kHalves ? 2 : 1>([&](auto half)
                                   HYDRA_LAMBDA { hn::Store(F::Scale(at, half), FloatTag(), out->scale[i][half]); });
    if constexpr (F::kMin) hn::Store(F::Min(at), FloatTag(), out->min[i]);
  }
}

// `blocks` blocks of one panel times 16 tokens, added to sums [16][kLanes]. While the scales of one part of a block are
// applied, the tiles of the next are multiplied.
template <class F>
HWY_NOINLINE void AmxTile(const AmxPanel& w, int64_t blocks, const XBlock* x, float* kept) {
  constexpr int kParts = F::kHalves ? 2 : 1;
  constexpr int64_t kPartBytes = kBlock / kParts;  // of a row of x
  alignas(64) int32_t dots[2][amx::kRows][kLanes];
  const auto multiply = [&](int64_t part) HYDRA_LAMBDA {
    const int64_t b = part / kParts, h = part % kParts;
    amx::Load<1>(x[b * kAmxTokens].q + h * kPartBytes, sizeof(XBlock));
    amx::Load<2>(w.quants[b] + h * kPartBytes / 4 * kVectorBytes, kVectorBytes);
    amx::Zero<0>();
    amx::AddBytes<0, 1, 2>();
    amx::Store<0>(dots[part % 2], amx::kRowBytes);
  };
  const FloatTag df;
  FloatVec sums[amx::kRows];
  Unroll<amx::kRows>([&](auto t) HYDRA_LAMBDA { sums[t] = hn::Load(df, kept + t * kLanes); });
  multiply(0);
  for (int64_t b = 0; b < blocks; ++b) {
    const XBlock* xb = x + b * kAmxTokens;
    Unroll<kParts>([&](auto h) HYDRA_LAMBDA {
      const int64_t part = b * kParts + h;
      if (part + 1 < blocks * kParts) multiply(part + 1);
      const auto scale = hn::Load(df, w.scale[b][h]);
      Unroll<amx::kRows>([&](auto t) HYDRA_LAMBDA {
        const auto dot = hn::ConvertTo(df, hn::Load(I32Tag(), dots[part % 2][t]));
        sums[t] = hn::MulAdd(dot, hn::Mul(scale, hn::Set(df, xb[t].scale)), sums[t]);
      });
    });
    if constexpr (F::kMin) {
      const auto min = hn::Load(df, w.min[b]);
      Unroll<amx::kRows>([&](auto t)
                             HYDRA_LAMBDA { sums[t] = hn::MulAdd(min, hn::Set(df, xb[t].scaled_sum), sums[t]); });
    }
  }
  Unroll<amx::kRows>([&](auto t) HYDRA_LAMBDA { hn::Store(sums[t], df, kept + t * kLanes); });
}

// The tokens t0 .. t1 - 1, whole tiles, at most kAmxGroup.
template <class F>
HWY_NOINLINE void AmxGroup(const Int8Call& c, int64_t t0, int64_t t1) {
  AmxPanel panels[kAmxPanels];
  alignas(64) float sums[kAmxPanels][kAmxGroup][kLanes];
  for (int64_t p = 0; p < c.panels; ++p) std::fill_n(sums[p][0], (t1 - t0) * kLanes, 0.0f);
  for (int64_t b0 = 0; b0 < c.blocks; b0 += kAmxBlocks) {
    const int64_t b1 = std::min(c.blocks, b0 + kAmxBlocks);
    for (int64_t p = 0; p < c.panels; ++p) Unpack<F>(c.panel + p * c.layout.bytes, b0, b1, &panels[p]);
    for (int64_t t = t0; t < t1; t += kAmxTokens)
      for (int64_t p = 0; p < c.panels; ++p)
        AmxTile<F>(panels[p], b1 - b0, c.x + t * c.blocks + b0 * kAmxTokens, sums[p][t - t0]);
  }
  for (int64_t t = t0; t < t1; ++t)
    for (int64_t p = 0; p < c.panels; ++p)
      StoreSums(c.out, t, c.n0 + p * kLanes, hn::Load(FloatTag(), sums[p][t - t0]));
}

template <class F>
void AmxProduct(const Int8Call& c) {
  const int64_t end = c.few || c.stride != kAmxTokens ? c.t0 : c.t0 + (c.t1 - c.t0) / kAmxTokens * kAmxTokens;
  if (end > c.t0) {
    constexpr int kRowsOfW = F::kHalves ? 4 : 8;
    amx::Shapes shapes;
    shapes.Set(0, amx::kRows, amx::kRowBytes);
    shapes.Set(1, amx::kRows, 4 * kRowsOfW);
    shapes.Set(2, kRowsOfW, amx::kRowBytes);
    amx::Configure(shapes);
    for (int64_t t = c.t0; t < end; t += kAmxGroup) AmxGroup<F>(c, t, std::min(end, t + kAmxGroup));
    amx::Release();
  }
  Int8Call rest = c;
  rest.t0 = end;
  if (rest.t0 < rest.t1) Product<F>(rest);
}

inline void AmxInt8(const Int8Call& c) {
  WithFormat(c.type, [&](auto format) HYDRA_LAMBDA { AmxProduct<decltype(format)>(c); });
}
