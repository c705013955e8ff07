// SPDX-License-Identifier: Apache-2.0
// The tokenizer on its own: scanners against PCRE2, mended text, streams, added tokens, merging against a naive loop,
// bad files. Equality with Python's `tokenizers` is tests/parity/tokenizer_parity.py.
#include "hydra/text/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <thread>

#include "hydra/base/error.h"
#include "hydra/base/testing.h"
#include "hydra/base/utf8.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/text/bpe.h"
#include "hydra/text/bpe_train.h"
#include "hydra/text/pretokenizer.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {
namespace {

// The characters that PCRE2 knows; utf8proc may be a Unicode version ahead.
const std::vector<char32_t>& Assigned() {
  static const std::vector<char32_t> assigned = [] {
    std::string all;
    for (char32_t c = 1; c < 0x110000; ++c) {
      if ((c < 0xD800 || c > 0xDFFF) && c != 0x180E) AppendUtf8(c, all);
    }
    std::vector<char32_t> chars;
    Regex("[^\\p{Cn}\\p{Co}]", "test").ForEachMatch(all, [&](Regex::Span s) {
      chars.push_back(DecodeUtf8(&all[s.begin]).value);
    });
    return chars;
  }();
  return assigned;
}

// Any assigned character but U+180E, whose class PCRE2 sees differently; mostly from the patterns' corners.
char32_t RandomChar(std::mt19937_64& rng) {
  static constexpr std::u32string_view kCorners =
      U" \t\n\r\v\f\u0085\u00A0\u2003\u2028\u3000'sSdDtTmMlLvVrReE\u017F\u212A09\u0663\u00BD\u2160aZ\u00E9\u4E2D\u0301_"
      U"-.\u200D"
      U"\U0001F600\U00010400\u00AD\uFEFF";
  if (rng() % 8 != 0) return kCorners[rng() % kCorners.size()];
  return Assigned()[rng() % (rng() % 2 ? Assigned().size() : 0x2000)];
}

std::string RandomText(std::mt19937_64& rng, size_t max_chars) {
  std::string text;
  for (size_t n = rng() % (max_chars + 1); n > 0; --n) {
    const char32_t c = RandomChar(rng);
    for (size_t times = rng() % 6 == 0 ? 1 + rng() % 4 : 1; times > 0; --times) AppendUtf8(c, text);
  }
  return text;
}

std::string RandomBytes(std::mt19937_64& rng, size_t max_bytes) {
  static constexpr std::string_view kCorners =
      "\x01\x7F\x80\xBF\xC0\xC1\xC2\xDF\xE0\xED\xEF\xF0\xF4\xF5\xFF\x9F\xA0\x8F\x90";
  std::string bytes;
  for (size_t n = rng() % (max_bytes + 1); n > 0; --n) {
    bytes.push_back(rng() % 2 ? static_cast<char>(rng()) : kCorners[rng() % kCorners.size()]);
  }
  return bytes;
}

// A small tokenizer.json of ours, to be changed by tests.
const std::string& SmallFile() {
  static const std::string file = [] {
    std::string text;
    for (int i = 0; i < 40; ++i) text += fmt::format("the cat and the dog {} don't say hello, world\n\n  again ", i);
    return TrainBpe({text}, {.vocab_size = 400, .pattern = SplitPattern::kGpt2}).json;
  }();
  return file;
}

Json SmallJson() { return Json::parse(SmallFile()); }
Tokenizer FromJson(const Json& json) { return Tokenizer::FromJson(json.dump(), "toy.json"); }

// A regular expression before ByteLevel.
Json Split(const char* regex) {
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Json level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({split, level})}};
}

std::string ErrorOf(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// ---- Text ----

TEST(TokenizerText, ByteAlphabetIsABijection) {
  std::map<char32_t, int> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = ByteLevelChar(static_cast<uint8_t>(byte));
    EXPECT_EQ(ByteLevelByte(c), byte);
    EXPECT_TRUE(seen.emplace(c, byte).second);
  }
  EXPECT_EQ(ToByteLevel(" a\n"), "\u0120a\u010A");
}

TEST(TokenizerText, NfcKnowsHangulMarksAndIsNotQuadratic) {
  EXPECT_EQ(Nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(Nfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(Nfc("a\u0301\u0323"), "\u1EA1\u0301");  // marks sorted, then composed
  EXPECT_EQ(Nfc("\u0344"), "\u0308\u0301");
  EXPECT_EQ(Nfc("\u0E39\U00011070"), "\u0E39\U00011070");  // newer than Unicode 9: not sorted
  ExpectLessThanQuadraticTime(50'000, [](int64_t n) {
    std::string marks = "a";
    for (int64_t i = 0; i < n; ++i) marks += i % 2 ? "\u0323" : "\u0301";
    return [marks] { EXPECT_FALSE(Nfc(marks).empty()); };
  });
}

// ---- Splitting ----

TEST(Pretokenizer, ScannersEqualPcre2) {
  const std::vector<std::pair<SplitPattern, std::string_view>> patterns = {
      {SplitPattern::kGpt2, kGpt2Regex}, {SplitPattern::kLlama3, kLlama3Regex}, {SplitPattern::kQwen2, kQwen2Regex}};
  for (const auto& [pattern, source] : patterns) {
    const Regex regex(source, "test");
    for (const uint64_t seed : {1, 2, 3}) {
      std::mt19937_64 rng(seed);
      for (int round = 0; round < 1500; ++round) {
        const std::string text = RandomText(rng, 24);
        std::vector<std::string> want, got;
        regex.ForEachMatch(text, [&](Regex::Span s) { want.push_back(text.substr(s.begin, s.end - s.begin)); });
        ScanPieces(pattern, text, [&](std::string_view piece) { got.emplace_back(piece); });
        ASSERT_EQ(want, got) << "pattern " << source << " seed " << seed << " round " << round << " text "
                             << Json(text).dump();
      }
    }
  }
}

TEST(Pretokenizer, ScannersEqualPcre2OnEachCharacter) {
  const Regex gpt2(kGpt2Regex, "test"), llama3(kLlama3Regex, "test");
  std::string all;
  for (const char32_t c : Assigned()) {
    all += "a1 .";
    AppendUtf8(c, all);
  }
  for (const auto& [regex, pattern] :
       {std::pair(&gpt2, SplitPattern::kGpt2), std::pair(&llama3, SplitPattern::kLlama3)}) {
    std::vector<size_t> want, got;
    regex->ForEachMatch(all, [&](Regex::Span s) { want.push_back(s.end); });
    ScanPieces(pattern, all,
               [&, at = size_t{0}](std::string_view piece) mutable { got.push_back(at += piece.size()); });
    EXPECT_TRUE(want == got) << "pieces differ";
  }
}

TEST(Pretokenizer, RegexRefusesWhatPcre2ReadsDifferently) {
  for (const char* pattern :
       {R"(\h+)", R"(\R)", R"(\b)", R"((a)\1)", "[[:alpha:]]", "[a&&b]", "a(?i)b", "(?m)a", "a{,3}", "a{2}+", "(*FAIL)",
        "[]a]", R"(\xC3)", R"(\k<a>)", "(?P<n>a)", "(?<n>a)", "[a[b]]", R"(\p{Greek)"}) {
    const std::string what = ErrorOf([&] { Regex(pattern, "toy.json: field"); });
    EXPECT_NE(what.find("toy.json: field"), std::string::npos) << pattern << ": " << what;
  }
  EXPECT_EQ(TranslateRegex(R"(\p{Han}\p{L}\u4e00\v)", "t"), R"(\p{sc:Han}\p{L}\x{4e00}\x0B)");
}

// ---- BPE ----

// Repeats: of all pairs the lowest rank, of those the leftmost.
std::vector<int32_t> NaiveMerge(std::vector<int32_t> ids, const BpeModel::Merges& merges) {
  for (;;) {
    size_t best_rank = merges.size(), best = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) best_rank = rank, best = i;
      }
    }
    if (best_rank == merges.size()) return ids;
    ids[best] = merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(Bpe, ShortAndLongPiecesEqualTheNaiveLoop) {
  for (const uint64_t seed : {11, 12, 13, 14}) {
    std::mt19937_64 rng(seed);
    // Merges over a few letters, in an order no training gives.
    std::vector<std::string> texts = {"a", "b", "c"};
    BpeModel::Merges merges;
    while (merges.size() < 60) {
      const auto a = static_cast<int32_t>(rng() % texts.size()), b = static_cast<int32_t>(rng() % texts.size());
      const std::string joined = texts[static_cast<size_t>(a)] + texts[static_cast<size_t>(b)];
      auto found = std::find(texts.begin(), texts.end(), joined);
      if (joined.size() > 12) continue;
      if (std::any_of(merges.begin(), merges.end(), [&](const auto& m) { return m.left == a && m.right == b; }))
        continue;
      const auto id = static_cast<int32_t>(found - texts.begin());
      if (found == texts.end()) texts.push_back(joined);
      merges.push_back({a, b, id});
    }
    std::shuffle(merges.begin(), merges.end(), rng);
    const TokenTable table({texts.begin(), texts.end()});
    const BpeModel model(&table, merges, {});
    BpeModel::Scratch scratch;
    for (const size_t length : {1, 2, 7, 47, 48, 49, 120, 300}) {
      std::string piece;
      std::vector<int32_t> symbols, got;
      for (size_t i = 0; i < length; ++i)
        symbols.push_back(static_cast<int32_t>(rng() % 3)), piece += texts[static_cast<size_t>(symbols.back())];
      model.Encode(piece, scratch, got);
      ASSERT_EQ(got, NaiveMerge(symbols, merges)) << "seed " << seed << " piece " << piece;
    }
  }
}

TEST(Bpe, AMegabyteOfOneWordIsNotQuadratic) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "toy.json");
  ExpectLessThanQuadraticTime(1 << 18, [&](int64_t n) {
    std::mt19937_64 rng(3);
    std::string word;
    for (int64_t i = 0; i < n; ++i) word.push_back("thecadogsy"[rng() % 10]);
    return [&tokenizer, word] { EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(word)), word); };
  });
}

// ---- The whole ----

TEST(Tokenizer, DecodeUndoesEncode) {
  for (const auto pattern : {SplitPattern::kGpt2, SplitPattern::kLlama3, SplitPattern::kQwen2}) {
    const auto trained =
        TrainBpe({"the cat sat on the mat, the cat's 1234 mats\n\n"}, {.vocab_size = 300, .pattern = pattern});
    const Tokenizer tokenizer = Tokenizer::FromJson(trained.json, "toy.json");
    std::mt19937_64 rng(5);
    Tokenizer::Scratch scratch;
    for (int round = 0; round < 400; ++round) {
      const std::string text = RandomText(rng, 40) + (round % 5 == 0 ? "<|endoftext|>x" : "");
      for (const bool special : {true, false}) {
        std::vector<int32_t> ids;
        tokenizer.Encode(text, {.parse_special = special}, scratch, ids);
        ASSERT_EQ(tokenizer.Decode(ids), text) << "round " << round;
        ASSERT_EQ(ids, tokenizer.Encode(text, {.parse_special = special})) << "the cache changed ids";
      }
    }
  }
}

TEST(Tokenizer, InvalidBytesAreReplaced) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "toy.json");
  std::mt19937_64 rng(9);
  std::string buffer;
  for (int round = 0; round < 300; ++round) {
    const std::string bytes = RandomBytes(rng, 30);
    const std::string mended(MendUtf8(bytes, buffer));
    EXPECT_EQ(tokenizer.Encode(bytes), tokenizer.Encode(mended));
    EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(bytes)), mended);
  }
}

TEST(Tokenizer, TokenBytesStreamToTheText) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "toy.json");
  const std::string text = "the \u4E2D\U0001F600 cat\u00E9";
  Utf8Stream stream;
  std::string got;
  for (const int32_t id : tokenizer.Encode(text)) got += stream.Push(tokenizer.TokenBytes(id));
  EXPECT_EQ(got + stream.Finish(), text);
}

TEST(Tokenizer, SpecialTokensAreParsedOnlyWhereAsked) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "toy.json");
  ASSERT_EQ(tokenizer.eos_id(), 0);
  EXPECT_FALSE(tokenizer.bos_id().has_value());
  EXPECT_TRUE(tokenizer.IsSpecial(0));
  EXPECT_EQ(tokenizer.Encode("<|endoftext|>"), std::vector<int32_t>{0});
  const auto plain = tokenizer.Encode("<|endoftext|>", {.parse_special = false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 0), 0);
  EXPECT_EQ(tokenizer.Decode(std::vector<int32_t>{0}, {.skip_special = true}), "");
  EXPECT_EQ(tokenizer.Decode(0), "<|endoftext|>");
  EXPECT_EQ(tokenizer.TokenId("<|endoftext|>"), 0);
  EXPECT_FALSE(tokenizer.TokenId("no such token").has_value());
  EXPECT_NE(ErrorOf([&] { (void)tokenizer.Decode(400); }).find("400"), std::string::npos);
  EXPECT_NE(ErrorOf([&] { (void)tokenizer.Decode(-1); }), "");
}

// Word characters are letters, marks, digits, connectors and the two joiners, as in the library.
TEST(Tokenizer, SingleWordsEndWhereTheLibrarySaysSo) {
  Json json = SmallJson();
  const auto id = static_cast<int32_t>(json["model"]["vocab"].size());
  json["added_tokens"].push_back({{"id", id}, {"content", "qq"}, {"single_word", true}});
  const Tokenizer tokenizer = FromJson(json);
  const auto found = [&](const std::string& text) {
    const auto ids = tokenizer.Encode(text);
    return std::count(ids.begin(), ids.end(), id) == 1;
  };
  for (const char* word :
       {"a", "7", "_", "\u00E9", "\u0301", "\u0663", "\u203F", "\u4E2D", "\u200C", "\u200D", "\u2160"}) {
    EXPECT_FALSE(found(std::string("qq") + word)) << word;
    EXPECT_FALSE(found(std::string(word) + "qq")) << word;
  }
  for (const char* other : {" ", "-", "\u00BD", "\u200B", "\u2014", "\U0001F600", "\u00AD"}) {
    EXPECT_TRUE(found(std::string("qq") + other)) << other;
    EXPECT_TRUE(found(std::string(other) + "qq")) << other;
  }
}

// A token within the white space that the token before it took counts too, as in the library.
TEST(Tokenizer, ATokenInStrippedSpaceIsFound) {
  Json json = SmallJson();
  const auto id = static_cast<int32_t>(json["model"]["vocab"].size());
  json["added_tokens"].push_back({{"id", id}, {"content", "[R]"}, {"rstrip", true}});
  json["added_tokens"].push_back({{"id", id + 1}, {"content", "  "}});
  const Tokenizer tokenizer = FromJson(json);
  EXPECT_EQ(tokenizer.Encode("[R]   "), (std::vector<int32_t>{id, id + 1, tokenizer.Encode(" ")[0]}));
  EXPECT_EQ(tokenizer.Encode("[R] "), std::vector<int32_t>{id});
}

// Text of a stranger that spells a special token stays text, also where a piece that is a token is that token.
TEST(Tokenizer, IgnoreMergesFindsNoSpecialTokens) {
  Json json = SmallJson();
  const auto id = static_cast<int32_t>(json["model"]["vocab"].size());
  json["model"]["ignore_merges"] = true;
  json["model"]["vocab"]["stop"] = id;
  json["added_tokens"].push_back({{"id", id}, {"content", "stop"}, {"special", true}});
  const Tokenizer tokenizer = FromJson(json);
  EXPECT_EQ(tokenizer.Encode("stop"), std::vector<int32_t>{id});
  const auto ids = tokenizer.Encode("stop", {.parse_special = false});
  EXPECT_EQ(std::count(ids.begin(), ids.end(), id), 0);
}

TEST(Tokenizer, AddedTokensStripSpacesAndKnowWords) {
  Json json = SmallJson();
  const auto add = [&](const char* content, const char* flag) {
    const size_t id = json["model"]["vocab"].size() + json["added_tokens"].size() - 1;
    json["added_tokens"].push_back({{"id", id},
                                    {"content", content},
                                    {"special", false},
                                    {"normalized", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"single_word", false}});
    if (flag) json["added_tokens"].back()[flag] = true;
    return static_cast<int32_t>(id);
  };
  const int32_t left = add("[L]", "lstrip"), right = add("[R]", "rstrip"), word = add("qq", "single_word");
  const int32_t shorter = add("[ab", nullptr), longer = add("[abc]", nullptr);
  const Tokenizer tokenizer = FromJson(json);
  EXPECT_EQ(tokenizer.Encode(" \t[L]"), std::vector<int32_t>{left});
  EXPECT_EQ(tokenizer.Encode("[R]\n \u3000"), std::vector<int32_t>{right});
  EXPECT_EQ(tokenizer.Encode("[R] [L]"), (std::vector<int32_t>{right, left}));
  EXPECT_EQ(tokenizer.Encode("qq"), std::vector<int32_t>{word});
  const auto inside = tokenizer.Encode("aqq qqb qq\u0301");
  EXPECT_EQ(std::count(inside.begin(), inside.end(), word), 0);
  EXPECT_EQ(tokenizer.Encode("[abc]"), std::vector<int32_t>{longer});
  EXPECT_EQ(tokenizer.Encode("[ab").front(), shorter);
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "toy.json");
  const std::string text = "the cat and the dog don't say hello, again and again";
  const auto want = tokenizer.Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> same(4, 0);
  for (size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) same[t] += tokenizer.Encode(text) == want;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(same, std::vector<int>(4, 200));
}

TEST(Tokenizer, FolderNamesBosAndEos) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("tokenizer-test-{}", ::getpid());
  std::filesystem::create_directories(folder);
  WriteFileAtomic(folder / "tokenizer.json", SmallFile());
  EXPECT_EQ(Tokenizer::Load(folder).eos_id(), 0);
  EXPECT_EQ(Hex(Tokenizer::Load(folder / "tokenizer.json").sha256()), Sha256Hex(SmallFile()));
  WriteFileAtomic(folder / "tokenizer_config.json",
                  std::string_view(R"({"bos_token": {"content": "<|endoftext|>"}, "eos_token": "a"})"));
  EXPECT_EQ(Tokenizer::Load(folder).bos_id(), 0);
  EXPECT_EQ(Tokenizer::Load(folder).eos_id(), Tokenizer::Load(folder).TokenId("a"));
  WriteFileAtomic(folder / "tokenizer_config.json", std::string_view(R"({"eos_token": "</s>"})"));
  EXPECT_NE(ErrorOf([&] { (void)Tokenizer::Load(folder); }).find("tokenizer_config.json: eos_token"),
            std::string::npos);
  std::filesystem::remove_all(folder);
  EXPECT_NE(ErrorOf([&] { (void)Tokenizer::Load(folder); }), "");
}

// ---- Bad files ----

struct BadTokenizer {
  const char* name;
  const char* field;
  std::function<void(Json&)> change;
};

std::vector<BadTokenizer> BadTokenizers() {
  return {
      {"id-gap", "model.vocab", [](Json& j) { j["model"]["vocab"]["a"] = 100000; }},
      {"id-gap-added", "added_tokens[1]",
       [](Json& j) {
         j["added_tokens"].push_back({{"id", 1000}, {"content", "zz"}});
       }},
      {"id-twice", "model.vocab", [](Json& j) { j["model"]["vocab"]["a"] = j["model"]["vocab"]["b"]; }},
      {"id-twice-added", "added_tokens[1]",
       [](Json& j) {
         j["added_tokens"].push_back({{"id", 5}, {"content", "zz"}});
       }},
      {"id-negative", "model.vocab[\"a\"]", [](Json& j) { j["model"]["vocab"]["a"] = -1; }},
      {"id-negative-added", "added_tokens[0].id", [](Json& j) { j["added_tokens"][0]["id"] = -1; }},
      {"id-text", "model.vocab[\"a\"]", [](Json& j) { j["model"]["vocab"]["a"] = "7"; }},
      {"id-real", "model.vocab[\"a\"]", [](Json& j) { j["model"]["vocab"]["a"] = 7.5; }},
      {"id-huge", "model.vocab[\"a\"]", [](Json& j) { j["model"]["vocab"]["a"] = UINT64_MAX; }},
      {"id-array", "model.vocab[\"a\"]", [](Json& j) { j["model"]["vocab"]["a"] = Json::array(); }},
      {"merge-unknown", "model.merges[0]", [](Json& j) { j["model"]["merges"][0] = "a zzzz"; }},
      {"merge-result-unknown", "model.merges[0]", [](Json& j) { j["model"]["merges"][0] = "! \""; }},
      {"merge-malformed", "model.merges[1]", [](Json& j) { j["model"]["merges"][1] = "ab"; }},
      {"merge-three", "model.merges[1]", [](Json& j) { j["model"]["merges"][1] = "a b c"; }},
      {"merge-pair-short", "model.merges[1]", [](Json& j) { j["model"]["merges"][1] = Json::array({"a"}); }},
      {"merge-pair-long", "model.merges[1]",
       [](Json& j) {
         j["model"]["merges"][1] = Json::array({"a", "b", "c"});
       }},
      {"merge-number", "model.merges[1]", [](Json& j) { j["model"]["merges"][1] = 3; }},
      {"merge-object", "model.merges[1]", [](Json& j) { j["model"]["merges"][1] = Json::object(); }},
      {"merges-missing", "model.merges", [](Json& j) { j["model"].erase("merges"); }},
      {"bad-regex", "pre_tokenizer.pretokenizers[0].pattern.Regex", [](Json& j) { j["pre_tokenizer"] = Split("a(b"); }},
      {"regex-explodes", "pre_tokenizer.pretokenizers[0].pattern.Regex",
       [](Json& j) { j["pre_tokenizer"] = Split("(a|a)+$"); }},
      {"special-missing", "post_processor.special_tokens[\"<s>\"]",
       [](Json& j) {
         j["post_processor"] = {
             {"type", "TemplateProcessing"},
             {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}}}}}},
             {"special_tokens", Json::object()}};
       }},
      {"special-missing-unk", "model.unk_token",
       [](Json& j) {
         j["model"]["unk_token"] = "<unk>";
         j["pre_tokenizer"] = nullptr;  // of bytes nothing is unknown
       }},
      {"id-numbered-otherwise",
       "added_tokens[0] (\"<|endoftext|>\").id = 0: it is not in model.vocab, so the tokenizers "
       "library gives it id",
       [](Json& j) { j["model"]["vocab"].erase("<|endoftext|>"); }},
      {"unknown-step", "pre_tokenizer.type",
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
       }},
      {"unknown-step-normalizer", "normalizer.type",
       [](Json& j) {
         j["normalizer"] = {{"type", "Lowercase"}};
       }},
      {"unknown-step-decoder", "decoder.type",
       [](Json& j) {
         j["decoder"] = {{"type", "WordPiece"}};
       }},
      {"unknown-step-post", "post_processor.type",
       [](Json& j) {
         j["post_processor"] = {{"type", "BertProcessing"}};
       }},
      {"unknown-model", "model.type", [](Json& j) { j["model"]["type"] = "WordPiece"; }},
      {"dropout", "model.dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }},
      {"prefix", "model.continuing_subword_prefix", [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }},
      {"too-deep", "nested deeper than 64",
       [](Json& j) {
         Json deep = 1;
         for (int i = 0; i < 70; ++i) deep = Json::array({deep});
         j["x"] = deep;
       }},
      {"not-object", "must be an object", [](Json& j) { j = Json::array(); }},
      {"model-missing", "model", [](Json& j) { j.erase("model"); }},
  };
}

TEST(TokenizerFile, RefusesBadFilesNamingTheField) {
  for (const BadTokenizer& bad : BadTokenizers()) {
    Json json = SmallJson();
    bad.change(json);
    ExpectBadFile({.format = "tokenizer.json", .name = bad.name, .file = "toy.json", .field = bad.field},
                  [&] { (void)FromJson(json); });
  }
  ExpectBadFile({.format = "tokenizer.json", .name = "not-utf8", .file = "toy.json", .field = "byte 7"},
                [] { (void)Tokenizer::FromJson("{\"a\": \"\xFF\"}", "toy.json"); });
}

TEST(TokenizerFile, RefusesBadBytes) {
  const auto error = [](std::string text) { return ErrorOf([&] { (void)Tokenizer::FromJson(text, "toy.json"); }); };
  EXPECT_NE(error("").find("empty"), std::string::npos);
  EXPECT_NE(error(R"({"model": {"vocab": {"a": 0, "a": 0}, "merges": []}})").find("given twice"), std::string::npos);
  EXPECT_NE(error(R"({"model": {}, "model": {}})").find("given twice"), std::string::npos);
  // Cut anywhere, it is no JSON; nothing else happens.
  const std::string& whole = SmallFile();
  for (size_t cut = 1; cut < whole.size() - 1; cut += cut < 600 ? 1 : 97) {
    EXPECT_NE(error(whole.substr(0, cut)).find("toy.json: "), std::string::npos) << cut;
  }
}

TEST(TokenizerFile, LeftoversThatChangeNoIdAreAccepted) {
  const std::string text = "the cat and the dog don't say hello";
  const std::vector<int32_t> want = Tokenizer::FromJson(SmallFile(), "toy.json").Encode(text);
  Json json = SmallJson();
  json["truncation"] = {{"max_length", 4}, {"strategy", "LongestFirst"}, {"stride", 0}, {"direction", "Right"}};
  json["padding"] = {{"strategy", {{"Fixed", 64}}}, {"pad_id", 0}, {"pad_token", "<|endoftext|>"}};
  json["model"]["unk_token"] = "<unk>";  // not a token, and never needed
  json["model"]["fuse_unk"] = true;
  json["model"]["dropout"] = 0.0;
  json["model"]["merges"].insert(json["model"]["merges"].begin(), "#version: 0.2");
  EXPECT_EQ(FromJson(json).Encode(text), want);
  const TempDir dir;
  WriteFileAtomic(dir / "tokenizer.json", json.dump());
  std::vector<std::string> warnings;
  EXPECT_EQ(Tokenizer::Load(dir.path(), {.warnings = &warnings}).Encode(text), want);
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("tokenizer.json: truncation is set"), std::string::npos) << warnings[0];
  EXPECT_NE(warnings[1].find("tokenizer.json: padding is set"), std::string::npos) << warnings[1];
}

TEST(TokenizerFile, ARegexThatGivesUpLaterIsAnErrorToo) {
  Json json = SmallJson();
  json["pre_tokenizer"] = Split("(x+x+)+[yz]");
  const Tokenizer tokenizer = FromJson(json);  // the probes have no x
  const std::string what = ErrorOf([&] { (void)tokenizer.Encode(std::string(100, 'x')); });
  EXPECT_NE(what.find("toy.json: pre_tokenizer.pretokenizers[0].pattern.Regex"), std::string::npos) << what;
}

TEST(TokenizerFile, PairMergesEqualTextMerges) {
  Json json = SmallJson();
  for (auto& merge : json["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    merge = Json::array({text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)});
  }
  const std::string text = "the cat and the dog don't say hello";
  EXPECT_EQ(FromJson(json).Encode(text), Tokenizer::FromJson(SmallFile(), "toy.json").Encode(text));
}

}  // namespace
}  // namespace hydra
