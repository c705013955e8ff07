// SPDX-License-Identifier: Apache-2.0
// Making values, and what all kinds of them have: truth, equality, keys.
#include "hydra/text/jinja_value.h"

#include <algorithm>
#include <array>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"

namespace hydra {

bool IsChatRole(std::string_view role) {
  constexpr std::array<std::string_view, 11> kRoles = {"system", "developer", "user",         "assistant",
                                                       "tool",   "function",  "ipython",      "observation",
                                                       "model",  "tool_call", "tool_response"};
  return std::ranges::find(kRoles, role) != kRoles.end();
}

}  // namespace hydra

namespace hydra::jinja {
namespace {

constexpr int64_t kObjectBytes = 64;  // of any value beside what it holds
constexpr int kMostHeight = 128;      // of lists and dicts within each other
constexpr const char* kTooDeep = ": lists and objects are nested deeper than 128 levels";

void Require(bool enough) {
  if (!enough) throw Error(ErrorCode::kUsage, "the template makes more text and lists than it may");
}

std::string Valid(const std::string& text) {
  std::string buffer;
  return std::string(MendUtf8(text, buffer));
}

int HeightOf(const Value& value) {
  return value.Is(Type::kList) ? value.list().height : value.Is(Type::kDict) ? value.dict().height : 0;
}
void Grow(int* height, const Value& value) {
  *height = std::max(*height, HeightOf(value) + 1);
  if (*height > kMostHeight) throw Error(ErrorCode::kUsage, StrCat("the template", kTooDeep));
}

}  // namespace

Value Heap::Text(MarkedText text) {
  Require(Spend(kObjectBytes + static_cast<int64_t>(text.bytes().size() + text.marks().size() * sizeof(TextMark))));
  return Value(&texts_.emplace_back(std::move(text)));
}

Value Heap::NewList(std::vector<Value> items, List::Kind kind) {
  Require(Spend(kObjectBytes + static_cast<int64_t>(items.size() * sizeof(Value))));
  List& list = lists_.emplace_back(List{.items = std::move(items), .kind = kind});
  for (const Value& item : list.items) Grow(&list.height, item);
  return Value(&list);
}

Value Heap::NewDict(std::vector<std::pair<Value, Value>> items, bool is_namespace) {
  Require(Spend(kObjectBytes + static_cast<int64_t>(items.size() * 2 * sizeof(Value))));
  Dict& dict = dicts_.emplace_back(Dict{.items = std::move(items)});
  for (const auto& [key, value] : dict.items) Grow(&dict.height, value);
  return Value(&dict, is_namespace);
}

Value Heap::NewCallable(Callable callable) {
  Require(Spend(kObjectBytes));
  return Value(&callables_.emplace_back(callable));
}

Value Heap::NewUndefined(std::string what) {
  Require(Spend(kObjectBytes));
  return Value(&missing_.emplace_back(Missing{std::move(what)}));
}

Loop& Heap::NewLoop() {
  Require(Spend(2 * kObjectBytes));
  return loops_.emplace_back();
}

Scope& Heap::NewScope(Scope* outer) {
  Require(Spend(2 * kObjectBytes));
  return scopes_.emplace_back(Scope{.outer = outer});
}

Value Heap::FromJson(const Json& json, const JinjaVariable& variable) {
  return FromJson(json, variable, {.source = variable.source});
}

Value Heap::FromJson(const Json& json, const JinjaVariable& variable, JsonPlace place) {
  if (place.depth > kMostHeight) throw Error(ErrorCode::kUsage, StrCat(variable.name, kTooDeep));
  switch (json.type()) {
    case Json::value_t::boolean: return Value(json.get<bool>());
    case Json::value_t::number_integer: return Value(json.get<int64_t>());
    case Json::value_t::number_unsigned: {
      const auto value = json.get<uint64_t>();
      return value > static_cast<uint64_t>(INT64_MAX) ? Value(static_cast<double>(value))
                                                      : Value(static_cast<int64_t>(value));
    }
    case Json::value_t::number_float: return Value(json.get<double>());
    case Json::value_t::string: {
      const std::string text = Valid(json.get_ref<const std::string&>());
      const bool plain = !variable.outside || (place.is_role && IsChatRole(text));
      return Text(plain ? MarkedText(text) : MarkedText(text, place.source));
    }
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) {
        const bool numbered = variable.numbered && place.depth == 0;
        const int32_t source = numbered ? static_cast<int32_t>(items.size()) : place.source;
        items.push_back(FromJson(item, variable, {.source = source, .depth = place.depth + 1}));
      }
      return NewList(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> items;
      items.reserve(json.size());
      for (const auto& [key, value] : json.items()) {
        const std::string valid = Valid(key);
        const Value name = Text(variable.outside ? MarkedText(valid, place.source) : MarkedText(valid));
        items.emplace_back(name, FromJson(value, variable, {place.source, key == "role", place.depth + 1}));
      }
      return NewDict(std::move(items));
    }
    default: return Value();
  }
}

const char* TypeName(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined: return "Undefined";
    case Type::kNone: return "None";
    case Type::kBool: return "bool";
    case Type::kInt: return "int";
    case Type::kFloat: return "float";
    case Type::kText: return "str";
    case Type::kList:
      switch (value.list().kind) {
        case List::Kind::kList: return "list";
        case List::Kind::kTuple: return "tuple";
        case List::Kind::kGenerator: return "generator";
        case List::Kind::kRange: return "range";
        default: return "dict view";
      }
    case Type::kDict: return "dict";
    case Type::kNamespace: return "Namespace";
    case Type::kCallable: return "function";
    case Type::kLoop: return "LoopContext";
  }
  return "";
}

bool Truth(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
    case Type::kNone: return false;
    case Type::kBool:
    case Type::kInt: return value.integer() != 0;
    case Type::kFloat: return value.number() != 0;
    case Type::kText: return !value.bytes().empty();
    case Type::kList: return value.list().kind == List::Kind::kGenerator || !value.list().items.empty();
    case Type::kDict: return !value.dict().items.empty();
    default: return true;
  }
}

bool Equal(const Value& a, const Value& b, int64_t* steps) {
  ++*steps;
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kUndefined:
    case Type::kNone: return true;
    case Type::kText:
      if (a.bytes().size() != b.bytes().size()) return false;
      *steps += static_cast<int64_t>(a.bytes().size() / 64);
      return a.bytes() == b.bytes();
    case Type::kList: {
      const List &x = a.list(), &y = b.list();
      if (&x == &y) return true;
      const bool sequences = x.kind == y.kind && x.kind != List::Kind::kGenerator && x.kind != List::Kind::kValues;
      if (!sequences || x.items.size() != y.items.size()) return false;
      for (size_t i = 0; i < x.items.size(); ++i)
        if (!Equal(x.items[i], y.items[i], steps)) return false;
      return true;
    }
    case Type::kDict: {
      if (a.dict().items.size() != b.dict().items.size()) return false;
      for (const auto& [key, value] : a.dict().items) {
        const Value* other = FindKey(b.dict(), key, steps);
        if (other == nullptr || !Equal(value, *other, steps)) return false;
      }
      return true;
    }
    default: return a.object() == b.object();
  }
}

const Value* FindKey(const Dict& dict, const Value& key, int64_t* steps) {
  for (const auto& [name, value] : dict.items)
    if (Equal(name, key, steps)) return &value;
  return nullptr;
}

const Value* FindKey(const Dict& dict, std::string_view key, int64_t* steps) {
  *steps += static_cast<int64_t>(1 + dict.items.size() / 4);
  for (const auto& [name, value] : dict.items)
    if (name.is_text() && name.bytes() == key) return &value;
  return nullptr;
}

}  // namespace hydra::jinja
