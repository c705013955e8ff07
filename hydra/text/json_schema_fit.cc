// SPDX-License-Identifier: Apache-2.0
// Which schemas the parts of a value must fit, and whether a value fits.
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/text/grammar_chars.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/json_schema_node.h"

namespace hydra::json_schema {
namespace {

unsigned TypeOf(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return kNull;
    case Json::value_t::boolean: return kBoolean;
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned: return kInteger;
    case Json::value_t::number_float:
      return std::floor(value.get<double>()) == value.get<double>() ? kInteger : kFraction;
    case Json::value_t::string: return kString;
    case Json::value_t::array: return kArray;
    default: return kObject;
  }
}

void AddTo(Schemas* schemas, const Json& schema) {
  const bool any = schema.is_boolean() ? schema.get<bool>() : schema.empty();
  if (!any) schemas->push_back(&schema);
}

}  // namespace

// ---- Parts ----

Schemas Resolver::OfProperty(const Case& one, const std::string& name) {
  Schemas schemas;
  for (const Json* member : one.members) {
    if (member->contains("properties") && member->at("properties").contains(name)) {
      AddTo(&schemas, Property(*member, name));
    } else if (member->contains("additionalProperties")) {
      AddTo(&schemas, Child(*member, "additionalProperties"));
    }
  }
  return schemas;
}

std::optional<Schemas> Resolver::OfOthers(const Case& one) {
  Schemas schemas;
  bool listed = false, said = false;
  for (const Json* member : one.members) {
    listed |= member->contains("properties");
    if (!member->contains("additionalProperties")) continue;
    const Json& others = Child(*member, "additionalProperties");
    if (others.is_boolean() && !others.get<bool>()) return std::nullopt;
    said = true;
    AddTo(&schemas, others);
  }
  // Where a schema lists properties and says nothing of others, none are made.
  if (listed && !said) return std::nullopt;
  return schemas;
}

std::vector<std::pair<std::string, bool>> Resolver::Names(const Case& one) {
  std::vector<std::pair<std::string, bool>> names;
  const auto find = [&](const std::string& name) {
    return std::ranges::find_if(names, [&](const auto& listed) { return listed.first == name; });
  };
  for (const Json* member : one.members)
    if (member->contains("properties"))
      for (const auto& [name, schema] : member->at("properties").items())
        if (find(name) == names.end()) names.emplace_back(name, false);
  for (const Json* member : one.members)
    if (member->contains("required"))
      for (const Json& required : member->at("required")) {
        const auto& name = required.get_ref<const std::string&>();
        if (find(name) == names.end()) names.emplace_back(name, false);
        find(name)->second = true;
      }
  return names;
}

Schemas Resolver::OfItem(const Case& one, size_t index) {
  Schemas schemas;
  for (const Json* member : one.members) {
    if (member->contains("prefixItems") && index < member->at("prefixItems").size()) {
      AddTo(&schemas, Child(*member, "prefixItems", index));
    } else if (member->contains("items")) {
      AddTo(&schemas, Child(*member, "items"));
    }
  }
  return schemas;
}

size_t Resolver::PrefixItems(const Case& one) {
  size_t n = 0;
  for (const Json* member : one.members)
    if (member->contains("prefixItems")) n = std::max(n, member->at("prefixItems").size());
  return n;
}

bool Resolver::MoreItems(const Case& one) {
  bool prefix = false, said = false;
  for (const Json* member : one.members) {
    prefix |= member->contains("prefixItems");
    said |= member->contains("items");
    if (member->contains("items") && member->at("items") == Json(false)) return false;
  }
  return said || !prefix;
}

std::pair<int64_t, int64_t> Resolver::Bounds(const Case& one, const char* least, const char* most) {
  int64_t low = 0, high = -1;
  static constexpr uint64_t kLarge = uint64_t{1} << 40;
  const auto count = [](const Json& v) { return static_cast<int64_t>(std::min(v.get<uint64_t>(), kLarge)); };
  for (const Json* member : one.members) {
    if (member->contains(least)) low = std::max(low, count(member->at(least)));
    if (!member->contains(most)) continue;
    const int64_t bound = count(member->at(most));
    high = high < 0 ? bound : std::min(high, bound);
  }
  return {low, high};
}

// ---- Fitting ----

bool Resolver::Fits(const Json& value, const Schemas& schemas) {
  const std::vector<Case> cases = Expand(schemas);
  return std::ranges::any_of(cases, [&](const Case& one) { return FitsCase(value, one); });
}

bool Resolver::FitsCase(const Json& value, const Case& one) {
  if ((one.types & TypeOf(value)) == 0) return false;
  if (one.values && std::find(one.values->begin(), one.values->end(), value) == one.values->end()) return false;
  const auto within = [](int64_t n, std::pair<int64_t, int64_t> bounds) {
    return n >= bounds.first && (bounds.second < 0 || n <= bounds.second);
  };
  if (value.is_number()) {
    for (const Json* member : one.members) {
      const auto holds = [&](const char* key, auto&& compare) {
        return !member->contains(key) || compare(value.get<double>(), member->at(key).get<double>());
      };
      if (!holds("minimum", [](double x, double y) { return x >= y; }) ||
          !holds("maximum", [](double x, double y) { return x <= y; }) ||
          !holds("exclusiveMinimum", [](double x, double y) { return x > y; }) ||
          !holds("exclusiveMaximum", [](double x, double y) { return x < y; }))
        return false;
    }
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (!within(static_cast<int64_t>(jinja::CharCount(text)), Bounds(one, "minLength", "maxLength"))) return false;
    for (const CharAutomaton& automaton : TextAutomata(one))
      if (!automaton.Matches(text)) return false;
  } else if (value.is_array()) {
    if (!within(static_cast<int64_t>(value.size()), Bounds(one, "minItems", "maxItems"))) return false;
    for (size_t i = 0; i < value.size(); ++i) {
      if (i >= PrefixItems(one) && !MoreItems(one)) return false;
      if (!Fits(value[i], OfItem(one, i))) return false;
    }
  } else if (value.is_object()) {
    if (!within(static_cast<int64_t>(value.size()), Bounds(one, "minProperties", "maxProperties"))) return false;
    for (const auto& [name, required] : Names(one))
      if (required && !value.contains(name)) return false;
    for (const auto& [name, part] : value.items())
      if (!Fits(part, OfProperty(one, name))) return false;
  }
  return true;
}

}  // namespace hydra::json_schema
