// SPDX-License-Identifier: Apache-2.0
// The pace of progress lines, with made-up times; the clock itself goes forward.
#include "hydra/base/clock.h"

#include <gtest/gtest.h>

namespace hydra {
namespace {

TEST(Pace, IsDueAtOnceAndThenAfterItsSeconds) {
  Pace pace(5);
  EXPECT_TRUE(pace.Due(100));
  EXPECT_FALSE(pace.Due(100));
  EXPECT_FALSE(pace.Due(104.9));
  EXPECT_TRUE(pace.Due(105));
  EXPECT_FALSE(pace.Due(109));
  EXPECT_TRUE(pace.Due(300));
  EXPECT_FALSE(pace.Due(304));
}

TEST(Seconds, NeverGoBack) {
  double last = Seconds();
  for (int i = 0; i < 1000; ++i) {
    const double now = Seconds();
    EXPECT_GE(now, last);
    last = now;
  }
}

}  // namespace
}  // namespace hydra
