// SPDX-License-Identifier: Apache-2.0
// Fields of tools, their words, and the search for calls.
#include "hydra/serve/chat_tools.h"

#include <algorithm>
#include <set>
#include <utility>

#include "hydra/base/error.h"

namespace hydra::serve {
namespace {

constexpr std::string_view kSpaces = " \t\r\n";

bool IsName(const Json& value) {
  constexpr size_t kMost = 64;
  if (!value.is_string()) return false;
  const auto& name = value.get_ref<const std::string&>();
  return !name.empty() && name.size() <= kMost && std::ranges::all_of(name, [](char c) {
    return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  });
}

[[noreturn]] void Refuse(const std::string& where, const std::string& rule) {
  throw ApiError(kBadRequest, where + ": " + rule, where);
}

// A list of functions with names that differ.
Json CheckedTools(const Json& list) {
  if (!list.is_array() || static_cast<int64_t>(list.size()) > kMostTools)
    Refuse("tools", StrCat("must be a list of at most ", kMostTools));
  std::set<std::string> names;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = StrCat("tools[", i, "]");
    const Json& tool = list[i];
    if (!tool.is_object() || !tool.contains("type") || tool["type"] != "function")
      Refuse(where + ".type", "must be function: others are not served");
    if (!tool.contains("function") || !tool["function"].is_object()) Refuse(where + ".function", "must be an object");
    const Json& function = tool["function"];
    if (!function.contains("name") || !IsName(function["name"]))
      Refuse(where + ".function.name", "must be 1 to 64 letters, digits, _, - and dots");
    if (!names.insert(function["name"].get<std::string>()).second)
      Refuse(where + ".function.name", "is the name of another tool too");
  }
  return list;
}

// {"type": "function", "function": {"name": NAME}} of tool_choice.
Json NamedTool(const Json& choice, const Json& tools) {
  const bool named = choice.is_object() && choice.contains("type") && choice["type"] == "function" &&
                     choice.contains("function") && choice["function"].is_object() &&
                     choice["function"].contains("name");
  if (!named) Refuse("tool_choice", "must be none, auto, required or a function");
  for (const Json& tool : tools)
    if (tool["function"]["name"] == choice["function"]["name"]) return Json::array({tool});
  Refuse("tool_choice", JsonExcerpt(choice["function"]["name"]) + ": is none of the tools");
}

std::string InWords(const Json& tools) {
  std::string text =
      "You may call functions to help with what the user asks. They are described by JSON Schemas:\n<tools>";
  for (const Json& tool : tools) text += "\n" + DumpJson(tool);
  return text + "\n</tools>\nTo call one, write its name and arguments as JSON:\n" + std::string(kCallBefore) +
         "{\"name\": \"NAME\", \"arguments\": {}}" + std::string(kCallAfter);
}

// The content of a message with its calls behind it.
std::string WithCalls(const Json& message) {
  std::string text = message.value("content", "");
  for (const Json& call : message["tool_calls"]) {
    if (!text.empty()) text += "\n";
    text += std::string(kCallBefore) + "{\"name\": " + DumpJson(call["function"]["name"]) +
            ", \"arguments\": " + call["function"]["arguments"].get<std::string>() + "}" + std::string(kCallAfter);
  }
  return text;
}

// Bytes at the end of a text that may become white space and a mark.
size_t Undecided(std::string_view text) {
  size_t mark = std::min(text.size(), kCallBefore.size() - 1);
  while (!kCallBefore.starts_with(text.substr(text.size() - mark))) --mark;
  const size_t last = text.substr(0, text.size() - mark).find_last_not_of(kSpaces);
  return text.size() - (last == std::string_view::npos ? 0 : last + 1);
}

}  // namespace

ChatTools ReadTools(Fields& body) {
  ChatTools tools;
  const Json* list = body.Find("tools");
  const Json* choice = body.Find("tool_choice");
  tools.several = body.Bool("parallel_tool_calls").value_or(true);
  if (list == nullptr || (list->is_array() && list->empty())) {
    if (choice != nullptr && *choice != "none" && *choice != "auto") body.Refuse("tool_choice", "there are no tools");
    return tools;
  }
  const Json checked = CheckedTools(*list);
  if (choice != nullptr && *choice == "none") return tools;
  tools.told = tools.allowed = checked;
  if (choice == nullptr || *choice == "auto") return tools;
  tools.required = true;
  if (*choice != "required") tools.allowed = NamedTool(*choice, checked);
  return tools;
}

Json CheckedCalls(const Json& calls, const std::string& where) {
  if (!calls.is_array() || static_cast<int64_t>(calls.size()) > kMostTools)
    Refuse(where + ".tool_calls", StrCat("must be a list of at most ", kMostTools));
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string at = StrCat(where, ".tool_calls[", i, "].function");
    const Json& call = calls[i];
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object())
      Refuse(at, "must be an object");
    const Json& function = call["function"];
    if (!function.contains("name") || !function["name"].is_string()) Refuse(at + ".name", "must be a text");
    const bool said = function.contains("arguments") && function["arguments"].is_string();
    if (!said || !Json::parse(function["arguments"].get_ref<const std::string&>(), nullptr, false).is_object())
      Refuse(at + ".arguments", "must be a text: a JSON object");
  }
  return calls;
}

Json WithToolsInWords(const Json& messages, const Json& tools) {
  Json told = Json::array();
  bool results = false;  // the last message holds results
  for (const Json& message : messages) {
    const bool result = message["role"] == "tool";
    if (result) {
      const std::string text = "<tool_response>\n" + message.value("content", "") + "\n</tool_response>";
      if (results)
        told.back()["content"] = told.back()["content"].get<std::string>() + "\n" + text;
      else
        told.push_back({{"role", "user"}, {"content", text}});
    } else if (message.contains("tool_calls")) {
      told.push_back({{"role", message["role"]}, {"content", WithCalls(message)}});
    } else {
      told.push_back(message);
    }
    results = result;
  }
  if (tools.is_null()) return told;
  if (!told.empty() && told[0]["role"] == "system") {
    told[0]["content"] = told[0].value("content", "") + "\n\n" + InWords(tools);
    return told;
  }
  Json all = Json::array();
  all.push_back({{"role", "system"}, {"content", InWords(tools)}});
  for (Json& message : told) all.push_back(std::move(message));
  return all;
}

CallReader::Part CallReader::Feed(std::string_view text) {
  Part part;
  held_ += text;
  while (true) {
    const size_t at = held_.find(inside_ ? kCallAfter : kCallBefore);
    if (at == std::string::npos) break;
    if (inside_) {
      const Json call = Json::parse(held_.substr(0, at), nullptr, false);
      if (call.is_object() && call.contains("name") && call["name"].is_string() && call.contains("arguments")) {
        part.calls.push_back({call["name"].get<std::string>(), DumpJson(call["arguments"])});
        any_ = true;
      }
      held_.erase(0, at + kCallAfter.size());
    } else {
      const std::string_view before = std::string_view(held_).substr(0, at);
      part.words += before.substr(0, before.find_last_not_of(kSpaces) + 1);
      held_.erase(0, at + kCallBefore.size());
    }
    inside_ = !inside_;
  }
  if (inside_) return part;
  const size_t sure = held_.size() - Undecided(held_);
  part.words += held_.substr(0, sure);
  held_.erase(0, sure);
  return part;
}

CallReader::Part CallReader::Finish() {
  Part part;
  const bool only_space = held_.find_first_not_of(kSpaces) == std::string::npos;
  if (inside_) part.words = std::string(kCallBefore) + held_;
  if (!inside_ && !(any_ && only_space)) part.words = held_;
  held_.clear();
  inside_ = false;
  return part;
}

}  // namespace hydra::serve
