// SPDX-License-Identifier: Apache-2.0
// Runs gnuplot once a form.
#include "hydra/cli/gnuplot.h"

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"

namespace hydra::cli {
namespace {

// A text within single quotes, each quote of it as `inside` says.
std::string Quoted(const std::string& text, const char* inside) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string(inside) : std::string(1, c);
  return out + "'";
}

std::string Replaced(std::string text, const std::string& what, const std::string& by) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size()))
    text.replace(at, what.size(), by);
  return text;
}

// Exit status of a shell's command.
int Shell(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace

bool DrawPlot(std::string stem, const Plot& plot) {
  for (const char* ending : {".svg", ".png", ".tsv"})
    if (stem.ends_with(ending)) {
      stem.resize(stem.size() - 4);
      break;
    }
  const std::string table = stem + ".tsv", script = stem + ".gnuplot";
  WriteFileAtomic(table, plot.table);
  if (Shell("command -v gnuplot > /dev/null 2>&1") != 0) {
    PrintWarnings({table + ": gnuplot is not installed: the table is there, the plot is not"});
    return false;
  }
  std::string text;
  for (const bool svg : {true, false})
    text += StrCat("reset\nset terminal ", svg ? "svg" : "pngcairo", " size ", plot.width, ",", plot.height,
                   " font 'sans,", svg ? 14 : 11, "' background rgb 'white'\nset output ",
                   Quoted(stem + (svg ? ".svg" : ".png"), "''"), "\nset datafile separator '\\t'\nset grid\n",
                   Replaced(plot.script, "@TABLE@", Quoted(table, "''")), "\nunset output\n");
  WriteFileAtomic(script, text);
  const int status = Shell("gnuplot " + Quoted(script, "'\\''"));
  std::error_code ignored;
  if (status == 0) std::filesystem::remove(script, ignored);
  if (status != 0) PrintWarnings({StrCat(script, ": gnuplot failed with status ", status)});
  return status == 0;
}

}  // namespace hydra::cli
