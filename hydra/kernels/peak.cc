// SPDX-License-Identifier: Apache-2.0
// The loops of MeasurePeak for every SIMD level, and for AVX-512 also with VNNI, with dot products of bf16, and with
// tiles of AMX.
// Not here: the products themselves (matmul_float.cc, matmul_int8.cc).
#include "hydra/kernels/peak.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/kernels/amx.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/matmul_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/peak.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

namespace plain {
#define HYDRA_VNNI 0
#define HYDRA_ATTR HWY_ATTR
#include "hydra/kernels/simd_int8-inl.h"
#include "hydra/kernels/simd_peak-inl.h"

// Multiply-adds of f32 that depend on nothing but themselves: 2 * lanes FLOP each.
double FmaFlops(int64_t rounds, float* sink) {
  constexpr int kSums = HWY_MAX_BYTES >= 64 ? 20 : 10;
  const FloatTag d;
  FloatVec sums[kSums];
  const auto a = hn::Set(d, 0.999f + sink[0]), b = hn::Set(d, 0.001f);
  Unroll<kSums>([&](auto i) HYDRA_LAMBDA { sums[i] = hn::Set(d, static_cast<float>(i)); });
  for (int64_t r = 0; r < rounds; ++r) Unroll<kSums>([&](auto i) HYDRA_LAMBDA { sums[i] = hn::MulAdd(sums[i], a, b); });
  auto total = hn::Zero(d);
  Unroll<kSums>([&](auto i) HYDRA_LAMBDA { total = hn::Add(total, sums[i]); });
  sink[0] += ReduceSum(d, total) * 1e-30f;
  return 2.0 * static_cast<double>(kSums * rounds) * static_cast<double>(hn::Lanes(d));
}
#undef HYDRA_VNNI
#undef HYDRA_ATTR
}  // namespace plain

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
namespace vnni {
#define HYDRA_VNNI 1
#define HYDRA_ATTR __attribute__((target(HWY_TARGET_STR ",avx512vnni")))
#include "hydra/kernels/simd_int8-inl.h"
#include "hydra/kernels/simd_peak-inl.h"
#undef HYDRA_VNNI
#undef HYDRA_ATTR
}  // namespace vnni
HWY_POP_ATTRIBUTES
#endif

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
namespace bf16 {
#define HYDRA_ATTR __attribute__((target(HWY_TARGET_STR ",avx512bf16")))
#include "hydra/kernels/simd_bf16-inl.h"

// As FmaFlops, of pairs of bf16.
inline double PairFlops(int64_t rounds, float* sink) {
  constexpr int kSums = 20;
  __m512 sums[kSums];
  const __m512i a = _mm512_set1_epi32(0x3F003F00 + static_cast<int32_t>(sink[0]));  // two halves
  Unroll<kSums>([&](auto i) HYDRA_LAMBDA { sums[i] = _mm512_set1_ps(static_cast<float>(i)); });
  for (int64_t r = 0; r < rounds; ++r) Unroll<kSums>([&](auto i) HYDRA_LAMBDA { sums[i] = AddPairs(sums[i], a, a); });
  __m512 total = _mm512_setzero_ps();
  Unroll<kSums>([&](auto i) HYDRA_LAMBDA { total = _mm512_add_ps(total, sums[i]); });
  sink[0] += _mm512_reduce_add_ps(total) * 1e-30f;
  return 4.0 * static_cast<double>(kSums * rounds * kPairLanes);
}
#undef HYDRA_LAMBDA
#undef HYDRA_ATTR
}  // namespace bf16
HWY_POP_ATTRIBUTES
#endif

#if HWY_TARGET == HWY_AVX3
// Products of whole tiles, of pairs of bf16 or of bytes, whatever the weights' bits.
template <bool kPairs>
double TileFlops(int64_t rounds) {
  amx::Shapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.Set(tile, amx::kRows, amx::kRowBytes);
  amx::Configure(shapes);
  for (int64_t r = 0; r < rounds; ++r) {
    plain::Unroll<4>([](auto i) HWY_ATTR {
      if constexpr (kPairs)
        amx::AddPairs<i, 4 + i / 2, 6 + i % 2>();
      else
        amx::AddBytes<i, 4 + i / 2, 6 + i % 2>();
    });
  }
  amx::Release();
  return 4.0 * 2.0 * amx::kRows * amx::kRows * (amx::kRowBytes / (kPairs ? 2 : 1)) * static_cast<double>(rounds);
}
#endif

// bits: of the weights; 0 = f32, 16 = bf16, where the level has its dot products.
double PeakFlops(int64_t rounds, int bits, [[maybe_unused]] internal::Extension extension, float* sink) {
  if (bits == 0) return plain::FmaFlops(rounds, sink);
#if HWY_TARGET == HWY_AVX3
  using internal::Extension;
  if (extension >= Extension::kAmx) return bits == 16 ? TileFlops<true>(rounds) : TileFlops<false>(rounds);
  if (bits == 16) return bf16::PairFlops(rounds, sink);
  if (extension >= Extension::kVnni) return vnni::DotFlops(rounds, bits, sink);
#endif
  return plain::DotFlops(rounds, bits, sink);
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(PeakFlops);

namespace {

int Bits(WeightType type) {
  switch (type) {
    case WeightType::kQ8_0: return 8;
    case WeightType::kQ6_K: return 6;
    case WeightType::kQ5_0:
    case WeightType::kQ5_1:
    case WeightType::kQ5_K: return 5;
    default: return 4;
  }
}

}  // namespace

double MeasurePeak(WeightType type, ActType act, ThreadPool& pool) {
  constexpr int64_t kRounds = 20000;
  constexpr double kSeconds = 0.2;
  constexpr size_t kLine = 16;  // a cache line for each worker
  const int bits = IsQuantised(type) && act == ActType::kQ8 ? Bits(type) : GoesInPairs(type, act) ? 16 : 0;
  const auto flops = HYDRA_DISPATCH(PeakFlops);
  const internal::Extension extension = internal::CurrentExtension();
  const auto workers = static_cast<size_t>(pool.threads());
  std::vector<double> best(workers * kLine);
  std::vector<float> sinks(workers * kLine);
  pool.Run([&](int worker) {
    const size_t at = static_cast<size_t>(worker) * kLine;
    for (const double end = Seconds() + kSeconds; Seconds() < end;) {
      const double start = Seconds(), done = flops(kRounds, bits, extension, &sinks[at]);
      best[at] = std::max(best[at], done / (Seconds() - start));
    }
  });
  return std::accumulate(best.begin(), best.end(), 0.0);
}

}  // namespace hydra::kernels
#endif
