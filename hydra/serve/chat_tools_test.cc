// SPDX-License-Identifier: Apache-2.0
// Tools in words for templates without a place for them; calls found in texts that come letter by letter; the list of
// forms that are remembered.
#include "hydra/serve/chat_tools.h"

#include "hydra/base/testing.h"
#include "hydra/serve/testing.h"
#include "hydra/serve/text_forms.h"
#include "hydra/text/json_schema.h"

namespace hydra::serve {
namespace {

const std::string kCall = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, \"a\"]}}\n</tool_call>";

// What a reader makes of a text in pieces of n bytes.
CallReader::Part Read(const std::string& text, size_t n) {
  CallReader reader;
  CallReader::Part all;
  const auto add = [&](const CallReader::Part& part) {
    all.words += part.words;
    all.calls.insert(all.calls.end(), part.calls.begin(), part.calls.end());
  };
  for (size_t at = 0; at < text.size(); at += n) add(reader.Feed(text.substr(at, n)));
  add(reader.Finish());
  EXPECT_EQ(reader.any(), !all.calls.empty());
  return all;
}

TEST(CallReader, WordsAndCallsAreParted) {
  const ToolCall call{"f", "{\"x\":[1,\"a\"]}"};
  for (const size_t n : {1, 2, 3, 7, 1000}) {
    SCOPED_TRACE(n);
    const CallReader::Part plain = Read("a < b <tool_cal l> \n c \n", n);
    EXPECT_EQ(plain.words, "a < b <tool_cal l> \n c \n");
    EXPECT_TRUE(plain.calls.empty());
    const CallReader::Part one = Read(" Well.\n\n" + kCall, n);
    EXPECT_EQ(one.words, " Well.");
    EXPECT_EQ(one.calls, std::vector<ToolCall>{call});
    const CallReader::Part two = Read(kCall + "\n" + kCall + "\n", n);
    EXPECT_EQ(two.words, "");
    EXPECT_EQ(two.calls, (std::vector<ToolCall>{call, call}));
    // A text that was cut off within a call, or within its mark, keeps what it said.
    const std::string cut = "Well. " + kCall.substr(0, 30);
    EXPECT_EQ(Read(cut, n).words, "Well." + kCall.substr(0, 30));
    EXPECT_EQ(Read("Well. <tool_", n).words, "Well. <tool_");
  }
}

TEST(ChatTools, TemplatesWithoutAPlaceForToolsGetThemInWords) {
  const Json tools = Json::parse(R"([{"type": "function", "function": {"name": "f"}}])");
  const Json asked = Json::parse(R"([{"role": "user", "content": "hi"}])");
  const Json told = WithToolsInWords(asked, tools);
  ASSERT_EQ(told.size(), 2U);
  EXPECT_EQ(told[0]["role"], "system");
  EXPECT_NE(told[0]["content"].get<std::string>().find("\"f\""), std::string::npos);
  EXPECT_EQ(told[1], asked[0]);
  EXPECT_EQ(WithToolsInWords(asked, nullptr), asked);
  const Json talk = Json::parse(R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
      {"role": "assistant", "content": "Let me see.",
       "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
      {"role": "tool", "tool_call_id": "1", "content": "one"}, {"role": "tool", "tool_call_id": "2", "content": "two"},
      {"role": "user", "content": "so?"}])");
  const Json words = WithToolsInWords(talk, tools);
  ASSERT_EQ(words.size(), 5U);
  EXPECT_TRUE(words[0]["content"].get<std::string>().starts_with("Be brief.\n\n"));
  EXPECT_EQ(words[2].dump(),
            Json({{"role", "assistant"},
                  {"content", "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>"}})
                .dump());
  EXPECT_EQ(words[3]["role"], "user");
  EXPECT_EQ(words[3]["content"], "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>");
  EXPECT_EQ(words[4], talk[5]);
}

TEST(ChatTools, CallsOfMessagesMustHaveTheirForm) {
  const auto refused = [](const std::string& calls, const std::string& param) {
    try {
      (void)CheckedCalls(Json::parse(calls), "messages[1]");
      ADD_FAILURE() << "not refused: " << calls;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status(), 400);
      EXPECT_EQ(error.param(), "messages[1].tool_calls" + param) << error.what();
    }
  };
  EXPECT_EQ(CheckedCalls(Json::parse(R"([{"function": {"name": "f", "arguments": "{}"}}])"), "x").size(), 1U);
  refused("5", "");
  refused("[5]", "[0].function");
  refused(R"([{"function": {"arguments": "{}"}}])", "[0].function.name");
  for (const char* arguments : {"5", "\"[]\"", "\"{\"", "{}"})
    refused(StrCat(R"([{"function": {"name": "f", "arguments": )", arguments, "}}]"), "[0].function.arguments");
}

TEST(TextForms, TheLastOnesAreRemembered) {
  TextForms forms(hydra::testing::ByteTokenizer(), testing::kVocab);
  int made = 0;
  const auto get = [&](size_t i) {
    return forms.Get(StrCat("form ", i), [&] {
      ++made;
      return JsonObjectGrammar();
    });
  };
  const auto first = get(0);
  EXPECT_EQ(get(0), first);
  EXPECT_EQ(made, 1);
  for (size_t i = 1; i < TextForms::kMost; ++i) (void)get(i);
  EXPECT_EQ(get(0), first);  // and so it is the last one that was asked for
  (void)get(TextForms::kMost);
  EXPECT_EQ(forms.size(), TextForms::kMost);
  EXPECT_EQ(get(0), first);
  made = 0;
  (void)get(1);
  EXPECT_EQ(made, 1);
  EXPECT_THROW((void)forms.Get("bad", []() -> Grammar { throw Error(ErrorCode::kUsage, "no"); }), Error);
}

}  // namespace
}  // namespace hydra::serve
