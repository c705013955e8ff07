// SPDX-License-Identifier: Apache-2.0
// run.toml: one list of fields, walked by reading, writing and comparing.
#include "hydra/train/run_config.h"

#include <toml++/toml.h>
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra::train {

void ReadJson(const nlohmann::ordered_json& value, const std::string& field, LrShape* out) {
  std::string name;
  ReadJson(value, field, &name);
  if (name == "cosine") {
    *out = LrShape::kCosine;
  } else if (name == "wsd") {
    *out = LrShape::kWsd;
  } else {
    throw Error(ErrorCode::kConfig, StrCat(field, " = \"", name, "\": must be cosine or wsd"));
  }
}

void ReadJson(const nlohmann::ordered_json& value, const std::string& field, OptimizerKind* out) {
  std::string name;
  ReadJson(value, field, &name);
  if (name == "adamw") {
    *out = OptimizerKind::kAdamW;
  } else if (name == "adafactor") {
    *out = OptimizerKind::kAdafactor;
  } else {
    throw Error(ErrorCode::kConfig, StrCat(field, " = \"", name, "\": must be adamw or adafactor"));
  }
}

namespace {

using Json = nlohmann::ordered_json;

struct Bounds {
  double low = 0, high = 1e15;
};
constexpr Bounds kAtLeast0{0, 1e15}, kAtLeast1{1, 1e15}, kShare{0, 1}, kBelow1{0, 0.9999999}, kAny{-1e300, 1e300};

// Calls v("section.key", field, bounds) for every field but the keys of config.json.
template <class Visitor, class Config>
void VisitRunFields(Visitor&& v, Config& c) {
  v("model.preset", c.model.preset, kAny);
  v("model.config", c.model.config, kAny);
  v("data.dir", c.data.dir, kAny);
  v("data.tokenizer", c.data.tokenizer, kAny);
  v("optim.steps", c.optim.steps, kAtLeast0);
  v("optim.tokens", c.optim.tokens, kAtLeast0);
  v("optim.batch_rows", c.optim.batch_rows, Bounds{1, 1 << 20});
  v("optim.seq_len", c.optim.seq_len, Bounds{2, 1 << 24});
  v("optim.accum", c.optim.accum, Bounds{1, 1 << 20});
  v("optim.seed", c.optim.seed, kAtLeast0);
  v("optim.optimizer", c.optim.optimizer, kAny);
  v("optim.checkpoint_blocks", c.optim.checkpoint_blocks, kAny);
  v("optim.lr", c.optim.lr, Bounds{0, 100});
  v("optim.schedule", c.optim.schedule, kAny);
  v("optim.warmup_steps", c.optim.warmup_steps, kAtLeast0);
  v("optim.min_lr_ratio", c.optim.min_lr_ratio, kShare);
  v("optim.decay_share", c.optim.decay_share, kShare);
  v("optim.betas", c.optim.betas, kBelow1);
  v("optim.eps", c.optim.eps, Bounds{1e-30, 1});
  v("optim.weight_decay", c.optim.weight_decay, Bounds{0, 100});
  v("optim.clip", c.optim.clip, kAtLeast0);
  v("optim.pkm_table_lr", c.optim.pkm_table_lr, Bounds{0, 1e6});
  v("log.every", c.log.every, kAtLeast1);
  v("log.peak_flops", c.log.peak_flops, Bounds{0, 1e20});
  v("checkpoint.every", c.checkpoint.every, kAtLeast0);
  v("checkpoint.keep", c.checkpoint.keep, Bounds{1, 1e6});
  v("guard.nonfinite_stop", c.guard.nonfinite_stop, kAtLeast0);
  v("guard.sigma", c.guard.sigma, kAtLeast0);
  v("guard.window", c.guard.window, Bounds{2, 1e6});
  v("guard.max_skip_share", c.guard.max_skip_share, kShare);
  v("guard.val_rise", c.guard.val_rise, kAtLeast0);
  v("guard.val_times", c.guard.val_times, kAtLeast0);
  v("guard.dead_expert_steps", c.guard.dead_expert_steps, kAtLeast0);
  v("eval.every", c.eval.every, kAtLeast0);
  v("eval.tokens", c.eval.tokens, kAtLeast0);
}

// ---- Values ----

// Whole numbers with all their digits.
std::string BoundText(double value) {
  const bool whole = std::abs(value) < 1e15 && value == std::floor(value);
  return whole ? std::to_string(static_cast<int64_t>(value)) : StrCat(value);
}

void CheckBounds(double value, const std::string& field, const Bounds& bounds) {
  CheckNumber(value, field);
  if (value >= bounds.low && value <= bounds.high) return;
  const std::string low = BoundText(bounds.low), high = BoundText(bounds.high);
  std::string rule = StrCat(low, " to ", high);
  if (bounds.high >= 1e15) rule = value < bounds.low ? StrCat(">= ", low) : StrCat("at most ", high);
  throw Error(ErrorCode::kConfig, StrCat(field, " = ", BoundText(value), ": must be ", rule));
}

template <class T>
void CheckBounds(const T& value, const std::string& field, const Bounds& bounds) {
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    CheckBounds(static_cast<double>(value), field, bounds);
  } else if constexpr (std::is_same_v<T, std::array<double, 2>>) {
    for (const double x : value) CheckBounds(x, field, bounds);
  } else if constexpr (std::is_same_v<T, StepSchedule>) {
    for (const StepSchedule::Point& point : value.points()) CheckBounds(point.value, field, bounds);
  }
}

std::string Text(int64_t value) { return std::to_string(value); }
std::string Text(double value) { return nlohmann::json(value).dump(); }    // shortest that reads back equal
std::string Text(const std::string& value) { return Json(value).dump(); }  // JSON's escapes are TOML's, too
std::string Text(const StepSchedule& value) { return value.Text(); }
std::string Text(bool value) { return value ? "true" : "false"; }
std::string Text(OptimizerKind value) { return value == OptimizerKind::kAdamW ? "\"adamw\"" : "\"adafactor\""; }
std::string Text(LrShape value) { return value == LrShape::kCosine ? "\"cosine\"" : "\"wsd\""; }
std::string Text(const std::array<double, 2>& value) { return StrCat("[", Text(value[0]), ", ", Text(value[1]), "]"); }

// ---- TOML to JSON, so that every file of ours is read by the same typed readers ----

// An integer that is written as people write one; 0x10, 0o20 and 0b10000 are TOML, but no flag of ours takes them
// either.
int64_t DecimalOf(const toml::value<int64_t>& value, const std::string& field) {
  if (value.flags() != toml::value_flags::none)
    throw Error(ErrorCode::kConfig,
                StrCat(field, " = ", value.get(), ", written in another base: must be a decimal number"));
  return value.get();
}

// A finite number that f32 can hold. One key may be infinite; config.json, which has no such number, has a word for it.
Json NumberOf(double value, const std::string& field, const std::string& key) {
  if (std::isinf(value) && value > 0 && key.starts_with("model.time_step_limit[")) return "inf";
  CheckNumber(value, field);
  return value;
}

// `key` is the way to the node, as "optim.lr"; `where` names the file. Nothing of ours lies deeper than kMostLevels.
Json ToJson(const toml::node& node, const std::string& where, const std::string& key, int level = 0) {
  constexpr int kMostLevels = 16;
  const std::string field = StrCat(where, ": ", key);
  if (level > kMostLevels)
    throw Error(ErrorCode::kConfig, StrCat(field, ": nested deeper than ", kMostLevels, " levels"));
  if (const auto* table = node.as_table()) {
    Json out = Json::object();
    // Straight into the list of members, for Json would look through all of them for each new key.
    auto& members = out.get_ref<Json::object_t&>();
    for (const auto& [name, value] : *table)
      members.emplace_back(std::string(name.str()),
                           ToJson(value, where, StrCat(key, key.empty() ? "" : ".", name.str()), level + 1));
    return out;
  }
  if (const auto* array = node.as_array()) {
    Json out = Json::array();
    for (const auto& value : *array) out.push_back(ToJson(value, where, StrCat(key, "[", out.size(), "]"), level + 1));
    return out;
  }
  if (const auto* value = node.as_string()) return value->get();
  if (const auto* value = node.as_integer()) return DecimalOf(*value, field);
  if (const auto* value = node.as_floating_point()) return NumberOf(value->get(), field, key);
  if (const auto* value = node.as_boolean()) return value->get();
  throw Error(ErrorCode::kConfig, field + ": dates and times are no values here");
}

// The library goes down a key of many parts (a.b.c) by recursion, until the stack ends.
void CheckDots(std::string_view text, const std::string& where) {
  constexpr int kMostDots = 1000;
  int64_t line = 1;
  int dots = 0;
  for (const char c : text) {
    if (c == '\n') ++line, dots = 0;
    if (c == '.' && ++dots > kMostDots)
      throw Error(ErrorCode::kConfig, StrCat(where, ":", line, ": more than ", kMostDots, " dots in a line"));
  }
}

Json ParseToml(const std::string& text, const std::string& where) {
  CheckDots(text, where);
  try {
    return ToJson(toml::parse(text), where, "");
  } catch (const toml::parse_error& error) {
    std::string what(error.description());
    std::replace(what.begin(), what.end(), '\n', ' ');
    throw Error(ErrorCode::kConfig, StrCat(where, ":", error.source().begin.line, ": ", what));
  }
}

// The value of KEY=VALUE; what is no TOML value is text: --set model.preset=hydra-nano.
Json ParseTomlValue(const std::string& text, const std::string& where, const std::string& key) {
  CheckDots(text, StrCat(where, " ", key));
  toml::table table;
  try {
    table = toml::parse("v = " + text);
  } catch (const toml::parse_error&) {
    return text;
  }
  return ToJson(*table.get("v"), where, key);
}

// ---- Reading ----

std::vector<std::string> Sections() {
  std::vector<std::string> out;
  for (const std::string& key : RunConfigKeys()) {
    const std::string section = key.substr(0, key.find('.'));
    if (out.empty() || out.back() != section) out.push_back(section);
  }
  return out;
}

// Every key must be a field, or a key of config.json under [model]; those are checked with the model.
void CheckKeys(const Json& root, const std::string& where) {
  const std::vector<std::string> keys = RunConfigKeys(), sections = Sections();
  for (const auto& [section, fields] : root.items()) {
    if (std::find(sections.begin(), sections.end(), section) == sections.end())
      throw Error(ErrorCode::kConfig,
                  StrCat(where, ": unknown section [", section, "]", DidYouMean(section, sections)));
    if (!fields.is_object())
      throw Error(ErrorCode::kConfig,
                  StrCat(where, ": ", section, " = ", JsonExcerpt(fields), ": must be a section [", section, "]"));
    if (section == "model") continue;
    for (const auto& [key, ignored] : fields.items()) {
      const std::string name = section + "." + key;
      if (std::find(keys.begin(), keys.end(), name) == keys.end())
        throw Error(ErrorCode::kConfig, StrCat(where, ": unknown key ", name, DidYouMean(name, keys)));
    }
  }
}

// Takes what `root` holds into `config`.
void Apply(const Json& root, const std::string& where, RunConfig* config) {
  CheckKeys(root, where);
  const auto read = [&](const char* name, auto& field, const Bounds& bounds) {
    const std::string key(name);
    const size_t dot = key.find('.');
    const std::string section = key.substr(0, dot), rest = key.substr(dot + 1);
    if (!root.contains(section) || !root[section].contains(rest)) return;
    ReadJson(root[section][rest], StrCat(where, ": ", key), &field);
    CheckBounds(field, StrCat(where, ": ", key), bounds);
  };
  VisitRunFields(read, *config);
  if (!root.contains("model")) return;
  // A later preset or config replaces an earlier one, it does not stand beside it.
  const Json& model = root["model"];
  if (model.contains("preset") && !model.contains("config") && !config->model.preset.empty())
    config->model.config.clear();
  if (model.contains("config") && !model.contains("preset") && !config->model.config.empty())
    config->model.preset.clear();
  auto overrides = nlohmann::json::parse(config->model.overrides);  // sorted: each key is found in no time
  for (const auto& [key, value] : model.items())
    if (key != "preset" && key != "config") overrides[key] = value;
  config->model.overrides = overrides.dump();
}

void CheckPreset(const std::string& name, const std::string& where) {
  const std::vector<std::string> known = PresetNames();
  if (name.empty() || std::find(known.begin(), known.end(), name) != known.end()) return;
  std::string list;
  for (const std::string& preset : known) list += " " + preset;
  throw Error(ErrorCode::kConfig,
              StrCat(where, ": model.preset = \"", name, "\": unknown", DidYouMean(name, known), "; there are:", list));
}

// "optim.lr=3e-4" as a document of its own.
Json ParseSetting(const std::string& setting) {
  const size_t equals = setting.find('=');
  const std::string where = StrCat("--set ", setting);
  if (equals == std::string::npos || equals == 0)
    throw Error(ErrorCode::kUsage, StrCat(where, ": must be KEY=VALUE, as in optim.lr=3e-4"));
  std::string key = setting.substr(0, equals), value = setting.substr(equals + 1);
  const size_t dot = key.find('.');
  if (dot == std::string::npos) {
    std::vector<std::string> names;
    for (const std::string& name : RunConfigKeys()) {
      names.push_back(name);
      if (name.substr(name.find('.') + 1) == key)
        throw Error(ErrorCode::kUsage, StrCat(where, ": unknown key ", key, " (did you mean ", name, "?)"));
    }
    throw Error(ErrorCode::kUsage, StrCat(where, ": unknown key ", key, DidYouMean(key, names)));
  }
  return Json{{key.substr(0, dot), Json{{key.substr(dot + 1), ParseTomlValue(value, "--set", key)}}}};
}

}  // namespace

std::vector<std::string> RunConfigKeys() {
  std::vector<std::string> out;
  RunConfig config;
  VisitRunFields([&](const char* name, auto&, const Bounds&) { out.emplace_back(name); }, config);
  return out;
}

RunConfig ParseRunConfig(const std::string& text, const std::string& where, const std::vector<std::string>& settings) {
  RunConfig config;
  std::string preset_from;  // the file or setting that named the preset
  const auto apply = [&](const Json& root, const std::string& from) {
    Apply(root, from, &config);
    if (root.contains("model") && root["model"].contains("preset")) preset_from = from;
  };
  apply(ParseToml(text, where), where);
  for (const std::string& setting : settings) apply(ParseSetting(setting), StrCat("--set ", setting));
  config.Validate(where);
  CheckPreset(config.model.preset, preset_from);
  return config;
}

RunConfig LoadRunConfig(const std::string& path, const std::vector<std::string>& settings) {
  if (path.empty()) return ParseRunConfig("", "run", settings);
  RunConfig config = ParseRunConfig(ReadFile(path, 16 << 20), path, settings);
  config.file = path;
  return config;
}

std::string RunToml(const RunConfig& config) {
  std::string out, section;
  const auto write = [&](const char* name, const auto& field, const Bounds&) {
    const std::string key(name);
    const size_t dot = key.find('.');
    if (key.substr(0, dot) != section) {
      // The keys of config.json end their section.
      if (section == "model") {
        const auto overrides = nlohmann::json::parse(config.model.overrides);
        for (const auto& [k, v] : overrides.items()) out += StrCat(k, " = ", v.dump(), "\n");
      }
      section = key.substr(0, dot);
      out += StrCat(out.empty() ? "" : "\n", "[", section, "]\n");
    }
    out += StrCat(key.substr(dot + 1), " = ", Text(field), "\n");
  };
  VisitRunFields(write, config);
  return out;
}

std::vector<std::string> CompareRunConfigs(const RunConfig& a, const RunConfig& b) {
  std::vector<std::string> left, right, names = RunConfigKeys(), out;
  VisitRunFields([&](const char*, const auto& field, const Bounds&) { left.push_back(Text(field)); }, a);
  VisitRunFields([&](const char*, const auto& field, const Bounds&) { right.push_back(Text(field)); }, b);
  for (size_t i = 0; i < names.size(); ++i)
    if (left[i] != right[i] && names[i].rfind("model.", 0) != 0)
      out.push_back(StrCat(names[i], ": ", left[i], " != ", right[i]));
  return out;
}

void RunConfig::Validate(const std::string& where) const {
  const auto fail = [&](const std::string& text) { throw Error(ErrorCode::kConfig, StrCat(where, ": ", text)); };
  if (!model.preset.empty() && !model.config.empty())
    fail(StrCat("model.preset = \"", model.preset, "\" and model.config = \"", model.config,
                "\": only one can be given"));
  if (optim.steps > 0 && optim.tokens > 0)
    fail(StrCat("optim.steps = ", optim.steps, " and optim.tokens = ", optim.tokens, ": only one can be given"));
  if (optim.seq_len.MaxValue() > (int64_t{1} << 31) / optim.batch_rows.MaxValue())
    fail(StrCat("optim.batch_rows = ", optim.batch_rows.Text(), ", optim.seq_len = ", optim.seq_len.Text(),
                ": a micro-batch has at most 2^31 tokens"));
}

int64_t RunConfig::TotalSteps() const {
  if (optim.steps > 0) return optim.steps;
  if (optim.tokens > 0) return StepsForTokens(optim.tokens, optim.batch_rows, optim.seq_len, optim.accum);
  throw Error(ErrorCode::kConfig,
              StrCat(file, file.empty() ? "" : ": ",
                     "optim.steps: missing: give the length of the run as --steps or optim.tokens"));
}

LrSchedule RunConfig::Lr() const {
  return {.shape = optim.schedule,
          .peak = optim.lr,
          .warmup_steps = optim.warmup_steps,
          .total_steps = TotalSteps(),
          .min_ratio = optim.min_lr_ratio,
          .decay_share = optim.decay_share};
}

ModelConfig ResolveModel(const RunConfig& config, const ModelConfig* base, const std::string& where) {
  ModelConfig model;
  if (!config.model.preset.empty()) {
    model = Preset(config.model.preset);
  } else if (!config.model.config.empty()) {
    model = LoadConfig(config.model.config);
  } else if (base != nullptr) {
    model = *base;
  } else {
    throw Error(ErrorCode::kConfig,
                StrCat(config.file, config.file.empty() ? "" : ": ",
                       "model.preset: missing: give --preset NAME, --model CONFIG or --init MODEL"));
  }
  return OverrideConfig(model, config.model.overrides, where);
}

}  // namespace hydra::train
