// SPDX-License-Identifier: Apache-2.0
// Numbers of bytes and counts, read and shown.
#include "hydra/cli/byte_size.h"

#include <charconv>
#include <map>
#include <system_error>

#include "hydra/base/error.h"
#include "hydra/io/file.h"

namespace hydra::cli {

int64_t ParseBytes(const std::string& where, std::string text) {
  constexpr double kMiB = 1 << 20;
  const auto bad = [&, typed = text] {
    return Error(ErrorCode::kUsage, StrCat(where, " ", typed, ": must be a number of bytes such as 2GB or 1.5GiB"));
  };
  if (text.size() > 2 && text.ends_with("/s")) text.resize(text.size() - 2);
  double value = 0;
  const char* const last = text.data() + text.size();
  const auto [unit_begin, error] = std::from_chars(text.data(), last, value);
  if (error != std::errc()) throw bad();
  static const std::map<std::string, double> kUnits = {
      {"", 1},      {"B", 1},      {"kB", 1e3},   {"KB", 1e3},          {"MB", 1e6},         {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 1024}, {"MiB", kMiB}, {"GiB", 1024 * kMiB}, {"TiB", kMiB * kMiB}};
  const auto unit = kUnits.find(std::string(unit_begin, last));
  if (unit == kUnits.end() || !(value > 0) || !(value * unit->second < 9e18)) throw bad();
  return static_cast<int64_t>(value * unit->second);
}

std::string Commas(int64_t count) { return WithCommas(static_cast<uint64_t>(count)); }
std::string MiB(int64_t bytes) { return Commas((bytes + (int64_t{1} << 19)) >> 20); }

}  // namespace hydra::cli
