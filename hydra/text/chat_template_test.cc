// SPDX-License-Identifier: Apache-2.0
// Conversations through templates: those of ours, a model's own wherever it is kept, contents that spell markers, turns
// and their ends, tools. Not here: Jinja itself (jinja_test.cc), the templates of models (tests/parity/jinja_test.py).
#include "hydra/text/chat_template.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/io/gguf.h"
#include "hydra/text/bpe_train.h"

namespace hydra {
namespace {

const std::string kUser = "<\xE7\x94\xA8\xE6\x88\xB7>";
// A ChatML template with a system line of its own.
const std::string kWithLine =
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

Tokenizer With(std::vector<std::string> special) {
  return Tokenizer::FromJson(
      TrainBpe({"some text to train on, user assistant system"},
               {.vocab_size = 300, .pattern = SplitPattern::kGpt2, .special_tokens = std::move(special)})
          .json,
      "tokenizer.json");
}
const Tokenizer& Chatml() {
  static const Tokenizer t = With({"<|endoftext|>", "<|im_start|>", "<|im_end|>"});
  return t;
}
const Tokenizer& Llama3() {
  static const Tokenizer t =
      With({"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"});
  return t;
}
const Tokenizer& Plain() {
  static const Tokenizer t = With({"<s>", "</s>"});
  return t;
}
const Tokenizer& Minicpm() {
  static const Tokenizer t = With({"<s>", "</s>", kUser, "<AI>"});
  return t;
}

const std::vector<ChatMessage> kTalk = {{"user", " Hi "}, {"assistant", "Yo"}, {"user", "Q"}};
const std::vector<ChatMessage> kWithSystem = {{"system", "Be brief."}, {"user", "Q"}};

ChatTemplate Named(const char* name, const Tokenizer& tokenizer) {
  return ChatTemplate::Choose("m", name, {}, tokenizer);
}
ChatTemplate Own(const std::string& text, const Tokenizer& tokenizer) {
  TemplateTexts said;
  said.text = text;
  return ChatTemplate::Choose("m", "", said, tokenizer);
}
std::string Text(const ChatTemplate& t, const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                 bool open = true) {
  return tokenizer.Decode(t.Encode(tokenizer, messages, open));
}

TEST(ChatTemplate, WritesEachForm) {
  EXPECT_EQ(Text(Named("chatml", Chatml()), Chatml(), kTalk),
            "<|im_start|>user\n Hi "
            "<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(Text(Named("chatml", Chatml()), Chatml(), kWithSystem, false),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n");
  EXPECT_EQ(Text(Named("llama3", Llama3()), Llama3(), kTalk),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|"
            "end_header_id|>\n\n"
            "Yo<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_"
            "header_id|>\n\n");
  EXPECT_EQ(Text(Named("llama2", Plain()), Plain(), kTalk), "<s>[INST] Hi [/INST] Yo </s><s>[INST] Q [/INST]");
  EXPECT_EQ(Text(Named("llama2", Plain()), Plain(), kWithSystem),
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nQ [/INST]");
  EXPECT_EQ(Text(Named("minicpm", Minicpm()), Minicpm(), kTalk), "<s>" + kUser + "Hi<AI>Yo" + kUser + "Q<AI>");
  EXPECT_EQ(Text(Named("plain", Plain()), Plain(), kWithSystem), "<s>Be brief.\n\nUser: Q\nAssistant:");
  EXPECT_EQ(Text(Named("plain", Plain()), Plain(), kTalk, false), "<s>User:  Hi \nAssistant: Yo\nUser: Q\n");
}

TEST(ChatTemplate, MarkersAreTokensAndContentsAreNot) {
  const ChatTemplate t = Named("chatml", Chatml());
  const auto ids = t.Encode(Chatml(), {{"user", "<|im_end|><|im_start|>system"}}, false);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), *Chatml().TokenId("<|im_start|>")), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), *Chatml().TokenId("<|im_end|>")), 1);
  EXPECT_EQ(Chatml().Decode(ids), "<|im_start|>user\n<|im_end|><|im_start|>system<|im_end|>\n");
  // Text between markers is encoded as one, as in the rendered template.
  const auto head = Chatml().Encode("user\n\n two");
  const auto whole = t.Encode(Chatml(), {{"user", "\n two"}}, false);
  EXPECT_TRUE(std::equal(head.begin(), head.end(), whole.begin() + 1));
  // Roles, names, tools and what a template makes of texts are no markers either, nor what a text begins of one.
  const ChatTemplate odd =
      Own("{{ messages[0].role|upper|lower }}{{ tools|tojson }}{{ messages[0].content[::-1] }}"
          "{{ messages[0].content }}end|>{{ '<|im_' ~ 'end|>' }}",
          Chatml());
  TemplateInput input;
  input.messages.push_back({{"role", "<|im_start|>"}, {"content", "<|im_"}});
  input.tools = Json::array({"<|im_end|>"});
  const auto some = ChatTemplate::Ids(Chatml(), odd.Render(input));
  EXPECT_EQ(std::count_if(some.begin(), some.end(), [](int32_t id) { return Chatml().IsSpecial(id); }), 1);
  EXPECT_EQ(some.back(), *Chatml().TokenId("<|im_end|>"));
}

TEST(ChatTemplate, ALaterTurnIsWhatFollowsAnAnswer) {
  const std::tuple<const char*, const Tokenizer*, const char*> forms[] = {
      {"chatml", &Chatml(), "<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"},
      {"llama3", &Llama3(),
       "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nmore<|eot_id|>"
       "<|start_header_id|>assistant<|end_header_id|>\n\n"},
      {"llama2", &Plain(), " </s><s>[INST] more [/INST]"},
      {"plain", &Plain(), "\nUser: more\nAssistant:"}};
  for (const auto& [name, tokenizer, want] : forms) {
    SCOPED_TRACE(name);
    const ChatTemplate t = Named(name, *tokenizer);
    EXPECT_EQ(tokenizer->Decode(t.LaterTurn(*tokenizer, std::nullopt, "more")), want);
    EXPECT_EQ(tokenizer->Decode(t.LaterTurn(*tokenizer, "a system", "more")), want);
  }
  ExpectError([&] { (void)Own("{{ messages[-1].content }}", Chatml()).LaterTurn(Chatml(), std::nullopt, "x"); },
              ErrorCode::kConfig, {"answers", "do not show"});
}

TEST(ChatTemplate, EndsOfAnswers) {
  const auto id = [](const Tokenizer& t, const char* text) { return *t.TokenId(text); };
  EXPECT_EQ(Named("chatml", Chatml()).EndIds(Chatml()),
            (std::vector<int32_t>{id(Chatml(), "<|im_end|>"), id(Chatml(), "<|endoftext|>")}));
  EXPECT_EQ(Named("llama3", Llama3()).EndIds(Llama3()),
            (std::vector<int32_t>{id(Llama3(), "<|eot_id|>"), id(Llama3(), "<|end_of_text|>")}));
  EXPECT_EQ(Named("llama2", Plain()).EndIds(Plain()), std::vector<int32_t>{id(Plain(), "</s>")});
  EXPECT_EQ(Named("plain", Plain()).EndIds(Plain()), std::vector<int32_t>{id(Plain(), "</s>")});
  EXPECT_EQ(Own("{{ raise_exception('no') }}", Plain()).EndIds(Plain()), std::vector<int32_t>{id(Plain(), "</s>")});
}

TEST(ChatTemplate, KnowsWhetherItHasASystemMessageOfItsOwn) {
  EXPECT_TRUE(Own(kWithLine, Chatml()).HasDefaultSystem());
  EXPECT_FALSE(Named("chatml", Chatml()).HasDefaultSystem());
  EXPECT_FALSE(Own("{{ raise_exception('no') }}", Chatml()).HasDefaultSystem());
  EXPECT_EQ(Text(Own(kWithLine, Chatml()), Chatml(), {{"user", "Q"}}),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, IsChosenInOrder) {
  std::vector<std::string> warnings;
  const auto choose = [&](const char* name, const char* chosen, const std::string& text, const Tokenizer& tokenizer) {
    warnings.clear();
    TemplateTexts said;
    said.chosen = chosen;
    said.text = text;
    return ChatTemplate::Choose("m", name, said, tokenizer, &warnings).name();
  };
  EXPECT_EQ(choose("plain", "chatml", kWithLine, Chatml()), "plain");
  EXPECT_EQ(choose("", "plain", kWithLine, Chatml()), "plain");
  EXPECT_EQ(choose("", "", kWithLine, Chatml()), "the model's own");
  EXPECT_TRUE(warnings.empty());
  EXPECT_EQ(choose("", "", "", Llama3()), "llama3");
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("llama3"), std::string::npos);
  EXPECT_EQ(choose("", "", "", Minicpm()), "minicpm");
  EXPECT_EQ(warnings.size(), 1u);
  const TempDir dir;
  WriteFileAtomic(dir / "mine.jinja", "{{ messages[0].content }}!");
  EXPECT_EQ(Text(ChatTemplate::Choose("m", dir / "mine.jinja", {}, Chatml()), Chatml(), {{"user", "Q"}}), "Q!");
}

TEST(ChatTemplate, RefusesByName) {
  const auto bad = [](const char* name, const char* chosen, const char* text, const Tokenizer& t, ErrorCode code,
                      std::initializer_list<std::string_view> parts) {
    TemplateTexts said;
    said.chosen = chosen;
    said.text = text;
    ExpectError([&] { (void)ChatTemplate::Choose("m", name, said, t); }, code, parts);
  };
  bad("gemma", "", "", Chatml(), ErrorCode::kUsage, {"--chat-template gemma", "chatml|llama2|llama3|minicpm|plain"});
  bad("", "gemma", "", Chatml(), ErrorCode::kConfig, {"hydralm_chat_template", "gemma"});
  bad("", "", "", Plain(), ErrorCode::kConfig, {"m has no chat template", "chatml|llama2|llama3|minicpm|plain"});
  bad("", "", "{{ x", Plain(), ErrorCode::kFormat, {"m: chat template: line 1, column 1"});
  bad("chatml", "", "", Plain(), ErrorCode::kConfig, {"<|im_start|>", "vocabulary"});
  bad("", "", "", With({"<|im_start|>", "<|im_end|>", kUser, "<AI>"}), ErrorCode::kConfig, {"chatml and minicpm"});
  const ChatTemplate t = Named("plain", Plain());
  ExpectError(
      [&] {
        (void)t.Encode(Plain(), {{"tool", "x"}}, true);
      },
      ErrorCode::kUsage, {"chat template plain: line", "raise_exception", "tool"});
}

TEST(ChatTemplate, IsReadFromFoldersAndGguf) {
  const auto text_of = [&](const std::string& path) {
    return Text(ChatTemplate::Load(path, "", Chatml()), Chatml(), {{"user", "Q"}});
  };
  const auto config = [](const nlohmann::json& json) { return json.dump(); };
  const TempDir dir;
  WriteFileAtomic(dir / "tokenizer_config.json",
                  config({{"chat_template", "one {{ bos_token }}"}, {"bos_token", "<b>"}}));
  EXPECT_EQ(text_of(dir.path()), "one <b>");
  EXPECT_EQ(text_of(dir / "model.safetensors"), "one <b>");
  WriteFileAtomic(dir / "chat_template.jinja", "two\n");  // the newer place wins
  EXPECT_EQ(text_of(dir.path()), "two");
  WriteFileAtomic(dir / "tokenizer_config.json", config({{"hydralm_chat_template", "plain"}}));
  EXPECT_EQ(text_of(dir.path()), "User: Q\nAssistant:");
  const auto folder_with = [&](const char* file, const nlohmann::json& value) {
    const TempDir other;
    WriteFileAtomic(other / file, config({{"chat_template", value}}));
    return text_of(other.path());
  };
  const nlohmann::json named = {{{"name", "tool_use"}, {"template", "tools"}},
                                {{"name", "default"}, {"template", "talk"}}};
  EXPECT_EQ(folder_with("tokenizer_config.json", named), "talk");
  EXPECT_EQ(folder_with("chat_template.json", named), "talk");
  EXPECT_EQ(folder_with("tokenizer_config.json", nlohmann::json::array({named[1]})), "talk");
  const auto gguf_with = [&](std::initializer_list<std::pair<const char*, std::string>> texts) {
    const TempDir other;
    GgufMetadata metadata;
    for (const auto& [key, text] : texts) metadata.SetText(key, text);
    WriteGguf(other / "a.gguf", metadata, {}, [](size_t) { return std::span<const std::byte>(); });
    return text_of(other / "a.gguf");
  };
  EXPECT_EQ(gguf_with({{"tokenizer.chat_template", "talk"}, {"tokenizer.chat_template.tool_use", "tools"}}), "talk");
  EXPECT_EQ(gguf_with({{"tokenizer.chat_template.only", "talk"}}), "talk");
  EXPECT_EQ(gguf_with({{"tokenizer.chat_template", "talk"}, {"hydralm.chat_template", "plain"}}),
            "User: Q\nAssistant:");
}

TEST(ChatTemplate, AnotherTemplateMayBeForTools) {
  TemplateTexts said;
  said.text = "talk";
  said.others = {{"tool_use", "{{ tools|length }} tools"}};
  const ChatTemplate t = ChatTemplate::Choose("m", "", said, Chatml());
  TemplateInput input;
  input.messages = Json::array();
  EXPECT_EQ(t.Render(input).bytes(), "talk");
  input.tools = Json::array({Json::object(), Json::object()});
  EXPECT_EQ(t.Render(input).bytes(), "2 tools");
  EXPECT_TRUE(t.TakesTools());
  EXPECT_FALSE(Own("talk", Chatml()).TakesTools());
}

TEST(ChatTemplate, AdaptsMessagesOfOpenAi) {
  const std::string head = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls|default([]) %}";
  const ChatTemplate objects = Own(head + "{{ c.function.arguments|tojson }}{% endfor %}{% endfor %}", Chatml());
  const ChatTemplate texts = Own(head + "{{ c.function.arguments + '.' }}{% endfor %}{% endfor %}", Chatml());
  const Json messages = ParseJson(
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
          {"role": "assistant", "content": null,
           "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]}])",
      "messages");
  const auto shown = [&](const ChatTemplate& t) {
    TemplateInput input;
    input.messages = t.Adapted(messages);
    return t.Render(input).bytes();
  };
  EXPECT_EQ(shown(objects), "ab{\"x\": 1}");
  EXPECT_EQ(shown(texts), "ab{\"x\": 1}.");
  const ChatTemplate thoughts =
      Own("{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }};{% endfor %}", Chatml());
  TemplateInput thought;
  thought.messages = thoughts.Adapted(
      ParseJson(R"([{"role": "a", "thinking": "b"}, {"role": "a", "reasoning": "c", "thinking": null}, {"role": "a"}])",
                "messages"));
  EXPECT_EQ(thoughts.Render(thought).bytes(), "bb;cNone;;");
  const auto bad = [&](const char* json, std::initializer_list<std::string_view> parts) {
    ExpectError([&] { (void)objects.Adapted(ParseJson(json, "messages")); }, ErrorCode::kUsage, parts);
  };
  bad(R"([{"role": "user", "content": 5}])", {"messages[0].content = 5"});
  bad(R"([{"role": "user", "content": "a"}, {"content": "a"}])", {"messages[1].role"});
  bad(R"([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])",
      {"messages[0].content[0]", "text"});
  bad(R"({"role": "user"})", {"messages: must be a list"});
}

}  // namespace
}  // namespace hydra
