// SPDX-License-Identifier: Apache-2.0
// One self-contained HTML page of an X-ray: heat maps over layers and tokens, details of a token at a click. No outside
// requests. Not here: what an X-ray holds (runtime/xray.h).
#pragma once

#include <string>

#include "hydra/io/json.h"

namespace hydra::cli {

// xray: {"model", "layers": [["ssm", "moe"], ..], "tokens": [XrayJson and "text", ..]}.
[[nodiscard]] std::string XrayPage(const Json& xray);

}  // namespace hydra::cli
