// SPDX-License-Identifier: Apache-2.0
// Reads /proc and the control group's files.
#include "hydra/cli/machine.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

namespace hydra::cli {
namespace {

// The number after `key` in a file of "key number" lines; with an empty key, the first word of the file.
std::optional<int64_t> NumberIn(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string word;
    if (!key.empty() && (!(words >> word) || word != key)) continue;
    int64_t value = 0;
    if (words >> value) return value;
    return std::nullopt;  // "max"
  }
  return std::nullopt;
}

// What limit, use and reclaimable pages of a control group leave; version 2, then version 1.
std::optional<int64_t> GroupMemory() {
  constexpr int64_t kNone = int64_t{1} << 60;  // version 1's way to say so
  const std::string v2 = "/sys/fs/cgroup/", v1 = "/sys/fs/cgroup/memory/";
  if (const auto limit = NumberIn(v2 + "memory.max", ""))
    return *limit - NumberIn(v2 + "memory.current", "").value_or(0) + NumberIn(v2 + "memory.stat", "file").value_or(0);
  if (const auto limit = NumberIn(v1 + "memory.limit_in_bytes", ""); limit && *limit < kNone)
    return *limit - NumberIn(v1 + "memory.usage_in_bytes", "").value_or(0) +
           NumberIn(v1 + "memory.stat", "total_cache").value_or(0);
  return std::nullopt;
}

}  // namespace

int64_t AvailableMemory() {
  const int64_t system = NumberIn("/proc/meminfo", "MemAvailable:").value_or(0) * 1024;
  const auto group = GroupMemory();
  if (!group) return system;
  const int64_t left = std::max<int64_t>(*group, 0);
  return system > 0 ? std::min(system, left) : left;
}

std::string ProcessorName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name"))
      if (const size_t colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "";
}

}  // namespace hydra::cli
