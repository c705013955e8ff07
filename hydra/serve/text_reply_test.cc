// SPDX-License-Identifier: Apache-2.0
// Replies as JSON: the order of a stream's events, usage, log-probabilities in both forms, failures.
#include "hydra/serve/text_reply.h"

#include "hydra/base/testing.h"
#include "hydra/serve/testing.h"

namespace hydra::serve {
namespace {

using testing::Kit;

// The JSON of each event; [DONE] is a string.
std::vector<Json> Events(const std::string& stream) {
  std::vector<Json> events;
  for (size_t at = 0; at < stream.size();) {
    const size_t end = stream.find("\n\n", at);
    EXPECT_EQ(stream.substr(at, 6), "data: ");
    const std::string data = stream.substr(at + 6, end - at - 6);
    events.push_back(data == "[DONE]" ? Json(data) : Json::parse(data));
    at = end + 2;
  }
  return events;
}

struct ReplyDesk {
  explicit ReplyDesk(bool chat, int texts = 1)
      : kit(testing::Families()[0].config),
        engine(kit.Start({.slots = 1})),
        served{.model = kit.model, .tokenizer = kit.tokenizer, .engine = *engine} {
    served.name = "tiny";
    call.chat = chat;
    call.choices = texts;
    for (int i = 0; i < texts; ++i) call.texts.push_back(testing::Greedy({'a', 'b'}, 4));
  }
  Kit kit;
  std::unique_ptr<Engine> engine;
  ServedModel served;
  TextCall call;
};

TextPiece Piece(int text, const std::string& words, std::vector<PickedToken> tokens = {}) {
  return {.text = text, .words = words, .tokens = std::move(tokens)};
}

TextPiece End(int text, FinishReason reason, int64_t cached = 0) {
  return {.text = text, .end = TextEnd{.reason = reason, .prompt_tokens = 2, .cached_tokens = cached, .new_tokens = 3}};
}

TEST(TextReply, AChatsStreamComesInItsOrder) {
  ReplyDesk desk(true, 2);
  desk.call.include_usage = true;
  TextReply reply(desk.call, desk.served);
  std::string stream = reply.Begin();
  stream += reply.Chunks(Piece(0, "one"));
  stream += reply.Chunks(Piece(1, "two"));
  stream += reply.Chunks(Piece(0, ""));  // nothing to say
  stream += reply.Chunks(End(0, FinishReason::kEnd, 1));
  EXPECT_EQ(reply.open(), 1);
  stream += reply.Chunks(End(1, FinishReason::kLength));
  EXPECT_EQ(reply.open(), 0);
  stream += reply.End();
  const std::vector<Json> events = Events(stream);
  ASSERT_EQ(events.size(), 8U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(events[i]["choices"][0]["index"], i);
    EXPECT_EQ(events[i]["choices"][0]["delta"], (Json{{"role", "assistant"}, {"content", ""}}));
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    EXPECT_TRUE(events[i]["usage"].is_null());
  }
  EXPECT_EQ(events[2]["choices"][0]["delta"].dump(), R"({"content":"one"})");
  EXPECT_TRUE(events[2]["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(events[3]["choices"][0]["index"], 1);
  EXPECT_EQ(events[4]["choices"][0]["delta"].dump(), "{}");
  EXPECT_EQ(events[4]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[5]["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(events[6]["choices"].empty());
  EXPECT_EQ(events[6]["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(events[6]["usage"]["completion_tokens"], 6);
  EXPECT_EQ(events[6]["usage"]["total_tokens"], 8);
  EXPECT_EQ(events[6]["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
  EXPECT_EQ(events[7], "[DONE]");
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(events[i]["id"], events[0]["id"]);
}

TEST(TextReply, AFailureIsAnEventAndEndsTheStream) {
  ReplyDesk desk(true);
  TextReply reply(desk.call, desk.served);
  TextPiece failed{.text = 0, .end = TextEnd{.error_status = 500, .error = "a logit is NaN"}};
  const std::vector<Json> events = Events(reply.Chunks(failed));
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0]["error"]["message"], "a logit is NaN");
  EXPECT_EQ(events[0]["error"]["type"], "server_error");
  ASSERT_NE(reply.failure(), nullptr);
  EXPECT_EQ(reply.failure()->status(), 500);
}

TEST(TextReply, LogprobsHaveBothForms) {
  PickedToken first{.id = 'h', .position = 2, .logprob = -0.5, .best = {{'h', -0.5}, {'i', -1.0}}};
  PickedToken part{.id = 0xE2, .position = 3, .logprob = -INFINITY, .best = {{'x', -0.1}}};
  {
    ReplyDesk desk(true);
    desk.call.logprobs = 2;
    TextReply reply(desk.call, desk.served);
    reply.Add(Piece(0, "h", {first, part}));
    reply.Add(End(0, FinishReason::kStop));
    const Json whole = reply.Whole();
    EXPECT_EQ(whole["object"], "chat.completion");
    EXPECT_EQ(whole["choices"][0]["message"]["content"], "h");
    const Json content = whole["choices"][0]["logprobs"]["content"];
    EXPECT_EQ(content[0]["token"], "h");
    EXPECT_EQ(content[0]["logprob"], -0.5);
    EXPECT_EQ(content[0]["bytes"], Json::array({'h'}));
    EXPECT_EQ(content[0]["top_logprobs"][1]["token"], "i");
    EXPECT_EQ(content[1]["token"], "bytes:\\xe2");
    EXPECT_EQ(content[1]["logprob"], -9999.0);
    EXPECT_EQ(content[1]["bytes"], Json::array({0xE2}));
  }
  ReplyDesk desk(false);
  desk.call.logprobs = 1;
  desk.call.echo = true;
  desk.call.echoed = {"ab"};
  TextReply reply(desk.call, desk.served);
  PickedToken a{.id = 'a', .logprob = NAN, .in_prompt = true}, b{.id = 'b', .logprob = -2, .in_prompt = true};
  b.best = {{'c', -1.0}};
  reply.Add(Piece(0, "h", {a, b, first}));
  reply.Add(End(0, FinishReason::kStop));
  const Json choice = reply.Whole()["choices"][0];
  EXPECT_EQ(choice["text"], "abh");
  const Json logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json::array({"a", "b", "h"}));
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["token_logprobs"][1], -2.0);
  EXPECT_EQ(logprobs["top_logprobs"][1]["c"], -1.0);
  EXPECT_EQ(logprobs["top_logprobs"][1]["b"], -2.0);
  EXPECT_EQ(logprobs["text_offset"], Json::array({0, 1, 2}));
}

TEST(TextReply, CallsOfToolsStandBesideTheWords) {
  ReplyDesk desk(true);
  desk.call.calls = true;
  const std::string text =
      "Let me see.\n<tool_call>\n{\"name\": \"one\", \"arguments\": {\"n\": 1}}\n</tool_call>\n"
      "<tool_call>\n{\"name\": \"two\", \"arguments\": {}}\n</tool_call>";
  TextReply whole(desk.call, desk.served);
  whole.Add(Piece(0, text));
  whole.Add(End(0, FinishReason::kComplete));
  const Json choice = whole.Whole()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["content"], "Let me see.");
  ASSERT_EQ(choice["message"]["tool_calls"].size(), 2U);
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"].dump(), R"({"name":"one","arguments":"{\"n\":1}"})");
  EXPECT_EQ(choice["message"]["tool_calls"][1]["function"]["name"], "two");
  EXPECT_NE(choice["message"]["tool_calls"][0]["id"], choice["message"]["tool_calls"][1]["id"]);
  // The same as a stream of single letters.
  TextReply stream(desk.call, desk.served);
  std::string events, words;
  for (const char c : text) events += stream.Chunks(Piece(0, std::string(1, c)));
  events += stream.Chunks(End(0, FinishReason::kEnd));
  Json calls = Json::array();
  for (const Json& event : Events(events)) {
    const Json& delta = event["choices"][0]["delta"];
    if (delta.contains("content")) words += delta["content"].get<std::string>();
    if (delta.contains("tool_calls")) calls.push_back(delta["tool_calls"][0]);
  }
  EXPECT_EQ(words, "Let me see.");
  ASSERT_EQ(calls.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(calls[i]["index"], i);
    EXPECT_EQ(calls[i]["function"], choice["message"]["tool_calls"][i]["function"]);
  }
  EXPECT_EQ(Events(events).back()["choices"][0]["finish_reason"], "tool_calls");
  EXPECT_EQ(stream.Words(), text);
}

TEST(TextReply, TracesComeWithTheTextsOfWhatTheyPointAt) {
  ReplyDesk desk(true);
  desk.call.trace = true;
  TextReply reply(desk.call, desk.served);
  const std::vector<Json> begin = Events(reply.Begin());
  EXPECT_EQ(begin[0]["hydralm"]["prompt"], Json::array({"a", "b"}));
  TextPiece piece = Piece(0, "h", {{.id = 'h', .position = 2, .guessed = true}});
  piece.traces.push_back({.trace = {.id = 'h', .position = 2, .layers = {{}}}, .generated = true});
  const std::vector<Json> events = Events(reply.Chunks(piece));
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0]["hydralm"]["tokens"][0].dump(), R"({"id":104,"position":2,"text":"h","guessed":true})");
  EXPECT_EQ(events[0]["hydralm"]["trace"][0]["position"], 2);
  EXPECT_EQ(events[0]["hydralm"]["trace"][0]["layers"].size(), 1U);
}

}  // namespace
}  // namespace hydra::serve
