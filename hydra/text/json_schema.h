// SPDX-License-Identifier: Apache-2.0
// JSON Schemas as grammars: every text of the grammar parses and fits the schema, in UTF-8 and with the properties in
// the schema's order. Which keywords are supported: docs/formats.md; any other is refused with its place. Not here:
// masks over a vocabulary (grammar_mask.h).
#pragma once

#include <string>

#include "hydra/io/json.h"
#include "hydra/text/grammar.h"

namespace hydra {

struct JsonGrammarOptions {
  std::string before{}, after{};  // texts around the value, as they are
};

// `where` stands for the schema in messages: a file's name, "response_format.json_schema.schema". Throws kUsage
// "WHERE#/properties/a/pattern: ...".
[[nodiscard]] Grammar JsonSchemaGrammar(const Json& schema, const std::string& where,
                                        const JsonGrammarOptions& options = {});

// Any JSON object.
[[nodiscard]] Grammar JsonObjectGrammar();

// Calls of tools in OpenAI's form ([{"type": "function", "function": {"name", "parameters"}}]), as models write them:
// {"name": NAME, "arguments": {...}} between `before` and `after`.
struct ToolGrammarOptions {
  std::string before = "<tool_call>\n", after = "\n</tool_call>";
  bool text = true;      // any text may stand before a call, or alone; else a call comes at once
  bool several = false;  // calls may follow one another
};
[[nodiscard]] Grammar ToolCallGrammar(const Json& tools, const std::string& where, const ToolGrammarOptions& options);

}  // namespace hydra
