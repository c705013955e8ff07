// SPDX-License-Identifier: Apache-2.0
// How long a thread could have run and had no CPU. Not here: what follows from it (leave_out.h).
#pragma once

namespace hydra {

// Of the thread that makes it, which alone may ask. A look costs about a microsecond.
class WaitedForCpu {
 public:
  WaitedForCpu();
  ~WaitedForCpu();
  WaitedForCpu(const WaitedForCpu&) = delete;
  WaitedForCpu& operator=(const WaitedForCpu&) = delete;

  // So far. Where the system does not tell, each time that it took the CPU counts as a usual turn of another program.
  double Seconds() const;

 private:
  int file_;  // the system's account of this thread, or -1
};

}  // namespace hydra
