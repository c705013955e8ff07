// SPDX-License-Identifier: Apache-2.0
// The rate at which threads read memory, by the best of several patterns: what is read per second can be compared with
// it. Not here: the speed of a model (speed.h), of arithmetic (kernels/peak.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/thread_pool.h"

namespace hydra {

// How a thread goes through its share: so many streams side by side, each asking for the bytes `ahead` of those that it
// adds up (0: never).
struct ReadPattern {
  int streams = 1;
  int64_t ahead = 0;
  // For a person: "1 stream", "4 streams, 2048 bytes ahead".
  [[nodiscard]] std::string Describe() const;
};

struct ReadRate {
  double bytes_per_s = 0;
  ReadPattern pattern;
};

// Measures with all threads of a pool, over and over the same memory.
class ReadMeter {
 public:
  // Enough to be read from memory and not from a cache.
  [[nodiscard]] static int64_t DefaultBytes();
  explicit ReadMeter(ThreadPool& pool, int64_t bytes = DefaultBytes());
  // The best of several passes by each pattern.
  ReadRate Measure();

 private:
  // Bytes a second of one pass.
  double Pass(const ReadPattern& pattern);

  ThreadPool& pool_;
  int64_t share_;  // numbers of each thread
  std::shared_ptr<std::byte> pages_;
  uint64_t* data_;
  std::vector<uint64_t> sums_;
};

}  // namespace hydra
