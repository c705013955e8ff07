// SPDX-License-Identifier: Apache-2.0
// Conversations as token ids, in the few forms that most models were trained on. Templates of model files are programs
// (Jinja) and are never run: known texts are recognised by their SHA-256. Forms: docs/formats.md. Not here: generating
// an answer (hydra/runtime).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/text/tokenizer.h"

namespace hydra {

struct ChatMessage {
  std::string role, content;  // role: system, user or assistant
};

enum class ChatForm { kChatml, kLlama2, kLlama3, kMinicpm, kPlain };

// Immutable, cheap to copy.
class ChatTemplate {
 public:
  // For a model folder, a .gguf, or the folder of a .safetensors file. `name` (--chat-template) decides where it is not
  // empty; else hydralm_chat_template of tokenizer_config.json (hydralm.chat_template of a .gguf); else the SHA-256 of
  // the template's text as Jinja reads it, wherever it is kept (template_text.h), with the system line that this text
  // puts first; else the one form whose markers are all tokens of the vocabulary, with a warning; else minicpm, with a
  // warning, where the model's config is of that family. Throws kUsage for a bad name, kConfig where none of these
  // decides or the vocabulary lacks a marker (those of minicpm may be plain text).
  [[nodiscard]] static ChatTemplate Load(const std::string& path, const std::string& name, const Tokenizer& tokenizer,
                                         std::vector<std::string>* warnings = nullptr);
  // The same for what a file says: `chosen` its own name for a form, `text` its template; either may be empty.
  [[nodiscard]] static ChatTemplate Choose(const std::string& where, const std::string& name, const std::string& chosen,
                                           std::string_view text, const Tokenizer& tokenizer,
                                           std::vector<std::string>* warnings = nullptr);

  [[nodiscard]] const char* name() const;  // "chatml", ...
  [[nodiscard]] ChatForm form() const { return form_; }
  // Put first where the conversation has no system message; "" for none.
  [[nodiscard]] const std::string& default_system() const { return default_system_; }
  [[nodiscard]] ChatTemplate WithoutDefaultSystem() const { return ChatTemplate(form_); }

  // The ids of a conversation; `open` ends with the beginning of an answer. Markers become their special tokens;
  // contents are text, whatever special tokens they spell. Throws kUsage for an unknown role, or a system message that
  // is not the first.
  [[nodiscard]] std::vector<int32_t> Encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                            bool open) const;
  // Ids that end an answer, besides the model's own ends.
  [[nodiscard]] std::vector<int32_t> EndIds(const Tokenizer& tokenizer) const;

 private:
  explicit ChatTemplate(ChatForm form, std::string default_system = "")
      : form_(form), default_system_(std::move(default_system)) {}
  ChatForm form_;
  std::string default_system_;
};

}  // namespace hydra
