// SPDX-License-Identifier: Apache-2.0
// Influence of keys against attention that is computed again without them, and where a random case does not lead:
// entries of nearly all probability, rows that see next to nothing, tiles one by one. Not here: the SIMD form against
// its twin at many sizes (kernel_list_test.cc).
#include "hydra/kernels/influence.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "hydra/kernels/testing.h"

namespace hydra::kernels {
namespace {

// One KV head with two query heads.
struct InfluenceToy {
  int64_t T, Dh, b, n_sinks, W;
  std::vector<float> q, k, v, d_out, log_sigma, lambda;
  std::vector<int64_t> pools;
  int64_t C = 1, G = 0;

  InfluenceToy(int64_t tokens, int64_t width, int64_t block, int64_t sinks, int64_t window, uint64_t seed)
      : T(tokens),
        Dh(width),
        b(block),
        n_sinks(sinks),
        W(window),
        q(Normals(T * 2 * Dh, seed, 2)),
        k(Normals(T * Dh, seed + 1)),
        v(Normals(T * Dh, seed + 2)),
        d_out(Normals(T * 2 * Dh, seed + 3)),
        log_sigma(Normals(T, seed + 4)),
        lambda{0.7f, 1.3f} {}

  [[nodiscard]] int64_t Bins() const { return (T + b - 1) / b; }
  [[nodiscard]] AttentionInfluenceArgs Args() const {
    AttentionInfluenceArgs a{};
    a.T = T, a.A = 2, a.Akv = 1, a.Dh = Dh, a.b = b, a.n_sinks = n_sinks, a.W = W, a.scale = 0.5f;
    a.q = q.data(), a.k = k.data(), a.v = v.data(), a.d_out = d_out.data();
    a.C = C, a.G = G, a.pools = pools.data(), a.log_sigma = log_sigma.data(), a.lambda = lambda.data();
    return a;
  }
};

struct Sums {
  std::vector<double> f, jabs, jsgn;
  int64_t guarded = 0;
  explicit Sums(int64_t bins) : f(static_cast<size_t>(bins)), jabs(f), jsgn(f) {}
  AttentionInfluenceArgs Into(AttentionInfluenceArgs a) {
    a.f = f.data(), a.jabs = jabs.data(), a.jsgn = jsgn.data(), a.guarded = &guarded;
    return a;
  }
};

Sums ByRef(const InfluenceToy& toy, int64_t head) {
  Sums sums(toy.Bins());
  ref::AttentionInfluence(sums.Into(toy.Args()), head, 0, toy.Bins());
  return sums;
}

Sums BySimd(const InfluenceToy& toy, int64_t head, int64_t step) {
  Sums sums(toy.Bins());
  const AttentionInfluenceArgs a = sums.Into(toy.Args());
  std::vector<float> floats(static_cast<size_t>(InfluenceScratchFloats(a)), NAN);
  std::vector<double> doubles(static_cast<size_t>(InfluenceScratchDoubles(a)), NAN);
  for (int64_t t = 0; t < toy.Bins(); t += step)
    AttentionInfluence(a, head, t, t + step, {floats.data(), doubles.data()});
  return sums;
}

// What a row's output times dO becomes where only the keys that `keeps` names are seen; landmarks are -1 - place.
class RowOutput {
 public:
  RowOutput(const InfluenceToy& toy, int64_t head, int64_t i) : toy_(toy), head_(head), i_(i) {
    for (int64_t j = toy.W > 0 ? std::max<int64_t>(0, i - toy.W + 1) : 0; j <= i; ++j) Add(j, j, 0);
    for (int64_t g = 0; g < toy.G; ++g) {
      const int64_t token = toy.pools[static_cast<size_t>(i / toy.C * toy.G + g)];
      if (token >= 0 && token <= i - toy.W)
        Add(-1 - g, token, double{toy.lambda[static_cast<size_t>(head)]} * toy.log_sigma[static_cast<size_t>(token)]);
    }
  }
  [[nodiscard]] double Of(const std::function<bool(int64_t)>& keeps) const {
    double top = -INFINITY, sum = 0, value = 0;
    for (const Key& key : keys_)
      if (keeps(key.name)) top = std::max(top, key.score);
    for (const Key& key : keys_)
      if (keeps(key.name)) sum += std::exp(key.score - top), value += std::exp(key.score - top) * key.gradient;
    return value / sum;
  }
  [[nodiscard]] double Probability(int64_t name) const {
    double all = 0, own = 0, top = -INFINITY;
    for (const Key& key : keys_) top = std::max(top, key.score);
    for (const Key& key : keys_) {
      all += std::exp(key.score - top);
      if (key.name == name) own = std::exp(key.score - top);
    }
    return own / all;
  }

 private:
  struct Key {
    int64_t name;
    double score, gradient;
  };
  void Add(int64_t name, int64_t token, double bias) {
    double score = 0, gradient = 0;
    for (int64_t x = 0; x < toy_.Dh; ++x) {
      const auto row = static_cast<size_t>((i_ * 2 + head_) * toy_.Dh + x),
                 at = static_cast<size_t>(token * toy_.Dh + x);
      score += double{toy_.q[row]} * toy_.k[at];
      gradient += double{toy_.d_out[row]} * toy_.v[at];
    }
    keys_.push_back({name, 0.5 * score + bias, gradient});
  }
  const InfluenceToy& toy_;
  int64_t head_, i_;
  std::vector<Key> keys_;
};

// The statistics by masking, entry by entry and set by set. Entries that are nearly all of their row are
// ill-conditioned and left to `skip`.
Sums ByMasking(const InfluenceToy& toy, int64_t head) {
  Sums sums(toy.Bins());
  for (int64_t i = 0; i < toy.T; ++i) {
    const RowOutput row(toy, head, i);
    const double whole = row.Of([](int64_t) { return true; });
    for (int64_t j = toy.W > 0 ? std::max<int64_t>(0, i - toy.W + 1) : 0; j <= i; ++j) {
      if (j < toy.n_sinks) continue;
      const bool alone = row.Probability(j) > 1 - 1e-9;  // nothing is left of its row: the change is defined as 0
      const double change = alone ? 0 : row.Of([&](int64_t name) { return name != j; }) - whole;
      sums.f[static_cast<size_t>((i - j) / toy.b)] += std::abs(change);
    }
    for (int64_t m = 1; m < toy.Bins(); ++m) {
      const auto keeps = [&](int64_t name) { return name < toy.n_sinks || (i - name) / toy.b < m; };
      const double change = row.Of(keeps) - whole;
      sums.jabs[static_cast<size_t>(m)] += std::abs(change);
      sums.jsgn[static_cast<size_t>(m)] += change;
    }
  }
  return sums;
}

double Largest(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

TEST(Influence, TwinEqualsMaskingAndAttendingAgain) {
  for (const int64_t T : {1, 6, 16, 27})
    for (const int64_t sinks : {0, 4})
      for (const int64_t W : {0, 3, 11}) {
        if (W > 0 && sinks > 0) continue;
        SCOPED_TRACE(std::to_string(T) + " tokens, sinks " + std::to_string(sinks) + ", W " + std::to_string(W));
        InfluenceToy toy(T, 5, 4, sinks, W, static_cast<uint64_t>(100 * T + W));
        if (W > 0) {
          toy.C = 3, toy.G = 2;
          for (int64_t c = 0; c * toy.C < T; ++c)
            for (int64_t g = 0; g < toy.G; ++g) toy.pools.push_back(c * toy.C > 3 * g ? 3 * g : -1);
        }
        for (const int64_t head : {0, 1}) {
          const Sums want = ByMasking(toy, head), got = ByRef(toy, head);
          EXPECT_LT(Largest(got.f, want.f), 1e-9);
          EXPECT_LT(Largest(got.jabs, want.jabs), 1e-9);
          EXPECT_LT(Largest(got.jsgn, want.jsgn), 1e-9);
          EXPECT_EQ(got.guarded, 0);
        }
      }
}

TEST(Influence, TilesOneByOneGiveTheSameBits) {
  ForEachTarget([](const std::string&) {
    for (const int64_t W : {0, 40}) {
      const InfluenceToy toy(150, 16, 16, W > 0 ? 0 : 16, W, 3);
      const Sums whole = BySimd(toy, 1, toy.Bins());
      for (const int64_t step : {1, 3}) {
        const Sums parts = BySimd(toy, 1, step);
        EXPECT_EQ(whole.f, parts.f);
        EXPECT_EQ(whole.jabs, parts.jabs);
        EXPECT_EQ(whole.jsgn, parts.jsgn);
      }
    }
  });
}

// One far key has nearly all probability of every late row: what is left of them is a sum of small numbers, which 1 - A
// in f32 would lose.
TEST(Influence, EntriesOfNearlyAllProbabilityKeepTheirDigits) {
  ForEachTarget([](const std::string&) {
    for (const float score : {6.0f, 10.0f, 13.0f, 17.0f, 20.0f}) {
      InfluenceToy toy(100, 8, 16, 16, 0, 5);
      std::fill(toy.q.begin(), toy.q.end(), 0.0f);
      for (int64_t row = 0; row < 2 * toy.T; ++row) toy.q[static_cast<size_t>(row * toy.Dh)] = 2 * score;
      for (int64_t j = 0; j < toy.T; ++j) toy.k[static_cast<size_t>(j * toy.Dh)] = j == 20 ? 1.0f : 0.0f;
      const Sums want = ByRef(toy, 0), got = BySimd(toy, 0, toy.Bins());
      for (size_t m = 0; m < want.f.size(); ++m) {
        SCOPED_TRACE("score " + std::to_string(score) + " bin " + std::to_string(m));
        EXPECT_NEAR(got.f[m], want.f[m], 1e-5 * (1 + want.f[m]));
        EXPECT_NEAR(got.jabs[m], want.jabs[m], 1e-5 * (1 + want.jabs[m]));
        EXPECT_NEAR(got.jsgn[m], want.jsgn[m], 1e-5 * (1 + want.jabs[m]));
      }
    }
  });
}

// The late rows see one far key alone, as far as f32 tells: what stays has a probability of about e^-80.
TEST(Influence, RowsThatWouldSeeNothingTakeTheNextWiderValue) {
  ForEachTarget([](const std::string&) {
    InfluenceToy toy(64, 8, 16, 16, 0, 7);
    std::fill(toy.q.begin(), toy.q.end(), 0.0f);
    for (int64_t row = 0; row < 2 * toy.T; ++row) toy.q[static_cast<size_t>(row * toy.Dh)] = 160;
    for (int64_t j = 0; j < toy.T; ++j) toy.k[static_cast<size_t>(j * toy.Dh)] = j == 17 ? 1.0f : 0.0f;
    const Sums want = ByRef(toy, 0), got = BySimd(toy, 0, toy.Bins());
    EXPECT_GT(want.guarded, 0);
    EXPECT_EQ(got.guarded, want.guarded);
    for (size_t m = 0; m < want.f.size(); ++m) {
      EXPECT_TRUE(std::isfinite(got.jabs[m]) && std::isfinite(got.f[m]));
      EXPECT_NEAR(got.jabs[m], want.jabs[m], 1e-4 * (1 + want.jabs[m]));
    }
  });
}

TEST(Influence, SetsAreSmallerTheWiderTheWindowAndRowsWithoutGradientAddNothing) {
  ForEachTarget([](const std::string&) {
    InfluenceToy toy(96, 8, 16, 16, 0, 9);
    std::fill(toy.d_out.begin(), toy.d_out.end(), 0.0f);
    const Sums none = BySimd(toy, 0, toy.Bins());
    EXPECT_EQ(none.f, std::vector<double>(none.f.size()));
    EXPECT_EQ(none.jabs, std::vector<double>(none.jabs.size()));
    toy.d_out[static_cast<size_t>((95 * 2 + 0) * toy.Dh + 3)] = 1;  // one row, one head
    const Sums one = BySimd(toy, 0, toy.Bins()), other = BySimd(toy, 1, toy.Bins());
    EXPECT_EQ(other.jabs, none.jabs);
    for (const double f : one.f) EXPECT_GE(f, 0);
    EXPECT_GT(one.jabs[1], 0);
    EXPECT_EQ(one.f[5], 0);     // bin 5 of the last row: the sink alone
    EXPECT_EQ(one.jabs[5], 0);  // and nothing is masked there
  });
}

}  // namespace
}  // namespace hydra::kernels
