// SPDX-License-Identifier: Apache-2.0
// Tools that a chat may call, in OpenAI's form: what a request says of them, how they are told to models whose template
// has no place for them, and calls found in what a model writes. Not here: the grammar that holds calls to their form
// (text/json_schema.h), JSON of replies (text_reply.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/serve/fields.h"

namespace hydra::serve {

inline constexpr int64_t kMostTools = 128;
// Around a call, as most models that know tools write it.
inline constexpr std::string_view kCallBefore = "<tool_call>\n", kCallAfter = "\n</tool_call>";

struct ChatTools {
  Json told = nullptr;     // a list for the prompt; null: there are none
  Json allowed = nullptr;  // those of them that may be called; null: none
  bool required = false;   // a call must come; else text may, before it or alone
  bool several = true;     // calls may follow one another
};
// tools, tool_choice, parallel_tool_calls. Throws ApiError.
[[nodiscard]] ChatTools ReadTools(Fields& body);

// Messages with tools told in words: for templates that have no place for them. Calls become texts of their message,
// results messages of the user, the list a part of the system message. Contents must be texts.
[[nodiscard]] Json WithToolsInWords(const Json& messages, const Json& tools);

// The calls of a message of the assistant, [{"id", "type", "function": {"name", "arguments"}}], where each has its
// form. Throws ApiError naming what has not; `where` stands for the message.
[[nodiscard]] Json CheckedCalls(const Json& calls, const std::string& where);

struct ToolCall {
  std::string name, arguments;  // arguments: JSON
  friend bool operator==(const ToolCall&, const ToolCall&) = default;
};

// Parts words and calls in a text as it comes. White space around calls belongs to neither.
class CallReader {
 public:
  struct Part {
    std::string words{};
    std::vector<ToolCall> calls{};
  };
  [[nodiscard]] Part Feed(std::string_view text);
  // The text is over: a call that was begun is words.
  [[nodiscard]] Part Finish();
  [[nodiscard]] bool any() const { return any_; }

 private:
  std::string held_;
  bool inside_ = false, any_ = false;  // held_ begins behind kCallBefore; there was a call
};

}  // namespace hydra::serve
