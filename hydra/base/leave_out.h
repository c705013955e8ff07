// SPDX-License-Identifier: Apache-2.0
// When a pool of threads should do with one thread fewer for a while, because other programs want the CPUs too. Not
// here: the pool (thread_pool.h).
#pragma once

#include <algorithm>
#include <cstdint>

namespace hydra {

// All threads of a region wait for the last one. Where another program wants one of the CPUs, the system takes that CPU
// from our thread again and again, for milliseconds, and each time all others stand still: two threads are then slower
// than one. A thread that is left out sleeps, so that the other program has a CPU to itself. After a pause it comes
// back and is judged anew; each pause that did not help is followed by one of twice the length.
class LeaveOutRule {
 public:
  static constexpr double kWindow = 0.1;  // seconds that are judged together
  // Two threads beside a program that always wanted to run lost a CPU 166 to 185 times a second together, on a quiet
  // machine 30 times, to the system's own threads: in a window 17 and 3.
  static constexpr int64_t kMostTaken = 10;
  static constexpr double kShortest = 0.4, kLongest = 6.4;  // pauses
  static constexpr double kCalm = 1.0;                      // after so long, the next pause is a short one

  // `taken`: how often the system took a CPU from threads of the pool that wanted to run on, so far. Returns the
  // seconds that one more thread shall stay out from now on, or 0.
  double Judge(double now, int64_t taken) {
    const double window = now - since_;
    if (window < kWindow) return 0;
    const double often = static_cast<double>(taken - taken_) * kWindow / window;
    since_ = now;
    taken_ = taken;
    if (often < kMostTaken) return 0;
    pause_ = now - back_ > kCalm ? kShortest : std::min(2 * pause_, kLongest);
    back_ = now + pause_;
    return pause_;
  }
  // What was taken before is not judged: another thread calls the pool, say.
  void Restart(double now, int64_t taken) {
    since_ = now;
    taken_ = taken;
  }

 private:
  double since_ = 0, back_ = -kCalm, pause_ = kShortest;
  int64_t taken_ = 0;
};

}  // namespace hydra
