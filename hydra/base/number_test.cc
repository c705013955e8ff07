// SPDX-License-Identifier: Apache-2.0
// Numbers of users: what is taken, what is refused and in which words.
#include "hydra/base/number.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "hydra/base/testing.h"

namespace hydra::number_test {  // tests share units
namespace {

TEST(Number, TakesWhatPeopleWrite) {
  EXPECT_EQ(ParseNumber("0", "x"), 0);
  EXPECT_EQ(ParseNumber("-1.5", "x"), -1.5);
  EXPECT_EQ(ParseNumber("+2", "x"), 2);
  EXPECT_EQ(ParseNumber("2e-3", "x"), 2e-3);
  EXPECT_EQ(ParseNumber("1.2e-38", "x"), 1.2e-38);
  EXPECT_EQ(ParseWholeNumber("-7", -7, 9, "x"), -7);
  EXPECT_EQ(ParseWholeNumber("+9", -7, 9, "x"), 9);
}

TEST(Number, RefusesWhatNoComputationCanUse) {
  for (const char* text : {"nan", "inf", "-inf", "1e39", "1e999", "1e-50", "1e-999", "-1e-40"})
    ExpectError([&] { (void)ParseNumber(text, "--temp"); }, ErrorCode::kUsage, {"--temp = "});
  ExpectError([] { CheckNumber(std::nan(""), "optim.lr"); }, ErrorCode::kUsage, {"optim.lr = nan", "finite"});
  ExpectError([] { CheckNumber(std::numeric_limits<double>::infinity(), "x"); }, ErrorCode::kUsage, {"finite"});
  ExpectError([] { CheckNumber(1e-50, "x"); }, ErrorCode::kUsage, {"1e-50", "too small"});
  ExpectError([] { CheckNumber(1e39, "x"); }, ErrorCode::kUsage, {"too large"});
}

TEST(Number, RefusesWhatIsNone) {
  for (const char* text : {"", " 1", "1 ", "0x10", "1,5", "--1", "+-1", "one", "1.2.3"})
    ExpectError([&] { (void)ParseNumber(text, "x"); }, ErrorCode::kUsage, {"must be a number"});
  for (const char* text : {"", "1.0", "0x10", "10", "-1", "99999999999999999999", " 3"})
    ExpectError([&] { (void)ParseWholeNumber(text, 0, 9, "--n"); }, ErrorCode::kUsage,
                {"--n = ", "a whole number from 0 to 9"});
}

}  // namespace
}  // namespace hydra::number_test
