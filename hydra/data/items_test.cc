// SPDX-License-Identifier: Apache-2.0
// Item files: there and back, each kind of bad line by its field, splits of names.
#include "hydra/data/items.h"

#include <functional>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

ItemFile TwoItems() {
  ItemFile file;
  file.tokenizer_sha256 = std::string(64, 'a');
  file.model_sha256 = std::string(64, 'b');
  file.split = ItemSplit::kValid;
  file.seed = -3;
  file.lengths = {8, 16};
  file.settings = R"({"form":"chat"})";
  file.items = {{.id = "a",
                 .kind = "copy",
                 .length = 8,
                 .ids = {1, 2, 3, 4},
                 .answer_begin = 2,
                 .answer_end = 4,
                 .gold = {3, 4},
                 .others = {{5}, {6, 7}},
                 .group = "g",
                 .prefix = 2,
                 .depth = 0.25,
                 .dense_nll = 0.125,
                 .dense_right = true,
                 .docs = {"one.txt", "two.txt"}},
                {.id = "b",
                 .kind = "summary",
                 .length = 16,
                 .ids = {9, 8, 7},
                 .answer_begin = 1,
                 .answer_end = 3,
                 .group = "b",
                 .dense_nll = 2}};
  return file;
}

TEST(Items, ComeBackFromTheirFile) {
  const TempDir dir;
  const ItemFile file = TwoItems();
  file.Save(dir / "items.jsonl");
  const ItemFile read = ItemFile::Load(dir / "items.jsonl");
  EXPECT_EQ(read.HeadLine(), file.HeadLine());
  ASSERT_EQ(read.items.size(), 2U);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(ItemFile::Line(read.items[i]), ItemFile::Line(file.items[i]));
  EXPECT_EQ(read.Sha256(), file.Sha256());
  EXPECT_EQ(read.items[0].answer()[0], 3);
  EXPECT_EQ(read.items[1].prompt().size(), 1U);
  ItemFile other = file;
  other.items[0].dense_nll = 7;
  EXPECT_EQ(other.Sha256(), file.Sha256());
  other.items[0].ids[1] = 5;
  EXPECT_NE(other.Sha256(), file.Sha256());
  other = file;
  other.items[0].others[1] = {6};
  EXPECT_NE(other.Sha256(), file.Sha256());
  other.items[0].others[1] = {12};
  ExpectError([&] { other.CheckIds("f", std::string(64, 'a'), 10); }, ErrorCode::kData, {"f: item a", "id 12"});
  file.CheckIds("f", std::string(64, 'a'), 10);
  ExpectError([&] { file.CheckIds("f", std::string(64, 'a'), 9); }, ErrorCode::kData, {"f: item b", "id 9"});
  ExpectError([&] { file.CheckIds("f", std::string(64, 'c'), 10); }, ErrorCode::kData, {"tokenizer_sha256", "ccc"});
}

TEST(Items, BadFilesAreRefusedByLineAndField) {
  const TempDir dir;
  const std::string path = dir / "items.jsonl";
  const auto refused = [&](size_t line, const std::function<void(Json&)>& damage, const std::string& field,
                           std::vector<std::string> found) {
    const ItemFile file = TwoItems();
    std::vector<std::string> lines{file.HeadLine(), ItemFile::Line(file.items[0]), ItemFile::Line(file.items[1])};
    Json json = Json::parse(lines[line]);
    damage(json);
    lines[line] = json.dump() + "\n";
    WriteFileAtomic(path, lines[0] + lines[1] + lines[2]);
    ExpectBadFile({.format = "items", .name = "", .file = StrCat(path, ":", line + 1), .field = field, .found = found},
                  [&] { (void)ItemFile::Load(path); });
  };
  refused(0, [](Json& j) { j["format"] = "x"; }, "format", {"x", "hydralm-items/1"});
  refused(0, [](Json& j) { j["split"] = "train"; }, "split", {"train", "calib, valid or test"});
  refused(0, [](Json& j) { j["tokenizer_sha256"] = ""; }, "tokenizer_sha256", {"64"});
  refused(0, [](Json& j) { j["lengths"] = Json::array(); }, "lengths", {"a length"});
  refused(0, [](Json& j) { j["lengths"] = {16, 8}; }, "lengths", {"ascend"});
  refused(0, [](Json& j) { j.erase("seed"); }, "seed", {"missing"});
  refused(1, [](Json& j) { j["ids"][2] = -1; }, "ids[2]", {"-1", "whole number"});
  refused(1, [](Json& j) { j["ids"] = 5; }, "ids", {"5", "a list"});
  refused(1, [](Json& j) { j["answer"] = {2}; }, "answer", {"[begin, end]"});
  refused(1, [](Json& j) { j["answer"] = {0, 2}; }, "answer[0]", {"0", "from 1"});
  refused(1, [](Json& j) { j["answer"] = {2, 5}; }, "answer[1]", {"5", "to 4"});
  refused(1, [](Json& j) { j["length"] = 9; }, "length", {"9", "not one of"});
  refused(1, [](Json& j) { j["others"] = 5; }, "others", {"5", "a list of answers"});
  refused(1, [](Json& j) { j["others"][1] = Json::array(); }, "others[1]", {"a token at least"});
  refused(1, [](Json& j) { j["others"][0][0] = "x"; }, "others[0][0]", {"x", "whole number"});
  refused(1, [](Json& j) { j.erase("gold"); }, "gold", {"missing"});
  refused(2, [](Json& j) { j["length"] = 2; }, "ids", {"3 tokens", "length = 2"});
  refused(2, [](Json& j) { j["dense_nll"] = "x"; }, "dense_nll", {"x", "a number"});
  refused(2, [](Json& j) { j["dense_right"] = 1; }, "dense_right", {"true or false"});
  refused(2, [](Json& j) { j["prefix"] = 2; }, "prefix", {"2", "to 1"});
  WriteFileAtomic(path, std::string_view(""));
  ExpectError([&] { (void)ItemFile::Load(path); }, ErrorCode::kFormat, {path, "format", "empty"});
  WriteFileAtomic(path, std::string_view("[]\n"));
  ExpectError([&] { (void)ItemFile::Load(path); }, ErrorCode::kFormat, {path + ":1", "JSON object"});
}

TEST(Items, NamesFallIntoSplitsInGivenShares) {
  int64_t counts[3] = {0, 0, 0};
  constexpr int64_t kNames = 5000;
  for (int64_t i = 0; i < kNames; ++i) ++counts[static_cast<int>(SplitOfName("document " + std::to_string(i)))];
  // Five deviations: a false alarm in a million seeds, and names are fixed.
  EXPECT_NEAR(static_cast<double>(counts[0]) / kNames, 0.6, 0.035);
  EXPECT_NEAR(static_cast<double>(counts[1]) / kNames, 0.2, 0.03);
  EXPECT_EQ(SplitOfName("a"), SplitOfName("a"));
  EXPECT_EQ(ParseItemSplit("test", "--split"), ItemSplit::kTest);
  ExpectError([] { (void)ParseItemSplit("train", "--split"); }, ErrorCode::kUsage, {"--split train", "calib"});
}

}  // namespace
}  // namespace hydra
