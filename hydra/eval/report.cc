// SPDX-License-Identifier: Apache-2.0
// Reports as text.
#include "hydra/eval/report.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <sstream>

#include "hydra/base/error.h"

namespace hydra::eval {
namespace {

constexpr size_t kColumns = 120;

// In lines of at most kColumns.
std::string Wrapped(const std::string& text) {
  std::istringstream words(text);
  std::string out, line;
  for (std::string word; words >> word;) {
    if (!line.empty() && line.size() + 1 + word.size() > kColumns) {
      out += line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return out + line + "\n";
}

std::string Row(const std::vector<std::string>& cells) {
  std::string out = "|";
  for (const std::string& cell : cells) out += " " + cell + " |";
  return out + "\n";
}

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

ReportTable VerdictTable(const std::vector<Claim>& claims) {
  ReportTable table{"", {"claim", "verdict", "figure, 95% interval", "of what", "rule"}, {}};
  for (const Claim& c : claims) {
    const int digits = c.interval && std::abs(c.interval->value) >= 20 ? 1 : 3;
    table.rows.push_back({c.text,
                          c.note.empty() ? VerdictName(c.verdict) : StrCat(VerdictName(c.verdict), " (", c.note, ")"),
                          c.interval ? IntervalText(*c.interval, digits) : "-", c.measure, c.rule});
  }
  return table;
}

std::string MarkdownTable(const ReportTable& table) {
  std::string out = Row(table.head) + "|";
  for (size_t i = 0; i < table.head.size(); ++i) out += i == 0 ? " --- |" : " ---: |";
  out += "\n";
  for (const auto& row : table.rows) out += Row(row);
  return out;
}

std::string HtmlTable(const ReportTable& table, const std::string& kind) {
  std::string out = StrCat("<div class=\"wide\"><table class=\"", kind, "\">\n<tr>");
  for (const std::string& cell : table.head) out += StrCat("<th>", Escaped(cell), "</th>");
  out += "</tr>\n";
  for (const auto& row : table.rows) {
    out += "<tr>";
    for (const std::string& cell : row) out += StrCat("<td>", Escaped(cell), "</td>");
    out += "</tr>\n";
  }
  return out + "</table></div>\n";
}

// An SVG as the address of a picture.
std::string DataAddress(const std::string& svg) {
  std::string out = "data:image/svg+xml,";
  for (const char c : svg) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.' || c == '/' || c == ' ' || c == '=') {
      out += c == ' ' ? "%20" : std::string(1, c);
      continue;
    }
    char hex[4];
    std::snprintf(hex, sizeof hex, "%%%02X", static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += hex;
  }
  return out;
}

constexpr const char* kStyle = R"(<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; margin: .5rem 0 1.25rem; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .6rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child, .claims th, .claims td { text-align: left; }
img { max-width: 100%; background: #fff; margin: .5rem 0; }
</style>
)";

// A text between gnuplot's single quotes; markup is switched off where it is used.
std::string Quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("''") : std::string(1, c);
  return out + "'";
}

}  // namespace

std::string Csv(const ReportTable& table) {
  std::string out;
  const auto line = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < cells.size(); ++i) {
      const bool plain = cells[i].find_first_of(",\"\n") == std::string::npos;
      std::string cell = plain ? cells[i] : "\"";
      if (!plain) {
        for (const char c : cells[i]) cell += c == '"' ? std::string("\"\"") : std::string(1, c);
        cell += '"';
      }
      out += (i == 0 ? "" : ",") + cell;
    }
    out += "\n";
  };
  line(table.head);
  for (const auto& row : table.rows) line(row);
  return out;
}

std::string Markdown(const ReportHead& head, const std::vector<ReportSection>& sections) {
  std::string out = StrCat("# ", head.title, "\n");
  for (const std::string& text : head.lines) out += "\n" + Wrapped(text);
  for (const ReportSection& section : sections) {
    out += StrCat("\n## ", section.title, "\n\n", Wrapped(section.about));
    if (!section.claims.empty()) out += "\n" + MarkdownTable(VerdictTable(section.claims));
    for (const ReportTable& table : section.tables)
      out += StrCat("\n", Wrapped(table.title), "\n", MarkdownTable(table));
    for (const ReportPlot& plot : section.plots) out += StrCat("\n![", plot.title, "](plots/", plot.name, ".svg)\n");
  }
  return out;
}

std::string Html(const ReportHead& head, const std::vector<ReportSection>& sections,
                 const std::map<std::string, std::string>& svg) {
  std::string out =
      StrCat("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n",
             "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>", Escaped(head.title),
             "</title>\n", kStyle, "</head><body>\n<h1>", Escaped(head.title), "</h1>\n");
  for (const std::string& text : head.lines) out += StrCat("<p>", Escaped(text), "</p>\n");
  for (const ReportSection& section : sections) {
    out += StrCat("<h2>", Escaped(section.title), "</h2>\n<p>", Escaped(section.about), "</p>\n");
    if (!section.claims.empty()) out += HtmlTable(VerdictTable(section.claims), "claims");
    for (const ReportTable& table : section.tables)
      out += StrCat("<h3>", Escaped(table.title), "</h3>\n", HtmlTable(table, "figures"));
    for (const ReportPlot& plot : section.plots)
      if (const auto found = svg.find(plot.name); found != svg.end())
        out += StrCat("<img alt=\"", Escaped(plot.title), "\" src=\"", DataAddress(found->second), "\">\n");
  }
  return out + "</body></html>\n";
}

std::string Gnuplot(const ReportPlot& plot, const std::string& base) {
  constexpr const char* kColours[] = {"#1b6ca8", "#d1495b", "#3a7d44", "#8e5ea2",
                                      "#e08e0b", "#4d4d4d", "#17a2b8", "#7f5539"};
  std::ostringstream out;
  out.precision(8);
  for (size_t i = 0; i < plot.lines.size(); ++i) {
    out << "$line" << i << " << END\n";
    for (size_t j = 0; j < plot.lines[i].x.size(); ++j) {
      const Interval& y = plot.lines[i].y[j];
      out << plot.lines[i].x[j] << " " << y.value << " " << y.low << " " << y.high << "\n";
    }
    out << "END\n";
  }
  out << "set title " << Quoted(plot.title) << " noenhanced\nset xlabel " << Quoted(plot.x_label)
      << " noenhanced\nset ylabel " << Quoted(plot.y_label) << " noenhanced\n"
      << "set grid lc rgb '#dddddd'\nset key outside right top noenhanced\n";
  if (plot.log_x) out << "set logscale x 2\n";
  if (plot.log_y) out << "set logscale y\n";
  for (const char* kind : {"svg", "png"}) {
    const bool svg = std::string(kind) == "svg";
    out << "set terminal "
        << (svg ? "svg size 900,480 font 'sans,14' background rgb 'white'" : "pngcairo size 900,480 font 'sans,11'")
        << "\nset output " << Quoted(base + "." + kind) << "\nplot ";
    for (size_t i = 0; i < plot.lines.size(); ++i) {
      const char* colour = kColours[i % std::size(kColours)];
      out << (i == 0 ? "" : ", ") << "$line" << i << " using 1:2:3:4 with yerrorbars lw 1.5 pt 7 ps 0.5 lc rgb '"
          << colour << "' notitle, $line" << i << " using 1:2 with lines lw 2 lc rgb '" << colour << "' title "
          << Quoted(plot.lines[i].name);
    }
    for (const auto& [name, level] : plot.levels)
      out << ", " << level << " with lines dt 2 lw 1.5 lc rgb '#888888' title " << Quoted(name);
    out << "\nunset output\n";
  }
  return out.str();
}

}  // namespace hydra::eval
