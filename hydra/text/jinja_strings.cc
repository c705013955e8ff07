// SPDX-License-Identifier: Apache-2.0
// Marked texts mapped, stripped, split, joined: each character keeps its mark.
#include "hydra/text/jinja_strings.h"

#include <algorithm>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/jinja_chars.h"

namespace hydra::jinja {
namespace {

// A text made character by character.
template <class Map>
MarkedText MapChars(const MarkedText& text, Map&& map) {
  MarkedText out;
  std::string piece;
  auto mark = text.marks().begin();
  const auto end = text.marks().end();
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size();) {
    while (mark != end && mark->end <= at) ++mark;
    const bool inside = mark != end && mark->begin <= at;
    const size_t stop = inside ? mark->end : mark != end ? mark->begin : bytes.size();
    piece.clear();
    for (; at < stop; at += static_cast<size_t>(Utf8Length(bytes[at])))
      map(DecodeUtf8(bytes.data() + at).value, &piece);
    if (inside) {
      out.Append(piece, mark->source);
    } else {
      out.Append(piece);
    }
  }
  return out;
}

}  // namespace

Value MapCase(Run& run, const MarkedText& text, CaseMap map) {
  run.Step(static_cast<int64_t>(text.bytes().size() / 8));
  bool first = true, in_word = false;
  return run.heap().Text(MapChars(text, [&](char32_t c, std::string* out) {
    bool upper = map == CaseMap::kUpper;
    if (map == CaseMap::kCapitalize) upper = first;
    if (map == CaseMap::kTitle || map == CaseMap::kWords) upper = !in_word;
    if (map == CaseMap::kSwap) upper = IsLower(c);
    first = false;
    in_word = map == CaseMap::kWords ? !IsSpace(c) && c != '-' && c != '(' && c != '{' && c != '[' && c != '<'
                                     : IsUpper(c) || IsLower(c);
    if (upper) {
      AppendUpper(c, out);
    } else {
      AppendLower(c, out);
    }
  }));
}

bool IsCased(Run& run, std::string_view text, bool upper) {
  run.Step(static_cast<int64_t>(text.size() / 16));
  bool some = false;
  for (size_t at = 0; at < text.size(); at += static_cast<size_t>(Utf8Length(text[at]))) {
    const char32_t c = DecodeUtf8(text.data() + at).value;
    if (upper ? IsLower(c) : IsUpper(c)) return false;
    some = some || (upper ? IsUpper(c) : IsLower(c));
  }
  return some;
}

Value StripText(Run& run, const MarkedText& text, const Value& chars, bool left, bool right) {
  const std::string& bytes = text.bytes();
  size_t begin = 0, end = bytes.size();
  if (chars.none()) {
    if (left) begin = SpaceAt(bytes, 0);
    if (right && begin < end) end -= SpaceBefore(bytes, end);
  } else {
    const std::string& set = run.TextArg(chars, "strip: chars").bytes();
    const auto in_set = [&](std::string_view c) {
      run.Step();
      for (size_t at = 0; at < set.size(); at += static_cast<size_t>(Utf8Length(set[at])))
        if (std::string_view(set).substr(at).starts_with(c) && static_cast<size_t>(Utf8Length(set[at])) == c.size())
          return true;
      return false;
    };
    const auto at_begin = [&] { return static_cast<size_t>(Utf8Length(bytes[begin])); };
    while (left && begin < end && in_set(std::string_view(bytes).substr(begin, at_begin()))) begin += at_begin();
    while (right && begin < end) {
      const size_t before = CharBefore(bytes, end);
      if (!in_set(std::string_view(bytes).substr(before, end - before))) break;
      end = before;
    }
  }
  run.Step(static_cast<int64_t>(bytes.size() / 64));
  return run.heap().Text(text.Part(begin, end - begin));
}

Value ReplaceText(Run& run, const MarkedText& text, const MarkedText& from, const MarkedText& to, int64_t most) {
  const std::string& bytes = text.bytes();
  const std::string& what = from.bytes();
  MarkedText out;
  size_t done = 0;
  for (int64_t n = 0; most < 0 || n < most; ++n) {
    size_t at = Find(bytes, what, done);
    if (what.empty() && n > 0) {  // between all characters
      if (done >= bytes.size()) break;
      at = done + static_cast<size_t>(Utf8Length(bytes[done]));
    }
    if (at == std::string::npos) break;
    run.Step(1 + static_cast<int64_t>((at - done) / 64));
    if (static_cast<int64_t>(out.bytes().size() + to.bytes().size()) > run.heap().left())
      run.Fail("replace: the text becomes too long");
    out.Append(text, done, at - done);
    out.Append(to);
    done = at + what.size();
  }
  out.Append(text, done);
  return run.heap().Text(std::move(out));
}

std::vector<Value> SplitLines(Run& run, const MarkedText& text, bool keep_ends) {
  const std::string& bytes = text.bytes();
  std::vector<Value> lines;
  const auto is_end = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  run.Step(static_cast<int64_t>(bytes.size() / 16));
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint c = DecodeUtf8(bytes.data() + at);
    const size_t end = at;
    at += static_cast<size_t>(c.bytes);
    if (!is_end(c.value)) continue;
    if (c.value == '\r' && at < bytes.size() && bytes[at] == '\n') ++at;
    lines.push_back(run.heap().Text(text.Part(begin, (keep_ends ? at : end) - begin)));
    begin = at;
  }
  if (begin < bytes.size()) lines.push_back(run.heap().Text(text.Part(begin)));
  return lines;
}

Value JoinTexts(Run& run, const std::vector<Value>& items, const MarkedText& between) {
  MarkedText out;
  for (size_t i = 0; i < items.size(); ++i) {
    run.Step();
    if (i > 0) out.Append(between);
    out.Append(run.Str(items[i]));
    if (static_cast<int64_t>(out.bytes().size()) > run.heap().left()) run.Fail("join: the text becomes too long");
  }
  return run.heap().Text(std::move(out));
}

Value JustifyText(Run& run, const MarkedText& text, int64_t width, const MarkedText& fill, char align) {
  if (CharCount(fill.bytes()) != 1) run.Fail("the fill must be one character");
  const auto n = static_cast<int64_t>(CharCount(text.bytes()));
  if (n >= width) return run.heap().Text(text);
  const int64_t missing = width - n;
  if (missing > run.heap().left() / 8) run.Fail("the width is too large");
  run.Step(missing / 8);
  // Python's center puts the odd one on the left where the width is odd.
  const int64_t left = align == '<' ? 0 : align == '>' ? missing : missing / 2 + (missing & width & 1);
  MarkedText out;
  for (int64_t i = 0; i < left; ++i) out.Append(fill);
  out.Append(text);
  for (int64_t i = left; i < missing; ++i) out.Append(fill);
  return run.heap().Text(std::move(out));
}

MarkedText Escaped(Run& run, const Value& value) {
  MarkedText text = run.Str(value);
  if (value.markup()) return text;
  run.Step(static_cast<int64_t>(text.bytes().size() / 16));
  MarkedText out;
  size_t done = 0;
  for (size_t at = 0; at < text.bytes().size(); ++at) {
    const char c = text.bytes()[at];
    const char* name = c == '&'    ? "&amp;"
                       : c == '<'  ? "&lt;"
                       : c == '>'  ? "&gt;"
                       : c == '\'' ? "&#39;"
                       : c == '"'  ? "&#34;"
                                   : nullptr;
    if (name == nullptr) continue;
    out.Append(text, done, at - done);
    const MarkedText one = text.Part(at, 1);
    if (one.marked()) {
      out.Append(name, one.source());
    } else {
      out.Append(name);
    }
    done = at + 1;
  }
  out.Append(text, done);
  return out;
}

Value EscapedParts(Run& run, const Value& value) {
  if (value.is_text()) return run.heap().Text(Escaped(run, value));
  if (value.Is(Type::kList)) {
    std::vector<Value> items;
    for (const Value& item : run.Items(value)) items.push_back(item.is_text() ? EscapedParts(run, item) : item);
    return run.heap().NewList(std::move(items), value.list().kind);
  }
  if (!value.Is(Type::kDict)) return value;
  std::vector<std::pair<Value, Value>> items = value.dict().items;
  for (auto& [key, item] : items)
    if (item.is_text()) item = EscapedParts(run, item);
  return run.heap().NewDict(std::move(items));
}

size_t FindLast(Run& run, std::string_view text, std::string_view what) {
  // Linear by looking from the left: overlapping finds cost as many steps as they read.
  if (what.empty()) return text.size();
  size_t last = std::string_view::npos;
  for (size_t at = 0; (at = Find(text, what, at)) != std::string_view::npos; ++at) {
    run.Step(static_cast<int64_t>(1 + what.size() / 16));
    last = at;
  }
  return last;
}

std::vector<Value> PairsOf(Run& run, const Dict& dict) {
  std::vector<Value> pairs;
  for (const auto& [key, value] : dict.items) pairs.push_back(run.heap().NewList({key, value}, List::Kind::kTuple));
  run.Step(static_cast<int64_t>(pairs.size()));
  return pairs;
}

}  // namespace hydra::jinja
