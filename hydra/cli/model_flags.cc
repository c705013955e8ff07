// SPDX-License-Identifier: Apache-2.0
// Flags of models, controls and input tokens, and what their values mean.
#include "hydra/cli/model_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra::cli {
namespace {

Error BadControl(const std::string& key, const std::string& value, const std::string& rule) {
  return {ErrorCode::kUsage, fmt::format("--control {}={}: {}", key, value, rule)};
}

// The parts between commas; an empty text has none.
std::vector<std::string> Split(const std::string& list) {
  std::vector<std::string> parts;
  for (size_t begin = 0; !list.empty() && begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    parts.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

double ControlNumber(const std::string& key, const std::string& text) { return ParseNumber(text, "--control " + key); }

std::vector<int64_t> Experts(const std::string& key, const std::string& list, int64_t n_experts) {
  std::vector<int64_t> out;
  for (const std::string& part : Split(list))
    out.push_back(ParseWholeNumber(part, 0, n_experts - 1, "--control " + key));
  return out;
}

constexpr std::array<const char*, 9> kControls = {"path_scale",    "workspace_read",     "pkm_read",
                                                  "landmarks",     "router_temperature", "moe_top_k",
                                                  "force_experts", "ban_experts",        "expert_bias"};

void SetControl(const std::string& key, const std::string& value, const ModelConfig& config, Controls* c) {
  if (key == "path_scale") {
    const auto parts = Split(value);
    if (parts.size() != c->path_scale.size()) throw BadControl(key, value, "must be three numbers: ssm,sga,moe");
    for (size_t i = 0; i < parts.size(); ++i) c->path_scale[i] = ControlNumber(key, parts[i]);
  } else if (key == "workspace_read") {
    c->workspace_read = ControlNumber(key, value);
  } else if (key == "pkm_read") {
    c->pkm_read = ControlNumber(key, value);
  } else if (key == "landmarks") {
    if (value != "on" && value != "off") throw BadControl(key, value, "must be on or off");
    c->landmarks = value == "on";
  } else if (key == "router_temperature") {
    c->router_temperature = ControlNumber(key, value);
  } else if (key == "moe_top_k") {
    c->moe_top_k = ParseWholeNumber(value, 1, config.moe.n_experts, "--control moe_top_k");
  } else if (key == "force_experts") {
    c->force_experts = Experts(key, value, config.moe.n_experts);
  } else if (key == "ban_experts") {
    c->ban_experts = Experts(key, value, config.moe.n_experts);
  } else {  // expert_bias
    c->expert_bias.clear();
    for (const std::string& part : Split(value)) c->expert_bias.push_back(ControlNumber(key, part));
  }
}

}  // namespace

void AddModelFlags(CLI::App* verb, ModelFlags* flags) {
  verb->add_option("-m,--model", flags->model, "model folder, .gguf or .safetensors")->type_name("PATH");
  AddPreFlag(verb, &flags->pre);
  verb->add_option("-t,--threads", flags->threads, "threads; 0 = physical cores")->check(Range(0, 1024));
  verb->add_option("--device", flags->device, "auto or cpu; LibTorch takes cuda or cuda:N too")->type_name("DEVICE");
  verb->add_option("--control", flags->controls, "KEY=VALUE, repeatable, such as ban_experts=0,3")
      ->type_name("KEY=VALUE");
}

void AddPreFlag(CLI::App* verb, std::string* pre) {
  verb->add_option("--pre", *pre, "pre-tokenizer of a .gguf that names none or an unknown one, such as llama-bpe")
      ->type_name("NAME");
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
  verb->add_option("--target", flags->target, "SIMD level, such as avx2 or scalar")->type_name("NAME");
  verb->add_option("--tune", flags->tune,
                   "on: take what was measured once on this machine, or measure it now; off; again: measure now")
      ->type_name("MODE");
  verb->add_flag("--explain", flags->explain, "print SIMD level and kernels, and why");
}

void AddActivationFlag(CLI::App* verb, ModelFlags* flags) {
  verb->add_option("--act", flags->act, "activations in products: f32, q8 (int8 blocks), auto")->type_name("TYPE");
}

Controls ApplyControls(const std::vector<std::string>& controls, const ModelConfig& config, const Controls& base) {
  Controls out = base;
  for (const std::string& control : controls) {
    const size_t equals = control.find('=');
    if (equals == std::string::npos)
      throw Error(ErrorCode::kUsage, fmt::format("--control {}: must be KEY=VALUE", control));
    const std::string key = control.substr(0, equals), value = control.substr(equals + 1);
    if (std::ranges::find(kControls, key) == kControls.end())
      throw BadControl(key, value, fmt::format("unknown control {}{}", key, DidYouMean(key, kControls)));
    if (const std::string why = WhyControlIsIgnored(key, config); !why.empty()) throw BadControl(key, value, why);
    SetControl(key, value, config, &out);
  }
  out.Validate(config);
  return out;
}

void AddTextFlags(CLI::App* verb, const EncodeOptions& defaults, TextFlags* flags) {
  flags->parse_special = defaults.parse_special ? "on" : "off";
  flags->add_special = defaults.add_special ? "on" : "off";
  const auto add = [verb](const char* name, std::string* value, const char* text) {
    verb->add_option(name, *value, text)->check(CLI::IsMember({"on", "off"}))->type_name("on|off");
  };
  add("--parse-special", &flags->parse_special, "special tokens written in the text are those tokens");
  add("--add-special", &flags->add_special, "put around the text what the tokenizer's file says, such as bos");
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
