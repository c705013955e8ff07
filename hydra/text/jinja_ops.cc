// SPDX-License-Identifier: Apache-2.0
// Python's operators on values: str and repr, order, arithmetic, members, slices.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/jinja_run.h"
#include "hydra/text/jinja_strings.h"

namespace hydra::jinja {

// ---- Text ----

int32_t SourceOf(const Value& value) {
  if (value.is_text()) return value.text().source();
  if (value.Is(Type::kList)) {
    for (const Value& item : value.list().items)
      if (const int32_t source = SourceOf(item); source != -1) return source;
  } else if (value.Is(Type::kDict)) {
    for (const auto& [key, item] : value.dict().items)
      for (const Value& part : {key, item})
        if (const int32_t source = SourceOf(part); source != -1) return source;
  }
  return -1;
}

Value Run::TextAbout(std::string text, const Value& value) {
  const int32_t source = SourceOf(value);
  return heap_.Text(source == -1 ? MarkedText(std::move(text)) : MarkedText(std::move(text), source));
}

void Run::AppendRepr(const Value& value, std::string* out) {
  Step();
  if (static_cast<int64_t>(out->size()) > heap_.left()) Fail("the template makes more text than it may");
  const auto join = [&](const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) *out += ", ";
      AppendRepr(items[i], out);
    }
  };
  switch (value.type()) {
    case Type::kUndefined: *out += "Undefined"; break;
    case Type::kNone: *out += "None"; break;
    case Type::kBool: *out += value.truth() ? "True" : "False"; break;
    case Type::kInt: *out += std::to_string(value.integer()); break;
    case Type::kFloat: *out += FloatText(value.number()); break;
    case Type::kText: *out += jinja::Repr(value.bytes()); break;
    case Type::kList: {
      const List& list = value.list();
      const bool tuple = list.kind == List::Kind::kTuple;
      if (list.kind == List::Kind::kGenerator) Fail("a generator has no text: use |list");
      if (list.kind == List::Kind::kRange) Fail("a range has no text: use |list");
      const char* view = list.kind == List::Kind::kKeys     ? "dict_keys("
                         : list.kind == List::Kind::kValues ? "dict_values("
                         : list.kind == List::Kind::kItems  ? "dict_items("
                                                            : "";
      *out += StrCat(view, tuple ? "(" : "[");
      join(list.items);
      if (tuple && list.items.size() == 1) *out += ',';
      *out += tuple ? ")" : "]";
      if (*view != '\0') *out += ')';
      break;
    }
    case Type::kDict: {
      *out += '{';
      bool first = true;
      for (const auto& [key, item] : value.dict().items) {
        if (!first) *out += ", ";
        first = false;
        AppendRepr(key, out);
        *out += ": ";
        AppendRepr(item, out);
      }
      *out += '}';
      break;
    }
    case Type::kNamespace: *out += "<Namespace>"; break;
    case Type::kCallable:
      *out += value.callable().function == nullptr ? StrCat("<Macro '", value.callable().name, "'>") : "<function>";
      break;
    case Type::kLoop:
      *out += StrCat("<LoopContext ", value.loop().index + 1, "/", value.loop().items.size(), ">");
      break;
  }
}

std::string Run::Repr(const Value& value) {
  std::string out;
  AppendRepr(value, &out);
  return out;
}

MarkedText Run::Str(const Value& value) {
  if (value.is_text()) return value.text();
  if (value.undefined()) return {};
  if (!value.Is(Type::kList) && !value.Is(Type::kDict)) return MarkedText(Repr(value));
  const int32_t source = SourceOf(value);
  return source == -1 ? MarkedText(Repr(value)) : MarkedText(Repr(value), source);
}

Value Run::StrValue(const Value& value) { return value.is_text() ? value : heap_.Text(Str(value)); }

// ---- Sequences ----

std::vector<Value> Run::Items(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined: return {};
    case Type::kText: {
      std::vector<Value> chars;
      const MarkedText& text = value.text();
      for (size_t at = 0; at < text.bytes().size();) {
        const auto n = static_cast<size_t>(Utf8Length(text.bytes()[at]));
        chars.push_back(heap_.Text(text.Part(at, n)));
        at += n;
      }
      Step(static_cast<int64_t>(chars.size()));
      return chars;
    }
    case Type::kList: {
      List& list = value.list();
      Step(static_cast<int64_t>(list.items.size() / 4));
      if (list.kind != List::Kind::kGenerator) return list.items;
      std::vector<Value> rest(list.items.begin() + static_cast<std::ptrdiff_t>(list.taken), list.items.end());
      list.taken = list.items.size();
      return rest;
    }
    case Type::kDict: {
      std::vector<Value> keys;
      for (const auto& [key, item] : value.dict().items) keys.push_back(key);
      Step(static_cast<int64_t>(keys.size()));
      return keys;
    }
    default: Fail(StrCat(TypeName(value), " cannot be iterated over"));
  }
}

int64_t Run::Length(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined: return 0;
    case Type::kText:
      Step(static_cast<int64_t>(value.bytes().size() / 64));
      return static_cast<int64_t>(CharCount(value.bytes()));
    case Type::kDict: return static_cast<int64_t>(value.dict().items.size());
    case Type::kLoop: return static_cast<int64_t>(value.loop().items.size());
    case Type::kList:
      if (value.list().kind != List::Kind::kGenerator) return static_cast<int64_t>(value.list().items.size());
      [[fallthrough]];
    default: Fail(StrCat(TypeName(value), " has no length"));
  }
}

bool Run::Equals(const Value& a, const Value& b) {
  int64_t steps = 0;
  const bool equal = Equal(a, b, &steps);
  Step(steps);
  return equal;
}

int Run::Order(const Value& a, const Value& b, const char* op) {
  Step();
  if (a.undefined() || b.undefined()) Fail((a.undefined() ? a : b).missing().what);
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
    return a.number() < b.number() ? -1 : a.number() > b.number() ? 1 : 0;
  }
  if (a.is_text() && b.is_text()) {  // bytes of UTF-8 are ordered as characters are
    Step(static_cast<int64_t>(std::min(a.bytes().size(), b.bytes().size()) / 64));
    const int order = a.bytes().compare(b.bytes());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  const auto is_sequence = [](const Value& v) {
    return v.Is(Type::kList) && (v.list().kind == List::Kind::kList || v.list().kind == List::Kind::kTuple);
  };
  if (!is_sequence(a) || !is_sequence(b) || a.list().kind != b.list().kind)
    Fail(StrCat(op, ": ", TypeName(a), " and ", TypeName(b), " have no order"));
  const auto &x = a.list().items, &y = b.list().items;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
    if (!Equals(x[i], y[i])) return Order(x[i], y[i], op);
  return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
}

bool Run::Contains(const Value& container, const Value& value) {
  switch (container.type()) {
    case Type::kText:
      if (!value.is_text()) Fail(StrCat("in: a str holds other texts, not ", TypeName(value)));
      Step(static_cast<int64_t>(container.bytes().size() / 64));
      return Find(container.bytes(), value.bytes(), 0) != std::string::npos;
    case Type::kDict: {
      int64_t steps = 0;
      const bool found = FindKey(container.dict(), value, &steps) != nullptr;
      Step(steps);
      return found;
    }
    case Type::kUndefined:
    case Type::kList:
      for (const Value& item : Items(container))
        if (Equals(item, value)) return true;
      return false;
    default: Fail(StrCat("in: ", TypeName(container), " cannot be looked through"));
  }
}

bool Run::Compare(const std::string& op, const Value& a, const Value& b) {
  if (op == "==") return Equals(a, b);
  if (op == "!=") return !Equals(a, b);
  if (op == "in") return Contains(b, a);
  if (op == "not in") return !Contains(b, a);
  const auto unordered = [](const Value& v) { return v.Is(Type::kFloat) && std::isnan(v.number()); };
  const int order = Order(a, b, op.c_str());
  if (unordered(a) || unordered(b)) return false;
  return op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
}

// ---- Arithmetic ----

Value Run::Repeated(const Value& what, int64_t times) {
  times = std::max<int64_t>(times, 0);
  const bool is_text = what.is_text();
  const auto size = static_cast<int64_t>(is_text ? what.bytes().size() : what.list().items.size());
  if (size > 0 && times > heap_.left() / size) Fail("*: the template makes more text and lists than it may");
  Step(size * times / 16);
  if (is_text) {
    MarkedText out;
    for (int64_t i = 0; i < times; ++i) out.Append(what.text());
    return heap_.Text(std::move(out)).AsMarkup(what.markup());
  }
  std::vector<Value> items;
  for (int64_t i = 0; i < times; ++i) items.insert(items.end(), what.list().items.begin(), what.list().items.end());
  return heap_.NewList(std::move(items), what.list().kind);
}

Value Run::Binary(const std::string& op, const Value& a, const Value& b) {
  if (op == "%" && a.is_text())
    return FormatPercent(*this, a.text(), a.markup() ? EscapedParts(*this, b) : b).AsMarkup(a.markup());
  if (a.undefined() || b.undefined()) Fail(StrCat(op, ": ", (a.undefined() ? a : b).missing().what));
  const auto is_sequence = [](const Value& v) {
    return v.Is(Type::kList) && (v.list().kind == List::Kind::kList || v.list().kind == List::Kind::kTuple);
  };
  if (op == "+" && a.is_text() && b.is_text()) {
    MarkedText text;
    if (a.markup() || b.markup()) {
      text.Append(Escaped(*this, a));
      text.Append(Escaped(*this, b));
      return heap_.Text(std::move(text)).AsMarkup();
    }
    text.Append(a.text());
    text.Append(b.text());
    return heap_.Text(std::move(text));
  }
  if (op == "+" && is_sequence(a) && is_sequence(b) && a.list().kind == b.list().kind) {
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    Step(static_cast<int64_t>(items.size() / 4));
    return heap_.NewList(std::move(items), a.list().kind);
  }
  if (op == "*" && b.is_integer() && (a.is_text() || is_sequence(a))) return Repeated(a, b.integer());
  if (op == "*" && a.is_integer() && (b.is_text() || is_sequence(b))) return Repeated(b, a.integer());
  return Arithmetic(op, a, b);
}

Value Run::Arithmetic(const std::string& op, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) Fail(StrCat(op, ": cannot be done with ", TypeName(a), " and ", TypeName(b)));
  const bool integers = a.is_integer() && b.is_integer();
  if ((op == "/" || op == "//" || op == "%") && b.number() == 0) Fail(StrCat(op, ": division by zero"));
  if (integers && op != "/" && !(op == "**" && b.integer() < 0)) return IntArithmetic(op, a.integer(), b.integer());
  const double x = a.number(), y = b.number();
  if (op == "+") return Value(x + y);
  if (op == "-") return Value(x - y);
  if (op == "*") return Value(x * y);
  if (op == "/") return Value(x / y);
  if (op == "**") {
    const double power = std::pow(x, y);
    if (std::isnan(power) && !std::isnan(x) && !std::isnan(y)) Fail("**: the result is not real");
    return Value(power);
  }
  // As Python: the remainder has the sign of the divisor.
  double rest = std::fmod(x, y);
  if (rest != 0 && (y < 0) != (rest < 0)) rest += y;
  if (op == "%") return Value(rest);
  return Value(std::floor((x - rest) / y + 0.5));
}

Value Run::IntArithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t out = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &out);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &out);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &out);
  } else if (op == "**") {
    out = 1;
    Step(std::min<int64_t>(b, 64));
    if (a == 1 || a == 0 || a == -1) {
      out = b == 0 || a == 1 ? 1 : a == 0 ? 0 : b % 2 == 0 ? 1 : -1;
    } else {
      for (int64_t i = 0; i < b && !overflow; ++i) overflow = __builtin_mul_overflow(out, a, &out);
    }
  } else {
    if (a == std::numeric_limits<int64_t>::min() && b == -1) Fail(StrCat(op, ": the result needs more than 64 bits"));
    const int64_t quotient = a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
    out = op == "//" ? quotient : a - quotient * b;
  }
  if (overflow) Fail(StrCat(op, ": the result needs more than 64 bits"));
  return Value(out);
}

// ---- Members ----

Value Run::UndefinedMember(const Value& object, std::string_view name) {
  return heap_.NewUndefined(StrCat("'", TypeName(object), "' has no member '", name.substr(0, 60), "'"));
}

std::optional<Value> Run::LoopMember(Loop& loop, std::string_view name) {
  const auto index = static_cast<int64_t>(loop.index), n = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(n - index);
  if (name == "revindex0") return Value(n - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == n);
  if (name == "length") return Value(n);
  if (name == "depth") return Value(loop.depth + 1);
  if (name == "depth0") return Value(loop.depth);
  if (name == "previtem")
    return index == 0 ? heap_.NewUndefined("there is no previous item") : loop.items[loop.index - 1];
  if (name == "nextitem")
    return index + 1 >= n ? heap_.NewUndefined("there is no next item") : loop.items[loop.index + 1];
  return std::nullopt;
}

Value Run::Attribute(const Value& object, std::string_view name) {
  if (object.undefined()) Fail(object.missing().what);
  int64_t steps = 0;
  if (object.Is(Type::kNamespace)) {
    const Value* found = FindKey(object.dict(), name, &steps);
    Step(steps);
    return found != nullptr ? *found : UndefinedMember(object, name);
  }
  if (object.Is(Type::kLoop))
    if (const auto member = LoopMember(object.loop(), name)) return *member;
  if (const Method* method = FindMethod(object, name)) {
    if (method->function == nullptr)
      return heap_.NewUndefined(StrCat(".", name, " changes a ", TypeName(object), ", which templates may not"));
    return heap_.NewCallable({.name = method->name, .function = method->function, .self = object});
  }
  if (object.Is(Type::kDict)) {
    const Value* found = FindKey(object.dict(), name, &steps);
    Step(steps);
    if (found != nullptr) return *found;
  }
  if (object.Is(Type::kCallable) && object.callable().function == nullptr && name == "name")
    return heap_.Text(object.callable().name);
  return UndefinedMember(object, name);
}

Value Run::Item(const Value& object, const Value& key) {
  if (object.undefined()) Fail(object.missing().what);
  int64_t steps = 0;
  const Value* found = object.Is(Type::kDict) ? FindKey(object.dict(), key, &steps) : nullptr;
  Step(steps);
  if (found != nullptr) return *found;
  const bool sequence =
      object.is_text() || (object.Is(Type::kList) && object.list().kind != List::Kind::kGenerator &&
                           object.list().kind != List::Kind::kKeys && object.list().kind != List::Kind::kValues &&
                           object.list().kind != List::Kind::kItems);
  if (sequence && key.is_integer()) {
    const int64_t n = Length(object);
    const int64_t index = key.integer() < 0 ? key.integer() + n : key.integer();
    if (index < 0 || index >= n) return UndefinedMember(object, std::to_string(key.integer()));
    if (object.Is(Type::kList)) return object.list().items[static_cast<size_t>(index)];
    const size_t at = CharOffset(object.bytes(), static_cast<size_t>(index));
    const auto n_bytes = static_cast<size_t>(Utf8Length(object.bytes()[at]));
    return heap_.Text(object.text().Part(at, n_bytes)).AsMarkup(object.markup());
  }
  if (!key.is_text()) return UndefinedMember(object, Repr(key));
  return Attribute(object, key.bytes());
}

Value Run::Slice(const Value& object, std::span<const Value> bounds) {
  if (object.undefined()) Fail(object.missing().what);
  if (!object.is_text() && !object.Is(Type::kList)) Fail(StrCat("'", TypeName(object), "' has no slices"));
  for (const Value& bound : bounds)
    if (!bound.none()) (void)IntOf(bound, "slice");
  const int64_t n = Length(object), step = bounds[2].none() ? 1 : bounds[2].integer();
  if (step == 0) Fail("slice: a step of 0");
  const auto place = [&](const Value& bound, int64_t missing) {
    if (bound.none()) return missing;
    const int64_t at = bound.integer() < 0 ? std::max(bound.integer(), -n - 1) + n : std::min(bound.integer(), n);
    return std::clamp<int64_t>(at, step < 0 ? -1 : 0, step < 0 ? n - 1 : n);
  };
  const int64_t begin = place(bounds[0], step < 0 ? n - 1 : 0), end = place(bounds[1], step < 0 ? -1 : n);
  if (object.is_text() && step == 1) {
    const std::string& bytes = object.bytes();
    const size_t from = CharOffset(bytes, static_cast<size_t>(begin));
    const size_t to =
        end <= begin ? from : from + CharOffset(std::string_view(bytes).substr(from), static_cast<size_t>(end - begin));
    Step(static_cast<int64_t>(to / 64));
    return heap_.Text(object.text().Part(from, to - from)).AsMarkup(object.markup());
  }
  const std::vector<Value> all = Items(object);
  std::vector<Value> taken;
  const int64_t stride = std::clamp<int64_t>(step, -n - 1, n + 1);
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += stride) taken.push_back(all[static_cast<size_t>(i)]);
  if (!object.is_text()) {
    const bool tuple = object.list().kind == List::Kind::kTuple;
    return heap_.NewList(std::move(taken), tuple ? List::Kind::kTuple : List::Kind::kList);
  }
  MarkedText text;
  for (const Value& c : taken) text.Append(c.text());
  return heap_.Text(std::move(text)).AsMarkup(object.markup());
}

}  // namespace hydra::jinja
