// SPDX-License-Identifier: Apache-2.0
// Tokens that only the other files of a model folder name: ids and flags as `transformers` gives them, contradictions
// refused, tokens without a row of the model left out. Not here: tokenizer.json itself (tokenizer_test.cc).
#include "hydra/text/tokenizer_folder.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hydra/base/testing.h"
#include "hydra/io/gguf.h"
#include "hydra/text/bpe_train.h"
#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_gguf.h"

namespace hydra {
namespace {

using nlohmann::json;

constexpr int32_t kSize = 270;  // of tokenizer.json; <|endoftext|> is 0

class TokenizerFolder : public testing::Test {
 protected:
  TokenizerFolder() {
    Put("tokenizer.json", json::parse(TrainBpe({"the cat and the dog and the hen"},
                                               {.vocab_size = kSize, .special_tokens = {"<|endoftext|>"}})
                                          .json));
  }
  void Put(const char* name, const json& value) const { WriteFileAtomic(dir_ / name, value.dump()); }
  [[nodiscard]] Tokenizer Load() {
    warnings_.clear();
    return Tokenizer::Load(dir_.path(), {.warnings = &warnings_});
  }
  [[nodiscard]] std::vector<int32_t> Ids(const std::string& text) { return Load().Encode(text); }
  TempDir dir_;
  std::vector<std::string> warnings_;
};

TEST_F(TokenizerFolder, TokensOfTheDecoderAreAdded) {
  Put("tokenizer_config.json", {{"added_tokens_decoder",
                                 {{"0", {{"content", "<|endoftext|>"}, {"special", true}, {"normalized", false}}},
                                  {"270", {{"content", "<|tool|>"}, {"special", true}}},
                                  {"271", {{"content", "@@"}, {"special", false}, {"rstrip", true}}}}}});
  const Tokenizer tokenizer = Load();
  EXPECT_EQ(tokenizer.vocab_size(), kSize + 2);
  EXPECT_EQ(tokenizer.Encode("<|tool|>@@  "), (std::vector<int32_t>{270, 271}));
  EXPECT_TRUE(tokenizer.IsSpecial(270));
  EXPECT_FALSE(tokenizer.IsSpecial(271));
  EXPECT_TRUE(warnings_.empty());
  // What is written of it says the same by itself, and has its fingerprint.
  const std::string whole = WholeTokenizerJson(dir_.path());
  EXPECT_EQ(Sha256::Of(whole), tokenizer.sha256());
  EXPECT_EQ(Tokenizer::FromJson(whole, "whole").Encode("<|tool|>@@  "), (std::vector<int32_t>{270, 271}));
  // A GGUF file carries them too.
  GgufMetadata metadata;
  SetGgufTokenizer(dir_.path(), {.vocab_size = 280}, &metadata);
  WriteGguf(dir_ / "a.gguf", metadata, {}, [](size_t) { return std::span<const std::byte>(); });
  EXPECT_EQ(Tokenizer::Load(dir_ / "a.gguf").Encode("<|tool|>@@  "), (std::vector<int32_t>{270, 271}));
}

TEST_F(TokenizerFolder, NothingNewLeavesTheFileAsItIs) {
  Put("tokenizer_config.json",
      {{"eos_token", "<|endoftext|>"},
       {"pad_token", nullptr},
       {"added_tokens_decoder", {{"0", {{"content", "<|endoftext|>"}, {"special", true}, {"normalized", false}}}}}});
  EXPECT_EQ(Load().sha256(), Sha256::Of(ReadFile(dir_ / "tokenizer.json")));
  EXPECT_EQ(WholeTokenizerJson(dir_.path()), ReadFile(dir_ / "tokenizer.json"));
}

TEST_F(TokenizerFolder, LaterFlagsCount) {
  Put("tokenizer_config.json",
      {{"added_tokens_decoder",
        {{"0", {{"content", "<|endoftext|>"}, {"special", false}, {"lstrip", true}, {"normalized", true}}}}}});
  const Tokenizer tokenizer = Load();
  EXPECT_TRUE(tokenizer.IsSpecial(0));  // what is special stays it
  EXPECT_EQ(tokenizer.Encode("a  <|endoftext|>").size(), 2u);
}

TEST_F(TokenizerFolder, NamedTokensAreAdded) {
  Put("tokenizer_config.json",
      {{"pad_token", "[PAD]"}, {"additional_special_tokens", {"<a>", {{"content", "<b>"}, {"lstrip", true}}}}});
  const Tokenizer tokenizer = Load();
  EXPECT_EQ(tokenizer.Encode("[PAD]<a> <b>"), (std::vector<int32_t>{270, 271, 272}));
  EXPECT_TRUE(tokenizer.IsSpecial(272));
}

TEST_F(TokenizerFolder, OlderFoldersHaveTwoFilesMore) {
  Put("special_tokens_map.json", {{"eos_token", "</s>"}, {"pad_token", {{"content", "<pad>"}, {"lstrip", false}}}});
  Put("added_tokens.json", {{"<pad>", 271}, {"</s>", 270}, {"plain", 272}});
  const Tokenizer tokenizer = Load();
  EXPECT_EQ(tokenizer.Encode("</s><pad>plain"), (std::vector<int32_t>{270, 271, 272}));
  EXPECT_EQ(tokenizer.eos_id(), 270);
  EXPECT_TRUE(tokenizer.IsSpecial(271));
  EXPECT_FALSE(tokenizer.IsSpecial(272));
  Put("tokenizer_config.json", {{"bos_token", "<nowhere>"}});  // the file that says it is named, not the other
  ExpectError([&] { (void)Load(); }, ErrorCode::kFormat, {"tokenizer_config.json: bos_token"});
}

TEST_F(TokenizerFolder, TokensWithoutARowAreLeftOut) {
  Put("config.json", {{"vocab_size", kSize + 1}});
  Put("tokenizer_config.json",
      {{"added_tokens_decoder", {{"270", {{"content", "<|tool|>"}, {"special", true}}}}}, {"pad_token", "[PAD]"}});
  EXPECT_EQ(Load().vocab_size(), kSize + 1);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("pad_token = \"[PAD]\": would be token 271, the model has 271 tokens"), std::string::npos)
      << warnings_[0];
}

TEST_F(TokenizerFolder, RefusesWhatTheLibraryWouldNumberOtherwise) {
  const auto bad = [&](const json& config, std::initializer_list<std::string_view> parts) {
    Put("tokenizer_config.json", config);
    ExpectError([&] { (void)Load(); }, ErrorCode::kFormat, parts);
  };
  const json tool = {{"content", "<|tool|>"}, {"special", true}};
  bad({{"added_tokens_decoder", {{"300", tool}}}},
      {"tokenizer_config.json: added_tokens_decoder[\"300\"]", "<|tool|>", "next free id is 270"});
  bad({{"added_tokens_decoder", {{"5", {{"content", "<|endoftext|>"}}}}}}, {"gives this token id 0"});
  bad({{"added_tokens_decoder", {{"x", tool}}}}, {"added_tokens_decoder[\"x\"]", "must be named by an id"});
  bad({{"added_tokens_decoder", {{"270", 3}}}}, {"added_tokens_decoder[\"270\"] = 3", "content"});
  bad({{"added_tokens_decoder", {{"270", {{"content", "a"}, {"lstrip", 1}}}}}}, {"lstrip = 1", "true or false"});
  bad({{"eos_token", "</s>"}}, {"eos_token = \"</s>\"", "no such token"});
  bad({{"additional_special_tokens", "x"}}, {"additional_special_tokens", "a list"});
  bad(json::array(), {"tokenizer_config.json", "must be an object"});
}

}  // namespace
}  // namespace hydra
