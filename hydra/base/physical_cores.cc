// SPDX-License-Identifier: Apache-2.0
// How many cores a process may use: those of its affinity mask, siblings (hyper-threads) counted once, no more than
// its cgroups' time. Linux. Not here: the threads (thread_pool.cc).
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "hydra/base/thread_pool.h"

namespace hydra {
namespace {

// The whole of a small file, or "" where there is none.
std::string Text(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::optional<double> Number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

// Cores of time a period: quota / period, or unlimited.
double Share(std::string_view quota, std::string_view period) {
  const auto q = Number(quota), p = Number(period);
  return q && p && *q > 0 && *p > 0 ? *q / *p : std::numeric_limits<double>::infinity();
}

// The smallest share of the groups from `group` up to the root. Version 2: "QUOTA PERIOD" or "max PERIOD" in cpu.max;
// version 1: two files, quota -1 for none.
double ShareOfGroups(const std::string& folder, std::string group) {
  double share = std::numeric_limits<double>::infinity();
  while (true) {
    const std::string here = folder + (group == "/" ? "" : group);
    std::istringstream v2(Text(here + "/cpu.max"));
    std::string quota, period;
    if (v2 >> quota >> period) share = std::min(share, Share(quota, period));
    share = std::min(share, Share(Text(here + "/cpu.cfs_quota_us"), Text(here + "/cpu.cfs_period_us")));
    if (group.empty() || group == "/") return share;
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
}

// /proc/self/cgroup has lines "ID:CONTROLLERS:/path"; version 2 has ID 0 and no controllers.
double CgroupShare(const std::string& root) {
  double share = std::numeric_limits<double>::infinity();
  std::istringstream lines(Text(root + "/proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    const std::string base = root + "/sys/fs/cgroup";
    if (controllers.empty()) share = std::min(share, ShareOfGroups(base, group));
    if (("," + controllers + ",").find(",cpu,") != std::string::npos)
      share = std::min({share, ShareOfGroups(base + "/cpu", group), ShareOfGroups(base + "/cpu,cpuacct", group)});
  }
  return share;
}

}  // namespace

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
    const std::string siblings = Text(root + "/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? "cpu" + number : siblings);
  }
  int count = static_cast<int>(cores.size());
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  // A part of a core is left out: with one thread more, all would stop when the period's time is used up.
  const double share = CgroupShare(root);
  if (share < count) count = static_cast<int>(std::floor(share));
  return std::max(count, 1);
}

}  // namespace hydra
