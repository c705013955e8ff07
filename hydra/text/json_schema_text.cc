// SPDX-License-Identifier: Apache-2.0
// Texts as JSON spells them, in UTF-8.
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/json_schema_impl.h"
#include "hydra/text/json_schema_node.h"

namespace hydra::json_schema {
namespace {

constexpr int kMostIndent = 20;  // spaces behind a line end

// All code points [low, high] of one length in UTF-8, by their bytes: ranges whose ends differ in an early byte are cut
// into those that do not.
void Utf8Range(RuleDraft& draft, int from, char32_t low, char32_t high, int to) {
  std::string a, b;
  AppendUtf8(low, a);
  AppendUtf8(high, b);
  const auto byte = [](const std::string& s, size_t i) { return static_cast<uint8_t>(s[i]); };
  const size_t n = a.size();
  HYDRA_CHECK(n == b.size());
  // Between the ends of a suffix every byte goes from 80 to BF.
  const auto tail = [&](int at, size_t left) {
    for (; left > 1; --left) {
      const int next = draft.Place();
      draft.Byte(at, 0x80, 0xBF, next);
      at = next;
    }
    draft.Byte(at, 0x80, 0xBF, to);
  };
  size_t same = 0;
  while (same + 1 < n && a[same] == b[same]) ++same;
  int at = from;
  for (size_t i = 0; i < same; ++i) {
    const int next = draft.Place();
    draft.Byte(at, byte(a, i), byte(a, i), next);
    at = next;
  }
  if (same + 1 == n) return draft.Byte(at, byte(a, same), byte(b, same), to);
  // The lower end, the upper end, and what lies between.
  for (const bool lower : {true, false}) {
    const std::string& end = lower ? a : b;
    int place = at;
    for (size_t i = same; i < n; ++i) {
      const bool last = i + 1 == n;
      if (i > same) {  // bytes beyond the end's own
        const uint8_t first = lower ? static_cast<uint8_t>(byte(end, i) + (last ? 0 : 1)) : uint8_t{0x80};
        const uint8_t final = lower ? uint8_t{0xBF} : static_cast<uint8_t>(byte(end, i) - (last ? 0 : 1));
        if (first <= final) {
          const int next = last ? to : draft.Place();
          draft.Byte(place, first, final, next);
          if (!last) tail(next, n - i - 1);
        }
      }
      if (last) break;
      const int next = draft.Place();
      draft.Byte(place, byte(end, i), byte(end, i), next);
      place = next;
    }
  }
  if (byte(a, same) + 1 <= byte(b, same) - 1) {
    const int next = draft.Place();
    draft.Byte(at, static_cast<uint8_t>(byte(a, same) + 1), static_cast<uint8_t>(byte(b, same) - 1), next);
    tail(next, n - same - 1);
  }
}

constexpr std::array<std::pair<char32_t, char32_t>, 5> kLengths = {
    {{0x20, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}}};

void Hex(RuleDraft& draft, int from, std::string_view digits, int to) {
  for (const char c : digits) draft.Byte(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to);
}
constexpr std::string_view kHexDigits = "0123456789abcdefABCDEF";

// Behind a backslash: every escape of JSON that is a whole character.
void Escapes(RuleDraft& draft, int from, int to) {
  for (const char c : std::string_view("\"\\/bfnrt"))
    draft.Byte(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to);
  const auto hex = [&](int at, int n) {
    for (int i = 0; i < n; ++i) {
      const int next = i + 1 == n ? to : draft.Place();
      Hex(draft, at, kHexDigits, next);
      at = next;
    }
  };
  const int u = draft.Literal(from, "u"), other = draft.Place(), d = draft.Place(), plain = draft.Place();
  Hex(draft, u, "0123456789abcefABCEF", other);
  hex(other, 3);
  Hex(draft, u, "dD", d);
  Hex(draft, d, "01234567", plain);
  hex(plain, 2);
  // Two halves.
  const int half = draft.Place(), half2 = draft.Place(), half3 = draft.Place();
  Hex(draft, d, "89abAB", half);
  Hex(draft, half, kHexDigits, half2);
  Hex(draft, half2, kHexDigits, half3);
  const int u2 = draft.Literal(half3, "\\u"), d2 = draft.Place(), low = draft.Place();
  Hex(draft, u2, "dD", d2);
  Hex(draft, d2, "cdefCDEF", low);
  hex(low, 2);
}

// What is written as one byte: all of ASCII that needs no escape.
constexpr std::array<std::pair<char32_t, char32_t>, 3> kAsciiRanges = {{{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x7F}}};
void PlainAscii(RuleDraft& draft, int from, int to) {
  for (const auto& [first, last] : kAsciiRanges)
    draft.Byte(from, static_cast<uint8_t>(first), static_cast<uint8_t>(last), to);
}

void Beyond(RuleDraft& draft, int from, int to) {
  Escapes(draft, draft.Literal(from, "\\"), to);
  for (size_t i = 1; i < kLengths.size(); ++i) Utf8Range(draft, from, kLengths[i].first, kLengths[i].second, to);
}

// Code points [low, high], each written in one way.
void Chars(RuleDraft& draft, int from, char32_t low, char32_t high, int to) {
  for (const auto& [first, last] : kAsciiRanges)
    if (std::max(low, first) <= std::min(high, last))
      draft.Byte(from, static_cast<uint8_t>(std::max(low, first)), static_cast<uint8_t>(std::min(high, last)), to);
  // What needs an escape; of control characters those that texts have, and one that is asked for by itself.
  for (char32_t c = low; c <= std::min<char32_t>(high, '\\'); ++c) {
    const bool rare = c < 0x20 && c != '\n' && c != '\t';
    if ((c >= 0x20 && c != '"' && c != '\\') || (rare && low != high)) continue;
    const std::string quoted = Quoted(std::string(1, static_cast<char>(c)));
    const int before = draft.Literal(from, std::string_view(quoted).substr(1, quoted.size() - 3));
    const auto last = static_cast<uint8_t>(quoted[quoted.size() - 2]);
    draft.Byte(before, last, last, to);
  }
  for (size_t i = 1; i < kLengths.size(); ++i) {
    const char32_t first = std::max(low, kLengths[i].first), last = std::min(high, kLengths[i].second);
    if (first <= last) Utf8Range(draft, from, first, last, to);
  }
}

const char* FormatPattern(std::string_view format) {
  constexpr std::pair<std::string_view, const char*> kFormats[] = {
      {"date",
       "^(?:19|20)[0-9]{2}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
       "|02-(?:0[1-9]|1[0-9]|2[0-8]))$"},
      {"time",
       "^(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"},
      {"date-time",
       "^(?:19|20)[0-9]{2}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
       "|02-(?:0[1-9]|1[0-9]|2[0-8]))T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"
       "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"},
      {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
      {"email",
       "^[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+){0,4}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\.){1,4}"
       "[A-Za-z]{2,12}$"},
      {"hostname", "^(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\.){0,4}[A-Za-z]{2,12}$"},
      {"ipv4",
       "^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$"},
      {"ipv6", "^(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$"},
      {"uri", "^https?://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?:/[A-Za-z0-9._~!$&'()*+,;=:@/-]*)?$"}};
  for (const auto& [name, pattern] : kFormats)
    if (name == format) return pattern;
  return nullptr;
}

}  // namespace

std::string Quoted(std::string_view text) {
  std::string out;
  jinja::AppendJsonText(text, false, &out);
  return out;
}

CommonRules AddCommonRules(GrammarBuilder* builder) {
  CommonRules rules;
  RuleDraft space;
  space.End(space.Literal(RuleDraft::kStart, " "));
  int line = space.Literal(RuleDraft::kStart, "\n");
  space.End(line);
  for (int i = 0; i < kMostIndent; ++i) {
    line = space.Literal(line, " ");
    space.End(line);
  }
  rules.space = builder->Add(std::move(space));

  RuleDraft text;
  const int inside = text.Literal(RuleDraft::kStart, "\"");
  PlainAscii(text, inside, inside);
  Beyond(text, inside, inside);
  text.End(text.Literal(inside, "\""));
  rules.text = builder->Add(std::move(text));

  RuleDraft beyond;
  const int end = beyond.Place();
  Beyond(beyond, RuleDraft::kStart, end);
  beyond.End(end);
  rules.beyond = builder->Add(std::move(beyond));

  for (const bool integer : {true, false}) {
    RuleDraft number;
    number.End(NumberWithin(number, RuleDraft::kStart, {.integer = integer}));
    (integer ? rules.integer : rules.number) = builder->Add(std::move(number));
  }
  return rules;
}

int Space(RuleDraft& draft, int from, const CommonRules& rules) {
  const int to = draft.Place();
  draft.Empty(from, to);
  draft.Call(from, rules.space, to);
  return to;
}

int TextOf(RuleDraft& draft, int from, const CharAutomaton& automaton) {
  std::vector<int> places;
  for (size_t i = 0; i < automaton.states.size(); ++i) places.push_back(i == 0 ? from : draft.Place());
  const int end = draft.Place();
  for (size_t i = 0; i < automaton.states.size(); ++i) {
    const CharAutomaton::State& state = automaton.states[i];
    for (const CharAutomaton::Edge& edge : state.edges)
      Chars(draft, places[i], edge.low, edge.high, places[static_cast<size_t>(edge.to)]);
    if (state.final) draft.Byte(places[i], '"', '"', end);
  }
  return end;
}

int TextOfLength(RuleDraft& draft, int from, int64_t min, int64_t max, int group, const CommonRules& rules) {
  const int end = draft.Place();
  const int64_t last = max >= 0 ? max : min;
  int at = from;
  for (int64_t n = 0;; ++n) {
    draft.Count(at, group, static_cast<int>(std::max<int64_t>(min - n, 0)), max < 0 ? -1 : static_cast<int>(max - n));
    if (n >= min) draft.Byte(at, '"', '"', end);
    if (n == last && max >= 0) return end;
    const int next = n == last ? at : draft.Place();
    PlainAscii(draft, at, next);
    draft.Call(at, rules.beyond, next);
    if (n == last) return end;
    at = next;
  }
}

std::vector<CharAutomaton> Resolver::TextAutomata(const Case& one) const {
  std::vector<CharAutomaton> automata;
  for (const Json* member : one.members) {
    if (member->contains("pattern"))
      automata.push_back(
          PatternAutomaton(member->at("pattern").get_ref<const std::string&>(), PathOf(*member) + "/pattern"));
    if (!member->contains("format")) continue;
    const char* pattern = FormatPattern(member->at("format").get_ref<const std::string&>());
    if (pattern == nullptr)
      Fail(*member, "format",
           "must be date, time, date-time, uuid, email, hostname, ipv4, ipv6 or uri: others are not supported");
    automata.push_back(PatternAutomaton(pattern, PathOf(*member) + "/format"));
  }
  return automata;
}

}  // namespace hydra::json_schema
