// SPDX-License-Identifier: Apache-2.0
// Speed of the kernels of ops.h on one thread, per SIMD level: SSD and attention for many tokens in GFLOP/s, for one in
// GB/s of state or cache, and shares of the measured peaks; the maps of rows in GB/s. Prints the machine, then a JSON
// line a case; times are the thread's own. Not here: products with weights (kernels.cc), whole models (hydralm bench).
//   bench_ops [--target NAME|all] [--match TEXT]
#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"
#include "hydra/kernels/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/ops.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// Multiply-adds that wait for nothing: FLOP done.
double FmaFlops(int64_t rounds, float* sink) {
  constexpr int kSums = HWY_MAX_BYTES >= 64 ? 20 : 10;
  const FloatTag d;
  FloatVec sums[kSums];
  const auto a = hn::Set(d, 0.999f + sink[0]), b = hn::Set(d, 0.001f);
#pragma GCC unroll 20
  for (int i = 0; i < kSums; ++i) sums[i] = hn::Set(d, static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 20
    for (int i = 0; i < kSums; ++i) sums[i] = hn::MulAdd(sums[i], a, b);
  }
  auto total = hn::Zero(d);
  for (const auto& sum : sums) total = hn::Add(total, sum);
  sink[0] += ReduceSum(d, total) * 1e-30f;
  return 2.0 * static_cast<double>(kSums * rounds) * static_cast<double>(hn::Lanes(d));
}

float SumFloats(const float* p, int64_t n) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t i = 0; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, hn::LoadU(d, p + i)), s1 = hn::Add(s1, hn::LoadU(d, p + i + lanes));
    s2 = hn::Add(s2, hn::LoadU(d, p + i + 2 * lanes)), s3 = hn::Add(s3, hn::LoadU(d, p + i + 3 * lanes));
  }
  return ReduceSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {
HWY_EXPORT(FmaFlops);
HWY_EXPORT(SumFloats);
namespace {

// Of this thread on a processor: other programs take none of it away.
double Seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Times {
  double median, min, max;
  int reps;
};
// After a warm-up, at least 5 and about 0.3 s of calls; f(i) is the i-th.
template <class F>
Times Measure(F&& f) {
  f(0);
  std::vector<double> times;
  const double end = Seconds() + 0.3;
  while (times.size() < 5 || (Seconds() < end && times.size() < 20000)) {
    const double start = Seconds();
    f(static_cast<int64_t>(times.size()));
    times.push_back(Seconds() - start);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), static_cast<int>(times.size())};
}

std::vector<float> Normals(int64_t n, double deviation = 1) {
  Rng rng(1);
  std::vector<float> x(static_cast<size_t>(std::min<int64_t>(n, 1 << 16)));
  for (float& v : x) v = static_cast<float>(deviation * rng.Normal());
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = x[i % x.size()];  // time does not depend on the values
  return out;
}

struct Bench {
  std::string match;
  double peak, bandwidth;  // FLOP/s and bytes/s of one thread

  // FLOP and bytes of one call; 0 where they say nothing.
  template <class F>
  void Case(const std::string& bench, const std::string& text, double flop, double bytes, F&& f) const {
    if ((bench + " " + text).find(match) == std::string::npos) return;
    const Times t = Measure(f);
    std::printf(
        "{\"bench\":\"%s\",\"case\":\"%s\",\"target\":\"%s\",\"threads\":1,\"reps\":%d,\"median_us\":%.2f,\"min_us\":%."
        "2f,"
        "\"max_us\":%.2f",
        bench.c_str(), text.c_str(), CurrentTarget().c_str(), t.reps, t.median * 1e6, t.min * 1e6, t.max * 1e6);
    if (flop > 0) std::printf(",\"gflop_s\":%.1f,\"peak_share\":%.3f", flop / t.median / 1e9, flop / t.median / peak);
    if (bytes > 0)
      std::printf(",\"gb_s\":%.2f,\"bandwidth_share\":%.3f", bytes / t.median / 1e9, bytes / t.median / bandwidth);
    std::printf("}\n");
    std::fflush(stdout);
  }

  // FLOP as the chunked form does them, the upper half of a chunk's pairs left out.
  void Ssd(int64_t T, int64_t H, int64_t P, int64_t N, int64_t Q) const {
    const int64_t copies = T == 1 ? std::max<int64_t>(1, (int64_t{64} << 20) / (H * P * N * 4))
                                  : 1;     // states of all layers leave the cache
    const int64_t stride = H * P + 2 * N;  // x, B and C as the convolution leaves them
    const auto xbc = Normals(T * stride), D = Normals(H);
    auto dt = Normals(T * H, 0.1), A = Normals(H), state = Normals(copies * H * P * N);
    for (float& v : dt) v = std::abs(v);
    for (float& v : A) v = -std::abs(v);
    std::vector<float> y(static_cast<size_t>(T * H * P)), scratch(static_cast<size_t>(SsdScratchFloats(Q, P, N)));
    SsdArgs a{.x = xbc.data(),
              .B = xbc.data() + H * P,
              .C = xbc.data() + H * P + N,
              .dt = dt.data(),
              .A = A.data(),
              .D = D.data(),
              .state = state.data(),
              .y = y.data(),
              .scratch = scratch.data(),
              .T = T,
              .H = H,
              .P = P,
              .G = 1,
              .N = N,
              .Q = Q,
              .h0 = 0,
              .h1 = H,
              .x_stride = stride,
              .bc_stride = stride};
    const auto run = [&](int64_t i) {
      a.state = state.data() + i % copies * H * P * N;
      kernels::Ssd(a);
    };
    std::string text = "T" + std::to_string(T);
    for (const auto& [name, n] : {std::pair{" H", H}, {" P", P}, {" N", N}})
      text.append(name).append(std::to_string(n));
    const auto h = static_cast<double>(H), p = static_cast<double>(P), n = static_cast<double>(N),
               t = static_cast<double>(T);
    const auto pairs = static_cast<double>(std::min(Q, T) + 1) / 2;
    if (T == 1)
      Case("ssd_step", text, 0, 2 * 4 * h * p * n, run);
    else
      Case("ssd", text + " Q" + std::to_string(Q), 2 * t * (pairs * n + h * (pairs * p + 2 * p * n)), 0, run);
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

  void Rows(int64_t T, int64_t D) const {
    const auto x = Normals(T * D), w = Normals(4 * D), b = Normals(D);
    auto y = Normals(T * D), state = Normals(3 * D);
    std::vector<int64_t> pos(static_cast<size_t>(T));
    for (int64_t t = 0; t < T; ++t) pos[static_cast<size_t>(t)] = 1000 + t;
    std::vector<double> inv_freq;
    for (int i = 0; i < 32; ++i) inv_freq.push_back(std::pow(1e4, -i / 32.0));
    std::string text = "T" + std::to_string(T);
    text.append(" D").append(std::to_string(D));
    const double numbers = 4.0 * static_cast<double>(T * D);
    Case("rms_norm", text, 0, 2 * numbers,
         [&](int64_t) { RmsNorm({.x = x.data(), .w = w.data(), .y = y.data(), .T = T, .D = D}); });
    Case("rms_norm_gated", text, 0, 3 * numbers,
         [&](int64_t) { RmsNorm({.x = x.data(), .w = w.data(), .y = y.data(), .T = T, .D = D, .z = x.data()}); });
    Case("swiglu", text, 0, 3 * numbers,
         [&](int64_t) { SwiGlu({.gate = x.data(), .up = x.data(), .y = y.data(), .T = T, .F = D}); });
    Case("softmax", text, 0, 2 * numbers, [&](int64_t) { Softmax({.x = x.data(), .y = y.data(), .T = T, .D = D}); });
    Case("rope", text + " Dh64", 0, 2 * numbers, [&](int64_t) {
      Rope({.x = y.data(), .pos = pos.data(), .inv_freq = inv_freq.data(), .T = T, .heads = D / 64, .Dh = 64});
    });
    Case("conv", text + " K4", 0, 2 * numbers, [&](int64_t) {
      Conv({.x = x.data(), .w = w.data(), .b = b.data(), .state = state.data(), .y = y.data(), .T = T, .C = D, .K = 4});
    });
    std::vector<std::byte> row(static_cast<size_t>(T * D * 4));
    for (const KvDtype dtype : {KvDtype::kF16, KvDtype::kBF16, KvDtype::kQ8_0})
      Case("store_kv", text + " Dh64 " + KvDtypeName(dtype), 0, numbers, [&](int64_t) {
        for (int64_t i = 0; i < T * D / 64; ++i)
          StoreKvRow(dtype, x.data() + i * 64, 64, row.data() + i * KvRowBytes(dtype, 64));
      });
  }

  void All() const {
    for (const int64_t N : {64, 128})
      for (const int64_t Q : {64, 128, 256}) Ssd(2048, 24, 64, N, Q);
    Ssd(512, 12, 32, 64, 64);
    Ssd(1, 12, 64, 64, 64);
    Ssd(1, 48, 64, 128, 64);
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
    Rows(512, 1536);
    Rows(1, 1536);
    std::vector<int32_t> ids(32);
    const auto scores = Normals(4096);
    for (const int64_t k : {2, 32})
      Case("top_k", "n4096 k" + std::to_string(k), 0, 4 * 4096,
           [&](int64_t) { TopK(scores.data(), 4096, k, ids.data(), nullptr); });
  }
};

double Peak() {
  float sink = 0;
  double best = 0;
  for (const double end = Seconds() + 0.3; Seconds() < end;) {
    const double start = Seconds();
    best = std::max(best, HYDRA_DISPATCH(FmaFlops)(20000, &sink) / (Seconds() - start));
  }
  return best;
}
double Bandwidth() {
  const std::vector<float> data(int64_t{32} << 20, 1.0f);
  volatile float sink = 0;
  const Times t =
      Measure([&](int64_t) { sink = HYDRA_DISPATCH(SumFloats)(data.data(), static_cast<int64_t>(data.size())); });
  return static_cast<double>(data.size()) * 4 / t.min;
}

std::string CpuName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

}  // namespace
}  // namespace hydra::kernels

int main(int argc, char** argv) {
  using namespace hydra;
  using namespace hydra::kernels;
  try {
    std::string target = "best", match;
    for (int i = 1; i < argc; i += 2) {
      const std::string flag = argv[i];
      if (i + 1 == argc) throw Error(ErrorCode::kUsage, flag + ": needs a value");
      if (flag == "--target")
        target = argv[i + 1];
      else if (flag == "--match")
        match = argv[i + 1];
      else
        throw Error(ErrorCode::kUsage, flag + ": must be --target or --match");
    }
    utsname system{};
    ::uname(&system);
    std::printf("# %s, %s %s, compiler %s, one thread\n", CpuName().c_str(), system.sysname, system.release,
                __VERSION__);
    for (const std::string& name : target == "all" ? Targets() : std::vector<std::string>{target}) {
      SetTarget(name);
      const Bench bench{match, Peak(), Bandwidth()};
      std::printf("# target %s: f32 FMA peak %.1f GFLOP/s, read %.1f GB/s\n", CurrentTarget().c_str(), bench.peak / 1e9,
                  bench.bandwidth / 1e9);
      bench.All();
    }
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "bench_ops: %s\n", e.what());
    return 2;
  }
}
#endif  // HWY_ONCE
