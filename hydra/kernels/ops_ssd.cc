// SPDX-License-Identifier: Apache-2.0
// SSD, Mamba-2's recurrence: one token in place, many by chunks of small dense products. Formulas: specs/hydra.md 2.2
// and 2.3. Not here: convolution and dt before it (ops_ssm.cc), the gated norm behind it (ops_rows.cc).
// Dims: q tokens of a chunk, H heads, P head_dim, N d_state, G groups. Np, Pp, Qp: rounded up to kAlign.
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"
#include "hydra/kernels/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/ops_ssd.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_gemm-inl.h"
#include "hydra/kernels/simd_kv-inl.h"
#include "hydra/kernels/simd_math-inl.h"

#ifndef HYDRA_KERNELS_OPS_SSD_ONCE  // what does not depend on the level
#define HYDRA_KERNELS_OPS_SSD_ONCE
namespace hydra::kernels {

constexpr int64_t kPanelRows = 6;  // tokens whose mixing rows are made at a time

// What one call needs beside its arguments.
struct SsdScratch {
  float* BT;     // [N, Qp]   the chunk's B of a group, transposed
  float* B;      // [Q, Np]   and as it is, packed, as rows far apart are slow to come back to
  float* C;      // [Q, Np]
  float* CB;     // [Q, Qp]   C_i B_j, for j <= i and up to the end of that tile
  float* x;      // [Q, Pp]   x_j of a head, later exp(a_last - a_j) dt_j x_j
  float* y;      // [Q, Pp]   H C_i
  float* HT;     // [N, Pp]   the state of a head, transposed
  float* H;      // [P, N]    the state of a head where that is not stored as f32
  float* panel;  // [kPanelRows, Qp] exp(a_i - a_j) (C_i B_j) dt_j, and D on the diagonal
  float* dt;     // [Qp]
  float* hi;  // [Qp] a_j = hi + lo: the sums of dA are kept to more than f32, for differences of large ones are small
  float* lo;  // [Qp]
  float* decay;  // [Qp] exp(a_j)
  float* tail;   // [Qp] exp(a_last - a_j) dt_j
};
// Lays the parts out from `base`; returns the floats of all.
inline int64_t LayOut(float* base, int64_t Q, int64_t P, int64_t N, SsdScratch* s) {
  const int64_t Qp = RoundUp(Q), Pp = RoundUp(P), Np = RoundUp(N);
  ScratchParts take(base);
  *s = {.BT = take(N * Qp),
        .B = take(Q * Np),
        .C = take(Q * Np),
        .CB = take(Q * Qp),
        .x = take(Q * Pp),
        .y = take(Q * Pp),
        .HT = take(N * Pp),
        .H = take(P * N),
        .panel = take(kPanelRows * Qp),
        .dt = take(Qp),
        .hi = take(Qp),
        .lo = take(Qp),
        .decay = take(Qp),
        .tail = take(Qp)};
  return take.used();
}

}  // namespace hydra::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// ---- One token ----

// Bytes ahead of those in work that StepRows asks for: the processor's own prefetching ends with each page.
constexpr int64_t kStateAhead = 4096;

// R rows of a head's state: h = decay h + dx B, y = h C + Dx, each number read and written once.
template <class Row, int R>
HWY_INLINE void StepRows(std::byte* h, const float* x, const float* B, const float* C, float decay, float dt, float D,
                         int64_t N, float* y) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto decays = hn::Set(d, decay);
  FloatVec sums[4], dx[R];
  Repeat<4>([&](auto r) HYDRA_TILE_LAMBDA { sums[r] = hn::Zero(d); });
  Repeat<R>([&](auto r) HYDRA_TILE_LAMBDA { dx[r] = hn::Set(d, dt * x[r]); });
  for (int64_t n = 0; n < N; n += lanes) {
    const auto b = LoadPart(d, B + n, Left(N, n)), c = LoadPart(d, C + n, Left(N, n));
    Repeat<R>([&](auto r) HYDRA_TILE_LAMBDA {
      std::byte* row = h + r * N * Row::kBytes;
      __builtin_prefetch(row + n * Row::kBytes + kStateAhead, 1, 3);
      const auto next = hn::MulAdd(dx[r], b, hn::Mul(decays, Row::Load(row, n, Left(N, n))));
      Row::Store(next, row, n, Left(N, n));
      sums[r] = hn::MulAdd(next, c, sums[r]);
    });
  }
  float out[4];
  ReduceSum4(sums[0], sums[1], sums[2], sums[3], out);
  for (int r = 0; r < R; ++r) y[r] = out[r] + D * x[r];
}

template <class Row>
void Step(const SsdArgs& a) {
  const int64_t row = a.N * Row::kBytes;
  for (int64_t head = a.h0; head < a.h1; ++head) {
    const float* B = a.B + head * a.G / a.H * a.N;
    const float* C = a.C + head * a.G / a.H * a.N;
    const float* x = a.x + head * a.P;
    std::byte* h = static_cast<std::byte*>(a.state) + head * a.P * row;
    float* y = a.y + head * a.P;
    const float dt = a.dt[head], decay = std::exp(dt * a.A[head]), D = a.D[head];
    int64_t p = 0;
    for (; p + 4 <= a.P; p += 4) StepRows<Row, 4>(h + p * row, x + p, B, C, decay, dt, D, a.N, y + p);
    for (; p < a.P; ++p) StepRows<Row, 1>(h + p * row, x + p, B, C, decay, dt, D, a.N, y + p);
  }
}

// ---- Chunks ----

struct Chunk {
  const SsdArgs& a;
  const SsdScratch& s;
  int64_t t0, q;        // first token, tokens
  int64_t xs, bcs, ys;  // strides
  int64_t Qp, Pp, Np;
};

// n numbers of each of the chunk's rows, `stride` apart, to rows `width` apart.
HWY_INLINE void PackRows(const float* x, int64_t stride, int64_t rows, int64_t n, float* out, int64_t width) {
  const FloatTag d;
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d)))
      hn::StoreU(LoadPart(d, x + j * stride + i, Left(n, i)), d, out + j * width + i);
}

// B and C of a group packed, B transposed too; C_i B_j for all j <= i.
void PrepareGroup(const Chunk& k, int64_t group) {
  const SsdArgs& a = k.a;
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  PackRows(a.B + k.t0 * k.bcs + group * a.N, k.bcs, k.q, a.N, k.s.B, k.Np);
  PackRows(a.C + k.t0 * k.bcs + group * a.N, k.bcs, k.q, a.N, k.s.C, k.Np);
  TransposeScaled(k.s.B, k.Np, k.q, a.N, 1.0f, k.s.BT, k.Qp);
  const int64_t padded = (k.q + lanes - 1) / lanes * lanes;
  for (int64_t n = 0; n < a.N; ++n)
    for (int64_t j = k.q; j < padded; ++j) k.s.BT[n * k.Qp + j] = 0;  // read by the last vectors, then masked out
  for (int64_t i = 0; i < k.q; i += kPanelRows) {
    const int64_t rows = HWY_MIN(kPanelRows, k.q - i);
    SmallGemm({.a = k.s.C + i * k.Np,
               .a_row = k.Np,
               .a_k = 1,
               .b = reinterpret_cast<const std::byte*>(k.s.BT),
               .b_row = k.Qp * 4,
               .c = k.s.CB + i * k.Qp,
               .c_row = k.Qp,
               .M = rows,
               .N = (i + rows + lanes - 1) / lanes * lanes,
               .K = a.N});
  }
}

// The sums of dA, the decays made of them, x packed. Exponents are differences first and never positive.
void PrepareHead(const Chunk& k, int64_t head) {
  const SsdArgs& a = k.a;
  const SsdScratch& s = k.s;
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  double sum = 0;
  for (int64_t j = 0; j < k.q; ++j) {
    const float dt = a.dt[(k.t0 + j) * a.H + head];
    sum += static_cast<double>(dt * a.A[head]);
    s.hi[j] = static_cast<float>(sum);
    s.lo[j] = static_cast<float>(sum - static_cast<double>(s.hi[j]));
    s.dt[j] = dt;
  }
  for (int64_t j = k.q; j < k.Qp; ++j) s.hi[j] = s.lo[j] = s.dt[j] = 0;
  PackRows(a.x + k.t0 * k.xs + head * a.P, k.xs, k.q, a.P, s.x, k.Pp);
  const auto last_hi = hn::Set(d, s.hi[k.q - 1]), last_lo = hn::Set(d, s.lo[k.q - 1]);
  for (int64_t j = 0; j < k.q; j += lanes) {
    const auto hi = hn::LoadU(d, s.hi + j), lo = hn::LoadU(d, s.lo + j);
    hn::StoreU(Exp(hn::Add(hi, lo)), d, s.decay + j);
    hn::StoreU(hn::Mul(Exp(hn::Add(hn::Sub(last_hi, hi), hn::Sub(last_lo, lo))), hn::LoadU(d, s.dt + j)), d,
               s.tail + j);
  }
}

// Rows i .. i + rows - 1 of what mixes the chunk's x into y, up to the last column that any of them sees.
void MixingPanel(const Chunk& k, int64_t i, int64_t rows, float D) {
  const SsdScratch& s = k.s;
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r) {
    const auto hi = hn::Set(d, s.hi[i + r]), lo = hn::Set(d, s.lo[i + r]);
    float* panel = s.panel + r * k.Qp;
    for (int64_t j = 0; j < i + rows; j += lanes) {
      const auto gap = hn::Add(hn::Sub(hi, hn::LoadU(d, s.hi + j)), hn::Sub(lo, hn::LoadU(d, s.lo + j)));
      auto mix = hn::Mul(hn::LoadU(d, s.CB + (i + r) * k.Qp + j), hn::LoadU(d, s.dt + j));
      mix = hn::Mul(mix, Exp<true>(hn::Min(gap, hn::Zero(d))));
      if (j + lanes > i + r + 1) {  // some of these tokens come later
        const int64_t seen = i + r + 1 - j;
        mix = seen > 0 ? hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(seen)), mix) : hn::Zero(d);
      }
      hn::StoreU(mix, d, panel + j);
    }
    panel[i + r] += D;
  }
}

// x and y of the next head for the rows i ..: a row of theirs is a page apart from the next, so no prefetcher sees
// them.
HWY_INLINE void FetchNextHead(const Chunk& k, int64_t head, int64_t i, int64_t rows) {
  if (head + 1 >= k.a.h1) return;
  for (int64_t t = k.t0 + i; t < k.t0 + i + rows; ++t)
    for (int64_t p = 0; p < k.a.P; p += 16) {
      __builtin_prefetch(k.a.x + t * k.xs + (head + 1) * k.a.P + p, 0, 3);
      __builtin_prefetch(k.a.y + t * k.ys + (head + 1) * k.a.P + p, 1, 3);
    }
}

// y_i = exp(a_i) H C_i + sum_{j <= i} exp(a_i - a_j) (C_i B_j) dt_j x_j + D x_i.
void ChunkOutputs(const Chunk& k, int64_t head, const float* state) {
  const SsdArgs& a = k.a;
  const SsdScratch& s = k.s;
  TransposeScaled(state, a.N, a.P, a.N, 1.0f, s.HT, k.Pp);
  SmallGemm({.a = s.C,
             .a_row = k.Np,
             .a_k = 1,
             .b = reinterpret_cast<const std::byte*>(s.HT),
             .b_row = k.Pp * 4,
             .c = s.y,
             .c_row = k.Pp,
             .M = k.q,
             .N = a.P,
             .K = a.N});
  for (int64_t i = 0; i < k.q; i += kPanelRows) {
    const int64_t rows = HWY_MIN(kPanelRows, k.q - i);
    FetchNextHead(k, head, i, rows);
    MixingPanel(k, i, rows, a.D[head]);
    SmallGemm({.a = s.panel,
               .a_row = k.Qp,
               .a_k = 1,
               .b = reinterpret_cast<const std::byte*>(s.x),
               .b_row = k.Pp * 4,
               .c = a.y + (k.t0 + i) * k.ys + head * a.P,
               .c_row = k.ys,
               .M = rows,
               .N = a.P,
               .K = i + rows,
               .beta = s.decay + i,
               .beta_row = 1,
               .from = s.y + i * k.Pp,
               .from_row = k.Pp});
  }
}

// H = exp(a_last) H + sum_j exp(a_last - a_j) dt_j x_j (x) B_j.
void ChunkState(const Chunk& k, float* state) {
  const SsdArgs& a = k.a;
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t j = 0; j < k.q; ++j) {
    const auto scale = hn::Set(d, k.s.tail[j]);
    for (int64_t p = 0; p < a.P; p += lanes)
      hn::StoreU(hn::Mul(scale, hn::LoadU(d, k.s.x + j * k.Pp + p)), d, k.s.x + j * k.Pp + p);
  }
  SmallGemm({.a = k.s.x,
             .a_row = 1,
             .a_k = k.Pp,
             .b = reinterpret_cast<const std::byte*>(k.s.B),
             .b_row = k.Np * 4,
             .c = state,
             .c_row = a.N,
             .M = a.P,
             .N = a.N,
             .K = k.q,
             .beta = k.s.decay + k.q - 1});
}

// One head of a chunk, with its state [P, N].
void RunHead(const Chunk& k, int64_t head, float* state) {
  ChunkOutputs(k, head, state);
  ChunkState(k, state);
}
// The same with a state in bf16.
void RunRoundedHead(const Chunk& k, int64_t head) {
  const int64_t n = k.a.P * k.a.N;
  std::byte* stored = static_cast<std::byte*>(k.a.state) + head * n * BF16Row::kBytes;
  kernels::LoadKvRow(KvDtype::kBF16, stored, n, k.s.H);
  RunHead(k, head, k.s.H);
  kernels::StoreKvRow(KvDtype::kBF16, k.s.H, n, stored);
}

void Chunks(const SsdArgs& a) {
  SsdScratch s;
  LayOut(a.scratch, a.Q, a.P, a.N, &s);
  for (int64_t t = 0; t < a.T; t += a.Q) {
    const Chunk chunk{.a = a,
                      .s = s,
                      .t0 = t,
                      .q = HWY_MIN(a.Q, a.T - t),
                      .xs = a.x_stride != 0 ? a.x_stride : a.H * a.P,
                      .bcs = a.bc_stride != 0 ? a.bc_stride : a.G * a.N,
                      .ys = a.y_stride != 0 ? a.y_stride : a.H * a.P,
                      .Qp = RoundUp(a.Q),
                      .Pp = RoundUp(a.P),
                      .Np = RoundUp(a.N)};
    int64_t prepared = -1;
    for (int64_t head = a.h0; head < a.h1; ++head) {
      const int64_t group = head * a.G / a.H;
      if (group != prepared) PrepareGroup(chunk, group);
      prepared = group;
      PrepareHead(chunk, head);
      if (a.state_dtype == StateDtype::kF32) {
        RunHead(chunk, head, static_cast<float*>(a.state) + head * a.P * a.N);
      } else {
        RunRoundedHead(chunk, head);
      }
    }
  }
}

void Ssd(const SsdArgs& a) {
  if (a.T != 1) return Chunks(a);
  a.state_dtype == StateDtype::kF32 ? Step<F32Row>(a) : Step<BF16Row>(a);
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(Ssd);

void Ssd(const SsdArgs& a) {
  HYDRA_CHECK(0 <= a.h0 && a.h1 <= a.H && a.Q >= 1 && a.G >= 1 && a.H % a.G == 0);
  HYDRA_DISPATCH(Ssd)(a);
}

int64_t SsdScratchFloats(int64_t Q, int64_t P, int64_t N) {
  SsdScratch s;
  return LayOut(nullptr, Q, P, N, &s);
}

}  // namespace hydra::kernels
#endif
