// SPDX-License-Identifier: Apache-2.0
// What the benchmarks of kernels share: timing, the peaks that speed is compared with, a JSON line a case, flags.
// Not here: the cases (hydra/kernels/kernel_list.h).
#pragma once

#include <sys/utsname.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/thread_pool.h"
#include "hydra/cli/machine.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/peak.h"
#include "hydra/kernels/target.h"
#include "hydra/runtime/read_meter.h"
#include "hydra/runtime/speed.h"

namespace hydra::bench {

struct Times {
  double median, min, max;  // seconds of one call, each the mean of an interval
  int reps;                 // intervals
  int64_t calls;            // of an interval
};
// At least 5 and about 0.3 s of timed intervals, by the clock of Peaks; f(i) is the i-th call. An interval holds as
// many calls as last 50 us, so that reading the clock is no part of what a short one takes.
template <class F>
Times Measure(F&& f) {
  constexpr double kInterval = 50e-6;
  int64_t next = 0;
  const auto interval = [&](int64_t calls) {
    const double start = Seconds();
    for (int64_t i = 0; i < calls; ++i) f(next++);
    return Seconds() - start;
  };
  // A pause of the thread makes one interval long, but hardly three.
  const auto some_is_short = [&](int64_t calls) {
    for (int i = 0; i < 3; ++i)
      if (interval(calls) < kInterval) return true;
    return false;
  };
  int64_t calls = 1;
  while (some_is_short(calls)) calls *= 2;
  std::vector<double> times;
  const double end = Seconds() + 0.3;
  while (times.size() < 5 || Seconds() < end) times.push_back(interval(calls) / static_cast<double>(calls));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), static_cast<int>(times.size()), calls};
}

// Of all threads of a pool on the level in use: bytes read a second, FLOP a second.
struct Peaks {
  double bandwidth, f32, bf16, int4, int8;

  explicit Peaks(ThreadPool& pool)
      : bandwidth(ReadMeter(pool).Measure().bytes_per_s),
        f32(kernels::MeasurePeak(WeightType::kF32, kernels::ActType::kF32, pool)),
        bf16(kernels::MeasurePeak(WeightType::kBF16, kernels::ActType::kBF16, pool)),
        int4(kernels::MeasurePeak(WeightType::kQ4_0, kernels::ActType::kQ8, pool)),
        int8(kernels::MeasurePeak(WeightType::kQ8_0, kernels::ActType::kQ8, pool)) {
    std::printf(
        "# target %s: read %.1f GB/s, FMA of f32 %.1f and of bf16 %.1f GFLOP/s, int8 dot %.0f (4 bits) and %.0f "
        "(8 bits) GOP/s\n",
        kernels::CurrentTarget().c_str(), bandwidth / 1e9, f32 / 1e9, bf16 / 1e9, int4 / 1e9, int8 / 1e9);
  }
  [[nodiscard]] double Of(kernels::Arithmetic arithmetic) const {
    switch (arithmetic) {
      case kernels::Arithmetic::kF32: return f32;
      case kernels::Arithmetic::kBf16: return bf16;
      case kernels::Arithmetic::kInt4: return int4;
      case kernels::Arithmetic::kInt8: return int8;
    }
    return f32;
  }
};

// flop and bytes of one call; 0 where they say nothing.
inline void PrintCase(const std::string& name, const std::string& text, int threads, const Times& t, double flop,
                      double peak, double bytes, double bandwidth) {
  std::printf(
      "{\"bench\":\"%s\",\"case\":\"%s\",\"target\":\"%s\",\"threads\":%d,\"reps\":%d,\"calls\":%lld,"
      "\"median_us\":%.3f,\"min_us\":%.3f,\"max_us\":%.3f",
      name.c_str(), text.c_str(), kernels::CurrentTarget().c_str(), threads, t.reps, static_cast<long long>(t.calls),
      t.median * 1e6, t.min * 1e6, t.max * 1e6);
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

// One case of the list. Cold ones run over as many cases in turn as leave the cache, within an interval too; each has
// its warm-up, in which its scratch grows.
inline void RunListed(const kernels::BenchCase& bench, const std::string& match, const Peaks& peaks, ThreadPool& pool) {
  constexpr double kCold = 160 << 20;  // bytes
  std::vector<kernels::KernelCase> cases;
  std::vector<kernels::Arrays> arrays;
  for (double bytes = 0; bytes == 0 || (bench.cold && bytes < kCold); bytes += cases.back().bytes) {
    cases.push_back(bench.make(cases.size()));
    if (!Matches(bench.name, cases.back().text, match)) return;
    if (cases.back().prepare) cases.back().prepare(pool);
    arrays.push_back(cases.back().Before());
    cases.back().simd(arrays.back(), pool);
    if (!bench.cold) break;
  }
  const Times t = Measure([&](int64_t i) {
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

// The machine, then f(peaks) on each SIMD level asked for.
template <class F>
void OnTargets(const std::string& target, ThreadPool& pool, F&& f) {
  utsname system{};
  ::uname(&system);
  const std::string processor = cli::ProcessorName();
  std::printf("# %s, %d cores, %s %s, compiler %s, %d threads\n",
              processor.empty() ? "unknown processor" : processor.c_str(), PhysicalCores(), system.sysname,
              system.release, __VERSION__, pool.threads());
  for (const std::string& name : target == "all" ? kernels::Targets() : std::vector<std::string>{target}) {
    kernels::SetTarget(name);
    f(Peaks(pool));
  }
}

}  // namespace hydra::bench
