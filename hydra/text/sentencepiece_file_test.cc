// SPDX-License-Identifier: Apache-2.0
// tokenizer.model: ids equal to those of the same pieces in GGUF, the ways into folders and GGUF and back with every
// score, what tokenizer_config.json changes, each kind of bad file, files with any byte changed or cut anywhere.
// Against Python's `sentencepiece`: tests/parity/sentencepiece_test.py.
#include "hydra/text/sentencepiece_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <optional>
#include <random>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/io/gguf.h"
#include "hydra/model/config.h"
#include "hydra/text/chat_template.h"
#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_folder.h"
#include "hydra/text/tokenizer_gguf.h"

namespace hydra {
namespace {

const std::string kMark = "\xE2\x96\x81", kUserMark = "<\xE7\x94\xA8\xE6\x88\xB7>";

// <unk>, <s>, </s>, 256 bytes, words made of others in the order of their scores, characters, a token of users.
SentencePieceFile SomePieces(uint64_t seed) {
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  SentencePieceFile file;
  file.types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) texts.push_back(fmt::format("<0x{:02X}>", byte)), file.types.push_back(6);
  file.scores.assign(texts.size(), 0);
  std::vector<std::string> known = {
      kMark, "a", "b", "c", "d", "e", "\xC3\xA9", "<", "s", ">", "/", "A", "I", "\xE7\x94\xA8", "\xE6\x88\xB7"};
  const size_t characters = known.size();
  std::mt19937_64 rng(seed);
  while (known.size() < characters + 120) {
    std::string word = known[rng() % known.size()] + known[rng() % known.size()];
    if (word.size() < 12 && word != "</s>" && word != "<s>" && std::ranges::find(known, word) == known.end())
      known.push_back(word);
  }
  const auto add = [&](const std::string& text, float score, int32_t type) {
    texts.push_back(text), file.scores.push_back(score), file.types.push_back(type);
  };
  for (size_t i = characters; i < known.size(); ++i) add(known[i], -0.5f * static_cast<float>(i - characters), 1);
  for (size_t i = 0; i < characters; ++i) add(known[i], -1000 - static_cast<float>(i), 1);
  add("@tool@", -1000, 4);
  file.pieces = TokenTable(std::vector<std::string_view>(texts.begin(), texts.end()));
  file.byte_fallback = true;
  file.bos = 1, file.eos = 2;
  return file;
}

std::string RandomText(std::mt19937_64& rng) {
  static const std::vector<std::string> kParts = {"a", "b", "c", "d", "e",  "\xC3\xA9",     " ", " ",
                                                  "<", "s", ">", "/", "\n", "\xE6\xBC\xA2", "z", "AI"};
  std::string text;
  for (size_t n = rng() % 40; n > 0; --n) text += kParts[rng() % kParts.size()];
  return text;
}

class SentencePiece : public testing::Test {
 protected:
  void SetUp() override { WriteFileAtomic(dir_ / "tokenizer.model", SentencePieceBytes(SomePieces(1))); }
  void Config(const std::string& json) const { WriteFileAtomic(dir_ / "tokenizer_config.json", json); }
  [[nodiscard]] std::string Gguf(const GgufMetadata& metadata) const {
    std::string path = dir_ / "t.gguf";
    WriteGguf(path, metadata, {}, [](size_t) { return std::span<const std::byte>(); });
    return path;
  }
  TempDir dir_;
};

TEST_F(SentencePiece, ReadsWhatItWrites) {
  SentencePieceFile file = SomePieces(1);
  file.add_prefix = false;
  file.pad = 258;
  const std::string bytes = SentencePieceBytes(file);
  const SentencePieceFile back = ReadSentencePiece(AsBytes(bytes), "x");
  ASSERT_EQ(back.pieces.size(), file.pieces.size());
  for (int32_t id = 0; id < file.pieces.size(); ++id) ASSERT_EQ(back.pieces.Text(id), file.pieces.Text(id));
  EXPECT_EQ(back.scores, file.scores);
  EXPECT_EQ(back.types, file.types);
  EXPECT_TRUE(back.byte_fallback);
  EXPECT_FALSE(back.add_prefix);
  EXPECT_EQ(back.bos, 1);
  EXPECT_EQ(back.eos, 2);
  EXPECT_EQ(back.pad, 258);
}

TEST_F(SentencePiece, AFolderWithoutTokenizerJsonIsReadByItsPieces) {
  const Tokenizer tokenizer = Tokenizer::Load(dir_.path()), alone = Tokenizer::Load(dir_ / "tokenizer.model");
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.sha256(), alone.sha256());
  const Tokenizer whole = Tokenizer::FromJson(WholeTokenizerJson(dir_.path()), "tokenizer.json");
  EXPECT_EQ(tokenizer.sha256(), whole.sha256());
  std::mt19937_64 rng(2);
  for (int round = 0; round < 200; ++round) {
    const std::string text = RandomText(rng) + (round % 3 == 0 ? "<s>@tool@" : "") + RandomText(rng);
    const EncodeOptions options{.parse_special = round % 2 == 0, .add_special = true};
    const auto ids = tokenizer.Encode(text, options);
    ASSERT_EQ(whole.Encode(text, options), ids) << text;
    ASSERT_EQ(ids[0], 1);
    if (round % 3 != 0 && !options.parse_special) {
      ASSERT_EQ(tokenizer.Decode(ids, {.skip_special = true}), text);
    }
  }
  WriteFileAtomic(dir_ / "tokenizer.json", "{}");  // where there is one, it counts
  ExpectError([&] { (void)Tokenizer::Load(dir_.path()); }, ErrorCode::kFormat, {"tokenizer.json"});
}

TEST_F(SentencePiece, GoesIntoGgufAndBackWithEveryScore) {
  const SentencePieceFile file = SomePieces(1);
  GgufMetadata metadata;
  SetGgufTokenizer(dir_.path(), {.vocab_size = file.pieces.size()}, &metadata);
  const GgufFile gguf = GgufFile::Open(Gguf(metadata));
  EXPECT_EQ(gguf.Text("tokenizer.ggml.model"), "llama");
  EXPECT_EQ(gguf.Find("tokenizer.huggingface.json"), nullptr);
  EXPECT_EQ(gguf.FindFloats("tokenizer.ggml.scores"), file.scores);
  const auto back = SentencePieceOfGguf(gguf);
  ASSERT_TRUE(back);
  EXPECT_EQ(SentencePieceBytes(*back), SentencePieceBytes(file));
  const Tokenizer before = Tokenizer::Load(dir_.path()), after = Tokenizer::FromGguf(gguf);
  EXPECT_EQ(before.sha256(), after.sha256());
  std::mt19937_64 rng(3);
  for (int round = 0; round < 100; ++round) {
    const std::string text = RandomText(rng);
    ASSERT_EQ(after.Encode(text), before.Encode(text)) << text;
  }
}

TEST_F(SentencePiece, TokenizerConfigChangesTheStepsAround) {
  const auto ids = [&](const std::string& text) {
    return Tokenizer::Load(dir_.path()).Encode(text, {.add_special = true});
  };
  const int32_t mark = *Tokenizer::Load(dir_.path()).TokenId(kMark), z = 3 + 'z';
  EXPECT_EQ(ids("z<s>z"), (std::vector<int32_t>{1, mark, z, 1, mark, z}));
  Config(R"({"legacy": false, "add_eos_token": true})");
  EXPECT_EQ(ids("z<s>z"), (std::vector<int32_t>{1, mark, z, 1, z, 2}));
  Config(R"({"add_prefix_space": false, "add_bos_token": false})");
  EXPECT_EQ(ids("z<s>z"), (std::vector<int32_t>{z, 1, z}));
  Config(R"({"eos_token": "@tool@", "bos_token": null})");
  const Tokenizer named = Tokenizer::Load(dir_.path());
  EXPECT_FALSE(named.bos_id());
  EXPECT_EQ(named.eos_id(), named.TokenId("@tool@"));
  Config(R"({"legacy": "no"})");
  ExpectError([&] { (void)ids(""); }, ErrorCode::kFormat, {"tokenizer_config.json: legacy = \"no\"", "true or false"});
  Config(R"({"added_tokens_decoder": {"7": {"content": "@tool@"}}})");
  ExpectError([&] { (void)ids(""); }, ErrorCode::kFormat, {"tokenizer.model gives this token id"});
}

// Published vocabularies of the family have no tokens for the markers of its chats.
TEST_F(SentencePiece, MarkersOfChatsMayBePlainText) {
  const Tokenizer tokenizer = Tokenizer::Load(dir_.path());
  ASSERT_FALSE(tokenizer.TokenId(kUserMark));
  const ChatTemplate form = ChatTemplate::Choose("m", "minicpm", {}, tokenizer);
  const auto text = [&](const std::vector<int32_t>& ids) { return tokenizer.Decode(ids, {.skip_special = true}); };
  const auto one = form.Encode(tokenizer, {{"user", " ab "}}, true);
  auto want = tokenizer.Encode(kUserMark + "ab<AI>", {.parse_special = false, .add_special = true});
  EXPECT_EQ(one, want);  // as the published template is rendered and encoded
  const auto two = form.Encode(tokenizer, {{"user", "ab"}, {"assistant", "c"}, {"user", "d"}}, true);
  EXPECT_EQ(text(two), kUserMark + "ab<AI>c" + kUserMark + "d<AI>");
  const auto rest = form.LaterTurn(tokenizer, std::nullopt, "d");  // behind an answer, whose tokens stay what they are
  EXPECT_EQ(rest, tokenizer.Encode(kUserMark + "d<AI>", {.continues = true}));
  EXPECT_EQ(form.EndIds(tokenizer), std::vector<int32_t>{2});
}

TEST_F(SentencePiece, TheFamilyOfTheModelChoosesTheForm) {
  const Tokenizer tokenizer = Tokenizer::Load(dir_.path());
  std::vector<std::string> warnings;
  const auto load = [&](const std::string& path) { return ChatTemplate::Load(path, "", tokenizer, &warnings).name(); };
  ExpectError([&] { (void)load(dir_.path()); }, ErrorCode::kConfig, {"has no chat template"});
  WriteFileAtomic(dir_ / "config.json", ConfigJson(BlockFfnNano()));
  EXPECT_EQ(load(dir_.path()), "minicpm");
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("no chat template: minicpm is used"), std::string::npos);
  GgufMetadata metadata;
  metadata.SetText("hydra.config", ConfigJson(BlockFfnNano()));
  EXPECT_EQ(load(Gguf(metadata)), "minicpm");
  // Published templates of the family leave bos to the tokenizer.
  Config(R"({"chat_template": "{{ '<' ~ messages[0].content ~ '>' }}"})");
  const ChatTemplate own = ChatTemplate::Load(dir_.path(), "", tokenizer);
  EXPECT_EQ(own.name(), "the model's own");
  EXPECT_EQ(own.Encode(tokenizer, {{"user", "ab"}}, true), tokenizer.Encode("<ab>", {.add_special = true}));
  Config(R"({"hydralm_chat_template": "plain"})");
  EXPECT_EQ(load(dir_.path()), "plain");
  WriteFileAtomic(dir_ / "config.json", ConfigJson(TransformerNano()));
  Config("{}");
  ExpectError([&] { (void)load(dir_.path()); }, ErrorCode::kConfig, {"has no chat template"});
}

// ---- Bad files ----

std::string ProtoVarint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string ProtoNumber(int field, uint64_t value) {
  return ProtoVarint(static_cast<uint64_t>(field) << 3) + ProtoVarint(value);
}
std::string ProtoText(int field, const std::string& text) {
  return ProtoVarint(static_cast<uint64_t>(field) << 3 | 2) + ProtoVarint(text.size()) + text;
}
std::string ProtoFloat(int field, float value) {
  return ProtoVarint(static_cast<uint64_t>(field) << 3 | 5) + Le(value);
}

TEST_F(SentencePiece, RefusesBadFiles) {
  const std::string good = SentencePieceBytes(SomePieces(1)), file = "t.model";
  const auto bad = [&](const char* name, const std::string& bytes, const char* field, std::vector<std::string> found) {
    ExpectBadFile({.format = "tokenizer.model", .name = name, .file = file, .field = field, .found = std::move(found)},
                  [&] { (void)ReadSentencePiece(AsBytes(bytes), file); });
  };
  const auto piece = [&](const std::string& fields) { return good + ProtoText(1, fields); };
  const int n = SomePieces(1).pieces.size();
  const std::string last = fmt::format("pieces[{}]", n);
  bad("cut", good.substr(0, good.size() - 3), "field 3", {"ends at"});
  bad("wire-type", piece(ProtoNumber(1, 3)), last.c_str(), {"piece has wire type 0: must be 2"});
  bad("", good + ProtoVarint(7 << 3 | 3), "field 7", {"wire type 3"});
  bad("", std::string(11, '\xFF'), "tag", {"64 bits"});
  bad("", ProtoNumber(0, 1), "tag", {"no field"});
  bad("not-bpe", good + ProtoText(2, ProtoNumber(3, 1)), "trainer_spec.model_type", {"= 1 (UNIGRAM)", "2 (BPE)"});
  bad("charsmap", good + ProtoText(3, ProtoText(1, "nmt_nfkc") + ProtoText(2, "xyz") + ProtoNumber(4, 0)),
      "normalizer_spec", {"precompiled_charsmap", "3 bytes", "nmt_nfkc"});
  bad("", good + ProtoText(3, ProtoNumber(4, 1)), "normalizer_spec.remove_extra_whitespaces", {"= true"});
  bad("", good + ProtoText(3, ProtoText(1, "identity")), "normalizer_spec.remove_extra_whitespaces", {"= true"});
  bad("", good + ProtoText(3, ProtoNumber(4, 0) + ProtoNumber(5, 0)), "normalizer_spec",
      {"escape_whitespaces", "= false"});
  bad("", good + ProtoText(2, ProtoNumber(24, 1)), "trainer_spec", {"treat_whitespace_as_suffix", "= true"});
  bad("piece-twice", piece(ProtoText(1, "a")), last.c_str(), {"= \"a\"", "twice"});
  bad("", piece(ProtoFloat(2, 1)), last.c_str(), {"has no text"});
  bad("", piece(ProtoText(1, "\xFF")), last.c_str(), {"UTF-8"});
  bad("score-nan", piece(ProtoText(1, "new") + ProtoFloat(2, NAN)), last.c_str(), {"score", "finite"});
  bad("", piece(ProtoText(1, "new") + ProtoNumber(3, 7)), last.c_str(), {"type 7"});
  bad("", piece(ProtoText(1, std::string(513, 'x'))), last.c_str(), {"513 bytes", "512"});
  bad("", piece(ProtoText(1, "0x00") + ProtoNumber(3, 6)), last.c_str(), {"a byte is written <0x00>"});
  bad("bytes-missing", good + ProtoText(2, ProtoNumber(35, 0)), "trainer_spec.byte_fallback",
      {"= false", "256 pieces of bytes"});
  bad("id-over-vocab", good + ProtoText(2, ProtoNumber(42, 9999)), "trainer_spec.eos_id", {"= 9999", "below"});
  bad("", good + ProtoText(2, ProtoNumber(40, 1)), "trainer_spec.unk_id", {"= 1", "unknown piece"});
  bad("", "", "pieces", {"are 0"});
  // Pieces that every way to cut makes of others.
  SentencePieceFile many = SomePieces(1);
  std::vector<std::string> texts;
  for (int32_t id = 0; id < many.pieces.size(); ++id) texts.emplace_back(many.pieces.Text(id));
  for (size_t i = 2; i <= 500; ++i) {
    texts.push_back(std::string(i, 'a'));
    many.scores.push_back(-1), many.types.push_back(1);
  }
  many.pieces = TokenTable(std::vector<std::string_view>(texts.begin(), texts.end()));
  ExpectError([&] { (void)TokenizerFileOf(std::move(many), {}, file); }, ErrorCode::kFormat,
              {file, "pieces", "merges"});
}

TEST_F(SentencePiece, AnyChangeOfAByteAndAnyCutIsAnErrorOrAnotherTokenizer) {
  const std::string good = SentencePieceBytes(SomePieces(1));
  const auto load = [&](const std::string& bytes) {
    try {
      SentencePieceFile file = ReadSentencePiece(AsBytes(bytes), "t.model");
      const auto n = static_cast<size_t>(file.pieces.size());
      ASSERT_EQ(file.scores.size(), n);
      ASSERT_EQ(file.types.size(), n);
      (void)TokenizerFileOf(std::move(file), {}, "t.model");
    } catch (const Error& e) {
      ASSERT_EQ(std::string_view(e.what()).find('\n'), std::string_view::npos) << e.what();
      ASSERT_EQ(std::string_view(e.what()).find("t.model: "), 0u) << e.what();
    }
  };
  for (size_t at = 0; at < good.size(); at += kSanitized ? 7 : 1) {
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ (at % 3 == 0 ? 0xFF : 1 << at % 8));
    load(damaged);
    load(good.substr(0, at));
  }
}

}  // namespace
}  // namespace hydra
