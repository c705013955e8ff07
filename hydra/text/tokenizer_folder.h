// SPDX-License-Identifier: Apache-2.0
// What a model folder says of tokens beside tokenizer.json: tokenizer_config.json, and special_tokens_map.json and
// added_tokens.json of older folders, read as `transformers` reads them. Not here: chat templates (template_text.h),
// tokenizer.json itself (tokenizer_file.h).
#pragma once

#include <optional>
#include <string>

#include "hydra/io/file.h"
#include "hydra/text/tokenizer_file.h"

namespace hydra {

// Where a file says nothing of bos or eos, `said` is false; where it says null, `id` is empty.
struct NamedToken {
  bool said = false;
  std::optional<int32_t> id;
};

struct FolderTokenizer {
  TokenizerFile file;     // with the tokens that only the other files name
  std::string name;       // of tokenizer.json, for messages
  bool changed = false;   // the other files add tokens or change flags: tokenizer.json alone says something else
  Sha256Digest sha256{};  // of tokenizer.json, or, where changed, of the one that would say it all
  NamedToken bos, eos;
};

// Of a folder, or of a tokenizer.json alone, beside which nothing is read. A token that tokenizer.json lacks gets the
// next id, as in `transformers`; a file that says another id is refused, and a token without a row in the model
// (vocab_size of config.json) is left out with a warning. Throws kIo, kFormat "FILE: FIELD ...".
[[nodiscard]] FolderTokenizer ReadFolderTokenizer(const std::string& path);

// The text of a tokenizer.json that says all that ReadFolderTokenizer finds; its SHA-256 is `sha256`.
[[nodiscard]] std::string WholeTokenizerJson(const std::string& path);

}  // namespace hydra
