// SPDX-License-Identifier: Apache-2.0
// Filters on sequences. What Python gives as a generator is one here: it is true, and its items come once.
#include <algorithm>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/jinja_filters.h"
#include "hydra/text/jinja_strings.h"

namespace hydra::jinja {
namespace {

Value Generator(Run& run, std::vector<Value> items) {
  return run.heap().NewList(std::move(items), List::Kind::kGenerator);
}

// "a.b.0" or a number: the members on the way to what is asked of each item.
std::vector<Value> PathOf(Run& run, const Value& attribute) {
  if (attribute.none()) return {};
  if (!attribute.is_text()) return {attribute};
  std::vector<Value> path;
  const MarkedText& text = attribute.text();
  for (size_t at = 0;;) {
    const size_t dot = std::min(text.bytes().find('.', at), text.bytes().size());
    const std::string part = text.bytes().substr(at, dot - at);
    const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    const auto number = digits ? ParseInt(part, 10) : std::nullopt;
    path.push_back(number ? Value(*number) : run.heap().Text(part));
    if (dot == text.bytes().size()) return path;
    at = dot + 1;
  }
}

Value MemberOf(Run& run, Value item, const std::vector<Value>& path, const Value& missing = Value()) {
  for (const Value& part : path) {
    item = run.Item(item, part);
    if (item.undefined() && !missing.none()) item = missing;
  }
  return item;
}

Value IgnoringCase(Run& run, const Value& value) {
  return value.is_text() ? MapCase(run, value.text(), CaseMap::kLower) : value;
}

// ---- select, reject, map ----

std::vector<Value> Selected(Run& run, const Value& in, CallArgs& args, bool wanted, bool by_attribute) {
  std::vector<Value> path;
  if (by_attribute) {
    if (args.positional.empty()) run.Fail(StrCat(args.callee, ": needs the name of an attribute"));
    path = PathOf(run, args.positional[0]);
    args.positional.erase(args.positional.begin());
  }
  if (!Truth(in)) return {};
  std::string test;
  if (!args.positional.empty()) {
    test = run.TextArg(args.positional[0], StrCat(args.callee, ": the test")).bytes();
    args.positional.erase(args.positional.begin());
  }
  std::vector<Value> selected;
  for (const Value& item : run.Items(in)) {
    const Value value = by_attribute ? MemberOf(run, item, path) : item;
    CallArgs copy = args;
    if ((test.empty() ? Truth(value) : run.IsTrue(test, value, copy)) == wanted) selected.push_back(item);
  }
  return selected;
}

}  // namespace

Value FilterSelect(Run& run, const Value& in, CallArgs& args) {
  return Generator(run, Selected(run, in, args, true, false));
}
Value FilterReject(Run& run, const Value& in, CallArgs& args) {
  return Generator(run, Selected(run, in, args, false, false));
}
Value FilterSelectattr(Run& run, const Value& in, CallArgs& args) {
  return Generator(run, Selected(run, in, args, true, true));
}
Value FilterRejectattr(Run& run, const Value& in, CallArgs& args) {
  return Generator(run, Selected(run, in, args, false, true));
}

Value FilterMap(Run& run, const Value& in, CallArgs& args) {
  std::vector<Value> mapped;
  if (!Truth(in)) return Generator(run, {});
  if (args.positional.empty()) {
    const Value attribute = run.Take(args, SIZE_MAX, "attribute");
    const Value missing = args.Take(SIZE_MAX, "default").value_or(Value());
    run.Finish(args, 0);
    const std::vector<Value> path = PathOf(run, attribute);
    for (const Value& item : run.Items(in)) mapped.push_back(MemberOf(run, item, path, missing));
    return Generator(run, std::move(mapped));
  }
  const std::string name = run.TextArg(args.positional[0], "map: the filter").bytes();
  args.positional.erase(args.positional.begin());
  for (const Value& item : run.Items(in)) {
    CallArgs copy = args;
    mapped.push_back(run.Filter(name, item, copy));
  }
  return Generator(run, std::move(mapped));
}

// ---- One of the items ----

Value FilterFirst(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  if (in.Is(Type::kList)) {
    List& list = in.list();
    if (list.kind == List::Kind::kGenerator)
      return list.taken < list.items.size() ? list.items[list.taken++]
                                            : run.heap().NewUndefined("first: the sequence is empty");
    if (!list.items.empty()) return list.items[0];
  }
  const std::vector<Value> items = run.Items(in);
  return items.empty() ? run.heap().NewUndefined("first: the sequence is empty") : items[0];
}

Value FilterLast(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  if (in.undefined() || (in.Is(Type::kList) && in.list().kind == List::Kind::kGenerator))
    run.Fail(StrCat("last: ", TypeName(in), " cannot be reversed"));
  if (in.Is(Type::kList) && !in.list().items.empty()) return in.list().items.back();
  const std::vector<Value> items = run.Items(in);
  return items.empty() ? run.heap().NewUndefined("last: the sequence is empty") : items.back();
}

namespace {

Value Extreme(Run& run, const Value& in, CallArgs& args, bool largest) {
  const bool with_case = run.TakeBool(args, 0, "case_sensitive", false);
  const std::vector<Value> path = PathOf(run, args.Take(1, "attribute").value_or(Value()));
  run.Finish(args, 2);
  std::optional<std::pair<Value, Value>> best;
  for (const Value& item : run.Items(in)) {
    Value key = MemberOf(run, item, path);
    if (!with_case) key = IgnoringCase(run, key);
    const int order = best ? run.Order(key, best->first, largest ? "max" : "min") : 0;
    if (!best || (largest ? order > 0 : order < 0)) best = {key, item};
  }
  return best ? best->second : run.heap().NewUndefined("the sequence is empty");
}

}  // namespace

Value FilterMin(Run& run, const Value& in, CallArgs& args) { return Extreme(run, in, args, false); }
Value FilterMax(Run& run, const Value& in, CallArgs& args) { return Extreme(run, in, args, true); }

// ---- All of them ----

Value FilterList(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  return run.heap().NewList(run.Items(in));
}

Value FilterJoin(Run& run, const Value& in, CallArgs& args) {
  const Value between = args.Take(0, "d").value_or(run.heap().Text(""));
  const std::vector<Value> path = PathOf(run, args.Take(1, "attribute").value_or(Value()));
  run.Finish(args, 2);
  std::vector<Value> items = run.Items(in);
  for (Value& item : items) item = MemberOf(run, item, path);
  return JoinTexts(run, items, run.Str(between));
}

Value FilterReverse(Run& run, const Value& in, CallArgs& args) {
  run.Finish(args, 0);
  std::vector<Value> items = run.Items(in);
  std::ranges::reverse(items);
  if (!in.is_text()) return Generator(run, std::move(items));
  return JoinTexts(run, items, MarkedText()).AsMarkup(in.markup());
}

Value FilterSum(Run& run, const Value& in, CallArgs& args) {
  const std::vector<Value> path = PathOf(run, args.Take(0, "attribute").value_or(Value()));
  Value sum = args.Take(1, "start").value_or(Value(int64_t{0}));
  run.Finish(args, 2);
  if (sum.is_text()) run.Fail("sum: texts are put together by join");
  for (const Value& item : run.Items(in)) sum = run.Binary("+", sum, MemberOf(run, item, path));
  return sum;
}

Value FilterUnique(Run& run, const Value& in, CallArgs& args) {
  const bool with_case = run.TakeBool(args, 0, "case_sensitive", false);
  const std::vector<Value> path = PathOf(run, args.Take(1, "attribute").value_or(Value()));
  run.Finish(args, 2);
  std::vector<Value> seen, kept;
  for (const Value& item : run.Items(in)) {
    Value key = MemberOf(run, item, path);
    if (!with_case) key = IgnoringCase(run, key);
    if (std::ranges::any_of(seen, [&](const Value& other) { return run.Equals(key, other); })) continue;
    seen.push_back(key);
    kept.push_back(item);
  }
  return Generator(run, std::move(kept));
}

namespace {

struct Keyed {
  Value key, item;
};

// Stable, as Python's; comparing costs steps.
void SortKeyed(Run& run, std::vector<Keyed>* items, bool reverse, const char* what) {
  std::ranges::stable_sort(*items, [&](const Keyed& a, const Keyed& b) {
    return reverse ? run.Order(b.key, a.key, what) < 0 : run.Order(a.key, b.key, what) < 0;
  });
}

}  // namespace

Value FilterSort(Run& run, const Value& in, CallArgs& args) {
  const bool reverse = run.TakeBool(args, 0, "reverse", false),
             with_case = run.TakeBool(args, 1, "case_sensitive", false);
  const Value attribute = args.Take(2, "attribute").value_or(Value());
  run.Finish(args, 3);
  std::vector<std::vector<Value>> paths;
  if (attribute.is_text()) {
    const std::string& names = attribute.bytes();
    for (size_t at = 0; at <= names.size();) {
      const size_t comma = std::min(names.find(',', at), names.size());
      paths.push_back(PathOf(run, run.heap().Text(names.substr(at, comma - at))));
      at = comma + 1;
    }
  } else {
    paths.push_back(PathOf(run, attribute));
  }
  std::vector<Keyed> items;
  for (const Value& item : run.Items(in)) {
    std::vector<Value> keys;
    for (const auto& path : paths) {
      const Value key = MemberOf(run, item, path);
      keys.push_back(with_case ? key : IgnoringCase(run, key));
    }
    items.push_back({run.heap().NewList(std::move(keys)), item});
  }
  SortKeyed(run, &items, reverse, "sort");
  std::vector<Value> sorted;
  for (const Keyed& item : items) sorted.push_back(item.item);
  return run.heap().NewList(std::move(sorted));
}

Value FilterDictsort(Run& run, const Value& in, CallArgs& args) {
  const bool with_case = run.TakeBool(args, 0, "case_sensitive", false);
  const Value by = args.Take(1, "by").value_or(run.heap().Text("key"));
  const bool reverse = run.TakeBool(args, 2, "reverse", false);
  run.Finish(args, 3);
  if (!in.Is(Type::kDict)) run.Fail(StrCat("dictsort: needs a dict, not ", TypeName(in)));
  const std::string& what = run.TextArg(by, "dictsort: by").bytes();
  if (what != "key" && what != "value") run.Fail("dictsort: by must be key or value");
  std::vector<Keyed> items;
  for (const Value& pair : PairsOf(run, in.dict())) {
    const Value key = pair.list().items[what == "key" ? 0 : 1];
    items.push_back({with_case ? key : IgnoringCase(run, key), pair});
  }
  SortKeyed(run, &items, reverse, "dictsort");
  std::vector<Value> sorted;
  for (const Keyed& item : items) sorted.push_back(item.item);
  return run.heap().NewList(std::move(sorted));
}

Value FilterGroupby(Run& run, const Value& in, CallArgs& args) {
  const std::vector<Value> path = PathOf(run, run.Take(args, 0, "attribute"));
  const Value missing = args.Take(1, "default").value_or(Value());
  const bool with_case = run.TakeBool(args, 2, "case_sensitive", false);
  run.Finish(args, 3);
  std::vector<Keyed> items;
  for (const Value& item : run.Items(in)) {
    const Value key = MemberOf(run, item, path, missing);
    items.push_back({with_case ? key : IgnoringCase(run, key), item});
  }
  SortKeyed(run, &items, false, "groupby");
  std::vector<Value> groups;
  for (size_t begin = 0; begin < items.size();) {
    size_t end = begin + 1;
    while (end < items.size() && run.Equals(items[end].key, items[begin].key)) ++end;
    std::vector<Value> members;
    for (size_t i = begin; i < end; ++i) members.push_back(items[i].item);
    groups.push_back(run.heap().NewList({MemberOf(run, members[0], path, missing), run.heap().NewList(members)},
                                        List::Kind::kTuple));
    begin = end;
  }
  return run.heap().NewList(std::move(groups));
}

Value FilterBatch(Run& run, const Value& in, CallArgs& args) {
  const int64_t count = run.TakeInt(args, 0, "linecount", std::nullopt);
  const Value fill = args.Take(1, "fill_with").value_or(Value());
  run.Finish(args, 2);
  if (count < 1 || count > 100'000) run.Fail("batch: linecount must be 1 to 100000");
  std::vector<Value> batches, row;
  for (const Value& item : run.Items(in)) {
    if (static_cast<int64_t>(row.size()) == count) batches.push_back(run.heap().NewList(std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (!fill.none()) row.resize(static_cast<size_t>(count), fill);
    batches.push_back(run.heap().NewList(std::move(row)));
  }
  return Generator(run, std::move(batches));
}

Value FilterSlice(Run& run, const Value& in, CallArgs& args) {
  const int64_t count = run.TakeInt(args, 0, "slices", std::nullopt);
  const Value fill = args.Take(1, "fill_with").value_or(Value());
  run.Finish(args, 2);
  if (count < 1 || count > 100'000) run.Fail("slice: slices must be 1 to 100000");
  const std::vector<Value> items = run.Items(in);
  const auto n = static_cast<int64_t>(items.size());
  std::vector<Value> slices;
  auto at = items.begin();
  for (int64_t i = 0; i < count; ++i) {
    const auto end = at + static_cast<std::ptrdiff_t>(n / count + (i < n % count ? 1 : 0));
    std::vector<Value> slice(at, end);
    if (!fill.none() && i >= n % count) slice.push_back(fill);
    slices.push_back(run.heap().NewList(std::move(slice)));
    at = end;
  }
  run.Step(count);
  return Generator(run, std::move(slices));
}

}  // namespace hydra::jinja
