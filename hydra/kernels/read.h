// SPDX-License-Identifier: Apache-2.0
// Reading memory as fast as one thread can, on each SIMD level. The speed of products with few tokens is compared with
// it. Not here: what all threads read together (runtime/read_meter.h), the arithmetic (peak.h).
#pragma once

#include <cstdint>
#include <string>

namespace hydra::kernels {

// How a thread goes through its share: so many streams side by side, each asking for the bytes that lie `near` and
// `far` ahead of those that it adds up, into the first- and the second-level cache; 0: never.
struct ReadPattern {
  int streams = 1;  // 1 or 4
  int64_t near = 0, far = 0;
  // For a person: "1 stream", "4 streams, 2048 bytes ahead".
  [[nodiscard]] std::string Describe() const;
};

// Numbers of each stream that come in turn: n of SumNumbers is a multiple of 4 times as many.
constexpr int64_t kReadStep = 16;

// The sum of n numbers, on the SIMD level in use. p is 64-byte aligned.
[[nodiscard]] uint64_t SumNumbers(const uint64_t* p, int64_t n, const ReadPattern& pattern);

}  // namespace hydra::kernels
