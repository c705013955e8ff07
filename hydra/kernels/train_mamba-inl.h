// SPDX-License-Identifier: Apache-2.0
// What the forward and backward phases of train_mamba.cc share: a chunk's convolution, dt and decays, products of B and
// C. Compiled once for each SIMD level. Dims as in train_mamba.h; q is the number of tokens of the chunk; Np, Pp and Qp
// are N, P and Q rounded up to kAlign.
#if defined(HYDRA_KERNELS_MAMBA_TRAIN_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HYDRA_KERNELS_MAMBA_TRAIN_INL_H
#undef HYDRA_KERNELS_MAMBA_TRAIN_INL_H
#else
#define HYDRA_KERNELS_MAMBA_TRAIN_INL_H
#endif

#include <cmath>

#include "hydra/kernels/scratch.h"
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_gemm-inl.h"
#include "hydra/kernels/simd_math-inl.h"
#include "hydra/kernels/train_mamba.h"

#ifndef HYDRA_KERNELS_MAMBA_TRAIN_INL_ONCE  // what does not depend on the level
#define HYDRA_KERNELS_MAMBA_TRAIN_INL_ONCE
namespace hydra::kernels {

constexpr int64_t kMambaPanel = 6;  // tokens whose pairs are made at a time
constexpr float kOne = 1;           // beta of products that add

// One call's own memory. The parts behind `du` are the backward phases' only.
struct MambaScratch {
  float* dt;     // [H, Qp]
  float* hi;     // [H, Qp] sums of dt A: hi + lo, for differences of large ones are small
  float* lo;     // [H, Qp]
  float* lead;   // [H, Qp] exp(a_j): what of the state before the chunk is left at j
  float* tail;   // [H, Qp] exp(a_last - a_j)
  float* BT;     // [N, Qp] the chunk's B of a group, transposed
  float* CB;     // [Q, Qp] C_i B_j for j <= i and up to the end of that tile
  float* u;      // [Q, Pp] dt_j x_j of a head
  float* panel;  // [kMambaPanel, Qp]
  float* wide;   // [Q, di]
  float* line;   // [max(di, H) rounded up]
  float* slope;  // [H, Qp] of dt over raw dt
  float* xBC;    // [Q, cd]
  float* dsilu;  // [Q, cd]
  float* uT;     // [P, Qp]
  float* mix;    // [Q, Qp] exp(a_i - a_j) C_i B_j of a head
  float* dCB;    // [Q, Qp]
  float* dB;     // [Q, Np]
  float* dC;     // [Q, Np]
  float* HT;     // [P, Np] a state, transposed
  float* dyH;    // [Q, Np]
  float* pulls;  // [3, Qp] gradients of a_j: of pairs with j as the later token, as the earlier one, of the state after
};
// Lays the parts out from `base`; returns the floats of all.
inline int64_t LayOut(float* base, const MambaTrainArgs& a, MambaScratch* s) {
  const int64_t Q = a.Q, Qp = RoundUp(a.Q), Pp = RoundUp(a.P), Np = RoundUp(a.N), di = a.H * a.P;
  const int64_t cd = di + 2 * a.G * a.N, by_head = a.H * Qp;
  ScratchParts take(base);
  *s = {take(by_head), take(by_head),  take(by_head),          take(by_head), take(by_head),     take(a.N * Qp),
        take(Q * Qp),  take(Q * Pp),   take(kMambaPanel * Qp), take(Q * di),  take(RoundUp(di)), take(by_head),
        take(Q * cd),  take(Q * cd),   take(a.P * Qp),         take(Q * Qp),  take(Q * Qp),      take(Q * Np),
        take(Q * Np),  take(a.P * Np), take(Q * Np),           take(3 * Qp)};
  return take.used();
}

}  // namespace hydra::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

HWY_INLINE FloatVec Sigmoid(FloatVec v) {
  const auto one = hn::Set(FloatTag(), 1.0f);
  return hn::Div(one, hn::Add(one, Exp(hn::Neg(v))));
}

struct MambaView {
  const MambaTrainArgs& a;
  MambaScratch s;
  MambaChunk chunk;
  int64_t number, q, Qp, Pp, Np, Hg, di, cd, W, lanes;
  bool first, next;  // the chunk begins its document; the document goes on after it

  MambaView(const MambaTrainArgs& args, int64_t c, float* scratch) : a(args), chunk(args.chunks[c]), number(c) {
    LayOut(scratch, a, &s);
    q = chunk.end - chunk.begin;
    Qp = RoundUp(a.Q), Pp = RoundUp(a.P), Np = RoundUp(a.N);
    Hg = a.H / a.G, di = a.H * a.P, cd = di + 2 * a.G * a.N, W = di + cd + a.H;
    lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
    first = chunk.begin == chunk.document;
    next = c + 1 < a.n_chunks && a.chunks[c + 1].document == chunk.document;
  }
  [[nodiscard]] const float* Projected() const { return a.projected + chunk.begin * W; }
  [[nodiscard]] int64_t Padded(int64_t n) const { return (n + lanes - 1) / lanes * lanes; }
  [[nodiscard]] int64_t StateAt(int64_t g) const { return (number * a.G + g) * a.N * Hg * a.P; }
};

// silu of the convolution for the channels c0 .. c1 - 1: out [q, cd], and its slope where wanted.
template <int kTaps>
void ConvolveTaps(const MambaView& k, int64_t c0, int64_t c1, float* out, float* slope) {
  const FloatTag d;
  const auto one = hn::Set(d, 1.0f);
  for (int64_t c = c0; c < c1; c += k.lanes) {
    const size_t left = Left(c1, c);
    FloatVec taps[kTaps], u[kTaps];
    const float* x = k.Projected() + k.di + c;
    for (int i = 0; i < kTaps; ++i) taps[i] = LoadPart(d, k.a.taps + i * k.cd + c, left);
    for (int i = 0; i + 1 < kTaps; ++i) {
      const int64_t back = kTaps - 1 - i;
      u[i] = k.chunk.begin - back >= k.chunk.document ? LoadPart(d, x - back * k.W, left) : hn::Zero(d);
    }
    const auto bias = k.a.conv_b != nullptr ? LoadPart(d, k.a.conv_b + c, left) : hn::Zero(d);
    for (int64_t t = 0; t < k.q; ++t, x += k.W) {
      u[kTaps - 1] = LoadPart(d, x, left);
      auto v = bias;
      for (int i = 0; i < kTaps; ++i) v = hn::MulAdd(taps[i], u[i], v);
      const auto sigmoid = Sigmoid(v);
      StorePart(hn::Mul(v, sigmoid), d, out + t * k.cd + c, left);
      if (slope != nullptr)
        StorePart(hn::Mul(sigmoid, hn::MulAdd(v, hn::Sub(one, sigmoid), one)), d, slope + t * k.cd + c, left);
      for (int i = 0; i + 1 < kTaps; ++i) u[i] = u[i + 1];
    }
  }
}
inline void Convolve(const MambaView& k, int64_t c0, int64_t c1, float* out, float* slope) {
  switch (k.a.K) {
    case 1: return ConvolveTaps<1>(k, c0, c1, out, slope);
    case 2: return ConvolveTaps<2>(k, c0, c1, out, slope);
    case 3: return ConvolveTaps<3>(k, c0, c1, out, slope);
    case 4: return ConvolveTaps<4>(k, c0, c1, out, slope);
    default: break;
  }
}

// dt and the decays made of its sums. Exponents are differences first and never positive.
template <bool kSlope>
void PrepareSteps(const MambaView& k) {
  const MambaTrainArgs& a = k.a;
  const MambaScratch& s = k.s;
  const FloatTag d;
  const auto lo = hn::Set(d, a.dt_lo), hi = hn::Set(d, a.dt_hi);
  for (int64_t t = 0; t < k.q; ++t) {
    const float* raw = k.Projected() + t * k.W + k.di + k.cd;
    const bool real = a.real == nullptr || a.real[k.chunk.begin + t];
    for (int64_t h = 0; h < a.H; h += k.lanes) {
      const size_t left = Left(a.H, h);
      const auto v = hn::Add(LoadPart(d, raw + h, left), LoadPart(d, a.dt_bias + h, left));
      const auto dt = Softplus(v), clamped = hn::Min(hi, hn::Max(lo, dt));
      const int64_t n = HWY_MIN(k.lanes, a.H - h);
      hn::StoreU(clamped, d, s.line);
      for (int64_t i = 0; i < n; ++i) s.dt[(h + i) * k.Qp + t] = real ? s.line[i] : 0.0f;
      if constexpr (kSlope) {
        hn::StoreU(hn::IfThenElseZero(hn::Eq(dt, clamped), Sigmoid(v)), d, s.line);
        for (int64_t i = 0; i < n; ++i) s.slope[(h + i) * k.Qp + t] = real ? s.line[i] : 0.0f;
      }
    }
  }
  for (int64_t h = 0; h < a.H; ++h) {
    float *dt = s.dt + h * k.Qp, *sum_hi = s.hi + h * k.Qp, *sum_lo = s.lo + h * k.Qp;
    double sum = 0;
    for (int64_t t = 0; t < k.q; ++t) {
      sum += static_cast<double>(dt[t] * a.A[h]);
      sum_hi[t] = static_cast<float>(sum);
      sum_lo[t] = static_cast<float>(sum - static_cast<double>(sum_hi[t]));
    }
    for (int64_t t = k.q; t < k.Padded(k.q); ++t) dt[t] = sum_hi[t] = sum_lo[t] = 0;
    const auto last_hi = hn::Set(d, sum_hi[k.q - 1]), last_lo = hn::Set(d, sum_lo[k.q - 1]);
    for (int64_t t = 0; t < k.q; t += k.lanes) {
      const auto h0 = hn::LoadU(d, sum_hi + t), l0 = hn::LoadU(d, sum_lo + t);
      hn::StoreU(Exp(hn::Add(h0, l0)), d, s.lead + h * k.Qp + t);
      hn::StoreU(Exp(hn::Add(hn::Sub(last_hi, h0), hn::Sub(last_lo, l0))), d, s.tail + h * k.Qp + t);
    }
  }
}

// The chunk's C_i B_j of a group for all j <= i. xBC: the chunk's rows.
inline void PrepareGroup(const MambaView& k, const float* xBC, int64_t g) {
  const int64_t N = k.a.N;
  const float *B = xBC + k.di + g * N, *C = B + k.a.G * N;
  TransposeScaled(B, k.cd, k.q, N, 1.0f, k.s.BT, k.Qp);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t j = k.q; j < k.Padded(k.q); ++j)
      k.s.BT[n * k.Qp + j] = 0;  // read by the last vectors, then masked out
  for (int64_t i = 0; i < k.q; i += kMambaPanel) {
    const int64_t rows = HWY_MIN(kMambaPanel, k.q - i);
    SmallGemm({.a = C + i * k.cd,
               .a_row = k.cd,
               .a_k = 1,
               .b = Bytes(k.s.BT),
               .b_row = k.Qp * 4,
               .c = k.s.CB + i * k.Qp,
               .c_row = k.Qp,
               .M = rows,
               .N = k.Padded(i + rows),
               .K = N});
  }
}

// u_j = dt_j x_j of a head.
HWY_INLINE void ScaleByDt(const MambaView& k, const float* x, int64_t head) {
  const FloatTag d;
  const float* dt = k.s.dt + head * k.Qp;
  for (int64_t j = 0; j < k.q; ++j) {
    const auto scale = hn::Set(d, dt[j]);
    for (int64_t p = 0; p < k.a.P; p += k.lanes)
      hn::StoreU(hn::Mul(scale, LoadPart(d, x + j * k.cd + p, Left(k.a.P, p))), d, k.s.u + j * k.Pp + p);
  }
}

// exp(a_i - a_j) for a vector of tokens j. For tokens after i it is 1: the caller masks them out.
HWY_INLINE FloatVec PairDecay(const MambaView& k, int64_t head, int64_t i, int64_t j) {
  const FloatTag d;
  const float *hi = k.s.hi + head * k.Qp, *lo = k.s.lo + head * k.Qp;
  const auto gap =
      hn::Add(hn::Sub(hn::Set(d, hi[i]), hn::LoadU(d, hi + j)), hn::Sub(hn::Set(d, lo[i]), hn::LoadU(d, lo + j)));
  return Exp<true>(hn::Min(hn::Zero(d), gap));
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#endif  // HYDRA_KERNELS_MAMBA_TRAIN_INL_H
