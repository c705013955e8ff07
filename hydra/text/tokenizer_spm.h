// SPDX-License-Identifier: Apache-2.0
// SentencePiece vocabularies (Llama 2, Mistral) as BPE: merges from scores and scores from merges, and the steps around
// them. Not here: the keys of GGUF (tokenizer_gguf.h), the merging itself (bpe.h).
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "hydra/text/tokenizer_file.h"

namespace hydra {

// A token that text may become is at most so long: a longer one would cost time in the square of its length.
inline constexpr size_t kMaxSpmTokenBytes = 512;

// Every way to make a token of two others, the token of the highest score first, of equal scores that of the lower id;
// of one token the way with the longer left part first. SentencePiece merges the two neighbours whose token has the
// highest score, and so do these merges. `mergeable`: by id, the tokens that text may become; the others stay out.
// Throws kFormat where there would be more than `most` merges.
[[nodiscard]] BpeModel::Merges MergesFromScores(const TokenTable& tokens, std::span<const float> scores,
                                                const std::vector<bool>& mergeable, size_t most);

// Scores by the order in which merges make tokens, the first one's the highest, and below them those of the tokens
// that no merge makes.
[[nodiscard]] std::vector<float> ScoresFromMerges(const TokenizerFile& file);
// Whether MergesFromScores makes the file's merges, in their order, of these scores.
[[nodiscard]] bool ScoresSayMerges(const TokenizerFile& file, std::span<const float> scores,
                                   const std::vector<bool>& mergeable);

// U+2581 for spaces, one more at the start of each text between special tokens where `prefix` is set; and the way back.
[[nodiscard]] nlohmann::json SpmNormalizer(bool prefix);
[[nodiscard]] nlohmann::json SpmDecoder(bool prefix);
// The same as SpmNormalizer in newer files (legacy = false): one more at the start of the whole text only, unless it
// begins with a space.
[[nodiscard]] nlohmann::json SpmPreTokenizer(bool prefix);

// The post-processor that puts these tokens around a text; null where there are none.
[[nodiscard]] nlohmann::json AroundText(const TokenizerFile& file, const std::optional<int32_t>& before,
                                        const std::optional<int32_t>& after);

// Whether a token is <0x00> to <0xFF>, which stands for a byte.
[[nodiscard]] bool IsByteToken(std::string_view text);

}  // namespace hydra
