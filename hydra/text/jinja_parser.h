// SPDX-License-Identifier: Apache-2.0
// Templates parsed into trees, with the precedences of Jinja 3.1. Not here: tokens (jinja_lexer.h), running a tree
// (jinja_run.h).
#pragma once

#include <string>
#include <string_view>

#include "hydra/text/jinja_ast.h"

namespace hydra::jinja {

// Throws Error(kFormat) "WHERE: line L, column C: ..." for what Jinja refuses too, and for what needs other templates:
// include, import, extends, block.
[[nodiscard]] Program ParseProgram(std::string_view text, const std::string& where);

}  // namespace hydra::jinja
