// SPDX-License-Identifier: Apache-2.0
// The passes of the read meter.
#include "hydra/runtime/read_meter.h"

#include <unistd.h>

#include <algorithm>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/pages.h"

namespace hydra {
namespace {

using kernels::ReadPattern;

// A processor's own prefetching follows one stream well on some machines and several on others; on some it stops at
// each page, so that asking ahead helps.
constexpr ReadPattern kPatterns[] = {{1, 0, 0}, {1, 1024, 0}, {1, 2048, 4096}, {1, 2048, 8192},
                                     {4, 0, 0}, {4, 1024, 0}, {4, 2048, 0}};

constexpr int64_t kNumber = sizeof(uint64_t);
constexpr int64_t kPage = 4096 / kNumber;  // shares are whole pages

int64_t WholePages(int64_t bytes, int threads) {
  return std::max<int64_t>(bytes / kNumber / threads / kPage, 1) * kPage;
}

}  // namespace

int64_t ReadMeter::DefaultBytes() {
#ifdef HYDRA_SANITIZED  // its rates say nothing, and every word read is checked
  return int64_t{16} << 20;
#endif
  constexpr int64_t kLeast = int64_t{256} << 20, kMost = int64_t{1} << 30, kCaches = 4;
  const int64_t cache = std::max<int64_t>(::sysconf(_SC_LEVEL3_CACHE_SIZE), 0);
  return std::clamp(kCaches * cache, kLeast, kMost);
}

ReadMeter::ReadMeter(ThreadPool& pool, int64_t bytes) : pool_(pool), share_(WholePages(bytes, pool.threads())) {
  const int threads = pool.threads();
  pages_ = MapPages(share_ * threads * kNumber);
  data_ = reinterpret_cast<uint64_t*>(pages_.get());
  sums_.resize(static_cast<size_t>(threads));
  // Each worker writes its share, so that it lies near it.
  pool.Run([&](int worker) { std::fill_n(data_ + worker * share_, share_, static_cast<uint64_t>(worker) + 1); });
}

ReadRate ReadMeter::Measure(int64_t bytes) {
  constexpr int kPasses = 3;
  const int64_t numbers = std::min(share_, WholePages(bytes, pool_.threads()));
  ReadRate best;
  for (int pass = 0; pass < kPasses; ++pass)
    for (const ReadPattern& pattern : kPatterns)
      if (const double rate = Pass(pattern, numbers); rate > best.bytes_per_s) best = {rate, pattern};
  return best;
}

double ReadMeter::Pass(const ReadPattern& pattern, int64_t numbers) {
  // So little is read several times, so that neither the clock nor the threads' start is a part of it.
  const int64_t least = WholePages(std::min(DefaultBytes(), int64_t{64} << 20), pool_.threads());
  const int64_t times = (least + numbers - 1) / numbers;
  const double start = Seconds();
  pool_.Run([&](int worker) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < times; ++i) sum += kernels::SumNumbers(data_ + worker * share_, numbers, pattern);
    sums_[static_cast<size_t>(worker)] = sum;
  });
  const double rate = static_cast<double>(times * numbers * pool_.threads() * kNumber) / (Seconds() - start);
  for (int worker = 0; worker < pool_.threads(); ++worker)  // what was read is used
    HYDRA_CHECK(sums_[static_cast<size_t>(worker)] ==
                static_cast<uint64_t>(times * numbers) * (static_cast<uint64_t>(worker) + 1));
  return rate;
}

}  // namespace hydra
