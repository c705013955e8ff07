// SPDX-License-Identifier: Apache-2.0
// BlockFFN's layer where a random case does not lead: the same bits for any number of tokens, company and threads; int8
// activations; nobody active; weights of experts that nobody runs are not read; layers from nearly empty to full. Not
// here: types and sizes against the twin (kernel_list_test.cc), models (runtime/blockffn_test.cc).
#include "hydra/kernels/blockffn.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "hydra/kernels/kernel_list_blockffn.h"
#include "hydra/kernels/testing.h"

namespace hydra::kernels::blockffn_test {  // tests share units
namespace {

struct Form {
  WeightType type;
  ActType act;
};
constexpr Form kForms[] = {{WeightType::kF32, ActType::kF32}, {WeightType::kBF16, ActType::kF32},
                           {WeightType::kQ8_0, ActType::kQ8}, {WeightType::kQ4_0, ActType::kQ8},
                           {WeightType::kQ4_1, ActType::kQ8}, {WeightType::kQ8_0, ActType::kF32}};

template <class F>
void ForEachForm(F&& f) {
  ForEachTarget([&](const std::string&) {
    for (const Form& form : kForms) {
      SCOPED_TRACE(std::string(Info(form.type).name) + (form.act == ActType::kQ8 ? " int8" : " f32"));
      f(form);
      if (::testing::Test::HasFatalFailure()) return;
    }
  });
}

struct Layer : RandomBlockFfn {
  explicit Layer(const BlockFfnShape& s, uint64_t seed = 1) : RandomBlockFfn(s, seed) {
    ThreadPool pool(1);
    PackFor(pool);
  }
  // y of all tokens in pieces of the given sizes, the last one repeated.
  std::vector<float> Run(const Form& form, ThreadPool& pool, const std::vector<int64_t>& sizes = {1 << 20}) {
    std::vector<float> y = Blank(shape.n * shape.D);
    active.assign(static_cast<size_t>(shape.n * ((shape.E + 31) / 32)), 0xFFFFFFFF);
    size_t i = 0;
    for (int64_t t = 0; t < shape.n; ++i) {
      const int64_t n = std::min(shape.n - t, sizes[std::min(i, sizes.size() - 1)]);
      BlockFfn(Args(y.data(), active.data(), t, n), form.act, pool, scratch);
      t += n;
    }
    return y;
  }
  BlockFfnScratch scratch;
  std::vector<uint32_t> active;
};

void ExpectSameBits(const std::vector<float>& want, const std::vector<float>& got) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(want[i]), std::bit_cast<uint32_t>(got[i])) << i;
}

TEST(BlockFfn, ATokensBitsAreItsOwn) {
  ForEachForm([](const Form& form) {
    for (const double shift : {-1.0, 0.0, 3.0}) {
      SCOPED_TRACE(shift);
      Layer layer({form.type, 32, 96, 40, 32, shift}, 5);
      ThreadPool one(1), two(2), three(3);
      const std::vector<float> alone = layer.Run(form, one, {1});
      const std::vector<uint32_t> active = layer.active;
      for (ThreadPool* pool : {&one, &two, &three})
        for (const std::vector<int64_t>& sizes :
             std::vector<std::vector<int64_t>>{{32}, {2}, {3}, {4}, {7}, {16}, {17}, {1, 31}, {31, 1}}) {
          SCOPED_TRACE("pieces of " + std::to_string(sizes[0]) + " threads " + std::to_string(pool->threads()));
          ExpectSameBits(alone, layer.Run(form, *pool, sizes));
          EXPECT_EQ(layer.active, active);
        }
    }
  });
}

// A prompt goes by lists, or by all tokens where they are nearly full: the numbers of single tokens within rounding, on
// any number of threads the same.
TEST(BlockFfn, ManyTokensAreWhatOneIs) {
  ForEachForm([](const Form& form) {
    for (const double shift : {-2.0, -0.5, 0.3, 1.2, 5.0}) {
      SCOPED_TRACE(shift);
      Layer layer({form.type, 90, 64, 12, 32, shift}, 7);
      ThreadPool one(1), three(3);
      const std::vector<float> want = layer.Run(form, one, {1});
      const std::vector<float> got = layer.Run(form, three);
      // Gates of many tokens may differ in their last bit, which may move a rounded number of the hidden layer.
      ExpectClose(want, got, (form.act == ActType::kQ8 ? 6e-3 : 2e-5) * std::max(1.0, MaxAbs(want)));
      ExpectSameBits(got, layer.Run(form, one));
    }
  });
}

// Int8 activations are rounded twice, so a number of the hidden layer may be a quantum off.
TEST(BlockFfn, Int8ActivationsStayNearTheTwin) {
  ForEachTarget([](const std::string&) {
    for (const WeightType type : {WeightType::kQ8_0, WeightType::kQ4_0, WeightType::kQ4_1})
      for (const int64_t n : {1, 5, 40}) {
        SCOPED_TRACE(std::string(Info(type).name) + " n " + std::to_string(n));
        Layer layer({type, n, 64, 9, 64, 0}, 11);
        ThreadPool pool(2);
        const std::vector<float> got = layer.Run({type, ActType::kQ8}, pool);
        std::vector<float> want = Blank(n * 64), exact = want;
        ref::BlockFfn(layer.Args(want.data(), nullptr, 0, n), ActType::kQ8);
        ref::BlockFfn(layer.Args(exact.data(), nullptr, 0, n), ActType::kF32);
        ExpectClose(want, got, 6e-3 * MaxAbs(want));
        ExpectClose(exact, got, 5e-2 * MaxAbs(want));
        double difference = 0;
        for (size_t i = 0; i < want.size(); ++i)
          difference = std::max(difference, std::abs(double{exact[i]} - want[i]));
        EXPECT_GT(difference, 1e-4 * MaxAbs(want));  // or nothing was rounded
      }
  });
}

TEST(BlockFfn, WithNobodyActiveItIsZero) {
  ForEachForm([](const Form& form) {
    for (const int64_t n : {1, 4, 50}) {
      Layer layer({form.type, n, 64, 6, 32, -50}, 3);
      ThreadPool pool(2);
      for (const float y : layer.Run(form, pool)) ASSERT_EQ(y, 0.0f);
      EXPECT_EQ(layer.active, std::vector<uint32_t>(static_cast<size_t>(n)));
    }
  });
}

// The weights of experts that no token runs are NaN in every bit: a read of any would be seen. Experts of scale 0 never
// run, whatever their score.
TEST(BlockFfn, WeightsOfOtherExpertsAreNotRead) {
  ForEachForm([](const Form& form) {
    for (const int64_t n : {1, 3, 40}) {
      SCOPED_TRACE("n " + std::to_string(n));
      Layer layer({form.type, n, 64, 40, 32, -1}, 13);
      ThreadPool pool(2);
      const std::vector<float> want = layer.Run(form, pool);
      std::vector<uint32_t> any(2);
      for (size_t i = 0; i < layer.active.size(); ++i) any[i % 2] |= layer.active[i];
      int64_t poisoned = 0;
      for (size_t e = 0; e < 40; ++e) {
        if ((any[e / 32] >> (e % 32) & 1) != 0) continue;
        ++poisoned;
        for (RandomWeights* w : {&layer.up[e], &layer.down[e]}) std::ranges::fill(w->bytes, std::byte{0xFF});
      }
      ASSERT_GT(poisoned, 4);
      ASSERT_LT(poisoned, 40);
      layer.PackFor(pool);
      ExpectSameBits(want, layer.Run(form, pool));
    }
  });
}

// A negative scale turns an expert's sign and leaves it active.
TEST(BlockFfn, NegativeScalesSubtract) {
  Layer layer({WeightType::kF32, 3, 32, 1, 16, 4}, 17);
  ThreadPool pool(1);
  const Form form{WeightType::kF32, ActType::kF32};
  std::vector<float> want = layer.Run(form, pool);
  ASSERT_GT(MaxAbs(want), 0);
  layer.scale[0] = -layer.scale[0];
  for (float& y : want) y = -y;
  ExpectSameBits(want, layer.Run(form, pool));
  EXPECT_EQ(layer.active, std::vector<uint32_t>(3, 1));
}

}  // namespace
}  // namespace hydra::kernels::blockffn_test
