// SPDX-License-Identifier: Apache-2.0
// tokenizer.model: whatever the bytes are, they give a tokenizer that encodes and decodes any text, or Error says why
// not; what was read is written and read again as the same.
#include "fuzz/input.h"
#include "hydra/text/sentencepiece_file.h"
#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_write.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::Text(data, size);
  fuzz::Accepts([&] {
    const SentencePieceFile file = ReadSentencePiece(std::as_bytes(std::span(text)), "tokenizer.model");
    const std::string written = SentencePieceBytes(file);
    const SentencePieceFile again = ReadSentencePiece(std::as_bytes(std::span(written)), "written");
    if (SentencePieceBytes(again) != written) fuzz::Broken("what was written is another file", "");
    const Tokenizer tokenizer =
        Tokenizer::FromJson(TokenizerJsonText(TokenizerFileOf(file, {}, "tokenizer.model")), "tokenizer.json");
    for (const std::string_view sample : {std::string_view("a cat  <s>\xE4\xB8\xAD\n"), text.substr(0, 2000)})
      (void)tokenizer.Decode(tokenizer.Encode(sample, {.add_special = true}));
  });
  return 0;
}
