// SPDX-License-Identifier: Apache-2.0
// Evaluating expressions, and calls of all kinds. Operators: jinja_ops.cc.
#include <algorithm>
#include <array>

#include "hydra/base/error.h"
#include "hydra/text/jinja_run.h"
#include "hydra/text/jinja_strings.h"

namespace hydra::jinja {
namespace {

constexpr int kMostEvaluations = 600;  // within one another

class Deeper {
 public:
  explicit Deeper(int* depth) : depth_(depth) { ++*depth_; }
  ~Deeper() { --*depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  int* depth_;
};

}  // namespace

Value Run::Evaluate(const Expr& expr, Scope* scope) {
  Step();
  const Deeper deeper(&depth_);
  if (depth_ > kMostEvaluations) Fail("expressions and macros are nested too deep");
  return EvaluateAt(expr, scope);
}

Value Run::EvaluateAt(const Expr& expr, Scope* scope) {
  const auto part = [&](size_t i) { return Evaluate(*expr.parts[i], scope); };
  switch (expr.kind) {
    case Expr::Kind::kName: return Name(expr, scope);
    case Expr::Kind::kList:
    case Expr::Kind::kTuple: {
      std::vector<Value> items;
      for (size_t i = 0; i < expr.parts.size(); ++i) items.push_back(part(i));
      return heap_.NewList(std::move(items), expr.kind == Expr::Kind::kList ? List::Kind::kList : List::Kind::kTuple);
    }
    case Expr::Kind::kDict: {
      std::vector<std::pair<Value, Value>> items;
      for (size_t i = 0; i < expr.parts.size(); i += 2) {
        const Value key = part(i), value = part(i + 1);
        const auto same = std::ranges::find_if(items, [&](const auto& item) { return Equals(item.first, key); });
        if (same != items.end()) {
          same->second = value;
        } else {
          items.emplace_back(key, value);
        }
      }
      return heap_.NewDict(std::move(items));
    }
    case Expr::Kind::kAttribute: {
      const Value object = part(0);
      place_ = expr.place;
      return Attribute(object, expr.text);
    }
    case Expr::Kind::kItem: {
      const Value object = part(0);
      if (expr.parts[1]->kind != Expr::Kind::kSlice) {
        const Value key = part(1);
        place_ = expr.place;
        return Item(object, key);
      }
      std::array<Value, 3> bounds;
      for (size_t i = 0; i < 3; ++i)
        if (expr.parts[1]->parts[i] != nullptr) bounds[i] = Evaluate(*expr.parts[1]->parts[i], scope);
      place_ = expr.place;
      return Slice(object, bounds);
    }
    case Expr::Kind::kSlice: Fail("a slice stands among several items");
    case Expr::Kind::kCall: {
      const Value callee = part(0);
      CallArgs args = EvaluateArguments(*expr.arguments, expr.parts[0]->text, scope);
      place_ = expr.place;
      return Call(callee, args);
    }
    case Expr::Kind::kFilter: return Filters(expr, Value(), scope);
    case Expr::Kind::kTest: {
      const Value input = part(0);
      CallArgs args = EvaluateArguments(*expr.arguments, expr.text, scope);
      place_ = expr.place;
      return Value(IsTrue(expr.text, input, args));
    }
    case Expr::Kind::kNot: return Value(!Truth(part(0)));
    case Expr::Kind::kNegative:
    case Expr::Kind::kPositive: {
      const bool negative = expr.kind == Expr::Kind::kNegative;
      const Value value = part(0);
      place_ = expr.place;
      if (!value.is_number()) Fail(StrCat(negative ? "-" : "+", ": needs a number, not ", TypeName(value)));
      if (value.Is(Type::kFloat)) return Value(negative ? -value.number() : value.number());
      if (!negative) return Value(value.integer());
      return Binary("-", Value(int64_t{0}), value);
    }
    case Expr::Kind::kAnd: {
      const Value left = part(0);
      return Truth(left) ? part(1) : left;
    }
    case Expr::Kind::kOr: {
      const Value left = part(0);
      return Truth(left) ? left : part(1);
    }
    case Expr::Kind::kIf:
      if (Truth(part(0))) return part(1);
      if (expr.parts[2] != nullptr) return part(2);
      return heap_.NewUndefined("the inline if-expression evaluated to false and has no else");
    case Expr::Kind::kCompare: return CompareChain(expr, scope);
    case Expr::Kind::kConcat: {
      MarkedText text;
      for (size_t i = 0; i < expr.parts.size(); ++i) text.Append(Str(part(i)));
      return heap_.Text(std::move(text));
    }
    case Expr::Kind::kBinary: {
      const Value left = part(0), right = part(1);
      place_ = expr.place;
      return Binary(expr.text, left, right);
    }
    default: return Constant(expr);
  }
}

Value Run::Constant(const Expr& expr) {
  switch (expr.kind) {
    case Expr::Kind::kBool: return Value(expr.truth);
    case Expr::Kind::kInt: return Value(expr.integer);
    case Expr::Kind::kFloat: return Value(expr.number);
    case Expr::Kind::kText: return heap_.Text(expr.text);
    default: return {};
  }
}

Value Run::Name(const Expr& expr, Scope* scope) {
  for (const Scope* at = scope; at != nullptr; at = at->outer) {
    steps_left_ -= static_cast<int64_t>(at->values.size() / 8);
    for (const auto& [name, value] : at->values)
      if (name == expr.name) return value;
  }
  if (const auto global = FindGlobal(expr.text)) return heap_.NewCallable(*global);
  return heap_.NewUndefined(StrCat("'", expr.text, "' is undefined"));
}

Value Run::CompareChain(const Expr& expr, Scope* scope) {
  Value left = Evaluate(*expr.parts[0], scope);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    const Value right = Evaluate(*expr.parts[i + 1], scope);
    place_ = expr.place;
    if (!Compare(expr.ops[i], left, right)) return Value(false);
    left = right;
  }
  return Value(true);
}

// A chain of filters; the innermost has no input of its own in blocks, and gets `input`.
Value Run::Filters(const Expr& chain, const Value& input, Scope* scope) {
  const Deeper deeper(&depth_);
  if (depth_ > kMostEvaluations) Fail("filters are nested too deep");
  const Expr* inner = chain.parts[0].get();
  const Value value = inner == nullptr                     ? input
                      : inner->kind == Expr::Kind::kFilter ? Filters(*inner, input, scope)
                                                           : Evaluate(*inner, scope);
  CallArgs args = EvaluateArguments(*chain.arguments, chain.text, scope);
  place_ = chain.place;
  return Filter(chain.text, value, args);
}

CallArgs Run::EvaluateArguments(const Arguments& arguments, std::string_view callee, Scope* scope) {
  CallArgs args{.callee = callee};
  for (const ExprPtr& value : arguments.positional) args.positional.push_back(Evaluate(*value, scope));
  for (const auto& [name, value] : arguments.named) args.named.emplace_back(name, Evaluate(*value, scope));
  if (arguments.list != nullptr)
    for (const Value& value : Items(Evaluate(*arguments.list, scope))) args.positional.push_back(value);
  if (arguments.dict == nullptr) return args;
  const Value dict = Evaluate(*arguments.dict, scope);
  if (!dict.Is(Type::kDict)) Fail(StrCat("** needs a dict, not ", TypeName(dict)));
  for (const auto& [key, value] : dict.dict().items) {
    if (!key.is_text()) Fail("** needs a dict whose keys are texts");
    args.named.emplace_back(key.bytes(), value);
    if (key.text().marked()) args.source = key.text().source();
  }
  return args;
}

Value Run::Call(const Value& callee, CallArgs& args) {
  Step(4);
  if (callee.undefined()) Fail(StrCat("call: ", callee.missing().what));
  if (callee.Is(Type::kLoop)) return CallLoop(callee.loop(), args);
  if (!callee.Is(Type::kCallable)) Fail(StrCat("call: ", TypeName(callee), " is no function"));
  const Callable& callable = callee.callable();
  args.callee = callable.name;
  if (callable.function == nullptr) return CallMacro(callable, args);
  return callable.self.markup() ? CallOnMarkup(callable, args) : callable.function(*this, callable.self, args);
}

Value Run::CallOnMarkup(const Callable& method, CallArgs& args) {
  if (method.name == "join" || method.name == "format")
    for (Value& value : args.positional) value = EscapedParts(*this, value);
  if (method.name == "format")
    for (auto& [name, value] : args.named) value = EscapedParts(*this, value);
  if (method.name == "replace" && args.positional.size() > 1)
    args.positional[1] = EscapedParts(*this, args.positional[1]);
  const Value made = method.function(*this, method.self, args);
  if (!made.Is(Type::kList)) return made.AsMarkup();
  for (Value& item : made.list().items) item = item.AsMarkup();
  return made;
}

Value Run::Filter(std::string_view name, const Value& input, CallArgs& args) {
  Step(2);
  const Function filter = FindFilter(name);
  if (filter == nullptr) Fail(StrCat("filter \"", name.substr(0, 40), "\" is not known"));
  args.callee = name;
  return filter(*this, input, args);
}

bool Run::IsTrue(std::string_view test, const Value& input, CallArgs& args) {
  Step(2);
  const Test function = FindTest(test);
  if (function == nullptr) Fail(StrCat("test \"", test.substr(0, 40), "\" is not known"));
  args.callee = test;
  return function(*this, input, args);
}

Value Run::Take(CallArgs& args, size_t place, std::string_view name) {
  const auto value = args.Take(place, name);
  if (!value) Fail(StrCat(args.callee, ": the argument \"", name, "\" is missing"));
  return *value;
}

int64_t Run::IntOf(const Value& value, std::string_view what) const {
  if (!value.is_integer()) Fail(StrCat(what, ": must be an int, not ", TypeName(value)));
  return value.integer();
}

int64_t Run::TakeInt(CallArgs& args, size_t place, std::string_view name, std::optional<int64_t> missing) {
  const auto value = args.Take(place, name);
  if (value) return IntOf(*value, StrCat(args.callee, ": ", name));
  if (!missing) Fail(StrCat(args.callee, ": the argument \"", name, "\" is missing"));
  return *missing;
}

bool Run::TakeBool(CallArgs& args, size_t place, std::string_view name, bool missing) {
  const auto value = args.Take(place, name);
  return value ? Truth(*value) : missing;
}

void Run::Finish(const CallArgs& args, size_t parameters) const {
  if (args.positional.size() > parameters)
    Fail(StrCat(args.callee, ": takes at most ", parameters, " arguments, not ", args.positional.size()));
  if (!args.named.empty())
    Fail(StrCat(args.callee, ": does not take the argument \"", args.named[0].first.substr(0, 40), "\""));
}

const MarkedText& Run::TextArg(const Value& value, std::string_view what) const {
  if (!value.is_text()) Fail(StrCat(what, ": must be a str, not ", TypeName(value)));
  return value.text();
}

}  // namespace hydra::jinja
