// SPDX-License-Identifier: Apache-2.0
// Checks of messages and prompts.
#include "hydra/serve/prompt_fields.h"

#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/serve/chat_tools.h"

namespace hydra::serve {
namespace {

std::string ContentOf(const Json& message, const std::string& where) {
  const auto found = message.find("content");
  if (found == message.end() || found->is_null())
    throw ApiError(kBadRequest, where + ".content: is missing", where + ".content");
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array())
    throw ApiError(kBadRequest, where + ".content: must be a text or a list of parts", where + ".content");
  std::string text;
  for (size_t i = 0; i < found->size(); ++i) {
    const Json& part = (*found)[i];
    const std::string name = StrCat(where, ".content[", i, "]");
    if (!part.is_object() || !part.contains("type") || !IsText(part["type"], "text") || !part.contains("text") ||
        !part["text"].is_string())
      throw ApiError(kBadRequest, name + ": only parts of type text are served", name);
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

std::vector<int32_t> EncodePrompt(const std::string& text, const ServedModel& served, const std::string& where) {
  std::vector<int32_t> ids = OfField(where, [&] { return served.tokenizer.Encode(text, {.add_special = true}); });
  if (ids.empty() && served.tokenizer.bos_id()) ids.push_back(*served.tokenizer.bos_id());
  if (ids.empty()) throw ApiError(kBadRequest, where + ": has no tokens", where);
  return ids;
}

std::vector<int32_t> ReadIds(const Json& list, const ServedModel& served, const std::string& where) {
  std::vector<int32_t> ids;
  const int64_t vocab = served.model.config().vocab_size;
  for (const Json& value : list) {
    const bool fits = value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT32_MAX) &&
                      value.get<int64_t>() >= 0 && value.get<int64_t>() < vocab;
    if (!fits)
      throw ApiError(kBadRequest, StrCat(where, ": ", JsonExcerpt(value), ": must be an id from 0 to ", vocab - 1),
                     where);
    ids.push_back(value.get<int32_t>());
  }
  if (ids.empty()) throw ApiError(kBadRequest, where + ": has no tokens", where);
  return ids;
}

std::string TextOf(const std::vector<int32_t>& ids, const Tokenizer& tokenizer) {
  Utf8Stream stream;
  std::string text;
  for (const int32_t id : ids) text += stream.Push(id < tokenizer.vocab_size() ? tokenizer.TokenBytes(id) : "");
  return text + stream.Finish();
}

}  // namespace

Json ReadMessages(Fields& body) {
  const Json* list = body.Find("messages");
  if (list == nullptr || !list->is_array() || list->empty() || static_cast<int64_t>(list->size()) > kMostMessages)
    throw ApiError(kBadRequest, StrCat("messages: must be a list of 1 to ", kMostMessages, " messages"), "messages");
  Json messages = Json::array();
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& message = (*list)[i];
    const std::string where = StrCat("messages[", i, "]");
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string())
      throw ApiError(kBadRequest, where + ".role: must be system, user, assistant or tool", where + ".role");
    std::string role = message["role"].get<std::string>();
    if (role == "developer") role = "system";
    if (role == "function" || message.contains("function_call"))
      throw ApiError(kBadRequest, where + ": functions are called as tools", where);
    const bool calls = message.contains("tool_calls") && !message["tool_calls"].is_null();
    const bool silent = calls && (!message.contains("content") || message["content"].is_null());
    Json one = Json::object();
    one["role"] = role;
    one["content"] = silent ? "" : ContentOf(message, where);
    if (calls) one["tool_calls"] = CheckedCalls(message["tool_calls"], where);
    for (const char* name : {"name", "tool_call_id"})
      if (message.contains(name) && message[name].is_string()) one[name] = message[name];
    messages.push_back(std::move(one));
  }
  return messages;
}

const ChatPrompter& PrompterOf(const ServedModel& served) {
  if (!served.chat) throw ApiError(kBadRequest, served.no_chat, "messages", "no_chat_template");
  return *served.chat;
}

std::vector<GivenPrompt> ReadPrompts(Fields& body, const ServedModel& served) {
  const Json* value = body.Find("prompt");
  if (value == nullptr) throw ApiError(kBadRequest, "prompt: is missing", "prompt");
  std::vector<GivenPrompt> prompts;
  const auto add = [&](const Json& one, const std::string& where) {
    if (one.is_string()) {
      prompts.push_back({EncodePrompt(one.get_ref<const std::string&>(), served, where), one.get<std::string>()});
    } else if (one.is_array()) {
      std::vector<int32_t> ids = ReadIds(one, served, where);
      std::string text = TextOf(ids, served.tokenizer);
      prompts.push_back({std::move(ids), std::move(text)});
    } else {
      throw ApiError(kBadRequest, where + ": must be a text or a list of ids", where);
    }
  };
  const bool many = value->is_array() && !value->empty() && !(*value)[0].is_number();
  if (!many) {
    add(*value, "prompt");
    return prompts;
  }
  if (static_cast<int64_t>(value->size()) > kMostPrompts)
    throw ApiError(kBadRequest, StrCat("prompt: must be a list of at most ", kMostPrompts), "prompt");
  for (size_t i = 0; i < value->size(); ++i) add((*value)[i], StrCat("prompt[", i, "]"));
  return prompts;
}

}  // namespace hydra::serve
