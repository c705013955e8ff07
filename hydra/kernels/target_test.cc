// SPDX-License-Identifier: Apache-2.0
// The choice of SIMD levels: each can be forced and is then really used; impossible ones fail; partial vectors touch
// nothing behind their end on any level.
#include "hydra/kernels/target.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "hydra/base/testing.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/testing.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/target_test.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

int64_t CompiledFor() { return HWY_TARGET; }

// y = x for n floats by partial vectors.
void CopyFloats(const float* x, float* y, size_t n) {
  const FloatTag d;
  for (size_t i = 0; i < n; i += hn::Lanes(d)) StorePart(LoadPart(d, x + i, n - i), d, y + i, n - i);
}
void CopyBytes(const uint8_t* x, uint8_t* y, size_t n) {
  const hn::ScalableTag<uint8_t> d;
  for (size_t i = 0; i < n; i += hn::Lanes(d)) StorePart(LoadPart(d, x + i, n - i), d, y + i, n - i);
}
float SumFloats(const float* x, size_t n) {
  const FloatTag d;
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < n; i += hn::Lanes(d)) sum = hn::Add(sum, LoadPart(d, x + i, n - i));
  return ReduceSum(d, sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {
HWY_EXPORT(CompiledFor);
HWY_EXPORT(CopyFloats);
HWY_EXPORT(CopyBytes);
HWY_EXPORT(SumFloats);
namespace {

TEST(Target, ListIsBestFirstAndEndsInTheBaseline) {
  const auto names = Targets();
#if HWY_ARCH_ARM_A64
  EXPECT_EQ(names, std::vector<std::string>{"neon"});  // every processor has it
#else
  ASSERT_GE(names.size(), 2u);
  EXPECT_EQ(names.back(), "scalar");
#endif
  const std::string before = CurrentTarget();
  SetTarget("best");
  EXPECT_EQ(CurrentTarget(), names.front());
  SetTarget(before);
}

TEST(Target, ForcedLevelIsTheOneThatRuns) {
  using internal::Extension;
  std::vector<int64_t> seen;
  ForEachTarget([&](const std::string& name) {
    EXPECT_EQ(CurrentTarget(), name);
    const int64_t compiled = HYDRA_DISPATCH(CompiledFor)();
    EXPECT_EQ(internal::CurrentExtension(), name == "avx3_amx"    ? Extension::kAmx
                                            : name == "avx3_bf16" ? Extension::kBf16
                                            : name == "avx3_vnni" ? Extension::kVnni
                                                                  : Extension::kNone);
    EXPECT_EQ(HasBf16Dots(), name == "avx3_amx" || name == "avx3_bf16");
    if (name == "avx2") {
      EXPECT_EQ(compiled, HWY_AVX2);
    }
    if (name == "scalar") {
      EXPECT_TRUE(compiled == HWY_SCALAR || compiled == HWY_EMU128);
    }
    if (internal::CurrentExtension() == Extension::kNone) seen.push_back(compiled);
  });
  std::ranges::sort(seen);
  EXPECT_EQ(std::ranges::adjacent_find(seen), seen.end()) << "two levels ran the same code";
}

TEST(Target, ImpossibleLevelsFail) {
  const std::string before = CurrentTarget();
  ExpectError([] { SetTarget("avx9"); }, ErrorCode::kUsage, {"avx9", Targets().back()});
  ExpectError([] { SetTarget(""); }, ErrorCode::kUsage, {"must be best or one of"});
  EXPECT_EQ(CurrentTarget(), before);
}

// Data that ends where an unreadable page begins.
class GuardedPage {
 public:
  GuardedPage() : size_(static_cast<size_t>(::sysconf(_SC_PAGESIZE))) {
    base_ =
        static_cast<std::byte*>(::mmap(nullptr, 2 * size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    HYDRA_CHECK(base_ != MAP_FAILED && ::mprotect(base_ + size_, size_, PROT_NONE) == 0);
  }
  ~GuardedPage() { ::munmap(base_, 2 * size_); }
  GuardedPage(const GuardedPage&) = delete;
  GuardedPage& operator=(const GuardedPage&) = delete;
  template <class T>
  T* Last(size_t n) {
    return reinterpret_cast<T*>(base_ + size_) - n;
  }

 private:
  size_t size_;
  std::byte* base_;
};

TEST(Target, PartialVectorsStayInsideTheirArrays) {
  GuardedPage from, to;
  ForEachTarget([&](const std::string&) {
    ForEachSize(130, [&](int64_t size) {
      const auto n = static_cast<size_t>(size);
      float* x = from.Last<float>(n);
      float* y = to.Last<float>(n);
      for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i + 1), y[i] = -1;
      HYDRA_DISPATCH(CopyFloats)(x, y, n);
      EXPECT_TRUE(std::equal(x, x + n, y));
      const size_t sum = n * (n + 1) / 2;
      EXPECT_EQ(HYDRA_DISPATCH(SumFloats)(x, n), static_cast<float>(sum));
      auto* bx = from.Last<uint8_t>(n);
      auto* by = to.Last<uint8_t>(n);
      for (size_t i = 0; i < n; ++i) bx[i] = static_cast<uint8_t>(i + 1), by[i] = 0;
      HYDRA_DISPATCH(CopyBytes)(bx, by, n);
      EXPECT_TRUE(std::equal(bx, bx + n, by));
    });
  });
}

}  // namespace
}  // namespace hydra::kernels
#endif
