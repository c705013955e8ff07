// SPDX-License-Identifier: Apache-2.0
// The tokenizers and the config of a small model that targets and their seeds must agree on. Not here: the model with
// weights (state_model.h), anything of a fuzzer.
#pragma once

#include <string>

#include "hydra/model/config.h"
#include "hydra/text/bpe_train.h"
#include "hydra/text/tokenizer.h"

namespace hydra::fuzz {

inline BpeTrainResult TrainSmall(SplitPattern pattern, std::vector<std::string> special_tokens) {
  BpeTrainOptions options;
  options.vocab_size = 320;
  options.pattern = pattern;
  options.special_tokens = std::move(special_tokens);
  return TrainBpe({"the cat sat on the mat, the cat's 1234 mats\n\n  and again \xE4\xB8\xAD\xE4\xB8\xAD"}, options);
}

// Has the markers of every chat form.
inline Tokenizer ChatTokenizer() {
  const BpeTrainResult trained =
      TrainSmall(SplitPattern::kGpt2, {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>",
                                       "<|end_header_id|>", "<|eot_id|>", "<\xE7\x94\xA8\xE6\x88\xB7>", "<AI>"});
  return Tokenizer::FromJson(trained.json, "chat");
}

// Every buffer that a state can have, each of a few values: a saved state is about 8 KiB.
inline ModelConfig StateConfig() {
  ModelConfig c;
  c.vocab_size = 32;
  c.d_model = 16;
  c.layers.assign(2, LayerConfig{});
  c.layers[0] = {.ssm = true, .attention = AttentionKind::kSparse, .ffn = FfnKind::kChunkMoe, .workspace = true};
  c.layers[1].pkm = true;
  c.chunk_len = 4;
  c.ssm.n_heads = 2, c.ssm.head_dim = 16, c.ssm.d_state = 4, c.ssm.scan_chunk = 4;
  c.attention.n_heads = 2, c.attention.n_kv_heads = 2, c.attention.head_dim = 8;
  c.attention.window = 8, c.attention.landmark_budget = 4;
  c.moe.n_experts = 4, c.moe.d_expert = 8;
  c.workspace = {.n_slots = 4, .rank = 4, .write_slots = 2};
  c.pkm = {.n_heads = 1, .n_keys = 4, .d_key = 4, .d_value = 4, .top_k = 2};
  return c;
}

}  // namespace hydra::fuzz
