// SPDX-License-Identifier: Apache-2.0
// The loops of SumNumbers for every SIMD level. Not here: what products read (matmul_int8.cc, matmul_float.cc).
#include "hydra/kernels/read.h"

#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/read.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

// For the two cache lines so many bytes behind `at`; kLocality as __builtin_prefetch has it.
template <int kLocality>
HWY_INLINE void Ask(const uint64_t* at, int64_t ahead) {
  const char* later = reinterpret_cast<const char*>(at) + ahead;
  __builtin_prefetch(later, 0, kLocality);
  __builtin_prefetch(later + 64, 0, kLocality);
}

// The numbers as kStreams streams of equal lengths, two cache lines of each in turn.
template <int kStreams, bool kNear, bool kFar>
uint64_t SumStreams(const uint64_t* p, int64_t n, const ReadPattern& pattern) {
  const hn::ScalableTag<uint64_t> d;
  constexpr int64_t kLanes = HWY_LANES(uint64_t);
  auto even = hn::Zero(d), odd = hn::Zero(d);
  const int64_t length = n / kStreams;
  for (int64_t i = 0; i < length; i += kReadStep)
    for (int stream = 0; stream < kStreams; ++stream) {
      const uint64_t* at = p + stream * length + i;
      if constexpr (kNear) Ask<3>(at, pattern.near);
      if constexpr (kFar) Ask<2>(at, pattern.far);
      for (int64_t j = 0; j < kReadStep; j += 2 * kLanes) {
        even = hn::Add(even, hn::Load(d, at + j));
        odd = hn::Add(odd, hn::Load(d, at + j + kLanes));
      }
    }
  return ReduceSum(d, hn::Add(even, odd));
}

template <int kStreams>
uint64_t SumOf(const uint64_t* p, int64_t n, const ReadPattern& pattern) {
  if (pattern.far > 0)
    return pattern.near > 0 ? SumStreams<kStreams, true, true>(p, n, pattern)
                            : SumStreams<kStreams, false, true>(p, n, pattern);
  return pattern.near > 0 ? SumStreams<kStreams, true, false>(p, n, pattern)
                          : SumStreams<kStreams, false, false>(p, n, pattern);
}

uint64_t SumOnLevel(const uint64_t* p, int64_t n, const ReadPattern& pattern) {
  return pattern.streams == 1 ? SumOf<1>(p, n, pattern) : SumOf<4>(p, n, pattern);
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(SumOnLevel);

std::string ReadPattern::Describe() const {
  std::string text = StrCat(streams, streams == 1 ? " stream" : " streams");
  if (near > 0) text += StrCat(", ", near, " bytes ahead");
  if (far > 0) text += StrCat(near > 0 ? " and " : ", ", far, near > 0 ? "" : " bytes ahead");
  return text;
}

uint64_t SumNumbers(const uint64_t* p, int64_t n, const ReadPattern& pattern) {
  HYDRA_CHECK(pattern.streams == 1 || pattern.streams == 4, pattern.streams, " streams");
  HYDRA_CHECK(n >= 0 && n % (4 * kReadStep) == 0, n, " numbers");
  return HYDRA_DISPATCH(SumOnLevel)(p, n, pattern);
}

}  // namespace hydra::kernels
#endif
