// SPDX-License-Identifier: Apache-2.0
// Items in files: a line of what holds for all, then a line each.
#include "hydra/data/items.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

constexpr const char* kItemFormat = "hydralm-items/1";
constexpr int64_t kMostTokens = int64_t{1} << 24;
constexpr double kCalibShare = 0.6, kValidShare = 0.8;  // and what is left is test

[[noreturn]] void FailItem(const std::string& where, const std::string& field, const std::string& rule) {
  throw Error(ErrorCode::kFormat, StrCat(where, ": ", field, rule));
}

const Json& NeedOf(const Json& json, const char* key, const std::string& where) {
  if (!json.contains(key)) FailItem(where, key, " is missing");
  return json[key];
}

std::string TextOf(const Json& json, const char* key, const std::string& where) {
  const Json& value = NeedOf(json, key, where);
  if (!value.is_string()) FailItem(where, key, StrCat(" = ", JsonExcerpt(value), ": must be a text"));
  return value.get<std::string>();
}

int64_t WholeOf(const Json& value, const std::string& field, const std::string& where, int64_t low, int64_t high) {
  const bool fits = value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
  if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high)
    FailItem(where, field, StrCat(" = ", JsonExcerpt(value), ": must be a whole number from ", low, " to ", high));
  return value.get<int64_t>();
}

double NumberOf(const Json& json, const char* key, const std::string& where) {
  const Json& value = NeedOf(json, key, where);
  if (!value.is_number() || !std::isfinite(value.get<double>()))
    FailItem(where, key, StrCat(" = ", JsonExcerpt(value), ": must be a number"));
  return value.get<double>();
}

std::vector<int32_t> IdsOf(const Json& list, const std::string& key, const std::string& where) {
  if (!list.is_array()) FailItem(where, key, StrCat(" = ", JsonExcerpt(list), ": must be a list of token ids"));
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i)
    ids.push_back(static_cast<int32_t>(WholeOf(list[i], StrCat(key, "[", i, "]"), where, 0, INT32_MAX)));
  return ids;
}

void ReadOthers(const Json& list, const std::string& where, LongItem* item) {
  if (!list.is_array()) FailItem(where, "others", StrCat(" = ", JsonExcerpt(list), ": must be a list of answers"));
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string key = StrCat("others[", i, "]");
    item->others.push_back(IdsOf(list[i], key, where));
    if (item->others.back().empty()) FailItem(where, key, ": must have a token at least");
  }
  if (!item->others.empty() && item->gold.empty())
    FailItem(where, "gold", ": is missing: others are answers beside it");
}

Json ParseObject(std::string_view line, const std::string& where) {
  Json json = ParseJson(line, where);
  if (!json.is_object()) throw Error(ErrorCode::kFormat, where + ": must be a JSON object");
  return json;
}

std::string HashOf(const Json& json, const char* key, const std::string& where, bool may_be_empty) {
  std::string text = TextOf(json, key, where);
  const bool hex = std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (!(text.empty() && may_be_empty) && (text.size() != 64 || !hex))
    FailItem(where, key, StrCat(" = ", OneLine(text, 80), ": must be 64 hexadecimal digits"));
  return text;
}

// Lines of a text with something in them, and their numbers.
template <class F>
void ForLines(std::string_view text, F&& f) {
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) f(line, number);
    begin = end + 1;
  }
}

void ReadHead(std::string_view line, const std::string& where, ItemFile* file) {
  const Json json = ParseObject(line, where);
  if (NeedOf(json, "format", where) != kItemFormat)
    FailItem(where, "format", StrCat(" = ", JsonExcerpt(json["format"]), ": must be \"", kItemFormat, "\""));
  file->tokenizer_sha256 = HashOf(json, "tokenizer_sha256", where, false);
  file->model_sha256 = HashOf(json, "model_sha256", where, true);
  const std::string split = TextOf(json, "split", where);
  if (split != "calib" && split != "valid" && split != "test")
    FailItem(where, "split", StrCat(" = ", OneLine(split, 40), ": must be calib, valid or test"));
  file->split = ParseItemSplit(split, where);
  file->seed = WholeOf(NeedOf(json, "seed", where), "seed", where, INT64_MIN, INT64_MAX);
  const Json& lengths = NeedOf(json, "lengths", where);
  if (!lengths.is_array() || lengths.empty()) FailItem(where, "lengths", ": must be a list with a length at least");
  for (size_t i = 0; i < lengths.size(); ++i)
    file->lengths.push_back(WholeOf(lengths[i], StrCat("lengths[", i, "]"), where, 1, kMostTokens));
  if (!std::ranges::is_sorted(file->lengths)) FailItem(where, "lengths", ": must ascend");
  if (!json.contains("settings")) return;
  if (!json["settings"].is_object()) FailItem(where, "settings", ": must be an object");
  file->settings = json["settings"].dump();
}

}  // namespace

const char* ItemSplitName(ItemSplit split) {
  constexpr const char* kNames[] = {"calib", "valid", "test"};
  return kNames[static_cast<int>(split)];
}

ItemSplit ParseItemSplit(const std::string& name, const std::string& where) {
  for (const ItemSplit split : {ItemSplit::kCalib, ItemSplit::kValid, ItemSplit::kTest})
    if (name == ItemSplitName(split)) return split;
  throw Error(ErrorCode::kUsage, StrCat(where, " ", OneLine(name, 40), ": must be calib, valid or test"));
}

ItemSplit SplitOfName(std::string_view name) {
  const Sha256Digest digest = Sha256::Of(name);
  uint64_t first = 0;
  for (int i = 0; i < 8; ++i) first = first << 8 | digest[static_cast<size_t>(i)];
  const double at = std::ldexp(static_cast<double>(first), -64);
  return at < kCalibShare ? ItemSplit::kCalib : at < kValidShare ? ItemSplit::kValid : ItemSplit::kTest;
}

LongItem ItemFile::ParseItem(std::string_view line, const std::string& where) {
  const Json json = ParseObject(line, where);
  LongItem item;
  item.id = TextOf(json, "id", where);
  item.kind = TextOf(json, "kind", where);
  item.length = WholeOf(NeedOf(json, "length", where), "length", where, 1, kMostTokens);
  item.ids = IdsOf(NeedOf(json, "ids", where), "ids", where);
  const auto n = static_cast<int64_t>(item.ids.size());
  const Json& answer = NeedOf(json, "answer", where);
  if (!answer.is_array() || answer.size() != 2)
    FailItem(where, "answer", StrCat(" = ", JsonExcerpt(answer), ": must be [begin, end]"));
  item.answer_begin = WholeOf(answer[0], "answer[0]", where, 1, n - 1);
  item.answer_end = WholeOf(answer[1], "answer[1]", where, item.answer_begin + 1, n);
  if (n > item.length) FailItem(where, "ids", StrCat(": ", n, " tokens: must be at most length = ", item.length));
  if (json.contains("gold")) item.gold = IdsOf(json["gold"], "gold", where);
  if (json.contains("others")) ReadOthers(json["others"], where, &item);
  item.group = TextOf(json, "group", where);
  item.prefix = WholeOf(NeedOf(json, "prefix", where), "prefix", where, 0, item.answer_begin);
  item.depth = NumberOf(json, "depth", where);
  item.dense_nll = NumberOf(json, "dense_nll", where);
  const Json& right = NeedOf(json, "dense_right", where);
  if (!right.is_boolean()) FailItem(where, "dense_right", StrCat(" = ", JsonExcerpt(right), ": must be true or false"));
  item.dense_right = right.get<bool>();
  if (json.contains("docs")) ReadJson(json["docs"], where + ": docs", &item.docs);
  return item;
}

ItemFile ItemFile::Load(const std::string& path) {
  const std::string text = ReadText(path);
  ItemFile file;
  bool head = false;
  ForLines(text, [&](std::string_view line, int64_t number) {
    const std::string where = StrCat(path, ":", number);
    if (!head) {
      ReadHead(line, where, &file);
      head = true;
      return;
    }
    file.items.push_back(ParseItem(line, where));
    const int64_t length = file.items.back().length;
    if (!std::ranges::binary_search(file.lengths, length))
      FailItem(where, "length", StrCat(" = ", length, ": is not one of the file's lengths"));
  });
  if (!head) throw Error(ErrorCode::kFormat, path + ": format: is missing: the file is empty");
  return file;
}

std::string ItemFile::HeadLine() const {
  return DumpJson({{"format", kItemFormat},
                   {"tokenizer_sha256", tokenizer_sha256},
                   {"model_sha256", model_sha256},
                   {"split", ItemSplitName(split)},
                   {"seed", seed},
                   {"lengths", lengths},
                   {"settings", Json::parse(settings)}}) +
         "\n";
}

std::string ItemFile::Line(const LongItem& item) {
  Json json{
      {"id", item.id},         {"kind", item.kind},   {"length", item.length},       {"group", item.group},
      {"prefix", item.prefix}, {"depth", item.depth}, {"dense_nll", item.dense_nll}, {"dense_right", item.dense_right},
      {"docs", item.docs}};
  json["answer"] = {item.answer_begin, item.answer_end};
  json["gold"] = item.gold;
  if (!item.others.empty()) json["others"] = item.others;
  json["ids"] = item.ids;
  return DumpJson(json) + "\n";
}

void ItemFile::Save(const std::string& path) const {
  AtomicFile file(path);
  file.Write(HeadLine());
  for (const LongItem& item : items) file.Write(Line(item));
  file.Commit();
}

void ItemFile::CheckIds(const std::string& where, const std::string& tokenizer, int64_t vocab) const {
  if (tokenizer_sha256 != tokenizer)
    throw Error(ErrorCode::kData,
                StrCat(where, ": tokenizer_sha256 = ", tokenizer_sha256.substr(0, 12), "...: the model's tokenizer is ",
                       tokenizer.substr(0, 12), "...: make the items with this model (hydralm data items)"));
  for (const LongItem& item : items) {
    const auto check = [&](const std::vector<int32_t>& ids) {
      for (const int32_t id : ids)
        if (id >= vocab)
          throw Error(ErrorCode::kData, StrCat(where, ": item ", OneLine(item.id, 60), ": id ", id,
                                               ": the model has a vocabulary of ", vocab));
    };
    check(item.ids);
    check(item.gold);
    std::ranges::for_each(item.others, check);
  }
}

std::string ItemFile::Sha256() const {
  hydra::Sha256 hash;
  hash.Update(StrCat(tokenizer_sha256, " ", ItemSplitName(split), "\n"));
  for (const LongItem& item : items) {
    Json json{
        {"id", item.id}, {"length", item.length}, {"ids", item.ids}, {"answer", {item.answer_begin, item.answer_end}}};
    if (!item.others.empty()) json["others"] = item.others;
    hash.Update(DumpJson(json) + "\n");
  }
  return Hex(hash.Finish());
}

}  // namespace hydra
