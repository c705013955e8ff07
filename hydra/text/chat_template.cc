// SPDX-License-Identifier: Apache-2.0
// Which template is used, what it is given, and its text as ids.
#include "hydra/text/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/gguf.h"
#include "hydra/model/config.h"
#include "hydra/text/chat_template_own.h"

namespace hydra {
namespace {

constexpr uint64_t kMaxTemplateFile = uint64_t{16} << 20;
constexpr int64_t kStepsPerMessage = 16'384;

const char* MissingMarker(const OwnTemplate& own, const Tokenizer& tokenizer) {
  for (const char* marker : own.markers)
    if (!tokenizer.TokenId(marker)) return marker;
  return nullptr;
}

const OwnTemplate* FindOwn(std::string_view name) {
  const auto found =
      std::ranges::find(OwnTemplates(), name, [](const OwnTemplate& t) { return std::string_view(t.name); });
  return found == OwnTemplates().end() ? nullptr : &*found;
}

std::string OwnNames() {
  std::string names;
  for (const OwnTemplate& own : OwnTemplates()) names += (names.empty() ? "" : "|") + std::string(own.name);
  return names;
}

// What a model thought is known by several names, of which templates read one.
void NameReasoning(Json* message) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    if (!message->contains(name) || message->at(name).is_null()) continue;
    const Json said = message->at(name);
    (*message)["reasoning_content"] = said;
    if (!message->contains("thinking")) (*message)["thinking"] = said;
    return;
  }
}

Json TextMessage(const char* role, const std::string& content) { return {{"role", role}, {"content", content}}; }

// The first of ours whose markers the vocabulary has; throws where there are two.
const OwnTemplate* ByMarkers(const std::string& where, const Tokenizer& tokenizer) {
  const OwnTemplate* found = nullptr;
  for (const OwnTemplate& own : OwnTemplates()) {
    if (own.markers.empty() || MissingMarker(own, tokenizer) != nullptr) continue;
    if (found != nullptr)
      throw Error(ErrorCode::kConfig,
                  fmt::format("{}: no chat template, and the vocabulary has the markers of {} and {}: use "
                              "--chat-template {}|FILE",
                              where, found->name, own.name, OwnNames()));
    found = &own;
  }
  return found;
}

// Whether the config of a model says that it is of the family whose published models have the minicpm form.
bool IsOfMinicpm(const std::string& path) {
  namespace fs = std::filesystem;
  try {
    if (!fs::is_directory(path) && GgufFile::IsGguf(path)) {
      const GgufFile file = GgufFile::Open(path);
      const auto config = file.FindText("hydra.config");
      return config && ParseConfig(*config, path).family == Family::kMiniCpm;
    }
    const fs::path config = (fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path()) / "config.json";
    return fs::exists(config) && LoadConfig(config.string()).family == Family::kMiniCpm;
  } catch (const Error&) {  // a config that is not supported, for which a template can be run all the same
    return false;
  }
}

}  // namespace

// ---- Choosing ----

ChatTemplate ChatTemplate::Own(const char* name, const Tokenizer& tokenizer, const std::string& where) {
  const OwnTemplate& own = *FindOwn(name);
  if (const char* missing = MissingMarker(own, tokenizer); missing != nullptr && !own.markers_may_be_text)
    throw Error(ErrorCode::kConfig,
                fmt::format("{}: chat template {} needs the token {}: the vocabulary lacks it", where, name, missing));
  return ChatTemplate(name, JinjaTemplate::Parse(own.text, fmt::format("chat template {}", name)));
}

ChatTemplate ChatTemplate::Load(const std::string& path, const std::string& name, const Tokenizer& tokenizer,
                                std::vector<std::string>* warnings) {
  TemplateTexts said = ReadTemplateTexts(path);
  const bool by_model = name.empty() && said.chosen.empty();
  const bool own = by_model && !said.text.empty();
  const bool of_minicpm = by_model && (own || ByMarkers(path, tokenizer) == nullptr) && IsOfMinicpm(path);
  if (of_minicpm && !own) {
    if (warnings != nullptr)
      warnings->push_back(fmt::format("{}: no chat template: minicpm is used, the form of its family", path));
    said.chosen = "minicpm";
  }
  ChatTemplate chosen = Choose(path, name, said, tokenizer, warnings);
  // The published templates of the family leave bos to the tokenizer, and their models have it before all texts.
  if (of_minicpm && own && tokenizer.bos_id()) chosen.begins_with_ = tokenizer.TokenText(*tokenizer.bos_id());
  return chosen;
}

ChatTemplate ChatTemplate::Choose(const std::string& where, const std::string& name, const TemplateTexts& said,
                                  const Tokenizer& tokenizer, std::vector<std::string>* warnings) {
  const auto finish = [&](ChatTemplate chosen) {
    chosen.SetTokens(said, tokenizer);
    chosen.argument_texts_ = chosen.WantsArgumentTexts();
    return chosen;
  };
  if (!name.empty()) {
    if (const OwnTemplate* own = FindOwn(name)) return finish(Own(own->name, tokenizer, where));
    if (!std::filesystem::exists(name))
      throw Error(ErrorCode::kUsage, fmt::format("--chat-template {}: must be {} or a file with a Jinja template",
                                                 OneLine(name, 60), OwnNames()));
    return finish(ChatTemplate(name, JinjaTemplate::Parse(ReadFile(name, kMaxTemplateFile), name)));
  }
  if (!said.chosen.empty()) {
    const OwnTemplate* own = FindOwn(said.chosen);
    if (own == nullptr)
      throw Error(ErrorCode::kConfig, fmt::format("{}: hydralm_chat_template = \"{}\": must be {}", where,
                                                  OneLine(said.chosen, 40), OwnNames()));
    return finish(Own(own->name, tokenizer, where));
  }
  if (!said.text.empty()) {
    ChatTemplate chosen("the model's own", JinjaTemplate::Parse(said.text, fmt::format("{}: chat template", where)));
    for (const auto& [other, text] : said.others)
      if (other == "tool_use")
        chosen.with_tools_ = JinjaTemplate::Parse(text, fmt::format("{}: chat template tool_use", where));
    return finish(std::move(chosen));
  }
  const OwnTemplate* found = ByMarkers(where, tokenizer);
  if (found == nullptr)
    throw Error(ErrorCode::kConfig,
                fmt::format("{} has no chat template: use --chat-template {}|FILE", where, OwnNames()));
  if (warnings != nullptr)
    warnings->push_back(
        fmt::format("{}: no chat template: {} is used, whose markers are in the vocabulary", where, found->name));
  return finish(Own(found->name, tokenizer, where));
}

// What the files say; bos and eos of the tokenizer where they say nothing.
void ChatTemplate::SetTokens(const TemplateTexts& said, const Tokenizer& tokenizer) {
  tokens_ = said.tokens;
  const auto add = [&](const char* name, std::optional<int32_t> id) {
    const auto same = [&](const auto& token) { return token.first == name; };
    if (id && std::ranges::none_of(tokens_, same)) tokens_.emplace_back(name, tokenizer.TokenText(*id));
  };
  add("bos_token", tokenizer.bos_id());
  add("eos_token", tokenizer.eos_id());
}

// ---- Text ----

MarkedText ChatTemplate::Render(const TemplateInput& input) const {
  std::vector<JinjaVariable> variables;
  for (const auto& [name, text] : tokens_) variables.push_back({.name = name, .value = text, .outside = false});
  const auto add = [&](const char* name, Json value, bool numbered = false) {
    variables.push_back(
        {.name = name, .value = std::move(value), .source = TemplateInput::kOtherSource, .numbered = numbered});
  };
  add("messages", input.messages, true);
  add("tools", input.tools);
  add("documents", nullptr);
  add("add_generation_prompt", input.open);
  for (const auto& [name, value] : input.variables.items()) {
    std::erase_if(variables, [&, name = name](const JinjaVariable& v) { return v.name == name; });
    add(name.c_str(), value);
  }
  // Loops over pairs of messages are among what templates do.
  JinjaOptions options{.now = input.now};
  options.most_steps += kStepsPerMessage * static_cast<int64_t>(input.messages.size());
  const JinjaTemplate& program = with_tools_ && !input.tools.is_null() ? *with_tools_ : program_;
  MarkedText text = program.Render(variables, options);
  if (begins_with_.empty() || text.bytes().starts_with(begins_with_)) return text;
  MarkedText whole(begins_with_);
  whole.Append(text);
  return whole;
}

std::vector<int32_t> ChatTemplate::Ids(const Tokenizer& tokenizer, const MarkedText& text, size_t from) {
  const MarkedText rest = from == 0 ? text : text.Part(from);
  return tokenizer.Encode(rest.bytes(), {.continues = from > 0, .strange = rest.marks()});
}

std::vector<int32_t> ChatTemplate::Encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                          bool open) const {
  TemplateInput input{.open = open};
  for (const ChatMessage& message : messages)
    input.messages.push_back(TextMessage(message.role.c_str(), message.content));
  return Ids(tokenizer, Render(input));
}

// ---- Turns ----

std::vector<int32_t> ChatTemplate::LaterTurn(const Tokenizer& tokenizer, const std::optional<std::string>& system,
                                             const std::string& user) const {
  // What stands behind an answer is the same whatever was said before: the answer of a short conversation is cut off.
  TemplateInput input;
  if (system) input.messages.push_back(TextMessage("system", *system));
  input.messages.push_back(TextMessage("user", "x"));
  const auto answer = static_cast<int32_t>(input.messages.size());
  input.messages.push_back(TextMessage("assistant", "x"));
  input.messages.push_back(TextMessage("user", user));
  const MarkedText text = Render(input);
  const auto end = std::ranges::find_if(text.marks().rbegin(), text.marks().rend(),
                                        [&](const TextMark& mark) { return mark.source == answer; });
  if (end == text.marks().rend())
    throw Error(ErrorCode::kConfig, fmt::format("chat template {}: answers of before do not show in its text", name_));
  return Ids(tokenizer, text, end->end);
}

std::vector<int32_t> ChatTemplate::EndIds(const Tokenizer& tokenizer) const {
  std::vector<int32_t> ids;
  const auto add = [&](std::optional<int32_t> id) {
    if (id && std::ranges::find(ids, *id) == ids.end()) ids.push_back(*id);
  };
  try {
    TemplateInput input{.open = false};
    input.messages = Json::array({TextMessage("user", "x"), TextMessage("assistant", "x")});
    const MarkedText text = Render(input);
    if (text.marked() && text.marks().back().source == 1)
      for (const int32_t id : Ids(tokenizer, text, text.marks().back().end)) {
        const bool special = tokenizer.IsSpecial(id);
        if (special) add(id);
        if (special || tokenizer.TokenBytes(id).find_first_not_of(" \n") != std::string_view::npos) break;
      }
  } catch (const Error&) {  // a template that wants other conversations says nothing about ends
  }
  add(tokenizer.eos_id());
  add(tokenizer.eot_id());
  return ids;
}

bool ChatTemplate::HasDefaultSystem() const {
  try {
    TemplateInput without, with;
    without.messages = Json::array({TextMessage("user", "x")});
    with.messages = Json::array({TextMessage("system", ""), TextMessage("user", "x")});
    const std::string a = Render(without).bytes(), b = Render(with).bytes();
    // What only the first has, between what both begin with and what both end with, is the template's own message.
    const size_t most = std::min(a.size(), b.size());
    size_t end = 0, begin = 0;
    while (end < most && a[a.size() - 1 - end] == b[b.size() - 1 - end]) ++end;
    while (begin < most - end && a[begin] == b[begin]) ++begin;
    return begin + end < a.size();
  } catch (const Error&) {  // no system messages at all
    return false;
  }
}

// ---- Tools ----

bool ChatTemplate::TakesTools() const { return with_tools_ || program_.Mentions("tools"); }

// Whether a call's arguments are put out as they are: an object would show in Python's form, or be refused.
bool ChatTemplate::WantsArgumentTexts() const {
  const auto shown = [&](const Json& arguments) -> std::optional<std::string> {
    TemplateInput input;
    const Json function = {{"name", "f"}, {"arguments", arguments}};
    const Json call = {{"id", "call00001"}, {"type", "function"}, {"function", function}};
    Json asked = TextMessage("assistant", "");
    asked["tool_calls"] = Json::array({call});
    Json answered = TextMessage("tool", "x");
    answered["tool_call_id"] = "call00001";
    answered["name"] = "f";
    input.messages = Json::array({TextMessage("user", "x"), asked, answered});
    const Json parameters = {{"type", "object"}, {"properties", {{"needle", {{"type", "string"}}}}}};
    const Json described = {{"name", "f"}, {"description", "x"}, {"parameters", parameters}};
    const Json tool = {{"type", "function"}, {"function", described}};
    input.tools = Json::array({tool});
    try {
      return Render(input).bytes();
    } catch (const Error&) {
      return std::nullopt;
    }
  };
  const Json arguments = {{"needle", "hay"}};
  const auto object = shown(arguments);
  if (object && object->find("{'needle'") == std::string::npos) return false;
  const auto text = shown(Json("{\"needle\": \"hay\"}"));
  return text && text->find("{\"needle\": \"hay\"}") != std::string::npos;
}

Json ChatTemplate::Adapted(const Json& messages) const {
  if (!messages.is_array()) throw Error(ErrorCode::kUsage, "messages: must be a list");
  Json out = messages;
  for (size_t i = 0; i < out.size(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    Json& message = out[i];
    if (!message.is_object()) throw Error(ErrorCode::kUsage, where + ": must be an object");
    if (!message.contains("role") || !message["role"].is_string())
      throw Error(ErrorCode::kUsage, where + ".role: must be a text");
    Json content = message.contains("content") ? message["content"] : Json();
    if (content.is_array()) {
      std::string text;
      for (size_t part = 0; part < content.size(); ++part) {
        const Json& one = content[part];
        const bool is_text = one.is_object() && one.contains("type") && one["type"] == Json("text") &&
                             one.contains("text") && one["text"].is_string();
        if (!is_text)
          throw Error(ErrorCode::kUsage, fmt::format("{}.content[{}] = {}: only parts {{\"type\": \"text\"}} are taken",
                                                     where, part, JsonExcerpt(one)));
        text += one["text"].get_ref<const std::string&>();
      }
      content = text;
    } else if (content.is_null()) {
      content = "";
    } else if (!content.is_string()) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}.content = {}: must be a text or a list of parts", where, JsonExcerpt(content)));
    }
    message["content"] = content;
    NameReasoning(&message);
    if (argument_texts_ || !message.contains("tool_calls") || !message["tool_calls"].is_array()) continue;
    for (Json& call : message["tool_calls"]) {
      if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
      Json& function = call["function"];
      if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
      const std::string arguments = function["arguments"].get<std::string>();
      function["arguments"] =
          arguments.empty() ? Json::object() : ParseJson(arguments, where + ".tool_calls: arguments");
    }
  }
  return out;
}

}  // namespace hydra
