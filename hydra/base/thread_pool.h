// SPDX-License-Identifier: Apache-2.0
// A fixed set of threads for kernels: one fork and join ("region") a call, workers that spin briefly and then sleep.
// Passed in, never global. Not here: how work is cut (hydra/kernels, hydra/runtime), when a thread is left out because
// other programs want its CPU (leave_out.h).
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace hydra {

// Workers keep off the CPU that the caller is on, and take no signals: one that is meant for the process ends the wait
// of a thread that waits for it. One thread may call at a time; calls from inside a region run on the
// calling worker alone. No allocation after construction. An exception of a task is rethrown to the caller when all
// tasks have ended (the first one).
class ThreadPool {
 public:
  // threads >= 1, the caller included; 0 = the physical cores that this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int threads() const;

  // f(worker) once for each worker, 0 .. threads() - 1; the caller is worker 0. Each on a thread of its own where the
  // threads come in time; a late one's turn is taken by another, so turns must not wait for one another.
  template <class F>
  void Run(F&& f) {
    using Fn = std::remove_reference_t<F>;
    RunRaw([](void* context, int worker) { (*static_cast<Fn*>(context))(worker); },
           const_cast<void*>(static_cast<const void*>(&f)));
  }
  // f(task, worker) for each task in 0 .. n - 1, handed out in ascending order to whoever is free among the first
  // `most` workers. One task or one thread runs on the caller without a region.
  template <class F>
  void For(int64_t n, F&& f, int most = std::numeric_limits<int>::max()) {
    using Fn = std::remove_reference_t<F>;
    ForRaw(
        n, [](void* context, int64_t task, int worker) { (*static_cast<Fn*>(context))(task, worker); },
        const_cast<void*>(static_cast<const void*>(&f)), most, Order::kOneByOne);
  }
  // The same, but each worker begins with a range of neighbouring tasks, so that what they read is one stream; who is
  // through takes half of what another has left.
  template <class F>
  void ForRanges(int64_t n, F&& f, int most = std::numeric_limits<int>::max()) {
    using Fn = std::remove_reference_t<F>;
    ForRaw(
        n, [](void* context, int64_t task, int worker) { (*static_cast<Fn*>(context))(task, worker); },
        const_cast<void*>(static_cast<const void*>(&f)), most, Order::kRanges);
  }

  // Regions run so far: each is one barrier pair.
  [[nodiscard]] int64_t regions() const;
  // Seconds that callers from outside spent in For and Run so far.
  [[nodiscard]] double seconds() const;

 private:
  enum class Order { kOneByOne, kRanges };
  void RunRaw(void (*f)(void*, int), void* context);
  void ForRaw(int64_t n, void (*f)(void*, int64_t, int), void* context, int most, Order order);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The CPUs of the calling thread's affinity mask, ascending.
[[nodiscard]] std::vector<int> AllowedCpus();

// Physical cores that this process may run on (affinity and cgroup quota count), at least 1. `root` stands before the
// paths of /proc and /sys, for tests.
[[nodiscard]] int PhysicalCores(const std::string& root = "");

}  // namespace hydra
