// SPDX-License-Identifier: Apache-2.0
// Flags of models and input tokens, and what their values mean.
#include "hydra/cli/model_flags.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra::cli {

void AddModelFlags(CLI::App* verb, ModelFlags* flags) {
  verb->add_option("-m,--model", flags->model, "model folder, .gguf or .safetensors")->type_name("PATH");
  AddPreFlag(verb, &flags->pre);
  verb->add_option("-t,--threads", flags->threads, "threads; 0 = physical cores")->check(Range(0, 1024));
  verb->add_option("--device", flags->device, "auto or cpu; LibTorch takes cuda or cuda:N too")->type_name("DEVICE");
  verb->add_option("--control", flags->controls, "routing and memories, such as ban_experts=0,3 or moe_top_k@2=1")
      ->type_name("KEY=VALUE");
  verb->add_option("--control-profile", flags->control_profile, "a JSON file of controls")->type_name("FILE");
  verb->add_option("--budget", flags->budget, "the best controls for N parameters a token, such as 1.5M")
      ->type_name("PARAMS");
}

void AddPreFlag(CLI::App* verb, std::string* pre) {
  verb->add_option("--pre", *pre, "pre-tokenizer of a .gguf that names none or an unknown one")->type_name("NAME");
}

void AddStateFlags(CLI::App* verb, std::string* kv_dtype, std::string* state_dtype) {
  verb->add_option("--kv-dtype", *kv_dtype, "keys and values as f32, bf16, f16 or q8_0")->type_name("TYPE");
  verb->add_option("--state-dtype", *state_dtype, "Mamba-2's recurrent state as f32 or bf16")->type_name("TYPE");
}

void AddRuntimeFlags(CLI::App* verb, ModelFlags* flags) {
  CLI::Option* ctx =
      verb->add_option("-c,--ctx-size", flags->ctx,
                       "tokens a sequence with full attention; default at most the model's; 0 = the model's")
          ->check(Range(0, 1 << 27));
  verb->parse_complete_callback([flags, ctx] { flags->ctx_given = ctx->count() > 0; });
  AddStateFlags(verb, &flags->kv_dtype, &flags->state_dtype);
  AddPlanFlags(verb, &flags->plan);
  verb->add_option("--target", flags->target, "SIMD level, such as avx2 or scalar")->type_name("NAME");
  verb->add_option("--tune", flags->tune, "how weights are read: on = as once measured; off; again")->type_name("MODE");
  CLI::Option* offload =
      verb->add_option("--offload", flags->offload, "a file that packed weights are kept in and mapped from")
          ->type_name("FILE");
  verb->add_option("--ask-ahead", flags->ask_ahead, "experts of --offload read early: routed, last too, off")
      ->type_name("WHAT")
      ->needs(offload);
  verb->add_flag("--explain", flags->explain, "print SIMD level and kernels, and why");
}

void AddMemoryFlags(CLI::App* verb, ModelFlags* flags) {
  verb->add_option("--memory", flags->memories, "a memory pack of train --teach; repeatable")
      ->type_name("PACK[:STRENGTH]");
  verb->add_option("--memory-merge", flags->memory_merge, "rows that several packs have")
      ->check(CLI::IsMember({"refuse", "add"}))
      ->type_name("HOW");
}

void AddActivationFlag(CLI::App* verb, ModelFlags* flags) {
  verb->add_option("--act", flags->act, "activations in products: f32, bf16, q8 (int8 blocks), auto")
      ->type_name("TYPE");
}

void AddTextFlags(CLI::App* verb, const EncodeOptions& defaults, TextFlags* flags) {
  flags->parse_special = defaults.parse_special ? "on" : "off";
  flags->add_special = defaults.add_special ? "on" : "off";
  const auto add = [verb](const char* name, std::string* value, const char* text) {
    verb->add_option(name, *value, text)->check(CLI::IsMember({"on", "off"}))->type_name("on|off");
  };
  add("--parse-special", &flags->parse_special, "special tokens written in the text are those tokens");
  add("--add-special", &flags->add_special, "put the tokenizer's own ends around the text, such as bos");
}

void RefuseTextFlags(const CLI::App* verb, const std::string& rule) {
  for (const char* flag : {"--parse-special", "--add-special"})
    if (verb->count(flag) > 0) throw Error(ErrorCode::kUsage, fmt::format("{}: {}: {}", verb->get_name(), flag, rule));
}

Tokenizer LoadTokenizer(const std::string& path, const std::string& pre) {
  std::vector<std::string> warnings;
  Tokenizer tokenizer = Tokenizer::Load(path, {.pre = pre, .warnings = &warnings});
  PrintWarnings(warnings);
  return tokenizer;
}

void WarnOfTwoBos(const Tokenizer& tokenizer, std::span<const int32_t> prompt) {
  if (!tokenizer.StartsWithTwoBos(prompt)) return;
  fmt::print(
      stderr,
      "hydralm: warning: the prompt begins with {0} and the model puts one more before it: that is two bos tokens; "
      "leave yours out\n",
      tokenizer.TokenText(prompt[0]));
}

std::optional<std::string> PromptText(const CLI::App* verb, const std::string& text, const std::string& file) {
  const bool has_text = verb->count("-p") > 0, has_file = verb->count("-f") > 0;
  if (has_text && has_file) throw Error(ErrorCode::kUsage, fmt::format("{}: give one of -p and -f", verb->get_name()));
  if (has_text) return text;
  if (has_file) return ReadText(file);
  return std::nullopt;
}

void AddLogitsFlags(CLI::App* verb, LogitsFlags* flags) {
  AddModelFlags(verb, &flags->model);
  verb->add_option("-p,--prompt", flags->text, "text to encode")->type_name("TEXT");
  verb->add_option("-f,--file", flags->file, "file to encode; - = stdin")->type_name("FILE");
  AddNumbers(verb, "--ids", &flags->ids, "token ids instead of text, such as 1,2,3", Range(0, INT32_MAX));
  AddTextFlags(verb, {.parse_special = true, .add_special = false}, &flags->special);
  verb->add_option("--engine", flags->engine, "runtime, or torch: the training form, fp32")
      ->check(CLI::IsMember({"runtime", "torch"}));
  verb->add_option("-o,--output", flags->output, "the .npy file to write")->required()->type_name("FILE.npy");
}

std::vector<int32_t> InputIds(const LogitsFlags& flags, const CLI::App* verb, int64_t vocab) {
  const auto text = PromptText(verb, flags.text, flags.file);
  if (text && !flags.ids.empty()) throw Error(ErrorCode::kUsage, "logits: give one of -p, -f and --ids");
  std::vector<int64_t> ids = flags.ids;
  if (!text) RefuseTextFlags(verb, "is for -p and -f");
  if (text)
    for (const int32_t id : LoadTokenizer(flags.model.model, flags.model.pre).Encode(*text, flags.special.Options()))
      ids.push_back(id);
  if (ids.empty()) throw Error(ErrorCode::kUsage, "logits: no tokens; give -p TEXT, -f FILE or --ids 1,2,3");
  std::vector<int32_t> out;
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab)
      throw Error(ErrorCode::kUsage, fmt::format("logits: token id {}: must be 0 to {}", id, vocab - 1));
    out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

void PrintLogitsResult(const LogitsFlags& flags, int64_t tokens, int64_t vocab, bool json) {
  if (json) {
    const Json out = {{"file", flags.output}, {"tokens", tokens}, {"vocab", vocab}};
    fmt::print("{}\n", DumpJson(out));
  } else {
    fmt::print("{}: [{}, {}] float32\n", flags.output, tokens, vocab);
  }
}

}  // namespace hydra::cli
