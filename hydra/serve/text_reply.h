// SPDX-License-Identifier: Apache-2.0
// Texts as JSON: whole replies, and the chunks of streams in their order (specs/interfaces.md 3). Not here: where the
// texts come from (engine.h), how replies reach a client (api_text.cc).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/serve/api_error.h"
#include "hydra/serve/chat_tools.h"
#include "hydra/serve/job.h"
#include "hydra/serve/served_model.h"
#include "hydra/serve/text_call.h"

namespace hydra::serve {

// Of one call; not thread-safe.
class TextReply {
 public:
  // Both must outlive it.
  TextReply(const TextCall& call, const ServedModel& served);

  // ---- A stream: texts of Server-Sent Events ----
  [[nodiscard]] std::string Begin() const;
  [[nodiscard]] std::string Chunks(const TextPiece& piece);
  [[nodiscard]] std::string End() const;
  [[nodiscard]] static std::string Failure(const ApiError& error);

  // ---- One object ----
  void Add(TextPiece piece);
  [[nodiscard]] Json Whole() const;

  // Texts that have not ended.
  [[nodiscard]] int open() const { return open_; }
  // What made a text fail; null where none did.
  [[nodiscard]] const ApiError* failure() const { return failure_ ? &*failure_ : nullptr; }
  // Tokens and seconds, for the log.
  [[nodiscard]] Json Notes() const;
  [[nodiscard]] std::string Words() const;

 private:
  struct Text {
    std::string raw, words;  // all that was written; without calls
    CallReader reader;
    std::vector<ToolCall> calls;
    std::vector<PickedToken> tokens;
    std::vector<XrayToken> traces;
    TextEnd end;
    int64_t said = 0;  // characters that tokens before stood for, for offsets
  };
  [[nodiscard]] Json Head(const char* object) const;
  [[nodiscard]] Json Usage() const;
  [[nodiscard]] Json ChatLogprobs(const std::vector<PickedToken>& tokens) const;
  [[nodiscard]] Json OldLogprobs(const std::vector<PickedToken>& tokens, int64_t* said) const;
  [[nodiscard]] Json Own(const std::vector<PickedToken>& tokens, const std::vector<XrayToken>& traces) const;
  // Texts of a prompt's tokens by position: what landmarks point at.
  [[nodiscard]] Json PromptTokens(size_t text) const;
  // The token as text: "bytes:\xe2\x80" where it is a part of a character.
  [[nodiscard]] std::string Name(int32_t id) const;
  void Note(const TextPiece& piece);
  // What a piece says and calls, once each: added to its text.
  CallReader::Part Read(const TextPiece& piece);
  [[nodiscard]] static Json CallJson(const ToolCall& call, size_t index, bool in_stream);
  [[nodiscard]] static Json MessageJson(const Text& text);
  [[nodiscard]] static const char* FinishOf(const Text& text);
  [[nodiscard]] Json Timings() const;

  const TextCall& call_;
  const ServedModel& served_;
  std::string id_;
  int64_t created_;
  std::vector<Text> texts_;
  std::vector<std::vector<int32_t>> prompts_;  // for traces: the engine owns the requests from its start on
  int open_;
  std::optional<ApiError> failure_;
};

}  // namespace hydra::serve
