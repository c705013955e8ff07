// SPDX-License-Identifier: Apache-2.0
// Checks of types and bounds.
#include "hydra/serve/fields.h"

#include <utility>

namespace hydra::serve {

Json ParseBody(const std::string& body) {
  Json json;
  try {
    json = ParseJsonLine(body, "body");  // texts of messages may be long
  } catch (const Error& error) {
    throw ApiError(kBadRequest, error.what(), "", "invalid_json");
  }
  if (!json.is_object()) throw ApiError(kBadRequest, "body: must be a JSON object", "", "invalid_json");
  return json;
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

const Json* Fields::Find(const char* name) {
  known_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void Fields::Refuse(const std::string& name, const std::string& rule) const {
  const auto found = object_.find(name);
  const std::string value = found == object_.end() ? "" : " = " + JsonExcerpt(*found);
  throw ApiError(kBadRequest, NameOf(name) + value + ": " + rule, NameOf(name));
}

std::optional<int64_t> Fields::Whole(const char* name, int64_t low, int64_t high) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  const std::string rule = StrCat("must be a whole number from ", low, " to ", high);
  if (!value->is_number_integer()) Refuse(name, rule);
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) Refuse(name, rule);
  const int64_t number = value->get<int64_t>();
  if (number < low || number > high) Refuse(name, rule);
  return number;
}

std::optional<double> Fields::Number(const char* name, double low, double high) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  const std::string rule = StrCat("must be a number from ", low, " to ", high);
  if (!value->is_number()) Refuse(name, rule);
  const auto number = value->get<double>();
  if (!(number >= low && number <= high)) Refuse(name, rule);
  return number;
}

std::optional<bool> Fields::Bool(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) Refuse(name, "must be true or false");
  return value->get<bool>();
}

std::optional<std::string> Fields::Text(const char* name, size_t most_bytes) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) Refuse(name, "must be a text");
  auto text = value->get<std::string>();
  if (text.size() > most_bytes) Refuse(name, StrCat("must have at most ", most_bytes, " bytes"));
  return text;
}

std::optional<Fields> Fields::Object(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) Refuse(name, "must be an object");
  return Fields(*value, NameOf(name) + ".");
}

std::vector<std::string> Fields::Ignored() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : object_.items())
    if (known_.count(name) == 0) names.push_back(NameOf(name));
  return names;
}

}  // namespace hydra::serve
