// SPDX-License-Identifier: Apache-2.0
// Reads controls from flags and profiles.
#include "hydra/cli/control_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/model/control_table.h"

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

constexpr std::array<const char*, 11> kControls = {
    "path_scale",  "workspace_read", "pkm_read", "landmarks", "router_temperature", "moe_top_k", "force_experts",
    "ban_experts", "expert_bias",    "pins",     "domain"};

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
  } else if (key == "domain") {
    c->ban_experts = ExpertsOutside(config.moe, value);
  } else if (key == "pins") {
    c->pins.clear();
    for (const std::string& part : Split(value))
      c->pins.push_back(ParseWholeNumber(part, 0, INT32_MAX, "--control pins"));
    std::ranges::sort(c->pins);
  } else {  // expert_bias
    c->expert_bias.clear();
    for (const std::string& part : Split(value)) c->expert_bias.push_back(ControlNumber(key, part));
  }
}

// One KEY=VALUE or KEY@LAYER=VALUE.
void Apply(const std::string& control, const ModelConfig& config, Controls* out) {
  const size_t equals = control.find('=');
  if (equals == std::string::npos)
    throw Error(ErrorCode::kUsage, fmt::format("--control {}: must be KEY=VALUE", control));
  const std::string name = control.substr(0, equals), value = control.substr(equals + 1);
  const size_t at = name.find('@');
  const std::string key = name.substr(0, at);
  if (std::ranges::find(kControls, key) == kControls.end())
    throw BadControl(name, value, fmt::format("unknown control {}{}", key, DidYouMean(key, kControls)));
  if (const std::string why = WhyControlIsIgnored(key, config); !why.empty()) throw BadControl(name, value, why);
  if (at == std::string::npos) return SetControl(key, value, config, out);
  if (key == "landmarks" || key == "pins") throw BadControl(name, value, "is for all layers together");
  const int64_t layer = ParseWholeNumber(name.substr(at + 1), 0, config.n_layers() - 1, "--control " + key + "@");
  Controls here = out->Of(layer);
  SetControl(key, value, config, &here);
  SetLayerControl(key == "domain" ? "ban_experts" : key, here, &out->layers[layer]);
}

// "1.2M", "900K", "1234567" parameters.
int64_t BudgetOf(const std::string& text) {
  const std::pair<char, double> units[] = {{'K', 1e3}, {'M', 1e6}, {'B', 1e9}, {'G', 1e9}};
  std::string digits = text;
  double unit = 1;
  for (const auto& [letter, value] : units)
    if (!text.empty() && std::toupper(static_cast<unsigned char>(text.back())) == letter)
      digits = text.substr(0, text.size() - 1), unit = value;
  const double number = ParseNumber(digits, "--budget") * unit;
  constexpr double kMost = 1e15;
  if (!(number >= 1) || number > kMost)
    throw Error(ErrorCode::kUsage, fmt::format("--budget {}: must be a number of parameters, such as 1.5M", text));
  return static_cast<int64_t>(number);
}

ControlTable TableOf(const ModelFlags& flags, const ModelConfig& config) {
  const std::string path = ControlTablePath(flags.model);
  if (std::error_code ignored; !std::filesystem::exists(path, ignored))
    throw Error(ErrorCode::kUsage, fmt::format("--budget {}: {} is not there: hydralm eval controls -m {} --data DIR "
                                               "measures what each setting costs",
                                               flags.budget, path, flags.model));
  return ControlTable::Load(path, config);
}

bool IsPosition(const std::string& pin) {
  return !pin.empty() && std::ranges::all_of(pin, [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

Controls ApplyControls(const ModelFlags& flags, const ModelConfig& config, const Controls& base) {
  Controls out = base;
  if (const std::string& file = flags.control_profile; !file.empty()) {
    constexpr size_t kMostBytes = 1 << 20;
    out = ParseControlsJson(ReadFile(file, kMostBytes), "--control-profile " + file);
    try {
      out.Validate(config);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("--control-profile {}: {}", file, error.what()));
    }
  }
  if (!flags.budget.empty()) {
    if (!flags.control_profile.empty())
      throw Error(ErrorCode::kUsage, "--budget and --control-profile: only one can be given");
    out = TableOf(flags, config).Best(BudgetOf(flags.budget)).controls;
  }
  for (const std::string& control : flags.controls) Apply(control, config, &out);
  out.Validate(config);
  return out;
}

std::string ControlsText(const Controls& controls) {
  const Json changed = Json::parse(ControlsJson(controls)), usual = Json::parse(ControlsJson(Controls()));
  std::string text;
  for (const auto& [key, value] : changed.items()) {
    if (usual.contains(key) && usual[key] == value) continue;
    std::string shown = value.dump();
    if (value.is_array()) shown = shown.substr(1, shown.size() - 2);
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", key, shown);
  }
  return text.empty() ? "the model as it is" : text;
}

std::string ControlTablePath(const std::string& model) {
  std::error_code ignored;
  if (std::filesystem::is_directory(model, ignored)) return (std::filesystem::path(model) / "controls.json").string();
  return model + ".controls.json";
}

std::string BudgetText(const ModelFlags& flags, const ModelConfig& config) {
  if (flags.budget.empty()) return "";
  const ControlTable table = TableOf(flags, config);
  const ControlTable::Row& best = table.Best(BudgetOf(flags.budget));
  return fmt::format("budget       {}: {} active parameters a token of {}: {}; {:.4f} bits per byte, {:.4f} with all\n",
                     flags.budget, WithCommas(static_cast<uint64_t>(best.active)),
                     WithCommas(static_cast<uint64_t>(table.rows.front().active)), ControlsText(best.controls),
                     best.loss, table.rows.front().loss);
}

void AddPinFlag(CLI::App* verb, std::vector<std::string>* pins) {
  verb->add_option("--pin", *pins, "keep the positions of a text of the prompt among the landmarks")
      ->type_name("TEXT|POS");
}

std::vector<int64_t> PinnedPositions(const std::vector<std::string>& pins, const ModelConfig& config) {
  std::vector<int64_t> positions;
  for (const std::string& pin : pins) {
    if (const std::string why = WhyControlIsIgnored("pins", config); !why.empty())
      throw Error(ErrorCode::kUsage, fmt::format("--pin {}: {}", OneLine(pin, 40), why));
    if (pin.empty()) throw Error(ErrorCode::kUsage, "--pin: must be a text or a position: it is empty");
    if (IsPosition(pin)) positions.push_back(ParseWholeNumber(pin, 0, INT32_MAX, "--pin"));
  }
  return positions;
}

std::vector<std::string> PinnedTexts(const std::vector<std::string>& pins) {
  std::vector<std::string> texts;
  for (const std::string& pin : pins)
    if (!IsPosition(pin)) texts.push_back(pin);
  return texts;
}

}  // namespace hydra::cli
