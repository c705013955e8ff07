// SPDX-License-Identifier: Apache-2.0
// How many cores a process may use: those of its affinity mask, siblings (hyper-threads) counted once, no more than
// its cgroups' time. Linux. Not here: the threads (thread_pool.cc).
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "hydra/base/cgroup.h"
#include "hydra/base/thread_pool.h"

namespace hydra {
std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  for (int limit = 1024; limit <= 1 << 20 && cpus.empty(); limit *= 4) {  // the kernel refuses a mask that is too small
    cpu_set_t* mask = CPU_ALLOC(static_cast<size_t>(limit));
    if (mask == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(static_cast<size_t>(limit));
    CPU_ZERO_S(size, mask);
    if (::sched_getaffinity(0, size, mask) == 0)
      for (int cpu = 0; cpu < limit; ++cpu)
        if (CPU_ISSET_S(static_cast<size_t>(cpu), size, mask)) cpus.push_back(cpu);
    CPU_FREE(mask);
  }
  return cpus;
}

int PhysicalCores(const std::string& root) {
  std::set<std::string> cores;
  for (const int cpu : AllowedCpus()) {
    const std::string number = std::to_string(cpu);
    std::string siblings;
    std::getline(std::ifstream(root + "/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list"),
                 siblings);
    cores.insert(siblings.empty() ? "cpu" + number : siblings);
  }
  int count = static_cast<int>(cores.size());
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  // A part of a core is left out: with one thread more, all would stop when the period's time is used up.
  const double share = CgroupCores(root);
  if (share < count) count = static_cast<int>(std::floor(share));
  return std::max(count, 1);
}

}  // namespace hydra
