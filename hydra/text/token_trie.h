// SPDX-License-Identifier: Apache-2.0
// The tokens of a vocabulary by their bytes: all that begin alike lie together. Not here: which tokens a grammar takes
// (grammar_mask.h).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hydra/text/tokenizer.h"

namespace hydra {

// Immutable, so safe to share between threads.
class TokenTrie {
 public:
  // A node stands for the bytes on the way to it; its children follow it, up to `end`.
  struct Node {
    uint8_t byte;
    int32_t end;
    int32_t tokens, tokens_end;  // in tokens()
  };

  // Of the ids below `vocab`, at most the tokenizer's. Special tokens have no bytes here: they are never a part of a
  // text.
  TokenTrie(const Tokenizer& tokenizer, int64_t vocab);

  [[nodiscard]] const std::vector<Node>& nodes() const { return nodes_; }
  [[nodiscard]] std::span<const int32_t> TokensOf(const Node& node) const {
    return std::span(tokens_).subspan(static_cast<size_t>(node.tokens),
                                      static_cast<size_t>(node.tokens_end - node.tokens));
  }
  [[nodiscard]] int64_t vocab() const { return vocab_; }
  // Bytes of the longest token.
  [[nodiscard]] int32_t longest() const { return longest_; }
  // The bytes of a token; none of special ones.
  [[nodiscard]] std::string_view BytesOf(int32_t id) const;

 private:
  Tokenizer tokenizer_;
  int64_t vocab_;
  int32_t longest_ = 0;
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;
};

}  // namespace hydra
