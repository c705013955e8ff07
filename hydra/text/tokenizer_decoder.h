// SPDX-License-Identifier: Apache-2.0
// Tokens back to text: the decoder of tokenizer.json. Not here: which tokens are skipped (tokenizer.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hydra/text/pretokenizer.h"

namespace hydra {

// Decoder steps null, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, Sequence; others are refused by name.
class TokenDecoder {
 public:
  [[nodiscard]] static TokenDecoder FromJson(const nlohmann::json& json, const std::string& where);

  // Whether the only step is ByteLevel: the text is then the tokens' bytes, joined and mended.
  [[nodiscard]] bool byte_level() const;
  // The text of tokens (as the vocabulary spells them), valid UTF-8.
  [[nodiscard]] std::string Decode(std::vector<std::string> tokens) const;
  // The bytes that one token stands for within a text; at the start of a text a decoder may drop a leading space.
  [[nodiscard]] std::string TokenBytes(std::string_view token) const;

 private:
  struct ByteLevelStep {};
  struct ByteFallbackStep {};
  struct FuseStep {};
  struct ReplaceStep {
    TextPattern pattern;
    std::string by;
  };
  struct StripStep {
    char32_t content;
    size_t start, stop;  // at most so many characters
  };
  struct MetaspaceStep {
    std::string replacement;
    bool drop_first;
  };
  void Add(const nlohmann::json& json, const std::string& where);
  using Tokens = std::vector<std::string>;
  static void Run(const ByteLevelStep& step, Tokens& tokens);
  static void Run(const ByteFallbackStep& step, Tokens& tokens);
  static void Run(const FuseStep& step, Tokens& tokens);
  static void Run(const ReplaceStep& step, Tokens& tokens, size_t most);  // all tokens together: most bytes
  static void Run(const StripStep& step, Tokens& tokens);
  static void Run(const MetaspaceStep& step, Tokens& tokens);

  std::vector<std::variant<ByteLevelStep, ByteFallbackStep, FuseStep, ReplaceStep, StripStep, MetaspaceStep>> steps_;
};

}  // namespace hydra
