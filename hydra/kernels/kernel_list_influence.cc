// SPDX-License-Identifier: Apache-2.0
// The list's influence of keys on a loss, by distance. `size` is Dh. Dims as in influence.h.
#include <algorithm>
#include <cmath>
#include <memory>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/influence.h"
#include "hydra/kernels/kernel_list.h"

namespace hydra::kernels {
namespace {

struct InfluenceShape {
  int64_t T, A, Akv, Dh, b, n_sinks = 0, W = 0, C = 1, G = 0;
};

struct InfluenceInputs {
  InfluenceInputs(const InfluenceShape& shape, uint64_t seed)
      : s(shape),
        q(Normals(s.T * s.A * s.Dh, seed, 2)),
        k(Normals(s.T * s.Akv * s.Dh, seed + 1)),
        v(Normals(s.T * s.Akv * s.Dh, seed + 2)),
        d_out(Normals(s.T * s.A * s.Dh, seed + 3)),
        log_sigma(Normals(s.T, seed + 4)),
        lambda(Normals(s.A, seed + 5)) {
    for (float& x : log_sigma) x = -std::abs(x);
    for (float& x : lambda) x = std::abs(x) + 0.3f;
    Rng rng(seed + 6);
    for (int64_t t = 0; t < s.T; ++t)  // a third of the rows leave the loss alone
      if (rng.Below(3) == 0) std::fill_n(d_out.begin() + t * s.A * s.Dh, s.A * s.Dh, 0.0f);
    pools.resize(static_cast<size_t>((s.T + s.C - 1) / s.C * s.G), -1);
    for (int64_t c = 0; c * s.C < s.T && s.G > 0; ++c) {  // tokens before the chunk, ascending
      auto token = static_cast<int64_t>(rng.Below(4));
      for (int64_t g = 0; g < s.G && token < c * s.C; ++g, token += static_cast<int64_t>(1 + rng.Below(5)))
        pools[static_cast<size_t>(c * s.G + g)] = token;
    }
  }
  InfluenceShape s;
  std::vector<float> q, k, v, d_out, log_sigma, lambda;
  std::vector<int64_t> pools;

  [[nodiscard]] int64_t Bins() const { return (s.T + s.b - 1) / s.b; }
  [[nodiscard]] AttentionInfluenceArgs Args() const {
    AttentionInfluenceArgs a{};
    a.T = s.T, a.A = s.A, a.Akv = s.Akv, a.Dh = s.Dh, a.b = s.b, a.n_sinks = s.n_sinks, a.W = s.W;
    a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.Dh)));
    a.q = q.data(), a.k = k.data(), a.v = v.data(), a.d_out = d_out.data();
    a.C = s.C, a.G = s.G, a.pools = pools.data(), a.log_sigma = log_sigma.data(), a.lambda = lambda.data();
    return a;
  }
};

// Calls a form for every head; its sums in double start from, and end in, the arrays' f32.
template <class F>
void ForHeads(const InfluenceInputs& in, Arrays& out, const F& call) {
  const auto nb = static_cast<size_t>(in.Bins());
  for (int64_t head = 0; head < in.s.A; ++head) {
    std::vector<std::vector<double>> sums;
    for (const std::vector<float>& array : out) {
      const float* own = array.data() + static_cast<size_t>(head) * nb;
      sums.emplace_back(own, own + nb);
    }
    int64_t guarded = 0;
    AttentionInfluenceArgs a = in.Args();
    a.f = sums[0].data(), a.jabs = sums[1].data(), a.jsgn = sums[2].data(), a.guarded = &guarded;
    call(a, head, in.Bins());
    for (size_t i = 0; i < sums.size(); ++i)
      for (size_t m = 0; m < nb; ++m) out[i][static_cast<size_t>(head) * nb + m] = static_cast<float>(sums[i][m]);
  }
}

KernelCase InfluenceCase(const InfluenceShape& s, uint64_t seed) {
  const auto in = std::make_shared<InfluenceInputs>(s, seed);
  const auto floats =
      std::make_shared<std::vector<float>>(static_cast<size_t>(InfluenceScratchFloats(in->Args())), NAN);
  const auto doubles =
      std::make_shared<std::vector<double>>(static_cast<size_t>(InfluenceScratchDoubles(in->Args())), NAN);
  KernelCase c;
  c.text = StrCat("T ", s.T, " A ", s.A, "/", s.Akv, " Dh ", s.Dh, " b ", s.b, " sinks ", s.n_sinks, " W ", s.W, " C ",
                  s.C, " G ", s.G);
  // Entries and gradients are sums of Dh products, those of a row and a tile are added in f32, rows in double.
  const int64_t terms = 2 * s.Dh + s.b + 24;
  const double scale = static_cast<double>(s.T) * std::sqrt(static_cast<double>(s.Dh));
  for (const char* name : {"f", "jabs", "jsgn"})
    c.written.push_back({name, Normals(s.A * in->Bins(), seed + 7), terms, scale});
  const double keys = s.W > 0 ? static_cast<double>(std::min(s.W, s.T) + s.G) : static_cast<double>(s.T + 1) / 2;
  c.flop = 4 * keys * static_cast<double>(s.T * s.A * s.Dh);
  c.simd = [=](Arrays& out, ThreadPool&) {
    ForHeads(*in, out, [&](const AttentionInfluenceArgs& a, int64_t head, int64_t tiles) {
      AttentionInfluence(a, head, 0, tiles, {floats->data(), doubles->data()});
    });
  };
  c.ref = [=](Arrays& out) {
    ForHeads(*in, out, [](const AttentionInfluenceArgs& a, int64_t head, int64_t tiles) {
      ref::AttentionInfluence(a, head, 0, tiles);
    });
  };
  return c;
}

// Forms: all keys, with and without sinks; a window; a window and landmarks.
InfluenceShape RandomInfluence(size_t form, int64_t Dh, uint64_t seed) {
  Rng rng(seed, static_cast<uint64_t>(Dh));
  const auto draw = [&](uint64_t n) { return static_cast<int64_t>(1 + rng.Below(n)); };
  constexpr int64_t kBlocks[] = {4, 7, 16, 33};
  InfluenceShape s{.T = 20 + draw(90), .A = 0, .Akv = draw(2), .Dh = Dh, .b = kBlocks[rng.Below(4)]};
  s.A = s.Akv * draw(3);
  if (form == 0) s.n_sinks = s.b;
  if (form >= 2) s.W = draw(60);
  if (form == 3) s.C = draw(20), s.G = draw(20);
  return s;
}

}  // namespace

std::vector<Kernel> InfluenceKernels() {
  const InfluenceShape smol{.T = 1024, .A = 9, .Akv = 3, .Dh = 64, .b = 64, .n_sinks = 64};
  return {{.name = "AttentionInfluence",
           .forms = {"sinks", "no sinks", "window", "window and landmarks"},
           .max_size = 72,
           .at_random = [](size_t form, int64_t size,
                           uint64_t seed) { return InfluenceCase(RandomInfluence(form, size, seed), seed); },
           .bench = {{"attention_influence", [=](uint64_t seed) { return InfluenceCase(smol, seed); }}}}};
}

}  // namespace hydra::kernels
