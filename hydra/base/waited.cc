// SPDX-License-Identifier: Apache-2.0
// How long a thread waited for a CPU, by the scheduler's own account.
#include "hydra/base/waited.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>

namespace hydra {
namespace {

constexpr double kTurn = 2.5e-3;  // seconds of another program's turn, where waiting is not told

}  // namespace

// "RAN WAITED TURNS", the first two in nanoseconds (the kernel's Documentation/scheduler/sched-stats.rst).
WaitedForCpu::WaitedForCpu() : file_(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)) {}

WaitedForCpu::~WaitedForCpu() {
  if (file_ >= 0) ::close(file_);
}

double WaitedForCpu::Seconds() const {
  char text[128];
  if (const ssize_t length = file_ < 0 ? 0 : ::pread(file_, text, sizeof(text) - 1, 0); length > 0) {
    text[length] = 0;
    char* waited = nullptr;
    (void)std::strtoull(text, &waited, 10);
    return 1e-9 * static_cast<double>(std::strtoull(waited, nullptr, 10));
  }
  rusage usage{};
  return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? kTurn * static_cast<double>(usage.ru_nivcsw) : 0;
}

}  // namespace hydra
