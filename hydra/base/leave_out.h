// SPDX-License-Identifier: Apache-2.0
// When a pool of threads should do with one thread fewer for a while, because other programs want the CPUs too. Not
// here: the pool (thread_pool.h), how long a thread waited (waited.h).
#pragma once

#include <algorithm>

namespace hydra {

// All threads of a region wait for the last one. Where another program wants one of the CPUs, the system takes that CPU
// from our thread again and again, for milliseconds, and each time all others stand still: two threads are then slower
// than one. A thread that is left out sleeps, so that the other program has a CPU to itself. After a pause it comes
// back and is judged anew; each pause that did not help is followed by one of twice the length. Judged by the time that
// the threads waited for a CPU, not by how often: a program that wakes for each token to send it on takes a CPU for
// microseconds.
class LeaveOutRule {
 public:
  static constexpr double kWindow = 0.1;  // seconds that are judged together
  // Of the window, all threads together. Two threads waited 0.37 to 0.73 of it beside a program that always wants to
  // run, 0.02 to 0.14 beside threads that send each token to a client, at most 0.04 on a quiet machine.
  static constexpr double kMostWaited = 0.25;
  static constexpr double kShortest = 0.4, kLongest = 6.4;  // pauses
  static constexpr double kCalm = 1.0;                      // after so long, the next pause is a short one

  // `waited`: seconds that threads of the pool could have run and had no CPU, so far. Returns the seconds that one more
  // thread shall stay out from now on, or 0.
  double Judge(double now, double waited) {
    const double window = now - since_;
    if (window < kWindow) return 0;
    const double share = (waited - waited_) / window;
    since_ = now;
    waited_ = waited;
    if (share < kMostWaited) return 0;
    pause_ = now - back_ > kCalm ? kShortest : std::min(2 * pause_, kLongest);
    back_ = now + pause_;
    return pause_;
  }
  // What was waited before is not judged: another thread calls the pool, say.
  void Restart(double now, double waited) {
    since_ = now;
    waited_ = waited;
  }

 private:
  double since_ = 0, back_ = -kCalm, pause_ = kShortest, waited_ = 0;
};

}  // namespace hydra
