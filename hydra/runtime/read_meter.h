// SPDX-License-Identifier: Apache-2.0
// The rate at which threads read memory, by the best of several patterns: what is read per second can be compared with
// it. Not here: the speed of a model (speed.h), the loops (kernels/read.h), arithmetic (kernels/peak.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/kernels/read.h"

namespace hydra {

struct ReadRate {
  double bytes_per_s = 0;
  kernels::ReadPattern pattern;
};

// Measures with all threads of a pool, over and over the same memory.
class ReadMeter {
 public:
  // Enough to be read from memory and not from a cache.
  [[nodiscard]] static int64_t DefaultBytes();
  // For measurements of up to so many bytes.
  explicit ReadMeter(ThreadPool& pool, int64_t bytes = DefaultBytes());
  // The best of several passes by each pattern over so many bytes, or over all where it has fewer. What a model reads
  // for a token, again and again, lies in caches in part: its limit is the rate of as many bytes.
  ReadRate Measure(int64_t bytes = INT64_MAX);

 private:
  // Bytes a second of a pass by all threads over so many numbers of each one's share.
  double Pass(const kernels::ReadPattern& pattern, int64_t numbers);

  ThreadPool& pool_;
  int64_t share_;  // numbers of each thread
  std::shared_ptr<std::byte> pages_;
  uint64_t* data_;
  std::vector<uint64_t> sums_;
};

}  // namespace hydra
