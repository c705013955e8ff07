// SPDX-License-Identifier: Apache-2.0
// Kernels of rows and selection where a random case does not lead: values worked out by hand, extremes, NaN, nothing.
// Not here: sizes, strides and aliasing against the twins (kernel_list_test.cc).
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "hydra/kernels/ops.h"
#include "hydra/kernels/testing.h"

namespace hydra::kernels {
namespace {

TEST(Rope, TurnsAUnitVectorByTheAngle) {
  const std::vector<int64_t> pos{1};
  const std::vector<double> inv_freq{std::acos(-1.0) / 2, 0};
  std::vector<float> x{1, 2, 3, 4};
  ForEachTarget([&](const std::string&) {
    std::vector<float> halves = x, neighbours = x;
    Rope({.x = halves.data(), .pos = pos.data(), .inv_freq = inv_freq.data(), .T = 1, .heads = 1, .Dh = 4});
    Rope({.x = neighbours.data(),
          .pos = pos.data(),
          .inv_freq = inv_freq.data(),
          .T = 1,
          .heads = 1,
          .Dh = 4,
          .interleaved = true});
    ExpectClose(std::vector<float>{-3, 2, 1, 4}, halves, 1e-6);
    ExpectClose(std::vector<float>{-2, 1, 3, 4}, neighbours, 1e-6);
  });
}

TEST(SwiGlu, ExtremesStayFinite) {
  ForEachTarget([](const std::string&) {
    const std::vector<float> gate{-1e30f, -200, -100, -88, 0, 88, 100, 1e30f}, up(8, 1);
    std::vector<float> y(8);
    SwiGlu({.gate = gate.data(), .up = up.data(), .y = y.data(), .T = 1, .F = 8});
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(y[i], 0, 1e-36);
    EXPECT_EQ(y[4], 0);
    for (size_t i = 5; i < 8; ++i) EXPECT_EQ(y[i], gate[i]);
  });
}

TEST(Softmax, AddingAConstantChangesLittleAndNothingOverflows) {
  ForEachTarget([](const std::string&) {
    const std::vector<float> x{1000, 1001, 999, -3e38f};
    std::vector<float> y(4);
    Softmax({.x = x.data(), .y = y.data(), .T = 1, .D = 4});
    const double sum = 1 + std::exp(-1.0) + std::exp(-2.0);
    ExpectClose(std::vector<float>{static_cast<float>(std::exp(-1.0) / sum), static_cast<float>(1 / sum),
                                   static_cast<float>(std::exp(-2.0) / sum), 0},
                y, 1e-6);
  });
}

TEST(LogSigmoid, IsWithinFewUlpEverywhere) {
  std::vector<float> x{0, -0.0f, 1e-30f, -1e-30f, 104, -104, 3e38f, -3e38f};
  for (int i = -4000; i <= 4000; ++i) x.push_back(static_cast<float>(i) * 0.025f + 0.001f);
  std::vector<float> want(x.size()), got(x.size());
  const auto n = static_cast<int64_t>(x.size());
  ref::LogSigmoid(x.data(), want.data(), n);
  ForEachTarget([&](const std::string&) {
    LogSigmoid(x.data(), got.data(), n);
    for (size_t i = 0; i < x.size(); ++i)
      ASSERT_NEAR(want[i], got[i], 6 * UnitRoundoff(DType::kF32) * std::abs(want[i]) + 2e-38) << x[i];
  });
}

TEST(Dot, OfNothingIsZero) {
  ForEachTarget([](const std::string&) { EXPECT_EQ(Dot(nullptr, nullptr, 0), 0); });
}

TEST(TopK, NanComesLastAndTiesGoToTheLowerIndex) {
  ForEachTarget([](const std::string&) {
    const std::vector<float> odd{NAN, -INFINITY, 1, INFINITY, NAN, 1};
    std::vector<int32_t> ids(6);
    TopK(odd.data(), 6, 6, ids.data(), nullptr);
    EXPECT_EQ(ids, (std::vector<int32_t>{3, 2, 5, 0, 1, 4}));
  });
}

}  // namespace
}  // namespace hydra::kernels
