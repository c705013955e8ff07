// SPDX-License-Identifier: Apache-2.0
// Languages of characters: what a pattern, a format or a length lets a text be. Not here: how JSON spells a text
// (json_schema_text.cc).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hydra {

// Ranges of code points, ascending and apart.
class CharSet {
 public:
  struct Range {
    char32_t low, high;
  };
  CharSet() = default;
  explicit CharSet(std::vector<Range> ranges);
  [[nodiscard]] static CharSet Any();  // every code point but surrogates
  [[nodiscard]] const std::vector<Range>& ranges() const { return ranges_; }
  void Add(const CharSet& other);
  [[nodiscard]] CharSet Without(const CharSet& other) const;

 private:
  void Normalize();
  std::vector<Range> ranges_;
};

// At one state at a time; state 0 is the start.
struct CharAutomaton {
  struct Edge {
    char32_t low, high;
    int32_t to;
  };
  struct State {
    std::vector<Edge> edges;  // ascending, apart
    bool final = false;
  };
  std::vector<State> states;

  [[nodiscard]] bool Matches(std::string_view utf8) const;
};

inline constexpr size_t kMostCharStates = 5'000;

// The texts in which a pattern of JSON Schema (ECMA-262) is found somewhere. Supported: characters, escapes, classes,
// groups, alternatives, quantifiers, and ^ and $ at the ends of an alternative. Of \D, \W and \S only ASCII characters
// are taken, about which all programs agree. Throws kUsage "WHERE: ...", naming what is not supported.
[[nodiscard]] CharAutomaton PatternAutomaton(std::string_view pattern, const std::string& where);

// Texts that both take. Throws kUsage "WHERE: ..." where that has more than kMostCharStates states.
[[nodiscard]] CharAutomaton Intersection(const CharAutomaton& a, const CharAutomaton& b, const std::string& where);
// Texts of min to max characters; max -1: any number.
[[nodiscard]] CharAutomaton LengthAutomaton(int64_t min, int64_t max);
// Texts that are none of these.
[[nodiscard]] CharAutomaton NoneOf(const std::vector<std::string>& texts);

}  // namespace hydra
