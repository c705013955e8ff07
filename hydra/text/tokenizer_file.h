// SPDX-License-Identifier: Apache-2.0
// tokenizer.json read into plain lists, checked field by field. Not here: encoding and decoding (tokenizer.h), the
// steps (pretokenizer.h, tokenizer_decoder.h), which read their parts of `steps` themselves.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/text/bpe.h"
#include "hydra/text/tokenizer_added.h"

namespace hydra {

struct TokenizerFile {
  TokenTable tokens;           // the model's vocabulary and the added tokens
  std::vector<bool> in_model;  // by id: false for tokens that are only added
  BpeModel::Merges merges;
  BpeOptions options;  // all but byte_level, which the pre-tokenizer decides
  std::vector<AddedToken> added;
  nlohmann::json steps;               // normalizer, pre_tokenizer, post_processor, decoder; each may be null
  std::vector<std::string> warnings;  // what the file says and is not obeyed, one line each
};

// Throws kFormat "FILE: FIELD...": for bytes that are no UTF-8 or no JSON, nesting over 64, a key given twice, ids with
// a gap, twice or negative, ids of added tokens that the `tokenizers` library would not give them, merges that are
// malformed or name no token, and any setting that would change ids and is not supported (another model type, dropout,
// subword prefixes). Truncation and padding belong to batches of a trainer: they are warned of and not applied.
[[nodiscard]] TokenizerFile ParseTokenizerFile(std::string_view text, const std::string& file);

// Whether each of the 256 bytes is a token of the model, in the byte-level alphabet: then no text is unknown.
[[nodiscard]] bool HasEveryByte(const TokenTable& tokens, const std::vector<bool>& in_model);

}  // namespace hydra
