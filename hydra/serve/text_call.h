// SPDX-License-Identifier: Apache-2.0
// Requests for texts, /v1/chat/completions and /v1/completions, read from JSON: what is asked for, checked field by
// field. Not here: messages and prompts (prompt_fields.h), the replies (text_reply.h), running them (engine.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/serve/fields.h"
#include "hydra/serve/job.h"
#include "hydra/serve/served_model.h"
#include "hydra/serve/state_store.h"

namespace hydra::serve {

// Bounds of a request, each tested at the bound and one above; others are in prompt_fields.h and chat_tools.h.
inline constexpr int64_t kMostStops = 16, kMostChoices = 8, kMostTopLogprobs = 20, kMostStopBytes = 256;

struct TextCall {
  bool chat = false;
  bool stream = false, include_usage = false;
  bool echo = false;   // of completions: the prompt stands before the text
  int logprobs = -1;   // -1: none are shown; of chats without top_logprobs 0
  bool calls = false;  // of chats: tools may be called
  bool trace = false;
  int64_t seed = 0;                    // of the first text
  std::vector<TextRequest> texts{};    // prompts times choices
  std::vector<std::string> echoed{};   // of each prompt, with echo
  int choices = 1;                     // of a prompt
  int64_t prompt_tokens = 0;           // of all prompts
  std::vector<std::string> ignored{};  // fields that are not known
};

// Who asks: whose cached prefixes and saved states it may use. `states`: null where there are none.
struct Caller {
  std::string owner;
  const StateStore* states = nullptr;
};

// Throw ApiError.
[[nodiscard]] TextCall ReadChatCall(const Json& body, const ServedModel& served, const Caller& caller);
[[nodiscard]] TextCall ReadCompletionCall(const Json& body, const ServedModel& served, const Caller& caller);

// What also POST /v1/states reads: messages or prompt, as ids; and the request's own controls and packs.
[[nodiscard]] TextRequest ReadPromptCall(Fields& body, const ServedModel& served);

}  // namespace hydra::serve
