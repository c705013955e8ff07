// SPDX-License-Identifier: Apache-2.0
// What the benchmarks of kernels share: timing, the peaks that speed is compared with, a JSON line a case, flags.
// Not here: the cases (hydra/kernels/kernel_list.h).
#pragma once

#include <sys/utsname.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/thread_pool.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/peak.h"
#include "hydra/kernels/target.h"
#include "hydra/runtime/speed.h"

namespace hydra::bench {

// Of this thread on a processor: other programs take none of it away.
inline double ThreadSeconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Times {
  double median, min, max;
  int reps;
};
// After a warm-up, at least 5 and about 0.3 s of calls; f(i) is the i-th. The time is the thread's own where the pool
// has one.
template <class F>
Times Measure(const ThreadPool& pool, F&& f) {
  const auto now = [&] { return pool.threads() == 1 ? ThreadSeconds() : Seconds(); };
  f(0);
  std::vector<double> times;
  const double end = now() + 0.3;
  while (times.size() < 5 || (now() < end && times.size() < 20000)) {
    const double start = now();
    f(static_cast<int64_t>(times.size()));
    times.push_back(now() - start);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), static_cast<int>(times.size())};
}

// Of all threads of a pool on the level in use: bytes read a second, FLOP a second.
struct Peaks {
  double bandwidth, f32, int4, int8;

  explicit Peaks(ThreadPool& pool)
      : bandwidth(ReadMeter(pool).Measure()),
        f32(kernels::MeasurePeak(WeightType::kF32, kernels::ActType::kF32, pool)),
        int4(kernels::MeasurePeak(WeightType::kQ4_0, kernels::ActType::kQ8, pool)),
        int8(kernels::MeasurePeak(WeightType::kQ8_0, kernels::ActType::kQ8, pool)) {
    std::printf("# target %s: read %.1f GB/s, f32 FMA %.1f GFLOP/s, int8 dot %.0f (4 bits) and %.0f (8 bits) GOP/s\n",
                kernels::CurrentTarget().c_str(), bandwidth / 1e9, f32 / 1e9, int4 / 1e9, int8 / 1e9);
  }
  [[nodiscard]] double Of(kernels::Arithmetic arithmetic) const {
    return arithmetic == kernels::Arithmetic::kF32 ? f32 : arithmetic == kernels::Arithmetic::kInt4 ? int4 : int8;
  }
};

// flop and bytes of one call; 0 where they say nothing.
inline void PrintCase(const std::string& name, const std::string& text, int threads, const Times& t, double flop,
                      double peak, double bytes, double bandwidth) {
  std::printf(
      "{\"bench\":\"%s\",\"case\":\"%s\",\"target\":\"%s\",\"threads\":%d,\"reps\":%d,\"median_us\":%.2f,"
      "\"min_us\":%.2f,\"max_us\":%.2f",
      name.c_str(), text.c_str(), kernels::CurrentTarget().c_str(), threads, t.reps, t.median * 1e6, t.min * 1e6,
      t.max * 1e6);
  if (flop > 0) std::printf(",\"gflop_s\":%.1f,\"peak_share\":%.3f", flop / t.median / 1e9, flop / t.median / peak);
  if (bytes > 0)
    std::printf(",\"gb_s\":%.2f,\"bandwidth_share\":%.3f", bytes / t.median / 1e9, bytes / t.median / bandwidth);
  std::printf("}\n");
  std::fflush(stdout);
}

// Does a case belong to what --match asks for?
inline bool Matches(const std::string& name, const std::string& text, const std::string& match) {
  return (name + " " + text).find(match) != std::string::npos;
}

// One case of the list. Cold ones run over as many cases in turn as leave the cache.
inline void RunListed(const kernels::BenchCase& bench, const std::string& match, const Peaks& peaks, ThreadPool& pool) {
  constexpr double kCold = 160 << 20;  // bytes
  std::vector<kernels::KernelCase> cases;
  std::vector<kernels::Arrays> arrays;
  for (double bytes = 0; bytes == 0 || (bench.cold && bytes < kCold); bytes += cases.back().bytes) {
    cases.push_back(bench.make(2 * cases.size()));
    if (!Matches(bench.name, cases.back().text, match)) return;
    if (cases.back().prepare) cases.back().prepare(pool);
    arrays.push_back(cases.back().Before());
    if (!bench.cold) break;
  }
  const Times t = Measure(pool, [&](int64_t i) {
    const size_t at = static_cast<size_t>(i) % cases.size();
    cases[at].simd(arrays[at], pool);
  });
  const kernels::KernelCase& c = cases.front();
  PrintCase(bench.name, c.text, pool.threads(), t, c.flop, peaks.Of(c.arithmetic), c.bytes, peaks.bandwidth);
}

// --NAME VALUE pairs of those in `known`, which holds the defaults.
inline std::map<std::string, std::string> ParseFlags(int argc, char** argv, std::map<std::string, std::string> known) {
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    const auto found = known.find(flag);
    if (found == known.end()) {
      std::string names;
      for (const auto& [name, value] : known) names += (names.empty() ? "" : ", ") + name;
      throw Error(ErrorCode::kUsage, flag + ": must be one of " + names);
    }
    if (i + 1 == argc) throw Error(ErrorCode::kUsage, flag + ": needs a value");
    found->second = argv[i + 1];
  }
  return known;
}

inline std::string CpuName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

// The machine, then f(peaks) on each SIMD level asked for.
template <class F>
void OnTargets(const std::string& target, ThreadPool& pool, F&& f) {
  utsname system{};
  ::uname(&system);
  std::printf("# %s, %d cores, %s %s, compiler %s, %d threads\n", CpuName().c_str(), PhysicalCores(), system.sysname,
              system.release, __VERSION__, pool.threads());
  for (const std::string& name : target == "all" ? kernels::Targets() : std::vector<std::string>{target}) {
    kernels::SetTarget(name);
    f(Peaks(pool));
  }
}

}  // namespace hydra::bench
