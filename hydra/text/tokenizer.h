// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, as the tokenizer.json of a model says; ids equal those of the `tokenizers` library.
// Which files are supported: docs/tokenizer.md. Not here: training (bpe_train.h), the command line
// (cli/verb_tokenizer.cc).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/utf8.h"  // Utf8Stream: text from a stream of tokens
#include "hydra/text/marked_text.h"

namespace hydra {

class GgufFile;

struct TokenizerLoadOptions {
  std::string pre{};                             // of a .gguf: the name of its pre-tokenizer, whatever the file says
  std::vector<std::string>* warnings = nullptr;  // gets what the files say and is not obeyed, one line each
};

struct EncodeOptions {
  bool parse_special = true;  // special tokens written in the text become their ids; off for text of strangers
  bool add_special = false;   // what the file's post-processor puts around a text (<s>, ...)
  bool continues = false;     // the text goes on behind other tokens: SentencePiece's space is not put before it
  // Bytes of strangers within the text, in ascending order: no special token begins, ends or lies in them. For valid
  // UTF-8, as MarkedText has it.
  std::span<const TextMark> strange{};
};

struct DecodeOptions {
  bool skip_special = false;  // leave special tokens out of the text
};

// Immutable, cheap to copy, safe to share between threads.
class Tokenizer {
 public:
  // A model folder, a tokenizer.json, a SentencePiece NAME.model or a .gguf. From a folder, tokenizer_config.json,
  // where it is, names bos and eos and may add tokens (tokenizer_folder.h). Throws kIo for a file that cannot be read,
  // kFormat "FILE: FIELD ..." for one that is broken or not supported, kUsage for options.pre where the file has no
  // pre-tokenizer to name.
  [[nodiscard]] static Tokenizer Load(const std::string& path, const TokenizerLoadOptions& options = {});
  // `text` is a tokenizer.json; `name` stands for the file in messages.
  [[nodiscard]] static Tokenizer FromJson(std::string_view text, const std::string& name);
  // From a GGUF file's metadata, which need not live longer.
  [[nodiscard]] static Tokenizer FromGguf(const GgufFile& file, const TokenizerLoadOptions& options = {});

  // Working memory and the ids of words seen before. One per thread; keeping it from call to call saves time.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(Scratch&&) noexcept;
    Scratch& operator=(Scratch&&) noexcept;

   private:
    friend class Tokenizer;
    struct Data;
    std::unique_ptr<Data> data_;
  };

  // The ids of `text`; what is not valid UTF-8 counts as U+FFFD. Time n log n at worst. Throws kData where a regular
  // expression of the file exceeds its limit on this text (known split patterns never do).
  [[nodiscard]] std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options = {}) const;
  // The same, appended to `ids`.
  void Encode(std::string_view text, const EncodeOptions& options, Scratch& scratch, std::vector<int32_t>& ids) const;

  // The text of `ids`, always valid UTF-8. Throws kData for an id outside the vocabulary.
  [[nodiscard]] std::string Decode(std::span<const int32_t> ids, const DecodeOptions& options = {}) const;
  [[nodiscard]] std::string Decode(int32_t id) const { return Decode(std::span<const int32_t>(&id, 1)); }

  // The bytes that a token stands for within a text: feed them to a Utf8Stream for text as it comes. (Llama-style
  // decoders drop one space at the start of a whole text; that space is here.) Valid while the tokenizer lives.
  [[nodiscard]] std::string_view TokenBytes(int32_t id) const;
  // The token as tokenizer.json spells it.
  [[nodiscard]] std::string_view TokenText(int32_t id) const;
  // By the spelling of tokenizer.json.
  [[nodiscard]] std::optional<int32_t> TokenId(std::string_view text) const;
  [[nodiscard]] bool IsSpecial(int32_t id) const;
  [[nodiscard]] std::vector<int32_t> SpecialIds() const;

  [[nodiscard]] int vocab_size() const;  // ids are 0 .. vocab_size - 1
  // From tokenizer_config.json; else the first of the usual names that is a special token of the file.
  [[nodiscard]] std::optional<int32_t> bos_id() const;
  [[nodiscard]] std::optional<int32_t> eos_id() const;
  [[nodiscard]] std::optional<int32_t> eot_id() const;  // end of a turn, where a GGUF file names one
  // Whether the first two ids are both bos: a prompt that spells it, and one that the model's files put before it.
  [[nodiscard]] bool StartsWithTwoBos(std::span<const int32_t> ids) const;
  // Of the bytes of tokenizer.json: token shards carry it. From GGUF, and from a folder whose other files add tokens:
  // of the tokenizer.json that says it all (convert and data build write it).
  [[nodiscard]] const std::array<uint8_t, 32>& sha256() const;
  // "gpt2", "llama3", "qwen2", or the pre-tokenizer's steps.
  [[nodiscard]] const std::string& pattern() const;
  // Whether tokens are spelled in the byte-level alphabet.
  [[nodiscard]] bool byte_level() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace hydra
