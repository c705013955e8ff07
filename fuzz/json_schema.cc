// SPDX-License-Identifier: Apache-2.0
// JSON Schemas: whatever a schema is, it is refused by one line or becomes a grammar without dead ends, and each text
// of it parses and fits the schema. The input is a schema, a line end, and bytes that choose a way through the grammar.
// Not here: masks over a vocabulary.
#include "hydra/text/json_schema.h"

#include <algorithm>
#include <vector>

#include "fuzz/input.h"
#include "hydra/text/grammar_mask.h"
#include "hydra/text/json_schema_node.h"

using namespace hydra;

namespace {

constexpr size_t kMostSchema = 4096, kMostText = 2000;

// A way through the grammar as the bytes say; "" where it was too long.
std::string Walk(const Grammar& grammar, std::string_view choices) {
  GrammarStack stack(grammar);
  GrammarStack::Config config = {{grammar.starts[static_cast<size_t>(grammar.root)], -1}}, next;
  bool can_end = stack.Close(&config);
  std::string text;
  while (!config.empty()) {
    const size_t step = text.size();
    if (can_end && (step >= choices.size() || choices[step] == '\0')) break;
    if (step > kMostText) return "";
    std::vector<uint8_t> bytes;
    for (int byte = 0; byte < 256; ++byte)
      if (stack.Step(config, static_cast<uint8_t>(byte), &next) || !next.empty())
        bytes.push_back(static_cast<uint8_t>(byte));
    if (bytes.empty()) fuzz::Broken("a dead end", text);
    // Beyond the choices: what closes something, else the last byte.
    size_t chosen = bytes.size() - 1;
    if (step < choices.size()) {
      chosen = static_cast<uint8_t>(choices[step]) % bytes.size();
    } else {
      for (const char closing : {'"', ']', '}'})
        if (const auto at = std::ranges::find(bytes, static_cast<uint8_t>(closing)); at != bytes.end())
          chosen = static_cast<size_t>(at - bytes.begin());
    }
    text += static_cast<char>(bytes[chosen]);
    can_end = stack.Step(config, bytes[chosen], &next);
    config.swap(next);
  }
  return text;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view all = fuzz::Text(data, size);
  const std::string_view text = all.substr(0, all.find('\n'));
  if (text.size() > kMostSchema) return 0;
  Json schema;
  if (!fuzz::Accepts([&] { schema = ParseJson(text, "schema"); })) return 0;
  fuzz::Accepts([&] {
    const Grammar grammar = JsonSchemaGrammar(schema, "schema");
    const std::string made = Walk(grammar, all.substr(std::min(all.size(), text.size() + 1)));
    if (made.empty()) return;
    json_schema::Resolver resolver(schema, "schema");
    bool fits = false;
    try {
      fits = resolver.Fits(ParseJson(made, "made"), {&schema});
    } catch (const Error& error) {  // names that are not listed may come twice
      fits = std::string_view(error.what()).find("is given twice") != std::string_view::npos;
    }
    if (!fits) fuzz::Broken("a text that does not fit its schema", made);
  });
  return 0;
}
