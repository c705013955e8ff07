// SPDX-License-Identifier: Apache-2.0
// Rules and verdicts.
#include "hydra/eval/claims.h"

#include <cmath>
#include <cstdio>

#include "hydra/base/error.h"

namespace hydra::eval {

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kHolds: return "holds";
    case Verdict::kDoesNotHold: return "does not hold";
    case Verdict::kUndecided: return "undecided";
    case Verdict::kNotLearned: return "not learned";
    case Verdict::kNotRun: return "not run";
    case Verdict::kVoid: return "void";
  }
  return "";
}

Rule AtLeast(double bound) {
  return {StrCat("holds at ", bound, " and above, does not below"), [bound](const Interval& i) {
            return i.low >= bound ? Verdict::kHolds : i.high < bound ? Verdict::kDoesNotHold : Verdict::kUndecided;
          }};
}

Rule AtMost(double bound) {
  return {StrCat("holds at ", bound, " and below, does not above"), [bound](const Interval& i) {
            return i.high <= bound ? Verdict::kHolds : i.low > bound ? Verdict::kDoesNotHold : Verdict::kUndecided;
          }};
}

Rule GainsOver(double bound, double least) {
  const std::string rest =
      least > 0 ? StrCat("does not below ", bound + least, ", a gain not worth the claim") : "does not at it or below";
  return {StrCat("holds above ", bound, ", ", rest), [bound, least](const Interval& i) {
            if (i.low > bound) return Verdict::kHolds;
            const bool too_little = least > 0 ? i.high < bound + least : i.high <= bound;
            return too_little ? Verdict::kDoesNotHold : Verdict::kUndecided;
          }};
}

Rule NoWorseBy(double margin) {
  return {StrCat("holds above ", -margin, ", does not below"), [margin](const Interval& i) {
            return i.low > -margin ? Verdict::kHolds : i.high < -margin ? Verdict::kDoesNotHold : Verdict::kUndecided;
          }};
}

Rule Within(double low, double high) {
  return {StrCat("holds from ", low, " to ", high, ", does not outside"), [low, high](const Interval& i) {
            if (i.low >= low && i.high <= high) return Verdict::kHolds;
            return i.high < low || i.low > high ? Verdict::kDoesNotHold : Verdict::kUndecided;
          }};
}

Claim Judge(const std::string& name, const std::string& text, const std::string& measure, const Rule& rule,
            const Evidence& evidence) {
  Claim claim{.name = name, .text = text, .measure = measure, .rule = rule.text, .note = evidence.note};
  if (!evidence.interval) return claim;
  claim.interval = evidence.interval;
  if (evidence.learned) claim.verdict = *evidence.learned ? rule.decide(*evidence.interval) : Verdict::kNotLearned;
  if (evidence.seeds < 3)
    claim.note += StrCat(claim.note.empty() ? "" : "; ", evidence.seeds, evidence.seeds == 1 ? " seed" : " seeds",
                         ": how seeds differ is hardly known");
  return claim;
}

std::string Fixed(double value, int digits) {
  if (std::isinf(value)) return value > 0 ? "never" : "-inf";
  if (std::isnan(value)) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string IntervalText(const Interval& interval, int digits) {
  return StrCat(Fixed(interval.value, digits), " (", Fixed(interval.low, digits), " .. ", Fixed(interval.high, digits),
                ")");
}

}  // namespace hydra::eval
