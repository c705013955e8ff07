// SPDX-License-Identifier: Apache-2.0
// What a turn adds to a conversation, as tokens.
#include "hydra/runtime/conversation.h"

#include <algorithm>
#include <utility>

#include "hydra/runtime/pins.h"

namespace hydra {
namespace {

constexpr const char* kPlainUser = "\nUser:";  // where an answer ends for models that know no turns

}  // namespace

Conversation::Conversation(const Generator& generator, const ChatTemplate& form, const ConversationOptions& options,
                           SequenceState state)
    : generator_(generator), form_(form), options_(options), state_(std::move(state)), sampler_(options.sampling) {
  for (const int32_t id : form_.EndIds(generator_.tokenizer)) options_.end_ids.push_back(id);
  TellSampler();
}

void Conversation::GoOnFrom(SequenceState state) {
  state_ = std::move(state);
  TellSampler();
}

void Conversation::TellSampler() {
  sampler_ = Sampler(options_.sampling);
  for (const int32_t id : state_.ids()) sampler_.Accept(id);
  for (const int32_t id : state_.pending()) sampler_.Accept(id);
}

int64_t Conversation::length() const { return state_.pos() + static_cast<int64_t>(state_.pending().size()); }

GenerateResult Conversation::Say(const std::string& text, const AnswerOptions& options,
                                 const Generator::OnText& on_text) {
  GenerateOptions generate{.max_tokens = options.max_tokens,
                           .end_ids = options_.end_ids,
                           .cancelled = options.cancelled,
                           .speculation = options.speculation};
  if (form_.plain()) generate.stops.push_back(kPlainUser);
  const std::vector<int32_t> ids = TurnIds(text);
  std::vector<int64_t> pins;
  for (const std::string& pin : options.pins)
    for (const int64_t position : PositionsOf(pin, ids, length(), generator_.tokenizer)) pins.push_back(position);
  if (!pins.empty()) state_.SetControls(WithPins(state_.controls(), pins));
  return generator_.Generate(state_, sampler_, ids, generate, on_text);
}

// The tokens of a user's turn, up to where the answer begins: what the state has not got yet.
std::vector<int32_t> Conversation::TurnIds(const std::string& text) const {
  const Tokenizer& tokenizer = generator_.tokenizer;
  if (length() == 0) {
    std::vector<ChatMessage> messages;
    if (options_.system) messages.push_back({"system", *options_.system});
    messages.push_back({"user", text});
    return form_.Encode(tokenizer, messages, true);
  }
  if (form_.plain() && SaidUser()) {  // the model has begun the user's turn itself
    std::vector<int32_t> ids = tokenizer.Encode(" " + text + "\n", {.parse_special = false});
    for (const int32_t id : tokenizer.Encode("Assistant:", {.parse_special = false})) ids.push_back(id);
    return ids;
  }
  return LaterTurnIds(text);
}

// A later turn is what it adds to a conversation, the end of the answer before it included.
std::vector<int32_t> Conversation::LaterTurnIds(const std::string& text) const {
  std::vector<int32_t> ids = form_.LaterTurn(generator_.tokenizer, options_.system, text);
  // Where the model has said its end itself, it and what the template puts before it are there already.
  const auto pending = state_.pending();
  if (!pending.empty() && std::ranges::find(options_.end_ids, pending.back()) != options_.end_ids.end())
    if (const auto end = std::ranges::find(ids, pending.back()); end != ids.end()) ids.erase(ids.begin(), end + 1);
  return ids;
}

// Whether the text so far ends with the head of a user's turn in the plain form.
bool Conversation::SaidUser() const {
  constexpr size_t kTail = 16;  // tokens that surely hold it
  std::vector<int32_t> tail(state_.ids().begin(), state_.ids().end());
  tail.insert(tail.end(), state_.pending().begin(), state_.pending().end());
  if (tail.size() > kTail) tail.erase(tail.begin(), tail.end() - kTail);
  return generator_.tokenizer.Decode(tail).ends_with(kPlainUser);
}

}  // namespace hydra
