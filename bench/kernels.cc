// SPDX-License-Identifier: Apache-2.0
// Speed of the products with stored weights, per type and SIMD level: GB/s of weights and the share of the measured
// read bandwidth for one token, GFLOP/s and the share of the measured arithmetic peak for many. Prints the machine,
// then a JSON line a case. Not here: whole models (hydralm bench).
//   bench_kernels [--target NAME|all] [--threads N] [--type NAME] [--mode decode|batch|prefill|all]
#include <sys/utsname.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/base/thread_pool.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/matmul.h"
#include "hydra/kernels/peak.h"
#include "hydra/kernels/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/kernels.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

float SumBytes(const float* p, int64_t n) {
  const FloatTag d;
  FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i + 4 * lanes <= n; i += 4 * lanes)
    for (int64_t j = 0; j < 4; ++j) sums[j] = hn::Add(sums[j], hn::LoadU(d, p + i + j * lanes));
  return ReduceSum(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {
HWY_EXPORT(SumBytes);
namespace {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<std::byte, FreeDeleter>;
Bytes Aligned(int64_t n) {
  auto* p = static_cast<std::byte*>(std::aligned_alloc(4096, static_cast<size_t>((n + 4095) / 4096 * 4096)));
  if (p == nullptr) throw std::bad_alloc();
  return Bytes(p);
}

struct Times {
  double median, min, max;
  int reps;
};
// After a warm-up, at least 5 and about 0.3 s of calls.
template <class F>
Times Measure(F&& f) {
  f();
  std::vector<double> times;
  const double end = Seconds() + 0.3;
  while (times.size() < 5 || (Seconds() < end && times.size() < 2000)) {
    const double start = Seconds();
    f();
    times.push_back(Seconds() - start);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), static_cast<int>(times.size())};
}

// Best of several: what the machine can do when nobody disturbs it.
double Bandwidth(ThreadPool& pool) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  const Bytes data = Aligned(kBytes);
  std::memset(data.get(), 1, kBytes);
  std::atomic<float> sink = 0;
  const auto* floats = reinterpret_cast<const float*>(data.get());
  constexpr int64_t kPart = 1 << 16;
  const Times t = Measure([&] {
    pool.For(kBytes / 4 / kPart,
             [&](int64_t task, int) { sink = HYDRA_DISPATCH(SumBytes)(floats + task * kPart, kPart); });
  });
  return kBytes / t.min;
}

struct Options {
  std::string target = "best", type, mode = "all";
  int threads = 0;
};

struct Machine {
  double bandwidth, fma, int4, int8;
};

// Rows of zeros but for the halves and floats among them, which are small numbers: time does not depend on the values.
Bytes SomeWeights(WeightType type, int64_t N, int64_t K) {
  const int64_t bytes = N * RowBytes(type, K);
  Bytes out = Aligned(bytes);
  Rng rng(1);
  uint64_t word = 0;
  for (int64_t i = 0; i < bytes; ++i) {
    if (i % 8 == 0) word = rng() & 0x2F2F2F2F2F2F2F2F;  // finite in every float type
    out.get()[i] = static_cast<std::byte>(word >> (i % 8 * 8));
  }
  return out;
}

void Case(const char* mode, WeightType type, int64_t N, int64_t K, int64_t T, int64_t copies, ActType act,
          const Machine& machine, ThreadPool& pool) {
  const int64_t packed_bytes = PackedBytes(type, N, K);
  std::vector<Bytes> memory;
  std::vector<Matrix> weights;
  for (int64_t c = 0; c < copies; ++c) {
    Bytes rows = SomeWeights(type, N, K);
    Matrix w{.type = type, .rows = N, .cols = K, .data = rows.get()};
    if (packed_bytes > 0) {
      Bytes panels = Aligned(packed_bytes);
      w = Pack(w, panels.get(), pool);
      memory.push_back(std::move(panels));
    } else {
      memory.push_back(std::move(rows));
    }
    weights.push_back(w);
  }
  std::vector<float> x(static_cast<size_t>(T * K)), y(static_cast<size_t>(T * N));
  Rng rng(2);
  for (float& v : x) v = static_cast<float>(rng.Normal());
  MatMulScratch scratch;
  const Times t = Measure([&] {
    for (const Matrix& w : weights) MatMul({.w = w, .x = x.data(), .y = y.data(), .T = T}, act, pool, scratch);
  });
  const auto calls = static_cast<double>(copies);
  const double bytes = static_cast<double>(packed_bytes > 0 ? packed_bytes : N * RowBytes(type, K));
  const double gbs = calls * bytes / t.median / 1e9,
               gflops = calls * 2.0 * static_cast<double>(N * K * T) / t.median / 1e9;
  const bool int8 = IsQuantised(type) && act == ActType::kQ8;
  const double peak = int8 ? (type == WeightType::kQ8_0 ? machine.int8 : machine.int4) : machine.fma;
  std::printf(
      "{\"bench\":\"%s\",\"case\":\"%s N%lld K%lld T%lld\",\"act\":\"%s\",\"target\":\"%s\",\"threads\":%d,\"reps\":%d,"
      "\"median_us\":%.2f,\"min_us\":%.2f,\"max_us\":%.2f,\"gb_s\":%.2f,\"bandwidth_share\":%.3f,\"gflop_s\":%.1f,"
      "\"peak_share\":%.3f}\n",
      mode, Info(type).name, static_cast<long long>(N), static_cast<long long>(K), static_cast<long long>(T),
      int8 ? "q8" : "f32", CurrentTarget().c_str(), pool.threads(), t.reps, t.median / calls * 1e6, t.min / calls * 1e6,
      t.max / calls * 1e6, gbs, gbs * 1e9 / machine.bandwidth, gflops, gflops * 1e9 / peak);
  std::fflush(stdout);
}

void RunTarget(const Options& options, ThreadPool& pool) {
  const Machine machine{Bandwidth(pool), MeasurePeak(WeightType::kF32, ActType::kF32, pool),
                        MeasurePeak(WeightType::kQ4_0, ActType::kQ8, pool),
                        MeasurePeak(WeightType::kQ8_0, ActType::kQ8, pool)};
  std::printf(
      "# target %s: read %.1f GB/s, f32 FMA peak %.0f GFLOP/s, int8 dot peak %.0f (4 bits) and %.0f (8 bits) GOP/s, %d "
      "threads\n",
      CurrentTarget().c_str(), machine.bandwidth / 1e9, machine.fma / 1e9, machine.int4 / 1e9, machine.int8 / 1e9,
      pool.threads());
  const auto wants = [&](const char* mode) { return options.mode == "all" || options.mode == mode; };
  for (const WeightTypeInfo& info : AllWeightTypes()) {
    if (!options.type.empty() && ParseWeightType(options.type) != info.type) continue;
    const int64_t super = info.block == 256;
    const int64_t narrow = super ? 512 : 576, wide = 1536;
    if (wants("decode")) {
      constexpr int64_t kBytes = int64_t{160} << 20;  // leaves any cache
      const auto copies = [&](int64_t N, int64_t K) {
        return std::max<int64_t>(1, kBytes / (N * RowBytes(info.type, K)));
      };
      Case("decode", info.type, 4096, 4096, 1, copies(4096, 4096), ActType::kQ8, machine, pool);
      Case("decode", info.type, 576, narrow, 1, copies(576, narrow), ActType::kQ8, machine, pool);
      Case("decode", info.type, wide, narrow, 1, copies(wide, narrow), ActType::kQ8, machine, pool);
      Case("decode_hot", info.type, wide, narrow, 1, 1, ActType::kQ8, machine, pool);
    }
    if (wants("batch"))
      for (const int64_t T : {2, 4, 8, 16}) Case("batch", info.type, wide, narrow, T, 1, ActType::kQ8, machine, pool);
    if (wants("prefill")) {
      Case("prefill", info.type, 576, narrow, 512, 1, ActType::kQ8, machine, pool);
      Case("prefill", info.type, wide, narrow, 512, 1, ActType::kQ8, machine, pool);
      Case("prefill", info.type, 576, wide, 512, 1, ActType::kQ8, machine, pool);
      Case("prefill", info.type, 2048, 2048, 512, 1, ActType::kQ8, machine, pool);
      if (info.block > 1) Case("prefill", info.type, wide, narrow, 512, 1, ActType::kF32, machine, pool);
    }
  }
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (i + 1 == argc) throw Error(ErrorCode::kUsage, flag + ": needs a value");
    const std::string value = argv[++i];
    if (flag == "--target")
      options.target = value;
    else if (flag == "--type")
      options.type = value;
    else if (flag == "--mode")
      options.mode = value;
    else if (flag == "--threads")
      options.threads = std::atoi(value.c_str());
    else
      throw Error(ErrorCode::kUsage, flag + ": must be --target, --threads, --type or --mode");
  }
  if (!options.type.empty() && !ParseWeightType(options.type))
    throw Error(ErrorCode::kUsage, "--type " + options.type + ": is no weight type");
  if (options.mode != "all" && options.mode != "decode" && options.mode != "batch" && options.mode != "prefill")
    throw Error(ErrorCode::kUsage, "--mode " + options.mode + ": must be decode, batch, prefill or all");
  if (options.threads < 0) throw Error(ErrorCode::kUsage, "--threads: must be 0 (all cores) or more");
  return options;
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
    const Options options = Parse(argc, argv);
    ThreadPool pool(options.threads);
    utsname system{};
    ::uname(&system);
    std::printf("# %s, %d cores, %s %s, compiler %s\n", CpuName().c_str(), PhysicalCores(), system.sysname,
                system.release, __VERSION__);
    for (const std::string& target : options.target == "all" ? Targets() : std::vector<std::string>{options.target}) {
      SetTarget(target);
      RunTarget(options, pool);
    }
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "bench_kernels: %s\n", e.what());
    return 2;
  }
}
#endif  // HWY_ONCE
