// SPDX-License-Identifier: Apache-2.0
// The golden course of the factor, its bounds, and that a saved one goes on.
#include "hydra/train/factor_scheduler.h"

#include <gtest/gtest.h>

#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/testing.h"

namespace hydra::train {
namespace {

constexpr double kMeans[] = {.40, .42, .41, .411, .60, 1.2, 2.4};
constexpr FactorOptions kOptions{.first = 0.05, .start = 4, .adjust = 4};

TEST(FactorScheduler, GoldenCourse) {
  FactorScheduler scheduler(kOptions);
  std::vector<double> lambda, targets;
  for (const double mean : kMeans) {
    for (int i = 0; i < 4; ++i) {
      lambda.push_back(scheduler.Value());
      scheduler.Observe(mean);
    }
    targets.push_back(scheduler.Save()["high"].get<double>());
  }
  const double want[] = {0.050000, 0.052500, 0.051250, 0.052531, 0.076688, 0.153376, 0.200000};
  for (size_t i = 0; i < targets.size(); ++i) EXPECT_NEAR(targets[i], want[i], 5.1e-7) << i;
  const double steps[] = {0.050000, 0.050625, 0.051250, 0.051875, 0.052500, 0.052187};
  for (size_t i = 0; i < std::size(steps); ++i) EXPECT_NEAR(lambda[7 + i], steps[i], 5.1e-7) << i;
}

TEST(FactorScheduler, ASavedOneGoesOnBitForBit) {
  for (int cut = 0; cut < 28; ++cut) {
    FactorScheduler whole(kOptions), parts(kOptions);
    for (int step = 0; step < 28; ++step) {
      if (step == cut) {
        FactorScheduler loaded(kOptions);
        loaded.Load(Json::parse(parts.Save().dump()), "x");
        parts = loaded;
      }
      EXPECT_EQ(parts.Value(), whole.Value());
      for (FactorScheduler* one : {&whole, &parts}) one->Observe(kMeans[step / 4] + 0.001 * step);
    }
  }
}

TEST(FactorScheduler, FrozenItStays) {
  FactorScheduler scheduler(kOptions);
  for (int step = 0; step < 10; ++step) scheduler.Observe(kMeans[step / 4]);
  const double held = scheduler.Value();
  scheduler.Observe(.41, true);
  for (int step = 0; step < 20; ++step) {
    EXPECT_EQ(scheduler.Value(), held);
    scheduler.Observe(9, true);
  }
}

TEST(FactorScheduler, BadStatesNameTheField) {
  FactorScheduler scheduler(kOptions);
  Json json = scheduler.Save();
  json.erase("sum");
  ExpectError([&] { scheduler.Load(json, "state"); }, ErrorCode::kFormat, {"state.sum", "missing"});
  json = scheduler.Save();
  json["step"] = -1;
  ExpectError([&] { scheduler.Load(json, "state"); }, ErrorCode::kFormat, {"state.step = -1"});
}

}  // namespace
}  // namespace hydra::train
