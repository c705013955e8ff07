// SPDX-License-Identifier: Apache-2.0
// tokenizer.model, SentencePiece's own file (protobuf): pieces with scores and kinds, read and written. BPE only. Not
// here: merges made of the scores (tokenizer_spm.h), encoding (tokenizer.h). Bytes: docs/formats.md.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/gguf.h"
#include "hydra/text/tokenizer_file.h"

namespace hydra {

struct SentencePieceFile {
  TokenTable pieces;  // by id
  std::vector<float> scores;
  std::vector<int32_t> types;  // GGUF's numbers (tokenizer_gguf_keys.h), which are SentencePiece's
  bool byte_fallback = false;  // unknown characters become <0x00> to <0xFF>, which are all there
  bool add_prefix = true;      // a space at the start of a text
  int32_t unk = 0;
  std::optional<int32_t> bos{}, eos{}, pad{};
};

// Throws kFormat "FILE: FIELD RULE": bytes that are no such protobuf, a model that is not BPE or changes its texts
// (a table of characters, spaces taken away, not marked or behind words), pieces without a text, twice, not UTF-8 or of
// an unknown kind, scores that are not finite, ids outside the vocabulary, bytes that are not all there.
[[nodiscard]] SentencePieceFile ReadSentencePiece(std::span<const std::byte> bytes, const std::string& file);

// A file that Python's `sentencepiece` reads: the same pieces, scores and ids.
[[nodiscard]] std::string SentencePieceBytes(const SentencePieceFile& file);

// What tokenizer_config.json says of the steps around the pieces.
struct SentencePieceOptions {
  bool legacy = true;                      // a space also after each special token, not at the start of a text only
  std::optional<bool> add_prefix_space{};  // instead of the file's own
  bool add_bos = true, add_eos = false;
};
// The lists of a tokenizer.json that does the same, as `transformers` makes them: merges by score, bytes for what is
// unknown. Throws kFormat where the scores make too many merges.
[[nodiscard]] TokenizerFile TokenizerFileOf(SentencePieceFile pieces, const SentencePieceOptions& options,
                                            const std::string& file);

// The tokenizer.model of a GGUF file; nothing where the file has another kind of tokenizer, or one that SentencePiece
// has no words for.
[[nodiscard]] std::optional<SentencePieceFile> SentencePieceOfGguf(const GgufFile& file);

}  // namespace hydra
