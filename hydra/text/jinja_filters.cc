// SPDX-License-Identifier: Apache-2.0
// Filters on texts, numbers and dicts, and the table of all filters. Those on sequences: jinja_filters_list.cc.
#include "hydra/text/jinja_filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/jinja_run.h"
#include "hydra/text/jinja_strings.h"

namespace hydra::jinja {
namespace {

Value FilterUpper(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, run.Str(in), CaseMap::kUpper).AsMarkup(in.markup());
}
Value FilterLower(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, run.Str(in), CaseMap::kLower).AsMarkup(in.markup());
}
Value FilterCapitalize(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, run.Str(in), CaseMap::kCapitalize).AsMarkup(in.markup());
}
Value FilterTitle(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, run.Str(in), CaseMap::kWords);
}
Value FilterTrim(Run& run, const Value& in, CallArgs& args) {
  const Value chars = args.Take(0, "chars").value_or(Value());
  run.Finish(args, 1);
  return StripText(run, run.Str(in), chars, true, true).AsMarkup(in.markup());
}
Value FilterString(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return run.StrValue(in);
}
Value FilterReplace(Run& run, const Value& in, CallArgs& args) {
  const Value from = run.Take(args, 0, "old"), to = run.Take(args, 1, "new");
  const Value count = args.Take(2, "count").value_or(Value());
  run.Finish(args, 3);
  return ReplaceText(run, run.Str(in), run.Str(from), run.Str(to),
                     count.none() ? -1 : run.IntOf(count, "replace: count"));
}
Value FilterCenter(Run& run, const Value& in, CallArgs& args) {
  const int64_t width = run.TakeInt(args, 0, "width", 80);
  run.Finish(args, 1);
  return JustifyText(run, run.Str(in), width, MarkedText(" "), '^').AsMarkup(in.markup());
}

Value FilterEscape(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return run.heap().Text(Escaped(run, in)).AsMarkup();
}
Value FilterForceescape(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return run.heap().Text(Escaped(run, in.AsMarkup(false))).AsMarkup();
}

Value FilterIndent(Run& run, const Value& in, CallArgs& args) {
  const Value width = args.Take(0, "width").value_or(Value(int64_t{4}));
  const bool first = run.TakeBool(args, 1, "first", false), blank = run.TakeBool(args, 2, "blank", false);
  run.Finish(args, 3);
  if (!width.is_text() && run.IntOf(width, "indent: width") > 1000) run.Fail("indent: a width above 1000");
  const MarkedText by = width.is_text()
                            ? width.text()
                            : MarkedText(std::string(static_cast<size_t>(std::max<int64_t>(width.integer(), 0)), ' '));
  MarkedText whole = run.TextArg(in, "indent").Part(0);
  whole.Append("\n");
  const std::vector<Value> lines = SplitLines(run, whole, false);
  MarkedText out;
  if (first) out.Append(by);
  for (size_t i = 0; i < lines.size(); ++i) {
    run.Step();
    if (i > 0) out.Append("\n");
    if (i > 0 && (blank || !lines[i].bytes().empty())) out.Append(by);
    out.Append(lines[i].text());
    if (static_cast<int64_t>(out.bytes().size()) > run.heap().left()) run.Fail("indent: the text becomes too long");
  }
  return run.heap().Text(std::move(out)).AsMarkup(in.markup());
}

Value FilterTruncate(Run& run, const Value& in, CallArgs& args) {
  const int64_t length = run.TakeInt(args, 0, "length", 255);
  const bool kill_words = run.TakeBool(args, 1, "killwords", false);
  const Value end = args.Take(2, "end").value_or(run.heap().Text("..."));
  const Value leeway = args.Take(3, "leeway").value_or(Value());
  run.Finish(args, 4);
  const MarkedText& text = run.TextArg(in, "truncate");
  const auto end_length = static_cast<int64_t>(CharCount(run.TextArg(end, "truncate: end").bytes()));
  if (length < end_length) run.Fail("truncate: the length is less than that of the end");
  const int64_t slack = leeway.none() ? 5 : run.IntOf(leeway, "truncate: leeway");
  if (run.Length(in) <= length + slack) return in;
  MarkedText out = text.Part(0, CharOffset(text.bytes(), static_cast<size_t>(length - end_length)));
  if (!kill_words)
    if (const size_t space = out.bytes().rfind(' '); space != std::string::npos) out = out.Part(0, space);
  out.Append(in.markup() ? Escaped(run, end) : end.text());
  return run.heap().Text(std::move(out)).AsMarkup(in.markup());
}

Value FilterWordcount(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  const MarkedText text = run.Str(in);
  int64_t n = 0;
  bool inside = false;
  for (size_t at = 0; at < text.bytes().size(); at += static_cast<size_t>(Utf8Length(text.bytes()[at]))) {
    const char32_t c = DecodeUtf8(text.bytes().data() + at).value;
    const bool word = IsLetter(c) || IsDecimal(c) || c == '_';
    n += word && !inside;
    inside = word;
  }
  run.Step(static_cast<int64_t>(text.bytes().size() / 16));
  return Value(n);
}

Value FilterFormat(Run& run, const Value& in, CallArgs& args) {
  if (!args.named.empty() && !args.positional.empty()) run.Fail("format: arguments by place and by name");
  if (args.named.empty())
    return run.Binary("%", run.StrValue(in), run.heap().NewList(args.positional, List::Kind::kTuple));
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [name, value] : args.named) items.emplace_back(run.heap().Text(args.NameText(name)), value);
  return run.Binary("%", run.StrValue(in), run.heap().NewDict(std::move(items)));
}

// ---- Numbers ----

Value FilterAbs(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  if (in.Is(Type::kFloat)) return Value(std::abs(in.number()));
  const int64_t value = run.IntOf(in, "abs");
  return value < 0 ? run.Binary("-", Value(int64_t{0}), Value(value)) : Value(value);
}

Value FilterInt(Run& run, const Value& in, CallArgs& args) {
  const Value missing = args.Take(0, "default").value_or(Value(int64_t{0}));
  const int64_t base = run.TakeInt(args, 1, "base", 10);
  run.Finish(args, 2);
  if (in.undefined()) run.Fail(StrCat("int: ", in.missing().what));
  if (in.is_integer()) return Value(in.integer());
  if (base != 2 && base != 8 && base != 10 && base != 16) run.Fail("int: base must be 2, 8, 10 or 16");
  std::optional<double> number;
  if (in.is_text()) {
    if (const auto whole = ParseInt(in.bytes(), static_cast<int>(base))) return Value(*whole);
    number = ParseFloat(in.bytes());
  } else if (in.Is(Type::kFloat)) {
    number = in.number();
  }
  if (!number || !std::isfinite(*number)) return missing;
  if (std::abs(*number) >= 9.2e18) run.Fail("int: the result needs more than 64 bits");
  return Value(static_cast<int64_t>(*number));
}

Value FilterFloat(Run& run, const Value& in, CallArgs& args) {
  const Value missing = args.Take(0, "default").value_or(Value(0.0));
  run.Finish(args, 1);
  if (in.undefined()) run.Fail(StrCat("float: ", in.missing().what));
  if (in.is_number()) return Value(in.number());
  const auto number = in.is_text() ? ParseFloat(in.bytes()) : std::nullopt;
  return number ? Value(*number) : missing;
}

// round(value, precision): the nearest decimal, halves by the exact value of the double.
double RoundHalf(double value, int64_t precision) {
  if (precision >= 0) {
    const std::string text = fmt::format("{:.{}f}", value, static_cast<int>(std::min<int64_t>(precision, 300)));
    return std::strtod(text.c_str(), nullptr);
  }
  const double unit = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(value / unit) * unit;
}

Value FilterRound(Run& run, const Value& in, CallArgs& args) {
  const int64_t precision = run.TakeInt(args, 0, "precision", 0);
  const Value method = args.Take(1, "method").value_or(run.heap().Text("common"));
  run.Finish(args, 2);
  if (!in.is_number()) run.Fail(StrCat("round: needs a number, not ", TypeName(in)));
  if (precision < -300 || precision > 300) run.Fail("round: precision must be -300 to 300");
  const std::string& how = run.TextArg(method, "round: method").bytes();
  if (how == "common") {
    if (in.is_integer() && precision >= 0) return Value(in.integer());
    if (!std::isfinite(in.number())) return in;
    const double rounded = RoundHalf(in.number(), precision);
    return in.is_integer() ? Value(static_cast<int64_t>(rounded)) : Value(rounded);
  }
  if (how != "ceil" && how != "floor") run.Fail("round: method must be common, ceil or floor");
  const double unit = std::pow(10.0, static_cast<double>(precision)), scaled = in.number() * unit;
  return Value((how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

// ---- Values of any kind ----

Value FilterDefault(Run& run, const Value& in, CallArgs& args) {
  const Value other = args.Take(0, "default_value").value_or(run.heap().Text(""));
  const bool boolean = run.TakeBool(args, 1, "boolean", false);
  run.Finish(args, 2);
  return in.undefined() || (boolean && !Truth(in)) ? other : in;
}
Value FilterLength(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return Value(run.Length(in));
}
Value FilterSafe(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return run.StrValue(in).AsMarkup();
}
Value FilterItems(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  if (in.undefined()) return run.heap().NewList({}, List::Kind::kGenerator);
  if (!in.Is(Type::kDict)) run.Fail(StrCat("items: needs a dict, not ", TypeName(in)));
  return run.heap().NewList(PairsOf(run, in.dict()), List::Kind::kGenerator);
}
Value FilterAttr(Run& run, const Value& in, CallArgs& args) {
  const Value name = run.Take(args, 0, "name");
  run.Finish(args, 1);
  const std::string& member = run.TextArg(name, "attr: name").bytes();
  const bool by_name =
      in.Is(Type::kNamespace) || in.Is(Type::kLoop) || in.undefined() || FindMethod(in, member) != nullptr;
  return by_name ? run.Attribute(in, member)
                 : run.heap().NewUndefined(StrCat("'", TypeName(in), "' has no attribute '", member, "'"));
}

struct NamedFilter {
  std::string_view name;
  Function function;
};
constexpr NamedFilter kFilters[] = {{"abs", FilterAbs},
                                    {"attr", FilterAttr},
                                    {"batch", FilterBatch},
                                    {"capitalize", FilterCapitalize},
                                    {"center", FilterCenter},
                                    {"count", FilterLength},
                                    {"d", FilterDefault},
                                    {"default", FilterDefault},
                                    {"dictsort", FilterDictsort},
                                    {"e", FilterEscape},
                                    {"escape", FilterEscape},
                                    {"first", FilterFirst},
                                    {"float", FilterFloat},
                                    {"forceescape", FilterForceescape},
                                    {"format", FilterFormat},
                                    {"groupby", FilterGroupby},
                                    {"indent", FilterIndent},
                                    {"int", FilterInt},
                                    {"items", FilterItems},
                                    {"join", FilterJoin},
                                    {"last", FilterLast},
                                    {"length", FilterLength},
                                    {"list", FilterList},
                                    {"lower", FilterLower},
                                    {"map", FilterMap},
                                    {"max", FilterMax},
                                    {"min", FilterMin},
                                    {"reject", FilterReject},
                                    {"rejectattr", FilterRejectattr},
                                    {"replace", FilterReplace},
                                    {"reverse", FilterReverse},
                                    {"round", FilterRound},
                                    {"safe", FilterSafe},
                                    {"select", FilterSelect},
                                    {"selectattr", FilterSelectattr},
                                    {"slice", FilterSlice},
                                    {"sort", FilterSort},
                                    {"string", FilterString},
                                    {"sum", FilterSum},
                                    {"title", FilterTitle},
                                    {"tojson", ToJson},
                                    {"trim", FilterTrim},
                                    {"truncate", FilterTruncate},
                                    {"unique", FilterUnique},
                                    {"upper", FilterUpper},
                                    {"wordcount", FilterWordcount}};

}  // namespace

Function FindFilter(std::string_view name) {
  const auto found = std::ranges::find(kFilters, name, &NamedFilter::name);
  return found == std::end(kFilters) ? nullptr : found->function;
}

}  // namespace hydra::jinja
