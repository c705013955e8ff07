// SPDX-License-Identifier: Apache-2.0
// The peak of int8 dot products of one SIMD level (HWY_TARGET): the steps of simd_int8-inl.h on registers, loads left
// out. Included by peak.cc after that header, in the same namespaces. Not here: the products themselves. No include
// guard: it is meant to be included more than once.

// Makes the compiler believe that the vector has changed. The operand of the instruction is a copy, because clang
// accepts no element of an array.
#undef HYDRA_HIDE
#undef HYDRA_VECTOR_REGISTER
#if HWY_ARCH_ARM
#define HYDRA_VECTOR_REGISTER "+w"
#else
#define HYDRA_VECTOR_REGISTER "+v"
#endif
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
#define HYDRA_HIDE(v) asm volatile("" : "+m"(v))
#else
#define HYDRA_HIDE(v)                              \
  do {                                             \
    auto raw = (v).raw;                            \
    asm volatile("" : HYDRA_VECTOR_REGISTER(raw)); \
    (v).raw = raw;                                 \
  } while (false)
#endif

template <int kBits>
double DotFlopsOf(int64_t rounds, float* sink) {
  constexpr int kSums = HWY_MAX_BYTES >= 64 ? 12 : 4;
  const I32Tag d;
  DotSum<kBits> dots[kSums];
  const auto w = hn::Set(U32Tag(), 0x01020304u + static_cast<uint32_t>(sink[0]));
  U32Vec x[kSums];  // each of its own, or the compiler computes equal products once
  Unroll<kSums>([&](auto i) HYDRA_LAMBDA {
    x[i] = hn::Set(U32Tag(), 0x02010304u);
    dots[i].Init(hn::Set(d, static_cast<int32_t>(i)));
  });
  for (int64_t r = 0; r < rounds / 8; ++r) {
    Unroll<8>([&](auto step) HYDRA_LAMBDA {
      Unroll<kSums>([&](auto i) HYDRA_LAMBDA {
        HYDRA_HIDE(x[i]);
        dots[i].template Add<step, 8>(w, x[i]);
      });
    });
  }
  auto total = hn::Zero(d);
  Unroll<kSums>([&](auto i) HYDRA_LAMBDA { total = hn::Add(total, dots[i].Sum()); });
  sink[0] += static_cast<float>(ReduceSum(d, total)) * 1e-30f;
  const int64_t whole = rounds / 8 * 8;
  return 8.0 * static_cast<double>(kSums * whole) * static_cast<double>(hn::Lanes(d));
}

inline double DotFlops(int64_t rounds, int bits, float* sink) {
  switch (bits) {
    case 8: return DotFlopsOf<8>(rounds, sink);
    case 6: return DotFlopsOf<6>(rounds, sink);
    case 5: return DotFlopsOf<5>(rounds, sink);
    default: return DotFlopsOf<4>(rounds, sink);
  }
}
