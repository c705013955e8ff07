// SPDX-License-Identifier: Apache-2.0
// The thread pool: every task once, exceptions, regions within regions, many short regions, sleep; counting cores.
#include "hydra/base/thread_pool.h"

#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

TEST(ThreadPool, RunsEachTaskOnceOnAKnownWorker) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.threads(), threads);
    for (const int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(n));
      std::atomic<bool> stranger = false;
      pool.For(n, [&](int64_t task, int worker) {
        ++runs[static_cast<size_t>(task)];
        if (worker < 0 || worker >= threads) stranger = true;
      });
      for (const auto& r : runs) ASSERT_EQ(r, 1) << threads << " threads, " << n << " tasks";
      EXPECT_FALSE(stranger);
    }
    std::vector<std::atomic<int>> runs(static_cast<size_t>(threads));
    pool.Run([&](int worker) { ++runs[static_cast<size_t>(worker)]; });
    for (const auto& r : runs) EXPECT_EQ(r, 1);
  }
}

// Two tasks that need one another end only if two threads run them.
TEST(ThreadPool, TasksRunAtTheSameTime) {
  ThreadPool pool(2);
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::atomic<int> arrived = 0;
    std::atomic<bool> alone = false;
    pool.For(2, [&](int64_t, int) {
      ++arrived;
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (arrived < 2 && !alone)
        if (std::chrono::steady_clock::now() > end) alone = true;
    });
    ASSERT_FALSE(alone);
  }
}

// A worker that took an interrupt would leave the thread that waits for it asleep; a fault is for who made it.
TEST(ThreadPool, WorkersTakeNoSignals) {
  ThreadPool pool(2);
  const std::thread::id caller = std::this_thread::get_id();
  const auto blocked = [] {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    return std::vector<int>{sigismember(&mask, SIGINT), sigismember(&mask, SIGTERM), sigismember(&mask, SIGHUP),
                            sigismember(&mask, SIGBUS), sigismember(&mask, SIGSEGV)};
  };
  std::atomic<bool> seen = false;
  for (int repeat = 0; repeat < 1000 && !seen; ++repeat)  // until the worker comes in time
    pool.For(1000, [&](int64_t, int) {
      if (std::this_thread::get_id() == caller) return;
      EXPECT_EQ(blocked(), (std::vector<int>{1, 1, 1, 0, 0}));
      seen = true;
    });
  EXPECT_TRUE(seen);
  EXPECT_EQ(blocked(), (std::vector<int>{0, 0, 0, 0, 0}));
}

// A worker's number is its own while it runs: scratch of one per worker needs no lock.
TEST(ThreadPool, WorkerNumbersAreNotSharedAtOneTime) {
  ThreadPool pool(4);
  std::vector<int64_t> sums(4, 0);  // plain: the thread sanitizer sees a sharing
  for (int repeat = 0; repeat < 200; ++repeat)
    pool.For(50, [&](int64_t task, int worker) { sums[static_cast<size_t>(worker)] += task; });
  int64_t total = 0;
  for (const int64_t s : sums) total += s;
  EXPECT_EQ(total, 200 * 50 * 49 / 2);
}

TEST(ThreadPool, CallersSeeWhatTasksWroteInManyShortRegions) {
  ThreadPool pool(3);
  std::vector<int> values(16, 0);
  for (int repeat = 1; repeat <= 5000; ++repeat) {
    pool.For(16, [&](int64_t i, int) { ++values[static_cast<size_t>(i)]; });
    for (const int v : values) ASSERT_EQ(v, repeat);
    if (repeat % 1000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // workers fall asleep
  }
}

TEST(ThreadPool, CountsRegions) {
  ThreadPool pool(2), one(1);
  const auto nothing = [](int64_t, int) {};
  pool.For(0, nothing);
  pool.For(1, nothing);
  one.For(9, nothing);
  one.Run([](int) {});
  EXPECT_EQ(pool.regions(), 0);
  EXPECT_EQ(one.regions(), 0);
  pool.For(2, nothing);
  pool.Run([](int) {});
  EXPECT_EQ(pool.regions(), 2);
}

TEST(ThreadPool, OnlyTheFirstWorkersTakeTasksWhereFewerAreAskedFor) {
  ThreadPool pool(4);
  std::atomic<int> most = 0;
  std::atomic<int64_t> sum = 0;
  for (int repeat = 0; repeat < 200; ++repeat)
    pool.For(
        50,
        [&](int64_t task, int worker) {
          sum += task;
          int seen = most;
          while (worker > seen && !most.compare_exchange_weak(seen, worker)) {
          }
        },
        2);
  EXPECT_EQ(sum, 200 * 50 * 49 / 2);
  EXPECT_LE(most, 1);
  const int64_t before = pool.regions();
  pool.For(
      9, [&](int64_t, int worker) { EXPECT_EQ(worker, 0); }, 1);
  EXPECT_EQ(pool.regions(), before);
}

// Each task once, whoever takes it; with one worker that is slow, the others take what it has left.
TEST(ThreadPool, RangesRunEachTaskOnce) {
  for (const int threads : {1, 2, 3, 4}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 5, 64, 1000})
      for (const int most : {1, 2, 99}) {
        std::vector<std::atomic<int>> runs(static_cast<size_t>(n));
        std::atomic<int> highest = 0;
        pool.ForRanges(
            n,
            [&](int64_t task, int worker) {
              ++runs[static_cast<size_t>(task)];
              for (int seen = highest; worker > seen && !highest.compare_exchange_weak(seen, worker);) {
              }
              if (worker == 0 && task % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(20));
            },
            most);
        for (const auto& count : runs) EXPECT_EQ(count, 1);
        EXPECT_LT(highest, most);
      }
  }
}

// A worker that is not held up takes neighbouring tasks.
TEST(ThreadPool, RangesBeginApart) {
  ThreadPool pool(2);
  constexpr int64_t kTasks = 100;
  int64_t apart = 0;
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<int> by(kTasks);
    pool.ForRanges(kTasks, [&](int64_t task, int worker) { by[static_cast<size_t>(task)] = worker; });
    for (size_t i = 1; i < by.size(); ++i) apart += by[i] != by[i - 1] ? 1 : 0;
  }
  EXPECT_LT(apart, 200 * 20);  // one by one, every second task would change hands
}

// Programs that spin on one CPU of ours, so that the system takes it from our threads all the time.
TEST(ThreadPool, WorksOnWhileThreadsAreLeftOut) {
  ThreadPool pool(2);
  std::atomic<bool> stop = false;
  std::thread other([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(AllowedCpus().front(), &one);
    (void)::sched_setaffinity(0, sizeof(one), &one);
    while (!stop) {
    }
  });
  std::atomic<int64_t> runs = 0;
  const double seconds = pool.seconds();
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(700);
  int64_t want = 0;
  for (; std::chrono::steady_clock::now() < end; want += 16) pool.For(16, [&](int64_t, int) { ++runs; });
  stop = true;
  other.join();
  EXPECT_EQ(runs, want);
  EXPECT_GT(pool.seconds(), seconds);
}

TEST(ThreadPool, RethrowsOneExceptionAfterAllTasks) {
  for (const int threads : {2, 4}) {
    ThreadPool pool(threads);
    std::atomic<int> ended = 0;
    EXPECT_THROW(pool.For(100,
                          [&](int64_t task, int) {
                            ++ended;
                            if (task % 10 == 3) throw std::out_of_range("task");
                          }),
                 std::out_of_range);
    EXPECT_EQ(ended, 100);
    ended = 0;
    pool.For(10, [&](int64_t, int) { ++ended; });  // and works on
    EXPECT_EQ(ended, 10);
  }
}

TEST(ThreadPool, InnerCallsStayOnTheirWorker) {
  ThreadPool pool(3);
  std::atomic<int> inner = 0, turns = 0;
  std::atomic<bool> moved = false;
  pool.For(6, [&](int64_t, int worker) {
    const auto me = std::this_thread::get_id();
    pool.For(5, [&](int64_t, int inner_worker) {
      ++inner;
      if (std::this_thread::get_id() != me || inner_worker != worker) moved = true;
    });
    pool.Run([&](int) { ++turns; });
  });
  EXPECT_EQ(inner, 30);
  EXPECT_EQ(turns, 18);
  EXPECT_FALSE(moved);
  EXPECT_EQ(pool.regions(), 1);

  ThreadPool other(2);  // another pool may open a region inside
  std::atomic<int> sum = 0;
  pool.For(1, [&](int64_t, int) { other.For(8, [&](int64_t, int) { ++sum; }); });
  EXPECT_EQ(sum, 8);
}

// A worker that finds itself on the caller's CPU leaves it.
TEST(ThreadPool, WorkersLeaveTheCallersCpu) {
  const std::vector<int> cpus = AllowedCpus();
  if (cpus.size() < 2) GTEST_SKIP() << "one CPU only";
  ThreadPool pool(2);
  cpu_set_t before, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  CPU_ZERO(&one);
  CPU_SET(cpus[0], &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  std::atomic<bool> pinned = false, left = false;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!left && std::chrono::steady_clock::now() < end)
    pool.For(20, [&](int64_t, int worker) {
      const auto task_end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
      while (std::chrono::steady_clock::now() < task_end) {
      }
      if (worker == 0) return;
      if (!pinned.exchange(true)) {
        ::sched_setaffinity(0, sizeof(one), &one);  // the worker itself: now both share a CPU
      } else if (::sched_getcpu() != cpus[0]) {
        left = true;
      }
    });
  ASSERT_EQ(::sched_setaffinity(0, sizeof(before), &before), 0);
  EXPECT_TRUE(pinned && left);
}

double CpuSeconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(ThreadPool, SleepsWhenIdle) {
  ThreadPool pool(4);
  pool.For(100, [](int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const double before = CpuSeconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(CpuSeconds() - before, 0.05);  // three workers that spin would use 0.4 s on two cores
}

TEST(PhysicalCores, AffinityCounts) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  EXPECT_LE(PhysicalCores(), CPU_COUNT(&before));
  EXPECT_GE(PhysicalCores(), 1);
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(PhysicalCores(), 1);
  ThreadPool pool;
  EXPECT_EQ(pool.threads(), 1);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(before), &before), 0);
}

void Write(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

TEST(PhysicalCores, SiblingsAndQuotasCount) {
  cpu_set_t mask;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(mask), &mask), 0);
  const int cpus = CPU_COUNT(&mask);
  const auto topology = [&](const TempDir& dir, int threads_a_core) {
    for (int cpu = 0; cpu < CPU_SETSIZE && cpu < 4096; ++cpu)
      if (CPU_ISSET(cpu, &mask))
        Write(dir / ("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list"),
              std::to_string(cpu / threads_a_core) + "\n");
  };
  TempDir all_siblings;
  topology(all_siblings, CPU_SETSIZE);
  EXPECT_EQ(PhysicalCores(all_siblings.path()), 1);

  TempDir dir;
  EXPECT_EQ(PhysicalCores(dir.path()), cpus);  // no topology: each CPU is a core
  topology(dir, 1);
  EXPECT_EQ(PhysicalCores(dir.path()), cpus);
  Write(dir / "proc/self/cgroup", "0::/a/b\n");
  Write(dir / "sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(PhysicalCores(dir.path()), cpus);
  Write(dir / "sys/fs/cgroup/a/cpu.max", "190000 100000\n");  // of the group above; 1.9 cores
  EXPECT_EQ(PhysicalCores(dir.path()), 1);
  Write(dir / "sys/fs/cgroup/a/cpu.max", "50000 100000\n");
  EXPECT_EQ(PhysicalCores(dir.path()), 1);
  Write(dir / "sys/fs/cgroup/a/cpu.max", std::to_string(cpus) + "00000 100000\n");
  EXPECT_EQ(PhysicalCores(dir.path()), cpus);

  Write(dir / "proc/self/cgroup", "4:cpu,cpuacct:/job\n0::/\n");  // version 1
  Write(dir / "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
  Write(dir / "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(PhysicalCores(dir.path()), cpus);
  Write(dir / "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "100000\n");
  EXPECT_EQ(PhysicalCores(dir.path()), 1);
}

}  // namespace
}  // namespace hydra
