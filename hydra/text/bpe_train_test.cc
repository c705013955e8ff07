// SPDX-License-Identifier: Apache-2.0
// BPE training against a naive trainer that counts all pairs anew for each merge. Equality with the BpeTrainer of
// Python's `tokenizers` is tests/parity/tokenizer_parity.py.
#include "hydra/text/bpe_train.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "hydra/base/error.h"
#include "hydra/io/json.h"
#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {
namespace {

std::vector<std::string> Merges(const std::string& json) {
  return Json::parse(json)["model"]["merges"].get<std::vector<std::string>>();
}

// Counts every pair of every word, takes the best (count, then lower ids), replaces it; stops where the two trainers
// may part: when a merge spells a token that exists.
std::vector<std::string> NaiveMerges(const std::string& text, size_t wanted) {
  std::map<std::string, std::pair<std::vector<int>, int64_t>> words;
  std::vector<std::string> tokens;
  const Json bare = Json::parse(TrainBpe({"a"}, {.vocab_size = 257}).json);
  for (const auto& entry : bare["model"]["vocab"].items()) {
    tokens.resize(std::max<size_t>(tokens.size(), entry.value().get<size_t>() + 1));
    tokens[entry.value().get<size_t>()] = entry.key();
  }
  ScanPieces(SplitPattern::kGpt2, text, [&](std::string_view piece) {
    auto& [symbols, count] = words[std::string(piece)];
    if (++count > 1) return;
    for (const char byte : piece) {
      const auto found = std::find(tokens.begin(), tokens.end(), ToByteLevel(std::string_view(&byte, 1)));
      symbols.push_back(static_cast<int>(found - tokens.begin()));
    }
  });
  std::vector<std::string> merges;
  while (merges.size() < wanted) {
    std::map<std::pair<int, int>, int64_t> counts;
    for (const auto& [_, word] : words) {
      for (size_t i = 0; i + 1 < word.first.size(); ++i) counts[{word.first[i], word.first[i + 1]}] += word.second;
    }
    if (counts.empty()) break;
    const auto best = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
                        return a.second != b.second ? a.second < b.second : a.first > b.first;
                      })->first;
    const std::string left = tokens[static_cast<size_t>(best.first)], right = tokens[static_cast<size_t>(best.second)];
    if (std::find(tokens.begin(), tokens.end(), left + right) != tokens.end()) break;
    merges.push_back(left + " " + right);
    tokens.push_back(left + right);
    for (auto& [_, word] : words) {
      std::vector<int> out;
      for (size_t i = 0; i < word.first.size(); ++i) {
        if (i + 1 < word.first.size() && word.first[i] == best.first && word.first[i + 1] == best.second) {
          out.push_back(static_cast<int>(tokens.size()) - 1);
          ++i;
        } else {
          out.push_back(word.first[i]);
        }
      }
      word.first = std::move(out);
    }
  }
  return merges;
}

TEST(BpeTrain, EqualsTheNaiveTrainer) {
  for (const uint64_t seed : {1, 2, 3, 4}) {
    std::mt19937_64 rng(seed);
    std::string text;
    for (int i = 0; i < 400; ++i) {
      for (size_t n = 1 + rng() % 7; n > 0; --n) text.push_back("aabbcde"[rng() % 7]);
      text += rng() % 5 ? " " : "\n";
    }
    const auto want = NaiveMerges(text, 120);
    auto got = Merges(TrainBpe({text}, {.vocab_size = 257 + static_cast<int>(want.size())}).json);
    ASSERT_GE(want.size(), 40u) << "seed " << seed;
    EXPECT_EQ(want, got) << "seed " << seed;
  }
}

TEST(BpeTrain, OverlapsAndTies) {
  // "aaaa": the pair stands three times, but merges twice.
  EXPECT_EQ(Merges(TrainBpe({"aaaa"}, {.vocab_size = 300}).json), (std::vector<std::string>{"a a", "aa aa"}));
  // Equal counts: the lower ids first, whatever the order of the words.
  EXPECT_EQ(Merges(TrainBpe({"zy", "ab"}, {.vocab_size = 300}).json), (std::vector<std::string>{"a b", "z y"}));
  EXPECT_EQ(TrainBpe({"zy", "ab"}, {}).json, TrainBpe({"ab", "zy"}, {}).json);
}

TEST(BpeTrain, CountsDocumentsApart) {
  const auto apart = TrainBpe({"ab", "ab"}, {.vocab_size = 300});
  EXPECT_EQ(apart.words, 2u);
  EXPECT_EQ(apart.distinct, 1u);
  EXPECT_EQ(apart.bytes, 4u);
  EXPECT_EQ(apart.vocab_size, 258);
  EXPECT_EQ(Merges(TrainBpe({"ab", "cdcd"}, {.vocab_size = 300, .min_count = 2}).json),
            (std::vector<std::string>{"c d"}));
}

TEST(BpeTrain, TheFileLoadsAndNamesItsSpecials) {
  const auto result = TrainBpe({"x y z"}, {.vocab_size = 300, .special_tokens = {"<|im_start|>", "<|im_end|>"}});
  const Tokenizer tokenizer = Tokenizer::FromJson(result.json, "made");
  EXPECT_EQ(tokenizer.vocab_size(), result.vocab_size);
  EXPECT_EQ(tokenizer.Encode("<|im_end|>"), std::vector<int32_t>{1});
  EXPECT_EQ(tokenizer.pattern(), "gpt2");
  EXPECT_EQ(tokenizer.SpecialIds(), (std::vector<int32_t>{0, 1}));
  const auto llama3 = TrainBpe({"x 12345"}, {.vocab_size = 300, .pattern = SplitPattern::kLlama3});
  EXPECT_EQ(Tokenizer::FromJson(llama3.json, "made").pattern(), "llama3");
}

TEST(BpeTrain, RefusesWhatCannotBe) {
  EXPECT_THROW(TrainBpe({"a"}, {.vocab_size = 256}), Error);
  EXPECT_THROW(TrainBpe({"a"}, {.vocab_size = 1 << 30}), Error);
  EXPECT_THROW(TrainBpe({}, {}), Error);
  EXPECT_THROW(TrainBpe({""}, {}), Error);
  EXPECT_THROW(TrainBpe({"a"}, {.special_tokens = {""}}), Error);
  EXPECT_THROW(TrainBpe({"a"}, {.special_tokens = {"a"}}), Error);
  EXPECT_THROW(TrainBpe({"a"}, {.special_tokens = {"<x>", "<x>"}}), Error);
  EXPECT_THROW(TrainBpe({"a"}, {.special_tokens = {"\xFF"}}), Error);
}

}  // namespace
}  // namespace hydra
