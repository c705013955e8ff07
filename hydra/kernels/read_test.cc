// SPDX-License-Identifier: Apache-2.0
// Every pattern of reading adds up every number, on every SIMD level.
#include "hydra/kernels/read.h"

#include <array>
#include <numeric>
#include <string>

#include "hydra/kernels/testing.h"

namespace hydra::kernels {
namespace {

TEST(Read, AddsUpAllNumbers) {
  ForEachTarget([](const std::string&) {
    constexpr int64_t kNumbers = 4096;
    alignas(64) std::array<uint64_t, kNumbers> numbers;
    std::iota(numbers.begin(), numbers.end(), uint64_t{5});
    for (const ReadPattern& pattern :
         {ReadPattern{}, {1, 1024, 0}, {1, 2048, 8192}, {4, 0, 0}, {4, 0, 4096}, {4, 1024, 0}})
      for (const int64_t n : {int64_t{0}, 4 * kReadStep, kNumbers})
        EXPECT_EQ(SumNumbers(numbers.data(), n, pattern), std::accumulate(numbers.begin(), numbers.begin() + n, 0ULL))
            << pattern.Describe();
    EXPECT_THROW((void)SumNumbers(numbers.data(), 1, {}), std::logic_error);
    EXPECT_THROW((void)SumNumbers(numbers.data(), 0, {.streams = 2}), std::logic_error);
  });
}

TEST(Read, SaysHow) {
  EXPECT_EQ(ReadPattern{}.Describe(), "1 stream");
  EXPECT_EQ((ReadPattern{4, 2048, 0}).Describe(), "4 streams, 2048 bytes ahead");
  EXPECT_EQ((ReadPattern{1, 2048, 8192}).Describe(), "1 stream, 2048 bytes ahead and 8192");
}

}  // namespace
}  // namespace hydra::kernels
