// SPDX-License-Identifier: Apache-2.0
// Following references and multiplying out alternatives. What values fit: json_schema_fit.cc.
#include "hydra/text/json_schema_node.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "hydra/base/error.h"

namespace hydra::json_schema {
namespace {

constexpr int kMostFollowed = 64;   // references and alternatives within one another, without a value between
constexpr size_t kMostCases = 512;  // alternatives of one value

constexpr std::array<std::string_view, 26> kKeywords = {"type",
                                                        "enum",
                                                        "const",
                                                        "properties",
                                                        "required",
                                                        "additionalProperties",
                                                        "items",
                                                        "minItems",
                                                        "maxItems",
                                                        "minLength",
                                                        "maxLength",
                                                        "prefixItems",
                                                        "pattern",
                                                        "format",
                                                        "minimum",
                                                        "maximum",
                                                        "anyOf",
                                                        "oneOf",
                                                        "exclusiveMinimum",
                                                        "exclusiveMaximum",
                                                        "minProperties",
                                                        "allOf",
                                                        "$ref",
                                                        "$defs",
                                                        "definitions",
                                                        "maxProperties"};
// They say nothing of which values fit.
constexpr std::array<std::string_view, 18> kNotes = {
    "title",        "description",      "default",  "examples",  "example",       "$schema",
    "$id",          "$comment",         "readOnly", "writeOnly", "discriminator", "xml",
    "externalDocs", "contentMediaType", "nullable", "strict",    "$anchor",       "deprecated"};

bool IsOneOf(std::string_view word, auto&& words) { return std::ranges::find(words, word) != std::end(words); }

}  // namespace

Resolver::Resolver(const Json& root, const std::string& where) : root_(root), where_(where) {
  paths_[&root] = where + "#";
}

const std::string& Resolver::PathOf(const Json& schema) const {
  const auto found = paths_.find(&schema);
  HYDRA_CHECK(found != paths_.end());
  return found->second;
}

const Json& Resolver::Child(const Json& schema, const std::string& key, std::optional<size_t> index) {
  const Json& part = index ? schema.at(key).at(*index) : schema.at(key);
  paths_.try_emplace(&part, StrCat(PathOf(schema), "/", key, index ? StrCat("/", *index) : ""));
  if (!part.is_object() && !part.is_boolean())
    throw Error(ErrorCode::kUsage,
                StrCat(PathOf(part), " = ", JsonExcerpt(part), ": must be a schema: an object, true or false"));
  return part;
}

const Json& Resolver::Property(const Json& schema, const std::string& name) {
  const Json& part = schema.at("properties").at(name);
  paths_.try_emplace(&part, StrCat(PathOf(schema), "/properties/", name));
  if (!part.is_object() && !part.is_boolean())
    throw Error(ErrorCode::kUsage,
                StrCat(PathOf(part), " = ", JsonExcerpt(part), ": must be a schema: an object, true or false"));
  return part;
}

void Resolver::Fail(const Json& schema, const std::string& key, const std::string& rule) const {
  const std::string value = schema.is_object() && schema.contains(key) ? " = " + JsonExcerpt(schema.at(key)) : "";
  throw Error(ErrorCode::kUsage, StrCat(PathOf(schema), "/", key, value, ": ", rule));
}

// ---- One schema ----

void Resolver::CheckKeywords(const Json& schema) const {
  for (const auto& [key, value] : schema.items()) {
    if (IsOneOf(key, kKeywords) || IsOneOf(key, kNotes) || key.starts_with("x-")) continue;
    if (key == "uniqueItems" && value == Json(false)) continue;
    if (key == "multipleOf" && value == Json(1)) continue;
    Fail(schema, key, "this keyword is not supported");
  }
  if (schema.contains("nullable") && !(schema.at("nullable") == Json(false)))
    Fail(schema, "nullable", "is not part of JSON Schema: use a list of types with \"null\"");
}

void Resolver::CheckValues(const Json& schema) const {
  const auto is_count = [](const Json& v) { return v.is_number_integer() && v.get<int64_t>() >= 0; };
  for (const char* key : {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
    if (schema.contains(key) && !is_count(schema.at(key))) Fail(schema, key, "must be a whole number from 0");
  for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
    if (schema.contains(key) && !schema.at(key).is_number()) Fail(schema, key, "must be a number");
  for (const char* key : {"pattern", "format"})
    if (schema.contains(key) && !schema.at(key).is_string()) Fail(schema, key, "must be a text");
  for (const char* key : {"anyOf", "oneOf", "allOf"})
    if (schema.contains(key) && (!schema.at(key).is_array() || schema.at(key).empty()))
      Fail(schema, key, "must be a list of schemas");
  if (schema.contains("enum") && !schema.at("enum").is_array()) Fail(schema, "enum", "must be a list");
  if (schema.contains("properties") && !schema.at("properties").is_object())
    Fail(schema, "properties", "must be an object");
  if (schema.contains("prefixItems") && !schema.at("prefixItems").is_array())
    Fail(schema, "prefixItems", "must be a list of schemas");
  if (schema.contains("items") && schema.at("items").is_array())
    Fail(schema, "items", "must be a schema: a list of them is called prefixItems");
  if (!schema.contains("required")) return;
  const Json& required = schema.at("required");
  const bool texts = required.is_array() && std::ranges::all_of(required, [](const Json& v) { return v.is_string(); });
  if (!texts) Fail(schema, "required", "must be a list of names");
}

unsigned Resolver::TypesOf(const Json& schema) const {
  if (!schema.contains("type")) return kAll;
  const Json& type = schema.at("type");
  if (!type.is_string() && !type.is_array()) Fail(schema, "type", "must be a name or a list of names");
  Json names = Json::array();
  if (type.is_array()) {
    names = type;
  } else {
    names.push_back(type);
  }
  unsigned types = 0;
  constexpr std::pair<const char*, unsigned> kTypes[] = {
      {"null", kNull},     {"boolean", kBoolean}, {"integer", kInteger}, {"number", kInteger | kFraction},
      {"string", kString}, {"array", kArray},     {"object", kObject}};
  for (const Json& name : names) {
    const auto found = std::ranges::find_if(kTypes, [&](const auto& t) { return name == Json(t.first); });
    if (found == std::end(kTypes))
      Fail(schema, "type", "must be of null, boolean, integer, number, string, array and object");
    types |= found->second;
  }
  return types;
}

// "#/$defs/a" of this schema.
const Json& Resolver::Follow(const Json& schema) {
  const Json& ref = schema.at("$ref");
  if (!ref.is_string()) Fail(schema, "$ref", "must be a text");
  const auto& text = ref.get_ref<const std::string&>();
  if (text != "#" && !text.starts_with("#/"))
    Fail(schema, "$ref", "only references within the schema, #/..., are supported");
  const Json* at = &root_;
  for (size_t begin = 2; begin <= text.size() && text.size() > 1;) {
    const size_t end = std::min(text.find('/', begin), text.size());
    std::string key;
    for (size_t i = begin; i < end; ++i) {
      const bool escape = text[i] == '~' && i + 1 < end;
      key += !escape ? text[i] : text[++i] == '1' ? '/' : '~';
    }
    const bool by_number =
        at->is_array() && !key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == std::string::npos;
    const size_t index = by_number ? static_cast<size_t>(std::stoul(key)) : 0;
    if (by_number && index < at->size()) {
      at = &at->at(index);
    } else if (at->is_object() && at->contains(key)) {
      at = &at->at(key);
    } else {
      Fail(schema, "$ref", "there is nothing at this place");
    }
    begin = end + 1;
  }
  paths_.try_emplace(at, where_ + text);
  if (!at->is_object() && !at->is_boolean()) Fail(schema, "$ref", "what stands there is no schema");
  return *at;
}

// ---- Together ----

std::vector<Case> Resolver::With(std::vector<Case> cases, const Json& schema, int depth) {
  if (depth > kMostFollowed)
    throw Error(ErrorCode::kUsage, StrCat(PathOf(schema), ": references lead in a circle without a value between"));
  if (schema.is_boolean()) return schema.get<bool>() ? cases : std::vector<Case>();
  CheckKeywords(schema);
  CheckValues(schema);
  const unsigned types = TypesOf(schema) & (schema.contains("multipleOf") ? ~unsigned{kFraction} : unsigned{kAll});
  std::vector<Case> kept;
  for (Case& one : cases) {
    one.types &= types;
    std::vector<Json> values;
    const bool listed = schema.contains("enum") || schema.contains("const");
    if (schema.contains("const")) values.push_back(schema.at("const"));
    if (schema.contains("enum"))
      for (const Json& value : schema.at("enum"))
        if (!schema.contains("const") || value == schema.at("const")) values.push_back(value);
    if (schema.contains("enum") && schema.contains("const") && values.size() < 2) values.clear();
    if (listed && one.values)
      std::erase_if(values, [&](const Json& v) {
        return std::find(one.values->begin(), one.values->end(), v) == one.values->end();
      });
    if (listed) one.values = std::move(values);
    if (one.types == 0 || (one.values && one.values->empty())) continue;
    one.members.push_back(&schema);
    kept.push_back(std::move(one));
  }
  if (schema.contains("$ref")) kept = With(std::move(kept), Follow(schema), depth + 1);
  if (schema.contains("allOf"))
    for (size_t i = 0; i < schema.at("allOf").size(); ++i)
      kept = With(std::move(kept), Child(schema, "allOf", i), depth + 1);
  for (const char* key : {"anyOf", "oneOf"}) {
    if (!schema.contains(key)) continue;
    std::vector<std::vector<Case>> branches;
    std::vector<Case> all;
    for (size_t i = 0; i < schema.at(key).size(); ++i) {
      branches.push_back(With(kept, Child(schema, key, i), depth + 1));
      all.insert(all.end(), branches.back().begin(), branches.back().end());
    }
    if (all.size() > kMostCases)
      Fail(schema, key, StrCat("together with what stands around it there are more than ", kMostCases, " cases"));
    if (std::string_view(key) == "oneOf") CheckOneOf(schema, branches);
    kept = std::move(all);
  }
  return kept;
}

std::vector<Case> Resolver::Expand(const Schemas& schemas) {
  std::vector<Case> cases = {Case()};
  for (const Json* schema : schemas) cases = With(std::move(cases), *schema, 0);
  return cases;
}

// ---- One of several ----

void Resolver::CheckOneOf(const Json& schema, const std::vector<std::vector<Case>>& branches) {
  for (size_t i = 0; i < branches.size(); ++i)
    for (size_t j = i + 1; j < branches.size(); ++j)
      for (const Case& a : branches[i])
        for (const Case& b : branches[j])
          if (!Apart(a, b, 0))
            Fail(schema, "oneOf",
                 StrCat("a value might fit both ", i, " and ", j,
                        ": only alternatives that exclude each other are supported; anyOf takes any"));
}

// Whether what is made for one case never fits the other: it lacks a name that the other requires.
bool Resolver::CannotFit(const Case& made, const Case& other) {
  if (OfOthers(made)) return false;
  const auto names = Names(made);
  const auto has = [&](const std::string& name) {
    return std::ranges::any_of(names, [&](const auto& listed) { return listed.first == name; });
  };
  return std::ranges::any_of(Names(other), [&](const auto& listed) { return listed.second && !has(listed.first); });
}

bool Resolver::Apart(const Case& a, const Case& b, int depth) {
  constexpr int kMostDepth = 4;
  const unsigned both = a.types & b.types;
  if (both == 0) return true;
  if (a.values) return std::ranges::none_of(*a.values, [&](const Json& v) { return FitsCase(v, b); });
  if (b.values) return std::ranges::none_of(*b.values, [&](const Json& v) { return FitsCase(v, a); });
  if (both != kObject || depth > kMostDepth) return false;
  if (CannotFit(a, b) && CannotFit(b, a)) return true;
  for (const auto& [name, required] : Names(a)) {
    const auto names = Names(b);
    const bool in_both = required && std::ranges::any_of(names, [&, n = name](const auto& listed) {
                           return listed.first == n && listed.second;
                         });
    if (!in_both) continue;
    bool apart = true;
    const std::vector<Case> xs = Expand(OfProperty(a, name)), ys = Expand(OfProperty(b, name));
    for (const Case& x : xs)
      for (const Case& y : ys) apart = apart && Apart(x, y, depth + 1);
    if (apart) return true;
  }
  return false;
}

}  // namespace hydra::json_schema
