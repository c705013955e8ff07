// SPDX-License-Identifier: Apache-2.0
// The parts of which json_schema.cc puts a grammar together: texts and numbers as JSON spells them. Not for others.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "hydra/text/grammar.h"
#include "hydra/text/grammar_chars.h"

namespace hydra::json_schema {

// Rules that every grammar has.
struct CommonRules {
  int space = -1;    // a space, or a line end and spaces
  int text = -1;     // any text with its quotes
  int beyond = -1;   // one character that is not written as one byte of ASCII
  int integer = -1;  // numbers without bounds
  int number = -1;
};
[[nodiscard]] CommonRules AddCommonRules(GrammarBuilder* builder);

// Perhaps white space; returns the place behind.
[[nodiscard]] int Space(RuleDraft& draft, int from, const CommonRules& rules);
// A text as JSON, quotes included, each character as itself where it can be.
[[nodiscard]] std::string Quoted(std::string_view text);
// Behind the opening quote, up to and with the closing one.
[[nodiscard]] int TextOf(RuleDraft& draft, int from, const CharAutomaton& automaton);
// The same for texts of min to max characters (-1: any number).
[[nodiscard]] int TextOfLength(RuleDraft& draft, int from, int64_t min, int64_t max, int group,
                               const CommonRules& rules);

// A number of JSON Schema as digits: "-12.5" is negative, "12", "5".
struct Decimal {
  bool negative = false;
  std::string whole = "0", fraction{};
  [[nodiscard]] bool zero() const { return whole == "0" && fraction.find_first_not_of('0') == std::string::npos; }
};
[[nodiscard]] Decimal DecimalOf(double value);
struct NumberBounds {
  std::optional<Decimal> low{}, high{};
  bool above_low = false, below_high = false;  // the bound itself does not fit
  bool integer = false;
};
[[nodiscard]] int NumberWithin(RuleDraft& draft, int from, const NumberBounds& bounds);

}  // namespace hydra::json_schema
