// SPDX-License-Identifier: Apache-2.0
// Templates against what Jinja makes of them (tests/parity/jinja_cases.json, which tests/parity/jinja_test.py holds to
// Python's own), marks of what comes from outside, bounds, and the places that errors name. Not here: the templates of
// models (tests/parity/jinja_test.py).
#include "hydra/text/jinja.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

std::vector<JinjaVariable> VariablesOf(const Json& object, bool outside = true) {
  std::vector<JinjaVariable> variables;
  for (const auto& [name, value] : object.items())
    variables.push_back({.name = name, .value = value, .outside = outside, .numbered = name == "messages"});
  return variables;
}

MarkedText RenderOne(const std::string& text, const Json& object, const JinjaOptions& options = {}) {
  return JinjaTemplate::Parse(text, "t").Render(VariablesOf(object), options);
}

std::string TextOfOne(const std::string& text, const Json& object = Json::object()) {
  return RenderOne(text, object).bytes();
}

TEST(Jinja, IsWhatPythonMakesOfIt) {
  const Json golden = ParseJson(ReadFile("tests/parity/jinja_cases.json"), "jinja_cases.json");
  const std::vector<JinjaVariable> variables = VariablesOf(golden["variables"]);
  const JinjaOptions options{.now = golden["now"].get<std::time_t>()};
  int failing = 0;
  for (const Json& row : golden["cases"]) {
    const std::string text = row[0].get<std::string>();
    SCOPED_TRACE(text);
    if (row[1].is_null()) {
      ++failing;
      EXPECT_THROW((void)JinjaTemplate::Parse(text, "t").Render(variables, options), Error);
      continue;
    }
    try {
      EXPECT_EQ(JinjaTemplate::Parse(text, "t").Render(variables, options).bytes(), row[1].get<std::string>());
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
  EXPECT_GE(failing, 10);
}

// What is marked, as text: [..] around each part.
std::string Marked(const MarkedText& text) {
  std::string out;
  size_t at = 0;
  for (const TextMark& mark : text.marks()) {
    out +=
        text.bytes().substr(at, mark.begin - at) + "[" + text.bytes().substr(mark.begin, mark.end - mark.begin) + "]";
    at = mark.end;
  }
  return out + text.bytes().substr(at);
}

TEST(Jinja, MarksWhatComesFromOutside) {
  const Json object = {
      {"messages", {{{"role", "user"}, {"content", " ab<cD>e\n"}}, {{"role", "odd"}, {"content", "q"}}}}};
  const auto marked = [&](const std::string& text) { return Marked(RenderOne(text, object)); };
  const std::string m = "{%- set m = messages[0] -%}";
  EXPECT_EQ(marked("<s>{{ messages[0].role }}:{{ messages[1].role }}"), "<s>user:[odd]");
  EXPECT_EQ(marked(m + "<s>{{ m.content }}</s>"), "<s>[ ab<cD>e\n]</s>");
  EXPECT_EQ(marked(m + "{{ '<s>' + m.content|trim + '</s>' }}"), "<s>[ab<cD>e]</s>");
  EXPECT_EQ(marked(m + "{{ (m.content ~ 'x')|upper }}"), "[ AB<CD>E\n]X");
  EXPECT_EQ(marked(m + "{{ ('a' ~ m.content)[:3] }}{{ m.content.split('<')[1] }}"), "a[ acD>e\n]");
  EXPECT_EQ(marked(m + "{{ m.content|replace('b', 'BB') }}"), "[ a]BB[<cD>e\n]");
  EXPECT_EQ(marked("{{ ['x', messages[1].content]|join('-') }}"), "x-[q]");
  EXPECT_EQ(marked("{{ '%s=%d' % (messages[1].content, 3) }}"), "[q]=3");
  EXPECT_EQ(marked("{{ '{}={}'.format(messages[1].content, 3) }}"), "[q]=3");
  EXPECT_EQ(marked("{{ {'a': messages[1].content}|tojson }}{{ {'a': 1}|tojson }}"), "[{\"a\": \"q\"}]{\"a\": 1}");
  EXPECT_EQ(marked("{{ [messages[1].content] }}{{ 'q' if messages[1].content == 'q' }}"), "[['q']]q");
  EXPECT_EQ(marked("{% for c in messages[1].content %}{{ c }}.{% endfor %}"), "[q].");
  EXPECT_EQ(marked("{{ 'ab'.center(6, messages[1].content) }}"), "[qq]ab[qq]");
  EXPECT_EQ(marked("{{ dict(**{messages[1].content: 1}) }}"), "[{'q': 1}]");
  const MarkedText both = RenderOne("{{ messages[0].content|trim ~ messages[1].content }}", object);
  ASSERT_EQ(both.marks().size(), 2U);
  EXPECT_EQ(both.marks()[0].source, 0);
  EXPECT_EQ(both.marks()[1].source, 1);
}

TEST(Jinja, ErrorsNameThePlaceAndTheConstruct) {
  const auto bad = [](const std::string& text, ErrorCode code, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(text);
    ExpectError([&] { (void)TextOfOne(text, {{"x", 1}}); }, code, parts);
  };
  bad("a\n{% if x %}b", ErrorCode::kFormat, {"t: line 2, column", "endif"});
  bad("a\n  {{ x | }}", ErrorCode::kFormat, {"t: line 2, column 10", "expected a name"});
  bad("{% include 'f' %}", ErrorCode::kFormat, {"line 1, column 4", "include"});
  bad("{% frob %}", ErrorCode::kFormat, {"line 1", "\"frob\""});
  bad("{{ x", ErrorCode::kFormat, {"line 1, column 1", "}}"});
  bad("{{ 'x }}", ErrorCode::kFormat, {"line 1, column 4", "quoted"});
  bad("{% break %}", ErrorCode::kFormat, {"break", "loop"});
  bad("{{ 99999999999999999999 }}", ErrorCode::kFormat, {"out of range"});
  bad("\n\n{{ x|frob }}", ErrorCode::kUsage, {"t: line 3, column 6", "filter \"frob\""});
  bad("{{ x is frob }}", ErrorCode::kUsage, {"test \"frob\""});
  bad("{{ y.z }}", ErrorCode::kUsage, {"'y' is undefined"});
  bad("{{ x.upper() }}", ErrorCode::kUsage, {"line 1, column 11", "'int' has no member 'upper'"});
  bad("{{ x + 'a' }}", ErrorCode::kUsage, {"line 1, column 6", "+", "int and str"});
  bad("{{ [].append(1) }}", ErrorCode::kUsage, {".append", "may not"});
  bad("{{ raise_exception('bad\nroles') }}", ErrorCode::kUsage, {"raise_exception: bad"});
  bad("{{ range(9 * 10 ** 9) }}", ErrorCode::kUsage, {"range", "100000"});
  bad("{{ 9223372036854775807 + 1 }}", ErrorCode::kUsage, {"+", "64 bits"});
  bad("{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", ErrorCode::kUsage, {"m", "at most 1"});
}

TEST(Jinja, StaysWithinItsBounds) {
  const auto bad = [](const std::string& text, std::string_view part) {
    SCOPED_TRACE(text);
    ExpectError([&] { (void)TextOfOne(text); }, ErrorCode::kUsage, {part});
  };
  bad("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "than it may");
  bad("{% for a in range(99999) %}{{ 1 if a > 1 and a > 2 and a > 3 and a > 4 and a > 5 and a > 6 and a > 7 and a > 8 "
      "and "
      "a > 9 }}{% endfor %}",
      "steps");
  bad("{% set n = namespace(s='abcdefgh') %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "more text");
  bad("{{ 'x' * 999999999999 }}", "more text");
  bad("{{ [1] * 999999999999 }}", "more text");
  bad("{{ 'x'.center(999999999999) }}", "width");
  bad("{{ '%999999d' % 1 }}", "width");
  bad("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deep");
  bad("{% set n = namespace(l=[]) %}{% for a in range(999) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l }}", "deeper");
  bad("{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}", "more text");
  const auto refused = [](const std::string& text, std::string_view part) {
    ExpectError([&] { (void)JinjaTemplate::Parse(text, "t"); }, ErrorCode::kFormat, {part});
  };
  const auto many = [](const char* text, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += text;
    return out;
  };
  refused("{{ " + many("(", 999) + "1" + many(")", 999) + " }}", "nested deeper");
  refused("{{ " + many("not ", 9999) + "1 }}", "nested deeper");
  refused("{{ 1" + many(" + 1", 9999) + " }}", "nested deeper");
  refused(many("{% if 1 %}", 999) + many("{% endif %}", 999), "nested deeper");
}

TEST(Jinja, GeneratorsGiveTheirItemsOnce) {
  EXPECT_EQ(TextOfOne("{% set g = [1, 2]|map('string') %}{{ g|first }}{{ g|list }}{{ g|list }}{{ 1 if g else 0 }}"),
            "1['2'][]1");
}

TEST(Jinja, TextsThatAreNotUtf8AreMended) {
  const std::string cut = "a\xE4\xB8";
  const std::vector<JinjaVariable> variables = {{.name = "x", .value = cut, .source = 3}};
  const MarkedText text = JinjaTemplate::Parse("{{ x|upper }}{{ x|length }}\xFF", "t").Render(variables, {});
  EXPECT_EQ(text.bytes(), std::string("A\xEF\xBF\xBD") + "2\xEF\xBF\xBD");
  EXPECT_EQ(text.marks(), (std::vector<TextMark>{{0, 4, 3}}));
}

TEST(Jinja, ReadsLineEndsOfAnyKindAlike) {
  const std::string text = "{% if true %}\na\n{% endif %}\nb\n";
  std::string crlf, cr;
  for (const char c : text) crlf += c == '\n' ? "\r\n" : std::string(1, c), cr += c == '\n' ? '\r' : c;
  EXPECT_EQ(TextOfOne(text), "a\nb");
  EXPECT_EQ(TextOfOne(crlf), "a\nb");
  EXPECT_EQ(TextOfOne(cr), "a\nb");
}

}  // namespace
}  // namespace hydra
