// SPDX-License-Identifier: Apache-2.0
// tokenizer.json: what is accepted encodes any text, and its ids decode to valid UTF-8. Not here: round trips, which
// hold for byte-level tokenizers only (encode_decode.cc).
#include "fuzz/input.h"
#include "hydra/base/utf8.h"
#include "hydra/text/tokenizer.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Accepts([&] {
    const Tokenizer tokenizer = Tokenizer::FromJson(fuzz::Text(data, size), "tokenizer.json");
    for (const std::string_view text : {"The cat's 12 mats,\n\n  \xE4\xB8\xAD\xC3\xA9 <s></s>", "", "\xff a"}) {
      fuzz::Accepts([&] {
        for (const bool special : {false, true}) {
          const auto ids = tokenizer.Encode(text, {.parse_special = special, .add_special = special});
          const std::string decoded = tokenizer.Decode(ids, {.skip_special = special});
          if (ValidUtf8Prefix(decoded) != decoded.size()) fuzz::Broken("decoded text is not UTF-8", decoded);
          for (const int32_t id : ids) (void)tokenizer.TokenBytes(id);
        }
      });
    }
  });
  return 0;
}
