// SPDX-License-Identifier: Apache-2.0
// What a claim is and when it holds: rules over 95% intervals, fixed before anything was run (docs/evidence.md).
// Torch-free. Not here: intervals (intervals.h), which claims there are (evidence_*.cc).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "hydra/eval/intervals.h"

namespace hydra::eval {

enum class Verdict {
  kHolds,
  kDoesNotHold,
  kUndecided,   // the interval lies on both sides
  kNotLearned,  // no model learned the task's easiest setting: nothing follows
  kNotRun,      // cells are missing
  kVoid,        // the machine was not quiet while times were taken
};
[[nodiscard]] const char* VerdictName(Verdict verdict);

// A rule and its words, made of the same numbers.
struct Rule {
  std::string text;
  std::function<Verdict(const Interval&)> decide;
};
// Holds where the interval is at or above the bound, does not where it is below.
[[nodiscard]] Rule AtLeast(double bound);
// Holds where it is at or below the bound, does not where it is above.
[[nodiscard]] Rule AtMost(double bound);
// A gain: holds where the interval is above `bound`; does not hold where it is below bound + least, the smallest gain
// that the claim would be worth.
[[nodiscard]] Rule GainsOver(double bound, double least);
// As good: holds where the interval is above -margin, does not where it is below.
[[nodiscard]] Rule NoWorseBy(double margin);
// Both ends lie in [low, high]: holds; the whole interval is outside: does not.
[[nodiscard]] Rule Within(double low, double high);

struct Claim {
  std::string name;     // "chaining.workspace": stable, for programs
  std::string text;     // "The workspace helps at three steps and more."
  std::string measure;  // what the interval is of: "accuracy with it less accuracy without it, k = 3, 4"
  std::string rule;
  Verdict verdict = Verdict::kNotRun;
  std::optional<Interval> interval = {};
  std::string note = {};  // "one seed: the spread over seeds is not known"
};

// The verdict of a rule; kNotRun without an interval, or where it is not known yet whether some model learned the task.
// `learned` false: kNotLearned, whatever the interval.
struct Evidence {
  std::optional<Interval> interval = {};
  std::optional<bool> learned = true;
  size_t seeds = 3;
  std::string note = {};
};
[[nodiscard]] Claim Judge(const std::string& name, const std::string& text, const std::string& measure,
                          const Rule& rule, const Evidence& evidence);

// A model has learned a task when it answers this share of the easiest setting's questions, as a mean over seeds.
inline constexpr double kLearned = 0.9;

// Figures as reports show them.
[[nodiscard]] std::string Fixed(double value, int digits);
[[nodiscard]] std::string IntervalText(const Interval& interval, int digits);

}  // namespace hydra::eval
