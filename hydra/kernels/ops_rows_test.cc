// SPDX-License-Identifier: Apache-2.0
// Kernels of rows and selection against their scalar twins on every SIMD level: sizes around the vectors, strides,
// aliasing, extreme values; nothing outside the rows is touched.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "hydra/kernels/ops.h"
#include "hydra/kernels/testing.h"

namespace hydra::kernels {
namespace {

double MaxAbs(const std::vector<float>& x) {
  double max = 0;
  for (const float v : x) max = std::max(max, std::abs(double{v}));
  return max;
}

TEST(RmsNorm, MatchesRefWithGroupsGatesAndStrides) {
  struct Case {
    int64_t groups;
    bool z, shared, in_place;
  };
  ForEachTarget([](const std::string&) {
    for (const Case& c : {Case{1, false, false, false},
                          {1, false, false, true},
                          {3, true, false, false},
                          {3, true, false, true},
                          {4, false, true, true},
                          {2, true, true, false}}) {
      ForEachSize(130, [&](int64_t width) {
        const int64_t T = 2, D = width * c.groups, xs = D + 3, ys = c.in_place ? xs : D + 5, zs = D + 1;
        std::vector<float> x = Normals(T * xs, 1), z = Normals(T * zs, 2, 3), w = Normals(D, 3);
        std::vector<float> want(static_cast<size_t>(T * ys), kUntouched);
        if (c.in_place) want = x;
        std::vector<float> got = want;
        RmsNormArgs a{.x = x.data(),
                      .w = w.data(),
                      .y = want.data(),
                      .T = T,
                      .D = D,
                      .x_stride = xs,
                      .y_stride = ys,
                      .groups = c.groups,
                      .eps = 1e-3f,
                      .z = c.z ? z.data() : nullptr,
                      .z_stride = zs,
                      .shared_weight = c.shared};
        if (c.in_place) a.x = want.data();
        ref::RmsNorm(a);
        a.y = got.data();
        if (c.in_place) a.x = got.data();
        RmsNorm(a);
        // A normalised value is at most sqrt(width); the sum of squares has only positive terms.
        ExpectClose(want, got, Tolerance(DType::kF32, width + 10, std::sqrt(static_cast<double>(width)) * MaxAbs(w)));
      });
    }
  });
}

TEST(Rope, MatchesRefInBothLayoutsAtFarPositions) {
  ForEachTarget([](const std::string&) {
    for (const bool interleaved : {false, true})
      for (const int64_t Dh : {2, 6, 8, 16, 24, 34, 64, 80, 128, 258}) {
        SCOPED_TRACE("Dh " + std::to_string(Dh));
        const int64_t heads = 3, stride = heads * Dh + 7;
        const std::vector<int64_t> pos{0, 1, 2, 3, 5, 100, 1000, 131072, 10'000'000};  // quadrants 0 to 3 among them
        const auto T = static_cast<int64_t>(pos.size());
        std::vector<double> inv_freq;
        for (int64_t i = 0; i < Dh / 2; ++i)
          inv_freq.push_back(std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(Dh)));
        std::vector<float> want = Normals(T * stride, 4), got = want;
        RopeArgs a{.x = want.data(),
                   .pos = pos.data(),
                   .inv_freq = inv_freq.data(),
                   .T = T,
                   .heads = heads,
                   .Dh = Dh,
                   .x_stride = stride,
                   .interleaved = interleaved};
        ref::Rope(a);
        a.x = got.data();
        Rope(a);
        ExpectClose(want, got, Tolerance(DType::kF32, 4, 2 * MaxAbs(want)));
      }
  });
}

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

TEST(SwiGlu, MatchesRefAndExtremes) {
  ForEachTarget([](const std::string&) {
    ForEachSize(130, [](int64_t F) {
      const int64_t T = 3, stride = 2 * F, ys = F + 3;
      std::vector<float> hidden = Normals(T * stride, 5, 4);
      std::vector<float> want(static_cast<size_t>(T * ys), kUntouched), got = want;
      SwiGluArgs a{.gate = hidden.data(),
                   .up = hidden.data() + F,
                   .y = want.data(),
                   .T = T,
                   .F = F,
                   .stride = stride,
                   .y_stride = ys};
      ref::SwiGlu(a);
      a.y = got.data();
      SwiGlu(a);
      ExpectClose(want, got, Tolerance(DType::kF32, 6, MaxAbs(want)));
      SwiGlu({.gate = hidden.data(),
              .up = hidden.data() + F,
              .y = hidden.data(),
              .T = T,
              .F = F,
              .stride = stride,
              .y_stride = stride});
      for (int64_t t = 0; t < T; ++t)
        ExpectClose({want.data() + t * ys, static_cast<size_t>(F)},
                    {hidden.data() + t * stride, static_cast<size_t>(F)}, Tolerance(DType::kF32, 6, MaxAbs(want)));
    });
    const std::vector<float> gate{-1e30f, -200, -100, -88, 0, 88, 100, 1e30f}, up(8, 1);
    std::vector<float> y(8);
    SwiGlu({.gate = gate.data(), .up = up.data(), .y = y.data(), .T = 1, .F = 8});
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(y[i], 0, 1e-36);
    EXPECT_EQ(y[4], 0);
    for (size_t i = 5; i < 8; ++i) EXPECT_EQ(y[i], gate[i]);
  });
}

TEST(Softmax, MatchesRefWithScalesAndMaskedEntries) {
  ForEachTarget([](const std::string&) {
    for (const float scale : {1.0f, 0.125f, -2.0f})
      ForEachSize(130, [&](int64_t D) {
        const int64_t T = 3;
        std::vector<float> x = Normals(T * D, 6, 20), want(x.size()), got(x.size());
        for (int64_t i = 1; i < D; i += 3) x[static_cast<size_t>(i)] = scale > 0 ? -INFINITY : INFINITY;
        ref::Softmax({.x = x.data(), .y = want.data(), .T = T, .D = D, .scale = scale});
        Softmax({.x = x.data(), .y = got.data(), .T = T, .D = D, .scale = scale});
        // The exponents are rounded at the size of scale x.
        ExpectClose(want, got, Tolerance(DType::kF32, D + 8, 1) + 2 * UnitRoundoff(DType::kF32) * 80);
        Softmax({.x = x.data(), .y = x.data(), .T = T, .D = D, .scale = scale});
        EXPECT_EQ(got, x);
      });
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

TEST(DotAndAxpy, MatchRef) {
  ForEachTarget([](const std::string&) {
    ForEachSize(300, [](int64_t n) {
      const std::vector<float> x = Normals(n, 7), y = Normals(n, 8);
      double scale = 0;
      for (size_t i = 0; i < x.size(); ++i) scale += std::abs(double{x[i]} * y[i]);
      EXPECT_NEAR(ref::Dot(x.data(), y.data(), n), Dot(x.data(), y.data(), n), Tolerance(DType::kF32, n, scale));
      std::vector<float> want = y, got = y;
      want.push_back(kUntouched), got.push_back(kUntouched);
      ref::Axpy(-1.7f, x.data(), want.data(), n);
      Axpy(-1.7f, x.data(), got.data(), n);
      ExpectClose(want, got, Tolerance(DType::kF32, 2, 2 * MaxAbs(x) + MaxAbs(y)));
      EXPECT_EQ(got.back(), kUntouched);
    });
  });
  EXPECT_EQ(Dot(nullptr, nullptr, 0), 0);
}

// Few different scores, so that ties are everywhere; ids must be equal, not only the scores.
TEST(TopK, TiesGoToTheLowerIndex) {
  ForEachTarget([](const std::string&) {
    for (const uint64_t seed : {1u, 2u, 3u})
      for (const uint64_t levels : {1u, 3u, 20u, 100000u})
        ForEachSize(200, [&](int64_t n) {
          Rng rng(seed, levels);
          std::vector<float> scores(static_cast<size_t>(n));
          for (float& s : scores) s = static_cast<float>(rng.Below(levels)) - 2;
          for (const int64_t k : {int64_t{0}, int64_t{1}, n / 2, n - 1, n}) {
            std::vector<int32_t> want(static_cast<size_t>(k)), got(want.size());
            std::vector<float> values(want.size()), got_values(want.size());
            ref::TopK(scores.data(), n, k, want.data(), values.data());
            TopK(scores.data(), n, k, got.data(), got_values.data());
            ASSERT_EQ(want, got);
            ASSERT_EQ(values, got_values);
          }
        });
    const std::vector<float> odd{NAN, -INFINITY, 1, INFINITY, NAN, 1};
    std::vector<int32_t> ids(6);
    TopK(odd.data(), 6, 6, ids.data(), nullptr);
    EXPECT_EQ(ids, (std::vector<int32_t>{3, 2, 5, 0, 1, 4}));
  });
}

}  // namespace
}  // namespace hydra::kernels
