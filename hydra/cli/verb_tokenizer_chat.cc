// SPDX-License-Identifier: Apache-2.0
// `hydralm tokenizer chat`: the prompt that a model's chat template makes of a conversation, as text or ids. Not here:
// templates (text/chat_template.h), answers (verb_chat.cc).
#include "hydra/cli/verb_tokenizer_chat.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/text/chat_template.h"

namespace hydra::cli {
namespace {

struct TokenizerChatFlags {
  std::string model = ".", pre, file, chat_template;
  bool ids = false, closed = false;
  int64_t now = 0;
};

// A list of messages, or an object with "messages", "tools" and the template's other variables.
TemplateInput ReadConversation(const TokenizerChatFlags& flags) {
  const std::string name = flags.file.empty() || flags.file == "-" ? "stdin" : flags.file;
  Json json = ParseJson(ReadText(flags.file.empty() ? "-" : flags.file), name);
  TemplateInput input{.open = !flags.closed, .now = static_cast<std::time_t>(flags.now)};
  if (json.is_array()) {
    input.messages = std::move(json);
    return input;
  }
  if (!json.is_object() || !json.contains("messages"))
    throw Error(ErrorCode::kData, fmt::format("{}: must be a list of messages or an object with \"messages\"", name));
  for (const auto& [key, value] : json.items()) {
    if (key == "messages") {
      input.messages = value;
    } else if (key == "tools") {
      input.tools = value;
    } else {
      input.variables[key] = value;
    }
  }
  return input;
}

Json MarksJson(const MarkedText& text) {
  Json marks = Json::array();
  for (const TextMark& mark : text.marks()) marks.push_back({mark.begin, mark.end, mark.source});
  return marks;
}

int RunTokenizerChat(const TokenizerChatFlags& flags, const CommonFlags& common) {
  const Tokenizer tokenizer = LoadTokenizer(flags.model, flags.pre);
  std::vector<std::string> warnings;
  const ChatTemplate form = ChatTemplate::Load(flags.model, flags.chat_template, tokenizer, &warnings);
  PrintWarnings(warnings);
  TemplateInput input = ReadConversation(flags);
  input.messages = form.Adapted(input.messages);
  const MarkedText text = form.Render(input);
  const std::vector<int32_t> ids = ChatTemplate::Ids(tokenizer, text);
  if (common.json) {
    const Json json = {{"template", form.name()},
                       {"text", text.bytes()},
                       {"ids", ids},
                       {"from_messages", MarksJson(text)},
                       {"end_ids", form.EndIds(tokenizer)}};
    Show(DumpJson(json) + "\n");
  } else if (flags.ids) {
    Show(fmt::format("{}\n", fmt::join(ids, " ")));
  } else {
    Show(text.bytes());
  }
  return kDone;
}

}  // namespace

void AddTokenizerChat(CLI::App& parent, VerbContext& context) {
  auto flags = std::make_shared<TokenizerChatFlags>();
  CLI::App* verb =
      context.AddVerb(parent, {"chat", "the prompt that a chat template makes of messages"},
                      "echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | hydralm tokenizer chat -m model/");
  verb->add_option("-m,--model", flags->model, "model folder, tokenizer.json or .gguf");
  AddPreFlag(verb, &flags->pre);
  verb->add_option("FILE", flags->file,
                   "a JSON list of messages, or an object with messages, tools and other variables (none or -: stdin)");
  verb->add_option("--chat-template", flags->chat_template,
                   "chatml, llama2, llama3, minicpm, plain, a Jinja file; or its own")
      ->type_name("NAME|FILE");
  verb->add_flag("--ids", flags->ids, "token ids in place of the text");
  verb->add_flag("--closed", flags->closed, "without the beginning of an answer at the end");
  verb->add_option("--now", flags->now, "the time for templates that write a date, seconds since 1970; 0 = the present")
      ->type_name("SECONDS")
      ->check(Range(0, 1LL << 40));
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunTokenizerChat(*flags, common); });
}

}  // namespace hydra::cli
