// SPDX-License-Identifier: Apache-2.0
// What an experiment reports: tables, plots, claims, raw rows; and these as Markdown, CSV, HTML and gnuplot's language.
// Torch-free; writes no files. Not here: what stands in them (evidence_*.cc).
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hydra/eval/claims.h"

namespace hydra::eval {

struct ReportTable {
  std::string title;
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;  // the first column is text, the others are figures
};

struct ReportLine {
  std::string name;
  std::vector<double> x;
  std::vector<Interval> y;  // of each x
};
struct ReportPlot {
  std::string name;  // of its files
  std::string title = {}, x_label = {}, y_label = {};
  bool log_x = false, log_y = false;
  std::vector<ReportLine> lines = {};
  std::vector<std::pair<std::string, double>> levels = {};  // lines across: chance, a goal
};

struct ReportSection {
  std::string name;   // of the experiment: "chaining"
  std::string title;  // "12.2 Following links"
  std::string about;  // what was trained on what, in sentences
  std::vector<Claim> claims = {};
  std::vector<ReportTable> tables = {};
  std::vector<ReportPlot> plots = {};
  ReportTable rows = {};  // raw, for NAME.csv
};

struct ReportHead {
  std::string title;
  std::vector<std::string> lines;  // machines, commits, commands, hours; a paragraph each
};

[[nodiscard]] std::string Csv(const ReportTable& table);
// Plots are shown from plots/NAME.svg beside the page.
[[nodiscard]] std::string Markdown(const ReportHead& head, const std::vector<ReportSection>& sections);
// One file without outside requests; `svg` has the text of each plot's picture by name, those missing are left out.
[[nodiscard]] std::string Html(const ReportHead& head, const std::vector<ReportSection>& sections,
                               const std::map<std::string, std::string>& svg);
// A program that draws the plot into `base`.svg and `base`.png.
[[nodiscard]] std::string Gnuplot(const ReportPlot& plot, const std::string& base);

}  // namespace hydra::eval
