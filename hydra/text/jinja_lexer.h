// SPDX-License-Identifier: Apache-2.0
// A template's text as tokens, with Jinja's rules of white space as `transformers` sets them: trim_blocks and
// lstrip_blocks are on, keep_trailing_newline is off. Not here: the grammar (jinja_parser.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/text/jinja_ast.h"

namespace hydra::jinja {

struct Token {
  enum class Kind {
    kData,
    kPrintBegin,
    kPrintEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kText,
    kInt,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind = Kind::kEnd;
  Place place;
  std::string text{};  // what kData, kName, kText, kOperator say
  int64_t integer = 0;
  double number = 0;
};

// Throws Error(kFormat) "WHERE: line L, column C: ...". The last token is kEnd.
[[nodiscard]] std::vector<Token> Tokenize(std::string_view text, const std::string& where);

[[noreturn]] void FailAt(const std::string& where, Place place, const std::string& what);

}  // namespace hydra::jinja
