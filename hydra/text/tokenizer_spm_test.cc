// SPDX-License-Identifier: Apache-2.0
// SentencePiece vocabularies in GGUF: ids against a plain form of SentencePiece's own loop, bytes for what is unknown,
// the way to tokenizer.json and back, bad metadata refused by key.
#include "hydra/text/tokenizer_spm.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "hydra/base/testing.h"
#include "hydra/base/utf8.h"
#include "hydra/io/gguf.h"
#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_gguf.h"

namespace hydra {
namespace {

using nlohmann::json;

const std::string kSpaceMark = "\xE2\x96\x81";

struct Piece {
  std::string text;
  float score;
  int32_t type;
};

// <unk>, <s>, </s>, 256 bytes, words made of others in the order of their scores, characters, two tokens of users.
std::vector<Piece> Pieces(uint64_t seed) {
  std::vector<Piece> pieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  for (int byte = 0; byte < 256; ++byte) pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, 6});
  std::vector<std::string> known = {kSpaceMark, "a", "b", "c", "d", "e", "\xC3\xA9", "<", "s", ">", "/"};
  const size_t characters = known.size();
  std::mt19937_64 rng(seed);
  while (known.size() < characters + 120) {
    std::string word = known[rng() % known.size()] + known[rng() % known.size()];
    if (word.size() < 12 && std::ranges::find(known, word) == known.end()) known.push_back(word);
  }
  for (size_t i = characters; i < known.size(); ++i)
    pieces.push_back({known[i], -static_cast<float>(i - characters), 1});
  for (size_t i = 0; i < characters; ++i) pieces.push_back({known[i], -1000 - static_cast<float>(i), 1});
  pieces.push_back({"@tool@", -1000, 4});
  pieces.push_back({"   ", -1000, 4});
  return pieces;
}

GgufMetadata MetadataOf(const std::vector<Piece>& pieces) {
  std::vector<std::string_view> texts;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const Piece& p : pieces) texts.push_back(p.text), scores.push_back(p.score), types.push_back(p.type);
  GgufMetadata metadata;
  metadata.SetText("tokenizer.ggml.model", "llama");
  metadata.SetTexts("tokenizer.ggml.tokens", texts);
  metadata.SetF32s("tokenizer.ggml.scores", scores);
  metadata.SetI32s("tokenizer.ggml.token_type", types);
  return metadata;
}

// SentencePiece's loop over a text without special tokens: of all neighbours whose joined text is a token, those of the
// highest score become one, the leftmost of equal ones first.
std::vector<int32_t> SlowIds(const std::vector<Piece>& pieces, const std::string& text, bool prefix) {
  std::map<std::string, int32_t> ids;
  for (size_t i = 0; i < pieces.size(); ++i)
    if (pieces[i].type == 1) ids[pieces[i].text] = static_cast<int32_t>(i);
  std::vector<std::string> symbols;
  std::string marked = prefix && !text.empty() ? kSpaceMark : "";
  for (const char c : text) marked += c == ' ' ? kSpaceMark : std::string(1, c);
  for (size_t i = 0; i < marked.size(); i += static_cast<size_t>(Utf8Length(marked[i])))
    symbols.push_back(marked.substr(i, static_cast<size_t>(Utf8Length(marked[i]))));
  for (;;) {
    int best = -1;
    float score = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ids.find(symbols[i] + symbols[i + 1]);
      if (found == ids.end()) continue;
      const float s = pieces[static_cast<size_t>(found->second)].score;
      if (best < 0 || s > score) best = static_cast<int>(i), score = s;
    }
    if (best < 0) break;
    symbols[static_cast<size_t>(best)] += symbols[static_cast<size_t>(best) + 1];
    symbols.erase(symbols.begin() + best + 1);
  }
  std::vector<int32_t> out;
  for (const std::string& symbol : symbols) {
    if (const auto found = ids.find(symbol); found != ids.end()) {
      out.push_back(found->second);
    } else {
      for (const char c : symbol) out.push_back(3 + static_cast<unsigned char>(c));
    }
  }
  return out;
}

class SpmTokenizer : public testing::Test {
 protected:
  [[nodiscard]] std::string Write(const GgufMetadata& metadata, const char* name = "t.gguf") const {
    std::string path = dir_ / name;
    WriteGguf(path, metadata, {}, [](size_t) { return std::span<const std::byte>(); });
    return path;
  }
  // The folder that `convert` makes of a file.
  [[nodiscard]] std::string FolderOf(const std::string& gguf) const {
    std::string folder = dir_ / "folder";
    std::filesystem::create_directories(folder);
    const GgufFile file = GgufFile::Open(gguf);
    WriteFileAtomic(folder + "/tokenizer.json", TokenizerJson(ReadGgufTokenizer(file)));
    WriteFileAtomic(folder + "/tokenizer_config.json", TokenizerConfigJsonOfGguf(file));
    return folder;
  }
  TempDir dir_;
};

std::string RandomWords(std::mt19937_64& rng) {
  static const std::vector<std::string> kParts = {"a", "b", "c", "d", "e",  "\xC3\xA9",     " ", " ",
                                                  "<", "s", ">", "/", "\n", "\xE6\xBC\xA2", "z"};
  std::string text;
  for (size_t n = rng() % 40; n > 0; --n) text += kParts[rng() % kParts.size()];
  return text;
}

TEST_F(SpmTokenizer, MergesByScore) {
  for (const uint64_t seed : {1, 2, 3}) {
    const std::vector<Piece> pieces = Pieces(seed);
    for (const bool prefix : {true, false}) {
      GgufMetadata metadata = MetadataOf(pieces);
      metadata.SetBool("tokenizer.ggml.add_space_prefix", prefix);
      const Tokenizer tokenizer = Tokenizer::Load(Write(metadata));
      std::mt19937_64 rng(seed);
      for (int round = 0; round < 150; ++round) {
        const std::string text = RandomWords(rng);
        if (text.find("   ") != std::string::npos) continue;  // a token of users
        const auto ids = tokenizer.Encode(text, {.parse_special = false});
        ASSERT_EQ(ids, SlowIds(pieces, text, prefix)) << seed << " " << text;
        ASSERT_EQ(tokenizer.Decode(ids), text);
      }
    }
  }
}

TEST_F(SpmTokenizer, SpecialTokensAndEnds) {
  const std::vector<Piece> pieces = Pieces(1);
  const auto n = static_cast<int32_t>(pieces.size());
  const Tokenizer tokenizer = Tokenizer::Load(Write(MetadataOf(pieces)));
  EXPECT_EQ(tokenizer.bos_id(), 1);  // SentencePiece's own, where the file does not say
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.Encode("", {.add_special = true}), std::vector<int32_t>{1});
  EXPECT_EQ(tokenizer.Encode("</s>@tool@   "), (std::vector<int32_t>{2, n - 2, n - 1}));
  EXPECT_EQ(tokenizer.Encode("@tool@", {.parse_special = false}), std::vector<int32_t>{n - 2});
  const auto plain = tokenizer.Encode("</s>", {.parse_special = false});
  EXPECT_EQ(std::ranges::count(plain, 2), 0);
  EXPECT_FALSE(tokenizer.IsSpecial(n - 2));
}

TEST_F(SpmTokenizer, GoesIntoAFolderAndBackByScores) {
  for (const uint64_t seed : {1, 2}) {
    for (const bool prefix : {true, false}) {
      GgufMetadata metadata = MetadataOf(Pieces(seed));
      metadata.SetBool("tokenizer.ggml.add_space_prefix", prefix);
      const Tokenizer before = Tokenizer::Load(Write(metadata));
      const std::string folder = FolderOf(dir_ / "t.gguf");
      GgufMetadata again;
      SetGgufTokenizer(folder, {.vocab_size = before.vocab_size() + 5}, &again);
      const GgufFile file = GgufFile::Open(Write(again, "again.gguf"));
      EXPECT_EQ(file.Text("tokenizer.ggml.model"), "llama");
      EXPECT_EQ(file.Find("tokenizer.huggingface.json"), nullptr);  // scores say it all
      EXPECT_EQ(file.Bool("tokenizer.ggml.add_space_prefix"), prefix);
      EXPECT_EQ(file.FindFloats("tokenizer.ggml.scores")->size(), static_cast<size_t>(before.vocab_size() + 5));
      const Tokenizer in_folder = Tokenizer::Load(folder), after = Tokenizer::FromGguf(file);
      EXPECT_EQ(in_folder.sha256(), before.sha256());
      std::mt19937_64 rng(seed);
      for (int round = 0; round < 100; ++round) {
        const std::string text = RandomWords(rng) + (round % 3 == 0 ? "<s>@tool@" : "") + RandomWords(rng);
        const EncodeOptions options{.parse_special = round % 2 == 0, .add_special = true};
        const auto ids = before.Encode(text, options);
        ASSERT_EQ(in_folder.Encode(text, options), ids) << text;
        ASSERT_EQ(after.Encode(text, options), ids) << text;
        ASSERT_EQ(after.Decode(ids), before.Decode(ids)) << text;
      }
    }
  }
}

TEST_F(SpmTokenizer, WhatScoresCannotSayIsCarriedWhole) {
  (void)Write(MetadataOf(Pieces(1)));
  const std::string folder = FolderOf(dir_ / "t.gguf");
  json tokenizer = json::parse(ReadFile(folder + "/tokenizer.json"));
  std::swap(tokenizer["model"]["merges"].front(), tokenizer["model"]["merges"].back());
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", kSpaceMark}, {"prepend_scheme", "first"}, {"split", false}};
  WriteFileAtomic(folder + "/tokenizer.json", tokenizer.dump());
  GgufMetadata metadata;
  SetGgufTokenizer(folder, {.vocab_size = 400}, &metadata);
  const GgufFile file = GgufFile::Open(Write(metadata));
  EXPECT_EQ(file.Text("tokenizer.ggml.model"), "llama");
  EXPECT_EQ(file.Text("tokenizer.ggml.pre"), "hydra");
  const Tokenizer before = Tokenizer::Load(folder), after = Tokenizer::FromGguf(file);
  std::mt19937_64 rng(5);
  for (int round = 0; round < 100; ++round) {
    const std::string text = RandomWords(rng) + "<s>" + RandomWords(rng);
    ASSERT_EQ(after.Encode(text), before.Encode(text)) << text;
  }
}

TEST_F(SpmTokenizer, RefusesBadMetadata) {
  const auto bad = [&](const std::function<void(std::vector<Piece>&)>& change_pieces,
                       const std::function<void(GgufMetadata&)>& change,
                       std::initializer_list<std::string_view> parts) {
    std::vector<Piece> pieces = Pieces(1);
    if (change_pieces) change_pieces(pieces);
    GgufMetadata metadata = MetadataOf(pieces);
    if (change) change(metadata);
    ExpectError([&] { (void)Tokenizer::Load(Write(metadata)); }, ErrorCode::kFormat, parts);
  };
  const std::string scores = "tokenizer.ggml.scores";
  bad({}, [&](auto& m) { m.Remove(scores); }, {"tokenizer.ggml.scores is missing"});
  bad({}, [&](auto& m) { m.SetF32s(scores, std::vector<float>{1}); }, {"scores has 1 entries"});
  bad({}, [&](auto& m) { m.SetTexts(scores, std::vector<std::string_view>(Pieces(1).size(), "1")); },
      {"scores", "array of numbers"});
  bad([](auto& p) { p[300].score = NAN; }, {}, {"scores[300]", "finite"});
  bad([](auto& p) { p[300].text = std::string(513, 'a'); }, {}, {"tokens[300] has 513 bytes", "at most 512"});
  bad([](auto& p) { p[300].text = p[301].text; }, {}, {"tokens[301]", "twice"});
  ExpectError([&] { (void)Tokenizer::Load(Write(MetadataOf(Pieces(1))), {.pre = "qwen2"}); }, ErrorCode::kUsage,
              {"--pre qwen2", "no pre-tokenizer"});
}

}  // namespace
}  // namespace hydra
