// SPDX-License-Identifier: Apache-2.0
// Limits of control groups in made-up trees of /proc and /sys. The cores that follow: thread_pool_test.cc.
#include "hydra/base/cgroup.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "hydra/base/testing.h"

namespace hydra {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

class CgroupTree : public ::testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_.path() + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  [[nodiscard]] double Cores() const { return CgroupCores(root_.path()); }
  // -1: no limit.
  [[nodiscard]] int64_t Memory() const { return CgroupMemoryLeft(root_.path()).value_or(-1); }

  TempDir root_;
};

TEST_F(CgroupTree, WithoutGroupsThereIsNoLimit) {
  EXPECT_EQ(Cores(), kUnlimited);
  EXPECT_EQ(Memory(), -1);
  Write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(Cores(), kUnlimited);
  EXPECT_EQ(Memory(), -1);
}

TEST_F(CgroupTree, VersionTwoTakesTheTightestGroupOnTheWayUp) {
  Write("proc/self/cgroup", "0::/slice/job\n");
  const std::string top = "sys/fs/cgroup/", slice = top + "slice/", job = slice + "job/";
  Write(job + "memory.max", "max\n");
  Write(job + "cpu.max", "max 100000\n");
  EXPECT_EQ(Memory(), -1);
  EXPECT_EQ(Cores(), kUnlimited);
  Write(job + "memory.max", "1000000\n");
  Write(job + "memory.current", "300000\n");
  EXPECT_EQ(Memory(), 700000);
  Write(slice + "memory.max", "2000000\n");
  Write(slice + "memory.current", "1900000\n");
  EXPECT_EQ(Memory(), 100000);
  // Cached files can be dropped; what is in tmpfs cannot ("file" counts it, too).
  Write(slice + "memory.stat", "anon 5\nfile 90000\nshmem 40000\ninactive_file 20000\nactive_file 30000\n");
  EXPECT_EQ(Memory(), 150000);
  Write(job + "memory.high", "320000\n");
  EXPECT_EQ(Memory(), 20000);
  Write(job + "cpu.max", "250000 100000\n");
  EXPECT_EQ(Cores(), 2.5);
  Write(slice + "cpu.max", "50000 100000\n");
  EXPECT_EQ(Cores(), 0.5);
  // Another group's limit is none of ours.
  Write(slice + "other/memory.max", "1\n");
  Write(slice + "other/cpu.max", "1000 100000\n");
  EXPECT_EQ(Memory(), 20000);
  EXPECT_EQ(Cores(), 0.5);
}

TEST_F(CgroupTree, VersionOneHasATreeForEachController) {
  Write("proc/self/cgroup", "9:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/job\n0::/\n");
  const std::string memory = "sys/fs/cgroup/memory/job/", cpu = "sys/fs/cgroup/cpu,cpuacct/job/";
  Write(memory + "memory.limit_in_bytes", "9223372036854771712\n");
  Write(cpu + "cpu.cfs_quota_us", "-1\n");
  Write(cpu + "cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Memory(), -1);
  EXPECT_EQ(Cores(), kUnlimited);
  Write(memory + "memory.limit_in_bytes", "1000000\n");
  Write(memory + "memory.usage_in_bytes", "900000\n");
  Write(memory + "memory.stat", "cache 9\ntotal_inactive_file 50000\ntotal_active_file 1000\n");
  Write(cpu + "cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(Memory(), 151000);
  EXPECT_EQ(Cores(), 1.5);
}

// A container of version 1: the path is the host's, what is mounted is the container's own group.
TEST_F(CgroupTree, AContainerSeesItsOwnGroupAtTheTop) {
  Write("proc/self/cgroup", "9:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n");
  Write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n");
  Write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Memory(), 5000);
  EXPECT_EQ(Cores(), 3);
}

TEST_F(CgroupTree, AGroupBeyondItsLimitHasNothingLeft) {
  Write("proc/self/cgroup", "0::/job\n");
  Write("sys/fs/cgroup/job/memory.max", "1000\n");
  Write("sys/fs/cgroup/job/memory.current", "3000\n");
  Write("sys/fs/cgroup/job/memory.stat", "inactive_file 100\n");
  EXPECT_EQ(Memory(), 0);
}

}  // namespace
}  // namespace hydra
