// SPDX-License-Identifier: Apache-2.0
// What requests go on from: the messages of a chat, texts, or ids. Not here: how messages become tokens
// (chat_prompter.h), the other fields (text_call.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/serve/fields.h"
#include "hydra/serve/served_model.h"

namespace hydra::serve {

inline constexpr int64_t kMostMessages = 1024, kMostPrompts = 128;

// All throw ApiError. Contents of messages are texts, also those that were parts.
[[nodiscard]] Json ReadMessages(Fields& body);
[[nodiscard]] const ChatPrompter& PrompterOf(const ServedModel& served);

struct GivenPrompt {
  std::vector<int32_t> ids;
  std::string text;
};
// A text, ids, or a list of either.
[[nodiscard]] std::vector<GivenPrompt> ReadPrompts(Fields& body, const ServedModel& served);

}  // namespace hydra::serve
