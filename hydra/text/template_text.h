// SPDX-License-Identifier: Apache-2.0
// The texts of chat templates, wherever a model keeps them. Not here: what form a text stands for (chat_template.h).
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydra/io/gguf.h"

namespace hydra {

struct TemplateTexts {
  std::string chosen;  // hydralm_chat_template of tokenizer_config.json, hydralm.chat_template of a .gguf; may be empty
  std::string text;    // the template for plain conversations; empty where there is none
  std::vector<std::pair<std::string, std::string>> others;  // name, text: those for tools and the like
  // "bos_token", "pad_token", ... and their texts, where the files name them: variables of every template.
  std::vector<std::pair<std::string, std::string>> tokens;
};

// Of a model folder, a .gguf, or the folder of a .safetensors file. In a folder the first of chat_template.jinja,
// chat_template.json and tokenizer_config.json that has a template decides. A value may be a text or a list of
// {"name", "template"}: then the one named "default" counts, or the only one. Throws kFormat for broken JSON.
[[nodiscard]] TemplateTexts ReadTemplateTexts(const std::string& path);
[[nodiscard]] TemplateTexts ReadTemplateTexts(const GgufFile& file);

// The text as Jinja reads it: every line ends with \n, and one line end at the end of the text does not count.
[[nodiscard]] std::string AsJinjaReads(std::string_view text);

}  // namespace hydra
