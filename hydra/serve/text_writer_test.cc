// SPDX-License-Identifier: Apache-2.0
// Text and tokens come out together: parts of characters and of stop strings are held back with their tokens.
#include "hydra/serve/text_writer.h"

#include <gtest/gtest.h>

#include "hydra/runtime/testing_tokenizer.h"

namespace hydra::serve {
namespace {

// Words and the number of tokens behind each byte that is fed, then at the end.
struct Said {
  std::string words;
  size_t tokens = 0;
  bool stopped = false;
};
Said Feed(std::string_view bytes, const std::vector<std::string>& stops, std::vector<std::string>* steps = nullptr) {
  const Tokenizer tokenizer = hydra::testing::ByteTokenizer();
  TextWriter writer(tokenizer, stops);
  Said said;
  for (const char byte : bytes) {
    TextPiece piece;
    writer.Add({.id = static_cast<unsigned char>(byte)}, &piece);
    said.words += piece.words;
    said.tokens += piece.tokens.size();
    if (steps != nullptr) steps->push_back(piece.words);
    if (writer.stopped()) break;
  }
  TextPiece last;
  writer.Finish(&last);
  said.words += last.words;
  said.tokens += last.tokens.size();
  said.stopped = writer.stopped();
  return said;
}

TEST(TextWriter, CharactersComeWhole) {
  std::vector<std::string> steps;
  const Said said = Feed("a\xE2\x82\xAC!", {}, &steps);
  EXPECT_EQ(said.words, "a\xE2\x82\xAC!");
  EXPECT_EQ(said.tokens, 5U);
  EXPECT_EQ(steps, (std::vector<std::string>{"a", "", "", "\xE2\x82\xAC", "!"}));
  EXPECT_EQ(Feed("a\xE2\x82", {}).words, "a\xEF\xBF\xBD");  // the text ends within one
}

TEST(TextWriter, StopStringsAreNotShownNorTheirTokens) {
  const Said said = Feed("one END two", {"END"});
  EXPECT_TRUE(said.stopped);
  EXPECT_EQ(said.words, "one ");
  EXPECT_EQ(said.tokens, 4U);
  const Said almost = Feed("one EN", {"END"});
  EXPECT_FALSE(almost.stopped);
  EXPECT_EQ(almost.words, "one EN");
  EXPECT_EQ(almost.tokens, 6U);
  const Said first = Feed("xxENDyy", {"yy", "ND"});
  EXPECT_EQ(first.words, "xxE");
  EXPECT_EQ(first.tokens, 3U);
}

}  // namespace
}  // namespace hydra::serve
