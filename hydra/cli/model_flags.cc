// SPDX-License-Identifier: Apache-2.0
// Flags of models, controls and input tokens, and what their values mean.
#include "hydra/cli/model_flags.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <system_error>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra::cli {
namespace {

Error BadControl(const std::string& control, const std::string& rule) {
  return {ErrorCode::kUsage, fmt::format("--control {}: {}", control, rule)};
}

std::vector<std::string> Split(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

double Number(const std::string& control, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') throw BadControl(control, fmt::format("\"{}\" is no number", text));
  return value;
}

std::vector<double> Numbers(const std::string& control, const std::string& list) {
  std::vector<double> out;
  for (const std::string& part : Split(list)) out.push_back(Number(control, part));
  return out;
}

std::vector<int64_t> WholeNumbers(const std::string& control, const std::string& list) {
  constexpr double kMax = 1e9;  // far above any count of experts
  std::vector<int64_t> out;
  for (const double value : Numbers(control, list)) {
    if (!(value >= -kMax && value <= kMax) || value != static_cast<double>(static_cast<int64_t>(value)))
      throw BadControl(control, "must be whole numbers");
    out.push_back(static_cast<int64_t>(value));
  }
  return out;
}

double NotNegative(const std::string& control, const std::string& text) {
  const double value = Number(control, text);
  if (!(value >= 0)) throw BadControl(control, "must be 0 or more");
  return value;
}

constexpr std::array<const char*, 9> kControls = {"path_scale",    "workspace_read",     "pkm_read",
                                                  "landmarks",     "router_temperature", "moe_top_k",
                                                  "force_experts", "ban_experts",        "expert_bias"};

void SetControl(const std::string& control, const std::string& key, const std::string& value, Controls* c) {
  if (key == "path_scale") {
    const auto parts = Split(value);
    if (parts.size() != c->path_scale.size()) throw BadControl(control, "must be three numbers: ssm,sga,moe");
    for (size_t i = 0; i < parts.size(); ++i) c->path_scale[i] = NotNegative(control, parts[i]);
  } else if (key == "workspace_read") {
    c->workspace_read = NotNegative(control, value);
  } else if (key == "pkm_read") {
    c->pkm_read = NotNegative(control, value);
  } else if (key == "landmarks") {
    if (value != "on" && value != "off") throw BadControl(control, "must be on or off");
    c->landmarks = value == "on";
  } else if (key == "router_temperature") {
    c->router_temperature = Number(control, value);
  } else if (key == "moe_top_k") {
    const auto numbers = WholeNumbers(control, value);
    if (numbers.size() != 1) throw BadControl(control, "must be one number");
    c->moe_top_k = numbers[0];
  } else if (key == "force_experts") {
    c->force_experts = WholeNumbers(control, value);
  } else if (key == "ban_experts") {
    c->ban_experts = WholeNumbers(control, value);
  } else if (key == "expert_bias") {
    c->expert_bias = Numbers(control, value);
  } else {
    throw BadControl(control, fmt::format("unknown control {}{}", key, DidYouMean(key, kControls)));
  }
}

}  // namespace

void AddModelFlags(CLI::App* verb, ModelFlags* flags) {
  verb->add_option("-m,--model", flags->model, "model folder, .gguf or .safetensors")->type_name("PATH");
  verb->add_option("-t,--threads", flags->threads, "threads; 0 = physical cores")->check(Range(0, 1024));
  verb->add_option("--device", flags->device, "auto or cpu; LibTorch takes cuda or cuda:N too")->type_name("DEVICE");
  verb->add_option("--control", flags->controls, "KEY=VALUE, repeatable, such as ban_experts=0,3")
      ->type_name("KEY=VALUE");
}

void AddStateFlags(CLI::App* verb, std::string* kv_dtype, std::string* state_dtype) {
  verb->add_option("--kv-dtype", *kv_dtype, "keys and values as f32, bf16, f16 or q8_0")->type_name("TYPE");
  verb->add_option("--state-dtype", *state_dtype, "Mamba-2's recurrent state as f32 or bf16")->type_name("TYPE");
}

void AddRuntimeFlags(CLI::App* verb, ModelFlags* flags) {
  CLI::Option* ctx = verb->add_option("-c,--ctx-size", flags->ctx,
                                      "tokens a sequence, at most the model's unless given; 0 = the model's")
                         ->check(Range(0, 1 << 27));
  verb->parse_complete_callback([flags, ctx] { flags->ctx_given = ctx->count() > 0; });
  AddStateFlags(verb, &flags->kv_dtype, &flags->state_dtype);
  verb->add_option("--target", flags->target, "SIMD level, such as avx2 or scalar")->type_name("NAME");
  verb->add_flag("--explain", flags->explain, "print SIMD level and kernels, and why");
}

void AddActivationFlag(CLI::App* verb, ModelFlags* flags) {
  verb->add_option("--act", flags->act, "activations in products: f32, q8 (int8 blocks), auto")->type_name("TYPE");
}

Controls ParseControls(const std::vector<std::string>& controls) {
  Controls out;
  for (const std::string& control : controls) {
    const size_t equals = control.find('=');
    if (equals == std::string::npos) throw BadControl(control, "must be KEY=VALUE");
    SetControl(control, control.substr(0, equals), control.substr(equals + 1), &out);
  }
  return out;
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
  verb->add_option("--ids", flags->ids, "token ids instead of text, such as 1,2,3")->delimiter(',');
  verb->add_option("--engine", flags->engine, "runtime, or torch: the training form, fp32")
      ->check(CLI::IsMember({"runtime", "torch"}));
  verb->add_option("-o,--output", flags->output, "the .npy file to write")->required()->type_name("FILE.npy");
}

std::vector<int32_t> InputIds(const LogitsFlags& flags, const CLI::App* verb, int64_t vocab) {
  const auto text = PromptText(verb, flags.text, flags.file);
  if (text && !flags.ids.empty()) throw Error(ErrorCode::kUsage, "logits: give one of -p, -f and --ids");
  std::vector<int64_t> ids = flags.ids;
  if (text)
    for (const int32_t id : Tokenizer::Load(flags.model.model).Encode(*text)) ids.push_back(id);
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
