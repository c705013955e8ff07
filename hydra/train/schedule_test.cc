// SPDX-License-Identifier: Apache-2.0
// Learning rates and step schedules against hand-computed values.
#include "hydra/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hydra/base/error.h"

namespace hydra::train {
namespace {

StepSchedule Parse(const std::string& json) {
  StepSchedule schedule;
  ReadJson(nlohmann::ordered_json::parse(json), "s", &schedule);
  return schedule;
}

TEST(LrSchedule, CosineWarmsUpFallsAndEndsAtItsLowest) {
  const LrSchedule lr{.shape = LrShape::kCosine, .peak = 1.0, .warmup_steps = 4, .total_steps = 15, .min_ratio = 0.1};
  EXPECT_DOUBLE_EQ(lr.At(0), 0.25);
  EXPECT_DOUBLE_EQ(lr.At(3), 1.0);
  EXPECT_DOUBLE_EQ(lr.At(4), 1.0);
  EXPECT_NEAR(lr.At(9), 0.1 + 0.9 * 0.5, 1e-12);  // half way between steps 4 and 14
  EXPECT_NEAR(lr.At(14), 0.1, 1e-12);
  EXPECT_NEAR(lr.At(1000), 0.1, 1e-12);
  for (int64_t step = 4; step < 14; ++step) EXPECT_GT(lr.At(step), lr.At(step + 1));
}

TEST(LrSchedule, WsdStaysThenDecays) {
  const LrSchedule lr{
      .shape = LrShape::kWsd, .peak = 2.0, .warmup_steps = 2, .total_steps = 101, .min_ratio = 0, .decay_share = 0.2};
  EXPECT_DOUBLE_EQ(lr.At(0), 1.0);
  EXPECT_DOUBLE_EQ(lr.At(2), 2.0);
  EXPECT_DOUBLE_EQ(lr.At(80), 2.0);
  EXPECT_LT(lr.At(82), 2.0);
  EXPECT_NEAR(lr.At(100), 0.0, 1e-12);
}

TEST(LrSchedule, ShortRunsAreFinite) {
  for (const LrShape shape : {LrShape::kCosine, LrShape::kWsd})
    for (int64_t total = 1; total < 5; ++total)
      for (int64_t warmup = 0; warmup < 6; ++warmup)
        for (int64_t step = 0; step < total; ++step) {
          const double lr =
              LrSchedule{.shape = shape, .peak = 1, .warmup_steps = warmup, .total_steps = total}.At(step);
          EXPECT_TRUE(std::isfinite(lr) && lr >= 0 && lr <= 1) << total << " " << warmup << " " << step << " " << lr;
        }
}

TEST(StepSchedule, StepsAndShares) {
  const StepSchedule schedule = Parse("[[0, 4], [10, 8], [0.5, 16]]");
  EXPECT_EQ(schedule.At(9, 100), 4);
  EXPECT_EQ(schedule.At(10, 100), 8);
  EXPECT_EQ(schedule.At(49, 100), 8);
  EXPECT_EQ(schedule.At(50, 100), 16);
  EXPECT_EQ(schedule.MaxValue(), 16);
  EXPECT_EQ(schedule.Text(), "[[0, 4], [10, 8], [0.5, 16]]");
  EXPECT_EQ(Parse(schedule.Text()), schedule);
  EXPECT_EQ(Parse("7").At(123, 1000), 7);
  for (const char* bad : {"[]", "[3]", "[[1, 2]]", "[[0, 2], [0, 3]]", "[[0, 2], [1.5, 3]]", "[[0, 2], [5, 3], [4, 1]]",
                          "\"a\"", "[[0, 1.5]]", "[[0, 1, 2]]"})
    EXPECT_THROW((void)Parse(bad), Error) << bad;
}

TEST(StepSchedule, StepsForTokensIsTheLeastThatReaches) {
  EXPECT_EQ(StepsForTokens(1000, 10, 10, 1), 10);
  EXPECT_EQ(StepsForTokens(1001, 10, 10, 1), 11);
  EXPECT_EQ(StepsForTokens(1000, 5, 10, 2), 10);
  EXPECT_EQ(StepsForTokens(1, 64, 1024, 8), 1);
  // 10 steps of 4 rows, then 8 rows, 10 tokens each: 400 + 80 n.
  EXPECT_EQ(StepsForTokens(400 + 80 * 7, Parse("[[0, 4], [10, 8]]"), 10, 1), 17);
  const StepSchedule half = Parse("[[0, 1], [0.5, 3]]");  // 2 tokens a step on average
  EXPECT_EQ(StepsForTokens(2000, half, 1, 1), 1000);
}

}  // namespace
}  // namespace hydra::train
