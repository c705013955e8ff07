// SPDX-License-Identifier: Apache-2.0
// Tokenizers through GGUF metadata: the same ids as their tokenizer.json for every known pre-tokenizer, what the keys
// cannot say carried whole, bad metadata refused by key.
#include "hydra/text/tokenizer_gguf.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hydra/base/testing.h"
#include "hydra/text/bpe_train.h"
#include "hydra/text/pretokenizer_scan.h"
#include "hydra/text/tokenizer.h"

namespace hydra {
namespace {

using nlohmann::json;

const char* const kCorpus =
    "It's 2024 and the numbers 12, 123 and 1234567 don't matter; they'll do. \xC3\xA9t\xC3\xA9 e\xCC\x81 "
    "\xE6\xBC\xA2\xE5\xAD\x97 "
    "for (int i = 0; i < 10; ++i)\n\n\tprintf(\"%d\\n\", i);  // THE END'S\r\n   the the there then";

json Trained() {
  const std::string text = std::string(kCorpus) + kCorpus;
  return json::parse(
      TrainBpe({text}, {.vocab_size = 330, .pattern = SplitPattern::kGpt2, .special_tokens = {"<|begin|>", "<|end|>"}})
          .json);
}

class TokenizerGguf : public testing::Test {
 protected:
  std::string Folder(const json& tokenizer,
                     const char* config = R"({"bos_token": "<|begin|>", "eos_token": "<|end|>"})") const {
    std::string folder = dir_ / "model";
    std::filesystem::create_directories(folder);
    WriteFileAtomic(folder + "/tokenizer.json", tokenizer.dump());
    WriteFileAtomic(folder + "/tokenizer_config.json", config);
    return folder;
  }
  static ModelTokens Tokens(int64_t vocab_size) { return {.vocab_size = vocab_size, .eos = {1}}; }
  std::string Write(const GgufMetadata& metadata) const {
    std::string path = dir_ / "t.gguf";
    FileOps ops = FileOps::Real();
    ops.fsync = [](int) { return 0; };
    WriteGguf(
        path, metadata, {}, [](size_t) { return std::span<const std::byte>(); }, ops);
    return path;
  }
  // Through a file; the ids must be those of the folder.
  void RoundTrip(const json& tokenizer, const char* want_pre, int64_t vocab_size = 336) const {
    SCOPED_TRACE(want_pre);
    const std::string folder = Folder(tokenizer);
    const Tokenizer before = Tokenizer::Load(folder);
    GgufMetadata metadata;
    SetGgufTokenizer(folder, Tokens(vocab_size), &metadata);
    const std::string path = Write(metadata);
    const GgufFile file = GgufFile::Open(path);
    EXPECT_EQ(file.Text("tokenizer.ggml.pre"), want_pre);
    EXPECT_EQ(file.Texts("tokenizer.ggml.tokens").size(), static_cast<size_t>(vocab_size));
    const Tokenizer after = Tokenizer::Load(path);
    EXPECT_EQ(after.bos_id(), before.bos_id());
    EXPECT_EQ(after.eos_id(), before.eos_id());
    EXPECT_EQ(after.SpecialIds(), before.SpecialIds());
    for (const bool special : {false, true})
      for (const std::string& text :
           {std::string(kCorpus), std::string("a<|end|>b <|begin|>12345 'S"), std::string("  \n x"), std::string()}) {
        const EncodeOptions options{.parse_special = special, .add_special = special};
        const auto ids = before.Encode(text, options);
        EXPECT_EQ(after.Encode(text, options), ids) << text;
        EXPECT_EQ(after.Decode(ids), before.Decode(ids));
      }
    // And to a tokenizer.json again, which has the fingerprint that the file's tokenizer has.
    const std::string back = TokenizerJson(ReadGgufTokenizer(file));
    EXPECT_EQ(Tokenizer::FromJson(back, "back").Encode(kCorpus), before.Encode(kCorpus));
    EXPECT_EQ(after.sha256(), Sha256::Of(back));
    const json config = json::parse(TokenizerConfigJsonOfGguf(file));
    EXPECT_EQ(config["bos_token"], "<|begin|>");
    EXPECT_EQ(config["eos_token"], "<|end|>");
  }
  TempDir dir_;
};

json ByteLevelStep(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}};
}
json Split(std::string_view regex) {
  return {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", std::string(regex)}}}, {"behavior", "Isolated"}, {"invert", false}},
        ByteLevelStep(false)}}};
}

TEST_F(TokenizerGguf, EveryKnownPreTokenizerComesBack) {
  json t = Trained();
  RoundTrip(t, "gpt-2");
  t["pre_tokenizer"] = {{"type", "Sequence"},
                        {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, ByteLevelStep(true)}}};
  RoundTrip(t, "smollm");
  t["pre_tokenizer"] = Split(kQwen2Regex);
  t["normalizer"] = {{"type", "NFC"}};
  RoundTrip(t, "qwen2");
  t["normalizer"] = nullptr;
  t["pre_tokenizer"] = Split(kLlama3Regex);
  t["model"]["ignore_merges"] = true;
  t["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<|begin|>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens", {{"<|begin|>", {{"id", "<|begin|>"}, {"ids", {0}}, {"tokens", {"<|begin|>"}}}}}}};
  RoundTrip(t, "llama-bpe");
}

TEST_F(TokenizerGguf, WhatKeysCannotSayIsCarriedWhole) {
  json t = Trained();
  t["normalizer"] = {{"type", "NFC"}};  // with GPT-2's pattern: no known name
  RoundTrip(t, "hydra");
  t = Trained();
  t["added_tokens"][1]["lstrip"] = true;
  RoundTrip(t, "hydra");
  t = Trained();
  t["pre_tokenizer"]["add_prefix_space"] = true;
  RoundTrip(t, "hydra");
  t = Trained();
  t["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, {{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}}}},
      {"special_tokens", {{"<|end|>", {{"id", "<|end|>"}, {"ids", {1}}, {"tokens", {"<|end|>"}}}}}}};
  RoundTrip(t, "hydra");
}

// The library keeps the ids of added tokens that are in model.vocab and numbers others anew, wherever their ids lie.
TEST_F(TokenizerGguf, WrittenAgainEveryTokenIsInTheVocabulary) {
  GgufMetadata metadata;
  SetGgufTokenizer(Folder(Trained()), Tokens(336), &metadata);
  const json back = json::parse(TokenizerJson(ReadGgufTokenizer(GgufFile::Open(Write(metadata)))));
  EXPECT_EQ(back["model"]["vocab"].size(), 336u);
  for (const json& token : back["added_tokens"])
    EXPECT_EQ(back["model"]["vocab"].value(token["content"].get<std::string>(), -1), token["id"].get<int>());
  EXPECT_EQ(back["model"]["vocab"]["[PAD335]"], 335);
}

TEST_F(TokenizerGguf, NamesOfOnePatternGiveTheSameIds) {
  GgufMetadata metadata;
  SetGgufTokenizer(Folder(Trained()), Tokens(330), &metadata);
  const auto ids_of = [&](const char* pre, const char* chosen = "") {
    if (pre == nullptr) {
      metadata.Remove("tokenizer.ggml.pre");
    } else {
      metadata.SetText("tokenizer.ggml.pre", pre);
    }
    return Tokenizer::Load(Write(metadata), {.pre = chosen}).Encode(kCorpus);
  };
  for (const auto& [name, same] : std::vector<std::pair<const char*, const char*>>{{"llama3", "llama-bpe"},
                                                                                   {"llama-v3", "llama-bpe"},
                                                                                   {"refact", "smollm"},
                                                                                   {"command-r", "smollm"},
                                                                                   {"deepseek-r1-qwen", "qwen2"},
                                                                                   {"mpt", "gpt-2"},
                                                                                   {"llama4", "gpt-4o"}})
    EXPECT_EQ(ids_of(name), ids_of(same)) << name;
  EXPECT_NE(ids_of("qwen2"), ids_of("gpt-2"));
  EXPECT_EQ(ids_of("kimi-k2", "qwen2"), ids_of("qwen2"));
  EXPECT_EQ(ids_of(nullptr), ids_of("default"));
  std::vector<std::string> warnings;
  metadata.Remove("tokenizer.ggml.pre");
  (void)Tokenizer::Load(Write(metadata), {.warnings = &warnings});
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("tokenizer.ggml.pre is missing: default is used"), std::string::npos) << warnings[0];
  ExpectError([&] { (void)Tokenizer::Load(Write(metadata), {.pre = "nonsense"}); }, ErrorCode::kUsage,
              {"--pre nonsense", "llama-bpe"});
  ExpectError([&] { (void)Tokenizer::Load(dir_ / "model", {.pre = "qwen2"}); }, ErrorCode::kUsage,
              {"--pre qwen2", "no GGUF file"});
}

TEST_F(TokenizerGguf, CommentsAmongMergesAndTokensWithoutATextAreRead) {
  const std::string folder = Folder(Trained());
  GgufMetadata metadata;
  SetGgufTokenizer(folder, Tokens(332), &metadata);
  const GgufFile source = GgufFile::Open(Write(metadata));
  auto merges = source.Texts("tokenizer.ggml.merges"), tokens = source.Texts("tokenizer.ggml.tokens");
  merges.insert(merges.begin(), "#version: 0.2");
  tokens[330] = tokens[331] = "";
  metadata.SetTexts("tokenizer.ggml.merges", merges);
  metadata.SetTexts("tokenizer.ggml.tokens", tokens);
  const std::string path = dir_ / "odd.gguf";
  WriteGguf(path, metadata, {}, [](size_t) { return std::span<const std::byte>(); });
  const Tokenizer tokenizer = Tokenizer::Load(path);
  EXPECT_EQ(tokenizer.Encode(kCorpus), Tokenizer::Load(folder).Encode(kCorpus));
  EXPECT_EQ(tokenizer.TokenText(331), "[EMPTY_331]");
}

TEST_F(TokenizerGguf, UserDefinedTokensAreNotSpecial) {
  json t = Trained();
  t["added_tokens"].push_back({{"id", 330},
                               {"content", "@@tool@@"},
                               {"special", false},
                               {"single_word", false},
                               {"lstrip", false},
                               {"rstrip", false},
                               {"normalized", false}});
  RoundTrip(t, "gpt-2");
  const Tokenizer tokenizer = Tokenizer::Load(dir_ / "t.gguf");
  EXPECT_FALSE(tokenizer.IsSpecial(330));
  EXPECT_EQ(tokenizer.Encode("@@tool@@", {.parse_special = false}), std::vector<int32_t>{330});
}

TEST_F(TokenizerGguf, APlainTokenThatPadsStaysPlainInAFolder) {
  const std::string folder = Folder(Trained());
  GgufMetadata metadata;
  SetGgufTokenizer(folder, Tokens(330), &metadata);
  const Tokenizer tokenizer = Tokenizer::Load(folder);
  const int32_t plain = *tokenizer.TokenId("!"), special = *tokenizer.TokenId("<|end|>");
  for (const char* key : {"padding", "unknown"}) {
    const auto named = [&](int32_t id) {
      metadata.SetU32(fmt::format("tokenizer.ggml.{}_token_id", key), id);
      return json::parse(TokenizerConfigJsonOfGguf(GgufFile::Open(Write(metadata))));
    };
    const std::string name = key == std::string_view("padding") ? "pad_token" : "unk_token";
    EXPECT_FALSE(named(plain).contains(name));
    EXPECT_EQ(named(special).value(name, ""), "<|end|>");
  }
}

TEST_F(TokenizerGguf, EveryTemplateIsCarriedBothWays) {
  const std::string folder = Folder(Trained(), R"({"hydralm_chat_template": "plain", "chat_template": [
      {"name": "tool_use", "template": "{{ t }}"}, {"name": "default", "template": "{{ x }}"}]})");
  GgufMetadata metadata;
  SetGgufTokenizer(folder, Tokens(330), &metadata);
  const GgufFile file = GgufFile::Open(Write(metadata));
  EXPECT_EQ(file.Text("hydralm.chat_template"), "plain");
  EXPECT_EQ(file.Text("tokenizer.chat_template"), "{{ x }}");
  EXPECT_EQ(file.Text("tokenizer.chat_template.tool_use"), "{{ t }}");
  EXPECT_EQ(file.Texts("tokenizer.chat_templates"), std::vector<std::string_view>{"tool_use"});
  const json config = json::parse(TokenizerConfigJsonOfGguf(file));
  EXPECT_EQ(config["hydralm_chat_template"], "plain");
  EXPECT_EQ(
      config["chat_template"],
      json::parse(R"([{"name": "default", "template": "{{ x }}"}, {"name": "tool_use", "template": "{{ t }}"}])"));
}

TEST_F(TokenizerGguf, EndsAndTemplateAreWritten) {
  const std::string folder = Folder(Trained(), R"({"eos_token": "<|end|>", "chat_template": "{{ x }}"})");
  const ModelTokens model{.vocab_size = 330, .pad = 3, .eos = {1, 7, 9}};
  GgufMetadata metadata;
  SetGgufTokenizer(folder, model, &metadata);
  const GgufFile file = GgufFile::Open(Write(metadata));
  EXPECT_EQ(file.Int("tokenizer.ggml.eos_token_id"), 1);
  EXPECT_EQ(file.Int("tokenizer.ggml.eot_token_id"), 7);
  EXPECT_EQ(file.Int("tokenizer.ggml.eom_token_id"), 9);
  EXPECT_EQ(file.Int("tokenizer.ggml.padding_token_id"), 3);
  EXPECT_EQ(file.Text("tokenizer.chat_template"), "{{ x }}");
  EXPECT_FALSE(file.Bool("tokenizer.ggml.add_bos_token"));
  EXPECT_EQ(Tokenizer::FromGguf(file).eot_id(), 7);
  ExpectError([&] { SetGgufTokenizer(folder, Tokens(329), &metadata); }, ErrorCode::kFormat,
              {"330 tokens", "vocab_size = 329"});
  json spm = Trained();
  spm["pre_tokenizer"] = nullptr;  // characters, and none for those that are no token
  ExpectError([&] { SetGgufTokenizer(Folder(spm), model, &metadata); }, ErrorCode::kFormat, {"byte-level"});
}

TEST_F(TokenizerGguf, RefusesBadMetadata) {
  const std::string folder = Folder(Trained());
  GgufMetadata good;
  SetGgufTokenizer(folder, Tokens(330), &good);
  const GgufFile source = GgufFile::Open(Write(good));
  const auto bad = [&](const std::function<void(GgufMetadata&)>& change,
                       std::initializer_list<std::string_view> parts) {
    GgufMetadata metadata;
    for (const GgufEntry& entry : source.entries()) metadata.Set(entry);
    change(metadata);
    const std::string path = dir_ / "bad.gguf";
    FileOps ops = FileOps::Real();
    ops.fsync = [](int) { return 0; };
    WriteGguf(
        path, metadata, {}, [](size_t) { return std::span<const std::byte>(); }, ops);
    ExpectError([&] { (void)Tokenizer::Load(path); }, ErrorCode::kFormat, parts);
  };
  const std::string key = "tokenizer.ggml.";
  bad([&](auto& m) { m.SetText(key + "model", "bert"); },
      {"bad.gguf", "tokenizer.ggml.model", "bert", "gpt2", "llama"});
  bad([&](auto& m) { m.SetText(key + "model", "llama"); }, {"tokenizer.ggml.scores is missing"});
  bad([&](auto& m) { m.Remove(key + "model"); }, {"tokenizer.ggml.model is missing"});
  bad([&](auto& m) { m.SetText(key + "pre", "kimi-k2"); },
      {"tokenizer.ggml.pre", "kimi-k2", "--pre NAME", "llama-bpe", "qwen2"});
  bad([&](auto& m) { m.SetText(key + "pre", "hydra"); }, {"tokenizer.huggingface.json is missing"});
  bad([&](auto& m) { m.SetI32s(key + "tokens", std::vector<int32_t>{1}); }, {"tokens is an array of i32", "texts"});
  bad([&](auto& m) { m.SetI32s(key + "token_type", std::vector<int32_t>(329, 1)); }, {"token_type has 329", "330"});
  bad([&](auto& m) { m.SetI32s(key + "token_type", std::vector<int32_t>(330, 7)); }, {"token_type[0] = 7", "1 to 6"});
  bad([&](auto& m) { m.SetU32(key + "bos_token_id", 330); }, {"bos_token_id = 330", "329"});
  const auto with_tokens = [&](size_t i, std::string_view text) {
    return [&, i, text](GgufMetadata& m) {
      auto tokens = source.Texts(key + "tokens");
      tokens[i] = text;
      m.SetTexts(key + "tokens", tokens);
    };
  };
  bad(with_tokens(300, "\xff"), {"tokens[300]", "UTF-8"});
  bad(with_tokens(20, source.Texts(key + "tokens")[21]), {"tokens[21]", "twice"});
  bad(with_tokens(0, ""), {"tokens[0]", "empty"});
  for (const char* merge : {"ab", "a b c", " ab", "ab ", ""})
    bad([&](auto& m) { m.SetTexts(key + "merges", std::vector<std::string_view>{merge}); },
        {"merges[0]", "two tokens"});
  bad([&](auto& m) { m.SetTexts(key + "merges", std::vector<std::string_view>{"a \xE6\xBC\xA2"}); },
      {"merges[0]", "not in the vocabulary"});
  bad([&](auto& m) { m.SetU32(key + "add_bos_token", 1); }, {"add_bos_token is u32", "bool"});
}

}  // namespace
}  // namespace hydra
