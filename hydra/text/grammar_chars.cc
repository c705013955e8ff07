// SPDX-License-Identifier: Apache-2.0
// Sets of characters and automata over them.
#include "hydra/text/grammar_chars.h"

#include <algorithm>
#include <map>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"

namespace hydra {

CharSet::CharSet(std::vector<Range> ranges) : ranges_(std::move(ranges)) { Normalize(); }

CharSet CharSet::Any() { return CharSet({{0, 0xD7FF}, {0xE000, 0x10FFFF}}); }

void CharSet::Normalize() {
  std::ranges::sort(ranges_, {}, &Range::low);
  std::vector<Range> merged;
  for (const Range& range : ranges_) {
    if (range.low > range.high) continue;
    if (!merged.empty() && range.low <= merged.back().high + 1) {
      merged.back().high = std::max(merged.back().high, range.high);
    } else {
      merged.push_back(range);
    }
  }
  ranges_ = std::move(merged);
}

void CharSet::Add(const CharSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  Normalize();
}

CharSet CharSet::Without(const CharSet& other) const {
  std::vector<Range> left;
  for (Range range : ranges_) {
    bool some = true;
    for (const Range& gone : other.ranges_) {
      if (gone.high < range.low || gone.low > range.high) continue;
      if (gone.low > range.low) left.push_back({range.low, gone.low - 1});
      some = gone.high < range.high;
      if (!some) break;
      range.low = gone.high + 1;
    }
    if (some) left.push_back(range);
  }
  return CharSet(std::move(left));
}

bool CharAutomaton::Matches(std::string_view utf8) const {
  int32_t at = 0;
  for (size_t i = 0; i < utf8.size();) {
    const CodePoint c = DecodeUtf8(utf8.data() + i);
    i += static_cast<size_t>(c.bytes);
    const auto& edges = states[static_cast<size_t>(at)].edges;
    const auto edge = std::ranges::find_if(edges, [&](const Edge& e) { return e.low <= c.value && c.value <= e.high; });
    if (edge == edges.end()) return false;
    at = edge->to;
  }
  return states[static_cast<size_t>(at)].final;
}

CharAutomaton Intersection(const CharAutomaton& a, const CharAutomaton& b, const std::string& where) {
  CharAutomaton out;
  std::map<std::pair<int32_t, int32_t>, int32_t> known;
  std::vector<std::pair<int32_t, int32_t>> todo;
  const auto state_of = [&](int32_t x, int32_t y) {
    const auto [found, is_new] = known.try_emplace({x, y}, static_cast<int32_t>(out.states.size()));
    if (is_new) {
      if (out.states.size() >= kMostCharStates)
        throw Error(ErrorCode::kUsage, StrCat(where, ": the pattern, format and length together are too large"));
      out.states.emplace_back();
      todo.emplace_back(x, y);
    }
    return found->second;
  };
  (void)state_of(0, 0);
  while (!todo.empty()) {
    const auto [x, y] = todo.back();
    todo.pop_back();
    const auto& p = a.states[static_cast<size_t>(x)];
    const auto& q = b.states[static_cast<size_t>(y)];
    CharAutomaton::State state;
    state.final = p.final && q.final;
    for (const auto& e : p.edges)
      for (const auto& f : q.edges) {
        const char32_t low = std::max(e.low, f.low), high = std::min(e.high, f.high);
        if (low <= high) state.edges.push_back({low, high, state_of(e.to, f.to)});
      }
    out.states[static_cast<size_t>(known.at({x, y}))] = std::move(state);
  }
  return out;
}

CharAutomaton LengthAutomaton(int64_t min, int64_t max) {
  CharAutomaton out;
  const CharSet any = CharSet::Any();
  const int64_t last = max >= 0 ? max : min;
  out.states.resize(static_cast<size_t>(last) + 1);
  for (int64_t n = 0; n <= last; ++n) {
    CharAutomaton::State& state = out.states[static_cast<size_t>(n)];
    state.final = n >= min;
    if (n == last && max >= 0) break;
    for (const CharSet::Range& range : any.ranges())
      state.edges.push_back({range.low, range.high, static_cast<int32_t>(std::min(n + 1, last))});
  }
  return out;
}

CharAutomaton NoneOf(const std::vector<std::string>& texts) {
  CharAutomaton out;
  out.states.resize(2);  // the start, and what is like none of them any more
  constexpr int32_t kOther = 1;
  std::vector<std::map<char32_t, int32_t>> next(2);
  std::vector<bool> ends(2, false);
  for (const std::string& text : texts) {
    int32_t at = 0;
    for (size_t i = 0; i < text.size();) {
      const CodePoint c = DecodeUtf8(text.data() + i);
      i += static_cast<size_t>(c.bytes);
      const auto [found, is_new] =
          next[static_cast<size_t>(at)].try_emplace(c.value, static_cast<int32_t>(next.size()));
      at = found->second;
      if (!is_new) continue;
      next.emplace_back();
      ends.push_back(false);
    }
    ends[static_cast<size_t>(at)] = true;
  }
  out.states.resize(next.size());
  for (size_t i = 0; i < next.size(); ++i) {
    CharAutomaton::State& state = out.states[i];
    state.final = !ends[i];
    CharSet known;
    for (const auto& [c, to] : next[i]) {
      state.edges.push_back({c, c, to});
      known.Add(CharSet({{c, c}}));
    }
    const CharSet others = CharSet::Any().Without(known);
    for (const CharSet::Range& range : others.ranges()) state.edges.push_back({range.low, range.high, kOther});
    std::ranges::sort(state.edges, {}, &CharAutomaton::Edge::low);
  }
  return out;
}

}  // namespace hydra
