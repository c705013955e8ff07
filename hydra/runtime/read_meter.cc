// SPDX-License-Identifier: Apache-2.0
// The loops of the read meter.
#include "hydra/runtime/read_meter.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/pages.h"

namespace hydra {
namespace {

// A processor's own prefetching follows one stream well on some machines and several on others; on some it stops at
// each page, so that asking ahead helps.
constexpr ReadPattern kPatterns[] = {{1, 0}, {1, 1024}, {1, 4096}, {4, 0}, {4, 1024}};

constexpr int64_t kNumber = sizeof(uint64_t);

// The sum of n numbers, read as kStreams streams of equal lengths.
template <int kStreams, bool kAsk>
uint64_t Sum(const uint64_t* p, int64_t n, int64_t ahead) {
  constexpr int64_t kLanes = 16;  // two cache lines
  uint64_t lanes[kLanes] = {};
  const int64_t length = n / kStreams;
  for (int64_t i = 0; i < length; i += kLanes)
    for (int stream = 0; stream < kStreams; ++stream) {
      const uint64_t* at = p + stream * length + i;
      if (kAsk) {
        const char* later = reinterpret_cast<const char*>(at) + ahead;
        __builtin_prefetch(later, 0, 3);
        __builtin_prefetch(later + kLanes / 2 * kNumber, 0, 3);
      }
      for (int64_t j = 0; j < kLanes; ++j) lanes[j] += at[j];
    }
  return std::accumulate(lanes, lanes + kLanes, uint64_t{0});
}

uint64_t SumBy(const ReadPattern& pattern, const uint64_t* p, int64_t n) {
  const int64_t ahead = pattern.ahead;
  if (pattern.streams == 1) return ahead > 0 ? Sum<1, true>(p, n, ahead) : Sum<1, false>(p, n, 0);
  return ahead > 0 ? Sum<4, true>(p, n, ahead) : Sum<4, false>(p, n, 0);
}

}  // namespace

std::string ReadPattern::Describe() const {
  return StrCat(streams, streams == 1 ? " stream" : " streams",
                ahead > 0 ? StrCat(", ", ahead, " bytes ahead") : std::string());
}

int64_t ReadMeter::DefaultBytes() {
#ifdef HYDRA_SANITIZED  // its rates say nothing, and every word read is checked
  return int64_t{16} << 20;
#endif
  constexpr int64_t kLeast = int64_t{256} << 20, kMost = int64_t{1} << 30, kCaches = 4;
  const int64_t cache = std::max<int64_t>(::sysconf(_SC_LEVEL3_CACHE_SIZE), 0);
  return std::clamp(kCaches * cache, kLeast, kMost);
}

ReadMeter::ReadMeter(ThreadPool& pool, int64_t bytes) : pool_(pool) {
  constexpr int64_t kPage = 4096 / kNumber;  // shares are whole pages
  const int threads = pool.threads();
  share_ = std::max<int64_t>(bytes / kNumber / threads / kPage, 1) * kPage;
  pages_ = MapPages(share_ * threads * kNumber);
  data_ = reinterpret_cast<uint64_t*>(pages_.get());
  sums_.resize(static_cast<size_t>(threads));
  // Each worker writes its share, so that it lies near it.
  pool.Run([&](int worker) { std::fill_n(data_ + worker * share_, share_, static_cast<uint64_t>(worker) + 1); });
}

ReadRate ReadMeter::Measure() {
  constexpr int kPasses = 3;
  ReadRate best;
  for (int pass = 0; pass < kPasses; ++pass)
    for (const ReadPattern& pattern : kPatterns)
      if (const double rate = Pass(pattern); rate > best.bytes_per_s) best = {rate, pattern};
  return best;
}

double ReadMeter::Pass(const ReadPattern& pattern) {
  const double start = Seconds();
  pool_.Run([&](int worker) { sums_[static_cast<size_t>(worker)] = SumBy(pattern, data_ + worker * share_, share_); });
  const double rate = static_cast<double>(share_ * pool_.threads() * kNumber) / (Seconds() - start);
  for (int worker = 0; worker < pool_.threads(); ++worker)  // what was read is used
    HYDRA_CHECK(sums_[static_cast<size_t>(worker)] ==
                static_cast<uint64_t>(share_) * (static_cast<uint64_t>(worker) + 1));
  return rate;
}

}  // namespace hydra
