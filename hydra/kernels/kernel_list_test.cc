// SPDX-License-Identifier: Apache-2.0
// Every kernel of the list against its scalar twin: every form, sizes around the vectors, several seeds, every SIMD
// level; and that the comparison notices what it should. Not here: edges that no random case meets (ops_rows_test.cc
// and its neighbours).
#include "hydra/kernels/kernel_list.h"

#include <algorithm>
#include <cmath>
#include <ostream>
#include <set>

#include "hydra/kernels/testing.h"

namespace hydra::kernels {

void PrintTo(const Kernel& kernel, std::ostream* out) { *out << kernel.name; }  // of GoogleTest

namespace {

struct Pair {
  KernelCase c;
  Arrays want;  // what the twin writes
  std::string name;
};

Arrays WantOf(const KernelCase& c) {
  Arrays want = c.Before();
  c.ref(want);
  if (c.decode) c.decode(want);
  return want;
}

// The cases of a form, with what their twins write. One seed in sanitised builds, where each takes long.
std::vector<Pair> CasesOf(const Kernel& kernel, size_t form) {
#ifdef HYDRA_SANITIZED
  constexpr uint64_t kSeeds = 1;
#else
  constexpr uint64_t kSeeds = 3;
#endif
  std::vector<Pair> pairs;
  for (const int64_t size : EdgeSizes(kernel.max_size))
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      Pair p{kernel.at_random(form, size, 100 * seed + static_cast<uint64_t>(size)), {}, {}};
      p.name = kernel.name + ", " + kernel.forms[form] + ": size " + std::to_string(size) + " seed " +
               std::to_string(seed) + ": " + p.c.text;
      p.want = WantOf(p.c);
      pairs.push_back(std::move(p));
    }
  return pairs;
}

// Where the twin wrote a number, as near behind the middle as there is one: gaps between rows must not change at all.
size_t WrittenNearMiddle(const std::vector<float>& want) {
  const size_t n = want.size(), middle = n / 2;
  for (size_t i = 0; i < n; ++i)
    if (const size_t at = (middle + i) % n; want[at] != kUntouched) return at;
  return n;
}

class KernelListTest : public ::testing::TestWithParam<Kernel> {};

TEST_P(KernelListTest, MatchesItsTwinOnEveryTarget) {
  ThreadPool pool(2);
  for (size_t form = 0; form < GetParam().forms.size(); ++form) {
    const std::vector<Pair> pairs = CasesOf(GetParam(), form);
    ForEachTarget([&](const std::string&) {
      for (const Pair& p : pairs) {
        if (p.c.prepare) p.c.prepare(pool);
        Arrays got = p.c.Before();
        p.c.simd(got, pool);
        if (p.c.decode) p.c.decode(got);
        ASSERT_EQ(Difference(p.c, p.c.by_level ? WantOf(p.c) : p.want, got), "") << p.name;
      }
    });
  }
}

// A tolerance that lets half of a number be wrong proves nothing; a number off by little more than it is noticed.
TEST_P(KernelListTest, ToleranceIsSmallAndNothingBeyondItPasses) {
  for (size_t form = 0; form < GetParam().forms.size(); ++form) {
    std::set<size_t> changed;  // arrays that some case's twin writes to
    for (const Pair& p : CasesOf(GetParam(), form))
      for (size_t i = 0; i < p.want.size(); ++i) {
        Arrays before = p.c.Before();
        if (p.c.decode) p.c.decode(before);
        if (before[i] != p.want[i]) changed.insert(i);
        const size_t at = WrittenNearMiddle(p.want[i]);
        if (at == p.want[i].size()) continue;  // a call may have none: states of a lone chunk
        const double tolerance = ToleranceOf(p.c, p.want, i);
        EXPECT_LT(tolerance, 0.03 * std::max(1.0, MaxAbs(p.want[i]))) << p.name << " " << p.c.written[i].name;
        Arrays off = p.want;
        float& v = off[i][at];
        const double own = static_cast<double>(p.c.written[i].own) * UnitRoundoff(DType::kF32) * std::abs(v);
        v = static_cast<float>(v + 1.1 * (tolerance + own) + std::abs(v) * 1e-6 + 1e-30);
        EXPECT_NE(Difference(p.c, p.want, off), "") << p.name << " " << p.c.written[i].name;
        v = NAN;
        EXPECT_NE(Difference(p.c, p.want, off), "") << p.name << " " << p.c.written[i].name;
      }
    const Arrays all = GetParam().at_random(form, 9, 1).Before();
    const auto empty = std::ranges::count_if(all, [](const auto& array) { return array.empty(); });
    EXPECT_EQ(changed.size() + static_cast<size_t>(empty), all.size()) << GetParam().forms[form];
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, KernelListTest, ::testing::ValuesIn(KernelList()),
                         [](const auto& info) { return info.param.name; });

TEST(KernelList, NamesAreDifferentAndEachHasACaseOfTheBenchmark) {
  std::set<std::string> names;
  for (const Kernel& k : KernelList()) {
    EXPECT_TRUE(names.insert(k.name).second) << k.name;
    EXPECT_FALSE(k.forms.empty()) << k.name;
    EXPECT_TRUE(!k.bench.empty() || k.name == "LoadKvRow") << k.name;
  }
}

// Heads and states of models, which are whole vectors, are among the sizes of every form.
TEST(KernelList, ScansMeetTheSizesOfThePresets) {
  int64_t met = 0;
  for (const Kernel& k : KernelList()) {
    std::vector<int64_t> states;
    if (k.name == "Ssd") states = {64, 128};
    if (k.name.starts_with("Mamba")) states = {32, 64};
    for (const int64_t N : states) {
      EXPECT_EQ(std::ranges::count(EdgeSizes(k.max_size), N), 1) << k.name;
      for (size_t form = 0; form < k.forms.size(); ++form, ++met) {
        const std::string text = k.at_random(form, N, 1).text;
        EXPECT_NE(text.find(" P 64 "), std::string::npos) << k.name << ": " << text;
        EXPECT_NE(text.find(" N " + std::to_string(N) + " "), std::string::npos) << k.name << ": " << text;
      }
    }
  }
  EXPECT_EQ(met, 2 * 5 + 7 * 2 * 2);
}

}  // namespace
}  // namespace hydra::kernels
