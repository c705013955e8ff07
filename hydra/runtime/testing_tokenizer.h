// SPDX-License-Identifier: Apache-2.0
// A tokenizer of bytes for tests of the runtime. Not for use outside tests.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra::testing {

// Token i is the byte i; special tokens follow from 256 on. The tokens of the bytes of `twice` are those bytes twice,
// so that nothing says them alone.
inline Tokenizer ByteTokenizer(const std::vector<std::string>& special = {}, const std::string& twice = "") {
  constexpr int kBytes = 256;
  nlohmann::json vocab, added = nlohmann::json::array();
  for (int i = 0; i < kBytes; ++i) {
    const auto byte = static_cast<char>(i);
    vocab[ToByteLevel(std::string(twice.find(byte) == std::string::npos ? 1 : 2, byte))] = i;
  }
  for (size_t i = 0; i < special.size(); ++i)
    added.push_back({{"id", kBytes + i},
                     {"content", special[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const nlohmann::json json = {{"version", "1.0"},
                               {"added_tokens", added},
                               {"normalizer", nullptr},
                               {"pre_tokenizer", byte_level},
                               {"post_processor", nullptr},
                               {"decoder", byte_level},
                               {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  return Tokenizer::FromJson(json.dump(), "bytes");
}

}  // namespace hydra::testing
