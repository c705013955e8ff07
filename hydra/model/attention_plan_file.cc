// SPDX-License-Identifier: Apache-2.0
// Plans in files: format hydralm-plan/1 and the bare form {"alphas", "betas"} (specs/moa.md 7; docs/formats.md).
#include <algorithm>
#include <charconv>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/io/safetensors.h"
#include "hydra/model/attention_plan.h"

namespace hydra {
namespace {

constexpr const char* kPlanFormat = "hydralm-plan/1";
constexpr uint64_t kMostBytes = uint64_t{64} << 20;
constexpr int64_t kMostLayers = 4096, kMostHeads = 4096, kMostBlock = 4096, kMostWindow = int64_t{1} << 31;
constexpr double kMostAlpha = 1e9;
// Keys that have a place of their own in the struct; all others are in `more`.
constexpr const char* kKnown[] = {"format",  "name",    "model",         "unit",   "block_size",
                                  "n_sinks", "windows", "least_windows", "alphas", "betas",
                                  "bounds",  "density", "predicted_loss"};

class PlanReader {
 public:
  PlanReader(const Json& json, std::string path) : json_(json), path_(std::move(path)) {
    if (!json.is_object()) throw Error(ErrorCode::kFormat, path_ + ": must be a JSON object");
  }

  [[nodiscard]] AttentionPlan Full() {
    if (Need(json_, "format", "format") != kPlanFormat)
      Fail("format", json_["format"], StrCat("must be \"", kPlanFormat, "\""));
    plan_.name = Text(json_, "name", "name");
    const Json& model = Need(json_, "model", "model");
    if (!model.is_object()) Fail("model", model, "must be an object");
    plan_.model = {.name = Text(model, "name", "model.name"),
                   .config_sha256 = Hash(model, "config_sha256", "model.config_sha256", false),
                   .weights_sha256 = Hash(model, "weights_sha256", "model.weights_sha256", true),
                   .n_layers = Count(model, "n_layers", "model.n_layers", kMostLayers),
                   .n_heads = Count(model, "n_heads", "model.n_heads", kMostHeads),
                   .n_kv_heads = Count(model, "n_kv_heads", "model.n_kv_heads", kMostHeads),
                   .head_dim = Count(model, "head_dim", "model.head_dim", int64_t{1} << 16)};
    if (plan_.model.n_heads % plan_.model.n_kv_heads != 0)
      Fail("model.n_heads", model["n_heads"], StrCat("must be a multiple of n_kv_heads = ", plan_.model.n_kv_heads));
    if (model.contains("fields")) {
      if (!model["fields"].is_object()) Fail("model.fields", model["fields"], "must be an object");
      plan_.model.fields = model["fields"].dump();
    }
    ReadUnit();
    plan_.block_size = Count(json_, "block_size", "block_size", kMostBlock);
    plan_.layers.resize(static_cast<size_t>(plan_.model.n_layers));
    ReadSinks();
    ReadWindows("windows", &LayerPlan::window);
    ReadWindows("least_windows", &LayerPlan::least_window);
    ReadRules();
    CheckWindows();
    ReadByLength("bounds", &plan_.bounds);
    ReadByLength("density", &plan_.density);
    ReadByLength("predicted_loss", &plan_.predicted_loss);
    Json more = Json::object();
    for (const auto& [key, value] : json_.items())
      if (std::ranges::find(kKnown, key) == std::end(kKnown)) more[key] = value;
    for (const char* key : {"profile", "validation", "solver"})
      if (more.contains(key) && !more[key].is_object()) Fail(key, more[key], "must be an object");
    plan_.more = more.dump();
    return std::move(plan_);
  }

  // Shapes, sinks and windows are the model's; the length of the first list says what has a rule of its own.
  [[nodiscard]] AttentionPlan Bare(const ModelConfig& config) {
    plan_ = AttentionPlan::Dense(config);
    plan_.model.config_sha256 = plan_.model.fields = "";
    for (const Json& layer : Lists("alphas")) {
      if (!layer.is_array() || layer.empty()) continue;
      const auto n = static_cast<int64_t>(layer.size());
      if (n != plan_.model.n_kv_heads && n == plan_.model.n_heads) plan_.unit = PlanUnit::kHead;
      break;
    }
    ReadRules();
    return std::move(plan_);
  }

 private:
  [[noreturn]] void Fail(const std::string& field, const Json& value, const std::string& rule) const {
    throw Error(ErrorCode::kFormat, StrCat(path_, ": ", field, " = ", JsonExcerpt(value), ": ", rule));
  }
  [[nodiscard]] const Json& Need(const Json& json, const char* key, const std::string& field) const {
    if (!json.contains(key)) throw Error(ErrorCode::kFormat, StrCat(path_, ": ", field, " is missing"));
    return json[key];
  }
  [[nodiscard]] std::string Text(const Json& json, const char* key, const std::string& field) const {
    const Json& value = Need(json, key, field);
    if (!value.is_string()) Fail(field, value, "must be a text");
    return value.get<std::string>();
  }
  [[nodiscard]] std::string Hash(const Json& json, const char* key, const std::string& field, bool may_be_empty) const {
    std::string text = Text(json, key, field);
    const bool hex = std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
    if (!(text.empty() && may_be_empty) && (text.size() != 64 || !hex))
      Fail(field, text, "must be 64 hexadecimal digits");
    return text;
  }
  [[nodiscard]] int64_t Whole(const Json& value, const std::string& field, int64_t low, int64_t high) const {
    const bool whole = value.is_number_unsigned() || (value.is_number_integer() && value.get<int64_t>() >= 0);
    if (!whole || value.get<uint64_t>() > static_cast<uint64_t>(high) || value.get<int64_t>() < low)
      Fail(field, value, StrCat("must be a whole number from ", low, " to ", high));
    return value.get<int64_t>();
  }
  [[nodiscard]] int64_t Count(const Json& json, const char* key, const std::string& field, int64_t high) const {
    return Whole(Need(json, key, field), field, 1, high);
  }

  void ReadUnit() {
    const std::string unit = Text(json_, "unit", "unit");
    for (const PlanUnit one : {PlanUnit::kKvHead, PlanUnit::kHead, PlanUnit::kLayer})
      if (unit == PlanUnitName(one)) {
        plan_.unit = one;
        return;
      }
    Fail("unit", json_["unit"], "must be kv-head, head or layer");
  }

  // The lists of a key, one for each layer.
  [[nodiscard]] const Json& Lists(const char* key) const {
    const Json& lists = Need(json_, key, key);
    if (!lists.is_array()) Fail(key, lists, "must be a list with a list for each layer");
    if (static_cast<int64_t>(lists.size()) != plan_.model.n_layers)
      throw Error(ErrorCode::kFormat,
                  StrCat(path_, ": ", key, ": ", lists.size(), " layers: must be n_layers = ", plan_.model.n_layers));
    return lists;
  }

  void ReadSinks() {
    const Json& value = Need(json_, "n_sinks", "n_sinks");
    const auto one = [&](const Json& number, const std::string& field) {
      const int64_t n = Whole(number, field, 0, plan_.block_size);
      if (n != 0 && n != plan_.block_size) Fail(field, number, StrCat("must be 0 or block_size = ", plan_.block_size));
      return n;
    };
    if (value.is_array() && static_cast<int64_t>(value.size()) != plan_.model.n_layers)
      throw Error(ErrorCode::kFormat,
                  StrCat(path_, ": n_sinks: ", value.size(), " layers: must be n_layers = ", plan_.model.n_layers));
    for (size_t i = 0; i < plan_.layers.size(); ++i)
      plan_.layers[i].n_sinks = value.is_array() ? one(value[i], StrCat("n_sinks, layer ", i)) : one(value, "n_sinks");
  }

  void ReadWindows(const char* key, int64_t LayerPlan::*field) {
    if (!json_.contains(key)) return;
    const Json& list = Lists(key);
    for (size_t i = 0; i < plan_.layers.size(); ++i)
      plan_.layers[i].*field = Whole(list[i], StrCat(key, ", layer ", i), 0, kMostWindow);
  }

  void CheckWindows() const {
    for (size_t i = 0; i < plan_.layers.size(); ++i) {
      const LayerPlan& l = plan_.layers[i];
      if (l.window > 0 && l.n_sinks > 0)
        Fail(StrCat("n_sinks, layer ", i), l.n_sinks, "must be 0 where the layer has a window");
      if (l.least_window > (l.window > 0 ? l.window : 0))
        Fail(StrCat("least_windows, layer ", i), l.least_window, StrCat("must be at most the window, ", l.window));
    }
  }

  void ReadRules() {
    const Json &alphas = Lists("alphas"), &betas = Lists("betas");
    const int64_t heads = plan_.unit == PlanUnit::kHead ? plan_.model.n_heads : plan_.model.n_kv_heads;
    for (size_t i = 0; i < plan_.layers.size(); ++i) {
      const auto length = [&](const Json& list, const char* key) {
        const std::string field = StrCat(key, ", layer ", i);
        if (!list.is_array()) Fail(field, list, "must be a list");
        if (!list.empty() && static_cast<int64_t>(list.size()) != heads)
          throw Error(ErrorCode::kFormat,
                      StrCat(path_, ": ", field, ": ", list.size(), " heads: must be ", plan_.model.n_kv_heads,
                             " KV heads or ", plan_.model.n_heads, " heads, the same in all layers"));
        return list.size();
      };
      const size_t n = length(alphas[i], "alphas");
      if (length(betas[i], "betas") != n)
        throw Error(ErrorCode::kFormat, StrCat(path_, ": betas, layer ", i, ": ", betas[i].size(),
                                               " heads: must be as many as alphas has, ", n));
      plan_.layers[i].rules.assign(n, {});
      for (size_t h = 0; h < n; ++h)
        plan_.layers[i].rules[h] = {
            Number(alphas[i][h], StrCat("alphas, layer ", i, ", head ", h), -kMostAlpha, kMostAlpha),
            Number(betas[i][h], StrCat("betas, layer ", i, ", head ", h), 0, 1)};
    }
  }

  [[nodiscard]] double Number(const Json& value, const std::string& field, double low, double high) const {
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (!(number >= low && number <= high)) Fail(field, value, StrCat("must be a number from ", low, " to ", high));
    return number;
  }

  void ReadByLength(const char* key, std::map<int64_t, double>* out) const {
    if (!json_.contains(key)) return;
    const Json& object = json_[key];
    if (!object.is_object()) Fail(key, object, "must be an object of lengths");
    for (const auto& [length, value] : object.items()) {
      const std::string field = StrCat(key, ".", length);
      int64_t n = 0;
      const auto [end, error] = std::from_chars(length.data(), length.data() + length.size(), n);
      if (error != std::errc() || end != length.data() + length.size() || n < 1 || n > kMostWindow)
        throw Error(ErrorCode::kFormat, StrCat(path_, ": ", field, ": must be a length in tokens"));
      (*out)[n] = Number(value, field, -1e300, 1e300);
    }
  }

  const Json& json_;
  std::string path_;
  AttentionPlan plan_;
};

Json ByLength(const std::map<int64_t, double>& values) {
  Json out = Json::object();
  for (const auto& [n, value] : values) out[std::to_string(n)] = value;
  return out;
}

}  // namespace

AttentionPlan AttentionPlan::Parse(const std::string& text, const std::string& where) {
  const Json json = ParseJson(text, where);
  if (json.is_object() && !json.contains("format") && json.contains("alphas"))
    throw Error(ErrorCode::kFormat, where + ": format is missing: the bare form of a plan needs its model, -m");
  return PlanReader(json, where).Full();
}

AttentionPlan AttentionPlan::Load(const std::string& path) { return Parse(ReadFile(path, kMostBytes), path); }

AttentionPlan AttentionPlan::Load(const std::string& path, const ModelConfig& config) {
  const Json json = ParseJson(ReadFile(path, kMostBytes), path);
  const bool bare = json.is_object() && !json.contains("format") && json.contains("alphas");
  PlanReader reader(json, path);
  AttentionPlan plan = bare ? reader.Bare(config) : reader.Full();
  plan.Check(config, path);
  return plan;
}

std::string AttentionPlan::Text() const {
  Json alphas = Json::array(), betas = Json::array(), sinks = Json::array(), windows = Json::array(),
       least = Json::array();
  bool same_sinks = true, any_window = false, any_least = false;
  for (const LayerPlan& l : layers) {
    Json a = Json::array(), b = Json::array();
    for (const SpanRule& rule : l.rules) a.push_back(rule.alpha), b.push_back(rule.beta);
    alphas.push_back(std::move(a)), betas.push_back(std::move(b));
    sinks.push_back(l.n_sinks), windows.push_back(l.window), least.push_back(l.least_window);
    same_sinks = same_sinks && l.n_sinks == layers.front().n_sinks;
    any_window = any_window || l.window > 0;
    any_least = any_least || l.least_window > 0;
  }
  Json about{{"name", model.name},
             {"config_sha256", model.config_sha256},
             {"weights_sha256", model.weights_sha256},
             {"n_layers", model.n_layers},
             {"n_heads", model.n_heads},
             {"n_kv_heads", model.n_kv_heads},
             {"head_dim", model.head_dim}};
  if (!model.fields.empty()) about["fields"] = Json::parse(model.fields);
  Json json{{"format", kPlanFormat},
            {"name", name},
            {"model", about},
            {"unit", PlanUnitName(unit)},
            {"block_size", block_size}};
  json["n_sinks"] = same_sinks && !layers.empty() ? Json(layers.front().n_sinks) : sinks;
  if (any_window) json["windows"] = windows;
  if (any_least) json["least_windows"] = least;
  json["alphas"] = alphas;
  json["betas"] = betas;
  for (const auto& [key, values] :
       {std::pair{"bounds", &bounds}, {"density", &density}, {"predicted_loss", &predicted_loss}})
    if (!values->empty()) json[key] = ByLength(*values);
  const Json others = Json::parse(more);
  for (const auto& [key, value] : others.items()) json[key] = value;
  std::string text = "{";  // a line for each key: a person reads it, and so does a comparison of two
  for (const auto& [key, value] : json.items())
    text += StrCat(text.size() > 1 ? ",\n " : "\n ", Json(key).dump(), ": ", DumpJson(value));
  return text + "\n}\n";
}

void AttentionPlan::Save(const std::string& path) const { WriteFileAtomic(path, Text()); }

std::string WeightsFileSha256(const std::string& path) {
  Sha256 hash;
  const std::vector<std::string> files =
      path.ends_with(".gguf") ? std::vector<std::string>{path} : SafeTensors::Open(path).files();
  for (const std::string& name : files) hash.Update(MappedFile(name).bytes());
  return Hex(hash.Finish());
}

void AttentionPlan::SetNote(const std::string& key, const std::string& json) {
  Json all = Json::parse(more);
  all[key] = Json::parse(json);
  more = all.dump();
}

std::string AttentionPlan::Note(const std::string& key) const {
  const Json all = Json::parse(more);
  return all.contains(key) ? all[key].dump() : "";
}

}  // namespace hydra
