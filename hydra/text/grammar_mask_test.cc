// SPDX-License-Identifier: Apache-2.0
// Masks against the slow way, every token byte by byte, along random texts of many schemas and vocabularies.
#include "hydra/text/grammar_mask.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/base/testing.h"
#include "hydra/text/bpe_train.h"
#include "hydra/text/json_schema.h"

namespace hydra {
namespace {

// Tokens of several bytes that JSON has, parts of characters among them.
const Tokenizer& Words() {
  static const Tokenizer t = Tokenizer::FromJson(
      TrainBpe(
          {R"({"name": "caf\u00e9", "caf", "list": [1, 2, [3, [[4]]]], "": {"a": {"b": null, "c": true}}, "x": -12.5})",
           "{\"name\": \"\xE4\xB8\xAD\xE6\x96\x87\", \"name\": \"\xE4\xB8\xAD\xE6\x96\x87\", \"list\": [10, 20]}",
           "[[[[\"\"]]]], [[[[\"\"]]]], {\n  \"a\": 1,\n  \"b\": 2\n}, {\n  \"a\": 1,\n  \"b\": 2\n}"},
          {.vocab_size = 420, .pattern = SplitPattern::kGpt2, .special_tokens = {"<|end|>", "<|other|>"}})
          .json,
      "tokenizer.json");
  return t;
}

std::shared_ptr<GrammarMasks> MasksOf(const char* schema) {
  return std::make_shared<GrammarMasks>(std::make_shared<const Grammar>(JsonSchemaGrammar(ParseJson(schema, "s"), "s")),
                                        std::make_shared<const TokenTrie>(Words(), Words().vocab_size()));
}

const char* const kSchemas[] = {
    R"({"type": "object"})",
    R"({"type": "object", "properties": {"name": {"type": "string"}, "list": {"type": "array",
        "items": {"type": "integer"}},
        "x": {"type": "number", "minimum": -20, "maximum": 20}}, "required": ["name"]})",
    R"({"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"type": "string", "minLength": 3, "maxLength": 9}]}})",
    R"({"type": "string", "maxLength": 4000, "minLength": 40})",
    R"({"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 2}})",
    R"({"enum": ["name", "names", "na", {"a": 1, "b": 2}, [10, 20]]})"};

// Whether a token's bytes fit behind what was said.
bool FitsSlowly(const Grammar& grammar, const std::string& said) {
  GrammarStack stack(grammar);
  GrammarStack::Config config = {{grammar.starts[static_cast<size_t>(grammar.root)], -1}}, next;
  bool can_end = stack.Close(&config);
  for (const char c : said) {
    can_end = stack.Step(config, static_cast<uint8_t>(c), &next);
    config.swap(next);
  }
  return can_end || !config.empty();
}

TEST(GrammarMask, IsWhatEveryTokenSaysByItself) {
  const int32_t end = *Words().TokenId("<|end|>");
  for (const char* schema : kSchemas) {
    SCOPED_TRACE(schema);
    const auto masks = MasksOf(schema);
    for (const uint64_t seed : {1, 2}) {
      Rng rng(seed);
      GrammarMatcher matcher(masks, {end});
      std::string said;
      for (int step = 0; step < (kSanitized ? 8 : 25) && !matcher.is_over(); ++step) {
        const TokenMask& mask = matcher.Mask();
        std::vector<int32_t> allowed;
        for (int32_t id = 0; id < Words().vocab_size(); ++id) {
          const bool special = Words().IsSpecial(id);
          const bool want = id == end
                                ? matcher.can_end()
                                : !special && FitsSlowly(masks->grammar(), said + std::string(Words().TokenBytes(id)));
          EXPECT_EQ(mask.Has(id), want) << said << " + " << Words().TokenText(id);
          if (mask.Has(id) && id != end) allowed.push_back(id);
        }
        if (allowed.empty()) break;
        EXPECT_EQ(mask.count(), static_cast<int64_t>(allowed.size()) + (matcher.can_end() ? 1 : 0));
        const int32_t id = allowed[static_cast<size_t>(rng.Uniform() * static_cast<double>(allowed.size()))];
        said += Words().TokenBytes(id);
        matcher.Accept(id);
      }
    }
  }
}

// Deep texts are where what is known of a state no longer holds: the way back must stay open.
TEST(GrammarMask, DeepTextsCanAlwaysBeEnded) {
  const auto masks = MasksOf(R"({"type": "array", "items": {"$ref": "#"}})");
  GrammarMatcher matcher(masks, {});
  std::string said;
  const auto say = [&](std::string_view wanted) {  // the longest token of these bytes that is allowed
    int32_t best = -1;
    for (int32_t id = 0; id < Words().vocab_size(); ++id) {
      const auto bytes = masks->trie().BytesOf(id);
      const bool fits = !bytes.empty() && bytes.find_first_not_of(wanted) == std::string_view::npos;
      if (fits && matcher.Mask().Has(id) && (best < 0 || bytes.size() > masks->trie().BytesOf(best).size())) best = id;
    }
    if (best < 0) return false;
    said += masks->trie().BytesOf(best);
    matcher.Accept(best);
    return true;
  };
  while (say("[")) {
  }
  EXPECT_GT(said.size(), 50U);
  EXPECT_LE(said.size(), 62U);
  while (!matcher.is_over() && say("]")) {
  }
  EXPECT_TRUE(matcher.is_over()) << said;
  (void)ParseJson(said, "said");
}

TEST(GrammarMask, CountsHowManyGuessesItWouldTake) {
  const int32_t end = *Words().TokenId("<|end|>");
  const auto masks = MasksOf(R"({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})");
  GrammarMatcher matcher(masks, {end});
  std::vector<int32_t> good = Words().Encode("{\"name\": \"caf\"}"), bad = Words().Encode("{\"nome\"");
  EXPECT_EQ(matcher.Admitted(good), good.size());
  good.push_back(end);
  EXPECT_EQ(matcher.Admitted(good), good.size());
  good.push_back(good[0]);
  EXPECT_EQ(matcher.Admitted(good), good.size() - 1);  // nothing comes behind the end
  EXPECT_LT(matcher.Admitted(bad), bad.size());
  EXPECT_EQ(matcher.Admitted(std::vector<int32_t>{end}), 0U);
  EXPECT_EQ(matcher.Admitted(std::vector<int32_t>{-1}), 0U);
  const TokenMask before = matcher.Mask();
  (void)matcher.Admitted(good);
  EXPECT_EQ(matcher.Mask(), before);
}

TEST(GrammarMask, AVocabularyWithoutTheBytesIsAnError) {
  const auto masks = std::make_shared<GrammarMasks>(
      std::make_shared<const Grammar>(JsonSchemaGrammar(ParseJson(R"({"type": "null"})", "s"), "s")),
      std::make_shared<const TokenTrie>(Words(), 2));  // special tokens alone
  GrammarMatcher matcher(masks, {});
  ExpectError([&] { (void)matcher.Mask(); }, ErrorCode::kData, {"no token", "grammar"});
}

TEST(TokenTrie, HoldsEveryTokenThatIsText) {
  const TokenTrie trie(Words(), Words().vocab_size());
  std::vector<int32_t> ends;
  size_t found = 0;
  const auto& nodes = trie.nodes();
  std::string bytes;
  for (int32_t i = 0; i < static_cast<int32_t>(nodes.size()); ++i) {
    while (!ends.empty() && i >= ends.back()) ends.pop_back(), bytes.pop_back();
    bytes += static_cast<char>(nodes[static_cast<size_t>(i)].byte);
    ends.push_back(nodes[static_cast<size_t>(i)].end);
    for (const int32_t id : trie.TokensOf(nodes[static_cast<size_t>(i)])) {
      EXPECT_EQ(bytes, Words().TokenBytes(id));
      ++found;
    }
  }
  EXPECT_EQ(found + Words().SpecialIds().size(), static_cast<size_t>(Words().vocab_size()));
}

}  // namespace
}  // namespace hydra
