// SPDX-License-Identifier: Apache-2.0
// Prompts of chats and the places in them that are worth remembering.
#include "hydra/serve/chat_prompter.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "hydra/serve/chat_tools.h"

namespace hydra::serve {

ChatPrompter::ChatPrompter(const Tokenizer& tokenizer, ChatTemplate form)
    : tokenizer_(tokenizer), form_(std::move(form)), turn_ends_(EndIds()), takes_tools_(form_.TakesTools()) {}

ChatPrompt ChatPrompter::Render(TemplateInput input) const {
  if (!takes_tools_) input.messages = WithToolsInWords(input.messages, std::exchange(input.tools, nullptr));
  input.messages = form_.Adapted(input.messages);
  input.now = std::time(nullptr);
  const auto encode = [&](bool open) {
    input.open = open;
    return ChatTemplate::Ids(tokenizer_, form_.Render(input));
  };
  ChatPrompt prompt{.ids = encode(true), .borders = {}};
  for (size_t i = 0; i + 1 < prompt.ids.size(); ++i)
    if (std::ranges::find(turn_ends_, prompt.ids[i]) != turn_ends_.end())
      prompt.borders.push_back(static_cast<int64_t>(i) + 1);
  // Where the answer's own head begins: another answer, or the conversation with this one in it, agrees up to there.
  const std::vector<int32_t> closed = encode(false);
  const auto same = static_cast<int64_t>(std::ranges::mismatch(closed, prompt.ids).in1 - closed.begin());
  if (same > 0 && same < static_cast<int64_t>(prompt.ids.size()) &&
      (prompt.borders.empty() || prompt.borders.back() < same))
    prompt.borders.push_back(same);
  return prompt;
}

std::vector<std::string> ChatPrompter::Stops() const {
  if (form_.plain()) return {"\nUser:"};  // models that know no turns write the user's too
  return {};
}

}  // namespace hydra::serve
