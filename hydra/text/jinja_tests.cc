// SPDX-License-Identifier: Apache-2.0
// What `is` asks, and the functions that every template has.
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/jinja_run.h"
#include "hydra/text/jinja_strings.h"

namespace hydra::jinja {
namespace {

// ---- Tests ----

template <bool (*is)(const Value&)>
bool Plain(Run& run, const Value& value, CallArgs& args) {
  run.Finish(args, 0);
  return is(value);
}
bool IsDefined(const Value& v) { return !v.undefined(); }
bool IsUndefined(const Value& v) { return v.undefined(); }
bool IsNone(const Value& v) { return v.none(); }
bool IsBoolean(const Value& v) { return v.Is(Type::kBool); }
bool IsTrueValue(const Value& v) { return v.Is(Type::kBool) && v.truth(); }
bool IsFalse(const Value& v) { return v.Is(Type::kBool) && !v.truth(); }
bool IsInteger(const Value& v) { return v.Is(Type::kInt); }
bool IsFloat(const Value& v) { return v.Is(Type::kFloat); }
bool IsNumber(const Value& v) { return v.is_number(); }
bool IsString(const Value& v) { return v.is_text(); }
bool IsMapping(const Value& v) { return v.Is(Type::kDict); }
bool IsCallable(const Value& v) { return v.Is(Type::kCallable) || v.Is(Type::kLoop) || v.undefined(); }
bool IsIterable(const Value& v) {
  return v.undefined() || v.is_text() || v.Is(Type::kList) || v.Is(Type::kDict) || v.Is(Type::kLoop);
}
bool IsSequence(const Value& v) {
  const bool view = v.Is(Type::kList) && v.list().kind >= List::Kind::kGenerator && v.list().kind != List::Kind::kRange;
  return v.undefined() || v.is_text() || v.Is(Type::kDict) || (v.Is(Type::kList) && !view);
}
bool IsEscaped(const Value& v) { return v.markup(); }

int64_t Remainder(Run& run, const Value& value, const Value& by) {
  const Value rest = run.Binary("%", value, by);
  if (!rest.is_number()) run.Fail("needs a number");
  return rest.number() == 0 ? 0 : 1;
}
bool TestOdd(Run& run, const Value& v, CallArgs& args) {
  run.Finish(args, 0);
  const Value rest = run.Binary("%", v, Value(int64_t{2}));
  return rest.is_number() && rest.number() == 1;
}
bool TestEven(Run& run, const Value& v, CallArgs& args) {
  run.Finish(args, 0);
  return Remainder(run, v, Value(int64_t{2})) == 0;
}
bool TestDivisibleby(Run& run, const Value& v, CallArgs& args) {
  const Value by = run.Take(args, 0, "num");
  run.Finish(args, 1);
  return Remainder(run, v, by) == 0;
}
bool TestLower(Run& run, const Value& v, CallArgs& args) {
  run.Finish(args, 0);
  return IsCased(run, run.Str(v).bytes(), false);
}
bool TestUpper(Run& run, const Value& v, CallArgs& args) {
  run.Finish(args, 0);
  return IsCased(run, run.Str(v).bytes(), true);
}
bool TestFilter(Run& run, const Value& v, CallArgs& args) {
  run.Finish(args, 0);
  return v.is_text() && FindFilter(v.bytes()) != nullptr;
}
bool TestTest(Run& run, const Value& v, CallArgs& args) {
  run.Finish(args, 0);
  return v.is_text() && FindTest(v.bytes()) != nullptr;
}
bool TestIn(Run& run, const Value& v, CallArgs& args) {
  const Value container = run.Take(args, 0, "seq");
  run.Finish(args, 1);
  return run.Contains(container, v);
}
// Numbers and texts have no identity that templates could rely on: equal ones of one type are the same.
bool TestSameas(Run& run, const Value& v, CallArgs& args) {
  const Value other = run.Take(args, 0, "other");
  run.Finish(args, 1);
  if (v.type() != other.type()) return false;
  const bool object = v.Is(Type::kList) || v.Is(Type::kDict) || v.Is(Type::kNamespace);
  return object ? v.object() == other.object() : run.Equals(v, other);
}
template <const char* op>
bool TestCompare(Run& run, const Value& v, CallArgs& args) {
  const Value other = run.Take(args, 0, "other");
  run.Finish(args, 1);
  return run.Compare(op, v, other);
}
constexpr char kEq[] = "==", kNe[] = "!=", kLt[] = "<", kLe[] = "<=", kGt[] = ">", kGe[] = ">=";

struct NamedTest {
  std::string_view name;
  Test function;
};
constexpr NamedTest kTests[] = {{"defined", Plain<IsDefined>},
                                {"undefined", Plain<IsUndefined>},
                                {"none", Plain<IsNone>},
                                {"boolean", Plain<IsBoolean>},
                                {"true", Plain<IsTrueValue>},
                                {"false", Plain<IsFalse>},
                                {"integer", Plain<IsInteger>},
                                {"float", Plain<IsFloat>},
                                {"number", Plain<IsNumber>},
                                {"string", Plain<IsString>},
                                {"mapping", Plain<IsMapping>},
                                {"callable", Plain<IsCallable>},
                                {"iterable", Plain<IsIterable>},
                                {"sequence", Plain<IsSequence>},
                                {"escaped", Plain<IsEscaped>},
                                {"odd", TestOdd},
                                {"even", TestEven},
                                {"divisibleby", TestDivisibleby},
                                {"lower", TestLower},
                                {"upper", TestUpper},
                                {"filter", TestFilter},
                                {"test", TestTest},
                                {"in", TestIn},
                                {"sameas", TestSameas},
                                {"==", TestCompare<kEq>},
                                {"eq", TestCompare<kEq>},
                                {"equalto", TestCompare<kEq>},
                                {"!=", TestCompare<kNe>},
                                {"ne", TestCompare<kNe>},
                                {"<", TestCompare<kLt>},
                                {"lt", TestCompare<kLt>},
                                {"lessthan", TestCompare<kLt>},
                                {"<=", TestCompare<kLe>},
                                {"le", TestCompare<kLe>},
                                {">", TestCompare<kGt>},
                                {"gt", TestCompare<kGt>},
                                {"greaterthan", TestCompare<kGt>},
                                {">=", TestCompare<kGe>},
                                {"ge", TestCompare<kGe>}};

// ---- Functions ----

Value MakeRange(Run& run, const Value&, CallArgs& args) {
  constexpr int64_t kMost = 100'000;  // as Jinja's sandbox has it
  if (args.positional.empty() || args.positional.size() > 3 || !args.named.empty())
    run.Fail("range: needs one to three ints");
  std::vector<int64_t> bounds;
  for (const Value& value : args.positional) bounds.push_back(run.IntOf(value, "range"));
  const int64_t begin = bounds.size() == 1 ? 0 : bounds[0], end = bounds.size() == 1 ? bounds[0] : bounds[1];
  const int64_t step = bounds.size() == 3 ? bounds[2] : 1;
  if (step == 0) run.Fail("range: a step of 0");
  const double span = (static_cast<double>(end) - static_cast<double>(begin)) / static_cast<double>(step);
  if (span > kMost) run.Fail(StrCat("range: more than ", kMost, " numbers"));
  std::vector<Value> numbers;
  const auto n = static_cast<int64_t>(std::ceil(std::max(span, 0.0)));
  for (int64_t i = 0; i < n; ++i) numbers.push_back(Value(begin + i * step));
  run.Step(n / 4);
  return run.heap().NewList(std::move(numbers), List::Kind::kRange);
}

std::vector<std::pair<Value, Value>> DictItemsOf(Run& run, CallArgs& args) {
  std::vector<std::pair<Value, Value>> items;
  const auto set = [&](const Value& key, const Value& value) {
    const auto same = std::ranges::find_if(items, [&](const auto& item) { return run.Equals(item.first, key); });
    if (same != items.end()) {
      same->second = value;
    } else {
      items.emplace_back(key, value);
    }
  };
  if (args.positional.size() > 1) run.Fail(StrCat(args.callee, ": takes one dict and names"));
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.Is(Type::kDict)) {
      for (const auto& [key, value] : from.dict().items) set(key, value);
    } else {
      for (const Value& pair : run.Items(from)) {
        const std::vector<Value> two = run.Items(pair);
        if (two.size() != 2) run.Fail(StrCat(args.callee, ": needs pairs"));
        set(two[0], two[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) set(run.heap().Text(args.NameText(name)), value);
  return items;
}
Value MakeNamespace(Run& run, const Value&, CallArgs& args) { return run.heap().NewDict(DictItemsOf(run, args), true); }
Value MakeDict(Run& run, const Value&, CallArgs& args) { return run.heap().NewDict(DictItemsOf(run, args)); }

Value RaiseException(Run& run, const Value&, CallArgs& args) {
  const Value message = run.Take(args, 0, "message");
  run.Finish(args, 1);
  run.Fail(StrCat("raise_exception: ", OneLine(run.Str(message).bytes(), 400)));
}

Value StrftimeNow(Run& run, const Value&, CallArgs& args) {
  const Value format = run.Take(args, 0, "format");
  run.Finish(args, 1);
  const std::string& text = run.TextArg(format, "strftime_now").bytes();
  constexpr size_t kMost = 1024;
  if (text.size() > kMost) run.Fail(StrCat("strftime_now: a format of more than ", kMost, " bytes"));
  if (text.empty()) return format;
  std::tm broken{};
  const std::time_t now = run.now();
  localtime_r(&now, &broken);
  std::string out(16 * kMost, '\0');
  out.resize(std::strftime(out.data(), out.size(), text.c_str(), &broken));
  return run.TextAbout(std::move(out), format);
}

// A namespace of two: its items and the place of the next one.
Value CyclerNext(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  auto& state = self.dict().items;
  const auto& items = state[0].second.list().items;
  const int64_t at = state[1].second.integer();
  state[1].second = Value((at + 1) % static_cast<int64_t>(items.size()));
  return items[static_cast<size_t>(at)];
}
Value MakeCycler(Run& run, const Value&, CallArgs& args) {
  if (args.positional.empty() || !args.named.empty()) run.Fail("cycler: needs items");
  const Value items = run.heap().NewList(args.positional, List::Kind::kTuple);
  const Value state =
      run.heap().NewDict({{run.heap().Text("items"), items}, {run.heap().Text("at"), Value(int64_t{0})}});
  const Value next = run.heap().NewCallable({.name = "next", .function = CyclerNext, .self = state});
  return run.heap().NewDict({{run.heap().Text("next"), next}}, true);
}
Value JoinerNext(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  auto& state = self.dict().items;
  if (state[1].second.truth()) return state[0].second;
  state[1].second = Value(true);
  return run.heap().Text("");
}
Value MakeJoiner(Run& run, const Value&, CallArgs& args) {
  const Value separator = args.Take(0, "sep").value_or(run.heap().Text(", "));
  run.Finish(args, 1);
  const Value state =
      run.heap().NewDict({{run.heap().Text("sep"), separator}, {run.heap().Text("used"), Value(false)}});
  return run.heap().NewCallable({.name = "joiner", .function = JoinerNext, .self = state});
}

constexpr Method kGlobals[] = {{"range", MakeRange},
                               {"namespace", MakeNamespace},
                               {"dict", MakeDict},
                               {"raise_exception", RaiseException},
                               {"strftime_now", StrftimeNow},
                               {"cycler", MakeCycler},
                               {"joiner", MakeJoiner}};

}  // namespace

Test FindTest(std::string_view name) {
  const auto found = std::ranges::find(kTests, name, &NamedTest::name);
  return found == std::end(kTests) ? nullptr : found->function;
}

std::optional<Callable> FindGlobal(std::string_view name) {
  const auto found = std::ranges::find(kGlobals, name, &Method::name);
  if (found == std::end(kGlobals)) return std::nullopt;
  return Callable{.name = found->name, .function = found->function};
}

}  // namespace hydra::jinja
