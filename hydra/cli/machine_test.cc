// SPDX-License-Identifier: Apache-2.0
// The memory that both commands plan with, in made-up trees of /proc and /sys.
#include "hydra/cli/machine.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "hydra/base/testing.h"

namespace hydra::cli {
namespace {

TEST(AvailableMemory, IsTheLessOfTheMachinesAndTheGroups) {
  const TempDir root;
  const auto write = [&](const std::string& path, const std::string& text) {
    const std::filesystem::path file = root.path() + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  };
  EXPECT_EQ(AvailableMemory(root.path()), 0);
  write("proc/meminfo", "MemTotal:  4000 kB\nMemFree:  10 kB\nMemAvailable:   3000 kB\n");
  EXPECT_EQ(AvailableMemory(root.path()), 3000 * 1024);
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/memory.max", "1000000\n");
  write("sys/fs/cgroup/a/memory.current", "250000\n");
  EXPECT_EQ(AvailableMemory(root.path()), 750000);
  write("sys/fs/cgroup/a/memory.max", "100000000\n");
  EXPECT_EQ(AvailableMemory(root.path()), 3000 * 1024);
  write("sys/fs/cgroup/a/b/memory.max", "0\n");  // full is not unknown
  EXPECT_EQ(AvailableMemory(root.path()), 1);
}

TEST(CacheFile, StandsWhereTheUserKeepsSuch) {
  const auto with = [](const char* cache, const char* home) {
    const auto set = [](const char* name, const char* value) {
      return value != nullptr ? ::setenv(name, value, 1) : ::unsetenv(name);
    };
    set("XDG_CACHE_HOME", cache);
    set("HOME", home);
    return CacheFile("x.json");
  };
  const auto copy = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
  };
  const auto cache = copy("XDG_CACHE_HOME"), home = copy("HOME");
  EXPECT_EQ(with("/c", "/a"), "/c/hydralm/x.json");
  EXPECT_EQ(with(nullptr, "/a"), "/a/.cache/hydralm/x.json");
  EXPECT_EQ(with("not/absolute", "/a"), "/a/.cache/hydralm/x.json");
  EXPECT_EQ(with("", ""), "");
  EXPECT_EQ(with(nullptr, nullptr), "");
  (void)with(cache ? cache->c_str() : nullptr, home ? home->c_str() : nullptr);
}

TEST(MachineName, TellsHowManyCpus) { EXPECT_TRUE(MachineName().ends_with(" CPUs")) << MachineName(); }

}  // namespace
}  // namespace hydra::cli
