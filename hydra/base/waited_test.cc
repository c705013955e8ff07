// SPDX-License-Identifier: Apache-2.0
// How long a thread waited: threads that want one CPU wait for each other, one alone does not.
#include "hydra/base/waited.h"

#include <sched.h>

#include <thread>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/testing.h"

namespace hydra {
namespace {

// Seconds that each of so many threads on this CPU waited while all of them wanted to run for so long.
std::vector<double> WaitsOfThreads(size_t threads, double seconds) {
  const int cpu = sched_getcpu();
  std::vector<double> waits(threads);
  std::vector<std::thread> all;
  for (double& wait : waits)
    all.emplace_back([&wait, cpu, seconds] {
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
      const WaitedForCpu waited;
      const double before = waited.Seconds();
      for (const double end = Seconds() + seconds; Seconds() < end;) {
      }
      wait = waited.Seconds() - before;
    });
  for (std::thread& thread : all) thread.join();
  return waits;
}

TEST(WaitedForCpu, ThreadsOfOneCpuWaitForEachOther) {
  constexpr double kSeconds = 0.5;
  double sum = 0;
  for (const double wait : WaitsOfThreads(3, kSeconds)) sum += wait;
  // Two of the three wait at each moment; a busy machine makes them wait longer.
  EXPECT_GT(sum, 0.5 * kSeconds);
  EXPECT_LT(sum, 3 * kSeconds + 0.5);
}

TEST(WaitedForCpu, NeverRunsBackwards) {
  const WaitedForCpu waited;
  double last = waited.Seconds();
  EXPECT_GE(last, 0);
  for (int i = 0; i < 1000; ++i) {
    const double now = waited.Seconds();
    ASSERT_GE(now, last);
    last = now;
  }
}

}  // namespace
}  // namespace hydra
