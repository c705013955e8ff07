// SPDX-License-Identifier: Apache-2.0
// Line plots as SVG within a page of HTML, both axes logarithmic. Colours are the page's: classes line0, line1, ..
#pragma once

#include <string>
#include <vector>

namespace hydra::cli {

struct PlotLine {
  std::string name;
  std::vector<double> y;  // one for each x; 0 and below: not drawn
};

// Texts are taken as they are: no markup in them.
[[nodiscard]] std::string SvgPlot(const std::string& title, const std::string& unit, const std::vector<double>& x,
                                  const std::vector<PlotLine>& lines);

// "1.5 M", "3.2 G": three digits and a power of a thousand.
[[nodiscard]] std::string Thousands(double value);

}  // namespace hydra::cli
