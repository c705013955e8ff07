// SPDX-License-Identifier: Apache-2.0
// Flags of the verbs that run a model folder with LibTorch: which model, where, with which controls.
// Not here: the verbs themselves (torch_generate.cc, torch_logits.cc).
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "hydra/nn/model.h"

namespace hydra::cli {

struct ModelFlags {
  std::string model = ".";
  std::string device = "auto";
  int threads = 0;  // 0 = physical cores
  std::vector<std::string> controls;
};

void AddModelFlags(CLI::App* verb, ModelFlags* flags);
// Sets the threads and loads the folder on the device.
[[nodiscard]] nn::Model OpenModel(const ModelFlags& flags);
// KEY=VALUE of specs/hydra.md 4, such as ban_experts=0,3 or path_scale=1,0,1.
[[nodiscard]] nn::ForwardOptions ParseControls(const std::vector<std::string>& controls);

// The text of -p or of the file of -f ("-" = stdin); nothing when neither is given.
[[nodiscard]] std::optional<std::string> PromptText(const CLI::App* verb, const std::string& text, const std::string& file);

}  // namespace hydra::cli
