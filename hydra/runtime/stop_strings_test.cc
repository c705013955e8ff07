// SPDX-License-Identifier: Apache-2.0
// StopStrings: whole, split over pieces, false starts, several stops.
#include "hydra/runtime/stop_strings.h"

#include <gtest/gtest.h>

#include "hydra/base/error.h"

namespace hydra {
namespace {

// Feeds the text in pieces of n bytes; what came out in all.
std::string PushAll(const std::vector<std::string>& stops, const std::string& text, size_t n, bool* stopped) {
  StopStrings stream(stops);
  std::string out;
  for (size_t i = 0; i < text.size(); i += n) out += stream.Feed(text.substr(i, n));
  out += stream.Finish();
  *stopped = stream.stopped();
  return out;
}

TEST(StopStrings, EndsBeforeTheFirstStopHoweverTheTextIsCut) {
  for (size_t n = 1; n < 12; ++n) {
    bool stopped = false;
    EXPECT_EQ(PushAll({"END", "\n\n"}, "a\nb ENEND c", n, &stopped), "a\nb EN") << n;
    EXPECT_TRUE(stopped);
    EXPECT_EQ(PushAll({"END", "\n\n"}, "a EN", n, &stopped), "a EN") << n;
    EXPECT_FALSE(stopped);
    EXPECT_EQ(PushAll({"END", "\n\n"}, "x\n\nEND", n, &stopped), "x") << n;
    EXPECT_EQ(PushAll({}, "x\n\nEND", n, &stopped), "x\n\nEND") << n;
  }
}

TEST(StopStrings, WithoutStopsNothingIsHeldBack) {
  StopStrings stream({});
  EXPECT_EQ(stream.Feed("abc"), "abc");
}

TEST(StopStrings, RefusesAnEmptyStop) { EXPECT_THROW(StopStrings({""}), Error); }

}  // namespace
}  // namespace hydra
