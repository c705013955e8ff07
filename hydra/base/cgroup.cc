// SPDX-License-Identifier: Apache-2.0
// Reads the files of control groups.
#include "hydra/base/cgroup.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <sstream>
#include <string_view>
#include <vector>

namespace hydra {
namespace {

// The whole of a small file, or "" where there is none.
std::string SmallFile(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

template <class T>
std::optional<T> FirstNumber(std::string_view text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

// Sum of the numbers behind the given keys in a file of "key number" lines; absent ones are 0.
int64_t SumOf(const std::string& path, const std::vector<std::string_view>& keys) {
  std::istringstream lines(SmallFile(path));
  int64_t sum = 0;
  std::string key;
  for (int64_t value = 0; lines >> key >> value;)
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) sum += value;
  return sum;
}

// Calls f(folder) for the group of this process and each one above it, in every hierarchy that has `controller`.
// /proc/self/cgroup has lines "ID:CONTROLLERS:/path"; version 2 has ID 0 and no controllers. A container may see only
// its own part of the tree below /sys/fs/cgroup while the path is that of the host: the folders that are not there are
// passed over, and the top one is the container's own.
void ForEachGroup(const std::string& root, const std::string& controller,
                  const std::function<void(const std::string& folder)>& f) {
  std::istringstream lines(SmallFile(root + "/proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), base = root + "/sys/fs/cgroup";
    std::vector<std::string> trees;
    if (controllers.empty()) trees = {base, base + "/unified"};
    if (("," + controllers + ",").find("," + controller + ",") != std::string::npos)
      trees = {base + "/" + controllers, base + "/" + controller};
    for (const std::string& tree : trees) {
      std::string group = line.substr(second + 1);
      while (!group.empty()) {
        f(tree + group);
        group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
      }
      f(tree);
    }
  }
}

// quota / period, or unlimited.
double Share(std::string_view quota, std::string_view period) {
  const auto q = FirstNumber<double>(quota), p = FirstNumber<double>(period);
  return q && p && *q > 0 && *p > 0 ? *q / *p : std::numeric_limits<double>::infinity();
}

}  // namespace

double CgroupCores(const std::string& root) {
  double cores = std::numeric_limits<double>::infinity();
  ForEachGroup(root, "cpu", [&](const std::string& folder) {
    std::istringstream v2(SmallFile(folder + "/cpu.max"));  // "QUOTA PERIOD" or "max PERIOD"
    std::string quota, period;
    if (v2 >> quota >> period) cores = std::min(cores, Share(quota, period));
    // Version 1: quota -1 for none.
    cores = std::min(cores, Share(SmallFile(folder + "/cpu.cfs_quota_us"), SmallFile(folder + "/cpu.cfs_period_us")));
  });
  return cores;
}

std::optional<int64_t> CgroupMemoryLeft(const std::string& root) {
  constexpr int64_t kNone = int64_t{1} << 60;  // version 1's way to say so; version 2 says "max"
  std::optional<int64_t> left;
  const auto limit = [&](const std::string& folder, const char* file, const char* usage,
                         const std::vector<std::string_view>& cache) {
    const auto most = FirstNumber<int64_t>(SmallFile(folder + "/" + file));
    if (!most || *most >= kNone) return;
    const int64_t used = FirstNumber<int64_t>(SmallFile(folder + "/" + usage)).value_or(0);
    const int64_t rest = std::max<int64_t>(0, *most - used + std::min(used, SumOf(folder + "/memory.stat", cache)));
    left = std::min(left.value_or(rest), rest);
  };
  ForEachGroup(root, "memory", [&](const std::string& folder) {
    for (const char* file : {"memory.max", "memory.high"})
      limit(folder, file, "memory.current", {"active_file", "inactive_file"});
    limit(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", {"total_active_file", "total_inactive_file"});
  });
  return left;
}

}  // namespace hydra
