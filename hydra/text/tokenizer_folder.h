// SPDX-License-Identifier: Apache-2.0
// What a model folder says of tokens beside tokenizer.json: tokenizer_config.json, and special_tokens_map.json and
// added_tokens.json of older folders, read as `transformers` reads them; tokenizer.model where there is no
// tokenizer.json. Not here: chat templates (template_text.h), the two files themselves (tokenizer_file.h,
// sentencepiece_file.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

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
  std::string name;       // of tokenizer.json or tokenizer.model, for messages
  bool changed = false;   // tokenizer.json alone says something else, or is not there
  Sha256Digest sha256{};  // of tokenizer.json, or, where changed, of the one that would say it all
  NamedToken bos, eos;
  std::vector<float> scores;  // of the pieces of tokenizer.model, by id; empty for tokenizer.json
};

// Whether a folder has a tokenizer that ReadFolderTokenizer reads.
[[nodiscard]] bool HasTokenizerFile(const std::string& folder);

// Of a folder, or of a tokenizer.json or a file NAME.model alone, beside which nothing is read. A token that
// tokenizer.json lacks gets the next id, as in `transformers`; a file that says another id is refused, and a token
// without a row in the model (vocab_size of config.json) is left out with a warning. Throws kIo, kFormat "FILE: FIELD
// ...".
[[nodiscard]] FolderTokenizer ReadFolderTokenizer(const std::string& path);

// The text of a tokenizer.json that says all that ReadFolderTokenizer finds; its SHA-256 is `sha256`.
[[nodiscard]] std::string WholeTokenizerJson(const std::string& path);

}  // namespace hydra
