// SPDX-License-Identifier: Apache-2.0
// The phases of Mamba-2's training form, forward and backward. Formulas: specs/hydra.md 2; gradients beside each phase.
// Not here: what the phases share (train_mamba-inl.h), their order (hydra/nn/mamba2.cc).
// Dims as in train_mamba.h; a_j the sum of dt A up to token j of the chunk, u_j = dt_j x_j, H the state before the
// chunk.
#include "hydra/kernels/train_mamba.h"

#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/train_mamba.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/train_mamba-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// ---- Forward ----

// states = sum_j exp(a_last - a_j) B_j (x) u_j.
void MambaChunkStates(const MambaTrainArgs& a, int64_t c, float* scratch) {
  const MambaView k(a, c, scratch);
  const FloatTag d;
  float* xBC = a.xBC + k.chunk.begin * k.cd;
  Convolve(k, 0, k.cd, xBC, nullptr);
  PrepareSteps<false>(k);
  for (int64_t h = 0; h < a.H; ++h) a.decay[c * a.H + h] = k.s.lead[h * k.Qp + k.q - 1];
  if (!k.next) return;  // nobody reads it
  for (int64_t j = 0; j < k.q; ++j)
    for (int64_t h = 0; h < a.H; ++h) {
      const auto scale = hn::Set(d, k.s.dt[h * k.Qp + j] * k.s.tail[h * k.Qp + j]);
      for (int64_t p = 0; p < a.P; p += k.lanes) {
        const size_t left = Left(a.P, p);
        StorePart(hn::Mul(scale, LoadPart(d, xBC + j * k.cd + h * a.P + p, left)), d, k.s.wide + j * k.di + h * a.P + p,
                  left);
      }
    }
  for (int64_t g = 0; g < a.G; ++g)
    SmallGemm({.a = xBC + k.di + g * a.N,
               .a_row = 1,
               .a_k = k.cd,
               .b = Bytes(k.s.wide + g * k.Hg * a.P),
               .b_row = k.di * 4,
               .c = a.states + k.StateAt(g),
               .c_row = k.Hg * a.P,
               .M = a.N,
               .N = k.Hg * a.P,
               .K = k.q});
}

// H_{c+1} = decay_c H_c + states_c, or 0 where a document begins; H_c takes the place of states_c.
void MambaPassStates(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1, float* scratch) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t Hg = a.H / a.G, width = Hg * a.P;
  float* carry = scratch;  // [width]
  for (int64_t n = n0; n < n1; ++n)
    for (int64_t c = c0; c < c1; ++c) {
      const bool first = a.chunks[c].begin == a.chunks[c].document;
      const bool next = c + 1 < c1 && a.chunks[c + 1].document == a.chunks[c].document;
      for (int64_t h = 0; h < Hg; ++h) {
        const auto decay = hn::Set(d, a.decay[c * a.H + n / a.N * Hg + h]);
        float* state = a.states + (c * a.G * a.N + n) * width + h * a.P;
        for (int64_t p = 0; p < a.P; p += lanes) {
          const size_t left = Left(a.P, p);
          const auto before = first ? hn::Zero(d) : LoadPart(d, carry + h * a.P + p, left);
          if (next) StorePart(hn::MulAdd(decay, before, LoadPart(d, state + p, left)), d, carry + h * a.P + p, left);
          StorePart(before, d, state + p, left);
        }
      }
    }
}

// y_i = exp(a_i) C_i H + sum_{j <= i} exp(a_i - a_j) (C_i B_j) u_j + D x_i of a head; C_i H is there already.
void HeadOutputs(const MambaView& k, int64_t head) {
  const MambaTrainArgs& a = k.a;
  const MambaScratch& s = k.s;
  const FloatTag d;
  const float* x = a.xBC + k.chunk.begin * k.cd + head * a.P;
  float* y = a.y + k.chunk.begin * k.di + head * a.P;
  const auto skip = hn::Set(d, a.D[head]);
  ScaleByDt(k, x, head);
  for (int64_t i = 0; i < k.q; i += kMambaPanel) {
    const int64_t rows = HWY_MIN(kMambaPanel, k.q - i), keys = i + rows;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < keys; j += k.lanes) {
        const int64_t seen = i + r + 1 - j;
        auto mix = hn::Zero(d);
        if (seen > 0) mix = hn::Mul(hn::LoadU(d, s.CB + (i + r) * k.Qp + j), PairDecay(k, head, i + r, j));
        if (seen > 0 && seen < k.lanes) mix = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(seen)), mix);
        hn::StoreU(mix, d, s.panel + r * k.Qp + j);
      }
    SmallGemm({.a = s.panel,
               .a_row = k.Qp,
               .a_k = 1,
               .b = Bytes(s.u),
               .b_row = k.Pp * 4,
               .c = y + i * k.di,
               .c_row = k.di,
               .M = rows,
               .N = a.P,
               .K = keys,
               .beta = k.first ? nullptr : s.lead + head * k.Qp + i,
               .beta_row = 1});
    for (int64_t r = i; r < i + rows; ++r)
      for (int64_t p = 0; p < a.P; p += k.lanes) {
        const size_t left = Left(a.P, p);
        float* to = y + r * k.di + p;
        StorePart(hn::MulAdd(skip, LoadPart(d, x + r * k.cd + p, left), LoadPart(d, to, left)), d, to, left);
      }
  }
}

void MambaChunkOutputs(const MambaTrainArgs& a, int64_t c, float* scratch) {
  const MambaView k(a, c, scratch);
  const float* xBC = a.xBC + k.chunk.begin * k.cd;
  float* y = a.y + k.chunk.begin * k.di;
  PrepareSteps<false>(k);
  for (int64_t g = 0; g < a.G; ++g) {
    PrepareGroup(k, xBC, g);
    if (!k.first)
      SmallGemm({.a = xBC + k.di + (a.G + g) * a.N,
                 .a_row = k.cd,
                 .a_k = 1,
                 .b = Bytes(a.states + k.StateAt(g)),
                 .b_row = k.Hg * a.P * 4,
                 .c = y + g * k.Hg * a.P,
                 .c_row = k.di,
                 .M = k.q,
                 .N = k.Hg * a.P,
                 .K = a.N});
    for (int64_t h = g * k.Hg; h < (g + 1) * k.Hg; ++h) HeadOutputs(k, h);
  }
  RmsNorm({.x = y,
           .w = a.norm,
           .y = a.out + k.chunk.begin * k.di,
           .T = k.q,
           .D = k.di,
           .groups = a.norm_groups,
           .eps = a.eps,
           .z = k.Projected(),
           .z_stride = k.W});
}

// ---- Backward ----

// One group of a token: v = y silu(z), out = rstd v w;  dv = rstd (g - v rstd^2 mean(g v)), g = dout w. dy and dz are
// written, dw is added to.
void BackwardGate(const float* y, const float* z, const float* w, const float* dout, float eps, int64_t width,
                  float* sigmoids, float* dy, float* dz, float* dw) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto one = hn::Set(d, 1.0f);
  auto squares = hn::Zero(d), products = squares;
  for (int64_t i = 0; i < width; i += lanes) {
    const size_t left = Left(width, i);
    const auto zi = LoadPart(d, z + i, left), sigmoid = Sigmoid(zi);
    const auto v = hn::Mul(LoadPart(d, y + i, left), hn::Mul(zi, sigmoid));
    StorePart(sigmoid, d, sigmoids + i, left);
    squares = hn::MulAdd(v, v, squares);
    products = hn::MulAdd(hn::Mul(LoadPart(d, dout + i, left), LoadPart(d, w + i, left)), v, products);
  }
  const float n = static_cast<float>(width), inverse = 1.0f / std::sqrt(ReduceSum(d, squares) / n + eps);
  const auto rstd = hn::Set(d, inverse), pull = hn::Set(d, ReduceSum(d, products) * inverse * inverse / n);
  for (int64_t i = 0; i < width; i += lanes) {
    const size_t left = Left(width, i);
    const auto yi = LoadPart(d, y + i, left), zi = LoadPart(d, z + i, left), sigmoid = LoadPart(d, sigmoids + i, left);
    const auto gi = LoadPart(d, dout + i, left), silu = hn::Mul(zi, sigmoid), v = hn::Mul(yi, silu);
    const auto dv = hn::Mul(rstd, hn::NegMulAdd(v, pull, hn::Mul(gi, LoadPart(d, w + i, left))));
    StorePart(hn::Mul(dv, silu), d, dy + i, left);
    StorePart(hn::Mul(hn::Mul(dv, yi), hn::Mul(sigmoid, hn::MulAdd(zi, hn::Sub(one, sigmoid), one))), d, dz + i, left);
    StorePart(hn::MulAdd(hn::Mul(gi, rstd), v, LoadPart(d, dw + i, left)), d, dw + i, left);
  }
}

// dy goes where dx will be. dstates = sum_i exp(a_i) C_i (x) dy_i.
void MambaBackwardStates(const MambaTrainArgs& a, int64_t c, float* sums, float* scratch) {
  const MambaView k(a, c, scratch);
  const FloatTag d;
  const int64_t width = k.di / a.norm_groups;
  for (int64_t t = k.chunk.begin; t < k.chunk.end; ++t)
    for (int64_t i = 0; i < k.di; i += width) {
      float* to = a.dprojected + t * k.W + i;
      BackwardGate(a.y + t * k.di + i, a.projected + t * k.W + i, a.norm + i, a.dout + t * k.di + i, a.eps, width,
                   k.s.line, to + k.di, to, sums + i);
    }
  if (k.first) return;  // no chunk before it
  Convolve(k, k.di + a.G * a.N, k.cd, k.s.xBC, nullptr);
  PrepareSteps<false>(k);
  const float* dy = a.dprojected + k.chunk.begin * k.W + k.di;
  for (int64_t j = 0; j < k.q; ++j)
    for (int64_t h = 0; h < a.H; ++h) {
      const auto scale = hn::Set(d, k.s.lead[h * k.Qp + j]);
      for (int64_t p = 0; p < a.P; p += k.lanes) {
        const size_t left = Left(a.P, p);
        StorePart(hn::Mul(scale, LoadPart(d, dy + j * k.W + h * a.P + p, left)), d, k.s.wide + j * k.di + h * a.P + p,
                  left);
      }
    }
  for (int64_t g = 0; g < a.G; ++g)
    SmallGemm({.a = k.s.xBC + k.di + (a.G + g) * a.N,
               .a_row = 1,
               .a_k = k.cd,
               .b = Bytes(k.s.wide + g * k.Hg * a.P),
               .b_row = k.di * 4,
               .c = a.dstates + k.StateAt(g),
               .c_row = k.Hg * a.P,
               .M = a.N,
               .N = k.Hg * a.P,
               .K = k.q});
}

// dH_c = dstates_c + decay_c dH_{c+1}; dH_{c+1}, the gradient of the state after chunk c, takes the place of dstates_c.
void MambaPassGradients(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1, float* scratch) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t Hg = a.H / a.G, width = Hg * a.P;
  float* carry = scratch;  // [width]
  for (int64_t n = n0; n < n1; ++n)
    for (int64_t c = c1 - 1; c >= c0; --c) {
      const bool first = a.chunks[c].begin == a.chunks[c].document;
      const bool next = c + 1 < c1 && a.chunks[c + 1].document == a.chunks[c].document;
      for (int64_t h = 0; h < Hg; ++h) {
        const auto decay = hn::Set(d, a.decay[c * a.H + n / a.N * Hg + h]);
        float* state = a.dstates + (c * a.G * a.N + n) * width + h * a.P;
        for (int64_t p = 0; p < a.P; p += lanes) {
          const size_t left = Left(a.P, p);
          const auto after = next ? LoadPart(d, carry + h * a.P + p, left) : hn::Zero(d);
          if (!first) StorePart(hn::MulAdd(decay, after, LoadPart(d, state + p, left)), d, carry + h * a.P + p, left);
          StorePart(after, d, state + p, left);
        }
      }
    }
}

// Row i of a head's pairs, panel row r holding dy_i u_j: mix = exp(a_i - a_j) C_i B_j, dCB += exp(a_i - a_j) dy_i u_j;
// the pull on a_i - a_j, which a pair of a token with itself has none of.
HWY_INLINE void BackwardPairs(const MambaView& k, int64_t head, int64_t i, int64_t r, int64_t keys) {
  const MambaScratch& s = k.s;
  const FloatTag d;
  float *mix = s.mix + i * k.Qp, *dCB = s.dCB + i * k.Qp, *earlier = s.pulls + k.Qp;
  const float *CB = s.CB + i * k.Qp, *dyu = s.panel + r * k.Qp;
  auto later = hn::Zero(d);
  int64_t j = 0;
  for (; j <= i; j += k.lanes) {
    const auto cb = hn::LoadU(d, CB + j), decay = PairDecay(k, head, i, j), g = hn::Mul(hn::LoadU(d, dyu + j), decay);
    auto m = hn::Mul(cb, decay), dcb = g, pull = hn::Mul(g, cb);
    if (i - j < k.lanes) {
      const auto before = hn::FirstN(d, static_cast<size_t>(i - j)),
                 seen = hn::FirstN(d, static_cast<size_t>(i - j + 1));
      m = hn::IfThenElseZero(seen, m), dcb = hn::IfThenElseZero(seen, dcb), pull = hn::IfThenElseZero(before, pull);
    }
    hn::StoreU(m, d, mix + j);
    hn::StoreU(hn::Add(hn::LoadU(d, dCB + j), dcb), d, dCB + j);
    hn::StoreU(hn::Add(hn::LoadU(d, earlier + j), pull), d, earlier + j);
    later = hn::Add(later, pull);
  }
  for (; j < keys; j += k.lanes) hn::StoreU(hn::Zero(d), d, mix + j);
  s.pulls[i] = ReduceSum(d, later);
}

HWY_INLINE float DotPart(const float* x, const float* y, int64_t n) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < n; i += lanes)
    sum = hn::MulAdd(LoadPart(d, x + i, Left(n, i)), LoadPart(d, y + i, Left(n, i)), sum);
  return ReduceSum(d, sum);
}

// What the state after the chunk wants, S' = exp(a_last) H + sum_j exp(a_last - a_j) B_j (x) u_j, of B and the decays:
// dB_j += exp(a_last - a_j) dS' u_j. Overwrites u. Returns the pull on a_last that the state before has.
double BackwardStateAfter(const MambaView& k, int64_t g, int64_t head) {
  const MambaTrainArgs& a = k.a;
  const MambaScratch& s = k.s;
  const FloatTag d;
  const int64_t width = k.Hg * a.P, at = k.StateAt(g) + (head - g * k.Hg) * a.P;
  const float *dafter = a.dstates + at, *before = a.states + at, *tail = s.tail + head * k.Qp;
  TransposeScaled(dafter, width, a.N, a.P, 1.0f, s.HT, k.Np);
  for (int64_t j = 0; j < k.q; ++j)
    for (int64_t p = 0; p < a.P; p += k.lanes)
      hn::StoreU(hn::Mul(hn::Set(d, tail[j]), hn::LoadU(d, s.u + j * k.Pp + p)), d, s.u + j * k.Pp + p);
  SmallGemm({.a = s.u,
             .a_row = k.Pp,
             .a_k = 1,
             .b = Bytes(s.HT),
             .b_row = k.Np * 4,
             .c = s.dB,
             .c_row = k.Np,
             .M = k.q,
             .N = a.N,
             .K = a.P,
             .beta = &kOne});
  if (k.first) return 0;
  auto sum = hn::Zero(d);
  for (int64_t n = 0; n < a.N; ++n)
    for (int64_t p = 0; p < a.P; p += k.lanes)
      sum = hn::MulAdd(LoadPart(d, dafter + n * width + p, Left(a.P, p)),
                       LoadPart(d, before + n * width + p, Left(a.P, p)), sum);
  return static_cast<double>(a.decay[k.number * a.H + head] * ReduceSum(d, sum));
}

// What the outputs want of exp(a_i) C_i H: dC_i += exp(a_i) H dy_i, and the pull on a_i.
void BackwardStateBefore(const MambaView& k, int64_t g, int64_t head, const float* C, const float* dy) {
  const MambaTrainArgs& a = k.a;
  const MambaScratch& s = k.s;
  const FloatTag d;
  TransposeScaled(a.states + k.StateAt(g) + (head - g * k.Hg) * a.P, k.Hg * a.P, a.N, a.P, 1.0f, s.HT, k.Np);
  SmallGemm({.a = dy,
             .a_row = k.W,
             .a_k = 1,
             .b = Bytes(s.HT),
             .b_row = k.Np * 4,
             .c = s.dyH,
             .c_row = k.Np,
             .M = k.q,
             .N = a.N,
             .K = a.P});
  for (int64_t i = 0; i < k.q; ++i) {
    const auto lead = hn::Set(d, s.lead[head * k.Qp + i]);
    auto sum = hn::Zero(d);
    for (int64_t n = 0; n < a.N; n += k.lanes) {
      const size_t left = Left(a.N, n);
      const auto want = hn::Mul(lead, LoadPart(d, s.dyH + i * k.Np + n, left));
      float* to = s.dC + i * k.Np + n;
      StorePart(hn::Add(LoadPart(d, to, left), want), d, to, left);
      sum = hn::MulAdd(want, LoadPart(d, C + i * k.cd + n, left), sum);
    }
    s.pulls[i] += ReduceSum(d, sum);
  }
}

// Gradients of a head: x and raw dt are written, B C, B, C and the sums added to. du = Z at first, dS' B_j for each
// token.
void BackwardHead(const MambaView& k, int64_t g, int64_t head, float* sums) {
  const MambaTrainArgs& a = k.a;
  const MambaScratch& s = k.s;
  const FloatTag d;
  const float *x = s.xBC + head * a.P, *dsilu = s.dsilu + head * a.P, *C = s.xBC + k.di + (a.G + g) * a.N;
  const float *dt = s.dt + head * k.Qp, *tail = s.tail + head * k.Qp;
  float *dprojected = a.dprojected + k.chunk.begin * k.W, *dy = dprojected + k.di + head * a.P,
        *du = s.wide + head * a.P;
  float *pulls = s.pulls, *earlier = s.pulls + k.Qp, *after = s.pulls + 2 * k.Qp;
  ScaleByDt(k, x, head);
  TransposeScaled(s.u, k.Pp, k.q, a.P, 1.0f, s.uT, k.Qp);
  for (int64_t p = 0; p < a.P; ++p)
    for (int64_t j = k.q; j < k.Padded(k.q); ++j) s.uT[p * k.Qp + j] = 0;
  for (int64_t j = 0; j < k.q; ++j) after[j] = k.next ? tail[j] * DotPart(s.u + j * k.Pp, du + j * k.di, a.P) : 0.0f;
  for (int64_t j = 0; j < k.Padded(k.q); ++j) earlier[j] = 0;
  for (int64_t i = 0; i < k.q; i += kMambaPanel) {
    const int64_t rows = HWY_MIN(kMambaPanel, k.q - i), keys = k.Padded(i + rows);
    SmallGemm({.a = dy + i * k.W,
               .a_row = k.W,
               .a_k = 1,
               .b = Bytes(s.uT),
               .b_row = k.Qp * 4,
               .c = s.panel,
               .c_row = k.Qp,
               .M = rows,
               .N = keys,
               .K = a.P});
    for (int64_t r = 0; r < rows; ++r) BackwardPairs(k, head, i + r, r, keys);
  }
  // du_j = exp(a_last - a_j) dS' B_j + sum_{i >= j} mix_ij dy_i
  for (int64_t j = 0; j < k.q; j += kMambaPanel)
    SmallGemm({.a = s.mix + j * k.Qp + j,
               .a_row = 1,
               .a_k = k.Qp,
               .b = Bytes(dy + j * k.W),
               .b_row = k.W * 4,
               .c = du + j * k.di,
               .c_row = k.di,
               .M = HWY_MIN(kMambaPanel, k.q - j),
               .N = a.P,
               .K = k.q - j,
               .beta = k.next ? tail + j : nullptr,
               .beta_row = 1});
  double all = k.next ? BackwardStateAfter(k, g, head) : 0;
  if (!k.first) BackwardStateBefore(k, g, head, C, dy);

  // dt_m A is in a_i for all i >= m: pulls of later tokens of pairs and of the state before reach it from m on, those
  // of earlier tokens take back the pairs behind m, those of the state after come from the tokens before m.
  for (int64_t j = 0; j < k.q; ++j) all += static_cast<double>(after[j]);
  double dA = 0, dbias = 0;
  auto dD = hn::Zero(d);
  const auto skip = hn::Set(d, a.D[head]);
  for (int64_t m = k.q - 1; m >= 0; --m) {
    all += static_cast<double>(pulls[m]) - static_cast<double>(earlier[m]) - static_cast<double>(after[m]);
    const auto step = hn::Set(d, dt[m]);
    auto xdu = hn::Zero(d);
    for (int64_t p = 0; p < a.P; p += k.lanes) {
      const size_t left = Left(a.P, p);
      const auto xp = LoadPart(d, x + m * k.cd + p, left), dup = LoadPart(d, du + m * k.di + p, left);
      const auto dyp = LoadPart(d, dy + m * k.W + p, left);
      xdu = hn::MulAdd(xp, dup, xdu);
      dD = hn::MulAdd(xp, dyp, dD);
      const auto dx = hn::MulAdd(step, dup, hn::Mul(skip, dyp));
      StorePart(hn::Mul(dx, LoadPart(d, dsilu + m * k.cd + p, left)), d, dy + m * k.W + p, left);
    }
    dA += static_cast<double>(dt[m]) * all;
    const float draw = (static_cast<float>(all) * a.A[head] + ReduceSum(d, xdu)) * s.slope[head * k.Qp + m];
    dprojected[m * k.W + k.di + k.cd + head] = draw;
    dbias += static_cast<double>(draw);
  }
  float* sum = sums + k.di + head;
  sum[0] += ReduceSum(d, dD);
  sum[a.H] += static_cast<float>(dA);
  sum[2 * a.H] += static_cast<float>(dbias);
}

// dC_i += dCB_ij B_j, dB_j += dCB_ij C_i, times silu's slope into place.
void BackwardGroup(const MambaView& k, int64_t g) {
  const MambaTrainArgs& a = k.a;
  const MambaScratch& s = k.s;
  const FloatTag d;
  const float *B = s.xBC + k.di + g * a.N, *C = B + a.G * a.N;
  for (int64_t i = 0; i < k.q; i += kMambaPanel) {
    const int64_t rows = HWY_MIN(kMambaPanel, k.q - i);
    SmallGemm({.a = s.dCB + i * k.Qp,
               .a_row = k.Qp,
               .a_k = 1,
               .b = Bytes(B),
               .b_row = k.cd * 4,
               .c = s.dC + i * k.Np,
               .c_row = k.Np,
               .M = rows,
               .N = a.N,
               .K = i + rows,
               .beta = &kOne});
    SmallGemm({.a = s.dCB + i * k.Qp + i,
               .a_row = 1,
               .a_k = k.Qp,
               .b = Bytes(C + i * k.cd),
               .b_row = k.cd * 4,
               .c = s.dB + i * k.Np,
               .c_row = k.Np,
               .M = rows,
               .N = a.N,
               .K = k.q - i,
               .beta = &kOne});
  }
  for (int64_t t = 0; t < k.q; ++t)
    for (int64_t n = 0; n < a.N; n += k.lanes) {
      const size_t left = Left(a.N, n);
      const float* slope = s.dsilu + t * k.cd + k.di + g * a.N + n;
      float* to = a.dprojected + (k.chunk.begin + t) * k.W + 2 * k.di + g * a.N + n;
      StorePart(hn::Mul(LoadPart(d, slope, left), LoadPart(d, s.dB + t * k.Np + n, left)), d, to, left);
      StorePart(hn::Mul(LoadPart(d, slope + a.G * a.N, left), LoadPart(d, s.dC + t * k.Np + n, left)), d,
                to + a.G * a.N, left);
    }
}

void MambaBackwardInputs(const MambaTrainArgs& a, int64_t c, float* sums, float* scratch) {
  const MambaView k(a, c, scratch);
  const MambaScratch& s = k.s;
  Convolve(k, 0, k.cd, s.xBC, s.dsilu);
  PrepareSteps<true>(k);
  for (int64_t g = 0; g < a.G; ++g) {
    PrepareGroup(k, s.xBC, g);
    const auto clear = [](float* p, int64_t n) { std::memset(p, 0, static_cast<size_t>(n) * sizeof(float)); };
    clear(s.dCB, k.q * k.Qp);
    clear(s.dB, k.q * k.Np);
    clear(s.dC, k.q * k.Np);
    if (k.next)
      SmallGemm({.a = s.xBC + k.di + g * a.N,
                 .a_row = k.cd,
                 .a_k = 1,
                 .b = Bytes(a.dstates + k.StateAt(g)),
                 .b_row = k.Hg * a.P * 4,
                 .c = s.wide + g * k.Hg * a.P,
                 .c_row = k.di,
                 .M = k.q,
                 .N = k.Hg * a.P,
                 .K = a.N});
    for (int64_t h = g * k.Hg; h < (g + 1) * k.Hg; ++h) BackwardHead(k, g, h, sums);
    BackwardGroup(k, g);
  }
}

// One vector of channels through a document's tokens, in place: dx_t = sum_j w[K-1-j] g_{t+j}, dw[K-1-j] += g_t
// x_{t-j}.
template <int kTaps>
HWY_INLINE void BackwardTaps(const float* x, float* g, int64_t stride, int64_t T, const float* taps, float* dtaps,
                             int64_t cd, size_t left) {
  const FloatTag d;
  constexpr int64_t kBlock = 128;  // tokens summed before they go to memory
  FloatVec w[kTaps], gs[kTaps], xs[kTaps], sums[kTaps + 1];
  for (int i = 0; i < kTaps; ++i) {
    w[i] = LoadPart(d, taps + i * cd, left);
    xs[i] = hn::Zero(d);
    gs[i] = i + 1 < kTaps && i < T ? LoadPart(d, g + i * stride, left) : hn::Zero(d);
  }
  for (int64_t t0 = 0; t0 < T; t0 += kBlock) {
    for (int i = 0; i <= kTaps; ++i) sums[i] = hn::Zero(d);
    for (int64_t t = t0; t < HWY_MIN(t0 + kBlock, T); ++t, x += stride, g += stride) {
      gs[kTaps - 1] = t + kTaps - 1 < T ? LoadPart(d, g + (kTaps - 1) * stride, left) : hn::Zero(d);
      for (int i = kTaps - 1; i > 0; --i) xs[i] = xs[i - 1];
      xs[0] = LoadPart(d, x, left);
      auto dx = hn::Zero(d);
      for (int i = 0; i < kTaps; ++i) {
        dx = hn::MulAdd(w[kTaps - 1 - i], gs[i], dx);
        sums[kTaps - 1 - i] = hn::MulAdd(gs[0], xs[i], sums[kTaps - 1 - i]);
      }
      sums[kTaps] = hn::Add(sums[kTaps], gs[0]);
      StorePart(dx, d, g, left);
      for (int i = 0; i + 1 < kTaps; ++i) gs[i] = gs[i + 1];
    }
    for (int i = 0; i <= kTaps; ++i)
      StorePart(hn::Add(sums[i], LoadPart(d, dtaps + i * cd, left)), d, dtaps + i * cd, left);
  }
}

template <int kTaps>
void BackwardConvTaps(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t d0, int64_t d1, float* dtaps) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  const int64_t di = a.H * a.P, cd = di + 2 * a.G * a.N, W = di + cd + a.H;
  for (int64_t c = c0, end; c < c1; c = end) {
    end = c + 1;
    while (end < c1 && a.chunks[end].document == a.chunks[c].document) ++end;
    const int64_t begin = a.chunks[c].begin, at = begin * W + di;
    for (int64_t i = d0; i < d1; i += lanes)
      BackwardTaps<kTaps>(a.projected + at + i, a.dprojected + at + i, W, a.chunks[end - 1].end - begin, a.taps + i,
                          dtaps + i, cd, Left(d1, i));
  }
}

void MambaBackwardConv(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t d0, int64_t d1, float* dtaps) {
  switch (a.K) {
    case 1: return BackwardConvTaps<1>(a, c0, c1, d0, d1, dtaps);
    case 2: return BackwardConvTaps<2>(a, c0, c1, d0, d1, dtaps);
    case 3: return BackwardConvTaps<3>(a, c0, c1, d0, d1, dtaps);
    case 4: return BackwardConvTaps<4>(a, c0, c1, d0, d1, dtaps);
    default: break;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(MambaChunkStates);
HWY_EXPORT(MambaPassStates);
HWY_EXPORT(MambaChunkOutputs);
HWY_EXPORT(MambaBackwardStates);
HWY_EXPORT(MambaPassGradients);
HWY_EXPORT(MambaBackwardInputs);
HWY_EXPORT(MambaBackwardConv);

namespace {
void CheckChunk(const MambaTrainArgs& a, int64_t c) {
  HYDRA_CHECK(0 <= c && c < a.n_chunks && 1 <= a.K && a.K <= kMambaTaps && a.G >= 1 && a.H % a.G == 0);
  const MambaChunk& chunk = a.chunks[c];
  HYDRA_CHECK(chunk.document <= chunk.begin && chunk.begin < chunk.end && chunk.end - chunk.begin <= a.Q);
}
}  // namespace

int64_t MambaScratchFloats(const MambaTrainArgs& a) {
  MambaScratch s;
  return LayOut(nullptr, a, &s);
}

void MambaChunkStates(const MambaTrainArgs& a, int64_t chunk, float* scratch) {
  CheckChunk(a, chunk);
  HYDRA_DISPATCH(MambaChunkStates)(a, chunk, scratch);
}
void MambaPassStates(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1, float* scratch) {
  HYDRA_DISPATCH(MambaPassStates)(a, c0, c1, n0, n1, scratch);
}
void MambaChunkOutputs(const MambaTrainArgs& a, int64_t chunk, float* scratch) {
  CheckChunk(a, chunk);
  HYDRA_DISPATCH(MambaChunkOutputs)(a, chunk, scratch);
}
void MambaBackwardStates(const MambaTrainArgs& a, int64_t chunk, float* sums, float* scratch) {
  CheckChunk(a, chunk);
  HYDRA_DISPATCH(MambaBackwardStates)(a, chunk, sums, scratch);
}
void MambaPassGradients(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t n0, int64_t n1, float* scratch) {
  HYDRA_DISPATCH(MambaPassGradients)(a, c0, c1, n0, n1, scratch);
}
void MambaBackwardInputs(const MambaTrainArgs& a, int64_t chunk, float* sums, float* scratch) {
  CheckChunk(a, chunk);
  HYDRA_DISPATCH(MambaBackwardInputs)(a, chunk, sums, scratch);
}
void MambaBackwardConv(const MambaTrainArgs& a, int64_t c0, int64_t c1, int64_t d0, int64_t d1, float* dtaps) {
  HYDRA_CHECK(1 <= a.K && a.K <= kMambaTaps);
  HYDRA_DISPATCH(MambaBackwardConv)(a, c0, c1, d0, d1, dtaps);
}

}  // namespace hydra::kernels
#endif
