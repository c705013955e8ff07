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

// Throws kFormat "FILE: KEY RULE": a model other than gpt2, an unknown pre (naming those known), tokens given twice or
// not UTF-8, types or merges that do not fit them, ids outside the vocabulary.
[[nodiscard]] GgufTokenizer ReadGgufTokenizer(const GgufFile& file);

// What a model's config says of tokens.
struct ModelTokens {
  int64_t vocab_size = 0;
  std::optional<int64_t> bos{}, pad{};
  std::vector<int64_t> eos{};  // all that end a text; empty: the tokenizer's
};

// Sets the keys from a model folder (tokenizer.json; tokenizer_config.json and chat_template.jinja where they are) or
// a tokenizer.json. The vocabulary is filled up to the model's with unused tokens; ends of text come from the model
// where it has them. What the keys cannot say goes in as the whole tokenizer.json, pre = hydra. Throws kFormat for a
// tokenizer that is not byte-level or has more tokens than the model.
void SetGgufTokenizer(const std::string& path, const ModelTokens& model, GgufMetadata* metadata);

// Texts of tokenizer.json and tokenizer_config.json that say what a GGUF file says.
[[nodiscard]] std::string TokenizerJson(const GgufTokenizer& tokenizer);
[[nodiscard]] Sha256Digest TokenizerSha256(const GgufTokenizer& tokenizer);  // of TokenizerJson, which is not made
[[nodiscard]] std::string TokenizerConfigJsonOfGguf(const GgufFile& file);

}  // namespace hydra
