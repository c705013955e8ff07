// SPDX-License-Identifier: Apache-2.0
// Parsing of model, device and control flags.
#include "hydra/cli/torch_model_flags.h"

#include <sstream>
#include <thread>

#include "hydra/cli/cli.h"
#include "hydra/core/error.h"
#include "hydra/core/file.h"
#include "hydra/nn/model_io.h"
#include "hydra/train/device.h"

namespace hydra::cli {
namespace {

std::vector<std::string> Split(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

double Number(const std::string& control, const std::string& text) {
  size_t end = 0;
  double value = 0;
  try {
    value = std::stod(text, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  if (end == 0 || end != text.size()) throw Error(ErrorCode::kUsage, StrCat("--control ", control, ": \"", text, "\" is no number"));
  return value;
}

std::vector<double> Numbers(const std::string& control, const std::string& list) {
  std::vector<double> out;
  for (const std::string& part : Split(list)) out.push_back(Number(control, part));
  return out;
}

std::vector<int64_t> Ids(const std::string& control, const std::string& list) {
  std::vector<int64_t> out;
  for (const double value : Numbers(control, list)) {
    if (value != static_cast<double>(static_cast<int64_t>(value))) throw Error(ErrorCode::kUsage, StrCat("--control ", control, ": must be whole numbers"));
    out.push_back(static_cast<int64_t>(value));
  }
  return out;
}

double NotNegative(const std::string& control, const std::string& text) {
  const double value = Number(control, text);
  if (!(value >= 0)) throw Error(ErrorCode::kUsage, StrCat("--control ", control, ": must be 0 or more"));
  return value;
}

void SetControl(const std::string& control, const std::string& key, const std::string& value, nn::ForwardOptions* o) {
  if (key == "force_experts") {
    o->force_experts = Ids(control, value);
  } else if (key == "ban_experts") {
    o->ban_experts = Ids(control, value);
  } else if (key == "expert_bias") {
    o->expert_bias = Numbers(control, value);
  } else if (key == "router_temperature") {
    o->router_temperature = Number(control, value);
  } else if (key == "moe_top_k") {
    const auto ids = Ids(control, value);
    if (ids.size() != 1) throw Error(ErrorCode::kUsage, StrCat("--control ", control, ": must be one number"));
    o->moe_top_k = ids[0];
  } else if (key == "path_scale") {
    const auto parts = Split(value);
    if (parts.size() != 3) throw Error(ErrorCode::kUsage, StrCat("--control ", control, ": must be three numbers: ssm,sga,moe"));
    for (size_t i = 0; i < 3; ++i) o->path_scale[i] = NotNegative(control, parts[i]);
  } else if (key == "workspace_read") {
    o->workspace_read = NotNegative(control, value);
  } else if (key == "pkm_read") {
    o->pkm_read = NotNegative(control, value);
  } else if (key == "landmarks") {
    if (value != "on" && value != "off") throw Error(ErrorCode::kUsage, StrCat("--control ", control, ": must be on or off"));
    o->landmarks = value == "on";
  } else {
    const std::vector<std::string> known = {"force_experts", "ban_experts", "expert_bias", "router_temperature", "moe_top_k",
                                            "path_scale", "workspace_read", "pkm_read", "landmarks"};
    throw Error(ErrorCode::kUsage, StrCat("--control ", control, ": unknown control ", key, DidYouMean(key, known)));
  }
}

}  // namespace

void AddModelFlags(CLI::App* verb, ModelFlags* flags) {
  verb->add_option("-m,--model", flags->model, "model folder")->type_name("PATH");
  verb->add_option("--device", flags->device, "auto, cpu, cuda or cuda:N")->type_name("DEVICE");
  verb->add_option("-t,--threads", flags->threads, "threads; 0 = all cores")->check(Range(0, 1024));
  verb->add_option("--control", flags->controls, "KEY=VALUE, repeatable, such as ban_experts=0,3")->type_name("KEY=VALUE");
}

nn::ForwardOptions ParseControls(const std::vector<std::string>& controls) {
  nn::ForwardOptions options;
  for (const std::string& control : controls) {
    const size_t equals = control.find('=');
    if (equals == control.npos) throw Error(ErrorCode::kUsage, StrCat("--control ", control, ": must be KEY=VALUE"));
    SetControl(control, control.substr(0, equals), control.substr(equals + 1), &options);
  }
  return options;
}

nn::Model OpenModel(const ModelFlags& flags) {
  at::set_num_threads(flags.threads > 0 ? flags.threads : static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  return nn::LoadModel(flags.model, {.device = train::ResolveDevice(flags.device).device});
}

std::optional<std::string> PromptText(const CLI::App* verb, const std::string& text, const std::string& file) {
  if (verb->count("-p") > 0) return text;
  if (verb->count("-f") > 0) return ReadFile(file == "-" ? "/dev/stdin" : file);
  return std::nullopt;
}

}  // namespace hydra::cli
