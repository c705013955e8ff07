// SPDX-License-Identifier: Apache-2.0
// The names that GGUF files give to pre-tokenizers, and the steps that each name stands for. Not here: what the steps
// do (pretokenizer.h), the other keys of a GGUF tokenizer (tokenizer_gguf.h).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace hydra {

struct PreSteps {
  std::vector<std::string_view> names;       // all that mean these steps; the first is the one that is written
  nlohmann::json pre_tokenizer, normalizer;  // as tokenizer.json says them
  bool ignore_merges = false;                // a piece that is a token is that token
  bool add_bos = false;                      // where the file does not say whether bos comes first
};

inline constexpr std::string_view kDefaultPre = "default";  // of files that name none

// In the order in which a tokenizer.json is compared with them.
[[nodiscard]] const std::vector<PreSteps>& KnownPres();
// Null where the name is not known.
[[nodiscard]] const PreSteps* FindPre(std::string_view name);
// All names, for messages: "gpt-2, phi-2, ...".
[[nodiscard]] std::string PreNames();

}  // namespace hydra
