// SPDX-License-Identifier: Apache-2.0
// The rule that leaves threads out: turns of another program, a quiet machine, pauses that grow and shrink.
#include "hydra/base/leave_out.h"

#include "hydra/base/testing.h"

namespace hydra {
namespace {

// A clock, and a time of waiting that grows by so much a second, looked at every 5 ms.
struct Machine {
  LeaveOutRule rule;
  double now = 1000, waited = 0;

  // The first pause within `seconds`, or 0.
  double Run(double seconds, double waited_per_second) {
    constexpr double kLook = 0.005;
    for (const double end = now + seconds; now < end;) {
      now += kLook;
      waited += kLook * waited_per_second;
      if (const double pause = rule.Judge(now, waited); pause > 0) return pause;
    }
    return 0;
  }
};

TEST(LeaveOutRule, AQuietMachineLosesNothing) {
  Machine machine;
  EXPECT_EQ(machine.Run(60, 0), 0);
  EXPECT_EQ(machine.Run(60, 0.04), 0);  // the system's own threads
  EXPECT_EQ(machine.Run(60, 0.14), 0);  // a server's, which wake for each token
}

TEST(LeaveOutRule, TurnsOfAnotherProgramAreSeenWithinTwoWindows) {
  Machine machine;
  (void)machine.Run(5, 0);
  const double start = machine.now;
  EXPECT_EQ(machine.Run(5, 0.5), LeaveOutRule::kShortest);
  EXPECT_LE(machine.now - start, 2.1 * LeaveOutRule::kWindow);
}

TEST(LeaveOutRule, PausesThatDoNotHelpDouble) {
  Machine machine;
  double want = LeaveOutRule::kShortest;
  for (int i = 0; i < 9; ++i) {
    EXPECT_DOUBLE_EQ(machine.Run(5, 0.5), want) << i;
    machine.now += want;
    want = std::min(2 * want, LeaveOutRule::kLongest);
  }
  EXPECT_EQ(machine.Run(3, 0), 0);  // the other program ended
  EXPECT_DOUBLE_EQ(machine.Run(5, 0.5), LeaveOutRule::kShortest);
}

TEST(LeaveOutRule, LongRegionsCountByTheirTime) {
  LeaveOutRule rule;
  EXPECT_EQ(rule.Judge(1000, 0), 0);
  EXPECT_EQ(rule.Judge(1001, 0.1), 0);  // a tenth of a second
  EXPECT_GT(rule.Judge(1002, 0.6), 0);
}

TEST(LeaveOutRule, WhatWasWaitedBeforeARestartIsNotJudged) {
  LeaveOutRule rule;
  (void)rule.Judge(1000, 0);
  rule.Restart(1000.1, 5);
  EXPECT_EQ(rule.Judge(1000.2, 5.001), 0);
}

}  // namespace
}  // namespace hydra
