// SPDX-License-Identifier: Apache-2.0
// A loaded model with all that requests for it need. Not here: loading (cli/verb_serve.cc), requests (text_call.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hydra/model/controls.h"
#include "hydra/model/kv_filling.h"
#include "hydra/runtime/memory_overlay.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/sampler.h"
#include "hydra/runtime/weights.h"
#include "hydra/serve/chat_prompter.h"
#include "hydra/serve/engine.h"
#include "hydra/serve/metrics.h"
#include "hydra/serve/text_forms.h"
#include "hydra/text/tokenizer.h"

namespace hydra::serve {

// A memory pack that requests may name.
struct NamedPack {
  std::string name;
  WeightedPack pack;
};

// Immutable apart from its engine; shared by the threads that answer. What it refers to must outlive it.
struct ServedModel {
  const Model& model;
  const Tokenizer& tokenizer;
  Engine& engine;
  std::unique_ptr<const ChatPrompter> chat{};  // null: the model has no template
  std::string no_chat{};                       // why
  std::unique_ptr<TextForms> forms{};          // of its vocabulary
  std::string name{};                          // as requests say
  std::vector<std::string> aliases{};          // other names for it
  SamplerOptions sampling{};                   // of requests that leave it open; each has a seed of its own
  std::vector<int32_t> end_ids{};              // of every text
  Controls controls{};
  std::vector<NamedPack> packs{};                 // that requests may name
  std::shared_ptr<const MemoryOverlay> memory{};  // all of them together: what requests get that name none
  bool add_packs = false;                         // rows that several packs have are added up
  std::function<KvPlan(int64_t)> plan{};          // of plan length N; none: no plan
  std::string drafter{};                          // "off", "ngram", ..
  int64_t created = 0;                            // seconds since 1970
  std::string description{};                      // "3,151,515 parameters (hydra), F32"

  // Tokens that a sequence may have: a state that does not grow sets no bound, and then only memory does.
  int64_t context = 0;
  int64_t longest = 0;  // tokens of a text whose request leaves its length open, where the context sets no bound
};

}  // namespace hydra::serve
