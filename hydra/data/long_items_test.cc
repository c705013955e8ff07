// SPDX-License-Identifier: Apache-2.0
// Texts with questions: lengths to the token, what is planted is there and right, splits share nothing, equal options
// give equal texts, chats and raw texts.
#include "hydra/data/long_items.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "hydra/base/testing.h"
#include "hydra/data/planted_words.h"
#include "hydra/io/file.h"
#include "hydra/text/bpe_train.h"

namespace hydra {
namespace {

std::string Prose(int number) {
  std::string text;
  Rng rng(static_cast<uint64_t>(number));
  constexpr const char* kNouns[] = {"the old road", "a quiet valley", "the miller", "her letter", "the long winter"};
  constexpr const char* kVerbs[] = {"leads to", "was seen from", "remembers", "comes before", "is far from"};
  for (int i = 0; i < 120; ++i)
    text +=
        StrCat(kNouns[rng.Below(5)], " ", kVerbs[rng.Below(5)], " ", kNouns[rng.Below(5)], i % 7 == 6 ? ".\n" : ". ");
  return text;
}

class LongItems : public ::testing::Test {
 protected:
  LongItems() {
    std::filesystem::create_directories(dir_ / "texts/more");
    for (int i = 0; i < 30; ++i)
      WriteFileAtomic(dir_ / (i % 2 == 0 ? StrCat("texts/", i, ".txt") : StrCat("texts/more/", i, ".txt")), Prose(i));
    WriteFileAtomic(dir_ / "texts/.hidden", Prose(99));
  }
  [[nodiscard]] HaystackMaker Maker(bool chat, ItemSplit split = ItemSplit::kCalib) const {
    const PromptFrame frame = chat ? PromptFrame::Chat(tokenizer_, Form()) : PromptFrame::Raw(tokenizer_);
    return {tokenizer_, frame, ItemDocuments::Load(dir_ / "texts", tokenizer_, split), split};
  }
  [[nodiscard]] ChatTemplate Form() const { return ChatTemplate::Choose("test", "chatml", {}, tokenizer_); }
  [[nodiscard]] static std::vector<int32_t> Prompt(const ItemHaystack& text, size_t question = 0) {
    std::vector<int32_t> ids = text.shared;
    ids.insert(ids.end(), text.questions[question].ids.begin(), text.questions[question].ids.end());
    return ids;
  }
  [[nodiscard]] static size_t Times(const std::string& text, const std::string& what) {
    size_t n = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
    return n;
  }

  const Tokenizer tokenizer_ =
      Tokenizer::FromJson(TrainBpe({Prose(1), "words numbers pass key remember repeat 0123456789"},
                                   {.vocab_size = 400,
                                    .pattern = SplitPattern::kGpt2,
                                    .special_tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}})
                              .json,
                          "test");
  TempDir dir_;
};

TEST_F(LongItems, PromptsHaveTheLengthToTheToken) {
  for (const bool chat : {false, true}) {
    const HaystackMaker maker = Maker(chat);
    for (const LongItemKind kind :
         {LongItemKind::kSummary, LongItemKind::kCopy, LongItemKind::kLookup, LongItemKind::kPasskey})
      for (const int64_t length : {1200, 2048}) {
        SCOPED_TRACE(StrCat(LongItemKindName(kind), " ", length, chat ? " chat" : " raw"));
        const HaystackOptions options{.kind = kind, .length = length, .number = 3};
        const ItemHaystack text = maker.Make(options), again = maker.Make(options);
        EXPECT_EQ(static_cast<int64_t>(Prompt(text).size()), length - 128);
        EXPECT_EQ(text.shared, again.shared);
        EXPECT_EQ(text.questions[0].ids, again.questions[0].ids);
        EXPECT_FALSE(text.docs.empty());
        HaystackOptions other = options;
        other.number = 4;
        EXPECT_NE(maker.Make(other).shared, text.shared);
        other = options;
        other.seed = 2;
        EXPECT_NE(maker.Make(other).shared, text.shared);
      }
  }
}

TEST_F(LongItems, TheAnswerStandsInTheTextOnceAndTheQuestionAsksForIt) {
  for (const bool chat : {false, true}) {
    const HaystackMaker maker = Maker(chat);
    const auto decoded = [&](const std::vector<int32_t>& ids) { return tokenizer_.Decode(ids); };
    // This tokenizer spells words with many tokens: there are fewer where they would not fit.
    const ItemHaystack few = maker.Make({.kind = LongItemKind::kCopy, .length = 2048, .depths = {0.5}});
    EXPECT_LE(few.questions[0].gold.size(), 128U);
    EXPECT_LT(Times(decoded(few.questions[0].gold), " "), 32U);
    const ItemHaystack copy =
        maker.Make({.kind = LongItemKind::kCopy, .length = 2048, .answer_room = 256, .depths = {0.5}});
    const std::string gold = decoded(copy.questions[0].gold), shared = decoded(copy.shared);
    EXPECT_EQ(Times(gold, " "), 32U);
    EXPECT_EQ(Times(shared, gold), 1U);
    const std::string prompt = decoded(Prompt(copy));
    // The end repeats the 16 words before the answer.
    const size_t at = shared.find(gold);
    EXPECT_TRUE(prompt.ends_with(shared.substr(at - 20, 20)));
    EXPECT_NEAR(copy.questions[0].depth, 0.5, 0.15);

    const ItemHaystack lookup =
        maker.Make({.kind = LongItemKind::kLookup, .length = 2048, .depths = {0.1, 0.9}, .pairs = 8});
    ASSERT_EQ(lookup.questions.size(), 2U);
    for (size_t q = 0; q < 2; ++q) {
      const std::string number = decoded(lookup.questions[q].gold), asked = decoded(lookup.questions[q].ids);
      EXPECT_EQ(number.size(), 6U) << number;  // a space, five digits
      EXPECT_EQ(Times(decoded(lookup.shared), ":" + number), 1U);
      const std::string line = asked.substr(asked.rfind('\n') + 1);
      EXPECT_EQ(Times(decoded(lookup.shared), line + number), 1U) << line;
      EXPECT_EQ(Times(asked, number), 0U);
    }
    EXPECT_LT(lookup.questions[0].depth, lookup.questions[1].depth);
    EXPECT_EQ(Times(decoded(lookup.shared), ": "), 8U);
    const ItemHaystack many = maker.Make({.kind = LongItemKind::kLookup, .length = 2048, .pairs = 0});
    EXPECT_GT(Times(decoded(many.shared), ": "), 30U);

    const ItemHaystack key = maker.Make({.kind = LongItemKind::kPasskey, .length = 1200, .depths = {0.3}});
    const std::string digits = decoded(key.questions[0].gold);
    EXPECT_EQ(Times(decoded(key.shared), "The pass key is" + digits + ". Remember it."), 1U);
    EXPECT_TRUE(decoded(Prompt(key)).ends_with("The pass key is"));
  }
}

// Sixty words, each said again after all the others.
std::string Rounds(int number) {
  std::string text;
  for (int round = 0; round < 12; ++round)
    for (int i = 0; i < 60; ++i)
      text +=
          StrCat("the wor", std::string{static_cast<char>('a' + (i + number) % 26), static_cast<char>('a' + i / 26)},
                 round % 2 == 0 ? "s leads to" : "s comes before", " winter. ");
  return text;
}

TEST_F(LongItems, DocumentsAskByThemselves) {
  std::filesystem::create_directories(dir_ / "rounds");
  for (int i = 0; i < 12; ++i) WriteFileAtomic(dir_ / StrCat("rounds/", i, ".txt"), Rounds(i));
  for (const bool chat : {false, true}) {
    const PromptFrame frame = chat ? PromptFrame::Chat(tokenizer_, Form()) : PromptFrame::Raw(tokenizer_);
    const HaystackMaker maker(tokenizer_, frame, ItemDocuments::Load(dir_ / "rounds", tokenizer_, ItemSplit::kCalib),
                              ItemSplit::kCalib);
    for (const LongItemKind kind : {LongItemKind::kCloze, LongItemKind::kContinuation})
      for (int64_t number = 0; number < 5; ++number) {
        SCOPED_TRACE(StrCat(LongItemKindName(kind), " ", number));
        const HaystackOptions options{.kind = kind, .length = 1600, .depths = {0, 0, 0, 0}, .number = number};
        const ItemHaystack text = maker.Make(options), again = maker.Make(options);
        ASSERT_EQ(text.questions.size(), 4U);
        ASSERT_EQ(text.docs.size(), 1U);
        const std::string document = ReadText(dir_ / StrCat("rounds/", text.docs[0]));
        for (size_t q = 0; q < 4; ++q) {
          const ItemQuestion& asked = text.questions[q];
          const std::vector<int32_t> ids = Prompt(text, q);
          EXPECT_EQ(ids, Prompt(again, q));
          EXPECT_EQ(asked.others, again.questions[q].others);
          EXPECT_LE(ids.size(), 1600U - 128);
          EXPECT_GE(ids.size(), (1600U - 128) * 3 / 4 + q * 92);
          if (q > 0) {
            EXPECT_TRUE(std::ranges::equal(Prompt(text, q - 1), std::span(ids).first(Prompt(text, q - 1).size())));
          }
          const std::string prompt = tokenizer_.Decode(ids), gold = tokenizer_.Decode(asked.gold);
          EXPECT_NE(document.find(prompt + gold), std::string::npos);
          std::set<std::vector<int32_t>> others(asked.others.begin(), asked.others.end());
          EXPECT_EQ(others.size(), kind == LongItemKind::kCloze ? 9U : 3U);
          EXPECT_FALSE(others.contains(asked.gold));
          for (const auto& other : others) EXPECT_NE(document.find(tokenizer_.Decode(other)), std::string::npos);
          if (kind == LongItemKind::kCloze) {
            EXPECT_NE(prompt.find(gold + " "), std::string::npos) << gold;
            const std::vector<int32_t> recent(ids.end() - 250, ids.end());
            EXPECT_EQ(tokenizer_.Decode(recent).find(gold + " "), std::string::npos) << gold;
          } else {
            EXPECT_EQ(asked.gold.size(), 32U);
            EXPECT_TRUE(prompt.ends_with('.'));
          }
        }
      }
    ExpectError([&] { (void)maker.Make({.kind = LongItemKind::kCloze, .length = 1 << 20}); }, ErrorCode::kData,
                {"the split calib has no document", "cloze"});
  }
}

TEST_F(LongItems, WithoutTheWordsAllElseStays) {
  const HaystackMaker maker = Maker(true);
  const HaystackOptions with{.kind = LongItemKind::kCopy, .length = 2048, .depths = {0.2, 0.8}};
  HaystackOptions bare = with;
  bare.planted = false;
  const ItemHaystack a = maker.Make(with), b = maker.Make(bare);
  ASSERT_EQ(a.questions.size(), 2U);
  EXPECT_EQ(a.shared.size(), b.shared.size());
  for (size_t q = 0; q < 2; ++q) {
    EXPECT_EQ(a.questions[q].ids, b.questions[q].ids);
    EXPECT_EQ(a.questions[q].gold, b.questions[q].gold);
    EXPECT_EQ(Times(tokenizer_.Decode(b.shared), tokenizer_.Decode(b.questions[q].gold)), 0U);
  }
}

TEST_F(LongItems, SplitsShareNoDocumentWordOrNumber) {
  std::set<std::string> names, words;
  std::set<int64_t> numbers;
  size_t files = 0;
  Rng rng(1);
  for (const ItemSplit split : {ItemSplit::kCalib, ItemSplit::kValid, ItemSplit::kTest}) {
    const ItemDocuments documents = ItemDocuments::Load(dir_ / "texts", tokenizer_, split);
    files += documents.documents.size();
    for (const ItemDocuments::Document& document : documents.documents) EXPECT_TRUE(names.insert(document.name).second);
    const std::vector<std::string> own = PlantedWords(split);
    EXPECT_GE(own.size(), 150U);
    for (const std::string& word : own) EXPECT_TRUE(words.insert(word).second) << word;
    std::set<int64_t> drawn;
    for (int i = 0; i < 200; ++i) drawn.insert(PlantedNumber(split, rng));
    for (const int64_t number : drawn) {
      EXPECT_TRUE(numbers.insert(number).second) << number;
      EXPECT_EQ(std::to_string(number).size(), 5U);
    }
  }
  EXPECT_EQ(files, 30U);
  EXPECT_TRUE(names.contains("more/1.txt"));
}

TEST_F(LongItems, WhatCannotBeMadeIsRefused) {
  const HaystackMaker maker = Maker(true);
  ExpectError([&] { (void)maker.Make({.kind = LongItemKind::kSummary, .length = 1 << 20}); }, ErrorCode::kData,
              {"the split calib has", "a prompt needs"});
  ExpectError([&] { (void)maker.Make({.kind = LongItemKind::kCopy, .length = 400}); }, ErrorCode::kUsage,
              {"copy", "a length of 400", "planted"});
  ExpectError(
      [&] {
        (void)maker.Make({.kind = LongItemKind::kPasskey, .depths = {0.1, 0.2}});
      },
      ErrorCode::kUsage, {"passkey", "one depth"});
  ExpectError([&] { (void)ItemDocuments::Load(dir_ / "none", tokenizer_, ItemSplit::kCalib); }, ErrorCode::kIo,
              {"none", "no such folder"});
  std::filesystem::create_directories(dir_ / "empty");
  ExpectError([&] { (void)ItemDocuments::Load(dir_ / "empty", tokenizer_, ItemSplit::kCalib); }, ErrorCode::kData,
              {"empty", "0 files", "calib"});
  ExpectError([] { (void)ParseLongItemKind("copies", "--kinds"); }, ErrorCode::kUsage, {"--kinds copies", "copy"});
  EXPECT_EQ(ParseLongItemKind("continuation", "--kinds"), LongItemKind::kContinuation);
}

}  // namespace
}  // namespace hydra
