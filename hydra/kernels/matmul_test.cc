// SPDX-License-Identifier: Apache-2.0
// Products against their scalar twin on every SIMD level: types, activations, sizes around the tiles, gather, scatter,
// shared y; the same bits whatever the batch and the threads; no allocation once the scratch has grown.
#include "hydra/kernels/matmul.h"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/base/testing.h"
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

// Rows of random bits in the type's blocks, every quant and small scale possible; the halves d and m are ordinary.
std::vector<std::byte> RandomWeights(WeightType type, int64_t rows, int64_t cols, Rng& rng) {
  std::vector<std::byte> out(static_cast<size_t>(rows * RowBytes(type, cols)));
  for (std::byte& b : out) b = static_cast<std::byte>(rng.Below(256));
  const auto set_half = [&](size_t at, double value) {
    const uint16_t bits = FloatToF16(static_cast<float>(value));
    std::memcpy(out.data() + at, &bits, 2);
  };
  const auto block_bytes = static_cast<size_t>(Info(type).block_bytes);
  for (size_t at = 0; at < out.size(); at += block_bytes) switch (type) {
      case WeightType::kF32: {
        const auto v = static_cast<float>(rng.Normal());
        std::memcpy(out.data() + at, &v, 4);
        break;
      }
      case WeightType::kF16: set_half(at, rng.Normal()); break;
      case WeightType::kBF16: {
        const uint16_t bits = FloatToBF16(static_cast<float>(rng.Normal()));
        std::memcpy(out.data() + at, &bits, 2);
        break;
      }
      case WeightType::kQ6_K: set_half(at + offsetof(BlockQ6_K, d), 0.01 * rng.Normal()); break;
      default:
        set_half(at, 0.1 * rng.Normal());
        if (type != WeightType::kQ8_0 && type != WeightType::kQ4_0 && type != WeightType::kQ5_0)
          set_half(at + 2, rng.Normal());
    }
  return out;
}

std::vector<float> RandomFloats(int64_t n, Rng& rng) {
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = static_cast<float>(rng.Normal());
  return out;
}

struct AlignedBytes {
  explicit AlignedBytes(int64_t n)
      : data(static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>((n + 64) / 64 * 64)))) {}
  ~AlignedBytes() { std::free(data); }
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  std::byte* data;
};

// W of random bits, as rows and, where the type has them, in panels of the current level.
struct Weights {
  Weights(WeightType type, int64_t N, int64_t K, Rng& rng)
      : bytes(RandomWeights(type, N, K, rng)),
        rows{.type = type, .rows = N, .cols = K, .data = bytes.data()},
        panels(PackedBytes(type, N, K)),
        packed(rows) {
    ThreadPool pool(1);
    if (PackedBytes(type, N, K) > 0) packed = Pack(rows, panels.data, pool);
  }
  std::vector<std::byte> bytes;
  Matrix rows;
  AlignedBytes panels;
  Matrix packed;
};

// A bound of sum |terms| of any output: three times the largest weight (a quant's product, its minimum and offset)
// times the largest sum of |x|, and what is added to it.
double Scale(const MatMulArgs& a) {
  double weight = 0, x = 0, factor = 1, bias = 0;
  std::vector<float> row(static_cast<size_t>(a.w.cols));
  for (int64_t n = 0; n < a.w.rows; ++n) {
    DecodeMatrixRow(a.w, n, row.data());
    for (const float v : row) weight = std::max(weight, std::abs(static_cast<double>(v)));
    if (a.bias != nullptr) bias = std::max(bias, std::abs(static_cast<double>(a.bias[n])));
  }
  const int64_t stride = a.x_stride == 0 ? a.w.cols : a.x_stride;
  for (int64_t t = 0; t < a.T; ++t) {
    double sum = 0;
    for (int64_t k = 0; k < a.w.cols; ++k) sum += std::abs(a.x[(a.x_rows != nullptr ? a.x_rows[t] : t) * stride + k]);
    x = std::max(x, sum);
    if (a.row_scale != nullptr) factor = std::max(factor, std::abs(static_cast<double>(a.row_scale[t])));
  }
  return factor * (3.1 * weight * x + bias) + 1;
}

double ToleranceOf(const MatMulArgs& a) { return Tolerance(DType::kF32, a.w.cols, Scale(a)); }

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
      const Weights w(info.type, N, K, rng);
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

TEST(MatMul, MatchesRefOnEveryTargetTypeAndSize) {
  ForEachTarget([](const std::string&) {
    ThreadPool pool(2);
    MatMulScratch scratch;
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      const int64_t block = Info(type).block;
      uint64_t seed = 1;
      const auto check = [&](int64_t N, int64_t K, int64_t T) {
        Rng rng(seed++);
        SCOPED_TRACE("N " + std::to_string(N) + " K " + std::to_string(K) + " T " + std::to_string(T) + " seed " +
                     std::to_string(seed - 1));
        const Weights w(type, N, K, rng);
        const std::vector<float> x = RandomFloats(T * K, rng), y0(static_cast<size_t>(T * N), NAN);
        std::vector<float> y, y_rows;
        CompareWithRef({.w = w.packed, .x = x.data(), .T = T}, act, pool, scratch, y, y0);
        if (w.packed.packed) {
          CompareWithRef({.w = w.rows, .x = x.data(), .T = T}, act, pool, scratch, y_rows, y0);
          ExpectSameBits(y, y_rows);
        }
      };
      for (int64_t N = 1; N <= 40; ++N) check(N, block == 1 ? N + 30 : block, N % 4 + 1);
      for (const int64_t T : {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 18, 19, 24, 25, 40, 100})
        check(35, block == 1 ? 65 : 256, T);
      for (const int64_t K : {1, 2, 3, 15, 16, 17, 31, 33, 64, 96, 255, 256, 257, 511, 513, 768}) {
        if (K % block != 0) continue;
        check(19, K, 1);
        check(33, K, 21);
      }
      check(100, 512, 200);
    });
  });
}

// A row of y is the same whether its token came alone, with 15 others or gathered, and on any number of threads.
TEST(MatMul, SmallBatchesAndThreadsChangeNoBit) {
  ForEachTarget([](const std::string&) {
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      Rng rng(7);
      const int64_t N = 75, K = Info(type).block == 1 ? 301 : 512, T = kSmallBatch;
      const Weights w(type, N, K, rng);
      const std::vector<float> x = RandomFloats(T * K, rng);
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
      const std::vector<float> many = RandomFloats(150 * K, rng);
      std::vector<float> first(static_cast<size_t>(150 * N)), second = first;
      MatMul({.w = w.packed, .x = many.data(), .y = first.data(), .T = 150}, act, one, scratch);
      MatMul({.w = w.packed, .x = many.data(), .y = second.data(), .T = 150}, act, three, scratch);
      ExpectSameBits(first, second);
    });
  });
}

// Gathered rows of x, scattered rows of y, odd strides, scale, bias, accumulation; what lies between rows stays.
TEST(MatMul, GathersAndScatters) {
  ForEachTarget([](const std::string&) {
    ThreadPool pool(2);
    MatMulScratch scratch;
    ForEachTypeAndAct([&](WeightType type, ActType act) {
      for (const int64_t T : {1, 5, 16, 23}) {
        SCOPED_TRACE("T " + std::to_string(T));
        Rng rng(static_cast<uint64_t>(T));
        const int64_t N = 21, K = Info(type).block == 1 ? 45 : 256, x_stride = K + 3, y_stride = N + 5, rows = 30;
        const Weights w(type, N, K, rng);
        const std::vector<float> x = RandomFloats(rows * x_stride, rng), y0 = RandomFloats(rows * y_stride, rng);
        const std::vector<float> row_scale = RandomFloats(T, rng), bias = RandomFloats(N, rng);
        std::vector<int32_t> x_rows(static_cast<size_t>(T)), y_rows(static_cast<size_t>(rows));
        for (int32_t& r : x_rows) r = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(rows)));
        std::iota(y_rows.begin(), y_rows.end(), 0);
        for (size_t i = y_rows.size(); i > 1; --i) std::swap(y_rows[i - 1], y_rows[rng.Below(i)]);
        std::vector<float> y;
        for (int mask = 0; mask < 32; ++mask)
          CompareWithRef({.w = w.packed,
                          .x = x.data(),
                          .T = T,
                          .x_stride = x_stride,
                          .y_stride = y_stride,
                          .x_rows = mask & 1 ? x_rows.data() : nullptr,
                          .y_rows = mask & 2 ? y_rows.data() : nullptr,
                          .row_scale = mask & 4 ? row_scale.data() : nullptr,
                          .bias = mask & 8 ? bias.data() : nullptr,
                          .accumulate = (mask & 16) != 0},
                         act, pool, scratch, y, y0);
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
      std::vector<std::unique_ptr<Weights>> weights;
      std::vector<std::vector<int32_t>> lists;
      std::vector<std::vector<float>> scales;
      for (int e = 0; e < 5; ++e) {
        weights.push_back(std::make_unique<Weights>(type, N - (e == 3 ? 40 : 0), K, rng));
        std::vector<int32_t> list;
        for (int32_t r = 0; r < rows; ++r)
          if (rng.Below(3) != 0 && (e != 2 || list.size() < 2)) list.push_back(r);
        if (e == 4) list.clear();
        scales.push_back(RandomFloats(static_cast<int64_t>(list.size()) + 1, rng));
        lists.push_back(list);
      }
      const std::vector<float> x = RandomFloats(rows * K, rng), y0 = RandomFloats(rows * N, rng);
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
  const Weights q(WeightType::kQ8_0, 96, 64, rng), k(WeightType::kQ4_1, 64, 64, rng), v(WeightType::kF16, 33, 64, rng);
  const std::vector<float> x = RandomFloats(kSmallBatch * 64, rng);
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
      const Weights w(type, 64, K, rng);
      const std::vector<float> x = RandomFloats(100 * K, rng);
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
          Rng rng(1);
          const int64_t K = info.block, N = 17;
          Weights w(info.type, N, K, rng);
          const size_t half = info.type == WeightType::kQ6_K ? offsetof(BlockQ6_K, d) : 0;
          for (size_t at = 0; at < w.bytes.size(); at += static_cast<size_t>(info.block_bytes)) {
            std::memset(w.bytes.data() + at, byte, static_cast<size_t>(info.block_bytes));
            const uint16_t d = FloatToF16(0.5f);
            std::memcpy(w.bytes.data() + at + half, &d, 2);
            if (info.type != WeightType::kQ8_0 && half == 0) std::memcpy(w.bytes.data() + at + 2, &d, 2);
          }
          w.packed = Pack(w.rows, w.panels.data, pool);
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
        const Weights w(type, N, K, rng);
        std::vector<float> x = RandomFloats(2 * K, rng), y(2 * N);
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
    std::vector<float> x = RandomFloats(K, rng);
    for (size_t k = 0; k < x.size(); k += 3) x[k] = std::round(2 * x[k]) / 2;
    x[0] = 127;  // halves are ties then
    if (K == 256) std::fill_n(x.begin() + 96, 32, 0.0f);
    if (K == 576) x[70] = std::numeric_limits<float>::infinity();
    const auto blocks = static_cast<size_t>(K / kBlock);
    std::vector<XBlock> want(blocks), got(2 * blocks);
    const std::string before = CurrentTarget();
    SetTarget("scalar");
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
    const Weights w(WeightType::kQ8_0, 33, 128, rng);
    for (const float size : {0.0f, 1e-38f, 1e-29f, 1e-10f, 1e30f}) {
      SCOPED_TRACE(std::to_string(size));
      std::vector<float> x = RandomFloats(3 * 128, rng), y;
      for (float& v : x) v *= size;
      CompareWithRef({.w = w.packed, .x = x.data(), .T = 3}, ActType::kQ8, pool, scratch, y,
                     std::vector<float>(3 * 33));
    }
  });
}

}  // namespace
}  // namespace hydra::kernels
