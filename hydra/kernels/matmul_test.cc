// SPDX-License-Identifier: Apache-2.0
// Products where a random case does not lead: the same bits from panels and rows, whatever the batch and the threads;
// steps in front of other rows; a shared y; extreme and odd numbers; no allocation once the scratch has grown. Not
// here: types, sizes, gathering and scattering against the twin (kernel_list_test.cc).
#include "hydra/kernels/matmul.h"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/base/testing.h"
#include "hydra/kernels/kernel_list_matmul.h"
#include "hydra/kernels/matmul_kernels.h"
#include "hydra/kernels/testing.h"
#include "hydra/tensor/weight_block.h"

namespace {
std::atomic<int64_t> g_allocations{0};
void* Allocate(size_t size) {
  ++g_allocations;
  void* p = std::malloc(size == 0 ? 1 : size);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

// Every allocation of this test program is counted.
void* operator new(size_t size) { return Allocate(size); }
void* operator new[](size_t size) { return Allocate(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return std::malloc(size); }  // of sorts' buffers
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }

namespace hydra::kernels {
namespace {

template <class F>
void ForEachTypeAndAct(F&& f) {
  for (const WeightTypeInfo& info : AllWeightTypes())
    for (const ActType act : {ActType::kF32, ActType::kQ8}) {
      if (info.block == 1 && act == ActType::kQ8) continue;  // ignored there
      SCOPED_TRACE(std::string(info.name) + (act == ActType::kQ8 ? " with int8 x" : " with f32 x"));
      f(info.type, act);
      if (::testing::Test::HasFatalFailure()) return;
    }
}

void ExpectSameBits(const std::vector<float>& want, const std::vector<float>& got) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(want[i]), std::bit_cast<uint32_t>(got[i]))
        << "at " << i << ": " << want[i] << ", " << got[i];
}

TEST(MatMul, PackedRowsDecodeToTheSameBits) {
  ForEachTarget([](const std::string&) {
    for (const WeightTypeInfo& info : AllWeightTypes()) {
      SCOPED_TRACE(info.name);
      Rng rng(1);
      const int64_t N = 37, K = info.block == 1 ? 77 : 2 * info.block;
      const RandomWeights w(info.type, N, K, rng());
      EXPECT_EQ(w.packed.packed, info.block > 1);
      std::vector<float> want(static_cast<size_t>(K)), got = want;
      for (int64_t n = 0; n < N; ++n) {
        DecodeRow(info.type, w.bytes.data() + n * RowBytes(info.type, K), K, want.data());
        DecodeMatrixRow(w.packed, n, got.data());
        ExpectSameBits(want, got);
        DecodeMatrixRow(w.rows, n, got.data());
        ExpectSameBits(want, got);
      }
    }
  });
}

void CompareWithRef(const MatMulArgs& map, ActType act, ThreadPool& pool, MatMulScratch& scratch, std::vector<float>& y,
                    const std::vector<float>& y0) {
  y = y0;
  MatMulArgs args = map;
  args.y = y.data();
  MatMul(args, act, pool, scratch);
  std::vector<float> want = y0;
  args.y = want.data();
  ref::MatMul(args, act);
  ExpectClose(want, y, ToleranceOf(args));
}

TEST(MatMul, RowsGiveTheBitsOfPanels) {
  ForEachTarget([](const std::string&) {
    ThreadPool pool(2);
    MatMulScratch scratch;
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      const RandomWeights w(type, 35, 256, 5);
      for (const int64_t T : {1, 3, 8, 16, 17, 40}) {
        const std::vector<float> x = Normals(T * 256, 6);
        std::vector<float> panels(static_cast<size_t>(T * 35)), rows = panels;
        MatMul({.w = w.packed, .x = x.data(), .y = panels.data(), .T = T}, act, pool, scratch);
        MatMul({.w = w.rows, .x = x.data(), .y = rows.data(), .T = T}, act, pool, scratch);
        ExpectSameBits(panels, rows);
      }
    });
  });
}

// Integer sums are exact, so long prompts, which tiles of AMX multiply where there are such, give the bits of a step.
TEST(MatMul, RoundedTokensHaveTheBitsOfOne) {
  ForEachTarget([](const std::string&) {
    ThreadPool pool(2);
    MatMulScratch scratch;
    constexpr int64_t kRows = 75, kCols = 1280, kMost = 410;
    const std::vector<float> x = Normals(kMost * kCols, 3);
    for (const WeightTypeInfo& info : AllWeightTypes()) {
      if (info.block == 1) continue;
      SCOPED_TRACE(info.name);
      const RandomWeights w(info.type, kRows, kCols, 4);
      for (const int64_t T : {int64_t{17}, int64_t{47}, int64_t{48}, kMost}) {
        std::vector<float> many(static_cast<size_t>(T * kRows)), one(kRows);
        MatMul({.w = w.packed, .x = x.data(), .y = many.data(), .T = T}, ActType::kQ8, pool, scratch);
        for (const int64_t t : {int64_t{0}, T / 2, T - 1}) {
          MatMul({.w = w.packed, .x = x.data() + t * kCols, .y = one.data(), .T = 1}, ActType::kQ8, pool, scratch);
          ExpectSameBits(one, {many.begin() + t * kRows, many.begin() + (t + 1) * kRows});
        }
      }
    }
  });
}

// A row of y is the same whether its token came alone, with 15 others or gathered, and on any number of threads.
TEST(MatMul, SmallBatchesAndThreadsChangeNoBit) {
  ForEachTarget([](const std::string&) {
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      Rng rng(7);
      const int64_t N = 75, K = Info(type).block == 1 ? 301 : 512, T = kSmallBatch;
      const RandomWeights w(type, N, K, rng());
      const std::vector<float> x = Normals(T * K, rng());
      std::vector<float> want(static_cast<size_t>(T * N));
      MatMulScratch scratch;
      ThreadPool one(1), two(2), three(3);
      for (int64_t t = 0; t < T; ++t)
        MatMul({.w = w.packed, .x = x.data() + t * K, .y = want.data() + t * N, .T = 1}, act, one, scratch);
      for (ThreadPool* pool : {&one, &two, &three})
        for (int64_t n = 1; n <= T; ++n) {
          SCOPED_TRACE("T " + std::to_string(n) + " threads " + std::to_string(pool->threads()));
          std::vector<float> got(static_cast<size_t>(n * N));
          MatMul({.w = w.packed, .x = x.data(), .y = got.data(), .T = n}, act, *pool, scratch);
          ExpectSameBits({want.begin(), want.begin() + n * N}, got);
        }
      // More tokens: any number of threads gives the same, too.
      const std::vector<float> many = Normals(150 * K, rng());
      std::vector<float> first(static_cast<size_t>(150 * N)), second = first;
      MatMul({.w = w.packed, .x = many.data(), .y = first.data(), .T = 150}, act, one, scratch);
      MatMul({.w = w.packed, .x = many.data(), .y = second.data(), .T = 150}, act, three, scratch);
      ExpectSameBits(first, second);
    });
  });
}

// What a machine's taste decides: how far ahead W is asked for, cuts, threads.
TEST(MatMul, TuningChangesNoBit) {
  ForEachTarget([](const std::string&) {
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      const int64_t N = 75, K = Info(type).block == 1 ? 301 : 512, T = kSmallBatch + 1;
      const RandomWeights w(type, N, K, 3);
      const std::vector<float> x = Normals(T * K, 4);
      MatMulScratch scratch;
      ThreadPool pool(3);
      for (const int64_t n : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{8}, T}) {
        std::vector<float> want(static_cast<size_t>(n * N)), got = want;
        MatMul({.w = w.packed, .x = x.data(), .y = want.data(), .T = n}, act, pool, scratch);
        for (const Tuning& tuning : {Tuning{.ahead = 1024}, Tuning{.ahead = 65536, .streams = kStreams, .threads = 2},
                                     Tuning{.streams = kStreams, .threads = 1}, Tuning{.threads = 99}}) {
          MatMul({.w = w.packed, .x = x.data(), .y = got.data(), .T = n}, {act, tuning}, pool, scratch);
          ExpectSameBits(want, got);
        }
      }
    });
  });
}

// Rows of which the first ones are steps: these have the bits that each has alone, and all rows are products. Of each
// kind of weights, with rows gathered and scattered too.
TEST(MatMul, StepsBeforeOtherRowsHaveTheBitsOfTheirOwn) {
  ForEachTarget([](const std::string&) {
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      Rng rng(11);
      const int64_t N = 37, K = Info(type).block == 1 ? 301 : 512, T = 2 * kSmallBatch + 1;
      const RandomWeights w(type, N, K, rng());
      const std::vector<float> x = Normals(T * K, rng()), scale = Normals(T, rng()), bias = Normals(N, rng());
      std::vector<int32_t> x_rows, y_rows;
      for (int32_t t = 0; t < T; ++t) x_rows.push_back((5 * t + 3) % static_cast<int32_t>(T));
      for (int32_t t = 0; t < T; ++t) y_rows.push_back((7 * t + 1) % static_cast<int32_t>(T));
      MatMulScratch scratch;
      ThreadPool one(1), two(2);
      for (const bool scattered : {false, true})
        for (const int64_t steps : {int64_t{1}, kSmallBatch + 1, T - 1}) {
          SCOPED_TRACE("steps " + std::to_string(steps) + (scattered ? " scattered" : ""));
          const auto args = [&](int64_t first, int64_t n, int64_t of_steps, std::vector<float>& y) {
            return MatMulArgs{.w = w.packed,
                              .x = x.data() + (scattered ? 0 : first * K),
                              .y = y.data() + (scattered ? 0 : first * N),
                              .T = n,
                              .x_rows = scattered ? x_rows.data() + first : nullptr,
                              .y_rows = scattered ? y_rows.data() + first : nullptr,
                              .row_scale = scale.data() + first,
                              .bias = bias.data(),
                              .steps = of_steps};
          };
          const std::vector<float> blank = Blank(T * N);
          std::vector<float> alone = blank, got = blank, y;
          for (int64_t t = 0; t < steps; ++t) MatMul(args(t, 1, 0, alone), act, one, scratch);
          MatMul(args(0, T, steps, got), act, two, scratch);
          for (int64_t t = 0; t < steps; ++t) {
            const int64_t row = scattered ? y_rows[static_cast<size_t>(t)] : t;
            ExpectSameBits({alone.begin() + row * N, alone.begin() + (row + 1) * N},
                           {got.begin() + row * N, got.begin() + (row + 1) * N});
          }
          CompareWithRef(args(0, T, steps, y), act, two, scratch, y, blank);
        }
    });
  });
}

// Like experts: one x, one y, rows of both overlapping, terms in the order of the list.
TEST(MatMul, MapsThatShareYAddInOrder) {
  ForEachTarget([](const std::string&) {
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      Rng rng(3);
      const int64_t N = 70, K = Info(type).block == 1 ? 33 : 256, rows = 40;
      std::vector<std::unique_ptr<RandomWeights>> weights;
      std::vector<std::vector<int32_t>> lists;
      std::vector<std::vector<float>> scales;
      for (int e = 0; e < 5; ++e) {
        weights.push_back(std::make_unique<RandomWeights>(type, N - (e == 3 ? 40 : 0), K, rng()));
        std::vector<int32_t> list;
        for (int32_t r = 0; r < rows; ++r)
          if (rng.Below(3) != 0 && (e != 2 || list.size() < 2)) list.push_back(r);
        if (e == 4) list.clear();
        scales.push_back(Normals(static_cast<int64_t>(list.size()) + 1, rng()));
        lists.push_back(list);
      }
      const std::vector<float> x = Normals(rows * K, rng()), y0 = Normals(rows * N, rng());
      const auto maps_of = [&](float* y) {
        std::vector<MatMulArgs> maps;
        for (size_t e = 0; e < weights.size(); ++e)
          maps.push_back({.w = weights[e]->packed,
                          .x = x.data(),
                          .y = y,
                          .T = static_cast<int64_t>(lists[e].size()),
                          .y_stride = N,
                          .x_rows = lists[e].data(),
                          .y_rows = lists[e].data(),
                          .row_scale = scales[e].data(),
                          .accumulate = true});
        return maps;
      };
      std::vector<float> want = y0, ref = y0;
      double tolerance = 0;
      ThreadPool one(1), three(3);
      MatMulScratch scratch;
      for (const MatMulArgs& map : maps_of(want.data())) MatMul(map, act, one, scratch);  // one after the other
      for (const MatMulArgs& map : maps_of(ref.data())) {
        if (map.T == 0) continue;
        ref::MatMul(map, act);
        tolerance += ToleranceOf(map);
      }
      ExpectClose(ref, want, tolerance);
      for (ThreadPool* pool : {&one, &three}) {
        std::vector<float> got = y0;
        const int64_t before = pool->regions();
        MatMul(maps_of(got.data()), act, *pool, scratch);
        ExpectSameBits(want, got);
        EXPECT_LE(pool->regions() - before, 2);
      }
    });
  });
}

// Maps over the same x run in one region for few tokens.
TEST(MatMul, OneRegionForFewTokens) {
  ThreadPool pool(2);
  MatMulScratch scratch;
  Rng rng(5);
  const RandomWeights q(WeightType::kQ8_0, 96, 64, 1), k(WeightType::kQ4_1, 64, 64, 2), v(WeightType::kF16, 33, 64, 3);
  const std::vector<float> x = Normals(kSmallBatch * 64, rng());
  std::vector<float> y(static_cast<size_t>(kSmallBatch * 96) * 3);
  const auto maps = [&](int64_t T) {
    float* out = y.data();
    return std::vector<MatMulArgs>{{.w = q.packed, .x = x.data(), .y = out, .T = T},
                                   {.w = k.packed, .x = x.data(), .y = out + kSmallBatch * 96, .T = T},
                                   {.w = v.packed, .x = x.data(), .y = out + 2 * kSmallBatch * 96, .T = T}};
  };
  for (const int64_t T : {int64_t{1}, kSmallBatch}) {
    const int64_t before = pool.regions();
    MatMul(maps(T), ActType::kQ8, pool, scratch);
    EXPECT_EQ(pool.regions() - before, 1);
  }
  MatMul(std::span<const MatMulArgs>(), ActType::kQ8, pool, scratch);  // none at all
  MatMul(maps(0), ActType::kQ8, pool, scratch);
}

TEST(MatMul, AllocatesNothingOnceItHasGrown) {
  ForEachTarget([](const std::string&) {
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      Rng rng(2);
      const int64_t K = 256;
      const RandomWeights w(type, 64, K, rng());
      const std::vector<float> x = Normals(100 * K, rng());
      std::vector<float> y(100 * 64);
      ThreadPool pool(2);
      MatMulScratch scratch;
      for (const Matrix& m : {w.packed, w.rows})
        MatMul({.w = m, .x = x.data(), .y = y.data(), .T = 100}, act, pool, scratch);
      const int64_t bytes = scratch.bytes(), before = g_allocations;
      for (const int64_t T : {1, 2, 16, 17, 100})
        for (const Matrix& m : {w.packed, w.rows})
          MatMul({.w = m, .x = x.data(), .y = y.data(), .T = T}, act, pool, scratch);
      EXPECT_EQ(g_allocations - before, 0);
      EXPECT_EQ(scratch.bytes(), bytes);
    });
  });
}

// The largest products that int8 steps meet: every pair of bytes at its bound, with both signs.
TEST(MatMul, ExtremeQuantsDoNotOverflow) {
  ForEachTarget([](const std::string&) {
    ThreadPool pool(1);
    MatMulScratch scratch;
    for (const WeightTypeInfo& info : AllWeightTypes()) {
      if (info.block == 1) continue;
      SCOPED_TRACE(info.name);
      for (const int byte : {0x00, 0x7F, 0x80, 0x81, 0xFF})
        for (const float sign : {1.0f, -1.0f}) {
          SCOPED_TRACE("byte " + std::to_string(byte) + " sign " + std::to_string(sign));
          const int64_t K = info.block, N = 17;
          RandomWeights w(info.type, N, K, 1);
          const size_t half = info.type == WeightType::kQ6_K ? offsetof(BlockQ6_K, d) : 0;
          for (size_t at = 0; at < w.bytes.size(); at += static_cast<size_t>(info.block_bytes)) {
            std::memset(w.bytes.data() + at, byte, static_cast<size_t>(info.block_bytes));
            const uint16_t d = FloatToF16(0.5f);
            std::memcpy(w.bytes.data() + at + half, &d, 2);
            if (info.type != WeightType::kQ8_0 && half == 0) std::memcpy(w.bytes.data() + at + 2, &d, 2);
          }
          w.PackFor(pool);
          const std::vector<float> x(static_cast<size_t>(K), sign);
          std::vector<float> y;
          CompareWithRef({.w = w.packed, .x = x.data(), .T = 1}, ActType::kQ8, pool, scratch, y,
                         std::vector<float>(static_cast<size_t>(N)));
        }
    }
  });
}

// A number that is none is not lost on the way through int8.
TEST(MatMul, NotFiniteStaysNotFinite) {
  ForEachTarget([](const std::string&) {
    ThreadPool pool(1);
    MatMulScratch scratch;
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        Rng rng(4);
        const int64_t K = 256, N = 20;
        const RandomWeights w(type, N, K, rng());
        std::vector<float> x = Normals(2 * K, rng()), y(2 * N);
        x[static_cast<size_t>(K + 41)] = bad;
        MatMul({.w = w.packed, .x = x.data(), .y = y.data(), .T = 2}, act, pool, scratch);
        for (size_t n = 0; n < static_cast<size_t>(N); ++n) {
          EXPECT_TRUE(std::isfinite(y[n]));
          if (act == ActType::kQ8 || std::isnan(bad)) {
            EXPECT_FALSE(std::isfinite(y[static_cast<size_t>(N) + n])) << n;
          }
        }
      }
    });
  });
}

// Every level rounds x to the same blocks, ties and odd blocks among them, whatever the number of blocks.
TEST(MatMul, EveryTargetRoundsTheSame) {
  for (const int64_t K : {32, 96, 128, 160, 256, 576}) {
    Rng rng(static_cast<uint64_t>(K));
    std::vector<float> x = Normals(K, rng());
    for (size_t k = 0; k < x.size(); k += 3) x[k] = std::round(2 * x[k]) / 2;
    x[0] = 127;  // halves are ties then
    if (K == 256) std::fill_n(x.begin() + 96, 32, 0.0f);
    if (K == 576) x[70] = std::numeric_limits<float>::infinity();
    const auto blocks = static_cast<size_t>(K / kBlock);
    std::vector<XBlock> want(blocks), got(2 * blocks);
    const std::string before = CurrentTarget();
    SetTarget(Targets().back());
    Kernels().round(x.data(), K, want.data(), 1);
    SetTarget(before);
    ForEachTarget([&](const std::string&) {
      Kernels().round(x.data(), K, got.data(), 2);
      for (size_t b = 0; b < blocks; ++b) {
        const XBlock &w = want[b], &g = got[2 * b];
        EXPECT_EQ(0, std::memcmp(w.q, g.q, sizeof(w.q))) << "K " << K << " block " << b;
        EXPECT_EQ(std::bit_cast<uint32_t>(w.scale), std::bit_cast<uint32_t>(g.scale));
        EXPECT_TRUE(w.scaled_sum == g.scaled_sum || (std::isnan(w.scaled_sum) && std::isnan(g.scaled_sum)));
        EXPECT_EQ(w.minus_sum, g.minus_sum);
        EXPECT_EQ(w.minus_first, g.minus_first);
      }
    });
  }
}

// Rounding of x: zeros, tiny and huge blocks.
TEST(MatMul, RoundsOddBlocksLikeRef) {
  ForEachTarget([](const std::string&) {
    ThreadPool pool(1);
    MatMulScratch scratch;
    Rng rng(9);
    const RandomWeights w(WeightType::kQ8_0, 33, 128, rng());
    for (const float size : {0.0f, 1e-38f, 1e-29f, 1e-10f, 1e30f}) {
      SCOPED_TRACE(std::to_string(size));
      std::vector<float> x = Normals(3 * 128, rng()), y;
      for (float& v : x) v *= size;
      CompareWithRef({.w = w.packed, .x = x.data(), .T = 3}, ActType::kQ8, pool, scratch, y,
                     std::vector<float>(3 * 33));
    }
  });
}

}  // namespace
}  // namespace hydra::kernels
