// SPDX-License-Identifier: Apache-2.0
// The thread pool. A region is a counter of tasks, or a range of them for each worker, behind a gate: whoever is awake
// enters and takes tasks, and the caller waits only for those who entered, so a worker that the system wakes late
// delays nobody. One that loses its CPU in the middle of a task delays all, so where that happens often it is left out
// for a while. Not here: counting cores (physical_cores.cc), the rule (leave_out.h).
#include "hydra/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <limits>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/leave_out.h"
#include "hydra/base/waited.h"

namespace hydra {
namespace {

// Between the products of a decoding step lie microseconds: a worker spins over those, and sleeps through the longer
// pauses between tokens and requests. Waking costs 5 to 50 us.
constexpr std::chrono::microseconds kSpin{40};

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready() or the time is up; then false.
template <class Ready>
bool SpinUntil(bool may_spin, Ready&& ready) {
  if (ready()) return true;
  if (!may_spin) return false;
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {  // about a microsecond for each look at the clock
      Pause();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// The signals that the system may give to any thread, blocked for this one and the threads that it starts. A fault
// (SIGSEGV, SIGBUS) still reaches the thread that made it, and a profiler's SIGPROF whom it counts.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF}) sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_;
};

// Tasks that one worker takes from the front and others from behind.
class alignas(64) TaskRange {
 public:
  void Set(int64_t begin, int64_t end) { left_.store(Pack(begin, end), std::memory_order_relaxed); }

  std::optional<int64_t> TakeFirst() {
    uint64_t seen = left_.load(std::memory_order_relaxed);
    while (Begin(seen) < End(seen))
      if (left_.compare_exchange_weak(seen, Pack(Begin(seen) + 1, End(seen)), std::memory_order_relaxed))
        return Begin(seen);
    return std::nullopt;
  }
  // The second half of what another has left becomes this one's, which is empty; returns its first task.
  std::optional<int64_t> TakeHalfOf(TaskRange& other) {
    uint64_t seen = other.left_.load(std::memory_order_relaxed);
    while (Begin(seen) < End(seen)) {
      const int64_t middle = Begin(seen) + (End(seen) - Begin(seen)) / 2;
      if (!other.left_.compare_exchange_weak(seen, Pack(Begin(seen), middle), std::memory_order_relaxed)) continue;
      Set(middle + 1, End(seen));
      return middle;
    }
    return std::nullopt;
  }

 private:
  static uint64_t Pack(int64_t begin, int64_t end) {
    return static_cast<uint64_t>(begin) | static_cast<uint64_t>(end) << 32;
  }
  static int64_t Begin(uint64_t range) { return static_cast<int64_t>(range & 0xFFFFFFFF); }
  static int64_t End(uint64_t range) { return static_cast<int64_t>(range >> 32); }

  std::atomic<uint64_t> left_{0};
};

}  // namespace

struct ThreadPool::Impl {
  using Task = void (*)(void*, int64_t, int);
  static constexpr uint32_t kOpen = 1u << 31;

  // The region. Written by the caller while the gate is shut and nobody is inside.
  Task task = nullptr;
  void* context = nullptr;
  int64_t n = 0;
  Order order = Order::kOneByOne;

  alignas(64) std::atomic<int64_t> next{0};    // the next task, one by one
  std::vector<TaskRange> ranges;               // of each worker, by ranges
  alignas(64) std::atomic<uint32_t> gate{0};   // kOpen | workers inside
  alignas(64) std::atomic<uint32_t> epoch{0};  // counts regions; workers sleep on it
  std::atomic<int64_t> regions{0};
  std::atomic<int> most{0};       // the first workers that may enter
  std::atomic<bool> busy{false};  // a region is running
  std::atomic<bool> stop{false};

  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  std::exception_ptr failure;  // of who set `failed`

  bool may_spin = true;
  std::vector<std::thread> workers;

  // Leaving threads out. Under sanitizers all stay, so that races are met however busy the machine is.
#ifdef HYDRA_SANITIZED
  static constexpr bool kLeaveOut = false;
#else
  static constexpr bool kLeaveOut = true;
#endif
  static constexpr double kPace = 0.005;  // seconds between two looks at how long threads waited
  LeaveOutRule rule;                      // the caller's
  double next_look = 0;
  std::thread::id last_caller;
  std::optional<WaitedForCpu> caller_waited;   // of last_caller
  std::vector<std::atomic<double>> waited;     // seconds of each thread so far
  std::vector<std::atomic<double>> out_until;  // of each thread; 0: it takes part
  std::mutex out_mutex;
  std::condition_variable out_changed;
  double seconds = 0;  // in regions

  // Where each worker last ran, and where the process may.
  std::vector<std::atomic<int>> cpus;
  std::vector<int> allowed;

  // Whose task this thread runs now, and as which worker.
  static thread_local const Impl* inside;
  static thread_local int inside_worker;

  // The next task of a worker; n where there is none.
  int64_t Next(int worker) {
    if (order == Order::kOneByOne) return next.fetch_add(1, std::memory_order_relaxed);
    const size_t count = ranges.size(), own = static_cast<size_t>(worker);
    if (const auto task = ranges[own].TakeFirst()) return *task;
    for (size_t i = 1; i < count; ++i)
      if (const auto task = ranges[own].TakeHalfOf(ranges[(own + i) % count])) return *task;
    return n;
  }

  // Cuts the tasks into ranges of equal length, of the first workers that take part.
  void CutRanges(int most_workers) {
    const auto takes_part = [&](size_t worker) {
      return worker < static_cast<size_t>(most_workers) && out_until[worker].load(std::memory_order_relaxed) == 0;
    };
    int64_t parts = 0, part = 0;
    for (size_t worker = 0; worker < ranges.size(); ++worker) parts += takes_part(worker) ? 1 : 0;
    for (size_t worker = 0; worker < ranges.size(); ++worker) {
      const int64_t begin = n * part / parts;
      if (takes_part(worker)) ++part;
      ranges[worker].Set(begin, n * part / parts);
    }
  }

  void Work(int worker) noexcept {
    const Impl* outer = inside;
    const int outer_worker = inside_worker;
    inside = this;
    inside_worker = worker;
    for (int64_t i; (i = Next(worker)) < n;) {
      try {
        task(context, i, worker);
      } catch (...) {
        if (!failed.test_and_set()) failure = std::current_exception();
      }
    }
    inside = outer;
    inside_worker = outer_worker;
  }

  // The caller's look at its threads before a region: the last of those that take part goes where they wait for long.
  void LookAround(double now) {
    if (!kLeaveOut || now < next_look) return;
    next_look = now + kPace;
    const auto caller = std::this_thread::get_id();
    const bool other = caller != std::exchange(last_caller, caller);
    if (other) caller_waited.emplace();
    waited[0].store(caller_waited->Seconds(), std::memory_order_relaxed);
    const auto sum = [](double s, const auto& w) { return s + w.load(std::memory_order_relaxed); };
    const double all = std::accumulate(waited.begin(), waited.end(), 0.0, sum);
    if (other) return rule.Restart(now, all);
    const double pause = rule.Judge(now, all);
    if (pause == 0) return;
    for (size_t worker = out_until.size(); --worker > 0;) {
      if (out_until[worker].load(std::memory_order_relaxed) != 0) continue;
      out_until[worker].store(now + pause, std::memory_order_relaxed);
      return;
    }
  }

  // One region; the gate orders everything that the caller and the workers write.
  void Region(int64_t tasks, Task f, void* f_context, int most_workers, Order tasks_order, double start) {
    HYDRA_CHECK(!busy.exchange(true, std::memory_order_acquire), "two threads call one pool");
    LookAround(start);
    most.store(most_workers, std::memory_order_relaxed);
    task = f;
    context = f_context;
    n = tasks;
    order = tasks_order;
    next.store(0, std::memory_order_relaxed);
    if (order == Order::kRanges) CutRanges(most_workers);
    regions.fetch_add(1, std::memory_order_relaxed);
    cpus[0].store(::sched_getcpu(), std::memory_order_relaxed);
    gate.store(kOpen, std::memory_order_release);
    epoch.fetch_add(1, std::memory_order_seq_cst);
    epoch.notify_all();
    Work(0);
    uint32_t left = gate.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    if (left != 0) {
      const auto empty = [&] { return (left = gate.load(std::memory_order_acquire)) == 0; };
      if (!SpinUntil(may_spin, empty))
        while (!empty()) gate.wait(left, std::memory_order_acquire);
    }
    std::exception_ptr thrown;
    if (failed.test()) {
      thrown = std::move(failure);
      failure = nullptr;
      failed.clear();
    }
    busy.store(false, std::memory_order_release);
    if (thrown) std::rethrow_exception(thrown);
  }

  bool Enter() {
    uint32_t seen = gate.load(std::memory_order_relaxed);
    while ((seen & kOpen) != 0)
      if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
    return false;
  }

  // A worker that the system woke on the CPU of another, lower one (the caller is 0) would only take turns with it, and
  // a busy system leaves it there: it goes where none of those is. Costs a system call when it happens, else nothing.
  void KeepApart(int worker) {
    const int here = ::sched_getcpu();
    const auto lower = [&](int cpu) {
      return std::any_of(cpus.begin(), cpus.begin() + worker,
                         [&](const auto& c) { return c.load(std::memory_order_relaxed) == cpu; });
    };
    if (here >= 0 && lower(here)) {
      cpu_set_t free;
      CPU_ZERO(&free);
      for (const int cpu : allowed)
        if (cpu < CPU_SETSIZE && !lower(cpu)) CPU_SET(cpu, &free);
      if (CPU_COUNT(&free) > 0) (void)::sched_setaffinity(0, sizeof(free), &free);  // no harm where it is refused
    }
    cpus[static_cast<size_t>(worker)].store(::sched_getcpu(), std::memory_order_relaxed);
  }

  // Sleeps while the worker is left out.
  void StayOut(size_t worker) {
    const double until = out_until[worker].load(std::memory_order_relaxed);
    if (until == 0) return;
    std::unique_lock lock(out_mutex);
    out_changed.wait_for(lock, std::chrono::duration<double>(std::max(until - Seconds(), 0.0)),
                         [&] { return stop.load(std::memory_order_relaxed); });
    out_until[worker].store(0, std::memory_order_relaxed);
  }

  void Serve(int worker) {
    const auto self = static_cast<size_t>(worker);
    const WaitedForCpu own;
    double next_report = 0;
    uint32_t seen = 0;
    while (true) {
      const auto called = [&] { return epoch.load(std::memory_order_acquire) != seen; };
      if (!SpinUntil(may_spin, called))
        while (!called()) epoch.wait(seen, std::memory_order_acquire);
      seen = epoch.load(std::memory_order_acquire);
      StayOut(self);
      if (stop.load(std::memory_order_relaxed)) return;
      if (may_spin) KeepApart(worker);
      if (worker >= most.load(std::memory_order_relaxed) || !Enter()) continue;
      Work(worker);
      if (gate.fetch_sub(1, std::memory_order_release) == 1) gate.notify_one();  // shut, and the last one out
      if (const double now = Seconds(); kLeaveOut && now > next_report) {
        next_report = now + kPace;
        waited[self].store(own.Seconds(), std::memory_order_relaxed);
      }
    }
  }

  void StopAll() {
    {
      const std::lock_guard lock(out_mutex);
      stop.store(true, std::memory_order_relaxed);
    }
    out_changed.notify_all();
    epoch.fetch_add(1, std::memory_order_release);
    epoch.notify_all();
    for (std::thread& worker : workers) worker.join();
  }
};

thread_local const ThreadPool::Impl* ThreadPool::Impl::inside = nullptr;
thread_local int ThreadPool::Impl::inside_worker = 0;

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  HYDRA_CHECK(threads >= 0 && threads <= std::numeric_limits<int16_t>::max(), "threads ", threads);
  if (threads == 0) threads = PhysicalCores();
  impl_->allowed = AllowedCpus();
  impl_->cpus = std::vector<std::atomic<int>>(static_cast<size_t>(threads));
  for (auto& cpu : impl_->cpus) cpu = -1;
  impl_->waited = std::vector<std::atomic<double>>(static_cast<size_t>(threads));
  impl_->ranges = std::vector<TaskRange>(static_cast<size_t>(threads));
  impl_->out_until = std::vector<std::atomic<double>>(static_cast<size_t>(threads));
  // With more threads than CPUs, one that spins keeps another from its work.
  impl_->may_spin = threads <= static_cast<int>(impl_->allowed.size());
  impl_->workers.reserve(static_cast<size_t>(threads) - 1);
  const NoSignals for_the_workers;
  try {
    for (int i = 1; i < threads; ++i) impl_->workers.emplace_back([impl = impl_.get(), i] { impl->Serve(i); });
  } catch (...) {  // the system gives no more threads
    impl_->StopAll();
    throw;
  }
}

ThreadPool::~ThreadPool() { impl_->StopAll(); }

int ThreadPool::threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

int64_t ThreadPool::regions() const { return impl_->regions.load(std::memory_order_relaxed); }
double ThreadPool::seconds() const { return impl_->seconds; }

void ThreadPool::RunRaw(void (*f)(void*, int), void* context) {
  struct Call {
    void (*f)(void*, int);
    void* context;
  } call{f, context};
  const auto task = [](void* c, int64_t worker, int) {
    const auto& run = *static_cast<Call*>(c);
    run.f(run.context, static_cast<int>(worker));
  };
  ForRaw(threads(), task, &call, threads(), Order::kOneByOne);
}

void ThreadPool::ForRaw(int64_t n, void (*f)(void*, int64_t, int), void* context, int most, Order order) {
  if (Impl::inside == impl_.get()) {
    for (int64_t i = 0; i < n; ++i) f(context, i, Impl::inside_worker);
    return;
  }
  HYDRA_CHECK(n <= std::numeric_limits<uint32_t>::max(), n, " tasks");
  const double start = Seconds();
  if (n > 1 && std::min(most, threads()) > 1)
    impl_->Region(n, f, context, most, order, start);
  else
    for (int64_t i = 0; i < n; ++i) f(context, i, 0);
  impl_->seconds += Seconds() - start;
}

}  // namespace hydra
