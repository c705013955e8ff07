// SPDX-License-Identifier: Apache-2.0
// Conversations as text and token ids, by the model's own chat template (jinja.h) or one of a few that come with
// hydralm: docs/formats.md. What messages say never becomes a special token. Not here: generating an answer
// (hydra/runtime).
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/text/jinja.h"
#include "hydra/text/marked_text.h"
#include "hydra/text/template_text.h"
#include "hydra/text/tokenizer.h"

namespace hydra {

struct ChatMessage {
  std::string role, content;
};

// What a template is given. Sources of marks in what it renders: the number of a message, kOtherSource for the rest.
struct TemplateInput {
  static constexpr int32_t kOtherSource = -2;
  Json messages = Json::array();    // [{"role", "content", ...}] as the template wants them: see ChatTemplate::Adapted
  Json tools = nullptr;             // a list of OpenAI's form, or null
  Json variables = Json::object();  // more names, such as {"enable_thinking": false}
  bool open = true;                 // ends with the beginning of an answer (add_generation_prompt)
  std::time_t now = 0;              // what strftime_now says; 0: the present
};

// Immutable, cheap to copy, safe to share between threads.
class ChatTemplate {
 public:
  // For a model folder, a .gguf, or the folder of a .safetensors file. `name` (--chat-template) decides where it is not
  // empty: a template of ours or a file; else hydralm_chat_template of tokenizer_config.json (hydralm.chat_template of
  // a .gguf); else the model's own template, wherever it is kept (template_text.h); else, with a warning, the one of
  // ours whose markers are all tokens of the vocabulary; else minicpm, with a warning, where the model's config is of
  // that family. Throws kUsage for a bad name, kFormat for a template that cannot be parsed, kConfig where none of
  // these decides or the vocabulary lacks a marker (those of minicpm may be plain text).
  [[nodiscard]] static ChatTemplate Load(const std::string& path, const std::string& name, const Tokenizer& tokenizer,
                                         std::vector<std::string>* warnings = nullptr);
  // The same for what a model's files say.
  [[nodiscard]] static ChatTemplate Choose(const std::string& where, const std::string& name, const TemplateTexts& said,
                                           const Tokenizer& tokenizer, std::vector<std::string>* warnings = nullptr);

  // "chatml" and the like for ours, a file's path, or "the model's own".
  [[nodiscard]] const std::string& name() const { return name_; }
  // Whether it is the form for models that know no turns: "User: ...", which only a stop string ends.
  [[nodiscard]] bool plain() const { return name_ == "plain"; }

  // The text of a conversation, with what came from its messages marked. Throws kUsage where the template does
  // ("WHERE: line L, column C: ...").
  [[nodiscard]] MarkedText Render(const TemplateInput& input) const;
  // Its ids: special tokens where the template wrote them, never where a message did. From a byte behind the first on,
  // they go on behind other tokens.
  [[nodiscard]] static std::vector<int32_t> Ids(const Tokenizer& tokenizer, const MarkedText& text, size_t from = 0);
  // Both for plain messages.
  [[nodiscard]] std::vector<int32_t> Encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                            bool open) const;
  // The ids of the next turn of a user, from the end of an answer on, up to where the next answer begins; `system`: the
  // system message of the conversation, where it has one. Throws kConfig where answers do not show in the text.
  [[nodiscard]] std::vector<int32_t> LaterTurn(const Tokenizer& tokenizer, const std::optional<std::string>& system,
                                               const std::string& user) const;
  // Ids that end an answer: what the template puts behind one, where that is a special token, and the vocabulary's own
  // ends.
  [[nodiscard]] std::vector<int32_t> EndIds(const Tokenizer& tokenizer) const;

  // Whether it puts a system message of its own where a conversation has none.
  [[nodiscard]] bool HasDefaultSystem() const;
  // Whether it has a place for tools.
  [[nodiscard]] bool TakesTools() const;
  // Messages of OpenAI's form as templates want them: a list of text parts becomes one text, a missing content an empty
  // one, "reasoning" or "thinking" are "reasoning_content" and "thinking" too, as transformers has it, and the
  // arguments of tool calls, which are texts there, become objects (unless this template puts them out as texts).
  // Throws kUsage "messages[3].content[0].type = ..." for what is no text.
  [[nodiscard]] Json Adapted(const Json& messages) const;

 private:
  ChatTemplate(std::string name, JinjaTemplate program) : name_(std::move(name)), program_(std::move(program)) {}
  [[nodiscard]] static ChatTemplate Own(const char* name, const Tokenizer& tokenizer, const std::string& where);
  void SetTokens(const TemplateTexts& said, const Tokenizer& tokenizer);
  [[nodiscard]] bool WantsArgumentTexts() const;

  std::string name_;
  JinjaTemplate program_;
  std::optional<JinjaTemplate> with_tools_{};                  // of a model that has another one for tools
  std::vector<std::pair<std::string, std::string>> tokens_{};  // bos_token, ...
  bool argument_texts_ = false;
  std::string begins_with_{};  // stands before every text that does not begin with it
};

}  // namespace hydra
