// SPDX-License-Identifier: Apache-2.0
// Writes lists of tokens, merges and steps as the text of a tokenizer.json. Not here: reading one (tokenizer_file.h).
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "hydra/io/file.h"
#include "hydra/text/tokenizer_file.h"

namespace hydra {

// Gives the text to `write` piece by piece. Read again it has the same tokens, ids and steps; Python's `tokenizers`
// gives them the same ids.
void WriteTokenizerJson(const TokenizerFile& file, const std::function<void(std::string_view)>& write);
[[nodiscard]] std::string TokenizerJsonText(const TokenizerFile& file);
[[nodiscard]] Sha256Digest TokenizerJsonSha256(const TokenizerFile& file);  // of that text, which is not made whole

}  // namespace hydra
