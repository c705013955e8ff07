// SPDX-License-Identifier: Apache-2.0
// Requests read field by field: what is taken, what is refused by which name, at each bound and one beyond.
#include "hydra/serve/text_call.h"

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/serve/chat_tools.h"
#include "hydra/serve/prompt_fields.h"
#include "hydra/serve/testing.h"

namespace hydra::serve {
namespace {

using testing::Kit;

struct CallDesk {
  explicit CallDesk(size_t family = 0)
      : kit(testing::Families()[family].config),
        engine(kit.Start({.slots = 1})),
        served{.model = kit.model, .tokenizer = kit.tokenizer, .engine = *engine} {
    const TempDir empty;
    served.chat =
        std::make_unique<const ChatPrompter>(kit.tokenizer, ChatTemplate::Load(empty.path(), "chatml", kit.tokenizer));
    served.forms = std::make_unique<TextForms>(kit.tokenizer, testing::kVocab);
    served.name = "tiny";
    served.aliases = {"gpt-x"};
    served.context = 4096;
    served.longest = 1000;
    served.end_ids = {0};
  }
  TextCall Chat(const std::string& fields, const std::string& messages = R"([{"role": "user", "content": "hi"}])") {
    const Json body = Json::parse("{\"messages\": " + messages + (fields.empty() ? "" : ", " + fields) + "}");
    return ReadChatCall(body, served, {});
  }
  TextCall Complete(const std::string& fields) {
    return ReadCompletionCall(Json::parse("{" + fields + "}"), served, {});
  }

  Kit kit;
  std::unique_ptr<Engine> engine;
  ServedModel served;
};

template <class F>
void ExpectRefused(F&& f, int status, const std::string& param, const std::string& code = "") {
  try {
    f();
    ADD_FAILURE() << "not refused: " << param;
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), status) << error.what();
    EXPECT_EQ(error.param(), param) << error.what();
    if (!code.empty()) {
      EXPECT_EQ(error.code(), code) << error.what();
    }
  }
}

TEST(TextCall, AChatIsReadWithItsDefaults) {
  CallDesk desk;
  const TextCall call = desk.Chat("");
  EXPECT_TRUE(call.chat);
  EXPECT_FALSE(call.stream);
  ASSERT_EQ(call.texts.size(), 1U);
  const TextRequest& text = call.texts[0];
  EXPECT_EQ(desk.kit.tokenizer.Decode(text.prompt), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(text.max_tokens, 1000);
  EXPECT_EQ(text.logprobs, -1);
  EXPECT_EQ(text.sampling.top_k, 40);
  EXPECT_FALSE(text.borders.empty());
  for (const int32_t end : {0, 257})  // the model's, and that of a turn
    EXPECT_NE(std::ranges::find(text.end_ids, end), text.end_ids.end()) << end;
  EXPECT_NE(desk.Chat("").seed, desk.Chat("").seed);  // each has its own
}

TEST(TextCall, FieldsAreObeyed) {
  CallDesk desk;
  const TextCall call = desk.Chat(
      R"("model": "gpt-x", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 12,
         "stop": ["a", "b"], "n": 2, "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"65": 5},
         "logprobs": true, "top_logprobs": 4, "stream": true, "stream_options": {"include_usage": true},
         "hydralm": {"trace": true, "speculation": false}, "user": "me")");
  ASSERT_EQ(call.texts.size(), 2U);
  EXPECT_EQ(call.choices, 2);
  EXPECT_TRUE(call.stream && call.include_usage && call.trace);
  EXPECT_EQ(call.seed, 12);
  EXPECT_EQ(call.ignored, std::vector<std::string>{"user"});
  const TextRequest& text = call.texts[0];
  EXPECT_EQ(text.max_tokens, 7);
  EXPECT_EQ(text.sampling.temperature, 0.5);
  EXPECT_EQ(text.sampling.top_p, 0.9);
  EXPECT_EQ(text.sampling.top_k, 3);
  EXPECT_EQ(text.sampling.min_p, 0.1);
  EXPECT_EQ(text.sampling.seed, 12U);
  EXPECT_NE(call.texts[1].sampling.seed, 12U);
  EXPECT_EQ(text.sampling.presence_penalty, 1);
  EXPECT_EQ(text.sampling.frequency_penalty, -1);
  ASSERT_EQ(text.sampling.logit_bias.size(), 1U);
  EXPECT_EQ(text.sampling.logit_bias[0], (std::pair<int32_t, double>{65, 5}));
  EXPECT_EQ(text.stops, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(text.logprobs, 4);
  EXPECT_TRUE(text.trace);
  EXPECT_FALSE(text.speculate);
  EXPECT_EQ(desk.Chat(R"("max_tokens": 7, "max_completion_tokens": 9)").texts[0].max_tokens, 9);
}

TEST(TextCall, EndTokensMayBeBarred) {
  CallDesk desk;
  const TextCall call = desk.Chat(R"("ignore_eos": true, "logit_bias": {"65": 5})");
  const auto& bias = call.texts[0].sampling.logit_bias;
  for (const int32_t end : call.texts[0].end_ids)
    EXPECT_TRUE(std::ranges::any_of(bias, [&](const auto& b) { return b.first == end && b.second < -1e9; })) << end;
  EXPECT_EQ(bias.size(), call.texts[0].end_ids.size() + 1);
  EXPECT_TRUE(desk.Chat(R"("ignore_eos": false)").texts[0].sampling.logit_bias.empty());
}

TEST(TextCall, NumbersAreBounded) {
  CallDesk desk;
  struct Bound {
    const char *name, *low, *below, *high, *above;
  };
  const Bound bounds[] = {{"max_tokens", "1", "0", "4000", "4096"},
                          {"n", "1", "0", "8", "9"},
                          {"top_k", "0", "-1", "2147483647", "2147483648"},
                          {"temperature", "0", "-0.1", "2", "101"},
                          {"top_p", "0.01", "0", "1", "1.01"},
                          {"min_p", "0", "-0.01", "1", "1.01"},
                          {"presence_penalty", "-2", "-2.1", "2", "2.1"},
                          {"frequency_penalty", "-2", "-2.1", "2", "2.1"}};
  for (const Bound& bound : bounds) {
    SCOPED_TRACE(bound.name);
    const auto field = [&](const std::string& value) { return StrCat("\"", bound.name, "\": ", value); };
    EXPECT_NO_THROW((void)desk.Chat(field(bound.low)));
    EXPECT_NO_THROW((void)desk.Chat(field(bound.high)));
    for (const std::string bad : {bound.below, bound.above, "\"x\"", "[]", "true"}) {
      const bool room = std::string(bound.name) == "max_tokens" && bad == bound.above;
      ExpectRefused([&] { (void)desk.Chat(field(bad)); }, 400, room ? "messages" : bound.name,
                    room ? "context_length_exceeded" : "");
    }
  }
  for (const char* name : {"max_tokens", "n", "top_k", "seed", "top_logprobs"})
    for (const char* bad : {"0.5", "9223372036854775808", "1e30"})
      ExpectRefused([&] { (void)desk.Chat(StrCat("\"logprobs\": true, \"", name, "\": ", bad)); }, 400, name);
}

TEST(TextCall, ListsAreBounded) {
  CallDesk desk;
  const auto stops = [](int n, int bytes) {
    Json list = Json::array();
    for (int i = 0; i < n; ++i) list.push_back(std::string(static_cast<size_t>(bytes), 'x'));
    return "\"stop\": " + list.dump();
  };
  EXPECT_EQ(desk.Chat(stops(16, 256)).texts[0].stops.size(), 16U);
  for (const auto& [n, bytes] : {std::pair{17, 1}, {1, 257}, {1, 0}})
    ExpectRefused([&, n = n, bytes = bytes] { (void)desk.Chat(stops(n, bytes)); }, 400, "stop");
  const auto messages = [](int n) {
    Json list = Json::array();
    for (int i = 0; i < n; ++i) list.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", ""}});
    return list.dump();
  };
  desk.served.context = 1 << 20;
  EXPECT_NO_THROW((void)desk.Chat("", messages(1024)));
  ExpectRefused([&] { (void)desk.Chat("", messages(1025)); }, 400, "messages");
  ExpectRefused([&] { (void)desk.Chat("", "[]"); }, 400, "messages");
  EXPECT_EQ(desk.Chat(R"("logprobs": true, "top_logprobs": 20)").texts[0].logprobs, 20);
  ExpectRefused([&] { (void)desk.Chat(R"("logprobs": true, "top_logprobs": 21)"); }, 400, "top_logprobs");
  ExpectRefused([&] { (void)desk.Chat(R"("top_logprobs": 2)"); }, 400, "top_logprobs");
  for (const char* bias : {R"({"65": 101})", R"({"x": 1})", R"({"65": "a"})", "[1]", R"({"999": 1})"})
    ExpectRefused([&] { (void)desk.Chat(StrCat("\"logit_bias\": ", bias)); }, 400, "logit_bias");
}

TEST(TextCall, MessagesAreTextsOfKnownRoles) {
  CallDesk desk;
  const auto prompt = [&](const std::string& messages) {
    return desk.kit.tokenizer.Decode(desk.Chat("", messages).texts[0].prompt);
  };
  EXPECT_EQ(prompt(R"([{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                       {"role": "user", "content": "c"}])"),
            "<|im_start|>system\nab<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n");
  // What a user writes never becomes a special token.
  const auto ids = desk.Chat("", R"([{"role": "user", "content": "<|im_end|>"}])").texts[0].prompt;
  EXPECT_EQ(std::ranges::count(ids, 257), 1);
  ExpectRefused([&] { (void)prompt(R"([{"role": "user", "content": [{"type": "image_url"}]}])"); }, 400,
                "messages[0].content[0]");
  ExpectRefused([&] { (void)prompt(R"([{"role": "user"}])"); }, 400, "messages[0].content");
  ExpectRefused([&] { (void)prompt(R"([{"content": "a"}])"); }, 400, "messages[0].role");
  ExpectRefused([&] { (void)prompt(R"([{"role": "user", "content": 5}])"); }, 400, "messages[0].content");
  ExpectRefused([&] { (void)desk.Chat(R"("model": "other")"); }, 404, "model", "model_not_found");
  desk.served.chat = nullptr;
  desk.served.no_chat = "no template";
  ExpectRefused([&] { (void)desk.Chat(""); }, 400, "messages", "no_chat_template");
}

TEST(TextCall, FormatsBecomeGrammars) {
  CallDesk desk;
  const std::string schema = R"({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})";
  const auto format = [&](const std::string& inside) {
    return R"("n": 2, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": )" + inside +
           "}}";
  };
  for (const std::string& fields :
       {std::string(R"("n": 2, "response_format": {"type": "json_object"})"), format(schema)}) {
    const TextCall call = desk.Chat(fields);
    ASSERT_EQ(call.texts.size(), 2U);
    EXPECT_FALSE(call.calls);
    for (const TextRequest& text : call.texts) {  // each has its own
      ASSERT_NE(text.grammar, nullptr);
      EXPECT_TRUE(text.grammar->Mask().Has('{'));
      EXPECT_FALSE(text.grammar->Mask().Has('a'));
      EXPECT_FALSE(text.grammar->Mask().Has(257));  // the end of a turn
      text.grammar->Accept('{');
    }
  }
  (void)desk.Chat(format(schema));
  EXPECT_EQ(desk.served.forms->size(), 2U);
  EXPECT_NE(desk.Complete(R"("prompt": "a", )" + format(schema)).texts[0].grammar, nullptr);
  EXPECT_EQ(desk.Chat(R"("response_format": {"type": "text"})").texts[0].grammar, nullptr);
  ExpectRefused([&] { (void)desk.Chat(R"("response_format": {"type": "xml"})"); }, 400, "response_format");
  for (const char* bad : {R"({"not": {}})", "5", R"({"type": "tuple"})"})
    ExpectRefused([&] { (void)desk.Chat(format(bad)); }, 400, "response_format.json_schema.schema");
  ExpectRefused([&] { (void)desk.Chat(R"("response_format": {"type": "json_schema", "json_schema": {"name": "x"}})"); },
                400, "response_format.json_schema.schema");
}

// A function of that name which takes one number.
std::string Tool(const std::string& name) {
  return R"({"type": "function", "function": {"name": ")" + name +
         R"(", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}})";
}

TEST(TextCall, ToolsAreToldAndHoldCallsToTheirForm) {
  CallDesk desk;
  const std::string tools = "\"tools\": [" + Tool("one") + ", " + Tool("two") + "]";
  const TextCall free = desk.Chat(tools);
  EXPECT_TRUE(free.calls);
  EXPECT_NE(desk.kit.tokenizer.Decode(free.texts[0].prompt).find("\"two\""), std::string::npos);
  EXPECT_TRUE(free.texts[0].grammar->Mask().Has('a'));
  EXPECT_TRUE(free.texts[0].grammar->Mask().Has(257));
  // What may be called, letter by letter.
  const auto calls = [&](const std::string& choice, const std::string& name) {
    const TextCall call = desk.Chat(tools + ", \"tool_choice\": " + choice);
    const std::string text = std::string(kCallBefore) + R"({"name": ")" + name + "\"";
    const std::vector<int32_t> ids(text.begin(), text.end());
    return call.texts[0].grammar->Admitted(ids) == ids.size();
  };
  EXPECT_TRUE(calls("\"required\"", "one"));
  EXPECT_TRUE(calls("\"required\"", "two"));
  EXPECT_FALSE(calls("\"required\"", "three"));
  const std::string named = R"({"type": "function", "function": {"name": "two"}})";
  EXPECT_FALSE(calls(named, "one"));
  EXPECT_TRUE(calls(named, "two"));
  EXPECT_FALSE(desk.Chat(tools + R"(, "tool_choice": "required")").texts[0].grammar->Mask().Has('a'));
  const TextCall none = desk.Chat(tools + R"(, "tool_choice": "none")");
  EXPECT_EQ(none.texts[0].grammar, nullptr);
  EXPECT_EQ(none.texts[0].prompt, desk.Chat("").texts[0].prompt);
  for (const char* choice : {"\"some\"", R"({"type": "function", "function": {"name": "three"}})", "5"})
    ExpectRefused([&] { (void)desk.Chat(tools + ", \"tool_choice\": " + choice); }, 400, "tool_choice");
  ExpectRefused([&] { (void)desk.Chat(R"("tool_choice": "required")"); }, 400, "tool_choice");
  ExpectRefused([&] { (void)desk.Chat(tools + R"(, "response_format": {"type": "json_object"})"); }, 400,
                "response_format");
  ExpectRefused([&] { (void)desk.Chat("\"tools\": [" + Tool("a b") + "]"); }, 400, "tools[0].function.name");
  ExpectRefused([&] { (void)desk.Chat("\"tools\": [" + Tool("a") + "," + Tool("a") + "]"); }, 400,
                "tools[1].function.name");
  std::string many;
  for (int64_t i = 0; i <= kMostTools; ++i) many += (i == 0 ? "" : ",") + Tool(StrCat("t", i));
  ExpectRefused([&] { (void)desk.Chat("\"tools\": [" + many + "]"); }, 400, "tools");
}

TEST(TextCall, ATemplateWithAPlaceForToolsGetsThemAsTheyAre) {
  CallDesk desk;
  const TempDir folder;
  const std::string path = folder / "form.jinja";
  WriteFileAtomic(path,
                  "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{{ m.role }}:"
                  "{{ m.content }}{% for c in m.tool_calls or [] %}!{{ c.function.arguments.n + 1 }}{% endfor %};"
                  "{% endfor %}{{ mood }}{% if add_generation_prompt %}>{% endif %}");
  desk.served.chat = std::make_unique<const ChatPrompter>(desk.kit.tokenizer,
                                                          ChatTemplate::Load(folder.path(), path, desk.kit.tokenizer));
  const auto prompt = [&](const std::string& fields, const std::string& messages) {
    return desk.kit.tokenizer.Decode(desk.Chat(fields, messages).texts[0].prompt);
  };
  const std::string hi = R"({"role": "user", "content": "hi"})";
  EXPECT_EQ(prompt("", "[" + hi + "]"), "user:hi;>");
  EXPECT_EQ(prompt("\"tools\": [" + Tool("one") + R"(], "chat_template_kwargs": {"mood": "glad"})", "[" + hi + "]"),
            "[one]user:hi;glad>");
  const std::string called =
      R"({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
          "function": {"name": "one", "arguments": "{\"n\": 6}"}}]}, {"role": "tool", "tool_call_id": "1",
          "content": "x"})";
  EXPECT_EQ(prompt("", "[" + hi + ", " + called + "]"), "user:hi;assistant:!7;tool:x;>");
  ExpectRefused([&] { (void)prompt(R"("chat_template_kwargs": 5)", "[" + hi + "]"); }, 400, "chat_template_kwargs");
  ExpectRefused([&] { (void)prompt("", R"([{"role": "assistant", "tool_calls": [5]}])"); }, 400,
                "messages[0].tool_calls[0].function");
}

TEST(TextCall, CompletionsTakeTextsIdsAndListsOfThem) {
  CallDesk desk;
  EXPECT_EQ(desk.Complete(R"("prompt": "ab")").texts[0].prompt, (std::vector<int32_t>{'a', 'b'}));
  EXPECT_EQ(desk.Complete(R"("prompt": "ab")").texts[0].max_tokens, 16);
  EXPECT_EQ(desk.Complete(R"("prompt": [1, 2, 319])").texts[0].prompt, (std::vector<int32_t>{1, 2, 319}));
  const TextCall many =
      desk.Complete(R"("prompt": ["a", [5, 6]], "n": 2, "echo": true, "logprobs": 0, "max_tokens": 0)");
  ASSERT_EQ(many.texts.size(), 4U);
  EXPECT_EQ(many.texts[0].prompt, many.texts[1].prompt);
  EXPECT_EQ(many.texts[3].prompt, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(many.echoed.size(), 2U);
  EXPECT_TRUE(many.texts[0].prompt_logprobs);
  EXPECT_EQ(many.texts[0].max_tokens, 0);
  for (const char* bad : {"[]", "[320]", "[-1]", "[0.5]", "5", "{}", "[[]]", "[[1], 2]", "[true]"})
    ExpectRefused([&] { (void)desk.Complete(StrCat("\"prompt\": ", bad)); }, 400,
                  std::string(bad) == "[[]]" || std::string(bad) == "[true]" ? "prompt[0]"
                  : std::string(bad) == "[[1], 2]"                           ? "prompt[1]"
                                                                             : "prompt");
  ExpectRefused([&] { (void)desk.Complete(""); }, 400, "prompt");
  ExpectRefused([&] { (void)desk.Complete(R"("prompt": "a", "suffix": "b")"); }, 400, "suffix");
  ExpectRefused([&] { (void)desk.Complete(R"("prompt": "a", "best_of": 2)"); }, 400, "best_of");
  Json prompts = Json::array();
  for (int64_t i = 0; i <= kMostPrompts; ++i) prompts.push_back("a");
  ExpectRefused([&] { (void)desk.Complete("\"prompt\": " + prompts.dump()); }, 400, "prompt");
}

TEST(TextCall, ControlsAreCheckedAgainstTheModel) {
  CallDesk desk;
  EXPECT_EQ(desk.Chat(R"("hydralm": {"controls": {"ban_experts": [1], "moe_top_k": 1}})").texts[0].controls.ban_experts,
            std::vector<int64_t>{1});
  for (const char* bad : {R"({"ban_experts": [99]})", R"({"nonsense": 1})", R"({"moe_top_k": 0.5})", "[]"})
    ExpectRefused([&] { (void)desk.Chat(StrCat("\"hydralm\": {\"controls\": ", bad, "}")); }, 400, "hydralm.controls");
  ExpectRefused([&] { (void)desk.Chat(R"("hydralm": {"memory": ["none"]})"); }, 400, "hydralm.memory");
  ExpectRefused([&] { (void)desk.Chat(R"("hydralm": {"state": "s"})"); }, 400, "hydralm.state");
  ExpectRefused([&] { (void)desk.Chat(R"("hydralm": 5)"); }, 400, "hydralm");
  CallDesk dense(1);
  ExpectRefused([&] { (void)dense.Chat(R"("hydralm": {"controls": {"moe_top_k": 1}})"); }, 400, "hydralm.controls");
}

TEST(TextCall, ASavedStateMustBeTheBeginningOfThePrompt) {
  const TempDir folder;
  StateStore store(folder / "states", 1 << 30);
  CallDesk desk;
  ForwardScratch scratch;
  SequenceState state(desk.kit.model);
  const std::vector<int32_t> begin{'a', 'b', 'c'};
  (void)desk.kit.model.Prefill(state, begin, desk.kit.pool, scratch);
  (void)store.Save("anna", "abc", state);
  const auto ask = [&](const std::string& owner, const std::string& prompt, const std::string& name) {
    const Json body =
        Json::parse(StrCat(R"({"prompt": ")", prompt, R"(", "n": 2, "hydralm": {"state": ")", name, R"("}})"));
    return ReadCompletionCall(body, desk.served, {owner, &store});
  };
  const TextCall call = ask("anna", "abcd", "abc");
  for (const TextRequest& text : call.texts) {
    ASSERT_TRUE(text.base);
    EXPECT_EQ(text.base->pos(), 3);
  }
  for (const char* prompt : {"abc", "abx", "a"})
    ExpectRefused([&] { (void)ask("anna", prompt, "abc"); }, 400, "hydralm.state", "state_mismatch");
  ExpectRefused([&] { (void)ask("bert", "abcd", "abc"); }, 404, "state", "state_not_found");
  ExpectRefused([&] { (void)ask("anna", "abcd", "../abc"); }, 400, "name");
}

TEST(Fields, BodiesThatAreNoObjectsAreRefused) {
  for (const std::string bad : {"", "[]", "5", "{", "{\"a\": 1, \"a\": 2}", "{\"a\": 1e400}"})
    ExpectRefused([&] { (void)ParseBody(bad); }, 400, "", "invalid_json");
  std::string deep;
  for (int i = 0; i < 65; ++i) deep += "{\"a\": ";
  ExpectRefused([&] { (void)ParseBody(deep + "1" + std::string(65, '}')); }, 400, "", "invalid_json");
  EXPECT_TRUE(ParseBody("{}").empty());
}

}  // namespace
}  // namespace hydra::serve
