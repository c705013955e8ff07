// SPDX-License-Identifier: Apache-2.0
// Help texts. Not here: parsing (cli.cc), the verbs' own words (verb_*.cc, torch_*.cc).
#include "hydra/cli/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace hydra::cli {
namespace {

constexpr size_t kWidth = 100;     // columns of a line
constexpr size_t kMaxColumn = 32;  // a longer flag gets a line of its own

// `text` in lines of at most kWidth, all but the first behind `indent` blanks.
std::string Wrap(const std::string& text, size_t indent) {
  std::string out;
  size_t column = indent;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const size_t length = end - begin;
    if (column > indent && column + 1 + length > kWidth) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out.append(text, begin, length);
    column += length;
    begin = end + 1;
  }
  return out;
}

struct Row {
  std::string left, right;
};

std::string Table(const std::vector<Row>& rows) {
  size_t column = 0;
  for (const Row& row : rows)
    if (row.left.size() <= kMaxColumn) column = std::max(column, row.left.size());
  column += 4;  // two blanks on either side
  std::string out;
  for (const Row& row : rows) {
    out += "  " + row.left;
    out +=
        row.left.size() > kMaxColumn ? "\n" + std::string(column, ' ') : std::string(column - 2 - row.left.size(), ' ');
    out += Wrap(row.right, column) + "\n";
  }
  return out;
}

// "-m, --model PATH"
std::string FlagText(const CLI::Option& option) {
  std::string text;
  if (option.get_positional()) {
    text = option.get_name();
    return option.get_required() ? text : "[" + text + "]";
  }
  for (const std::string& name : option.get_snames()) text += (text.empty() ? "-" : ", -") + name;
  for (const std::string& name : option.get_lnames()) text += (text.empty() ? "--" : ", --") + name;
  const std::string type = option.get_type_name();
  if (option.get_items_expected_max() > 0 && !type.empty())
    text += type == "INT" || type == "UINT" ? " N" : type == "FLOAT" ? " X" : " " + type;
  return text;
}

Row OptionRow(const CLI::Option& option) {
  std::string right = option.get_description();
  const std::string& value = option.get_default_str();
  if (option.get_required()) {
    right += " (needed)";
  } else if (!value.empty() && value != "[]" && value != "\"\"" && option.get_items_expected_max() > 0) {
    right += value.starts_with('[') ? " " + value : fmt::format(" [{}]", value);  // a list has its own brackets
  }
  return {FlagText(option), right};
}

std::vector<Row> VerbRows(const CLI::App& app) {
  std::vector<Row> rows;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
    rows.push_back({verb->get_name(), verb->get_description()});
  return rows;
}

}  // namespace

std::string RootHelp(const CLI::App& root, const std::vector<VerbLine>& handed) {
  std::vector<Row> rows;
  for (const VerbLine& line : handed) rows.push_back({line.name, line.text});
  for (Row& row : VerbRows(root)) rows.push_back(std::move(row));
  return fmt::format(
      "{}\n\nhydralm VERB [flags]\n\n{}\nhydralm VERB --help shows its flags; --version the version. A flag may also "
      "be set as "
      "HYDRALM_ARG_FLAG\nin the environment (--ctx-size: HYDRALM_ARG_CTX_SIZE).\n",
      root.get_description(), Table(rows));
}

std::string VerbFormatter::make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const {
  if (app->get_parent() == nullptr) return CLI::Formatter::make_help(app, std::move(name), mode);
  std::string out = fmt::format("Example: {}\n\n{}\n\n", app->get_footer(), Wrap(app->get_description(), 0));
  if (const std::vector<Row> verbs = VerbRows(*app); !verbs.empty()) out += Table(verbs) + "\n";
  std::vector<Row> rows;
  for (const bool positional : {true, false})  // arguments first, then flags as they were added, help last
    for (const CLI::Option* option : app->get_options())
      if (option->get_positional() == positional && option != app->get_help_ptr() && !option->get_group().empty())
        rows.push_back(OptionRow(*option));
  if (app->get_help_ptr() != nullptr) rows.push_back(OptionRow(*app->get_help_ptr()));
  return out + Table(rows);
}

}  // namespace hydra::cli
