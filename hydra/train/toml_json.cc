// SPDX-License-Identifier: Apache-2.0
// TOML to JSON, so that every file of ours is read by the same typed readers.
#include "hydra/train/toml_json.h"

#include <toml++/toml.h>
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/base/number.h"

namespace hydra::train {
namespace {

// An integer that is written as people write one; 0x10, 0o20 and 0b10000 are TOML, but no flag of ours takes them
// either.
int64_t DecimalOf(const toml::value<int64_t>& value, const std::string& field) {
  if (value.flags() != toml::value_flags::none)
    throw Error(ErrorCode::kConfig,
                StrCat(field, " = ", value.get(), ", written in another base: must be a decimal number"));
  return value.get();
}

// A finite number that f32 can hold. One key may be infinite; config.json, which has no such number, has a word for it.
Json NumberOf(double value, const std::string& field, const std::string& key) {
  if (std::isinf(value) && value > 0 && key.starts_with("model.time_step_limit[")) return "inf";
  CheckNumber(value, field);
  return value;
}

// `key` is the way to the node, as "optim.lr"; `where` names the file. Nothing of ours lies deeper than kMostLevels.
Json ToJson(const toml::node& node, const std::string& where, const std::string& key, int level = 0) {
  constexpr int kMostLevels = 16;
  const std::string field = StrCat(where, ": ", key);
  if (level > kMostLevels)
    throw Error(ErrorCode::kConfig, StrCat(field, ": nested deeper than ", kMostLevels, " levels"));
  if (const auto* table = node.as_table()) {
    Json out = Json::object();
    // Straight into the list of members, for Json would look through all of them for each new key.
    auto& members = out.get_ref<Json::object_t&>();
    for (const auto& [name, value] : *table)
      members.emplace_back(std::string(name.str()),
                           ToJson(value, where, StrCat(key, key.empty() ? "" : ".", name.str()), level + 1));
    return out;
  }
  if (const auto* array = node.as_array()) {
    Json out = Json::array();
    for (const auto& value : *array) out.push_back(ToJson(value, where, StrCat(key, "[", out.size(), "]"), level + 1));
    return out;
  }
  if (const auto* value = node.as_string()) return value->get();
  if (const auto* value = node.as_integer()) return DecimalOf(*value, field);
  if (const auto* value = node.as_floating_point()) return NumberOf(value->get(), field, key);
  if (const auto* value = node.as_boolean()) return value->get();
  throw Error(ErrorCode::kConfig, field + ": dates and times are no values here");
}

// The library goes down a key of many parts (a.b.c) by recursion, until the stack ends.
void CheckDots(std::string_view text, const std::string& where) {
  constexpr int kMostDots = 1000;
  int64_t line = 1;
  int dots = 0;
  for (const char c : text) {
    if (c == '\n') ++line, dots = 0;
    if (c == '.' && ++dots > kMostDots)
      throw Error(ErrorCode::kConfig, StrCat(where, ":", line, ": more than ", kMostDots, " dots in a line"));
  }
}

}  // namespace

Json ParseToml(const std::string& text, const std::string& where) {
  CheckDots(text, where);
  try {
    return ToJson(toml::parse(text), where, "");
  } catch (const toml::parse_error& error) {
    std::string what(error.description());
    std::replace(what.begin(), what.end(), '\n', ' ');
    throw Error(ErrorCode::kConfig, StrCat(where, ":", error.source().begin.line, ": ", what));
  }
}

Json ParseTomlValue(const std::string& text, const std::string& where, const std::string& key) {
  CheckDots(text, StrCat(where, " ", key));
  toml::table table;
  try {
    table = toml::parse("v = " + text);
  } catch (const toml::parse_error&) {
    return text;
  }
  return ToJson(*table.get("v"), where, key);
}

std::string TomlText(const nlohmann::json& value) {
  if (!value.is_object()) return value.dump();  // JSON's lists and escapes are TOML's, too
  std::string text;
  for (const auto& [key, field] : value.items())
    text += StrCat(text.empty() ? "" : ", ", nlohmann::json(key).dump(), " = ", TomlText(field));
  return StrCat("{", text, "}");
}

}  // namespace hydra::train
