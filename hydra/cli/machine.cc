// SPDX-License-Identifier: Apache-2.0
// Reads /proc.
#include "hydra/cli/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "hydra/base/cgroup.h"

namespace hydra::cli {
namespace {

// The number after `key` in a file of "key number" lines.
std::optional<int64_t> NumberIn(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word) || word != key) continue;
    int64_t value = 0;
    if (words >> value) return value;
    return std::nullopt;
  }
  return std::nullopt;
}

// The value of the first line "field : value" of /proc/cpuinfo; "" where there is none.
std::string ProcessorField(const std::string& field) {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t end = line.find_first_of("\t:"), colon = line.find(": ");
    if (line.substr(0, end) == field && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

}  // namespace

int64_t AvailableMemory(const std::string& root) {
  const int64_t system = NumberIn(root + "/proc/meminfo", "MemAvailable:").value_or(0) * 1024;
  const auto group = CgroupMemoryLeft(root);
  if (!group) return system;
  // 0 would say "not known"; a group that is full has 1 byte.
  const int64_t left = std::max<int64_t>(*group, 1);
  return system > 0 ? std::min(system, left) : left;
}

int64_t ProgramMemory() {
  std::map<std::string, int64_t> files;  // bytes mapped of each
  std::set<std::string> code;
  std::ifstream in("/proc/self/maps");
  for (std::string line; std::getline(in, line);) {  // begin-end rwxp offset device inode path
    std::istringstream words(line);
    std::string range, rights, skip, path;
    words >> range >> rights >> skip >> skip >> skip >> path;
    const size_t dash = range.find('-');
    if (!path.starts_with('/') || dash == std::string::npos) continue;
    files[path] +=
        static_cast<int64_t>(std::stoull(range.substr(dash + 1), nullptr, 16) - std::stoull(range, nullptr, 16));
    if (rights.find('x') != std::string::npos) code.insert(path);
  }
  int64_t bytes = NumberIn("/proc/self/status", "RssAnon:").value_or(0) * 1024;
  for (const std::string& path : code) bytes += files[path];
  return bytes;
}

int64_t DiskBytesRead() { return NumberIn("/proc/self/io", "read_bytes:").value_or(0); }

std::string ProcessorName() { return ProcessorField("model name"); }

std::string MachineName() {
  std::string name = ProcessorName();
  for (const char* field : {"cpu family", "model"})
    if (const std::string value = ProcessorField(field); !value.empty())
      name += fmt::format(", {} {}", field == std::string_view("model") ? field : "family", value);
  return fmt::format("{}, {} CPUs", name, std::thread::hardware_concurrency());
}

std::string CacheFile(const std::string& name) {
  const auto folder = [](const char* variable, const char* below) {
    const char* value = std::getenv(variable);
    return value != nullptr && *value == '/' ? fmt::format("{}{}/hydralm/", value, below) : std::string();
  };
  std::string path = folder("XDG_CACHE_HOME", "");
  if (path.empty()) path = folder("HOME", "/.cache");
  return path.empty() ? path : path + name;
}

}  // namespace hydra::cli
