// SPDX-License-Identifier: Apache-2.0
// [[stage]] of run.toml: one list of fields, walked by reading, writing and comparing; rules; the default curriculum.
#include "hydra/train/stage.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "hydra/base/error.h"
#include "hydra/train/run_values.h"

namespace hydra::train {
namespace {

// ---- Values ----

template <class T>
void ReadField(const Json& value, const std::string& field, T* out) {
  ReadJson(value, field, out);
}

void ReadField(const Json& value, const std::string& field, Ramp* out) {
  if (value.is_array()) {
    std::array<double, 2> ends{};
    ReadJson(value, field, &ends);
    *out = {ends[0], ends[1]};
    return;
  }
  double number = 0;
  ReadJson(value, field, &number);
  *out = number;
}

void ReadField(const Json& value, const std::string& field, RouterMode* out) {
  std::string name;
  ReadJson(value, field, &name);
  if (name != "learned" && name != "round_robin")
    throw Error(ErrorCode::kConfig, StrCat(field, " = \"", name, "\": must be learned or round_robin"));
  *out = name == "learned" ? RouterMode::kLearned : RouterMode::kRoundRobin;
}

// A table of which every key is known.
void CheckTable(const Json& value, const std::string& field, const std::vector<std::string>& keys) {
  if (!value.is_object())
    throw Error(ErrorCode::kConfig, StrCat(field, " = ", JsonExcerpt(value), ": must be a table"));
  for (const auto& [key, ignored] : value.items())
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      throw Error(ErrorCode::kConfig, StrCat(field, ": unknown key ", key, DidYouMean(key, keys)));
}

void ReadField(const Json& value, const std::string& field, DataShare* out) {
  CheckTable(value, field, {"path", "share"});
  for (const char* key : {"path", "share"})
    if (!value.contains(key)) throw Error(ErrorCode::kConfig, StrCat(field, ".", key, ": missing"));
  ReadJson(value["path"], field + ".path", &out->path);
  ReadJson(value["share"], field + ".share", &out->share);
  CheckBounds(out->share, field + ".share", kShare);
}

void ReadField(const Json& value, const std::string& field, WatchRule* out) {
  CheckTable(value, field, {"metric", "above", "below", "stop"});
  if (!value.contains("metric")) throw Error(ErrorCode::kConfig, field + ".metric: missing");
  ReadJson(value["metric"], field + ".metric", &out->metric);
  std::replace(out->metric.begin(), out->metric.end(), '.', '/');
  const std::vector<std::string> known = WatchableSeries();
  if (std::find(known.begin(), known.end(), out->metric) == known.end())
    throw Error(ErrorCode::kConfig,
                StrCat(field, ".metric = \"", out->metric, "\": no series of the log", DidYouMean(out->metric, known)));
  if (value.contains("above")) ReadJson(value["above"], field + ".above", &out->above);
  if (value.contains("below")) ReadJson(value["below"], field + ".below", &out->below);
  if (value.contains("stop")) ReadJson(value["stop"], field + ".stop", &out->stop);
  if (!out->above && !out->below) throw Error(ErrorCode::kConfig, field + ": must have above or below");
}

template <class T>
void ReadField(const Json& value, const std::string& field, std::optional<T>* out) {
  ReadField(value, field, &out->emplace());
}

template <class T>
void ReadField(const Json& value, const std::string& field, std::vector<T>* out) {
  if (!value.is_array()) throw Error(ErrorCode::kConfig, StrCat(field, " = ", JsonExcerpt(value), ": must be a list"));
  out->clear();
  for (size_t i = 0; i < value.size(); ++i) ReadField(value[i], StrCat(field, "[", i, "]"), &out->emplace_back());
}

template <class T>
void CheckField(const T& value, const std::string& field, const Bounds& bounds) {
  CheckBounds(value, field, bounds);
}
void CheckField(const Ramp& value, const std::string& field, const Bounds& bounds) {
  CheckBounds(value.from, field, bounds);
  CheckBounds(value.to, field, bounds);
}
template <class T>
void CheckField(const std::optional<T>& value, const std::string& field, const Bounds& bounds) {
  if (value) CheckField(*value, field, bounds);
}

template <class T>
std::string FieldText(const T& value) {
  return Text(value);
}
std::string FieldText(const Ramp& value) {
  return value.from == value.to ? Text(value.from) : StrCat("[", Text(value.from), ", ", Text(value.to), "]");
}
std::string FieldText(const RouterMode& value) {
  return value == RouterMode::kLearned ? "\"learned\"" : "\"round_robin\"";
}
std::string FieldText(const DataShare& value) {
  return StrCat("{ path = ", Text(value.path), ", share = ", Text(value.share), " }");
}
std::string FieldText(const WatchRule& value) {
  std::string out = StrCat("{ metric = ", Text(value.metric));
  if (value.above) out += ", above = " + Text(*value.above);
  if (value.below) out += ", below = " + Text(*value.below);
  return out + (value.stop ? ", stop = true }" : " }");
}
// "" for what is not given.
template <class T>
std::string FieldText(const std::optional<T>& value) {
  return value ? FieldText(*value) : "";
}
template <class T>
std::string FieldText(const std::vector<T>& list) {
  std::string out;
  for (const T& one : list) out += (out.empty() ? "" : ", ") + FieldText(one);
  return list.empty() ? "" : StrCat("[", out, "]");
}

// ---- Fields ----

// Calls v("key", field, bounds) for every field.
template <class Visitor, class StageType>
void VisitStageFields(Visitor&& v, StageType& s) {
  v("name", s.name, kAny);
  v("share", s.share, kShare);
  v("seq_len", s.seq_len, Bounds{0, 1 << 24});
  v("batch_rows", s.batch_rows, Bounds{0, 1 << 20});
  v("parts", s.parts, kAny);
  for (size_t i = 0; i < s.path_scale.size(); ++i)
    v(StrCat("path_scale.", ModelPartName(kModelParts[i])), s.path_scale[i], Bounds{0, 100});
  v("landmarks_from", s.landmarks_from, kShare);
  v("router.mode", s.router_mode, kAny);
  v("router.temperature", s.router_temperature, Bounds{1e-3, 1e3});
  v("router.balance", s.router_balance, Bounds{0, 100});
  v("lr.scale", s.lr_scale, Bounds{0, 100});
  for (size_t i = 0; i < s.lr_parts.size(); ++i)
    v(StrCat("lr.", ModelPartName(kModelParts[i])), s.lr_parts[i], Bounds{0, 1e6});
  v("lr.pkm_table", s.lr_pkm_table, Bounds{0, 1e6});
  v("bias.workspace", s.workspace_bias, Bounds{-100, 100});
  v("bias.pkm", s.pkm_bias, Bounds{-100, 100});
  v("data", s.data, kAny);
  v("watch", s.watches, kAny);
}

std::vector<std::string> FieldNames() {
  std::vector<std::string> names;
  Stage stage;
  VisitStageFields([&](const std::string& name, auto&, const Bounds&) { names.push_back(name); }, stage);
  return names;
}

// {"lr": {"scale": 1}} as {"lr.scale", 1}: tables within a stage are parts of names.
void Flatten(const Json& table, const std::string& prefix, std::vector<std::pair<std::string, const Json*>>* out) {
  for (const auto& [key, value] : table.items()) {
    if (value.is_object())
      Flatten(value, prefix + key + ".", out);
    else
      out->emplace_back(prefix + key, &value);
  }
}

std::string Named(size_t i, const Stage& stage) { return StrCat("stage ", i + 1, " \"", stage.name, "\""); }

Stage ReadStage(const Json& table, const std::string& where) {
  if (!table.is_object())
    throw Error(ErrorCode::kConfig, StrCat(where, " = ", JsonExcerpt(table), ": must be a table [[stage]]"));
  std::vector<std::pair<std::string, const Json*>> given;
  Flatten(table, "", &given);
  const std::vector<std::string> names = FieldNames();
  for (const auto& [name, value] : given)
    if (std::find(names.begin(), names.end(), name) == names.end())
      throw Error(ErrorCode::kConfig, StrCat(where, ": unknown key ", name, DidYouMean(name, names)));
  Stage stage;
  VisitStageFields(
      [&](const std::string& name, auto& field, const Bounds& bounds) {
        for (const auto& [key, value] : given)
          if (key == name) ReadField(*value, StrCat(where, ".", name), &field);
        CheckField(field, StrCat(where, ".", name), bounds);
      },
      stage);
  return stage;
}

}  // namespace

bool Stage::IsOn(ModelPart part, const ModelConfig& model) const {
  return HasPart(model, part) &&
         (parts.empty() || std::find(parts.begin(), parts.end(), ModelPartName(part)) != parts.end());
}

std::vector<Stage> ReadStages(const Json& list, const std::string& where) {
  if (!list.is_array())
    throw Error(ErrorCode::kConfig, StrCat(where, ": stage = ", JsonExcerpt(list), ": must be tables [[stage]]"));
  std::vector<Stage> stages;
  double sum = 0;
  std::set<std::string> names;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string at = StrCat(where, ": stage[", i + 1, "]");
    stages.push_back(ReadStage(list[i], at));
    const Stage& stage = stages.back();
    if (stage.name.empty()) throw Error(ErrorCode::kConfig, at + ".name: missing");
    if (!names.insert(stage.name).second)
      throw Error(ErrorCode::kConfig, StrCat(at, ".name = \"", stage.name, "\": another stage has this name"));
    if (!(stage.share > 0)) throw Error(ErrorCode::kConfig, StrCat(at, ".share = ", stage.share, ": must be above 0"));
    double mix = 0;
    for (const DataShare& data : stage.data) mix += data.share;
    constexpr double kSlack = 1e-6;
    if (!stage.data.empty() && std::abs(mix - 1) > kSlack)
      throw Error(ErrorCode::kConfig, StrCat(at, ".data: the shares add up to ", mix, ": must be 1"));
    sum += stage.share;
  }
  constexpr double kSlack = 1e-6;
  if (!stages.empty() && std::abs(sum - 1) > kSlack)
    throw Error(ErrorCode::kConfig,
                StrCat(where, ": stage.share: the ", stages.size(), " stages add up to ", sum, ": must be 1"));
  return stages;
}

std::string StagesToml(const std::vector<Stage>& stages) {
  std::string out;
  for (const Stage& stage : stages) {
    out += "\n[[stage]]\n";
    VisitStageFields(
        [&](const std::string& name, const auto& field, const Bounds&) {
          if (const std::string text = FieldText(field); !text.empty()) out += StrCat(name, " = ", text, "\n");
        },
        stage);
  }
  return out;
}

std::vector<std::string> CompareStages(const std::vector<Stage>& a, const std::vector<Stage>& b) {
  const auto same_name = [](const Stage& x, const Stage& y) { return x.name == y.name; };
  if (!std::equal(a.begin(), a.end(), b.begin(), b.end(), same_name))
    return {StrCat("stage: ", a.size(), " stages != ", b.size(), " others")};
  std::vector<std::string> out;
  for (size_t i = 0; i < a.size(); ++i) {
    std::vector<std::string> left, right, names = FieldNames();
    VisitStageFields([&](const std::string&, const auto& field, const Bounds&) { left.push_back(FieldText(field)); },
                     a[i]);
    VisitStageFields([&](const std::string&, const auto& field, const Bounds&) { right.push_back(FieldText(field)); },
                     b[i]);
    for (size_t j = 0; j < names.size(); ++j)
      if (left[j] != right[j])
        out.push_back(StrCat("stage.", a[i].name, ".", names[j], ": ", left[j], " != ", right[j]));
  }
  return out;
}

void CheckStages(const std::vector<Stage>& stages, const ModelConfig& model, const std::string& where) {
  for (size_t i = 0; i < stages.size(); ++i) {
    const Stage& stage = stages[i];
    const auto fail = [&](const std::string& text) {
      throw Error(ErrorCode::kConfig, StrCat(where, where.empty() ? "" : ": ", Named(i, stage), ": ", text));
    };
    if (stage.seq_len % model.chunk_len != 0)
      fail(StrCat("seq_len = ", stage.seq_len, ": must be a multiple of model_chunk_size = ", model.chunk_len));
    bool any_path = model.wiring != Wiring::kParallel;
    for (const std::string& name : stage.parts) {
      const auto part = ParseModelPart(name);
      if (!part) fail(StrCat("parts: \"", name, "\": must be ssm, sga, moe, workspace or pkm"));
      if (!HasPart(model, *part)) fail(StrCat("parts: \"", name, "\": this model has no such part"));
    }
    for (const ModelPart part : {ModelPart::kSsm, ModelPart::kSga, ModelPart::kMoe})
      any_path = any_path || (stage.IsOn(part, model) && stage.path_scale[static_cast<size_t>(part)].to > 0);
    if (!any_path) fail("parts: no path is on: ssm, sga or moe must be");
    if ((stage.router_mode || stage.router_temperature || stage.router_balance) && !HasPart(model, ModelPart::kMoe))
      fail("router: this model has no experts");
    if (stage.workspace_bias && !stage.IsOn(ModelPart::kWorkspace, model)) fail("bias.workspace: workspace is not on");
    if (stage.pkm_bias && !stage.IsOn(ModelPart::kPkm, model)) fail("bias.pkm: pkm is not on");
    if (i + 1 < stages.size()) continue;
    // What is saved is a model of which every part was trained as it will be run.
    const std::string rule = ": the last stage must leave the model as it will be run";
    for (const ModelPart part : kModelParts)
      if (HasPart(model, part) && !stage.IsOn(part, model))
        fail(
            StrCat("parts: ", ModelPartName(part), " is not on", rule, " (take it out of the model to train without)"));
    for (size_t path = 0; path < stage.path_scale.size(); ++path)
      if (HasPart(model, kModelParts[path]) && stage.path_scale[path].to != 1)
        fail(StrCat("path_scale.", ModelPartName(kModelParts[path]), " ends at ", stage.path_scale[path].to, rule));
    if (stage.router_mode && *stage.router_mode != model.moe.mode) fail("router.mode: is not the model's" + rule);
    if (stage.router_temperature && stage.router_temperature->to != model.moe.temperature)
      fail(StrCat("router.temperature ends at ", stage.router_temperature->to, ", the model's is ",
                  model.moe.temperature, rule));
    if (stage.landmarks_from >= 1) fail(StrCat("landmarks_from = ", stage.landmarks_from, rule));
  }
}

std::vector<Stage> DefaultCurriculum(const ModelConfig& model) {
  if (model.wiring != Wiring::kParallel)
    throw Error(ErrorCode::kConfig,
                StrCat("curriculum = \"default\": is for Hydra models, this one is ", FamilyName(model.family)));
  // Lengths of the reference size, in which C = 64 and Gm = 512.
  constexpr double kChunk = 64, kBudget = 512;
  const double budget = model.HasLandmarks() ? static_cast<double>(model.attention.landmark_budget) / kBudget : 1;
  const auto length = [&](int64_t tokens) {
    const auto C = static_cast<double>(model.chunk_len);
    const double chunks = std::round(static_cast<double>(tokens) * C / kChunk * budget / C);
    return std::max<int64_t>(2, static_cast<int64_t>(chunks)) * model.chunk_len;
  };
  const bool moe = HasPart(model, ModelPart::kMoe), sga = HasPart(model, ModelPart::kSga);
  std::vector<std::string> on;
  for (const ModelPart part : {ModelPart::kSsm, ModelPart::kMoe})
    if (HasPart(model, part)) on.emplace_back(ModelPartName(part));
  std::vector<Stage> stages;
  const auto add = [&](const char* name, double share, int64_t tokens) -> Stage& {
    stages.push_back({.name = name, .share = share, .seq_len = length(tokens), .parts = on});
    return stages.back();
  };
  const auto off_is_worse = [&](Stage& stage, ModelPart part, double by) {
    if (HasPart(model, part)) stage.watches.push_back({.metric = StrCat("off/", ModelPartName(part)), .above = by});
  };
  Stage& backbone = add("backbone", 0.10, 2048);
  if (moe) {
    backbone.router_mode = RouterMode::kRoundRobin;
    Stage& routing = add("routing", 0.20, 2048);
    routing.router_temperature = Ramp(2 * model.moe.temperature, model.moe.temperature);
    routing.router_balance = 0.01;
    routing.watches = {{.metric = "moe/load_cv", .below = 0.3}, {.metric = "moe/load_min", .above = 0.01}};
  }
  if (sga) {
    on.emplace_back("sga");
    Stage& attention = add("attention", 0.20, 4096);
    attention.path_scale[static_cast<size_t>(ModelPart::kSga)] = {0, 1};
    attention.landmarks_from = 0.5;
    off_is_worse(attention, ModelPart::kSga, 0);
  }
  if (HasPart(model, ModelPart::kWorkspace)) {
    on.emplace_back("workspace");
    Stage& workspace = add("workspace", 0.15, 8192);
    workspace.workspace_bias = Ramp(-4, model.workspace.gate_bias);
    off_is_worse(workspace, ModelPart::kWorkspace, 0);
  }
  if (HasPart(model, ModelPart::kPkm)) {
    on.emplace_back("pkm");
    Stage& pkm = add("pkm", 0.15, 8192);
    pkm.pkm_bias = Ramp(-4, model.pkm.gate_bias);
    pkm.lr_pkm_table = 4;
    pkm.watches = {{.metric = "pkm/rows_hit", .above = 0.5}};
  }
  Stage& joint = add("joint", 0.20, 16384);
  if (moe) joint.router_balance = 0.001;
  constexpr double kMatters = 0.005;  // bits per byte
  for (const ModelPart part : kModelParts) off_is_worse(joint, part, kMatters);
  double sum = 0;
  for (const Stage& stage : stages) sum += stage.share;
  for (Stage& stage : stages) stage.share /= sum;
  return stages;
}

std::vector<std::string> WatchableSeries() {
  std::vector<std::string> names{"train/loss",
                                 "train/lm_loss",
                                 "train/grad_norm",
                                 "train/skipped",
                                 "val/loss",
                                 "val/bpb",
                                 "moe/load_cv",
                                 "moe/load_min",
                                 "moe/dead_experts",
                                 "moe/balance_loss",
                                 "moe/z_loss",
                                 "moe/domain_loss",
                                 "moe/in_set",
                                 "pkm/rows_hit",
                                 "pkm/gate",
                                 "gate/ssm",
                                 "gate/attn",
                                 "gate/ffn",
                                 "ssm/half_life",
                                 "landmark/age",
                                 "landmark/use",
                                 "workspace/read_gate",
                                 "workspace/write_gate",
                                 "workspace/slot_use",
                                 "off/landmarks"};
  for (const ModelPart part : kModelParts) names.push_back(StrCat("off/", ModelPartName(part)));
  return names;
}

}  // namespace hydra::train
