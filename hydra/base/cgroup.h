// SPDX-License-Identifier: Apache-2.0
// What the control groups of this process leave it of the machine: containers, batch systems and systemd set them.
// Linux; versions 1 and 2 of control groups, also mixed. Not here: the machine's own memory (cli/machine.h) and cores
// (thread_pool.h).
//
// The process' own group is looked up in /proc/self/cgroup; a limit of any group above it counts too. `root` stands
// before the paths of /proc and /sys, for tests.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace hydra {

// Cores of processor time that the tightest quota leaves, such as 1.5; infinity where there is none.
[[nodiscard]] double CgroupCores(const std::string& root = "");

// Bytes that may still be taken before the tightest limit (memory.max, memory.high or memory.limit_in_bytes) is
// reached. Cached files count as free, since the kernel drops them first. 0 or more; nothing where no limit is set.
[[nodiscard]] std::optional<int64_t> CgroupMemoryLeft(const std::string& root = "");

}  // namespace hydra
