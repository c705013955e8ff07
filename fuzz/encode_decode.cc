// SPDX-License-Identifier: Apache-2.0
// decode(encode(x)) = x for valid UTF-8 with byte-level tokenizers of every known split; other bytes come back mended;
// tokens one by one stream to the same text. Not here: files of tokenizers (tokenizer_file.cc).
#include "fuzz/input.h"
#include "fuzz/model.h"
#include "hydra/base/utf8.h"
#include "hydra/text/tokenizer.h"

using namespace hydra;

namespace {

std::vector<Tokenizer> MakeTokenizers() {
  std::vector<Tokenizer> made;
  for (const auto pattern : {SplitPattern::kGpt2, SplitPattern::kLlama3, SplitPattern::kQwen2})
    made.push_back(Tokenizer::FromJson(fuzz::TrainSmall(pattern, {"<|endoftext|>"}).json, "trained"));
  return made;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<Tokenizer> tokenizers = MakeTokenizers();
  const std::string_view text = fuzz::Text(data, size);
  std::string buffer;
  const std::string mended(MendUtf8(text, buffer));
  for (const Tokenizer& tokenizer : tokenizers)
    for (const bool special : {false, true}) {
      const auto ids = tokenizer.Encode(text, {.parse_special = special});
      if (tokenizer.Decode(ids) != mended) fuzz::Broken("decode(encode(x)) is not x", tokenizer.pattern());
      Utf8Stream stream;
      std::string streamed;
      for (const int32_t id : ids) streamed += stream.Push(tokenizer.TokenBytes(id));
      if (streamed + stream.Finish() != mended) fuzz::Broken("tokens do not stream to x", tokenizer.pattern());
    }
  return 0;
}
