// SPDX-License-Identifier: Apache-2.0
// A grammar from a schema: a rule for each value that its parts name.
#include "hydra/text/json_schema.h"

#include <algorithm>
#include <compare>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/text/json_schema_impl.h"
#include "hydra/text/json_schema_node.h"

namespace hydra {
namespace json_schema {
namespace {

constexpr int64_t kMostLength = 16'384;  // characters that are counted; a larger maximum counts as this one
constexpr int64_t kMostItems = 1024;     // the same for items
constexpr size_t kMostProperties = 1024;
constexpr size_t kMostRules = 10'000;

class Compiler {
 public:
  Compiler(const Json& schema, const std::string& where)
      : where_(where), resolver_(schema, where), rules_(AddCommonRules(&builder_)) {}

  // The rule of the whole schema, with those of all its parts.
  int RootRule() {
    const int root = RuleOf(Root());
    while (!todo_.empty()) {
      const auto [rule, schemas] = std::move(todo_.back());
      todo_.pop_back();
      RuleDraft draft;
      const int end = draft.Place();
      draft.End(end);
      for (const Case& one : resolver_.Expand(schemas)) Write(draft, one, end);
      builder_.Define(rule, std::move(draft));
    }
    return root;
  }

  GrammarBuilder& builder() { return builder_; }

  Grammar Finish(int root) {
    try {
      return builder_.Finish(root);
    } catch (const Error& error) {
      throw Error(error.code(), StrCat(where_, "#: ", error.what()));
    }
  }

  // `before`, a value of this rule, `after`.
  int Surrounded(int rule, const JsonGrammarOptions& options) {
    if (options.before.empty() && options.after.empty()) return rule;
    RuleDraft draft;
    const int value = draft.Literal(RuleDraft::kStart, options.before);
    draft.End(draft.Literal(draft.Called(value, rule), options.after));
    return builder_.Add(std::move(draft));
  }

 private:
  // The rule of values that fit all of these: the same for the same ones, which may lie within themselves.
  int RuleOf(const Schemas& schemas) {
    Schemas key = schemas;
    std::ranges::sort(key);
    key.erase(std::unique(key.begin(), key.end()), key.end());
    const auto [found, is_new] = known_.try_emplace(std::move(key), -1);
    if (!is_new) return found->second;
    if (known_.size() > kMostRules)
      throw Error(ErrorCode::kUsage, StrCat(where_, "#: has more than ", kMostRules, " kinds of values"));
    found->second = builder_.Declare();
    todo_.emplace_back(found->second, schemas);
    return found->second;
  }

  Schemas Root() const {
    const Json& root = resolver_.root();
    const bool any = root.is_boolean() ? root.get<bool>() : root.is_object() && root.empty();
    if (!root.is_boolean() && !root.is_object())
      throw Error(ErrorCode::kUsage, StrCat(where_, " = ", JsonExcerpt(root), ": must be a schema: an object"));
    return any ? Schemas() : Schemas{&root};
  }

  void Write(RuleDraft& draft, const Case& one, int end) {
    if (one.values) {
      for (const Json& value : *one.values)
        if (resolver_.FitsCase(value, one)) draft.Empty(Value(draft, RuleDraft::kStart, value), end);
      return;
    }
    const auto literal = [&](unsigned type, const char* text) {
      if ((one.types & type) != 0) draft.Empty(draft.Literal(RuleDraft::kStart, text), end);
    };
    literal(kNull, "null");
    literal(kBoolean, "true");
    literal(kBoolean, "false");
    if ((one.types & (kInteger | kFraction)) != 0) draft.Empty(Number(draft, one), end);
    if ((one.types & kString) != 0) draft.Empty(Text(draft, one), end);
    if ((one.types & kArray) != 0) draft.Empty(Array(draft, one), end);
    if ((one.types & kObject) != 0) draft.Empty(Object(draft, one), end);
  }

  // A value as it is, with white space where JSON has it.
  int Value(RuleDraft& draft, int from, const Json& value) {
    if (!value.is_structured()) return draft.Literal(from, DumpJson(value));
    const bool is_object = value.is_object();
    int at = Space(draft, draft.Literal(from, is_object ? "{" : "["), rules_);
    bool first = true;
    for (const auto& [key, part] : value.items()) {
      if (!std::exchange(first, false)) at = Space(draft, draft.Literal(at, ","), rules_);
      if (is_object) at = Space(draft, draft.Literal(at, Quoted(key) + ":"), rules_);
      at = Space(draft, Value(draft, at, part), rules_);
    }
    return draft.Literal(at, is_object ? "}" : "]");
  }

  // ---- Numbers and texts ----

  int Number(RuleDraft& draft, const Case& one) {
    NumberBounds bounds{.integer = (one.types & kFraction) == 0};
    double low = 0, high = 0;
    for (const Json* member : one.members)
      for (const bool exclusive : {false, true}) {
        const char* least = exclusive ? "exclusiveMinimum" : "minimum";
        const char* most = exclusive ? "exclusiveMaximum" : "maximum";
        if (member->contains(least)) {
          const double value = member->at(least).get<double>();
          if (!bounds.low || value > low || (value == low && exclusive)) {
            bounds.low = Bound(member->at(least));
            bounds.above_low = exclusive;
            low = value;
          }
        }
        if (member->contains(most)) {
          const double value = member->at(most).get<double>();
          if (!bounds.high || value < high || (value == high && exclusive)) {
            bounds.high = Bound(member->at(most));
            bounds.below_high = exclusive;
            high = value;
          }
        }
      }
    if (!bounds.low && !bounds.high)
      return draft.Called(RuleDraft::kStart, bounds.integer ? rules_.integer : rules_.number);
    return NumberWithin(draft, RuleDraft::kStart, bounds);
  }

  static Decimal Bound(const Json& value) {
    if (!value.is_number_integer()) return DecimalOf(value.get<double>());
    const std::string digits = DumpJson(value);
    const bool negative = digits[0] == '-';
    return {.negative = negative, .whole = digits.substr(negative ? 1 : 0)};
  }

  int Text(RuleDraft& draft, const Case& one) {
    auto [min, max] = resolver_.Bounds(one, "minLength", "maxLength");
    if (min > kMostLength)
      throw Error(ErrorCode::kUsage,
                  StrCat(Where(one), "/minLength = ", min, ": at most ", kMostLength, " is supported"));
    const std::vector<CharAutomaton> automata = resolver_.TextAutomata(one);
    max = std::min(max, kMostLength);
    if (automata.empty()) return draft.Called(RuleDraft::kStart, RuleOfLength(min, max));
    CharAutomaton all = automata[0];
    for (size_t i = 1; i < automata.size(); ++i) all = Intersection(all, automata[i], Where(one));
    if (min > 0 || max >= 0) all = Intersection(all, LengthAutomaton(min, max), Where(one));
    return TextOf(draft, draft.Literal(RuleDraft::kStart, "\""), all);
  }

  // Texts of so many characters: one rule for all that ask for the same.
  int RuleOfLength(int64_t min, int64_t max) {
    if (min == 0 && max < 0) return rules_.text;
    const auto [found, is_new] = lengths_.try_emplace(std::pair(min, max), -1);
    if (is_new) {
      RuleDraft draft;
      const int inside = draft.Literal(RuleDraft::kStart, "\"");
      draft.End(TextOfLength(draft, inside, min, max, static_cast<int>(lengths_.size()), rules_));
      found->second = builder_.Add(std::move(draft));
    }
    return found->second;
  }

  std::string Where(const Case& one) const {
    return one.members.empty() ? where_ + "#" : resolver_.PathOf(*one.members.back());
  }

  // ---- Arrays ----

  int Array(RuleDraft& draft, const Case& one) {
    auto [min, max] = resolver_.Bounds(one, "minItems", "maxItems");
    if (min > kMostItems)
      throw Error(ErrorCode::kUsage,
                  StrCat(Where(one), "/minItems = ", min, ": at most ", kMostItems, " is supported"));
    const auto prefix = static_cast<int64_t>(resolver_.PrefixItems(one));
    if (!resolver_.MoreItems(one)) max = max < 0 ? prefix : std::min(max, prefix);
    max = std::min(max, kMostItems);
    const int end = draft.Place();
    int at = Space(draft, draft.Literal(RuleDraft::kStart, "["), rules_);
    // Items that differ or are counted one by one, then a loop.
    const int64_t counted = max >= 0 ? max : std::max<int64_t>({min, prefix, 1});
    const auto item = [&](int from, int64_t n) {
      const int value = n > 0 ? Space(draft, draft.Literal(from, ","), rules_) : from;
      const int rule = RuleOf(resolver_.OfItem(one, static_cast<size_t>(n)));
      return Space(draft, draft.Called(value, rule), rules_);
    };
    for (int64_t n = 0;; ++n) {
      if (n >= min) draft.Byte(at, ']', ']', end);
      if (n == counted) break;
      at = item(at, n);
    }
    if (max < 0) draft.Empty(item(at, counted), at);
    return end;
  }

  // ---- Objects ----

  // Where one stands between properties: which come next, and how many were written.
  struct Progress {
    size_t next;
    int64_t written;
    friend auto operator<=>(const Progress&, const Progress&) = default;
  };

  int Object(RuleDraft& draft, const Case& one) {
    const auto names = resolver_.Names(one);
    if (names.size() > kMostProperties)
      throw Error(ErrorCode::kUsage,
                  StrCat(Where(one), ": has ", names.size(), " properties: at most ", kMostProperties));
    const auto others = resolver_.OfOthers(one);
    const auto [min, max] = resolver_.Bounds(one, "minProperties", "maxProperties");
    const auto required = std::ranges::count_if(names, [](const auto& name) { return name.second; });
    // Names of others may come twice, so that they cannot be counted from below.
    if (others && min > required)
      throw Error(ErrorCode::kUsage,
                  StrCat(Where(one), "/minProperties = ", min, ": is supported where all properties are listed"));
    // From here on a larger count says nothing new.
    const int64_t most = std::max<int64_t>({min, max < 0 ? 1 : max + 1, 1});
    const int end = draft.Place();
    const int begin = Space(draft, draft.Literal(RuleDraft::kStart, "{"), rules_);
    std::map<Progress, int> places;
    places[Progress{0, 0}] = begin;
    const auto place = [&](size_t next, int64_t written) {
      const auto [found, is_new] = places.try_emplace(Progress{next, std::min(written, most)}, 0);
      if (is_new) found->second = draft.Place();
      return found->second;
    };
    // In ascending order: what is reached from a place comes after it.
    for (auto it = places.begin(); it != places.end(); ++it) {
      const auto [next, written] = it->first;
      const int at = it->second;
      if (next == names.size()) {
        if (written >= min && (max < 0 || written <= max)) draft.Byte(at, '}', '}', end);
        if (!others || (max >= 0 && written >= max)) continue;
        draft.Empty(Pair(draft, at, written > 0, names, *others), place(next, written + 1));
        continue;
      }
      const auto& [name, is_required] = names[next];
      if (!is_required) draft.Empty(at, place(next + 1, written));
      if (max >= 0 && written >= max) continue;
      const int key = draft.Literal(written > 0 ? Space(draft, draft.Literal(at, ","), rules_) : at, Quoted(name));
      draft.Empty(Behind(draft, key, resolver_.OfProperty(one, name)), place(next + 1, written + 1));
    }
    return end;
  }

  // Behind a name: the colon and the value.
  int Behind(RuleDraft& draft, int key, const Schemas& schemas) {
    const int value = Space(draft, draft.Literal(key, ":"), rules_);
    return Space(draft, draft.Called(value, RuleOf(schemas)), rules_);
  }

  // A property that is not listed.
  int Pair(RuleDraft& draft, int from, bool comma, const std::vector<std::pair<std::string, bool>>& names,
           const Schemas& schemas) {
    const int at = comma ? Space(draft, draft.Literal(from, ","), rules_) : from;
    if (names.empty()) return Behind(draft, draft.Called(at, rules_.text), schemas);
    std::vector<std::string> texts;
    for (const auto& [name, required] : names) texts.push_back(name);
    return Behind(draft, TextOf(draft, draft.Literal(at, "\""), NoneOf(texts)), schemas);
  }

  std::string where_;
  Resolver resolver_;
  GrammarBuilder builder_;
  CommonRules rules_;
  std::map<Schemas, int> known_;
  std::vector<std::pair<int, Schemas>> todo_;
  std::map<std::pair<int64_t, int64_t>, int> lengths_;
};

}  // namespace
}  // namespace json_schema

Grammar JsonSchemaGrammar(const Json& schema, const std::string& where, const JsonGrammarOptions& options) {
  json_schema::Compiler compiler(schema, where);
  const int root = compiler.RootRule();
  return compiler.Finish(compiler.Surrounded(root, options));
}

Grammar JsonObjectGrammar() {
  const Json schema = {{"type", "object"}};
  return JsonSchemaGrammar(schema, "json_object");
}

namespace {

// References within a schema that becomes a part of another one.
void MoveReferences(Json* schema, const std::string& to, int depth = 0) {
  constexpr int kMostDepth = 256;
  if (depth > kMostDepth) throw Error(ErrorCode::kUsage, StrCat(to, ": is nested deeper than ", kMostDepth));
  if (!schema->is_structured()) return;
  for (auto& [key, part] : schema->items()) {
    if (schema->is_object() && key == "$ref" && part.is_string() && part.get_ref<std::string&>().starts_with('#')) {
      part = to + part.get_ref<std::string&>().substr(1);
    } else {
      MoveReferences(&part, to, depth + 1);
    }
  }
}

// {"name": NAME, "arguments": {...}} for each tool.
Json CallSchema(const Json& tools, const std::string& where) {
  if (!tools.is_array() || tools.empty()) throw Error(ErrorCode::kUsage, where + ": must be a list of tools");
  Json calls = Json::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string at = StrCat(where, "[", i, "].function");
    if (!tools[i].is_object() || !tools[i].contains("function") || !tools[i]["function"].is_object())
      throw Error(ErrorCode::kUsage, at + ": must be an object");
    const Json& function = tools[i]["function"];
    if (!function.contains("name") || !function["name"].is_string())
      throw Error(ErrorCode::kUsage, at + ".name: must be a text");
    Json parameters = function.contains("parameters") ? function["parameters"] : Json();
    if (parameters.is_null()) parameters = {{"type", "object"}, {"additionalProperties", false}};
    if (!parameters.is_object()) throw Error(ErrorCode::kUsage, at + ".parameters: must be a schema: an object");
    if (!parameters.contains("type")) parameters["type"] = "object";
    MoveReferences(&parameters, StrCat("#/anyOf/", i, "/properties/arguments"));
    Json name = Json::object();
    name["const"] = function["name"];
    Json properties = Json::object();
    properties["name"] = name;
    properties["arguments"] = parameters;
    Json call = Json::object();
    call["type"] = "object";
    call["properties"] = properties;
    call["required"] = Json::array({"name", "arguments"});
    calls.push_back(call);
  }
  Json schema = Json::object();
  schema["anyOf"] = calls;
  return schema;
}

// Text in which `mark` does not occur, then the mark: after each byte, how much of the mark the text ends with.
int TextUpTo(RuleDraft& draft, int from, const std::string& mark, std::vector<int>* inside) {
  const size_t n = mark.size();
  std::vector<size_t> shorter(n + 1, 0);  // of a prefix: the longest one that it ends with
  for (size_t i = 1, k = 0; i < n; ++i) {
    while (k > 0 && mark[i] != mark[k]) k = shorter[k];
    if (mark[i] == mark[k]) ++k;
    shorter[i + 1] = k;
  }
  inside->assign(1, from);
  for (size_t k = 1; k <= n; ++k) inside->push_back(draft.Place());
  for (size_t k = 0; k < n; ++k)
    for (int byte = 0; byte < 256; ++byte) {
      size_t at = k;
      while (at > 0 && static_cast<uint8_t>(mark[at]) != byte) at = shorter[at];
      const size_t next = static_cast<uint8_t>(mark[at]) == byte ? at + 1 : 0;
      draft.Byte((*inside)[k], static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), (*inside)[next]);
    }
  return (*inside)[n];
}

}  // namespace

Grammar ToolCallGrammar(const Json& tools, const std::string& where, const ToolGrammarOptions& options) {
  const Json schema = CallSchema(tools, where);
  json_schema::Compiler compiler(schema, where);
  const int call = compiler.RootRule();
  if (options.text && options.before.empty())
    throw Error(ErrorCode::kUsage, StrCat(where, ": calls within a text need a mark before them"));
  RuleDraft draft;
  int at = RuleDraft::kStart;
  std::vector<int> inside;
  const int marked = options.text ? TextUpTo(draft, at, options.before, &inside) : draft.Literal(at, options.before);
  for (size_t k = 0; k + 1 < inside.size(); ++k) draft.End(inside[k]);
  const int end = draft.Literal(draft.Called(marked, call), options.after);
  draft.End(end);
  if (options.several) {
    const int again = draft.Literal(draft.Literal(end, "\n"), options.before);
    draft.Empty(again, marked);
  }
  return compiler.Finish(compiler.builder().Add(std::move(draft)));
}

}  // namespace hydra
