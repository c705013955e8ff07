// SPDX-License-Identifier: Apache-2.0
// Numbers that a user writes, read by from_chars, which knows no locale.
#include "hydra/base/number.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>

#include "hydra/base/error.h"

namespace hydra {
namespace {

// A plus sign is no part of what from_chars reads, but of what people write.
std::string_view WithoutPlus(std::string_view text) {
  return text.size() > 1 && text[0] == '+' && text[1] != '-' ? text.substr(1) : text;
}

}  // namespace

void CheckNumber(double value, const std::string& where) {
  const auto refuse = [&](const char* rule) {
    throw Error(ErrorCode::kUsage, StrCat(where, " = ", value, ": ", rule));
  };
  if (!std::isfinite(value)) refuse("must be a finite number");
  if (std::abs(value) > std::numeric_limits<float>::max()) refuse("is too large: at most 3.4e38");
  if (value != 0 && std::abs(value) < std::numeric_limits<float>::min()) refuse("is too small: 0, or at least 1.2e-38");
}

double ParseNumber(std::string_view text, const std::string& where) {
  const std::string_view digits = WithoutPlus(text);
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc::result_out_of_range)
    throw Error(ErrorCode::kUsage, StrCat(where, " = ", text, ": is out of range: 0, or 1.2e-38 to 3.4e38 in size"));
  if (error != std::errc() || end != digits.data() + digits.size())
    throw Error(ErrorCode::kUsage, StrCat(where, " = ", text, ": must be a number"));
  CheckNumber(value, where);
  return value;
}

int64_t ParseWholeNumber(std::string_view text, int64_t low, int64_t high, const std::string& where) {
  const std::string_view digits = WithoutPlus(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value < low || value > high)
    throw Error(ErrorCode::kUsage, StrCat(where, " = ", text, ": must be a whole number from ", low, " to ", high));
  return value;
}

}  // namespace hydra
