// SPDX-License-Identifier: Apache-2.0
// Numbers between bounds, digit by digit. They have at most 15 digits, so that doubles tell them apart, and a program
// that reads them as doubles finds them on the same side of a bound.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "hydra/text/json_schema_impl.h"

namespace hydra::json_schema {
namespace {

constexpr size_t kMostDigits = 15;

// Numbers from 0 on without a sign.
class Magnitude {
 public:
  Magnitude(RuleDraft& draft, int end, const NumberBounds& bounds)
      : draft_(draft), end_(end), bounds_(bounds), low_(*bounds.low) {}

  void Write(int from) {
    const size_t longest = bounds_.high ? bounds_.high->whole.size() : std::max(kMostDigits, low_.whole.size());
    for (size_t n = low_.whole.size(); n <= longest; ++n) {
      digits_ = n;
      places_.clear();
      Whole(from, n == low_.whole.size(), bounds_.high.has_value() && n == bounds_.high->whole.size());
    }
  }

 private:
  // Whether the digits so far are those of a bound: what follows is then bound too.
  [[nodiscard]] int PlaceOf(bool fraction, size_t at, bool low, bool high) {
    const auto [found, is_new] = places_.try_emplace({fraction, at, low, high}, -1);
    if (is_new) {
      found->second = draft_.Place();
      todo_.emplace_back(fraction, at, low, high);
    }
    return found->second;
  }
  static int Digit(const std::string& digits, size_t at) { return at < digits.size() ? digits[at] - '0' : 0; }

  void Step(int place, bool fraction, size_t at, bool low, bool high, int least) {
    const std::string& low_digits = fraction ? low_.fraction : low_.whole;
    const std::string high_digits = !bounds_.high ? "" : fraction ? bounds_.high->fraction : bounds_.high->whole;
    const int from = low ? std::max(least, Digit(low_digits, at)) : least;
    const int to = high ? Digit(high_digits, at) : 9;
    for (int digit = from; digit <= to; ++digit) {
      const int next =
          PlaceOf(fraction, at + 1, low && digit == Digit(low_digits, at), high && digit == Digit(high_digits, at));
      draft_.Byte(place, static_cast<uint8_t>('0' + digit), static_cast<uint8_t>('0' + digit), next);
    }
  }

  // Whether a number may end where the rest of a fraction would begin with digit `at`.
  [[nodiscard]] bool MayEnd(size_t at, bool low, bool high) const {
    const auto rest_is_zero = [&](const std::string& digits) {
      return at >= digits.size() || digits.find_first_not_of('0', at) == std::string::npos;
    };
    if (low && !(rest_is_zero(low_.fraction) && !bounds_.above_low)) return false;
    return !high || !rest_is_zero(bounds_.high->fraction) || !bounds_.below_high;
  }

  void Whole(int from, bool low, bool high) {
    Step(from, false, 0, low, high, digits_ > 1 ? 1 : 0);
    while (!todo_.empty()) {
      const auto [fraction, at, is_low, is_high] = todo_.back();
      todo_.pop_back();
      const int place = places_.at({fraction, at, is_low, is_high});
      if (!fraction && at < digits_) {
        Step(place, false, at, is_low, is_high, 0);
        continue;
      }
      const size_t done = fraction ? at : 0;
      if (MayEnd(done, is_low, is_high)) draft_.Empty(place, end_);
      if (bounds_.integer || digits_ + done >= kMostDigits) continue;
      if (fraction) {
        Step(place, true, at, is_low, is_high, 0);
      } else {
        Step(draft_.Literal(place, "."), true, 0, is_low, is_high, 0);
      }
    }
  }

  RuleDraft& draft_;
  int end_;
  const NumberBounds& bounds_;
  Decimal low_;
  size_t digits_ = 0;
  std::map<std::tuple<bool, size_t, bool, bool>, int> places_;
  std::vector<std::tuple<bool, size_t, bool, bool>> todo_;
};

// Without bounds: also exponents.
int Unbounded(RuleDraft& draft, int from, bool integer) {
  const int end = draft.Place(), minus = draft.Literal(from, "-");
  NumberBounds bounds{.low = Decimal(), .integer = integer};
  const int number = draft.Place();
  Magnitude(draft, number, bounds).Write(from);
  bounds.above_low = integer;  // no -0
  Magnitude(draft, number, bounds).Write(minus);
  draft.Empty(number, end);
  if (integer) return end;
  const int e = draft.Place(), sign = draft.Place(), one = draft.Place();
  for (const char c : {'e', 'E'}) draft.Byte(number, static_cast<uint8_t>(c), static_cast<uint8_t>(c), e);
  draft.Empty(e, sign);
  for (const char c : {'+', '-'}) draft.Byte(e, static_cast<uint8_t>(c), static_cast<uint8_t>(c), sign);
  draft.Byte(sign, '0', '9', one);
  draft.Empty(one, end);
  draft.Byte(one, '0', '9', end);
  return end;
}

}  // namespace

Decimal DecimalOf(double value) {
  // The shortest digits that give this double.
  char buffer[32];
  const auto stop = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string text(buffer, stop);
  Decimal out{.negative = text[0] == '-'};
  const size_t first = out.negative ? 1 : 0, e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  std::string digits(1, text[first]);
  if (e > first + 2) digits += text.substr(first + 2, e - first - 2);
  if (exponent < 0) {
    out.whole = "0";
    out.fraction = std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else {
    const auto whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    out.whole = digits.substr(0, whole);
    out.fraction = digits.substr(whole);
  }
  if (out.zero()) out = Decimal();
  return out;
}

int NumberWithin(RuleDraft& draft, int from, const NumberBounds& bounds) {
  if (!bounds.low && !bounds.high) return Unbounded(draft, from, bounds.integer);
  const int end = draft.Place();
  // From 0 on.
  if (!bounds.high || !bounds.high->negative) {
    NumberBounds positive = bounds;
    if (!bounds.low || bounds.low->negative) positive.low = Decimal(), positive.above_low = false;
    Magnitude(draft, end, positive).Write(from);
  }
  // Below 0: the bounds change places.
  if (!bounds.low || bounds.low->negative) {
    NumberBounds negative{.integer = bounds.integer};
    const bool to_zero = !bounds.high || !bounds.high->negative;
    negative.low = to_zero ? Decimal() : *bounds.high;
    negative.above_low = to_zero || bounds.below_high;  // no -0
    negative.high = bounds.low;
    negative.below_high = bounds.above_low;
    negative.low->negative = false;
    if (negative.high) negative.high->negative = false;
    Magnitude(draft, end, negative).Write(draft.Literal(from, "-"));
  }
  return end;
}

}  // namespace hydra::json_schema
