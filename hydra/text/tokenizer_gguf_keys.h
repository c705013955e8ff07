// SPDX-License-Identifier: Apache-2.0
// Names and numbers of tokenizers in GGUF, for the reader and the writer. Not here: what they mean (docs/formats.md).
#pragma once

#include <cstdint>

namespace hydra::gguf_keys {

inline constexpr const char* kModel = "tokenizer.ggml.model";
inline constexpr const char* kPre = "tokenizer.ggml.pre";
inline constexpr const char* kTokens = "tokenizer.ggml.tokens";
inline constexpr const char* kTypes = "tokenizer.ggml.token_type";
inline constexpr const char* kScores = "tokenizer.ggml.scores";
inline constexpr const char* kMerges = "tokenizer.ggml.merges";
inline constexpr const char* kAddBos = "tokenizer.ggml.add_bos_token";
inline constexpr const char* kAddEos = "tokenizer.ggml.add_eos_token";
inline constexpr const char* kAddPrefix = "tokenizer.ggml.add_space_prefix";
inline constexpr const char* kTemplate = "tokenizer.chat_template";  // others are kTemplate.NAME
inline constexpr const char* kTemplateNames = "tokenizer.chat_templates";
inline constexpr const char* kChosenTemplate = "hydralm.chat_template";
inline constexpr const char* kWhole = "tokenizer.huggingface.json";

inline constexpr const char* kHydraPre = "hydra";  // the whole tokenizer.json is in the file

// Token types.
inline constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

}  // namespace hydra::gguf_keys
