// SPDX-License-Identifier: Apache-2.0
// Kernels along time: every split of a sequence and every cut of heads and channels gives the same, rounded states
// drift no further than their twins, no later token is seen. Not here: sizes and strides against the twins
// (kernel_list_test.cc).
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "hydra/kernels/ops.h"
#include "hydra/kernels/testing.h"
#include "hydra/tensor/dtype.h"

namespace hydra::kernels {
namespace {

// ---- Convolution ----

struct ConvCase {
  int64_t T, C, K, xs, ys;
  std::vector<float> x, w, b, state, y;
  ConvCase(int64_t T, int64_t C, int64_t K, uint64_t seed)
      : T(T),
        C(C),
        K(K),
        xs(C + 5),
        ys(C + 2),
        x(Normals(T * xs, seed)),
        w(Normals(C * K, seed + 1)),
        b(Normals(C, seed + 2)),
        state(Normals((K - 1) * C, seed + 3)),
        y(static_cast<size_t>(T * ys), kUntouched) {}
  ConvArgs Args(int64_t begin, int64_t end, bool bias) {
    return {.x = x.data() + begin * xs,
            .w = w.data(),
            .b = bias ? b.data() : nullptr,
            .state = state.data(),
            .y = y.data() + begin * ys,
            .T = end - begin,
            .C = C,
            .K = K,
            .x_stride = xs,
            .y_stride = ys};
  }
};

TEST(Conv, AnySplitGivesTheSameBits) {
  ForEachTarget([](const std::string&) {
    for (const int64_t K : {1, 2, 3, 4, 5, 64})
      for (const int64_t C : {1, 3, 8, 15, 16, 17, 67}) {
        SCOPED_TRACE("K " + std::to_string(K) + " C " + std::to_string(C));
        const int64_t T = 9;
        ConvCase whole(T, C, K, 11);
        Conv(whole.Args(0, T, K % 2 == 0));
        for (int64_t split = 0; split <= T; ++split) {
          ConvCase got(T, C, K, 11);
          Conv(got.Args(0, split, K % 2 == 0));
          Conv(got.Args(split, T, K % 2 == 0));
          EXPECT_EQ(whole.y, got.y) << split;
          EXPECT_EQ(whole.state, got.state) << split;
        }
      }
  });
}

TEST(Conv, TheLastTapIsThisToken) {
  ForEachTarget([](const std::string&) {
    const std::vector<float> x{1, 2}, w{0, 0, 10, 1};  // y = silu(10 u[t - 1] + u[t])
    std::vector<float> state{7, 8, 9}, y(2);
    Conv({.x = x.data(), .w = w.data(), .b = nullptr, .state = state.data(), .y = y.data(), .T = 2, .C = 1, .K = 4});
    EXPECT_FLOAT_EQ(y[0], 91);
    EXPECT_FLOAT_EQ(y[1], static_cast<float>(12 / (1 + std::exp(-12.0))));
    EXPECT_EQ(state, (std::vector<float>{9, 1, 2}));
  });
}

// ---- SSD ----

struct SsdCase {
  int64_t T, H, P, G, N, Q, xs, bcs, ys;
  std::vector<float> xbc, dt, A, D, state, y, scratch;
  SsdCase(int64_t T, int64_t H, int64_t P, int64_t G, int64_t N, int64_t Q, uint64_t seed)
      : T(T),
        H(H),
        P(P),
        G(G),
        N(N),
        Q(Q),
        xs(H * P + 2 * G * N + 3),
        bcs(xs),
        ys(H * P + 1),
        xbc(Normals(T * xs, seed)),
        dt(Normals(T * H, seed + 1, 0.3)),
        A(Normals(H, seed + 2)),
        D(Normals(H, seed + 3)),
        state(Normals(H * P * N, seed + 4)),
        y(static_cast<size_t>(T * ys), kUntouched),
        scratch(static_cast<size_t>(SsdScratchFloats(Q, P, N)), NAN) {
    for (float& v : dt) v = std::abs(v);
    for (float& v : A) v = -std::abs(v) - 0.05f;
  }
  SsdArgs Args(int64_t begin, int64_t end, int64_t h0, int64_t h1) {
    const float* x = xbc.data() + begin * xs;
    return {.x = x,
            .B = x + H * P,
            .C = x + H * P + G * N,
            .dt = dt.data() + begin * H,
            .A = A.data(),
            .D = D.data(),
            .state = state.data(),
            .y = y.data() + begin * ys,
            .scratch = scratch.data(),
            .T = end - begin,
            .H = H,
            .P = P,
            .G = G,
            .N = N,
            .Q = Q,
            .h0 = h0,
            .h1 = h1,
            .x_stride = xs,
            .bc_stride = bcs,
            .y_stride = ys};
  }
  // Sums of N + tokens terms, values of a few deviations; exponents up to 40 are rounded in f32.
  [[nodiscard]] double Error() const {
    double most = 1;
    for (const float v : y)
      if (v != kUntouched) most = std::max(most, std::abs(double{v}));
    for (const float v : state) most = std::max(most, std::abs(double{v}));
    return Tolerance(DType::kF32, 40 + N + std::min(T, Q), most);
  }
};

void ExpectSameRun(const SsdCase& want, const SsdCase& got) {
  ExpectClose(want.y, got.y, want.Error());
  ExpectClose(want.state, got.state, want.Error());
}

TEST(Ssd, AnySplitMatchesRef) {
  ForEachTarget([](const std::string&) {
    const int64_t T = 19;
    SsdCase want(T, 4, 20, 2, 24, 8, 41);
    const SsdCase fresh = want;
    ref::Ssd(want.Args(0, T, 0, 4));
    for (const int64_t split : {1, 2, 7, 8, 9, 15, 16, 17, 18}) {
      SCOPED_TRACE(split);
      SsdCase got = fresh;
      Ssd(got.Args(0, split, 0, 4));
      Ssd(got.Args(split, T, 0, 4));
      ExpectSameRun(want, got);
    }
    SsdCase steps = fresh;
    for (int64_t t = 0; t < T; ++t) Ssd(steps.Args(t, t + 1, 0, 4));
    ExpectSameRun(want, steps);
  });
}

// A state in bf16: read, summed in f32, rounded behind each step or chunk. The twin rounds behind each call.
TEST(Ssd, RoundedStateMatchesRef) {
  ForEachTarget([](const std::string&) {
    const int64_t T = 19, H = 4, P = 21, N = 27, Q = 8;
    for (const auto& [piece, seed] : {std::pair{int64_t{1}, 43}, {int64_t{1}, 44}, {Q, 43}, {Q, 45}}) {
      SsdCase want(T, H, P, 2, N, Q, seed), got = want;
      std::vector<uint16_t> want_state, got_state;
      for (const float v : want.state) want_state.push_back(FloatToBF16(v));
      got_state = want_state;
      for (int64_t t = 0; t < T; t += piece) {
        SsdArgs a = want.Args(t, std::min(t + piece, T), 0, H), b = got.Args(t, std::min(t + piece, T), 0, H);
        a.state_dtype = b.state_dtype = StateDtype::kBF16;
        a.state = want_state.data();
        b.state = got_state.data();
        ref::Ssd(a);
        Ssd(b);
      }
      for (size_t i = 0; i < want_state.size(); ++i) {
        want.state[i] = BF16ToFloat(want_state[i]);
        got.state[i] = BF16ToFloat(got_state[i]);
      }
      // Sums that fall on different sides of a tie become neighbours, at most 2^-7 of the number apart, in a few
      // places.
      double most = 0;
      int64_t differ = 0;
      for (size_t i = 0; i < want_state.size(); ++i) {
        const double a = want.state[i], b = got.state[i], size = std::max(std::abs(a), std::abs(b));
        EXPECT_LE(std::abs(a - b), size / 128 + want.Error()) << i;
        most = std::max(most, size);
        differ += want_state[i] != got_state[i];
      }
      EXPECT_LE(differ, static_cast<int64_t>(want_state.size()) / 100);
      ExpectClose(want.y, got.y, want.Error() + 4 * most / 128);
    }
  });
}

// A token of no duration leaves a state in bf16 as it is, to the bit, whatever it holds.
TEST(Ssd, RoundedStateIsKeptByAStepOfNoTime) {
  ForEachTarget([](const std::string&) {
    SsdCase c(1, 2, 3, 1, 17, 4, 44);
    std::fill(c.dt.begin(), c.dt.end(), 0.0f);
    std::vector<uint16_t> state(c.state.size());
    for (size_t i = 0; i < state.size(); ++i) state[i] = static_cast<uint16_t>(0x0080 + 311 * i);
    state[5] = 0x7F80, state[6] = 0xFFC1;  // infinity, NaN
    const std::vector<uint16_t> before = state;
    SsdArgs a = c.Args(0, 1, 0, 2);
    a.state = state.data();
    a.state_dtype = StateDtype::kBF16;
    Ssd(a);
    EXPECT_EQ(state, before);
  });
}

// The thread count cuts heads anywhere, also inside a group.
TEST(Ssd, HeadsApartGiveTheSameBits) {
  ForEachTarget([](const std::string&) {
    for (const int64_t T : {1, 21}) {
      const SsdCase fresh(T, 6, 9, 2, 10, 8, 51);
      SsdCase whole = fresh;
      Ssd(whole.Args(0, T, 0, 6));
      for (const int64_t cut : {1, 2, 3, 5}) {
        SsdCase got = fresh;
        Ssd(got.Args(0, T, cut, 6));
        for (int64_t i = 0; i < cut * 9 * 10; ++i)
          ASSERT_EQ(got.state[static_cast<size_t>(i)], fresh.state[static_cast<size_t>(i)]);
        for (int64_t t = 0; t < T; ++t)
          for (int64_t i = 0; i < cut * 9; ++i) ASSERT_EQ(got.y[static_cast<size_t>(t * got.ys + i)], kUntouched);
        Ssd(got.Args(0, T, 0, cut));
        EXPECT_EQ(whole.y, got.y);
        EXPECT_EQ(whole.state, got.state);
      }
    }
  });
}

TEST(Ssd, LaterTokensDoNotReachEarlierOnes) {
  ForEachTarget([](const std::string&) {
    const int64_t T = 40;
    const SsdCase fresh(T, 2, 16, 1, 16, 32, 71);
    SsdCase a = fresh, b = fresh;
    for (int64_t i = 21 * b.xs; i < T * b.xs; ++i) b.xbc[static_cast<size_t>(i)] += 1;
    Ssd(a.Args(0, T, 0, 2));
    Ssd(b.Args(0, T, 0, 2));
    EXPECT_TRUE(std::equal(a.y.begin(), a.y.begin() + 21 * a.ys, b.y.begin()));
    EXPECT_NE(a.y, b.y);
  });
}

// ---- Diagonal ----

TEST(Diagonal, AnySplitAndCutGivesTheSameBits) {
  ForEachTarget([](const std::string&) {
    for (const int64_t D : {1, 5, 16, 33}) {
      const int64_t T = 7;
      const std::vector<float> params = Normals(T * 4 * D, 81), first = Normals(D, 83), y0 = Normals(T * D, 84);
      std::vector<float> lambda = Normals(D, 82);
      for (float& v : lambda) v = std::abs(v) + 0.01f;
      for (const bool accumulate : {false, true}) {
        const auto run = [&](std::vector<float>* state, std::vector<float>* y, int64_t begin, int64_t end, int64_t d0,
                             int64_t d1) {
          Diagonal({.params = params.data() + begin * 4 * D,
                    .lambda = lambda.data(),
                    .state = state->data(),
                    .y = y->data() + begin * D,
                    .T = end - begin,
                    .D = D,
                    .d0 = d0,
                    .d1 = d1,
                    .accumulate = accumulate});
        };
        std::vector<float> whole_state = first, whole_y = y0;
        run(&whole_state, &whole_y, 0, T, 0, D);
        for (int64_t split = 0; split <= T; ++split) {
          std::vector<float> s = first, got = y0;
          const int64_t cut = D / 2;
          for (const auto& [d0, d1] : {std::pair{cut, D}, {int64_t{0}, cut}}) {
            run(&s, &got, 0, split, d0, d1);
            run(&s, &got, split, T, d0, d1);
          }
          EXPECT_EQ(whole_y, got);
          EXPECT_EQ(whole_state, s);
        }
      }
    }
  });
}

}  // namespace
}  // namespace hydra::kernels
