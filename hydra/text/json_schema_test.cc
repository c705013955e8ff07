// SPDX-License-Identifier: Apache-2.0
// Grammars of JSON Schemas: what they take and what not, that every way through them ends in a value that parses and
// fits, and what is refused. Against another validator: tests/commands/json_schema_test.py. Not here: masks
// (grammar_mask_test.cc).
#include "hydra/text/json_schema.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/base/testing.h"
#include "hydra/text/grammar_mask.h"
#include "hydra/text/json_schema_node.h"

namespace hydra {
namespace {

// Whether a grammar takes a text: 2 whole, 1 as the beginning of one, 0 not.
int Takes(const Grammar& grammar, std::string_view text) {
  GrammarStack stack(grammar);
  GrammarStack::Config config = {{grammar.starts[static_cast<size_t>(grammar.root)], -1}}, next;
  bool can_end = stack.Close(&config);
  for (const char c : text) {
    can_end = stack.Step(config, static_cast<uint8_t>(c), &next);
    config.swap(next);
    if (config.empty() && !can_end) return 0;
  }
  return can_end ? 2 : 1;
}

Grammar Of(const char* schema) { return JsonSchemaGrammar(ParseJson(schema, "s"), "s"); }

void Check(const char* schema, const std::vector<std::string>& good, const std::vector<std::string>& bad) {
  SCOPED_TRACE(schema);
  const Grammar grammar = Of(schema);
  for (const std::string& text : good) EXPECT_EQ(Takes(grammar, text), 2) << text;
  for (const std::string& text : bad) EXPECT_NE(Takes(grammar, text), 2) << text;
}

TEST(JsonSchema, TakesValuesOfItsTypes) {
  Check(R"({"type": "null"})", {"null"}, {"true", "nul", "", " null"});
  Check(R"({"type": ["boolean", "null"]})", {"true", "false", "null"}, {"1", "\"true\""});
  Check(R"({"type": "integer"})", {"0", "-1", "12", "123456789012345"}, {"01", "-0", "1.0", "1e2", "-", "+1"});
  Check(R"({"type": "number"})", {"0", "-1.5", "0.001", "1e9", "12E-3", "-0.5e+10"}, {".5", "1.", "01", "1e", "1e999"});
  Check(R"({"type": "string"})",
        {R"("")", R"("a b")", R"("\n\"\\\/\u00e9")", "\"\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80\"", R"("\ud83d\ude00")"},
        {R"("a)", R"("\x")", "\"\n\"", R"("\ud83d")", R"("\ude00")", "\"\xC3\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\""});
  Check(R"({"type": "array"})", {"[]", "[1, 2]", "[1,2]", "[[null], {\"a\": true}]", "[\n  1,\n  2\n]"},
        {"[1,]", "[,1]", "[1 2]", "["});
  Check(R"({"type": "object"})", {"{}", R"({"a": 1})", R"({"a":{"b":[]}, "c": ""})"}, {R"({a: 1})", R"({"a"})", "[]"});
  Check("true", {"1", "\"a\"", "[{}]"}, {"", "nil"});
  Check("{}", {"1", "{}"}, {""});
}

TEST(JsonSchema, HoldsObjectsToTheirProperties) {
  const char* schema = R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"},
                           "c": {"type": "null"}}, "required": ["b"]})";
  Check(schema, {R"({"a": 1, "b": ""})", R"({"b": "x"})", R"({"b": "", "c": null})", R"({"a":1,"b":"","c":null})"},
        {"{}", R"({"a": 1})", R"({"b": 1})", R"({"b": "", "a": 1})", R"({"b": "", "d": 1})", R"({"b": "", "b": ""})"});
  Check(R"({"properties": {"ab": {"type": "null"}}, "type": "object", "additionalProperties": {"type": "integer"}})",
        {"{}", R"({"ab": null})", R"({"ab": null, "x": 1})", R"({"abc": 1, "a": 2})", R"({"": 1})"},
        {R"({"ab": 1})", R"({"x": null})", R"({"x": 1, "ab": null})", R"({"x": 1, "ab": 1})", R"({"a\u0062": 1})"});
  Check(R"({"type": "object", "additionalProperties": false})", {"{}"}, {R"({"a": 1})"});
  Check(R"({"type": "object", "required": ["q"]})", {R"({"q": 1})", R"({"q": 1, "r": 2})"}, {"{}", R"({"r": 2})"});
  Check(R"({"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2, "maxProperties": 2})",
        {R"({"a": 1, "b": 2})", R"({"a": 1, "c": 2})", R"({"b": 1, "c": 2})"},
        {"{}", R"({"a": 1})", R"({"a": 1, "b": 2, "c": 3})"});
  Check(R"({"type": "object", "properties": {"a": false, "b": {"type": "null"}}})", {"{}", R"({"b": null})"},
        {R"({"a": 1})"});
  Check(R"({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 1})", {"{}", R"({"x": 1})"},
        {R"({"x": 1, "y": 2})"});
}

TEST(JsonSchema, HoldsArraysToTheirItems) {
  Check(R"({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3})", {"[1]", "[1, 2, 3]"},
        {"[]", "[1, 2, 3, 4]", "[\"a\"]"});
  Check(R"({"type": "array", "items": {"type": "null"}, "minItems": 2})",
        {"[null, null]", "[null,null,null,null,null]"}, {"[null]"});
  Check(R"({"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": {"type": "integer"}})",
        {"[]", "[null]", "[null, true]", "[null, true, 1, 2]"}, {"[true]", "[null, 1]", "[null, true, null]"});
  Check(R"({"type": "array", "prefixItems": [{"type": "null"}], "minItems": 1})", {"[null]"}, {"[]", "[null, 1]"});
  Check(R"({"type": "array", "items": false})", {"[]"}, {"[1]"});
}

TEST(JsonSchema, HoldsNumbersToTheirBounds) {
  Check(R"({"type": "integer", "minimum": 7, "maximum": 123})", {"7", "9", "10", "99", "100", "123"},
        {"6", "0", "124", "1000", "-8", "200"});
  Check(R"({"type": "integer", "minimum": -15, "exclusiveMaximum": 3})", {"-15", "-1", "0", "2", "-9"},
        {"-16", "3", "-20", "-0", "10"});
  Check(R"({"type": "integer", "exclusiveMinimum": 0})", {"1", "10", "999999999999999"}, {"0", "-1"});
  Check(R"({"type": "integer", "maximum": -5})", {"-5", "-50", "-100"}, {"-4", "0", "5"});
  Check(R"({"type": "integer", "minimum": 0.5, "maximum": 2.5})", {"1", "2"}, {"0", "3"});
  Check(R"({"type": "integer", "minimum": 18446744073709551615})", {"18446744073709551615"}, {"18446744073709551614"});
  Check(R"({"type": "number", "minimum": 0, "maximum": 1})", {"0", "1", "0.5", "1.0", "0.0", "1.000"},
        {"1.001", "-0.5", "2", "10"});
  Check(R"({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})", {"0.1", "0.999", "0.0001"},
        {"0", "0.0", "1", "1.0", "-0.1"});
  Check(R"({"type": "number", "minimum": -1.25, "maximum": 10.5})", {"-1.25", "-1.2", "-0.5", "3.75", "10.5", "10.499"},
        {"-1.26", "-1.3", "10.51", "11", "-2"});
  Check(R"({"type": "number", "maximum": -0.001})", {"-0.001", "-0.002", "-1"}, {"-0.0009", "0", "1"});
  Check(R"({"minimum": 5})", {"5", "\"a\"", "null"}, {"4"});
  Check(R"({"type": "number", "multipleOf": 1})", {"5"}, {"5.5"});
}

TEST(JsonSchema, HoldsTextsToLengthsPatternsAndFormats) {
  Check(R"({"type": "string", "minLength": 2, "maxLength": 3})",
        {R"("ab")", R"("abc")", "\"\xC3\xA9\xC3\xA9\"", R"("\n\u00e9")"},
        {R"("a")", R"("abcd")", "\"\xC3\xA9\"", R"("")"});
  Check(R"({"type": "string", "minLength": 1})", {R"("a")", R"("abcdef")"}, {R"("")"});
  Check(R"({"type": "string", "pattern": "^[a-c]{2}\\d+$"})", {R"("ab1")", R"("cc123")"},
        {R"("ab")", R"("xab1")", R"("ad1")"});
  Check(R"({"type": "string", "pattern": "b+"})", {R"("b")", R"("abbc")"}, {R"("ac")", R"("")"});
  Check(R"({"type": "string", "pattern": "^(a|bc)?x*$"})", {R"("")", R"("a")", R"("bcxx")"}, {R"("bx")", R"("ab")"});
  Check(R"({"type": "string", "pattern": "^[^a]$"})", {R"("b")", "\"\xF0\x9F\x98\x80\"", R"("\"")", R"("\n")"},
        {R"("a")"});
  Check(R"({"type": "string", "pattern": "^\\S\\W$"})", {R"("a-")"}, {R"(" -")", R"("ab")"});
  Check(R"({"type": "string", "pattern": "^a.c$"})",
        {R"("abc")",
         "\"a\xE4\xB8\xAD"
         "c\""},
        {R"("a\nc")", R"("ac")"});
  Check(R"({"type": "string", "pattern": "^[ab]*$", "maxLength": 2})", {R"("")", R"("ab")"}, {R"("aba")", R"("c")"});
  Check(R"({"type": "string", "pattern": "^\\u00e9|z$"})", {"\"\xC3\xA9q\"", R"("qz")"}, {R"("q")"});
  Check(R"({"type": "string", "format": "date"})", {R"("2024-02-28")", R"("1999-12-31")"},
        {R"("2024-02-30")", R"("2024-13-01")", R"("24-01-01")"});
  Check(R"({"type": "string", "format": "uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"}, {R"("123e4567")"});
}

TEST(JsonSchema, PutsSchemasTogether) {
  Check(R"({"enum": ["a\n", 1, null, {"x": [1, 2]}]})", {R"("a\n")", "1", "null", R"({"x":[1,2]})", R"({"x": [1, 2]})"},
        {R"("a")", "2", "{}"});
  Check(R"({"const": "x"})", {R"("x")"}, {R"("y")"});
  Check(R"({"type": "integer", "enum": [1, "a", 300], "maximum": 100})", {"1"}, {R"("a")", "300"});
  Check(R"({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]})", {"5", R"("a")"},
        {R"("ab")", "null"});
  Check(R"({"allOf": [{"type": ["integer", "string"]}, {"minimum": 3}, {"maximum": 4}]})", {"3", "4", R"("q")"},
        {"5", "2"});
  Check(R"({"oneOf": [{"type": "integer"}, {"type": "string"}]})", {"1", R"("a")"}, {"null"});
  Check(R"({"type": "object", "properties": {"k": {}}, "required": ["k"], "oneOf": [
          {"properties": {"k": {"const": "a"}, "x": {"type": "integer"}}, "required": ["x"]},
          {"properties": {"k": {"const": "b"}, "y": {"type": "string"}}, "required": ["y"]}]})",
        {R"({"k": "a", "x": 1})", R"({"k": "b", "y": "q"})"}, {R"({"k": "a", "y": "q"})", R"({"k": "c", "x": 1})"});
  Check(R"({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                      {"properties": {"b": {"type": "null"}, "a": {"minimum": 5}}}], "type": "object"})",
        {R"({"a": 5})", R"({"a": 7, "b": null})"}, {R"({"a": 4})", "{}"});
  Check(R"({"$defs": {"n": {"type": "object", "properties": {"v": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}, "required": ["v", "next"]}},
            "$ref": "#/$defs/n"})",
        {R"({"v": 1, "next": null})", R"({"v": 1, "next": {"v": 2, "next": null}})"}, {R"({"v": 1})", "null"});
  Check(R"({"definitions": {"a/b~": {"type": "null"}}, "properties": {"x": {"$ref": "#/definitions/a~1b~0"}},
            "type": "object", "required": ["x"]})",
        {R"({"x": null})"}, {R"({"x": 1})"});
  Check(R"({"type": "array", "items": {"$ref": "#"}})", {"[]", "[[], [[]]]"}, {"[1]"});
}

TEST(JsonSchema, RefusesByPlace) {
  const auto bad = [](const char* schema, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(schema);
    ExpectError([&] { (void)Of(schema); }, ErrorCode::kUsage, parts);
  };
  bad(R"({"properties": {"a": {"not": {}}}})", {"s#/properties/a/not", "not supported"});
  bad(R"({"if": {}})", {"s#/if"});
  bad(R"({"items": {"uniqueItems": true}})", {"s#/items/uniqueItems"});
  bad(R"({"type": "number", "multipleOf": 3})", {"s#/multipleOf = 3"});
  bad(R"({"patternProperties": {}})", {"s#/patternProperties"});
  bad(R"({"type": "strin"})", {"s#/type = \"strin\""});
  bad(R"({"anyOf": [{}, {"format": "color"}], "type": "string"})", {"s#/anyOf/1/format = \"color\"", "date"});
  bad(R"x({"type": "string", "pattern": "(?=a)"})x", {"s#/pattern", "(?"});
  bad(R"({"type": "string", "pattern": "\\bx"})", {"s#/pattern", "\\b"});
  bad(R"x({"type": "string", "pattern": "^(a$|b)"})x", {"s#/pattern"});
  bad(R"({"type": "string", "pattern": "a{1,2000}"})", {"s#/pattern", "1000"});
  bad(R"({"$ref": "http://x/y"})", {"s#/$ref", "within the schema"});
  bad(R"({"$ref": "#/nothing"})", {"s#/$ref", "nothing at this place"});
  bad(R"({"$ref": "#"})", {"circle"});
  bad(R"({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {}]}}, "$ref": "#/$defs/a"})", {"circle"});
  bad(R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", {"s#/oneOf", "0 and 1"});
  bad(R"({"type": "integer", "minimum": 5, "maximum": 4})", {"s#", "nothing fits"});
  bad(R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})", {"s#", "nothing fits"});
  bad("false", {"nothing fits"});
  bad("5", {"s = 5", "must be a schema"});
  bad(R"({"properties": {"a": 3}})", {"s#/properties/a = 3"});
  bad(R"({"required": "a"})", {"s#/required"});
  bad(R"({"minLength": -1})", {"s#/minLength = -1"});
  bad(R"({"items": [{}]})", {"s#/items", "prefixItems"});
  bad(R"({"nullable": true})", {"s#/nullable"});
  bad(R"({"type": "string", "minLength": 99999999})", {"s#/minLength", "16384"});
  bad(R"({"type": "object", "additionalProperties": true, "minProperties": 2})", {"s#/minProperties"});
}

// A random way through a grammar; ways to the end are preferred more and more.
std::string RandomWay(const Grammar& grammar, Rng& rng) {
  GrammarStack stack(grammar);
  GrammarStack::Config config = {{grammar.starts[static_cast<size_t>(grammar.root)], -1}}, next;
  std::string text;
  bool can_end = stack.Close(&config);
  while (!config.empty() && !(can_end && rng.Uniform() < 0.3)) {
    std::vector<uint8_t> bytes, closing;
    for (int byte = 0; byte < 256; ++byte) {
      const bool ends = stack.Step(config, static_cast<uint8_t>(byte), &next);
      if (next.empty() && !ends) continue;
      bytes.push_back(static_cast<uint8_t>(byte));
      if (std::string_view("\"}]").find(static_cast<char>(byte)) != std::string_view::npos)
        closing.push_back(static_cast<uint8_t>(byte));
    }
    if (bytes.empty()) return text + "<dead end>";
    const auto& from = !closing.empty() && rng.Uniform() < (text.size() > 300 ? 0.9 : 0.3) ? closing : bytes;
    const uint8_t byte = from[static_cast<size_t>(rng.Uniform() * static_cast<double>(from.size()))];
    text += static_cast<char>(byte);
    can_end = stack.Step(config, byte, &next);
    config.swap(next);
    if (text.size() > 100'000) return text + "<no end>";
  }
  return text;
}

TEST(JsonSchema, EveryWayEndsInAValueThatFits) {
  const char* schemas[] = {
      "{}",
      R"({"type": "object", "properties": {"a": {"type": "number", "minimum": -3.5, "exclusiveMaximum": 100.25},
          "b": {"type": "array", "items": {"type": "integer", "minimum": 5, "maximum": 1234}, "maxItems": 4},
          "c": {"type": "string", "pattern": "^[a-z]{1,4}(-\\d\\d)?$"}}, "required": ["c"],
          "additionalProperties": {"type": "boolean"}})",
      R"({"$defs": {"t": {"type": "object", "properties": {"l": {"$ref": "#/$defs/t"}, "v": {"enum": [1, "x", null]},
          "r": {"$ref": "#/$defs/t"}}, "required": ["v"]}}, "$ref": "#/$defs/t"})",
      R"({"type": "array", "prefixItems": [{"type": "string", "format": "date-time"},
          {"type": "string", "minLength": 3, "maxLength": 5}, {"type": "string", "format": "email"}], "minItems": 3})",
      R"({"anyOf": [{"type": "object", "properties": {"k": {"const": 1}, "v": {}}, "required": ["k", "v"]},
          {"type": "array", "items": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "maxItems": 3}]})"};
  for (const uint64_t seed : {1, 2, 3}) {
    Rng rng(seed);
    for (const char* text : schemas) {
      SCOPED_TRACE(text);
      const Json schema = ParseJson(text, "s");
      const Grammar grammar = JsonSchemaGrammar(schema, "s");
      json_schema::Resolver resolver(schema, "s");
      for (int i = 0; i < (kSanitized ? 2 : 12); ++i) {
        const std::string made = RandomWay(grammar, rng);
        try {
          EXPECT_TRUE(resolver.Fits(ParseJson(made, "made"), {&schema})) << made;
        } catch (const Error& error) {  // names that are not listed may come twice
          if (std::string_view(error.what()).find("is given twice") == std::string_view::npos) {
            ADD_FAILURE() << "seed " << seed << ": " << error.what() << "\n" << made;
          }
        }
      }
    }
  }
}

TEST(JsonSchema, NestingIsBounded) {
  const Grammar grammar = Of(R"({"type": "array", "items": {"$ref": "#"}})");
  const std::string open(59, '['), close(59, ']');
  EXPECT_EQ(Takes(grammar, open + close), 2);
  EXPECT_EQ(Takes(grammar, std::string(99, '[')), 0);
}

TEST(JsonSchema, CallsOfTools) {
  const Json tools = ParseJson(R"([{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
      "$defs": {"n": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/n"}}, "required": ["x"]}}},
      {"type": "function", "function": {"name": "g"}}])",
                               "tools");
  const Grammar text = ToolCallGrammar(tools, "tools", {});
  const std::string f = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>";
  EXPECT_EQ(Takes(text, "just text <tool"), 2);
  EXPECT_EQ(Takes(text, "text " + f), 2);
  EXPECT_EQ(Takes(text, "<<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>"), 2);
  EXPECT_EQ(Takes(text, "<tool_call>\n"), 1);
  EXPECT_EQ(Takes(text, "<tool_call>\n{\"name\": \"h\""), 0);
  EXPECT_EQ(Takes(text, f + "\n" + f), 0);
  const Grammar call = ToolCallGrammar(tools, "tools", {.text = false, .several = true});
  EXPECT_EQ(Takes(call, f + "\n" + f), 2);
  EXPECT_EQ(Takes(call, "text"), 0);
  EXPECT_EQ(Takes(JsonObjectGrammar(), "{\"a\": [1]}"), 2);
  EXPECT_EQ(Takes(JsonObjectGrammar(), "[1]"), 0);
  EXPECT_EQ(
      Takes(JsonSchemaGrammar(ParseJson("{\"type\": \"null\"}", "s"), "s", {.before = "<", .after = ">"}), "<null>"),
      2);
  ExpectError([&] { (void)ToolCallGrammar(ParseJson("[{}]", "tools"), "tools", {}); }, ErrorCode::kUsage,
              {"tools[0].function"});
}

}  // namespace
}  // namespace hydra
