// SPDX-License-Identifier: Apache-2.0
// What a schema says, put together: references followed, alternatives multiplied out, each keyword checked. Not here:
// grammars (json_schema.cc).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/text/grammar_chars.h"

namespace hydra::json_schema {

enum TypeBit : unsigned {
  kNull = 1,
  kBoolean = 2,
  kInteger = 4,
  kFraction = 8,  // numbers that are no integers: "number" is both
  kString = 16,
  kArray = 32,
  kObject = 64,
  kAll = 127
};

// Schemas that a value must fit all of; none: any value.
using Schemas = std::vector<const Json*>;

// One alternative of what a value may be: of these types, where given one of these values, and what the keywords of all
// members say of it.
struct Case {
  unsigned types = kAll;
  std::optional<std::vector<Json>> values{};
  Schemas members{};  // objects, without references and alternatives
};

class Resolver {
 public:
  // The schema must outlive it.
  Resolver(const Json& root, const std::string& where);

  [[nodiscard]] const Json& root() const { return root_; }
  // Where a schema stands: "WHERE#/properties/a".
  [[nodiscard]] const std::string& PathOf(const Json& schema) const;
  // A part of a schema, whose place is remembered.
  [[nodiscard]] const Json& Child(const Json& schema, const std::string& key, std::optional<size_t> index = {});
  [[nodiscard]] const Json& Property(const Json& schema, const std::string& name);
  [[noreturn]] void Fail(const Json& schema, const std::string& key, const std::string& rule) const;

  // The alternatives; none where nothing fits. `true` and {} are left out of schemas.
  [[nodiscard]] std::vector<Case> Expand(const Schemas& schemas);
  // Whether a value fits all of them.
  [[nodiscard]] bool Fits(const Json& value, const Schemas& schemas);
  [[nodiscard]] bool FitsCase(const Json& value, const Case& one);

  // The schemas that a property of an object, or an item of an array, must fit.
  [[nodiscard]] Schemas OfProperty(const Case& one, const std::string& name);
  // Those of properties that no member lists; nullopt where there may be none.
  [[nodiscard]] std::optional<Schemas> OfOthers(const Case& one);
  // Names that are listed or required, in the schema's order, each with whether it is required.
  [[nodiscard]] std::vector<std::pair<std::string, bool>> Names(const Case& one);
  [[nodiscard]] Schemas OfItem(const Case& one, size_t index);
  // Items that have schemas by place; whether there may be more behind them.
  [[nodiscard]] size_t PrefixItems(const Case& one);
  [[nodiscard]] bool MoreItems(const Case& one);
  // The largest `least` and smallest `most` of two keywords; -1: no bound.
  [[nodiscard]] std::pair<int64_t, int64_t> Bounds(const Case& one, const char* least, const char* most);
  // What patterns and formats say of a text (json_schema_text.cc).
  [[nodiscard]] std::vector<CharAutomaton> TextAutomata(const Case& one) const;

 private:
  void CheckKeywords(const Json& schema) const;
  void CheckValues(const Json& schema) const;
  [[nodiscard]] unsigned TypesOf(const Json& schema) const;
  [[nodiscard]] const Json& Follow(const Json& schema);
  // All alternatives of `cases` with this schema too.
  [[nodiscard]] std::vector<Case> With(std::vector<Case> cases, const Json& schema, int depth);
  void CheckOneOf(const Json& schema, const std::vector<std::vector<Case>>& branches);
  [[nodiscard]] bool Apart(const Case& a, const Case& b, int depth);
  [[nodiscard]] bool CannotFit(const Case& made, const Case& other);

  const Json& root_;
  std::string where_;
  std::map<const Json*, std::string> paths_;
};

}  // namespace hydra::json_schema
