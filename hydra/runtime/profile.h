// SPDX-License-Identifier: Apache-2.0
// Where the time of passes goes: products and tasks of each kind of part, waiting at barriers, what the calling thread
// does alone. Internal to the runtime but for what it gives. Not here: bytes (PassBytes), whole speeds (speed.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/thread_pool.h"
#include "hydra/kernels/matmul.h"

namespace hydra {

// Seconds of all passes together. They took `wall`; what their threads did in that time is accounted for by Sum().
struct PassProfile {
  struct Part {
    std::string name;
    double products = 0, tasks = 0;  // of all threads together
  };
  std::vector<Part> parts{};  // those that took time
  int threads = 1;
  int64_t passes = 0, barriers = 0;
  double waiting = 0;  // of all threads together: in regions, without a task
  double serial = 0;   // of the calling thread: outside of regions
  double wall = 0;
  // As time of a clock on the wall.
  [[nodiscard]] double Sum() const {
    double busy = waiting;
    for (const Part& part : parts) busy += part.products + part.tasks;
    return busy / threads + serial;
  }
};

// Collects it. An owner is a kind of part, or another place where a pass has work for all threads.
class PassClock {
 public:
  // Begins anew.
  PassClock(std::vector<std::string> owners, const ThreadPool& pool)
      : owners_(std::move(owners)),
        threads_(pool.threads()),
        regions_(pool.regions()),
        pool_seconds_(pool.seconds()),
        seconds_(2 * owners_.size() * static_cast<size_t>(pool.threads())) {}

  // f() is a task of a worker for an owner.
  template <class F>
  void Time(int worker, size_t owner, F&& f) {
    const double start = Seconds();
    f();
    seconds_[static_cast<size_t>(worker) * 2 * owners_.size() + 2 * owner + 1] += Seconds() - start;
  }
  // What MatMul fills: the owner of a product is 2 * owner.
  [[nodiscard]] kernels::TaskTimes products() { return {seconds_.data(), static_cast<int>(2 * owners_.size())}; }
  // A call of Forward took so long.
  void AddPass(double seconds) { wall_ += seconds, ++passes_; }

  [[nodiscard]] PassProfile Take(const ThreadPool& pool) const {
    PassProfile out{.threads = threads_, .passes = passes_, .barriers = pool.regions() - regions_, .wall = wall_};
    double busy = 0;
    for (size_t owner = 0; owner < owners_.size(); ++owner) {
      PassProfile::Part part{owners_[owner]};
      for (int worker = 0; worker < threads_; ++worker) {
        const double* of = seconds_.data() + static_cast<size_t>(worker) * 2 * owners_.size() + 2 * owner;
        part.products += of[0], part.tasks += of[1];
      }
      busy += part.products + part.tasks;
      if (part.products + part.tasks > 0) out.parts.push_back(std::move(part));
    }
    const double regions = pool.seconds() - pool_seconds_;
    out.waiting = threads_ * regions - busy;
    out.serial = wall_ - regions;
    return out;
  }

 private:
  std::vector<std::string> owners_;
  int threads_;
  int64_t regions_, passes_ = 0;
  double pool_seconds_, wall_ = 0;
  std::vector<double> seconds_;  // [threads, owners, 2]: products, tasks
};

}  // namespace hydra
