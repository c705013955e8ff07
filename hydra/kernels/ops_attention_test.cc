// SPDX-License-Identifier: Apache-2.0
// Attention against its scalar twin on every SIMD level: head sizes, groups, KV dtypes, windows, landmarks, tiles and
// single queries, parts and their merge; masks to the row, and the same bits however heads and queries are cut.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "hydra/kernels/ops.h"
#include "hydra/kernels/testing.h"
#include "hydra/tensor/dtype.h"

namespace hydra::kernels {
namespace {

constexpr KvDtype kDtypes[] = {KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kQ8_0};

// Rows of Dh numbers in a dtype.
std::vector<std::byte> KvRows(KvDtype dtype, int64_t rows, int64_t Dh, uint64_t seed) {
  const std::vector<float> x = Normals(rows * Dh, seed);
  const int64_t bytes = KvRowBytes(dtype, Dh);
  std::vector<std::byte> out(static_cast<size_t>(rows * bytes));
  for (int64_t i = 0; i < rows; ++i) StoreKvRow(dtype, x.data() + i * Dh, Dh, out.data() + i * bytes);
  return out;
}

struct Shape {
  int64_t T = 1, A = 1, Akv = 1, Dh = 64, row = 0, window = INT64_MAX;
  KvDtype dtype = KvDtype::kF32;
  int64_t landmarks = 0;
  bool listed = false;  // landmarks by row index
};

struct AttentionCase {
  Shape s;
  int64_t pos, head_rows, qs, ys, pool_rows;
  std::vector<float> q, y, scratch, log_sigmoid, lambda;
  std::vector<std::byte> k, v, pool_k, pool_v;
  std::vector<int32_t> rows, positions;

  // Landmark positions lie on both sides of every query's limit, in no order.
  AttentionCase(const Shape& shape, uint64_t seed)
      : s(shape),
        pos(shape.row + 40),
        head_rows(shape.row + shape.T + 3),
        qs(s.A * s.Dh + 5),
        ys(s.A * s.Dh + 3),
        pool_rows(shape.landmarks + 4),
        q(Normals(s.T * qs, seed, 1.5)),
        y(static_cast<size_t>(s.T * ys), kUntouched),
        scratch(static_cast<size_t>(AttentionScratchFloats(s.A / s.Akv, s.Dh)), NAN),
        log_sigmoid(Normals(s.landmarks, seed + 1)),
        lambda(Normals(s.A, seed + 2)),
        k(KvRows(s.dtype, s.Akv * head_rows, s.Dh, seed + 3)),
        v(KvRows(s.dtype, s.Akv * head_rows, s.Dh, seed + 4)),
        pool_k(KvRows(s.dtype, s.Akv * pool_rows, s.Dh, seed + 5)),
        pool_v(KvRows(s.dtype, s.Akv * pool_rows, s.Dh, seed + 6)) {
    for (float& x : log_sigmoid) x = -std::abs(x);
    for (float& x : lambda) x = std::abs(x);
    Rng rng(seed + 7);
    for (int64_t i = 0; i < s.landmarks; ++i) {
      rows.push_back(static_cast<int32_t>((i * 5 + 2) % pool_rows));
      positions.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(pos + s.T))));
    }
  }
  AttentionArgs Args(int64_t t0, int64_t t1, int64_t kv0, int64_t kv1) {
    return {.q = q.data(),
            .y = y.data(),
            .k = k.data(),
            .v = v.data(),
            .dtype = s.dtype,
            .A = s.A,
            .Akv = s.Akv,
            .Dh = s.Dh,
            .head_rows = head_rows,
            .row = s.row,
            .pos = pos,
            .window = s.window,
            .scale = 1 / std::sqrt(static_cast<float>(s.Dh)),
            .t0 = t0,
            .t1 = t1,
            .kv0 = kv0,
            .kv1 = kv1,
            .landmarks = {.k = pool_k.data(),
                          .v = pool_v.data(),
                          .head_rows = pool_rows,
                          .rows = s.listed ? rows.data() : nullptr,
                          .n = s.landmarks,
                          .pos = positions.data(),
                          .log_sigmoid = log_sigmoid.data(),
                          .lambda = lambda.data()},
            .q_stride = qs,
            .y_stride = ys,
            .scratch = scratch.data()};
  }
  AttentionArgs All() { return Args(0, s.T, 0, s.Akv); }
  // A score is a sum of Dh products and moves an exp by its error; values are below 6 deviations.
  [[nodiscard]] double Error() const {
    const int64_t keys = std::min(s.window, s.row + s.T) + s.landmarks;
    return Tolerance(DType::kF32, 2 * s.Dh + keys + 20, 6);
  }
};

void ExpectMatchesRef(const Shape& shape, uint64_t seed) {
  AttentionCase want(shape, seed), got = want;
  ref::Attention(want.All());
  Attention(got.All());
  ExpectClose(want.y, got.y, want.Error());
}

TEST(Attention, HeadSizesGroupsAndDtypesMatchRef) {
  ForEachTarget([](const std::string&) {
    for (const KvDtype dtype : kDtypes)
      for (const int64_t Dh : {1, 7, 24, 64, 80, 128})
        for (const auto& [A, Akv] : {std::pair<int64_t, int64_t>{1, 1}, {3, 3}, {3, 1}, {10, 2}}) {
          SCOPED_TRACE(std::string(KvDtypeName(dtype)) + " Dh " + std::to_string(Dh) + " A " + std::to_string(A) +
                       " Akv " + std::to_string(Akv));
          ExpectMatchesRef({.T = 1, .A = A, .Akv = Akv, .Dh = Dh, .row = 70, .dtype = dtype}, 1);
          ExpectMatchesRef({.T = 5, .A = A, .Akv = Akv, .Dh = Dh, .row = 66, .dtype = dtype}, 2);
        }
  });
}

TEST(Attention, LengthsAroundTheBlocksMatchRef) {
  ForEachTarget([](const std::string&) {
    for (const int64_t keys : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200}) {
      SCOPED_TRACE(keys);
      ExpectMatchesRef({.T = 1, .A = 2, .Akv = 1, .Dh = 16, .row = keys - 1, .dtype = KvDtype::kF16}, 3);
      ExpectMatchesRef({.T = keys, .A = 2, .Akv = 1, .Dh = 16}, 4);  // from the start
    }
    ExpectMatchesRef({.T = 70, .A = 5, .Akv = 1, .Dh = 8, .row = 13}, 5);  // several tiles
  });
}

TEST(Attention, WindowsMatchRef) {
  ForEachTarget([](const std::string&) {
    for (const int64_t window : {1, 2, 16, 63, 64, 65, 100})
      for (const int64_t T : {1, 2, 33, 90}) {
        SCOPED_TRACE("window " + std::to_string(window) + " T " + std::to_string(T));
        ExpectMatchesRef({.T = T, .A = 2, .Akv = 2, .Dh = 16, .row = 0, .window = window}, 6);
        ExpectMatchesRef({.T = T, .A = 4, .Akv = 2, .Dh = 16, .row = 150, .window = window, .dtype = KvDtype::kBF16},
                         7);
      }
  });
}

TEST(Attention, LandmarksMatchRef) {
  ForEachTarget([](const std::string&) {
    for (const KvDtype dtype : kDtypes)
      for (const bool listed : {false, true})
        for (const int64_t n : {1, 17, 64, 130})
          for (const int64_t T : {1, 2, 40}) {
            SCOPED_TRACE(std::string(KvDtypeName(dtype)) + " landmarks " + std::to_string(n) + " T " +
                         std::to_string(T));
            ExpectMatchesRef({.T = T,
                              .A = 4,
                              .Akv = 2,
                              .Dh = 24,
                              .row = 100,
                              .window = 50,
                              .dtype = dtype,
                              .landmarks = n,
                              .listed = listed},
                             8);
          }
  });
}

// One key more or less at any end of what a query sees must show. Value rows are so that each key's share is seen.
TEST(Attention, EachQuerySeesItsVeryRows) {
  ForEachTarget([](const std::string&) {
    for (const int64_t T : {1, 20}) {
      const int64_t row = 90, window = 70, Dh = 4;
      AttentionCase c({.T = T, .A = 1, .Akv = 1, .Dh = Dh, .row = row, .window = window, .landmarks = 30}, 9);
      const auto run = [&] {
        Attention(c.All());
        return c.y;
      };
      const std::vector<float> before = run();
      auto* v = reinterpret_cast<float*>(c.v.data());
      for (int64_t key = 0; key < c.head_rows; ++key) {
        const float old = v[key * Dh];
        v[key * Dh] += 1e6f;
        const std::vector<float> after = run();
        v[key * Dh] = old;
        for (int64_t t = 0; t < T; ++t) {
          const bool seen = key <= row + t && key > row + t - window;
          EXPECT_EQ(seen, after[static_cast<size_t>(t * c.ys)] != before[static_cast<size_t>(t * c.ys)])
              << "key " << key << " query " << t;
        }
      }
      auto* pool = reinterpret_cast<float*>(c.pool_v.data());
      for (int64_t i = 0; i < 30; ++i) {
        const float old = pool[i * Dh];
        pool[i * Dh] += 1e6f;
        const std::vector<float> after = run();
        pool[i * Dh] = old;
        for (int64_t t = 0; t < T; ++t) {
          const bool seen = c.positions[static_cast<size_t>(i)] <= c.pos + t - window;
          EXPECT_EQ(seen, after[static_cast<size_t>(t * c.ys)] != before[static_cast<size_t>(t * c.ys)])
              << "landmark " << i << " query " << t;
        }
      }
    }
  });
}

// Rows that no query sees may hold anything: they are not read into the sums, not even as NaN times 0.
TEST(Attention, InvisibleBlocksAreNotRead) {
  ForEachTarget([](const std::string&) {
    for (const int64_t T : {1, 8}) {
      AttentionCase want({.T = T, .A = 2, .Akv = 1, .Dh = 16, .row = 256, .window = 32, .landmarks = 10}, 10),
          got = want;
      for (auto& p : got.positions) p = static_cast<int32_t>(got.pos);  // all inside the window
      want.s.landmarks = 0;
      std::memset(got.k.data(), 0xFF, static_cast<size_t>(128 * KvRowBytes(KvDtype::kF32, 16)));
      std::memset(got.v.data(), 0xFF, static_cast<size_t>(128 * KvRowBytes(KvDtype::kF32, 16)));
      std::memset(got.pool_k.data(), 0xFF, got.pool_k.size());
      std::memset(got.pool_v.data(), 0xFF, got.pool_v.size());
      ref::Attention(want.All());
      Attention(got.All());
      ExpectClose(want.y, got.y, want.Error());
    }
  });
}

TEST(Attention, CutsOfHeadsAndQueriesGiveTheSameBits) {
  ForEachTarget([](const std::string&) {
    const AttentionCase fresh(
        {.T = 70, .A = 6, .Akv = 3, .Dh = 24, .row = 30, .window = 48, .dtype = KvDtype::kF16, .landmarks = 20}, 11);
    AttentionCase whole = fresh, cut = fresh;
    Attention(whole.All());
    for (int64_t kv = 2; kv >= 0; --kv)
      for (const auto& [t0, t1] : {std::pair<int64_t, int64_t>{32, 70}, {0, 32}})
        Attention(cut.Args(t0, t1, kv, kv + 1));
    EXPECT_EQ(whole.y, cut.y);
  });
}

TEST(Attention, LargeScoresDoNotOverflow) {
  ForEachTarget([](const std::string&) {
    for (const int64_t T : {1, 3}) {
      AttentionCase want({.T = T, .A = 1, .Akv = 1, .Dh = 8, .row = 80}, 12), got = want;
      for (float& x : want.q) x *= 1e4f;
      got.q = want.q;
      ref::Attention(want.All());
      Attention(got.All());
      for (int64_t t = 0; t < T; ++t)  // one key takes all, the same one
        for (int64_t i = 0; i < 8; ++i)
          EXPECT_NEAR(want.y[static_cast<size_t>(t * want.ys + i)], got.y[static_cast<size_t>(t * want.ys + i)], 1e-2);
    }
  });
}

// ---- Parts ----

TEST(AttentionPart, PartsAndMergeMatchRefAndTheWhole) {
  ForEachTarget([](const std::string&) {
    for (const KvDtype dtype : kDtypes)
      for (const int64_t cut : {64, 128, 1024}) {
        SCOPED_TRACE(std::string(KvDtypeName(dtype)) + " cut " + std::to_string(cut));
        const int64_t keys = 331, A = 6, Akv = 2, group = 3, Dh = 40, width = Dh + 2;
        AttentionCase c({.T = 1, .A = A, .Akv = Akv, .Dh = Dh, .row = keys - 1, .dtype = dtype}, 13);
        ref::Attention(c.All());
        const std::vector<float> whole = c.y;
        for (int64_t kv = 0; kv < Akv; ++kv) {
          const int64_t parts = (keys + cut - 1) / cut;
          std::vector<float> want(static_cast<size_t>(parts * group * width)), got(want.size());
          for (int64_t p = parts - 1; p >= 0; --p) {  // any order of making them
            AttentionPartArgs a{.q = c.q.data(),
                                .k = c.k.data(),
                                .v = c.v.data(),
                                .dtype = dtype,
                                .A = A,
                                .Akv = Akv,
                                .Dh = Dh,
                                .head_rows = c.head_rows,
                                .begin = p * cut,
                                .end = std::min(keys, (p + 1) * cut),
                                .scale = 1 / std::sqrt(static_cast<float>(Dh)),
                                .kv = kv,
                                .part = want.data() + p * group * width,
                                .scratch = c.scratch.data()};
            ref::AttentionPart(a);
            a.part = got.data() + p * group * width;
            AttentionPart(a);
          }
          for (int64_t row = 0; row < parts * group; ++row)  // sums may be to another maximum: compare what they mean
            for (int64_t i = 0; i <= Dh + 1; ++i) {
              const auto at = static_cast<size_t>(row * width + i), max = static_cast<size_t>(row * width + Dh),
                         sum = max + 1;
              if (i == Dh) {
                ASSERT_NEAR(want[at] + std::log(want[sum]), got[at] + std::log(got[sum]), c.Error());
              } else if (i < Dh) {
                ASSERT_NEAR(want[at] / want[sum], got[at] / got[sum], c.Error());
              }
            }
          std::vector<float> y(static_cast<size_t>(group * Dh)), y_ref(y.size());
          AttentionMerge({.parts = got.data(), .y = y.data(), .n_parts = parts, .heads = group, .Dh = Dh});
          ref::AttentionMerge({.parts = got.data(), .y = y_ref.data(), .n_parts = parts, .heads = group, .Dh = Dh});
          ExpectClose(y_ref, y, Tolerance(DType::kF32, 2 * parts + 8, 6));
          ExpectClose({whole.data() + kv * group * Dh, y.size()}, y, c.Error());
        }
      }
  });
}

// ---- Rows of the cache ----

TEST(KvRow, StoresAndLoadsEachDtype) {
  ForEachTarget([](const std::string&) {
    ForEachSize(130, [](int64_t n) {
      std::vector<float> x = Normals(n, 14, 3), back(x.size() + 1, kUntouched);
      x[0] = 1.0f + std::ldexp(1.0f, -11);  // half way between two f16
      for (const KvDtype dtype : kDtypes) {
        SCOPED_TRACE(KvDtypeName(dtype));
        std::vector<std::byte> row(static_cast<size_t>(KvRowBytes(dtype, n)) + 1, std::byte{0xA5});
        StoreKvRow(dtype, x.data(), n, row.data());
        EXPECT_EQ(row.back(), std::byte{0xA5});
        LoadKvRow(dtype, row.data(), n, back.data());
        EXPECT_EQ(back.back(), kUntouched);
        for (int64_t i = 0; i < n; ++i) {
          const auto at = static_cast<size_t>(i);
          const float exact = dtype == KvDtype::kF32    ? x[at]
                              : dtype == KvDtype::kBF16 ? BF16ToFloat(FloatToBF16(x[at]))
                                                        : F16ToFloat(FloatToF16(x[at]));
          if (dtype != KvDtype::kQ8_0) {
            ASSERT_EQ(back[at], exact);
            continue;
          }
          float amax = 0;
          for (int64_t j = i / 32 * 32; j < std::min(n, i / 32 * 32 + 32); ++j)
            amax = std::max(amax, std::abs(x[static_cast<size_t>(j)]));
          // Half a step of amax / 127, and the scale as f16 times at most 127 steps.
          ASSERT_NEAR(back[at], x[at], amax / 127 * (0.5 + 127 * UnitRoundoff(DType::kF16)) * 1.001);
        }
      }
    });
    const std::vector<float> zeros(40);
    std::vector<float> back(40, 1);
    std::vector<std::byte> row(68);
    StoreKvRow(KvDtype::kQ8_0, zeros.data(), 40, row.data());
    LoadKvRow(KvDtype::kQ8_0, row.data(), 40, back.data());
    EXPECT_EQ(back, zeros);
  });
}

}  // namespace
}  // namespace hydra::kernels
