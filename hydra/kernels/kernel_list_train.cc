// SPDX-License-Identifier: Apache-2.0
// The list's training kernels of attention and SwiGLU, forward and backward. `size` is Dh or F. Mamba-2's phases are in
// kernel_list_mamba.cc. Dims as in train_attention.h and train_swiglu.h.
#include <algorithm>
#include <cmath>
#include <memory>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/train_attention.h"
#include "hydra/kernels/train_swiglu.h"

namespace hydra::kernels {
namespace {

// ---- SwiGlu ----

KernelCase SwiGluTrainCase(bool backward, bool in_place, int64_t M, int64_t F, uint64_t seed) {
  struct Inputs {
    std::vector<float> gate_up, p, dy;
  };
  const auto in =
      std::make_shared<Inputs>(Inputs{Normals(M * 2 * F, seed, 3), Normals(M, seed + 1), Normals(M * F, seed + 2)});
  KernelCase c;
  c.text = StrCat("M ", M, " F ", F, in_place ? " in place" : "");
  c.written = {{"y", Blank(M * F), 8}};
  c.bytes = static_cast<double>((backward ? 24 : 12) * M * F);
  if (backward) {
    c.written.push_back({"dgate_up", in_place ? in->gate_up : Blank(2 * M * F), 12});
    c.written.push_back({"dp", Blank(M), F + 8, static_cast<double>(F) * MaxAbs(in->dy) * 3 * 12});
  }
  const auto args = [=](Arrays& out) {
    SwiGluTrainArgs a{.gate_up = in->gate_up.data(), .p = in->p.data(), .y = out[0].data(), .M = M, .F = F};
    if (!backward) return a;
    a.dy = in->dy.data(), a.dgate_up = out[1].data(), a.dp = out[2].data();
    if (in_place) a.gate_up = a.dgate_up;
    return a;
  };
  if (backward)
    SetCalls(c, args, SwiGluTrainBackward, ref::SwiGluTrainBackward);
  else
    SetCalls(c, args, SwiGluTrain, ref::SwiGluTrain);
  return c;
}

std::vector<Kernel> SwiGluTrainKernels() {
  return {
      {.name = "SwiGluTrain",
       .forms = {"any"},
       .max_size = 130,
       .at_random = [](size_t, int64_t size, uint64_t seed) { return SwiGluTrainCase(false, false, 3, size, seed); },
       .bench = {{"swiglu_train", [](uint64_t seed) { return SwiGluTrainCase(false, false, 512, 384, seed); }}}},
      {.name = "SwiGluTrainBackward",
       .forms = {"apart", "in place"},
       .max_size = 130,
       .at_random = [](size_t form, int64_t size,
                       uint64_t seed) { return SwiGluTrainCase(true, form == 1, 3, size, seed); },
       .bench = {
           {"swiglu_train_backward", [](uint64_t seed) { return SwiGluTrainCase(true, false, 512, 384, seed); }}}}};
}

// ---- Attention ----

struct AttentionShape {
  int64_t chunks, A, Akv, Dh, C, W, G;
  int64_t documents = 1;  // of about as many chunks each
};

// What the forward pass reads and, for the backward one, what it left.
struct AttentionInputs {
  AttentionInputs(const AttentionShape& s, uint64_t seed)
      : M(s.chunks * s.C),
        q(Normals(M * s.A * s.Dh, seed)),
        k(Normals(M * s.Akv * s.Dh, seed + 1)),
        v(Normals(M * s.Akv * s.Dh, seed + 2)),
        log_sigma(Normals(M, seed + 3)),
        lambda(Normals(s.A, seed + 4)),
        out(Blank(M * s.A * s.Dh)),
        log_sum(Blank(M * s.A)),
        dout(Normals(M * s.A * s.Dh, seed + 5)) {
    for (float& x : log_sigma) x = -std::abs(x);
    for (float& x : lambda) x = std::abs(x) + 0.3f;
    const int64_t of_each = (s.chunks + s.documents - 1) / s.documents * s.C;
    for (int64_t t = 0; t < M; ++t) {
      document.push_back(t / of_each * of_each);
      pos.push_back(t - document.back());
    }
    Rng rng(seed + 6);
    pools.resize(static_cast<size_t>(s.chunks * s.G), -1);  // tokens of the document before the chunk, ascending
    for (int64_t c = 0; c < s.chunks; ++c) {
      const int64_t first = document[static_cast<size_t>(c * s.C)];
      int64_t token = first + static_cast<int64_t>(rng.Below(4));
      for (int64_t i = 0; i < s.G && token < c * s.C; ++i, token += static_cast<int64_t>(1 + rng.Below(5)))
        pools[static_cast<size_t>(c * s.G + i)] = token;
    }
  }
  int64_t M;
  std::vector<float> q, k, v, log_sigma, lambda, out, log_sum, dout;
  std::vector<int64_t> document, pos, pools;
  std::vector<float> scratch;

  AttentionTrainArgs Args(const AttentionShape& s) {
    AttentionTrainArgs a{};
    a.M = M, a.A = s.A, a.Akv = s.Akv, a.Dh = s.Dh, a.C = s.C, a.W = s.W, a.G = s.G;
    a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.Dh)));
    a.q = q.data(), a.k = k.data(), a.v = v.data(), a.document = document.data(), a.pos = pos.data();
    a.pools = s.G > 0 ? pools.data() : nullptr;
    a.log_sigma = log_sigma.data(), a.lambda = lambda.data();
    a.out = out.data(), a.log_sum = log_sum.data(), a.dout = dout.data();
    return a;
  }
  // Keys that all queries see.
  [[nodiscard]] double Keys(const AttentionShape& s) const {
    double keys = 0;
    for (int64_t t = 0; t < M; ++t) {
      keys += static_cast<double>(std::min(s.W, pos[static_cast<size_t>(t)] + 1));
      for (int64_t i = 0; i < s.G; ++i) {
        const int64_t token = pools[static_cast<size_t>(t / s.C * s.G + i)];
        keys += token >= 0 && pos[static_cast<size_t>(token)] <= pos[static_cast<size_t>(t)] - s.W ? 1 : 0;
      }
    }
    return keys;
  }
};

// A score is a sum of Dh products and moves an exp by its error; values are below 6 deviations.
int64_t AttentionTerms(const AttentionShape& s) { return 2 * s.Dh + s.W + s.G + 24; }

KernelCase AttentionTrainCase(const AttentionShape& s, uint64_t seed) {
  const auto in = std::make_shared<AttentionInputs>(s, seed);
  in->scratch.assign(static_cast<size_t>(AttentionTrainScratchFloats(in->Args(s))), NAN);
  KernelCase c;
  c.text = StrCat("M ", in->M, " A ", s.A, "/", s.Akv, " Dh ", s.Dh, " C ", s.C, " W ", s.W, " G ", s.G);
  c.written = {{"out", in->out, AttentionTerms(s), 6}, {"log_sum", in->log_sum, AttentionTerms(s), 6}};
  c.flop = 4 * in->Keys(s) * static_cast<double>(s.A * s.Dh);
  const auto all = [=](Arrays& out, auto&& call) {
    AttentionTrainArgs a = in->Args(s);
    a.out = out[0].data(), a.log_sum = out[1].data();
    for (int64_t kv = 0; kv < s.Akv; ++kv) call(a, kv);
  };
  c.simd = [=](Arrays& out, ThreadPool&) {
    all(out, [&](const AttentionTrainArgs& a, int64_t kv) { AttentionTrain(a, kv, 0, s.chunks, in->scratch.data()); });
  };
  c.ref = [=](Arrays& out) {
    all(out, [&](const AttentionTrainArgs& a, int64_t kv) { ref::AttentionTrain(a, kv, 0, s.chunks); });
  };
  return c;
}

KernelCase AttentionTrainBackwardCase(const AttentionShape& s, uint64_t seed) {
  const auto in = std::make_shared<AttentionInputs>(s, seed);
  in->scratch.assign(static_cast<size_t>(AttentionTrainScratchFloats(in->Args(s))), NAN);
  for (int64_t kv = 0; kv < s.Akv; ++kv) AttentionTrain(in->Args(s), kv, 0, s.chunks, in->scratch.data());
  KernelCase c;
  c.text = StrCat("M ", in->M, " A ", s.A, "/", s.Akv, " Dh ", s.Dh, " C ", s.C, " W ", s.W, " G ", s.G);
  const int64_t kv_numbers = in->M * s.Akv * s.Dh, terms = 2 * AttentionTerms(s);
  c.written = {{"dq", Blank(in->M * s.A * s.Dh), terms},
               {"dk", Normals(kv_numbers, seed + 10), terms},
               {"dv", Normals(kv_numbers, seed + 11), terms},
               {"dsigma", Normals(s.G > 0 ? s.Akv * in->M : 0, seed + 12), terms},
               {"dlambda", Normals(s.G > 0 ? s.A : 0, seed + 13), terms + in->M}};
  c.flop = 10 * in->Keys(s) * static_cast<double>(s.A * s.Dh);  // five products where the forward pass has two
  const auto all = [=](Arrays& out, auto&& call) {
    AttentionTrainArgs a = in->Args(s);
    a.dq = out[0].data(), a.dk = out[1].data(), a.dv = out[2].data();
    if (s.G > 0) a.dsigma = out[3].data(), a.dlambda = out[4].data();
    for (int64_t kv = 0; kv < s.Akv; ++kv) call(a, kv);
  };
  c.simd = [=](Arrays& out, ThreadPool&) {
    all(out, [&](const AttentionTrainArgs& a, int64_t kv) {
      AttentionTrainBackward(a, kv, 0, s.chunks, in->scratch.data());
    });
  };
  c.ref = [=](Arrays& out) {
    all(out, [&](const AttentionTrainArgs& a, int64_t kv) { ref::AttentionTrainBackward(a, kv, 0, s.chunks); });
  };
  return c;
}

AttentionShape RandomAttention(size_t form, int64_t Dh, uint64_t seed) {
  Rng rng(seed, static_cast<uint64_t>(Dh));
  const auto draw = [&](uint64_t n) { return static_cast<int64_t>(1 + rng.Below(n)); };
  AttentionShape s{.chunks = draw(5), .A = 0, .Akv = draw(2), .Dh = Dh, .C = draw(17), .W = draw(40), .G = 0};
  s.A = s.Akv * draw(3);
  s.documents = draw(static_cast<uint64_t>(s.chunks));
  if (form == 1) s.G = draw(20), s.W = draw(12), s.chunks += 3;
  return s;
}

std::vector<Kernel> AttentionTrainKernels() {
  const AttentionShape nano{.chunks = 32, .A = 6, .Akv = 6, .Dh = 32, .C = 16, .W = 64, .G = 32};
  const std::vector<std::string> forms = {"window", "window and landmarks"};
  return {
      {.name = "AttentionTrain",
       .forms = forms,
       .max_size = 72,
       .at_random = [](size_t form, int64_t size,
                       uint64_t seed) { return AttentionTrainCase(RandomAttention(form, size, seed), seed); },
       .bench = {{"attention_train", [=](uint64_t seed) { return AttentionTrainCase(nano, seed); }}}},
      {.name = "AttentionTrainBackward",
       .forms = forms,
       .max_size = 72,
       .at_random = [](size_t form, int64_t size,
                       uint64_t seed) { return AttentionTrainBackwardCase(RandomAttention(form, size, seed), seed); },
       .bench = {{"attention_train_backward", [=](uint64_t seed) { return AttentionTrainBackwardCase(nano, seed); }}}}};
}

}  // namespace

std::vector<Kernel> TrainKernels() {
  std::vector<Kernel> list = SwiGluTrainKernels();
  for (Kernel& k : AttentionTrainKernels()) list.push_back(std::move(k));
  return list;
}

}  // namespace hydra::kernels
