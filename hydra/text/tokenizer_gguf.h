// SPDX-License-Identifier: Apache-2.0
// Tokenizers in GGUF metadata (tokenizer.ggml.*), both ways. Not here: encoding and decoding (tokenizer.h), the model
// of the file (gguf_model.h). Which pre-tokenizers: docs/formats.md.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hydra/io/gguf.h"
#include "hydra/text/tokenizer_file.h"

namespace hydra {

struct GgufTokenizer {
  TokenizerFile file;  // the steps of the named pre-tokenizer put in
  std::optional<int32_t> bos, eos, eot;
  std::string json;  // not empty: the whole tokenizer.json that the file carries (pre = hydra); `file` is then empty
};

// Models gpt2 (byte-level BPE) and llama (SentencePiece: merges are made from the scores). A file of gpt2 that names no
// pre-tokenizer has the one of llama.cpp's older files, with a warning. `pre`: the name that counts instead of the
// file's, where it is not empty. Throws kFormat "FILE: KEY RULE": another model, an unknown pre (naming those known),
// tokens given twice or not UTF-8, types, scores or merges that do not fit them, ids outside the vocabulary; kUsage for
// a `pre` that is unknown or that the model has no use for.
[[nodiscard]] GgufTokenizer ReadGgufTokenizer(const GgufFile& file, const std::string& pre = {});

// What a model's config says of tokens.
struct ModelTokens {
  int64_t vocab_size = 0;
  std::optional<int64_t> bos{}, pad{};
  std::vector<int64_t> eos{};  // all that end a text; empty: the tokenizer's
};

// Sets the keys from a model folder (with all that its files say of tokens and templates) or a tokenizer.json. The
// vocabulary is filled up to the model's with unused tokens; ends of text come from the model where it has them. What
// the keys cannot say goes in as the whole tokenizer.json, pre = hydra. Throws kFormat for a tokenizer that neither is
// byte-level nor has byte fallback, or has more tokens than the model.
void SetGgufTokenizer(const std::string& path, const ModelTokens& model, GgufMetadata* metadata);

// Texts of tokenizer.json and tokenizer_config.json that say what a GGUF file says.
[[nodiscard]] std::string TokenizerJson(const GgufTokenizer& tokenizer);
[[nodiscard]] std::string TokenizerConfigJsonOfGguf(const GgufFile& file);

}  // namespace hydra
