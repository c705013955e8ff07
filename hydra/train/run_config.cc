// SPDX-License-Identifier: Apache-2.0
// run.toml: one list of fields, walked by reading, writing and comparing.
#include "hydra/train/run_config.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/train/run_values.h"
#include "hydra/train/toml_json.h"

namespace hydra::train {

void ReadJson(const nlohmann::ordered_json& value, const std::string& field, LrShape* out) {
  std::string name;
  ReadJson(value, field, &name);
  if (name == "cosine") {
    *out = LrShape::kCosine;
  } else if (name == "wsd") {
    *out = LrShape::kWsd;
  } else if (name == "wsd_exp") {
    *out = LrShape::kWsdExp;
  } else {
    throw Error(ErrorCode::kConfig, StrCat(field, " = \"", name, "\": must be cosine, wsd or wsd_exp"));
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
  v("optim.half_life", c.optim.half_life, kAtLeast1);
  v("optim.betas", c.optim.betas, kBelow1);
  v("optim.eps", c.optim.eps, Bounds{1e-30, 1});
  v("optim.weight_decay", c.optim.weight_decay, Bounds{0, 100});
  v("optim.clip", c.optim.clip, kAtLeast0);
  v("optim.pkm_table_lr", c.optim.pkm_table_lr, Bounds{0, 1e6});
  v("optim.published_groups", c.optim.published_groups, kAny);
  v("blockffn.al_weight", c.blockffn.al_weight, kAtLeast0);
  v("blockffn.al_alpha", c.blockffn.al_alpha, Bounds{1e-6, 1e6});
  v("blockffn.l1_weight", c.blockffn.l1_weight, kAtLeast0);
  v("blockffn.cs_weight", c.blockffn.cs.first, kAtLeast0);
  v("blockffn.cs_chunk", c.blockffn.cs_chunk, Bounds{1, 1 << 20});
  v("blockffn.cs_start", c.blockffn.cs.start, kAtLeast0);
  v("blockffn.cs_adjust", c.blockffn.cs.adjust, kAtLeast1);
  v("blockffn.cs_growth_min", c.blockffn.cs.growth_min, Bounds{1, 100});
  v("blockffn.cs_max_factor", c.blockffn.cs.max_factor, Bounds{1, 1e6});
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
  v("eval.part_tokens", c.eval.part_tokens, kAtLeast0);
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
    if (section == "stage" || section == "curriculum") continue;  // read by ReadStages and TakeCurriculum
    const bool known = section == "moe" || std::find(sections.begin(), sections.end(), section) != sections.end();
    if (!known)
      throw Error(ErrorCode::kConfig,
                  StrCat(where, ": unknown section [", section, "]", DidYouMean(section, sections)));
    if (!fields.is_object())
      throw Error(ErrorCode::kConfig,
                  StrCat(where, ": ", section, " = ", JsonExcerpt(fields), ": must be a section [", section, "]"));
    if (section == "model" || section == "moe") continue;  // the model's keys, and TakeMoe's
    for (const auto& [key, ignored] : fields.items()) {
      const std::string name = section + "." + key;
      if (std::find(keys.begin(), keys.end(), name) == keys.end())
        throw Error(ErrorCode::kConfig, StrCat(where, ": unknown key ", name, DidYouMean(name, keys)));
    }
  }
}

// curriculum = "default" or "none", [[stage]]: what is given last replaces what was given before.
void TakeCurriculum(const Json& root, const std::string& where, RunConfig* config) {
  const bool named = root.contains("curriculum"), listed = root.contains("stage");
  if (named && listed) throw Error(ErrorCode::kConfig, where + ": curriculum and [[stage]]: only one can be given");
  if (named) {
    ReadJson(root["curriculum"], where + ": curriculum", &config->curriculum);
    if (config->curriculum != "default" && config->curriculum != "none")
      throw Error(ErrorCode::kConfig, StrCat(where, ": curriculum = \"", config->curriculum,
                                             "\": must be default or none; stages of your own are tables [[stage]]"));
    if (config->curriculum == "none") config->curriculum.clear();
    config->stages.clear();
  }
  if (!listed) return;
  config->stages = ReadStages(root["stage"], where);
  config->curriculum.clear();
}

// Keys of [moe] and the keys of config.json that they stand for.
constexpr std::pair<const char*, const char*> kMoeKeys[] = {{"domains", "expert_domains"},
                                                            {"domain_coef", "expert_domain_loss_coef"}};

// [moe]: domains = { NAME = [experts], .. }, domain_coef.
void TakeMoe(const Json& root, const std::string& where, nlohmann::json* overrides) {
  if (!root.contains("moe")) return;
  std::vector<std::string> known;
  for (const auto& [key, ignored] : kMoeKeys) known.emplace_back(key);
  for (const auto& [key, value] : root["moe"].items()) {
    const auto* const at = std::ranges::find(kMoeKeys, key, [](const auto& pair) { return std::string(pair.first); });
    if (at == std::end(kMoeKeys))
      throw Error(ErrorCode::kConfig, StrCat(where, ": unknown key moe.", key, DidYouMean(key, known)));
    if (root.contains("model") && root["model"].contains(at->second))
      throw Error(ErrorCode::kConfig,
                  StrCat(where, ": moe.", key, " and model.", at->second, ": only one can be given"));
    (*overrides)[at->second] = value;
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
  TakeCurriculum(root, where, config);
  auto overrides = nlohmann::json::parse(config->model.overrides);  // sorted: each key is found in no time
  TakeMoe(root, where, &overrides);
  const Json model = root.contains("model") ? root["model"] : Json::object();
  // A later preset or config replaces an earlier one, it does not stand beside it.
  if (model.contains("preset") && !model.contains("config") && !config->model.preset.empty())
    config->model.config.clear();
  if (model.contains("config") && !model.contains("preset") && !config->model.config.empty())
    config->model.preset.clear();
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
  if (key == "curriculum") return Json{{key, value}};
  if (key.starts_with("stage."))
    throw Error(ErrorCode::kUsage, StrCat(where, ": stages are given in a run file, as tables [[stage]]"));
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
  if (!config.curriculum.empty()) out = StrCat("curriculum = ", Text(config.curriculum), "\n");
  const auto write = [&](const char* name, const auto& field, const Bounds&) {
    const std::string key(name);
    const size_t dot = key.find('.');
    if (key.substr(0, dot) != section) {
      // The keys of config.json end their section.
      if (section == "model") {
        const auto overrides = nlohmann::json::parse(config.model.overrides);
        for (const auto& [k, v] : overrides.items()) out += StrCat(k, " = ", TomlText(v), "\n");
      }
      section = key.substr(0, dot);
      out += StrCat(out.empty() ? "" : "\n", "[", section, "]\n");
    }
    out += StrCat(key.substr(dot + 1), " = ", Text(field), "\n");
  };
  VisitRunFields(write, config);
  return out + StagesToml(config.stages);
}

std::vector<std::string> CompareRunConfigs(const RunConfig& a, const RunConfig& b) {
  std::vector<std::string> left, right, names = RunConfigKeys(), out;
  VisitRunFields([&](const char*, const auto& field, const Bounds&) { left.push_back(Text(field)); }, a);
  VisitRunFields([&](const char*, const auto& field, const Bounds&) { right.push_back(Text(field)); }, b);
  for (size_t i = 0; i < names.size(); ++i)
    if (left[i] != right[i] && names[i].rfind("model.", 0) != 0)
      out.push_back(StrCat(names[i], ": ", left[i], " != ", right[i]));
  const std::vector<std::string> stages = CompareStages(a.stages, b.stages);
  out.insert(out.end(), stages.begin(), stages.end());
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
  if (curriculum.empty() && stages.empty()) return;
  for (const auto& [name, schedule] :
       {std::pair("optim.batch_rows", &optim.batch_rows), {"optim.seq_len", &optim.seq_len}})
    if (schedule->points().size() > 1)
      fail(StrCat(name, " = ", schedule->Text(), ": must be a number where there are stages, which have their own"));
}

std::vector<StageSpan> RunConfig::StageSpans() const {
  std::vector<StageSpan> spans;
  const auto rows = optim.batch_rows.MaxValue(), seq_len = optim.seq_len.MaxValue();
  double share = 0;
  for (const Stage& stage : stages) {
    StageSpan span{.first = spans.empty() ? 0 : spans.back().first + spans.back().steps};
    span.seq_len = stage.seq_len > 0 ? stage.seq_len : seq_len;
    span.rows = stage.batch_rows > 0 ? stage.batch_rows : std::max<int64_t>(1, rows * seq_len / span.seq_len);
    share += stage.share;
    if (optim.steps > 0) {
      span.steps = std::llround(share * static_cast<double>(optim.steps)) - span.first;
    } else {
      const auto step = static_cast<double>(span.rows * span.seq_len * optim.accum);
      span.steps = std::llround(stage.share * static_cast<double>(optim.tokens) / step);
    }
    if (span.steps < 1)
      throw Error(ErrorCode::kConfig, StrCat(file, file.empty() ? "" : ": ", "stage \"", stage.name, "\": share = ",
                                             stage.share, " of the run is no step: the run is too short"));
    spans.push_back(span);
  }
  return spans;
}

int64_t RunConfig::MostRows() const {
  int64_t most = stages.empty() ? optim.batch_rows.MaxValue() : 0;
  for (const StageSpan& span : StageSpans()) most = std::max(most, span.rows);
  return most;
}

int64_t RunConfig::MostSeqLen() const {
  int64_t most = stages.empty() ? optim.seq_len.MaxValue() : 0;
  for (const StageSpan& span : StageSpans()) most = std::max(most, span.seq_len);
  return most;
}

int64_t RunConfig::MostTokens() const {
  int64_t most = stages.empty() ? optim.batch_rows.MaxValue() * optim.seq_len.MaxValue() : 0;
  for (const StageSpan& span : StageSpans()) most = std::max(most, span.rows * span.seq_len);
  return most;
}

int64_t RunConfig::TotalSteps() const {
  if (!stages.empty() && optim.steps + optim.tokens > 0) {
    const StageSpan last = StageSpans().back();
    return last.first + last.steps;
  }
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
          .decay_share = optim.decay_share,
          .half_life = optim.half_life};
}

void ResolveCurriculum(const ModelConfig& model, RunConfig* config) {
  if (config->curriculum == "default") config->stages = DefaultCurriculum(model);
  config->curriculum.clear();
  CheckStages(config->stages, model, config->file);
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
