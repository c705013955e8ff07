// SPDX-License-Identifier: Apache-2.0
// How help looks: an example first, then flags with their defaults, within a screen. Not here: parsing (cli.cc).
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "hydra/cli/cli.h"

namespace hydra::cli {

// The list of verbs that `hydralm` alone prints.
[[nodiscard]] std::string RootHelp(const CLI::App& root, const std::vector<VerbLine>& handed);

// Help of one verb; the example is the app's footer.
class VerbFormatter : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override;
};

}  // namespace hydra::cli
