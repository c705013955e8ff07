// SPDX-License-Identifier: Apache-2.0
// The list's kernels along time: convolution, dt, SSD, the diagonal recurrence. `size` is the number of channels, heads
// or, for SSD, of P or N; P 64 with N 64 and with N 128, which the presets have, are among its sizes. Dims as in ops.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/ops.h"
#include "hydra/tensor/dtype.h"

namespace hydra::kernels {
namespace {

// A part of the channels 0 .. n - 1 that is not empty, as a thread has it: its first one, and the one behind its last.
std::pair<int64_t, int64_t> DrawRange(int64_t n, Rng& rng) {
  const auto below = [&](int64_t limit) { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(limit))); };
  const int64_t first = below(n);
  return {first, rng.Below(2) == 0 ? n : first + 1 + below(n - first)};
}

// ---- Conv ----

struct ConvShape {
  int64_t T, C, K, gap = 0, c0 = 0, c1 = 0;
  bool bias = true;
};
KernelCase ConvCase(const ConvShape& s, uint64_t seed) {
  struct Inputs {
    std::vector<float> x, w, b;
  };
  const int64_t xs = s.C + s.gap, ys = s.C + s.gap / 2;
  const auto in =
      std::make_shared<Inputs>(Inputs{Normals(s.T * xs, seed), Normals(s.C * s.K, seed + 1), Normals(s.C, seed + 2)});
  KernelCase c;
  c.text = StrCat("T ", s.T, " C ", s.C, " K ", s.K, s.bias ? "" : " no bias");
  if (s.c1 > 0) c.text += StrCat(" channels ", s.c0, " to ", s.c1);
  // K + 1 terms of at most 4 deviations each; silu's slope is at most 1.1.
  c.written = {{"y", Blank(s.T * ys), s.K + 6, 16 * static_cast<double>(s.K + 1)},
               {"state", Normals((s.K - 1) * s.C, seed + 3), kSameBits}};
  c.bytes = static_cast<double>(8 * s.T * s.C);
  const auto args = [=](Arrays& out) {
    return ConvArgs{.x = in->x.data(),
                    .w = in->w.data(),
                    .b = s.bias ? in->b.data() : nullptr,
                    .state = out[1].data(),
                    .y = out[0].data(),
                    .T = s.T,
                    .C = s.C,
                    .K = s.K,
                    .x_stride = xs,
                    .y_stride = ys,
                    .c0 = s.c0,
                    .c1 = s.c1};
  };
  SetCalls(c, args, Conv, ref::Conv);
  return c;
}

Kernel ConvKernel() {
  const auto at_random = [](size_t form, int64_t size, uint64_t seed) {
    Rng rng(seed, static_cast<uint64_t>(size));
    constexpr int64_t kTaps[] = {1, 2, 3, 4, 5, 64};
    ConvShape s{static_cast<int64_t>(1 + rng.Below(9)), size, kTaps[rng.Below(6)], 5};
    s.bias = form == 0;
    if (rng.Below(2) == 0) std::tie(s.c0, s.c1) = DrawRange(size, rng);
    return ConvCase(s, seed);
  };
  return {.name = "Conv",
          .forms = {"bias", "no bias"},
          .max_size = 130,
          .at_random = at_random,
          .bench = {{"conv",
                     [](uint64_t seed) {
                       return ConvCase({512, 1536, 4}, seed);
                     }},
                    {"conv", [](uint64_t seed) {
                       return ConvCase({1, 1536, 4}, seed);
                     }}}};
}

// ---- Dt ----

KernelCase DtCase(bool clamped, int64_t T, int64_t H, int64_t gap, uint64_t seed) {
  struct Inputs {
    std::vector<float> raw, bias;
  };
  const int64_t stride = H + gap;
  const auto in = std::make_shared<Inputs>(Inputs{Normals(T * stride, seed, 12), Normals(H, seed + 1)});
  in->raw.front() = 60, in->raw[static_cast<size_t>((T - 1) * stride)] = -60;
  KernelCase c;
  c.text = StrCat("T ", T, " H ", H, clamped ? " clamped" : "");
  // raw + bias is rounded before softplus; where it is very negative that is relative to the result.
  c.written = {{.name = "dt", .before = Blank(T * H), .terms = kSameBits, .own = 8 + 64}};
  c.bytes = static_cast<double>(8 * T * H);
  const auto args = [=](Arrays& out) {
    return DtArgs{.raw = in->raw.data(),
                  .bias = in->bias.data(),
                  .dt = out[0].data(),
                  .T = T,
                  .H = H,
                  .stride = stride,
                  .lo = clamped ? 0.01f : 0.0f,
                  .hi = clamped ? 0.5f : INFINITY};
  };
  SetCalls(c, args, Dt, ref::Dt);
  return c;
}

Kernel DtKernel() {
  return {.name = "Dt",
          .forms = {"free", "clamped"},
          .max_size = 130,
          .at_random = [](size_t form, int64_t size, uint64_t seed) { return DtCase(form == 1, 3, size, 4, seed); },
          .bench = {{"dt", [](uint64_t seed) { return DtCase(false, 512, 24, 0, seed); }}}};
}

// ---- Ssd ----

struct SsdShape {
  int64_t T = 1, H = 1, P = 1, G = 1, N = 1, Q = 1;
  int64_t gap = 0, h0 = 0;  // heads from h0 on
  double dt = 0.3;          // its deviation
  StateDtype state = StateDtype::kF32;
};

// FLOP as the chunked form does them, the upper half of a chunk's pairs left out; bytes of a step, of the state.
void SetSsdCosts(const SsdShape& s, KernelCase& c) {
  const auto h = static_cast<double>(s.H), p = static_cast<double>(s.P), n = static_cast<double>(s.N);
  const auto pairs = static_cast<double>(std::min(s.Q, s.T) + 1) / 2;
  if (s.T == 1)
    c.bytes = (s.state == StateDtype::kF32 ? 8 : 4) * h * p * n;
  else
    c.flop = 2 * static_cast<double>(s.T) * (pairs * n + h * (pairs * p + 2 * p * n));
}

KernelCase SsdCase(const SsdShape& s, uint64_t seed) {
  struct Inputs {
    std::vector<float> xbc, dt, A, D;  // x, B and C side by side as the convolution leaves them
  };
  const int64_t stride = s.H * s.P + 2 * s.G * s.N + s.gap, ys = s.H * s.P + s.gap / 3;
  const auto in = std::make_shared<Inputs>(Inputs{Normals(s.T * stride, seed), Normals(s.T * s.H, seed + 1, s.dt),
                                                  Normals(s.H, seed + 2), Normals(s.H, seed + 3)});
  for (float& v : in->dt) v = std::abs(v);
  for (float& v : in->A) v = -std::abs(v) - 0.05f;
  KernelCase c;
  c.text =
      StrCat("T ", s.T, " H ", s.H, " P ", s.P, " G ", s.G, " N ", s.N, " Q ", s.Q, " state ", StateDtypeName(s.state));
  std::vector<float> state = Normals(s.H * s.P * s.N, seed + 4);
  // Sums of N + tokens terms; exponents up to 40 are rounded in f32.
  const int64_t terms = 40 + s.N + std::min(s.T, s.Q);
  int64_t own = 0;
  if (s.state == StateDtype::kBF16) {
    std::vector<std::byte> halves(2 * state.size());
    for (size_t i = 0; i < state.size(); ++i) {
      const uint16_t bits = FloatToBF16(state[i]);
      std::memcpy(halves.data() + 2 * i, &bits, sizeof(bits));
    }
    state = FromBytes(halves);
    own = int64_t{1} << 17;  // sums on both sides of a tie become neighbours, at most 2^-7 apart
    c.decode = [n = s.H * s.P * s.N](Arrays& out) {
      std::vector<float> numbers;
      for (int64_t i = 0; i < n; ++i) numbers.push_back(BF16ToFloat(As<uint16_t>(out[1])[i]));
      out[1] = numbers;
    };
  }
  c.written = {{"y", Blank(s.T * ys), terms}, {.name = "state", .before = state, .terms = terms, .own = own}};
  SetSsdCosts(s, c);
  const auto scratch = std::make_shared<std::vector<float>>(static_cast<size_t>(SsdScratchFloats(s.Q, s.P, s.N)), NAN);
  const auto args = [=](Arrays& out) {
    const float* x = in->xbc.data();
    return SsdArgs{.x = x,
                   .B = x + s.H * s.P,
                   .C = x + s.H * s.P + s.G * s.N,
                   .dt = in->dt.data(),
                   .A = in->A.data(),
                   .D = in->D.data(),
                   .state = out[1].data(),
                   .y = out[0].data(),
                   .scratch = scratch->data(),
                   .T = s.T,
                   .H = s.H,
                   .P = s.P,
                   .G = s.G,
                   .N = s.N,
                   .Q = s.Q,
                   .h0 = s.h0,
                   .h1 = s.H,
                   .x_stride = stride,
                   .bc_stride = stride,
                   .y_stride = ys,
                   .state_dtype = s.state};
  };
  SetCalls(c, args, Ssd, ref::Ssd);
  return c;
}

Kernel SsdKernel() {
  Kernel k{.name = "Ssd",
           .forms = {"steps", "chunks", "long decays", "step of bf16", "chunk of bf16"},
           .max_size = 128,
           .at_random = {},
           .bench = {}};
  k.at_random = [](size_t form, int64_t size, uint64_t seed) {
    Rng rng(seed, static_cast<uint64_t>(size));
    const auto draw = [&](uint64_t n) { return static_cast<int64_t>(1 + rng.Below(n)); };
    SsdShape s{.T = draw(70), .G = draw(3), .Q = draw(70), .gap = 3};
    s.H = s.G * draw(2);
    const bool of_heads = rng.Below(2) == 0;
    s.P = size % 64 == 0 ? 64 : of_heads ? size : draw(33);
    s.N = size % 64 == 0 || !of_heads ? size : draw(40);
    s.h0 = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(s.H)));
    if (form == 0 || form == 3) s.T = 1;
    if (form == 2) s.dt = 60;  // sums of dA in the thousands
    if (form >= 3) s.state = StateDtype::kBF16;
    if (form == 4) s.T = std::min(s.T, s.Q);  // rounded once, as the twin does it
    return SsdCase(s, seed);
  };
  for (const int64_t N : {64, 128})
    for (const int64_t Q : {64, 128, 256})
      k.bench.push_back({"ssd", [=](uint64_t seed) {
                           return SsdCase({.T = 2048, .H = 24, .P = 64, .G = 1, .N = N, .Q = Q, .dt = 0.1}, seed);
                         }});
  k.bench.push_back({"ssd", [](uint64_t seed) {
                       return SsdCase({.T = 512, .H = 12, .P = 32, .G = 1, .N = 64, .Q = 64, .dt = 0.1}, seed);
                     }});
  for (const auto& [H, N] : {std::pair<int64_t, int64_t>{12, 64}, {48, 128}})
    for (const StateDtype state : {StateDtype::kF32, StateDtype::kBF16})
      k.bench.push_back({"ssd_step",
                         [H = H, N = N, state](uint64_t seed) {
                           return SsdCase({.T = 1, .H = H, .P = 64, .G = 1, .N = N, .Q = 64, .dt = 0.1, .state = state},
                                          seed);
                         },
                         /*cold=*/true});
  return k;
}

// ---- Diagonal ----

// Channels d0 .. d1 - 1 of D.
KernelCase DiagonalCase(bool accumulate, int64_t T, int64_t D, std::pair<int64_t, int64_t> channels, uint64_t seed) {
  struct Inputs {
    std::vector<float> params, lambda;
  };
  const auto in = std::make_shared<Inputs>(Inputs{Normals(T * 4 * D, seed), Normals(D, seed + 1)});
  for (float& v : in->lambda) v = std::abs(v) + 0.01f;
  KernelCase c;
  c.text = StrCat("T ", T, " D ", D, " channels ", channels.first, " to ", channels.second, accumulate ? " added" : "");
  c.written = {{"y", accumulate ? Normals(T * D, seed + 2) : Blank(T * D), 4 * T, 40},
               {"state", Normals(D, seed + 3), 4 * T, 40}};
  c.bytes = static_cast<double>((accumulate ? 24 : 20) * T * (channels.second - channels.first));
  const auto args = [=](Arrays& out) {
    return DiagonalArgs{.params = in->params.data(),
                        .lambda = in->lambda.data(),
                        .state = out[1].data(),
                        .y = out[0].data(),
                        .T = T,
                        .D = D,
                        .d0 = channels.first,
                        .d1 = channels.second,
                        .accumulate = accumulate};
  };
  SetCalls(c, args, Diagonal, ref::Diagonal);
  return c;
}

Kernel DiagonalKernel() {
  const auto at_random = [](size_t form, int64_t size, uint64_t seed) {
    Rng rng(seed, static_cast<uint64_t>(size));
    const auto channels = rng.Below(2) == 0 ? std::pair{int64_t{0}, size} : DrawRange(size, rng);
    return DiagonalCase(form == 1, 7, size, channels, seed);
  };
  return {.name = "Diagonal",
          .forms = {"written", "added"},
          .max_size = 130,
          .at_random = at_random,
          .bench = {{"diagonal", [](uint64_t seed) {
                       return DiagonalCase(true, 512, 768, {0, 768}, seed);
                     }}}};
}

}  // namespace

std::vector<Kernel> SsmKernels() { return {ConvKernel(), DtKernel(), SsdKernel(), DiagonalKernel()}; }

}  // namespace hydra::kernels
