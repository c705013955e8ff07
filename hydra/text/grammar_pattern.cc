// SPDX-License-Identifier: Apache-2.0
// Patterns of JSON Schema as automata. Not here: the regular expressions of tokenizers (pretokenizer_regex.h).
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/io/file.h"
#include "hydra/text/grammar_chars.h"

namespace hydra {
namespace {

constexpr int64_t kMostRepeats = 1000;
constexpr size_t kMostPatternNodes = 20'000;
constexpr int kMostGroups = 100;  // within each other

CharSet Digits() { return CharSet({{'0', '9'}}); }
CharSet WordChars() { return CharSet({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}); }
CharSet Spaces() { return CharSet({{'\t', '\r'}, {' ', ' '}}); }
CharSet AsciiWithout(const CharSet& set) { return CharSet({{0x20, 0x7E}}).Without(set); }
CharSet LineChars() { return CharSet::Any().Without(CharSet({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}})); }

// An automaton that may be at several places at once.
struct Nfa {
  struct Node {
    std::vector<CharAutomaton::Edge> edges;
    std::vector<int> empty;
  };
  std::vector<Node> nodes;
  int end = 0;
};

class PatternParser {
 public:
  PatternParser(std::string_view pattern, const std::string& where) : text_(pattern), where_(where) {}

  Nfa Parse() {
    const int start = Node();
    nfa_.end = Node();
    Alternatives(start, nfa_.end, true);
    if (at_ != text_.size()) Fail(")");
    return std::move(nfa_);
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw Error(ErrorCode::kUsage,
                StrCat(where_, " = \"", OneLine(text_, 60), "\": ", what, " at byte ", at_, " is not supported"));
  }
  [[nodiscard]] bool More() const { return at_ < text_.size(); }
  [[nodiscard]] bool Sees(std::string_view what) const { return text_.substr(at_).starts_with(what); }
  bool Skip(std::string_view what) { return Sees(what) && (at_ += what.size()) > 0; }

  int Node() {
    if (nfa_.nodes.size() >= kMostPatternNodes)
      throw Error(ErrorCode::kUsage, StrCat(where_, " = \"", OneLine(text_, 60), "\": the pattern is too large"));
    nfa_.nodes.emplace_back();
    return static_cast<int>(nfa_.nodes.size()) - 1;
  }
  void Empty(int from, int to) { nfa_.nodes[static_cast<size_t>(from)].empty.push_back(to); }
  void Set(int from, const CharSet& set, int to) {
    for (const CharSet::Range& range : set.ranges())
      nfa_.nodes[static_cast<size_t>(from)].edges.push_back({range.low, range.high, to});
  }
  // Any text between two places.
  void AnyText(int from, int to) {
    const int loop = Node();
    Empty(from, loop);
    Set(loop, CharSet::Any(), loop);
    Empty(loop, to);
  }

  // On the outside, an alternative without ^ may begin anywhere, and one without $ may end anywhere.
  void Alternatives(int from, int to, bool outside) {
    if (++depth_ > kMostGroups) Fail("a group within so many others");
    do {
      int at = Node(), end = Node();
      if (outside && !Skip("^")) {
        AnyText(from, at);
      } else {
        Empty(from, at);
      }
      at = Sequence(at);
      if (outside && !Skip("$")) {
        AnyText(at, end);
      } else {
        Empty(at, end);
      }
      if (outside && More() && !Sees("|") && !Sees(")")) Fail("something behind $");
      Empty(end, to);
    } while (Skip("|"));
    --depth_;
  }

  int Sequence(int from) {
    while (More() && !Sees("|") && !Sees(")") && !Sees("$")) {
      const size_t begin = at_;
      int to = Atom(from);
      const size_t end = at_;
      int64_t least = 1, most = 1;
      if (Quantifier(&least, &most)) to = Repeated(from, begin, end, least, most);
      from = to;
    }
    return from;
  }

  // The atom of bytes [begin, end) so many times, most < 0: any number.
  int Repeated(int from, size_t begin, size_t end, int64_t least, int64_t most) {
    const size_t behind = at_;
    const auto again = [&](int place) {
      at_ = begin;
      const int to = Atom(place);
      HYDRA_CHECK(at_ == end);
      return to;
    };
    int at = Node();
    Empty(from, at);
    for (int64_t i = 0; i < least; ++i) at = again(at);
    if (most < 0) {
      const int loop = Node();
      Empty(at, loop);
      Empty(again(loop), loop);
      at = loop;
    } else {
      const int last = Node();
      for (int64_t i = least; i < most; ++i) {
        Empty(at, last);
        at = again(at);
      }
      Empty(at, last);
      at = last;
    }
    at_ = behind;
    return at;
  }

  bool Quantifier(int64_t* least, int64_t* most) {
    if (Skip("*")) {
      *least = 0, *most = -1;
    } else if (Skip("+")) {
      *least = 1, *most = -1;
    } else if (Skip("?")) {
      *least = 0, *most = 1;
    } else if (Skip("{")) {
      *least = Number();
      *most = *least;
      if (Skip(",")) *most = Sees("}") ? -1 : Number();
      if (!Skip("}")) Fail("a quantifier of another form");
      if (*most >= 0 && *most < *least) Fail("a quantifier whose end is before its beginning");
    } else {
      return false;
    }
    (void)Skip("?");  // how much is taken first changes nothing here
    if (Sees("*") || Sees("+") || Sees("?") || Sees("{")) Fail("a quantifier of a quantifier");
    return true;
  }

  int64_t Number() {
    if (!More() || text_[at_] < '0' || text_[at_] > '9') Fail("a quantifier of another form");
    int64_t value = 0;
    for (; More() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = value * 10 + text_[at_] - '0';
      if (value > kMostRepeats) Fail(StrCat("a repetition of more than ", kMostRepeats));
    }
    return value;
  }

  int Atom(int from) {
    const int to = Node();
    if (Skip("(")) {
      if (Sees("?") && !Skip("?:")) Fail("a group with (?");
      Alternatives(from, to, false);
      if (!Skip(")")) Fail("a group without its end");
    } else if (Skip("[")) {
      Set(from, Class(), to);
    } else if (Skip(".")) {
      Set(from, LineChars(), to);
    } else if (Sees("\\")) {
      Set(from, Escape(), to);
    } else if (Sees("*") || Sees("+") || Sees("?") || Sees("{") || Sees("}") || Sees("^") || Sees("]")) {
      Fail(StrCat("\"", text_.substr(at_, 1), "\""));
    } else {
      const char32_t c = Character();
      Set(from, CharSet({{c, c}}), to);
    }
    return to;
  }

  char32_t Character() {
    const CodePoint c = DecodeUtf8(text_.data() + at_);
    at_ += static_cast<size_t>(c.bytes);
    return c.value;
  }

  char32_t Hex(size_t digits) {
    char32_t value = 0;
    for (size_t i = 0; i < digits; ++i, ++at_) {
      const char c = More() ? text_[at_] : '\0';
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) Fail("an escape that lacks digits");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    if (value >= 0xD800 && value < 0xE000) Fail("half a character");
    return value;
  }

  // From the backslash on.
  CharSet Escape() {
    ++at_;
    if (!More()) Fail("a backslash at the end");
    const char c = text_[at_];
    ++at_;
    const auto one = [](char32_t value) { return CharSet({{value, value}}); };
    switch (c) {
      case 'd': return Digits();
      case 'w': return WordChars();
      case 's': return Spaces();
      case 'D': return AsciiWithout(Digits());
      case 'W': return AsciiWithout(WordChars());
      case 'S': return AsciiWithout(Spaces());
      case 'n': return one('\n');
      case 'r': return one('\r');
      case 't': return one('\t');
      case 'f': return one('\f');
      case 'v': return one('\v');
      case '0': return one(0);
      case 'x': return one(Hex(2));
      case 'u': return one(Hex(4));
      default: break;
    }
    --at_;
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter) Fail(StrCat("\\", std::string(1, c)));
    return one(Character());
  }

  // Behind the opening bracket.
  CharSet Class() {
    const bool negated = Skip("^");
    CharSet set;
    bool has_class = false;  // \d and the like, about whose complement programs do not agree
    while (!Sees("]")) {
      if (!More()) Fail("a class without its end");
      if (Sees("[") || Sees("&&")) Fail("a class within a class");
      const bool is_class = Sees("\\d") || Sees("\\w") || Sees("\\s") || Sees("\\D") || Sees("\\W") || Sees("\\S");
      has_class |= is_class;
      CharSet item;
      if (Skip("\\b")) {
        item = CharSet({{'\b', '\b'}});
      } else if (Sees("\\")) {
        item = Escape();
      } else {
        const char32_t c = Character();
        item = CharSet({{c, c}});
      }
      if (!is_class && Sees("-") && !Sees("-]")) {
        ++at_;
        for (const char* other : {"\\d", "\\w", "\\s", "\\D", "\\W", "\\S"})
          if (Sees(other)) Fail("a range to a class");
        const char32_t low = item.ranges()[0].low, high = Sees("\\") ? Escape().ranges()[0].low : Character();
        if (high < low) Fail("a range whose end is before its beginning");
        item = CharSet({{low, high}}).Without(CharSet({{0xD800, 0xDFFF}}));
      }
      set.Add(item);
    }
    ++at_;
    if (!negated) return set;
    return has_class ? AsciiWithout(set) : CharSet::Any().Without(set);
  }

  std::string_view text_;
  const std::string& where_;
  Nfa nfa_;
  size_t at_ = 0;
  int depth_ = 0;
};

CharAutomaton Determined(const Nfa& nfa, const std::string& where) {
  using Places = std::vector<int>;
  CharAutomaton out;
  std::map<Places, int32_t> known;
  std::vector<Places> todo;
  const auto state_of = [&](Places places) {
    std::ranges::sort(places);
    places.erase(std::unique(places.begin(), places.end()), places.end());
    std::vector<bool> seen(nfa.nodes.size(), false);
    for (const int place : places) seen[static_cast<size_t>(place)] = true;
    for (size_t i = 0; i < places.size(); ++i)
      for (const int to : nfa.nodes[static_cast<size_t>(places[i])].empty)
        if (!seen[static_cast<size_t>(to)]) {
          seen[static_cast<size_t>(to)] = true;
          places.push_back(to);
        }
    std::ranges::sort(places);
    const auto [found, is_new] = known.try_emplace(places, static_cast<int32_t>(out.states.size()));
    if (is_new) {
      if (out.states.size() >= kMostCharStates)
        throw Error(ErrorCode::kUsage, StrCat(where, ": the pattern has more than ", kMostCharStates, " states"));
      out.states.emplace_back();
      todo.push_back(places);
    }
    return found->second;
  };
  (void)state_of({0});
  while (!todo.empty()) {
    const Places places = std::move(todo.back());
    todo.pop_back();
    CharAutomaton::State state;
    std::set<char32_t> cuts;
    for (const int place : places) {
      state.final |= place == nfa.end;
      for (const auto& edge : nfa.nodes[static_cast<size_t>(place)].edges) cuts.insert({edge.low, edge.high + 1});
    }
    for (auto cut = cuts.begin(); cut != cuts.end() && std::next(cut) != cuts.end(); ++cut) {
      Places targets;
      for (const int place : places)
        for (const auto& edge : nfa.nodes[static_cast<size_t>(place)].edges)
          if (edge.low <= *cut && *cut <= edge.high) targets.push_back(edge.to);
      if (!targets.empty()) state.edges.push_back({*cut, *std::next(cut) - 1, state_of(std::move(targets))});
    }
    out.states[static_cast<size_t>(known.at(places))] = std::move(state);
  }
  return out;
}

}  // namespace

CharAutomaton PatternAutomaton(std::string_view pattern, const std::string& where) {
  return Determined(PatternParser(pattern, where).Parse(), where);
}

}  // namespace hydra
