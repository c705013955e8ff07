// SPDX-License-Identifier: Apache-2.0
// Forms that texts are held to, for many requests: clients send the same schema and the same tools again and again, and
// what a grammar says of a vocabulary is found out once. Not here: grammars (text/json_schema.h), which tokens they let
// come (text/grammar_mask.h).
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "hydra/text/grammar_mask.h"
#include "hydra/text/token_trie.h"
#include "hydra/text/tokenizer.h"

namespace hydra::serve {

// Thread-safe.
class TextForms {
 public:
  static constexpr size_t kMost = 16;  // forms that are remembered; the one that was asked for longest ago goes first

  // Of the ids below `vocab` that the tokenizer has.
  TextForms(const Tokenizer& tokenizer, int64_t vocab) : trie_(std::make_shared<const TokenTrie>(tokenizer, vocab)) {}
  // What `make` gave for this key, or gives now. Throws what it throws.
  [[nodiscard]] std::shared_ptr<GrammarMasks> Get(const std::string& key, const std::function<Grammar()>& make);
  [[nodiscard]] size_t size() const;

 private:
  const std::shared_ptr<const TokenTrie> trie_;
  mutable std::mutex mutex_;
  std::list<std::pair<std::string, std::shared_ptr<GrammarMasks>>> known_;  // the last one asked for first
};

}  // namespace hydra::serve
