// SPDX-License-Identifier: Apache-2.0
// Lengths of pieces against made-up machines.
#include "hydra/serve/chunk_rule.h"

#include <gtest/gtest.h>

namespace hydra::serve {
namespace {

// A machine whose passes take `base` seconds, and each token of a prompt `token` more behind the first `free`.
struct Machine {
  double base, token;
  int64_t free = 0;
  [[nodiscard]] double Takes(int64_t tokens) const {
    return base + token * static_cast<double>(tokens > free ? tokens - free : 0);
  }
};

// The tokens that the rule settles at beside `writing` steps.
int64_t Settle(ChunkRule& rule, const Machine& machine, int writing, int passes = 200) {
  int64_t tokens = 0;
  for (int i = 0; i < passes; ++i) {
    tokens = rule.Choose(writing);
    rule.Measured(writing, tokens, machine.Takes(tokens));
  }
  return tokens;
}

TEST(ChunkRule, PassesBesideTextsTakeLittleMore) {
  for (const double gap : {1.5, 2.3, 3.0})
    for (const Machine& machine : {Machine{0.006, 0.0006}, Machine{0.006, 0.0006, 16}, Machine{0.1, 0.01}}) {
      ChunkRule rule(4, gap);
      for (int i = 0; i < 20; ++i) rule.Measured(3, 0, machine.Takes(0));
      const int64_t tokens = Settle(rule, machine, 3);
      // The least piece is taken however slow it is, so that prompts come to their end.
      EXPECT_TRUE(tokens == 2 || machine.Takes(tokens) <= gap * machine.base) << gap << ": " << tokens;
      EXPECT_GT(machine.Takes(2 * tokens), gap * machine.base * 0.99) << gap << ": " << tokens;
    }
}

TEST(ChunkRule, AMachineThatBecomesSlowerIsFollowed) {
  ChunkRule rule(4);
  const Machine fast{0.01, 0.0001}, slow{0.01, 0.0015};
  for (int i = 0; i < 20; ++i) rule.Measured(2, 0, fast.Takes(0));
  const int64_t before = Settle(rule, fast, 2), after = Settle(rule, slow, 2);
  EXPECT_GT(before, 4 * after);
  EXPECT_LE(slow.Takes(after), 2.3 * slow.base + 1e-9);
}

TEST(ChunkRule, AShortPromptBehindALongOneIsReadAsFastAsBefore) {
  ChunkRule rule(4);
  const Machine shallow{0.008, 0.0001};
  for (int i = 0; i < 20; ++i) rule.Measured(3, 0, shallow.base);
  const int64_t first = Settle(rule, shallow, 3);
  Machine deeper = shallow;
  for (int i = 0; i < 2000; ++i, deeper.token += 1e-6) {
    const int64_t tokens = rule.Choose(3);
    rule.Measured(3, tokens, deeper.Takes(tokens));
  }
  EXPECT_LE(rule.Choose(3), 4);
  EXPECT_EQ(Settle(rule, shallow, 3, 50), first);
}

TEST(ChunkRule, NobodyWaitsBesideAPromptThatIsAlone) {
  ChunkRule rule(4);
  EXPECT_EQ(Settle(rule, {0.006, 0.0005}, 0), 512);
  ChunkRule large(4);
  const Machine machine{0.3, 0.01};  // a large model: half a second is soon over
  const int64_t tokens = Settle(large, machine, 0);
  EXPECT_LT(tokens, 64);
  EXPECT_GE(tokens, 8);
}

}  // namespace
}  // namespace hydra::serve
