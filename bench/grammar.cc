// SPDX-License-Identifier: Apache-2.0
// What holding a text to a JSON schema costs: the time until a grammar is there, and that of a mask over a vocabulary,
// along texts that are picked at random from the masks. A row a schema: milliseconds to make the grammar, states, then
// microseconds of a mask (median, the slowest in a hundred, the slowest of all; of the first text, which finds out what
// the states say, and of the later ones).
//   bench_grammar MODEL      a model folder, a tokenizer.json or a .gguf
// Not here: how fast texts come (`hydralm generate --json-schema`).
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/text/grammar_mask.h"
#include "hydra/text/json_schema.h"
#include "hydra/text/tokenizer.h"

namespace {

using namespace hydra;

struct Named {
  const char* name;
  const char* schema;
};
constexpr Named kSchemas[] = {
    {"any object", R"({"type": "object"})"},
    {"person", R"({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0,
        "maximum": 150}, "email": {"type": "string", "format": "email"}, "tags": {"type": "array", "items": {"type":
        "string"}}}, "required": ["name", "age"]})"},
    {"short texts", R"({"type": "array", "items": {"type": "string", "maxLength": 200}})"},
    {"tree", R"({"$defs": {"n": {"type": "object", "properties": {"value": {"type": "number"}, "children": {"type":
        "array", "items": {"$ref": "#/$defs/n"}}}, "required": ["value"]}}, "$ref": "#/$defs/n"})"},
    {"choices", R"({"type": "object", "properties": {"kind": {"enum": ["alpha", "beta", "gamma"]}, "level": {"enum":
        [1, 2, 3]}, "done": {"type": "boolean"}}, "required": ["kind", "level", "done"]})"}};

// Times of the masks of one random text, in microseconds.
void Walk(const std::shared_ptr<GrammarMasks>& masks, int64_t vocab, uint64_t seed, std::vector<double>* times) {
  constexpr int kMostTokens = 300;
  Rng rng(seed);
  GrammarMatcher matcher(masks, {});
  for (int n = 0; n < kMostTokens && !matcher.is_over(); ++n) {
    const double start = Seconds();
    const TokenMask& mask = matcher.Mask();
    times->push_back(1e6 * (Seconds() - start));
    // The next allowed token from a random one on.
    auto id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(vocab)));
    while (!mask.Has(id)) id = static_cast<int32_t>((id + 1) % vocab);
    matcher.Accept(id);
  }
}

void Print(const char* what, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const auto at = [&](double share) {
    return times[static_cast<size_t>(share * static_cast<double>(times.size() - 1))];
  };
  std::printf(" | %s: %zu masks, %.1f, %.1f, %.1f us", what, times.size(), at(0.5), at(0.99), at(1));
}

int Run(const char* model) {
  const Tokenizer tokenizer = Tokenizer::Load(model);
  double start = Seconds();
  const auto trie = std::make_shared<const TokenTrie>(tokenizer, tokenizer.vocab_size());
  std::printf("%lld tokens, trie %zu nodes in %.1f ms\n", static_cast<long long>(trie->vocab()), trie->nodes().size(),
              1e3 * (Seconds() - start));
  for (const Named& named : kSchemas) {
    start = Seconds();
    const Json schema = ParseJson(named.schema, "schema");
    const auto grammar = std::make_shared<const Grammar>(JsonSchemaGrammar(schema, "schema"));
    std::printf("%-12s %.2f ms, %zu states", named.name, 1e3 * (Seconds() - start), grammar->states.size());
    const auto masks = std::make_shared<GrammarMasks>(grammar, trie);
    std::vector<double> first, later;
    for (uint64_t seed = 1; seed <= 10; ++seed) Walk(masks, trie->vocab(), seed, seed == 1 ? &first : &later);
    Print("first", first);
    Print("later", later);
    std::printf("\n");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "bench_grammar: needs a model: a folder, a tokenizer.json or a .gguf\n");
    return 2;
  }
  try {
    return Run(argv[1]);
  } catch (const hydra::Error& error) {
    std::fprintf(stderr, "bench_grammar: %s\n", error.what());
    return 2;
  }
}
