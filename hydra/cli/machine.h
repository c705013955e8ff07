// SPDX-License-Identifier: Apache-2.0
// What this machine has: memory that may still be taken, the processor's name, the user's cache folder. Linux.
#pragma once

#include <cstdint>
#include <string>

namespace hydra::cli {

// Bytes that this process can take without swapping: what the kernel calls available, or what the limits of its control
// groups leave where that is less (base/cgroup.h). At least 1, or 0 where neither can be read. `root` stands before the
// paths of /proc and /sys, for tests.
[[nodiscard]] int64_t AvailableMemory(const std::string& root = "");

// Bytes that this process has now apart from mapped data files: what it allocated, and its code and libraries whole, as
// they are once all of it has run. 0 where it cannot be read.
[[nodiscard]] int64_t ProgramMemory();

// Bytes that this process has read from disk so far, by calls and by touching mapped files; 0 where it cannot be read.
[[nodiscard]] int64_t DiskBytesRead();

// "AMD EPYC 9B14"; "" where it is not known.
[[nodiscard]] std::string ProcessorName();

// The same with what tells processors of one name apart, and how many CPUs there are: "AMD EPYC, family 25, model 17, 2
// CPUs".
[[nodiscard]] std::string MachineName();

// Path of a file that may be deleted at any time: in $XDG_CACHE_HOME/hydralm, else in $HOME/.cache/hydralm; "" where
// neither is an absolute path.
[[nodiscard]] std::string CacheFile(const std::string& name);

}  // namespace hydra::cli
