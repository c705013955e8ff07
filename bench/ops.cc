// SPDX-License-Identifier: Apache-2.0
// Speed of the kernels of the list that run on one thread, per SIMD level, in GFLOP/s or GB/s and as shares of the
// measured peaks; and of attention: GFLOP/s for many tokens, GB/s of cache for one. Prints the machine, then a JSON
// line a case; times are the thread's own. Not here: products with weights (kernels.cc), whole models (hydralm bench).
//   bench_ops [--target NAME|all] [--match TEXT]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/measure.h"
#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/ops.h"

namespace hydra::kernels {
namespace {

std::vector<float> Normals(int64_t n) {
  Rng rng(1);
  std::vector<float> x(static_cast<size_t>(std::min<int64_t>(n, 1 << 16)));
  for (float& v : x) v = static_cast<float>(rng.Normal());
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = x[i % x.size()];  // time does not depend on the values
  return out;
}

struct Bench {
  std::string match;
  const bench::Peaks& peaks;
  ThreadPool& pool;

  // FLOP and bytes of one call; 0 where they say nothing.
  template <class F>
  void Case(const std::string& name, const std::string& text, double flop, double bytes, F&& f) const {
    if (!bench::Matches(name, text, match)) return;
    bench::PrintCase(name, text, 1, bench::Measure(pool, f), flop, peaks.f32, bytes, peaks.bandwidth);
  }

  struct Shape {
    int64_t T, A, Akv, Dh, row, window = INT64_MAX, landmarks = 0;
    KvDtype dtype = KvDtype::kF16;
    int64_t tile = 32;  // queries of a call, as the runtime cuts them
  };
  void Attention(const Shape& s) const {
    const int64_t rows = s.row + s.T, bytes = KvRowBytes(s.dtype, s.Dh), heads = s.A / s.Akv;
    const auto cache = [&](int64_t n) {
      std::vector<std::byte> out(static_cast<size_t>(n * bytes));
      const auto x = Normals(n * s.Dh);
      for (int64_t i = 0; i < n; ++i) StoreKvRow(s.dtype, x.data() + i * s.Dh, s.Dh, out.data() + i * bytes);
      return out;
    };
    const int64_t copies = s.T == 1 ? std::max<int64_t>(1, (int64_t{64} << 20) / (2 * rows * s.Akv * bytes)) : 1;
    const auto k = cache(copies * s.Akv * rows), v = cache(copies * s.Akv * rows);
    const auto pool_k = cache(s.Akv * s.landmarks), pool_v = cache(s.Akv * s.landmarks);
    const auto q = Normals(s.T * s.A * s.Dh), lambda = Normals(heads);
    auto bias = Normals(s.landmarks);
    std::vector<int32_t> pos(static_cast<size_t>(s.landmarks));  // all long past
    std::vector<float> y(q.size()), scratch(static_cast<size_t>(AttentionScratchFloats(heads, s.Dh, s.Dh)));
    constexpr int64_t kFirst = 100000;  // position of the first row
    KeyRun runs[2] = {{.n = rows, .first = kFirst}, {.n = s.landmarks, .pos = pos.data(), .bias = bias.data()}};
    AttentionArgs a{.keys = {.runs = runs, .n_runs = 2, .dtype = s.dtype, .Dk = s.Dh, .Dv = s.Dh},
                    .heads = heads,
                    .pos = kFirst + s.row,
                    .window = s.window,
                    .scale = 0.125f,
                    .lambda = lambda.data(),
                    .q_stride = s.A * s.Dh,
                    .y_stride = s.A * s.Dh,
                    .scratch = scratch.data()};
    double keys = 0;
    for (int64_t t = 0; t < s.T; ++t) keys += static_cast<double>(std::min(s.window, s.row + t + 1) + s.landmarks);
    const auto run = [&](int64_t i) {
      for (int64_t kv = 0; kv < s.Akv; ++kv) {
        const int64_t from = (i % copies * s.Akv + kv) * rows * bytes;
        runs[0].k = k.data() + from, runs[0].v = v.data() + from;
        runs[1].k = pool_k.data() + kv * s.landmarks * bytes, runs[1].v = pool_v.data() + kv * s.landmarks * bytes;
        a.q = q.data() + kv * heads * s.Dh, a.y = y.data() + kv * heads * s.Dh;
        for (int64_t t = 0; t < s.T; t += s.tile) {
          a.t0 = t, a.t1 = std::min(s.T, t + s.tile);
          kernels::Attention(a);
        }
      }
    };
    std::string text = std::string(KvDtypeName(s.dtype)) + " T" + std::to_string(s.T) + " keys" +
                       std::to_string(std::min(s.window, rows)) + " A" + std::to_string(s.A) + "/" +
                       std::to_string(s.Akv) + " Dh" + std::to_string(s.Dh);
    if (s.landmarks > 0) text += " landmarks" + std::to_string(s.landmarks);
    const double flop = 4 * keys * static_cast<double>(s.A * s.Dh),
                 read = 2 * keys * static_cast<double>(s.Akv * bytes);
    Case(s.T == 1 ? "attention_step" : "attention", text, flop, s.T == 1 ? read : 0, run);
  }

  void All() const {
    for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kF16, KvDtype::kQ8_0}) {
      Attention({.T = 2048, .A = 6, .Akv = 6, .Dh = 64, .row = 0, .dtype = dtype});
      Attention({.T = 2048, .A = 9, .Akv = 3, .Dh = 64, .row = 0, .dtype = dtype});
      Attention({.T = 512, .A = 6, .Akv = 6, .Dh = 64, .row = 256, .window = 256, .landmarks = 512, .dtype = dtype});
      Attention({.T = 1, .A = 9, .Akv = 3, .Dh = 64, .row = 8191, .dtype = dtype});
      Attention({.T = 1, .A = 6, .Akv = 6, .Dh = 64, .row = 8191, .dtype = dtype});
      Attention({.T = 1, .A = 32, .Akv = 8, .Dh = 128, .row = 8191, .dtype = dtype});
    }
    Attention({.T = 1, .A = 6, .Akv = 6, .Dh = 64, .row = 255, .window = 256, .landmarks = 512});
    Attention({.T = 4, .A = 9, .Akv = 3, .Dh = 64, .row = 8000});
    for (const Kernel& kernel : KernelList())
      for (const BenchCase& c : kernel.bench)
        if (kernel.name != "MatMul") bench::RunListed(c, match, peaks, pool);
  }
};

}  // namespace
}  // namespace hydra::kernels

int main(int argc, char** argv) {
  using namespace hydra;
  try {
    auto flags = bench::ParseFlags(argc, argv, {{"--target", "best"}, {"--match", ""}});
    ThreadPool pool(1);
    bench::OnTargets(flags["--target"], pool, [&](const bench::Peaks& peaks) {
      kernels::Bench{flags["--match"], peaks, pool}.All();
    });
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "bench_ops: %s\n", e.what());
    return 2;
  }
}
