// SPDX-License-Identifier: Apache-2.0
// Flags of the verbs that run a model, shared by both commands: which model, how it runs, the tokens that go in. Not
// here: opening a model (verb_runtime.h, torch_model_flags.h), sampling (verb_sampling.h).
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/cli/plan_flags.h"
#include "hydra/text/tokenizer.h"

namespace hydra::cli {

struct ModelFlags {
  std::string model = ".";
  std::string pre;  // of a .gguf: the name of its pre-tokenizer
  std::string device = "auto";
  int threads = 0;                    // 0 = physical cores
  std::vector<std::string> controls;  // KEY=VALUE
  std::string control_profile;        // a file of controls
  std::string budget;                 // active parameters a token
  PlanFlags plan;                     // where the verb has AddRuntimeFlags or AddPlanFlags
  // Of the runtime alone.
  int64_t ctx = 8192;
  bool ctx_given = false;  // else at most the model's own length
  std::string kv_dtype = "f16", state_dtype = "f32", act = "auto", target = "best", tune = "on", offload,
              ask_ahead = "routed";
  bool explain = false;
  std::vector<std::string> memories;  // PACK or PACK:STRENGTH
  std::string memory_merge = "refuse";
};

// -m --pre -t --device --control --control-profile --budget: both engines. What controls say is read by
// control_flags.h.
void AddModelFlags(CLI::App* verb, ModelFlags* flags);
// --pre, for verbs that have flags of their own.
void AddPreFlag(CLI::App* verb, std::string* pre);
// --kv-dtype --state-dtype: what a sequence's memory is made of.
void AddStateFlags(CLI::App* verb, std::string* kv_dtype, std::string* state_dtype);
// -c --kv-dtype --state-dtype --plan --head-spans --target --tune --offload --ask-ahead --explain: the runtime's.
void AddRuntimeFlags(CLI::App* verb, ModelFlags* flags);
// --memory --memory-merge, for verbs that read packs.
void AddMemoryFlags(CLI::App* verb, ModelFlags* flags);
// --act, where the verb leaves the choice.
void AddActivationFlag(CLI::App* verb, ModelFlags* flags);

// How a text of -p or -f becomes tokens: --parse-special and --add-special, on or off.
struct TextFlags {
  std::string parse_special, add_special;
  [[nodiscard]] EncodeOptions Options() const {
    return {.parse_special = parse_special == "on", .add_special = add_special == "on"};
  }
};
// The defaults are the verb's: docs/runtime.md lists them.
void AddTextFlags(CLI::App* verb, const EncodeOptions& defaults, TextFlags* flags);
// Throws kUsage where one of them is given although there is no text; `rule` says when there is one.
void RefuseTextFlags(const CLI::App* verb, const std::string& rule);

// The tokenizer of a model folder, a tokenizer.json or a .gguf; what its files say and is not obeyed goes to stderr as
// warnings. `pre`: what --pre says, or nothing.
[[nodiscard]] Tokenizer LoadTokenizer(const std::string& path, const std::string& pre = {});
// Warns where a prompt that the tokenizer encoded begins with bos twice.
void WarnOfTwoBos(const Tokenizer& tokenizer, std::span<const int32_t> prompt);

// The text of -p or of the file of -f ("-" = stdin); nothing when neither is given. Both are an error.
[[nodiscard]] std::optional<std::string> PromptText(const CLI::App* verb, const std::string& text,
                                                    const std::string& file);

// What `hydralm logits` reads and writes, whichever engine runs it.
struct LogitsFlags {
  ModelFlags model;
  std::string text, file, engine, output;
  std::vector<int64_t> ids;
  TextFlags special;
};
void AddLogitsFlags(CLI::App* verb, LogitsFlags* flags);
// The ids given or encoded, each checked against the vocabulary of the model; at least one.
[[nodiscard]] std::vector<int32_t> InputIds(const LogitsFlags& flags, const CLI::App* verb, int64_t vocab);
// The line or JSON object that says what was written.
void PrintLogitsResult(const LogitsFlags& flags, int64_t tokens, int64_t vocab, bool json);

}  // namespace hydra::cli
