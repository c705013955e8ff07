// SPDX-License-Identifier: Apache-2.0
// Highway, and the operations that 1.0.3 lacks. Included after foreach_target.h and compiled once a SIMD level; the
// names are in hydra::kernels::HWY_NAMESPACE. Not here: int8 dot products (simd_int8-inl.h).
#if defined(HYDRA_KERNELS_SIMD_H) == defined(HWY_TARGET_TOGGLE)  // an include guard that foreach_target.h flips
#ifdef HYDRA_KERNELS_SIMD_H
#undef HYDRA_KERNELS_SIMD_H
#else
#define HYDRA_KERNELS_SIMD_H
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// Asks for the cache lines of a stream `distance` bytes before they are used; 0: never. Those that are far ahead are
// asked into the second-level cache, since the first one and its queue of misses have no room for so many, and into the
// first one once they are near.
class Ahead {
 public:
  HWY_INLINE Ahead(const void* begin, int64_t distance)
      : distance_(static_cast<uintptr_t>(distance)),
        next_(distance > 0 ? reinterpret_cast<uintptr_t>(begin) + distance_ : UINTPTR_MAX) {}
  // What comes before `end` is used now.
  HWY_INLINE void Use(const void* end) {
    const uintptr_t last = reinterpret_cast<uintptr_t>(end) + distance_;
    if (distance_ <= kNear) {
      for (; next_ < last; next_ += 64) __builtin_prefetch(reinterpret_cast<const void*>(next_), 0, 3);
    } else {
      for (; next_ < last; next_ += 64) {
        __builtin_prefetch(reinterpret_cast<const void*>(next_), 0, 2);
        __builtin_prefetch(reinterpret_cast<const void*>(next_ - distance_ + kNear), 0, 3);
      }
    }
  }

 private:
  static constexpr uintptr_t kNear = 2048;
  uintptr_t distance_, next_;
};

// The same for several streams side by side, `step` bytes apart, which are near.
template <int kCount>
class AheadOfStreams {
 public:
  HWY_INLINE AheadOfStreams(const void* begin, int64_t step, int64_t distance)
      : distance_(static_cast<uintptr_t>(distance)),
        step_(static_cast<uintptr_t>(step)),
        next_(distance > 0 ? reinterpret_cast<uintptr_t>(begin) + distance_ : UINTPTR_MAX) {}
  // What comes before `end` of the first stream, and as much of the others, is used now.
  HWY_INLINE void Use(const void* end) {
    const uintptr_t last = reinterpret_cast<uintptr_t>(end) + distance_;
    for (; next_ < last; next_ += 64)
      for (uintptr_t stream = 0; stream < kCount; ++stream)
        __builtin_prefetch(reinterpret_cast<const void*>(next_ + stream * step_), 0, 3);
  }

 private:
  uintptr_t distance_, step_, next_;
};

// Of one stream, or of several.
template <int kCount>
HWY_INLINE auto BeginAhead(const void* begin, int64_t step, int64_t distance) {
  if constexpr (kCount == 1) {
    return Ahead(begin, distance);
  } else {
    return AheadOfStreams<kCount>(begin, step, distance);
  }
}

// Sum of all lanes, in an order that the level fixes.
template <class D>
HWY_INLINE hn::TFromD<D> ReduceSum(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}
template <class D>
HWY_INLINE hn::TFromD<D> ReduceMax(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::MaxOfLanes(d, v));
}

// The first n < Lanes(d) of p, zeros behind them; nothing behind p + n is touched.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadN(D d, const T* p, size_t n) {
#if HWY_TARGET == HWY_AVX3
  return hn::MaskedLoad(hn::FirstN(d, n), d, p);
#elif HWY_TARGET == HWY_AVX2
  if constexpr (sizeof(T) >= 4) return hn::MaskedLoad(hn::FirstN(d, n), d, p);  // VMASKMOV: no fault in other lanes
#endif
  HWY_ALIGN T lanes[HWY_LANES(T)] = {};
  std::memcpy(lanes, p, n * sizeof(T));
  return hn::Load(d, lanes);
}
// The first n < Lanes(d) lanes to p.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void StoreN(hn::Vec<D> v, D d, T* p, size_t n) {
#if HWY_TARGET == HWY_AVX3
  hn::BlendedStore(v, hn::FirstN(d, n), d, p);
  return;
#elif HWY_TARGET == HWY_AVX2
  if constexpr (sizeof(T) >= 4) {
    hn::BlendedStore(v, hn::FirstN(d, n), d, p);
    return;
  }
#endif
  HWY_ALIGN T lanes[HWY_LANES(T)];
  hn::Store(v, d, lanes);
  std::memcpy(p, lanes, n * sizeof(T));
}

// How many of n numbers are left from i on; the two functions below take it.
HWY_INLINE size_t Left(int64_t n, int64_t i) { return static_cast<size_t>(n - i); }
// A vector of which n lanes are left: n at least Lanes(d) for a whole one.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadPart(D d, const T* p, size_t n) {
  return n >= hn::Lanes(d) ? hn::LoadU(d, p) : LoadN(d, p, n);
}
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void StorePart(hn::Vec<D> v, D d, T* p, size_t n) {
  if (n >= hn::Lanes(d)) {
    hn::StoreU(v, d, p);
  } else {
    StoreN(v, d, p, n);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#endif  // HYDRA_KERNELS_SIMD_H
