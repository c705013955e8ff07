// SPDX-License-Identifier: Apache-2.0
// UTF-8 that is cut or broken: what replaces it, and that a stream gives the same as the whole.
#include "hydra/base/utf8.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace hydra::utf8_test {  // tests share units
namespace {

TEST(Utf8, MendReplacesMaximalInvalidParts) {
  std::string buffer;
  const std::string r(kReplacementChar);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"plain", "plain"},
      {"\xC3\xA9", "\xC3\xA9"},
      {"a\xFF"
       "b",
       "a" + r + "b"},
      {"\xE2\x82", r},  // cut: one part
      {"\xE2\x82"
       "x",
       r + "x"},
      {"\xF0\x9F\x98\xE2\x82\xAC", r + "\xE2\x82\xAC"},
      {"\xC0\x80", r + r},                  // overlong: each byte by itself
      {"\xED\xA0\x80", r + r + r},          // a surrogate
      {"\xF4\x90\x80\x80", r + r + r + r},  // above U+10FFFF
  };
  for (const auto& [in, want] : cases) EXPECT_EQ(MendUtf8(in, buffer), want);
}

TEST(Utf8, StreamEqualsMendingAtEverySplit) {
  std::mt19937_64 rng(7);
  std::string buffer;
  for (int round = 0; round < 300; ++round) {
    // Any bytes, or bytes that often make characters: leads of two to four bytes, tails, ASCII.
    constexpr std::string_view kUsual =
        "\xC3\xE2\xED\xF0\xF4\x82\x9F\xA9\x80\x82\xAC"
        "a";
    std::string bytes(24, ' ');
    for (char& byte : bytes) byte = round % 2 ? static_cast<char>(rng() % 256) : kUsual[rng() % kUsual.size()];
    Utf8Stream stream;
    std::string text;
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = 1 + rng() % 3;
      const std::string piece = stream.Push(std::string_view(bytes).substr(at, n));
      EXPECT_EQ(ValidUtf8Prefix(piece), piece.size());
      text += piece;
      at += n;
    }
    text += stream.Finish();
    EXPECT_EQ(text, MendUtf8(bytes, buffer)) << "round " << round;
  }
}

}  // namespace
}  // namespace hydra::utf8_test
