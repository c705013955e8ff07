// SPDX-License-Identifier: Apache-2.0
// Guards: what is skipped, what ends a run, and that a saved guard decides like the one that went on.
#include "hydra/train/guard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"

namespace hydra::train {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
using Verdict = Guard::Verdict;

TEST(Guard, ThreeNonFiniteStepsInARowStop) {
  Guard guard({});
  EXPECT_EQ(guard.Check(0, kNan, 1).verdict, Verdict::kSkip);
  EXPECT_EQ(guard.Check(1, 1, kInf).verdict, Verdict::kSkip);
  EXPECT_EQ(guard.Check(2, 1, 1).verdict, Verdict::kUpdate);
  EXPECT_EQ(guard.Check(3, 1, kNan).verdict, Verdict::kSkip);
  EXPECT_EQ(guard.Check(4, kInf, 1).verdict, Verdict::kSkip);
  const Guard::Decision last = guard.Check(5, kNan, kNan);
  EXPECT_EQ(last.verdict, Verdict::kStop);
  EXPECT_EQ(last.cause, Guard::Cause::kNonFiniteLoss);
  EXPECT_EQ(guard.nonfinite(), 5);
  Guard never({.nonfinite_stop = 0});
  for (int64_t step = 0; step < 50; ++step) EXPECT_EQ(never.Check(step, kNan, 1).verdict, Verdict::kSkip);
}

TEST(Guard, OutliersAreSkippedWithinTheBudget) {
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    Guard guard({});
    const auto noise = [&] { return 3 + 0.1 * rng.Normal(); };
    // Before the window is full nothing is an outlier.
    EXPECT_EQ(guard.Check(0, 1e6, 1e6).verdict, Verdict::kUpdate);
    int64_t step = 1;
    for (; step <= 200; ++step) EXPECT_EQ(guard.Check(step, noise(), noise()).verdict, Verdict::kUpdate);
    // 6 sigma of a normal distribution: one false alarm in 10^9.
    for (; step < 400; ++step) EXPECT_EQ(guard.Check(step, noise(), noise()).verdict, Verdict::kUpdate);
    EXPECT_EQ(guard.Check(step++, 5, noise()).cause, Guard::Cause::kLossOutlier);
    EXPECT_EQ(guard.Check(step++, noise(), 12).verdict, Verdict::kUpdate);  // four times the usual norm is none
    EXPECT_EQ(guard.Check(step++, noise(), 15).cause, Guard::Cause::kGradOutlier);
    // A fall is no outlier.
    EXPECT_EQ(guard.Check(step++, 0.1, 0.1).verdict, Verdict::kUpdate);
    int skipped = 2;
    for (int i = 0; i < 200; ++i) skipped += guard.Check(step++, 100, noise()).verdict == Verdict::kSkip;
    EXPECT_LE(skipped, 0.01 * static_cast<double>(step));
    EXPECT_EQ(guard.outliers(), skipped);
    Guard off({.sigma = 0});
    for (int64_t s = 0; s < 500; ++s) EXPECT_EQ(off.Check(s, s == 450 ? 1e9 : noise(), 1).verdict, Verdict::kUpdate);
  }
}

TEST(Guard, TheLongTailOfGradientNormsIsNoOutlier) {
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    Guard guard({});
    double largest = 0;
    for (int64_t step = 0; step < 5000; ++step) {
      const double norm = std::exp(0.4 * rng.Normal());  // the largest are four times the usual one
      largest = std::max(largest, norm);
      ASSERT_EQ(guard.Check(step, 3, norm).verdict, Verdict::kUpdate) << step << ": " << norm;
    }
    EXPECT_GT(largest, 3);
    EXPECT_EQ(guard.Check(5000, 3, 30).cause, Guard::Cause::kGradOutlier);
    EXPECT_EQ(guard.Check(5001, 3, 0).verdict, Verdict::kUpdate);
  }
}

TEST(Guard, ValidationRisingThreeTimesStops) {
  Guard guard({});
  EXPECT_FALSE(guard.CheckValidation(10, 3.0));
  EXPECT_FALSE(guard.CheckValidation(20, 3.6));
  EXPECT_FALSE(guard.CheckValidation(30, 3.6));
  EXPECT_FALSE(guard.CheckValidation(40, 3.4));  // within 0.5: counting starts anew
  EXPECT_FALSE(guard.CheckValidation(50, 3.6));
  EXPECT_FALSE(guard.CheckValidation(60, kNan));
  EXPECT_TRUE(guard.CheckValidation(70, 9.0));
  EXPECT_EQ(guard.best_step(), 10);
  EXPECT_EQ(guard.best_val(), 3.0);
  Guard off({.val_rise = 0});
  EXPECT_FALSE(off.CheckValidation(0, 1));
  for (int i = 1; i < 9; ++i) EXPECT_FALSE(off.CheckValidation(i, 50));
}

TEST(Guard, StepsWithoutTargetsAreCountedAndChangeNothingElse) {
  Guard guard({});
  EXPECT_EQ(guard.Check(0, kNan, 1).verdict, Guard::Verdict::kSkip);
  guard.CountEmpty();
  EXPECT_EQ(guard.Check(2, kNan, 1).verdict, Guard::Verdict::kSkip);
  EXPECT_EQ(guard.nonfinite_streak(), 2);
  EXPECT_EQ(guard.skipped(), 3);
  Guard other({});
  other.Load(guard.Save(), "guard");
  EXPECT_EQ(other.empty(), 1);
  EXPECT_EQ(other.skipped(), 3);
  nlohmann::ordered_json older = guard.Save();  // of a state from before they were counted
  older.erase("empty");
  other.Load(older, "guard");
  EXPECT_EQ(other.empty(), 0);
}

TEST(Guard, StatesWithNormsInThePlaceOfTheirLogarithmsStayReadable) {
  Guard guard({.window = 3});
  for (int64_t step = 0; step < 3; ++step)
    EXPECT_EQ(guard.Check(step, 2, 1 + static_cast<double>(step)).verdict, Verdict::kUpdate);
  nlohmann::ordered_json older = guard.Save();
  older.erase("log_norms");
  older["norms"] = {1.0, 2.0, 3.0};
  Guard other({.window = 3});
  other.Load(older, "guard");
  EXPECT_EQ(other.Save(), guard.Save());
}

TEST(Guard, SavedGuardDecidesLikeTheOneThatWentOn) {
  for (const uint64_t seed : {4, 5, 6}) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    Guard guard({.window = 20, .max_skip_share = 0.2}), other({.window = 20, .max_skip_share = 0.2});
    for (int64_t step = 0; step < 300; ++step) {
      const double loss = rng.Below(15) == 0 ? 50 : rng.Below(40) == 0 ? kNan : 2 + rng.Uniform(), norm = rng.Uniform();
      EXPECT_EQ(guard.Check(step, loss, norm).verdict, other.Check(step, loss, norm).verdict);
      if (rng.Below(10) == 0) {
        EXPECT_EQ(guard.CheckValidation(step, loss), other.CheckValidation(step, loss));
      }
      if (rng.Below(7) != 0) continue;
      const std::string text = other.Save().dump();
      EXPECT_EQ(text, guard.Save().dump());
      other = Guard({.window = 20, .max_skip_share = 0.2});
      other.Load(nlohmann::ordered_json::parse(text), "guard");
    }
    EXPECT_GT(guard.outliers(), 0);
    EXPECT_GT(guard.nonfinite(), 0);
  }
  Guard guard({});
  EXPECT_THROW(guard.Load(nlohmann::ordered_json::parse("{\"losses\": [1]}"), "state.json: guard"), Error);
}

}  // namespace
}  // namespace hydra::train
