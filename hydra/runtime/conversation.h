// SPDX-License-Identifier: Apache-2.0
// A conversation held in one sequence's state: each turn reads its own tokens only. Silent. Not here: templates
// (text/chat_template.h), the loop of an answer (generate.h), what a user types and sees (cli/verb_chat.cc).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "hydra/runtime/generate.h"
#include "hydra/text/chat_template.h"

namespace hydra {

struct ConversationOptions {
  std::optional<std::string> system{};  // the first message; none: the template's own, where it has one
  std::vector<int32_t> end_ids{};       // end an answer, besides those of the template
  SamplerOptions sampling{};
};

// Not thread-safe. What the generator refers to must outlive it.
class Conversation {
 public:
  // `state` may hold a conversation already; the sampler is told of its tokens, as if they had been said here.
  Conversation(const Generator& generator, const ChatTemplate& form, const ConversationOptions& options,
               SequenceState state);

  // Goes on from another state, or anew from an empty one: with a new sampler of the same seed.
  void GoOnFrom(SequenceState state);

  struct AnswerOptions {
    int64_t max_tokens = -1;            // -1 = to the answer's end
    std::function<bool()> cancelled{};  // as in GenerateOptions, and this
    Speculation* speculation = nullptr;
    std::vector<std::string> pins{};  // texts whose tokens stay landmarks, wherever the user says them
  };
  // One turn: reads what the user says and writes the answer. Cancelled, the state still has all that was said: what is
  // not read yet is pending. Throws as Generator::Check and ChatTemplate::Render do, and kConfig for a template in
  // whose text answers do not show; nothing is said then.
  GenerateResult Say(const std::string& text, const AnswerOptions& options, const Generator::OnText& on_text);

  [[nodiscard]] const SequenceState& state() const { return state_; }
  [[nodiscard]] int64_t length() const;  // tokens said so far, pending ones too

 private:
  void TellSampler();
  [[nodiscard]] std::vector<int32_t> TurnIds(const std::string& text) const;
  [[nodiscard]] std::vector<int32_t> LaterTurnIds(const std::string& text) const;
  [[nodiscard]] bool SaidUser() const;

  Generator generator_;
  ChatTemplate form_;
  ConversationOptions options_;
  SequenceState state_;
  Sampler sampler_;
};

}  // namespace hydra
