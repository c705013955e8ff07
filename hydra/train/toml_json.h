// SPDX-License-Identifier: Apache-2.0
// Text in TOML as a JSON tree. Not here: which keys there are (run_config.h).
#pragma once

#include <string>

#include "hydra/io/json.h"

namespace hydra::train {

// Throws kConfig naming `where` and line or key: bad syntax, more than 16 levels or 1000 dots in a line, numbers that
// are not decimal or not finite, dates.
[[nodiscard]] Json ParseToml(const std::string& text, const std::string& where);
// The value of KEY=VALUE; what is no TOML value is text: --set model.preset=hydra-nano.
[[nodiscard]] Json ParseTomlValue(const std::string& text, const std::string& where, const std::string& key);

// A JSON value in one line of TOML: {a = 1} for {"a": 1}.
[[nodiscard]] std::string TomlText(const nlohmann::json& value);

}  // namespace hydra::train
