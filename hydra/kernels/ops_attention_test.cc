// SPDX-License-Identifier: Apache-2.0
// Attention against its scalar twin on every SIMD level: widths, heads, KV dtypes, windows, sinks, landmarks, tiles and
// single queries, parts and their merge; masks to the row; the same bits however queries and runs are cut.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "hydra/kernels/kernel_list_attention.h"
#include "hydra/kernels/testing.h"
#include "hydra/tensor/dtype.h"

namespace hydra::kernels {
namespace {

constexpr KvDtype kDtypes[] = {KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kQ8_0};

// Inputs of a shape, and room for outputs. Landmarks stand first here, in the list of kernels last.
struct AttentionCase : AttentionInputs {
  int64_t qs, ys;
  std::vector<float> y;

  AttentionCase(const AttentionShape& shape, uint64_t seed)
      : AttentionInputs(shape, shape.heads * shape.Dk + 5, seed),
        qs(s.heads * s.Dk + 5),
        ys(s.heads * s.Dv + 3),
        y(static_cast<size_t>(s.T * ys), kUntouched) {
    s.landmarks_first = true;
  }
  AttentionArgs Args(int64_t t0, int64_t t1) {
    return {.q = q.data(),
            .y = y.data(),
            .keys = Keys(),
            .heads = s.heads,
            .pos = s.pos,
            .window = s.window,
            .sinks = s.sinks,
            .scale = 1 / std::sqrt(static_cast<float>(s.Dk)),
            .t0 = t0,
            .t1 = t1,
            .lambda = lambda.data(),
            .q_stride = qs,
            .y_stride = ys,
            .scratch = scratch.data()};
  }
  AttentionArgs All() { return Args(0, s.T); }
  // Values are below 6 deviations.
  [[nodiscard]] double Error() const { return Tolerance(DType::kF32, Terms(), 6); }
};

void ExpectMatchesRef(const AttentionShape& shape, uint64_t seed) {
  AttentionCase want(shape, seed), got = want;
  ref::Attention(want.All());
  Attention(got.All());
  ExpectClose(want.y, got.y, want.Error());
}

TEST(Attention, LengthsAroundTheBlocksMatchRef) {
  ForEachTarget([](const std::string&) {
    for (const int64_t keys : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200}) {
      SCOPED_TRACE(keys);
      ExpectMatchesRef({.T = 1, .heads = 2, .Dk = 16, .Dv = 16, .pos = keys - 1, .dtype = KvDtype::kF16}, 3);
      ExpectMatchesRef({.T = keys, .heads = 2, .Dk = 16, .Dv = 16}, 4);  // from the start
    }
    ExpectMatchesRef({.T = 70, .heads = 5, .Dk = 8, .Dv = 8, .pos = 13}, 5);  // several tiles
  });
}

TEST(Attention, WindowsAndSinksMatchRef) {
  ForEachTarget([](const std::string&) {
    for (const int64_t window : {1, 2, 16, 63, 64, 65, 100})
      for (const int64_t sinks : {0, 1, 4, 64, 70, 1000})
        for (const int64_t T : {1, 2, 33, 90}) {
          SCOPED_TRACE("window " + std::to_string(window) + " sinks " + std::to_string(sinks) + " T " +
                       std::to_string(T));
          const AttentionShape shape{.T = T, .heads = 2, .Dk = 16, .Dv = 16, .window = window, .sinks = sinks};
          ExpectMatchesRef(shape, 6);
          AttentionShape later = shape;
          later.pos = 150, later.dtype = KvDtype::kBF16;
          ExpectMatchesRef(later, 7);
        }
  });
}

// One key more or less at any end of what a query sees must show. Value rows are so that each key's share is seen.
TEST(Attention, EachQuerySeesItsVeryRows) {
  ForEachTarget([](const std::string&) {
    for (const int64_t T : {1, 20}) {
      const int64_t pos = 90, window = 50, sinks = 3, Dv = 4;
      AttentionCase c(
          {.T = T, .Dk = 4, .Dv = Dv, .pos = pos, .window = window, .sinks = sinks, .landmarks = 30, .cuts = {2, 77}},
          9);
      const auto changed = [&](float& value) {
        Attention(c.All());
        const std::vector<float> before = c.y;
        const float old = value;
        value += 1e6f;
        Attention(c.All());
        value = old;
        std::vector<bool> out;
        for (int64_t t = 0; t < T; ++t)
          out.push_back(c.y[static_cast<size_t>(t * c.ys)] != before[static_cast<size_t>(t * c.ys)]);
        return out;
      };
      for (int64_t key = 0; key < pos + T; ++key) {
        const std::vector<bool> seen = changed(reinterpret_cast<float*>(c.v.data())[key * Dv]);
        for (int64_t t = 0; t < T; ++t)
          EXPECT_EQ(key <= pos + t && (key > pos + t - window || key < sinks), seen[static_cast<size_t>(t)])
              << "key " << key << " query " << t;
      }
      for (int64_t i = 0; i < 30; ++i) {
        const std::vector<bool> seen = changed(reinterpret_cast<float*>(c.pool_v.data())[i * Dv]);
        for (int64_t t = 0; t < T; ++t)
          EXPECT_EQ(c.positions[static_cast<size_t>(i)] <= pos + t - window, seen[static_cast<size_t>(t)])
              << "landmark " << i << " query " << t;
      }
    }
  });
}

// Rows that no query sees may hold anything: they are not read into the sums, not even as NaN times 0.
TEST(Attention, InvisibleBlocksAreNotRead) {
  ForEachTarget([](const std::string&) {
    for (const int64_t T : {1, 8}) {
      AttentionCase want({.T = T, .heads = 2, .Dk = 16, .Dv = 16, .pos = 256, .window = 32, .landmarks = 10}, 10),
          got = want;
      for (auto& p : got.positions) p = static_cast<int32_t>(got.s.pos);  // all inside the window
      want.s.landmarks = 0;
      std::memset(got.k.data(), 0xFF, static_cast<size_t>(128 * got.k_bytes));
      std::memset(got.v.data(), 0xFF, static_cast<size_t>(128 * got.v_bytes));
      std::memset(got.pool_k.data(), 0xFF, got.pool_k.size());
      std::memset(got.pool_v.data(), 0xFF, got.pool_v.size());
      ref::Attention(want.All());
      Attention(got.All());
      ExpectClose(want.y, got.y, want.Error());
    }
  });
}

// Of each tile of queries: the blocks that at least one of them sees, whatever the tile is cut into.
TEST(Attention, TellsWhichBlocksAreRead) {
  ForEachTarget([](const std::string&) {
    for (const int64_t heads : {1, 3, 9})
      for (const int64_t window : {int64_t{40}, int64_t{64}, int64_t{128}, INT64_MAX})
        for (const int64_t sinks : {0, 4, 64})
          for (const int64_t pos : {0, 64, 320, 333}) {
            AttentionCase c({.T = 64, .heads = heads, .Dk = 8, .Dv = 8, .pos = pos, .window = window, .sinks = sinks},
                            18);
            int64_t want = 0;
            for (int64_t first = 0; first < pos + 64; first += kKeyBlock) {
              bool seen = false;
              for (int64_t t = pos; t < pos + 64; ++t)
                for (int64_t p = first; p < std::min(first + kKeyBlock, t + 1); ++p)
                  seen |= p < sinks || t - p < window;
              want += seen ? 1 : 0;
            }
            KeyTiles fast, slow;
            AttentionArgs a = c.All();
            a.tiles = &fast;
            Attention(a);
            a.tiles = &slow;
            ref::Attention(a);
            ASSERT_EQ(fast.n, want) << heads << " heads, window " << window << ", sinks " << sinks << ", from " << pos;
            ASSERT_EQ(slow.n, want);
          }
    EXPECT_EQ(AttentionTileQueries(3, 64), 32);
    EXPECT_EQ(AttentionTileQueries(1, 64), 64);
    EXPECT_EQ(AttentionTileQueries(3, 43), 22);
    EXPECT_EQ(AttentionTileQueries(200, 5), 1);
  });
}

TEST(Attention, CutsOfQueriesAndRunsGiveTheSameBits) {
  ForEachTarget([](const std::string&) {
    for (const KvDtype dtype : kDtypes)
      for (const int64_t T : {1, 70}) {
        AttentionCase whole({.T = T,
                             .heads = 2,
                             .Dk = 24,
                             .Dv = 16,
                             .pos = 130,
                             .window = 100,
                             .sinks = 5,
                             .dtype = dtype,
                             .landmarks = 20},
                            11);
        for (const auto& cuts : {std::vector<int64_t>{64, 128}, {1, 3, 4, 40, 41, 63, 65, 129, 130}, {90}}) {
          AttentionCase cut = whole;
          cut.s.cuts = cuts;
          Attention(whole.All());
          for (int64_t t = 0; t < T; t += 32) Attention(cut.Args(t, std::min(T, t + 32)));
          EXPECT_EQ(whole.y, cut.y);
        }
      }
  });
}

TEST(Attention, QueriesAloneGetTheBitsOfSingleOnes) {
  ForEachTarget([](const std::string&) {
    AttentionCase many({.T = 9,
                        .heads = 3,
                        .Dk = 24,
                        .Dv = 24,
                        .pos = 130,
                        .window = 60,
                        .sinks = 2,
                        .dtype = KvDtype::kQ8_0,
                        .landmarks = 40,
                        .cuts = {131}},
                       16),
        single = many;
    AttentionArgs a = many.All();
    a.alone = true;
    Attention(a);
    for (int64_t t = 0; t < 9; ++t) Attention(single.Args(t, t + 1));
    EXPECT_EQ(many.y, single.y);
  });
}

TEST(Attention, LargeScoresDoNotOverflow) {
  ForEachTarget([](const std::string&) {
    for (const int64_t T : {1, 3}) {
      AttentionCase want({.T = T, .Dk = 8, .Dv = 8, .pos = 80}, 12), got = want;
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

// Partial results may be to another maximum: what they mean is compared.
void ExpectSameParts(std::span<const float> want, std::span<const float> got, int64_t Dv, double error) {
  for (size_t row = 0; row < want.size(); row += static_cast<size_t>(Dv) + 2) {
    const size_t max = row + static_cast<size_t>(Dv), sum = max + 1;
    ASSERT_NEAR(want[max] + std::log(want[sum]), got[max] + std::log(got[sum]), error);
    for (size_t i = row; i < max; ++i) ASSERT_NEAR(want[i] / want[sum], got[i] / got[sum], error);
  }
}

TEST(AttentionPart, PartsAndMergeMatchRefAndTheWhole) {
  ForEachTarget([](const std::string&) {
    for (const KvDtype dtype : kDtypes)
      for (const int64_t cut : {64, 128, 1024}) {
        SCOPED_TRACE(std::string(KvDtypeName(dtype)) + " cut " + std::to_string(cut));
        const int64_t keys = 331, heads = 3, Dk = 40, Dv = 24, width = Dv + 2, parts = (keys + cut - 1) / cut;
        AttentionCase c(
            {.T = 1, .heads = heads, .Dk = Dk, .Dv = Dv, .pos = keys - 1, .dtype = dtype, .cuts = {70, 200}}, 13);
        const AttentionArgs all = c.All();
        ref::Attention(all);
        std::vector<float> want(static_cast<size_t>(parts * heads * width)), got(want.size());
        for (int64_t p = parts - 1; p >= 0; --p) {  // any order of making them
          AttentionPartArgs a{.q = c.q.data(),
                              .keys = all.keys,
                              .heads = heads,
                              .begin = p * cut,
                              .end = std::min(keys, (p + 1) * cut),
                              .scale = all.scale,
                              .part = want.data() + p * heads * width,
                              .scratch = c.scratch.data()};
          ref::AttentionPart(a);
          a.part = got.data() + p * heads * width;
          AttentionPart(a);
        }
        ExpectSameParts(want, got, Dv, c.Error());
        std::vector<float> y(static_cast<size_t>(heads * Dv)), y_ref(y.size());
        AttentionMerge({.parts = got.data(), .y = y.data(), .n_parts = parts, .heads = heads, .Dv = Dv});
        ref::AttentionMerge({.parts = got.data(), .y = y_ref.data(), .n_parts = parts, .heads = heads, .Dv = Dv});
        ExpectClose(y_ref, y, Tolerance(DType::kF32, 2 * parts + 8, 6));
        ExpectClose({c.y.data(), y.size()}, y, c.Error());
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
