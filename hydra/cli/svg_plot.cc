// SPDX-License-Identifier: Apache-2.0
// Axes, grid and lines.
#include "hydra/cli/svg_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace hydra::cli {
namespace {

constexpr double kWidth = 520, kHeight = 300, kLeft = 62, kRight = 14, kTop = 30, kBottom = 58;

// A logarithmic axis over whole powers of its base.
struct Axis {
  double low, high, from, to;  // powers; where they lie on the page
  [[nodiscard]] double At(double power) const { return from + (to - from) * (power - low) / (high - low); }
};

Axis AxisOver(double least, double most, double base, double from, double to) {
  const double low = std::floor(std::log(least) / std::log(base) + 1e-9);
  double high = std::ceil(std::log(most) / std::log(base) - 1e-9);
  if (high <= low) high = low + 1;
  return {low, high, from, to};
}

std::string Length(double tokens) {
  return tokens >= 1 << 20   ? fmt::format("{:g}M", tokens / (1 << 20))
         : tokens >= 1 << 10 ? fmt::format("{:g}K", tokens / (1 << 10))
                             : fmt::format("{:g}", tokens);
}

}  // namespace

std::string Thousands(double value) {
  constexpr const char* kUnits[] = {"", " k", " M", " G", " T", " P", " E"};
  size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits)) value /= 1000, ++unit;
  const int digits = value >= 99.5 || value == std::floor(value) ? 0 : value >= 9.95 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, digits, kUnits[unit]);
}

std::string SvgPlot(const std::string& title, const std::string& unit, const std::vector<double>& x,
                    const std::vector<PlotLine>& lines) {
  double least = 1e300, most = 0;
  for (const PlotLine& line : lines)
    for (const double y : line.y)
      if (y > 0) least = std::min(least, y), most = std::max(most, y);
  if (most == 0) least = most = 1;
  const Axis across = AxisOver(x.front(), x.back(), 2, kLeft, kWidth - kRight);
  const Axis up = AxisOver(least, most, 10, kHeight - kBottom, kTop);
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight, title);
  out += fmt::format("<text x=\"{}\" y=\"17\" class=\"title\">{}, {} by tokens</text>\n", kLeft, title, unit);
  for (double power = up.low; power <= up.high; ++power)
    out += fmt::format(
        "<path class=\"grid\" d=\"M{} {:.1f}H{}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1f}\" "
        "text-anchor=\"end\">{}</text>\n",
        kLeft, up.At(power), kWidth - kRight, kLeft - 6, up.At(power) + 4, Thousands(std::pow(10, power)));
  for (double power = across.low; power <= across.high; power += 2)
    out += fmt::format(
        "<path class=\"grid\" d=\"M{:.1f} {}V{}\"/><text class=\"tick\" x=\"{:.1f}\" y=\"{}\" "
        "text-anchor=\"middle\">{}</text>\n",
        across.At(power), kTop, kHeight - kBottom, across.At(power), kHeight - kBottom + 16,
        Length(std::pow(2, power)));
  double name_at = kLeft;
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string path;
    for (size_t j = 0; j < x.size(); ++j)
      if (lines[i].y[j] > 0)
        path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", across.At(std::log2(x[j])),
                            up.At(std::log10(lines[i].y[j])));
    if (!path.empty()) out += fmt::format("<path class=\"line{}\" d=\"{}\"/>\n", i, path);
    out += fmt::format(
        "<path class=\"line{}\" d=\"M{:.0f} {}h18\"/><text class=\"tick\" x=\"{:.0f}\" y=\"{}\">{}</text>\n", i,
        name_at, kHeight - 14, name_at + 23, kHeight - 10, lines[i].name);
    constexpr double kLetter = 6.6;
    name_at += 40 + kLetter * static_cast<double>(lines[i].name.size());
  }
  return out + "</svg>\n";
}

}  // namespace hydra::cli
