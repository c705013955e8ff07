// SPDX-License-Identifier: Apache-2.0
// Conversations of requests as the tokens of a prompt. Not here: how a template writes them (text/chat_template.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hydra/text/chat_template.h"
#include "hydra/text/tokenizer.h"

namespace hydra::serve {

struct ChatPrompt {
  std::vector<int32_t> ids;
  std::vector<int64_t> borders;  // where messages end, ascending: others may go on from there
};

// Immutable.
class ChatPrompter {
 public:
  // The tokenizer must outlive it.
  ChatPrompter(const Tokenizer& tokenizer, ChatTemplate form);

  // Of messages, tools and variables; contents must be texts. Throws Error(kUsage) for what the template does not take.
  [[nodiscard]] ChatPrompt Render(TemplateInput input) const;
  // Ids and texts that end an answer, besides the model's own ends.
  [[nodiscard]] std::vector<int32_t> EndIds() const { return form_.EndIds(tokenizer_); }
  [[nodiscard]] std::vector<std::string> Stops() const;
  [[nodiscard]] std::string name() const { return form_.name(); }

 private:
  const Tokenizer& tokenizer_;
  ChatTemplate form_;
  std::vector<int32_t> turn_ends_;
  bool takes_tools_;
};

}  // namespace hydra::serve
