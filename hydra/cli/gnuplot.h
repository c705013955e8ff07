// SPDX-License-Identifier: Apache-2.0
// Plots by gnuplot: the numbers as a table, the plot as SVG and PNG. Not here: plots within pages of HTML (svg_plot.h).
#pragma once

#include <string>

namespace hydra::cli {

struct Plot {
  std::string table;   // tab-separated, a line of names first; blank lines as gnuplot wants them
  std::string script;  // what gnuplot is told; @TABLE@ stands for the table's file
  int width = 900, height = 540;
};

// Writes STEM.tsv, and STEM.svg and STEM.png where gnuplot is installed. `stem` may end in .svg, .png or .tsv. False,
// and a warning, where gnuplot is missing or fails; the table is there all the same. Throws kIo.
bool DrawPlot(std::string stem, const Plot& plot);

}  // namespace hydra::cli
