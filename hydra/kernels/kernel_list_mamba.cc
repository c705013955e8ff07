// SPDX-License-Identifier: Apache-2.0
// The list's phases of Mamba-2's training form. Each gets what the twins of the phases before it made of random inputs.
// `size` is P or N; P 64 with N 32 and with N 64 are among its sizes. Dims as in train_mamba.h.
#include <algorithm>
#include <cmath>
#include <memory>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/train_mamba.h"

namespace hydra::kernels {
namespace {

struct MambaShape {
  int64_t H = 1, P = 1, G = 1, N = 1, K = 1, Q = 1, norm_groups = 1;
  std::vector<int64_t> documents = {};  // their tokens, one row
  bool conv_bias = true, pads = false;
  float dt_lo = 0, dt_hi = INFINITY;
};

enum class Phase {
  kChunkStates,
  kPassStates,
  kChunkOutputs,
  kBackwardStates,
  kPassGradients,
  kBackwardInputs,
  kBackwardConv
};

// The arrays of a pass. Those that phases write stand last.
struct MambaPass {
  MambaPass(const MambaShape& shape, uint64_t seed);
  void RunTwin(Phase phase) { Run(phase, Args(), sums.data(), dtaps.data(), /*simd=*/false); }
  // One phase over all chunks.
  void Run(Phase phase, const MambaTrainArgs& a, float* to_sums, float* to_dtaps, bool simd);
  MambaTrainArgs Args();

  MambaShape s;
  int64_t M = 0, di, cd, W;
  std::vector<MambaChunk> chunks;
  std::vector<float> projected, taps, conv_b, dt_bias, A, D, norm, dout;
  std::unique_ptr<bool[]> real;
  std::vector<float> scratch;
  std::vector<float> xBC, states, decay, y, out, dprojected, dstates, sums, dtaps;
};

MambaPass::MambaPass(const MambaShape& shape, uint64_t seed)
    : s(shape), di(s.H * s.P), cd(di + 2 * s.G * s.N), W(di + cd + s.H) {
  for (const int64_t length : s.documents) {
    for (int64_t t = 0; t < length; t += s.Q) chunks.push_back({M + t, M + std::min(t + s.Q, length), M});
    M += length;
  }
  projected = Normals(M * W, seed);
  taps = Normals(s.K * cd, seed + 1, 1 / std::sqrt(static_cast<double>(s.K)));
  conv_b = Normals(cd, seed + 2, 0.3);
  dt_bias = Normals(s.H, seed + 3), A = Normals(s.H, seed + 4), D = Normals(s.H, seed + 5);
  for (float& v : A) v = -std::abs(v) - 0.05f;
  norm = Normals(di, seed + 6), dout = Normals(M * di, seed + 7);
  real.reset(new bool[static_cast<size_t>(M)]);
  for (int64_t t = 0; t < M; ++t) real[static_cast<size_t>(t)] = !s.pads || t + 3 < M;
  const auto n = static_cast<int64_t>(chunks.size());
  xBC = Blank(M * cd), states = Blank(n * s.N * di), decay = Blank(n * s.H), y = Blank(M * di), out = Blank(M * di);
  dprojected = Blank(M * W), dstates = Blank(n * s.N * di);
  sums = Normals(MambaSums(Args()), seed + 8), dtaps = Normals((s.K + 1) * cd, seed + 9);
  scratch.assign(static_cast<size_t>(MambaScratchFloats(Args())), NAN);
}

MambaTrainArgs MambaPass::Args() {
  MambaTrainArgs a{};
  a.H = s.H, a.P = s.P, a.G = s.G, a.N = s.N, a.K = s.K, a.Q = s.Q, a.norm_groups = s.norm_groups;
  a.eps = 1e-5f, a.dt_lo = s.dt_lo, a.dt_hi = s.dt_hi;
  a.projected = projected.data(), a.taps = taps.data(), a.conv_b = s.conv_bias ? conv_b.data() : nullptr;
  a.dt_bias = dt_bias.data(), a.A = A.data(), a.D = D.data(), a.norm = norm.data();
  a.real = s.pads ? real.get() : nullptr;
  a.chunks = chunks.data(), a.n_chunks = static_cast<int64_t>(chunks.size());
  a.xBC = xBC.data(), a.states = states.data(), a.decay = decay.data(), a.y = y.data(), a.out = out.data();
  a.dout = dout.data(), a.dprojected = dprojected.data(), a.dstates = dstates.data();
  return a;
}

void MambaPass::Run(Phase phase, const MambaTrainArgs& a, float* to_sums, float* to_dtaps, bool simd) {
  float* space = scratch.data();
  const int64_t rows = s.G * s.N;
  const auto each = [&](auto fast, auto twin, auto... more) {  // of the phases by chunk
    for (int64_t c = 0; c < a.n_chunks; ++c) simd ? fast(a, c, more..., space) : twin(a, c, more...);
  };
  switch (phase) {
    case Phase::kChunkStates: return each(MambaChunkStates, ref::MambaChunkStates);
    case Phase::kChunkOutputs: return each(MambaChunkOutputs, ref::MambaChunkOutputs);
    case Phase::kBackwardStates: return each(MambaBackwardStates, ref::MambaBackwardStates, to_sums);
    case Phase::kBackwardInputs: return each(MambaBackwardInputs, ref::MambaBackwardInputs, to_sums);
    case Phase::kPassStates:  // cut once, as threads do
      for (const auto& [n0, n1] : {std::pair{rows / 2, rows}, {int64_t{0}, rows / 2}})
        simd ? MambaPassStates(a, 0, a.n_chunks, n0, n1, space) : ref::MambaPassStates(a, 0, a.n_chunks, n0, n1);
      return;
    case Phase::kPassGradients:
      for (const auto& [n0, n1] : {std::pair{rows / 2, rows}, {int64_t{0}, rows / 2}})
        simd ? MambaPassGradients(a, 0, a.n_chunks, n0, n1, space) : ref::MambaPassGradients(a, 0, a.n_chunks, n0, n1);
      return;
    case Phase::kBackwardConv:
      for (const auto& [d0, d1] : {std::pair{cd / 3, cd}, {int64_t{0}, cd / 3}})
        (simd ? MambaBackwardConv : ref::MambaBackwardConv)(a, 0, a.n_chunks, d0, d1, to_dtaps);
      return;
  }
}

// A vector of the pass, and where the arguments or a call of the phase have it.
struct Slot {
  const char* name;
  std::vector<float> MambaPass::*array;
  float* MambaTrainArgs::*argument;  // null: sums or dtaps
};
std::vector<Slot> WrittenBy(Phase phase) {
  const Slot states{"states", &MambaPass::states, &MambaTrainArgs::states},
      dstates{"dstates", &MambaPass::dstates, &MambaTrainArgs::dstates},
      dprojected{"dprojected", &MambaPass::dprojected, &MambaTrainArgs::dprojected},
      sums{"sums", &MambaPass::sums, nullptr};
  switch (phase) {
    case Phase::kChunkStates:
      return {
          {"xBC", &MambaPass::xBC, &MambaTrainArgs::xBC}, {"decay", &MambaPass::decay, &MambaTrainArgs::decay}, states};
    case Phase::kPassStates: return {states};
    case Phase::kChunkOutputs:
      return {{"y", &MambaPass::y, &MambaTrainArgs::y}, {"out", &MambaPass::out, &MambaTrainArgs::out}};
    case Phase::kBackwardStates: return {dprojected, dstates, sums};
    case Phase::kPassGradients: return {dstates};
    case Phase::kBackwardInputs: return {dprojected, sums};
    case Phase::kBackwardConv: return {dprojected, {"dtaps", &MambaPass::dtaps, nullptr}};
  }
  return {};
}

// Products of a phase as the chunked form does them, the upper half of a chunk's pairs left out; passing moves states.
void SetCosts(Phase phase, const MambaPass& pass, KernelCase& c) {
  const auto M = static_cast<double>(pass.M), N = static_cast<double>(pass.s.N), di = static_cast<double>(pass.di);
  const auto GN = static_cast<double>(pass.s.G) * N, cd = static_cast<double>(pass.cd),
             K = static_cast<double>(pass.s.K);
  const auto pairs = static_cast<double>(std::min(pass.s.Q, pass.M) + 1) / 2;
  switch (phase) {
    case Phase::kChunkStates: c.flop = 2 * M * (N * di + K * cd); break;
    case Phase::kPassStates:
    case Phase::kPassGradients: c.bytes = 8 * static_cast<double>(pass.chunks.size()) * N * di; break;
    case Phase::kChunkOutputs: c.flop = 2 * M * (pairs * (GN + di) + N * di); break;
    case Phase::kBackwardStates: c.flop = 2 * M * (N * di + K * GN); break;
    case Phase::kBackwardInputs: c.flop = 2 * M * (pairs * (3 * GN + 2 * di) + 3 * N * di + K * cd); break;
    case Phase::kBackwardConv: c.flop = 4 * M * K * cd; break;
  }
}

KernelCase MambaCase(Phase phase, const MambaShape& s, uint64_t seed) {
  const auto pass = std::make_shared<MambaPass>(s, seed);
  for (int p = 0; p < static_cast<int>(phase); ++p) pass->RunTwin(static_cast<Phase>(p));
  KernelCase c;
  c.text = StrCat("M ", pass->M, " H ", s.H, " P ", s.P, " G ", s.G, " N ", s.N, " K ", s.K, " Q ", s.Q);
  SetCosts(phase, *pass, c);
  const std::vector<Slot> slots = WrittenBy(phase);
  // Products of at most three sums, over N, P or the tokens of a chunk; sums of gradients go over all tokens.
  const int64_t terms = 48 + s.N + s.P + std::min(s.Q, pass->M);
  for (const Slot& slot : slots)
    c.written.push_back({slot.name, pass.get()->*slot.array, slot.argument != nullptr ? terms : terms + pass->M});
  const auto call = [=](Arrays& out, bool simd) {
    MambaTrainArgs a = pass->Args();
    float* loose = nullptr;
    for (size_t i = 0; i < slots.size(); ++i)
      (slots[i].argument != nullptr ? a.*slots[i].argument : loose) = out[i].data();
    pass->Run(phase, a, loose, loose, simd);
  };
  c.simd = [=](Arrays& out, ThreadPool&) { call(out, true); };
  c.ref = [=](Arrays& out) { call(out, false); };
  return c;
}

MambaShape RandomShape(size_t form, int64_t size, uint64_t seed) {
  Rng rng(seed, static_cast<uint64_t>(size));
  const auto draw = [&](uint64_t n) { return static_cast<int64_t>(1 + rng.Below(n)); };
  MambaShape s{.G = draw(2), .K = draw(kMambaTaps), .Q = draw(20), .documents = {}};
  s.H = s.G * draw(2);
  const bool of_heads = rng.Below(2) == 0;
  s.P = size % 32 == 0 ? 64 : of_heads ? size : draw(19);
  s.N = size % 32 == 0 || !of_heads ? size : draw(19);
  s.norm_groups = rng.Below(2) == 0 ? 1 : s.G;
  s.documents = {draw(30)};
  if (form == 0) return s;
  s.documents = {draw(30), draw(7), draw(40), 1};
  s.conv_bias = false, s.pads = true, s.dt_lo = 0.3f, s.dt_hi = 0.9f;
  return s;
}

Kernel MambaKernel(const char* name, const char* bench, Phase phase) {
  const MambaShape nano{.H = 12, .P = 32, .G = 1, .N = 32, .K = 4, .Q = 32, .norm_groups = 1, .documents = {128}};
  return {.name = name,
          .forms = {"one document", "documents, pads, clamped dt"},
          .max_size = 64,
          .at_random = [=](size_t form, int64_t size,
                           uint64_t seed) { return MambaCase(phase, RandomShape(form, size, seed), seed); },
          .bench = {{bench, [=](uint64_t seed) { return MambaCase(phase, nano, seed); }}}};
}

}  // namespace

std::vector<Kernel> MambaTrainKernels() {
  return {MambaKernel("MambaChunkStates", "mamba_chunk_states", Phase::kChunkStates),
          MambaKernel("MambaPassStates", "mamba_pass_states", Phase::kPassStates),
          MambaKernel("MambaChunkOutputs", "mamba_chunk_outputs", Phase::kChunkOutputs),
          MambaKernel("MambaBackwardStates", "mamba_backward_states", Phase::kBackwardStates),
          MambaKernel("MambaPassGradients", "mamba_pass_gradients", Phase::kPassGradients),
          MambaKernel("MambaBackwardInputs", "mamba_backward_inputs", Phase::kBackwardInputs),
          MambaKernel("MambaBackwardConv", "mamba_backward_conv", Phase::kBackwardConv)};
}

}  // namespace hydra::kernels
