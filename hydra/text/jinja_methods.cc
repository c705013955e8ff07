// SPDX-License-Identifier: Apache-2.0
// Methods of texts, lists and dicts that change nothing; those of loops and cyclers. Not here: filters
// (jinja_filters.cc).
#include <algorithm>
#include <array>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/jinja_run.h"
#include "hydra/text/jinja_strings.h"

namespace hydra::jinja {
namespace {

// ---- Texts ----

Value Strip(Run& run, const Value& self, CallArgs& args, bool left, bool right) {
  const auto chars = args.Take(0, "chars");
  run.Finish(args, 1);
  return StripText(run, self.text(), chars.value_or(Value()), left, right);
}
Value TextStrip(Run& run, const Value& self, CallArgs& args) { return Strip(run, self, args, true, true); }
Value TextLstrip(Run& run, const Value& self, CallArgs& args) { return Strip(run, self, args, true, false); }
Value TextRstrip(Run& run, const Value& self, CallArgs& args) { return Strip(run, self, args, false, true); }

Value TextUpper(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, self.text(), CaseMap::kUpper);
}
Value TextLower(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, self.text(), CaseMap::kLower);
}
Value TextCapitalize(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, self.text(), CaseMap::kCapitalize);
}
Value TextTitle(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, self.text(), CaseMap::kTitle);
}
Value TextSwapcase(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return MapCase(run, self.text(), CaseMap::kSwap);
}

// Pieces between white space, at most `most` + 1 of them.
std::vector<Value> Words(Run& run, const MarkedText& text, int64_t most, bool from_right) {
  const std::string& bytes = text.bytes();
  std::vector<Value> words;
  size_t begin = SpaceAt(bytes, 0), end = bytes.size() - SpaceBefore(bytes, bytes.size());
  while (begin < end) {
    run.Step();
    size_t at = from_right ? end : begin;
    if (static_cast<int64_t>(words.size()) == most) {  // the rest, with the white space on its other side
      words.push_back(run.heap().Text(from_right ? text.Part(0, end) : text.Part(begin)));
      break;
    }
    if (from_right) {
      while (at > begin && SpaceBefore(bytes, at) == 0) at = CharBefore(bytes, at);
      words.push_back(run.heap().Text(text.Part(at, end - at)));
      end = at - SpaceBefore(bytes, at);
    } else {
      while (at < end && SpaceAt(bytes, at) == 0) at += static_cast<size_t>(Utf8Length(bytes[at]));
      words.push_back(run.heap().Text(text.Part(begin, at - begin)));
      begin = at + SpaceAt(bytes, at);
    }
  }
  if (from_right) std::ranges::reverse(words);
  return words;
}

Value Split(Run& run, const Value& self, CallArgs& args, bool from_right) {
  const Value separator = args.Take(0, "sep").value_or(Value());
  int64_t most = run.TakeInt(args, 1, "maxsplit", -1);
  run.Finish(args, 2);
  if (most < 0) most = std::numeric_limits<int64_t>::max();
  run.Step(static_cast<int64_t>(self.bytes().size() / 16));
  if (separator.none()) return run.heap().NewList(Words(run, self.text(), most, from_right));
  const std::string& what = run.TextArg(separator, "split: sep").bytes();
  if (what.empty()) run.Fail("split: an empty separator");
  const std::string& bytes = self.bytes();
  std::vector<size_t> places;  // where separators begin
  for (size_t at = 0; !from_right && static_cast<int64_t>(places.size()) < most; at += what.size()) {
    if ((at = Find(bytes, what, at)) == std::string::npos) break;
    places.push_back(at);
  }
  if (from_right) {  // they may overlap otherwise than from the left: as places in the reversed text
    places.clear();
    const std::string text(bytes.rbegin(), bytes.rend()), end(what.rbegin(), what.rend());
    for (size_t at = 0; static_cast<int64_t>(places.size()) < most; at += end.size()) {
      if ((at = Find(text, end, at)) == std::string::npos) break;
      places.push_back(bytes.size() - at - end.size());
    }
    std::ranges::reverse(places);
  }
  std::vector<Value> parts;
  size_t begin = 0;
  for (const size_t at : places) {
    parts.push_back(run.heap().Text(self.text().Part(begin, at - begin)));
    begin = at + what.size();
  }
  parts.push_back(run.heap().Text(self.text().Part(begin)));
  run.Step(static_cast<int64_t>(parts.size()));
  return run.heap().NewList(std::move(parts));
}
Value TextSplit(Run& run, const Value& self, CallArgs& args) { return Split(run, self, args, false); }
Value TextRsplit(Run& run, const Value& self, CallArgs& args) { return Split(run, self, args, true); }

Value TextSplitlines(Run& run, const Value& self, CallArgs& args) {
  const bool keep = run.TakeBool(args, 0, "keepends", false);
  run.Finish(args, 1);
  return run.heap().NewList(SplitLines(run, self.text(), keep));
}

Value Partition(Run& run, const Value& self, CallArgs& args, bool from_right) {
  const Value separator = run.Take(args, 0, "sep");
  run.Finish(args, 1);
  const std::string& what = run.TextArg(separator, "partition: sep").bytes();
  if (what.empty()) run.Fail("partition: an empty separator");
  const std::string& bytes = self.bytes();
  run.Step(static_cast<int64_t>(bytes.size() / 64));
  const size_t at = from_right ? FindLast(run, bytes, what) : Find(bytes, what, 0);
  std::vector<Value> three;
  if (at == std::string::npos) {
    const Value empty = run.heap().Text("");
    three = from_right ? std::vector<Value>{empty, empty, self} : std::vector<Value>{self, empty, empty};
  } else {
    three = {run.heap().Text(self.text().Part(0, at)), run.heap().Text(self.text().Part(at, what.size())),
             run.heap().Text(self.text().Part(at + what.size()))};
  }
  return run.heap().NewList(std::move(three), List::Kind::kTuple);
}
Value TextPartition(Run& run, const Value& self, CallArgs& args) { return Partition(run, self, args, false); }
Value TextRpartition(Run& run, const Value& self, CallArgs& args) { return Partition(run, self, args, true); }

Value TextReplace(Run& run, const Value& self, CallArgs& args) {
  const Value from = run.Take(args, 0, "old"), to = run.Take(args, 1, "new");
  const int64_t most = run.TakeInt(args, 2, "count", -1);
  run.Finish(args, 3);
  return ReplaceText(run, self.text(), run.TextArg(from, "replace: old"), run.TextArg(to, "replace: new"), most);
}

// The part of a text that the arguments `start` and `end` of a search give, as bytes.
std::pair<size_t, size_t> Range(Run& run, const Value& self, CallArgs& args) {
  const Value start = args.Take(1, "start").value_or(Value()), end = args.Take(2, "end").value_or(Value());
  run.Finish(args, 3);
  const std::string& bytes = self.bytes();
  if (start.none() && end.none()) return {0, bytes.size()};
  const int64_t n = run.Length(self);
  const auto place = [&](const Value& value, int64_t missing) {
    if (value.none()) return missing;
    const int64_t at = run.IntOf(value, "start and end");
    return std::clamp<int64_t>(at < 0 ? std::max(at, -n) + n : at, 0, n + 1);
  };
  const int64_t from = place(start, 0), to = std::min(place(end, n), n);
  if (from > to) return {1, 0};
  return {CharOffset(bytes, static_cast<size_t>(from)), CharOffset(bytes, static_cast<size_t>(to))};
}

Value StartsOrEnds(Run& run, const Value& self, CallArgs& args, bool starts) {
  const Value what = run.Take(args, 0, "prefix");
  const auto [begin, end] = Range(run, self, args);
  if (begin > end) return Value(false);
  const std::string_view text = std::string_view(self.bytes()).substr(begin, end - begin);
  const bool is_tuple = what.Is(Type::kList) && what.list().kind == List::Kind::kTuple;
  const std::vector<Value> any = is_tuple ? what.list().items : std::vector<Value>{what};
  for (const Value& one : any) {
    run.Step();
    const std::string& bytes = run.TextArg(one, starts ? "startswith" : "endswith").bytes();
    if (starts ? text.starts_with(bytes) : text.ends_with(bytes)) return Value(true);
  }
  return Value(false);
}
Value TextStartswith(Run& run, const Value& self, CallArgs& args) { return StartsOrEnds(run, self, args, true); }
Value TextEndswith(Run& run, const Value& self, CallArgs& args) { return StartsOrEnds(run, self, args, false); }

// The character at which a text is found; -1.
int64_t FoundAt(Run& run, const Value& self, CallArgs& args, bool from_right) {
  const Value sub = run.Take(args, 0, "sub");
  const std::string& what = run.TextArg(sub, "find").bytes();
  const auto [begin, end] = Range(run, self, args);
  if (begin > end) return -1;
  const std::string_view text = std::string_view(self.bytes()).substr(0, end);
  run.Step(static_cast<int64_t>(text.size() / 64));
  const size_t at = from_right ? FindLast(run, text.substr(begin), what) : Find(text.substr(begin), what, 0);
  return at == std::string::npos ? -1 : static_cast<int64_t>(CharCount(text.substr(0, begin + at)));
}
Value TextFind(Run& run, const Value& self, CallArgs& args) { return Value(FoundAt(run, self, args, false)); }
Value TextRfind(Run& run, const Value& self, CallArgs& args) { return Value(FoundAt(run, self, args, true)); }
Value TextIndex(Run& run, const Value& self, CallArgs& args) {
  const int64_t at = FoundAt(run, self, args, false);
  if (at < 0) run.Fail("index: the text is not found");
  return Value(at);
}
Value TextCount(Run& run, const Value& self, CallArgs& args) {
  const Value sub = run.Take(args, 0, "sub");
  const std::string& what = run.TextArg(sub, "count").bytes();
  const auto [begin, end] = Range(run, self, args);
  if (begin > end) return Value(int64_t{0});
  const std::string_view text = std::string_view(self.bytes()).substr(begin, end - begin);
  run.Step(static_cast<int64_t>(text.size() / 16));
  if (what.empty()) return Value(static_cast<int64_t>(CharCount(text)) + 1);
  int64_t n = 0;
  for (size_t at = 0; (at = Find(text, what, at)) != std::string::npos; at += what.size()) ++n;
  return Value(n);
}

Value TextJoin(Run& run, const Value& self, CallArgs& args) {
  const Value parts = run.Take(args, 0, "iterable");
  run.Finish(args, 1);
  const std::vector<Value> items = run.Items(parts);
  for (const Value& item : items) (void)run.TextArg(item, "join");
  return JoinTexts(run, items, self.text());
}

Value TextFormat(Run& run, const Value& self, CallArgs& args) { return FormatBraces(run, self.text(), args); }

template <class Is>
Value All(Run& run, const Value& self, CallArgs& args, Is&& is) {
  run.Finish(args, 0);
  const std::string& bytes = self.bytes();
  run.Step(static_cast<int64_t>(bytes.size() / 16));
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(Utf8Length(bytes[at])))
    if (!is(DecodeUtf8(bytes.data() + at).value)) return Value(false);
  return Value(!bytes.empty());
}
Value TextIsdigit(Run& run, const Value& self, CallArgs& args) { return All(run, self, args, IsDecimal); }
Value TextIsalpha(Run& run, const Value& self, CallArgs& args) { return All(run, self, args, IsLetter); }
Value TextIsalnum(Run& run, const Value& self, CallArgs& args) {
  return All(run, self, args, [](char32_t c) { return IsLetter(c) || IsDecimal(c); });
}
Value TextIsspace(Run& run, const Value& self, CallArgs& args) { return All(run, self, args, IsSpace); }
Value TextIsupper(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return Value(IsCased(run, self.bytes(), true));
}
Value TextIslower(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return Value(IsCased(run, self.bytes(), false));
}

Value Justify(Run& run, const Value& self, CallArgs& args, char align) {
  const int64_t width = run.TakeInt(args, 0, "width", std::nullopt);
  const auto fill = args.Take(1, "fillchar");
  run.Finish(args, 2);
  return JustifyText(run, self.text(), width, fill ? run.TextArg(*fill, "fillchar") : MarkedText(" "), align);
}
Value TextCenter(Run& run, const Value& self, CallArgs& args) { return Justify(run, self, args, '^'); }
Value TextLjust(Run& run, const Value& self, CallArgs& args) { return Justify(run, self, args, '<'); }
Value TextRjust(Run& run, const Value& self, CallArgs& args) { return Justify(run, self, args, '>'); }
Value TextZfill(Run& run, const Value& self, CallArgs& args) {
  const int64_t width = run.TakeInt(args, 0, "width", std::nullopt);
  run.Finish(args, 1);
  const bool sign = self.bytes().starts_with('-') || self.bytes().starts_with('+');
  if (!sign) return JustifyText(run, self.text(), width, MarkedText("0"), '>');
  MarkedText out = self.text().Part(0, 1);
  out.Append(JustifyText(run, self.text().Part(1), width - 1, MarkedText("0"), '>').text());
  return run.heap().Text(std::move(out));
}

Value TextRemoveprefix(Run& run, const Value& self, CallArgs& args) {
  const Value prefix = run.Take(args, 0, "prefix");
  run.Finish(args, 1);
  const std::string& what = run.TextArg(prefix, "removeprefix").bytes();
  return self.bytes().starts_with(what) ? run.heap().Text(self.text().Part(what.size())) : self;
}
Value TextRemovesuffix(Run& run, const Value& self, CallArgs& args) {
  const Value suffix = run.Take(args, 0, "suffix");
  run.Finish(args, 1);
  const std::string& what = run.TextArg(suffix, "removesuffix").bytes();
  return self.bytes().ends_with(what) ? run.heap().Text(self.text().Part(0, self.bytes().size() - what.size())) : self;
}

constexpr Method kTextMethods[] = {{"strip", TextStrip},
                                   {"lstrip", TextLstrip},
                                   {"rstrip", TextRstrip},
                                   {"split", TextSplit},
                                   {"rsplit", TextRsplit},
                                   {"splitlines", TextSplitlines},
                                   {"partition", TextPartition},
                                   {"rpartition", TextRpartition},
                                   {"replace", TextReplace},
                                   {"startswith", TextStartswith},
                                   {"endswith", TextEndswith},
                                   {"find", TextFind},
                                   {"rfind", TextRfind},
                                   {"index", TextIndex},
                                   {"count", TextCount},
                                   {"join", TextJoin},
                                   {"format", TextFormat},
                                   {"upper", TextUpper},
                                   {"lower", TextLower},
                                   {"casefold", TextLower},
                                   {"title", TextTitle},
                                   {"capitalize", TextCapitalize},
                                   {"swapcase", TextSwapcase},
                                   {"isdigit", TextIsdigit},
                                   {"isdecimal", TextIsdigit},
                                   {"isnumeric", TextIsdigit},
                                   {"isalpha", TextIsalpha},
                                   {"isalnum", TextIsalnum},
                                   {"isspace", TextIsspace},
                                   {"isupper", TextIsupper},
                                   {"islower", TextIslower},
                                   {"center", TextCenter},
                                   {"ljust", TextLjust},
                                   {"rjust", TextRjust},
                                   {"zfill", TextZfill},
                                   {"removeprefix", TextRemoveprefix},
                                   {"removesuffix", TextRemovesuffix}};

// ---- Lists and dicts ----

Value ListIndex(Run& run, const Value& self, CallArgs& args) {
  const Value what = run.Take(args, 0, "value");
  run.Finish(args, 1);
  const auto& items = self.list().items;
  for (size_t i = 0; i < items.size(); ++i)
    if (run.Equals(items[i], what)) return Value(static_cast<int64_t>(i));
  run.Fail("index: the value is not in the list");
}
Value ListCount(Run& run, const Value& self, CallArgs& args) {
  const Value what = run.Take(args, 0, "value");
  run.Finish(args, 1);
  return Value(std::ranges::count_if(self.list().items, [&](const Value& item) { return run.Equals(item, what); }));
}
Value ListCopy(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return run.heap().NewList(self.list().items);
}

Value DictGet(Run& run, const Value& self, CallArgs& args) {
  const Value key = run.Take(args, 0, "key");
  const Value missing = args.Take(1, "default").value_or(Value());
  run.Finish(args, 2);
  int64_t steps = 0;
  const Value* found = FindKey(self.dict(), key, &steps);
  run.Step(steps);
  return found != nullptr ? *found : missing;
}
Value DictKeys(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return run.heap().NewList(run.Items(self), List::Kind::kKeys);
}
Value DictValues(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  std::vector<Value> values;
  for (const auto& [key, value] : self.dict().items) values.push_back(value);
  run.Step(static_cast<int64_t>(values.size()));
  return run.heap().NewList(std::move(values), List::Kind::kValues);
}
Value DictItems(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return run.heap().NewList(PairsOf(run, self.dict()), List::Kind::kItems);
}
Value DictCopy(Run& run, const Value& self, CallArgs& args) {
  run.Finish(args, 0);
  return run.heap().NewDict(self.dict().items);
}

constexpr Method kListMethods[] = {{"index", ListIndex}, {"count", ListCount}, {"copy", ListCopy},  {"append", nullptr},
                                   {"extend", nullptr},  {"insert", nullptr},  {"pop", nullptr},    {"remove", nullptr},
                                   {"clear", nullptr},   {"sort", nullptr},    {"reverse", nullptr}};
constexpr Method kDictMethods[] = {
    {"get", DictGet}, {"items", DictItems}, {"keys", DictKeys},  {"values", DictValues},  {"copy", DictCopy},
    {"pop", nullptr}, {"popitem", nullptr}, {"update", nullptr}, {"setdefault", nullptr}, {"clear", nullptr}};

// ---- Loops ----

Value LoopCycle(Run& run, const Value& self, CallArgs& args) {
  if (args.positional.empty()) run.Fail("loop.cycle: no items");
  return args.positional[self.loop().index % args.positional.size()];
}
Value LoopChanged(Run& run, const Value& self, CallArgs& args) {
  Loop& loop = self.loop();
  bool same = loop.asked_changed && loop.changed.size() == args.positional.size();
  for (size_t i = 0; same && i < loop.changed.size(); ++i) same = run.Equals(loop.changed[i], args.positional[i]);
  loop.asked_changed = true;
  loop.changed = args.positional;
  return Value(!same);
}
constexpr Method kLoopMethods[] = {{"cycle", LoopCycle}, {"changed", LoopChanged}};

}  // namespace

const Method* FindMethod(const Value& self, std::string_view name) {
  std::span<const Method> methods;
  switch (self.type()) {
    case Type::kText: methods = kTextMethods; break;
    case Type::kDict: methods = kDictMethods; break;
    case Type::kLoop: methods = kLoopMethods; break;
    case Type::kList:
      if (self.list().kind == List::Kind::kList) methods = kListMethods;
      if (self.list().kind == List::Kind::kTuple) methods = std::span(kListMethods).first(2);
      break;
    default: break;
  }
  const auto found = std::ranges::find(methods, name, &Method::name);
  return found == methods.end() ? nullptr : &*found;
}

}  // namespace hydra::jinja
