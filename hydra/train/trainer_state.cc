// SPDX-License-Identifier: Apache-2.0
// state.json: one list of fields for saving and loading.
#include "hydra/train/trainer_state.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/file.h"

namespace hydra::train {
namespace {

using Json = nlohmann::ordered_json;

template <class Visitor, class State>
void VisitFields(Visitor&& v, State& s) {
  v("step", s.step);
  v("tokens", s.tokens);
  v("seconds", s.seconds);
  v("flops", s.flops);
  v("seed", s.seed);
  v("data", s.data);
  v("config", s.config);
  v("run", s.run);
  v("interval.steps", s.interval.steps);
  v("interval.finite", s.interval.finite);
  v("interval.tokens", s.interval.tokens);
  v("interval.loss", s.interval.loss);
  v("interval.lm", s.interval.lm);
  v("interval.flops", s.interval.flops);
  v("interval.seconds", s.interval.seconds);
  v("interval.data_seconds", s.interval.data_seconds);
  v("loader", s.loader);
  v("guard", s.guard);
  v("experts", s.experts);
  v("rng", s.rng);
}

template <class T>
Json Out(const T& value) {
  return value;
}
Json Out(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }  // JSON has no NaN

void In(const Json& value, const std::string& field, double* out) {
  *out = std::numeric_limits<double>::quiet_NaN();
  if (!value.is_null()) ReadJson(value, field, out);
}
void In(const Json& value, const std::string& field, int64_t* out) { ReadJson(value, field, out); }
void In(const Json& value, const std::string& field, std::string* out) { ReadJson(value, field, out); }
void In(const Json& value, const std::string&, Json* out) { *out = value; }

constexpr char kDigits[] = "0123456789abcdef";

int Digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

}  // namespace

const char* RouterTermSeries(nn::RouterTerm term) {
  switch (term) {
    case nn::RouterTerm::kBalance: return "moe/balance_loss";
    case nn::RouterTerm::kZ: return "moe/z_loss";
    case nn::RouterTerm::kDomain: return "moe/domain_loss";
    case nn::RouterTerm::kLocality: return "blockffn/al_loss";
    case nn::RouterTerm::kChunk: return "blockffn/cs_loss";
    case nn::RouterTerm::kSize: return "blockffn/l1_loss";
  }
  return "?";
}

void TrainInterval::Add(const TrainInterval& step) {
  steps += step.steps;
  finite += step.finite;
  tokens += step.tokens;
  flops += step.flops;
  seconds += step.seconds;
  data_seconds += step.data_seconds;
  if (step.finite == 0) return;
  loss += step.loss;
  lm += step.lm;
  for (size_t i = 0; i < terms.size(); ++i)
    if (!std::isnan(step.terms[i])) terms[i] = (std::isnan(terms[i]) ? 0 : terms[i]) + step.terms[i];
}

Json TrainState::ToJson() const {
  Json json = {{"version", 1}, {"world_size", 1}};
  VisitFields([&](const char* name, const auto& field) { json[name] = Out(field); }, *this);
  for (size_t i = 0; i < interval.terms.size(); ++i)
    json["terms"][RouterTermSeries(static_cast<nn::RouterTerm>(i))] = Out(interval.terms[i]);
  for (const auto& [name, value] : watched) json["watched"][name] = Out(value);
  json["val"] = {{"step", val_step}, {"loss", Out(val_loss)}, {"bpb", Out(val_bpb)}};
  return json;
}

TrainState TrainState::FromJson(const Json& json, const std::string& where) {
  const auto need = [&](const Json& object, const char* name) -> const Json& {
    if (!object.is_object() || !object.contains(name))
      throw Error(ErrorCode::kFormat, StrCat(where, ": ", name, ": missing"));
    return object[name];
  };
  if (need(json, "version") != 1)
    throw Error(ErrorCode::kFormat, StrCat(where, ": version = ", JsonExcerpt(json["version"]), ": must be 1"));
  TrainState state;
  VisitFields([&](const char* name, auto& field) { In(need(json, name), StrCat(where, ": ", name), &field); }, state);
  for (size_t i = 0; i < state.interval.terms.size() && json.contains("terms"); ++i) {  // earlier ones have none
    const char* name = RouterTermSeries(static_cast<nn::RouterTerm>(i));
    In(need(json["terms"], name), StrCat(where, ": terms.", name), &state.interval.terms[i]);
  }
  const Json& val = need(json, "val");
  In(need(val, "step"), where + ": val.step", &state.val_step);
  In(need(val, "loss"), where + ": val.loss", &state.val_loss);
  In(need(val, "bpb"), where + ": val.bpb", &state.val_bpb);
  if (json.contains("watched")) {
    if (!json["watched"].is_object()) throw Error(ErrorCode::kFormat, where + ": watched: must be an object");
    for (const auto& [name, value] : json["watched"].items())
      In(value, StrCat(where, ": watched.", name), &state.watched[name]);
  }
  if (state.step < 0 || state.tokens < 0)
    throw Error(ErrorCode::kFormat,
                StrCat(where, ": step = ", state.step, ", tokens = ", state.tokens, ": must be >= 0"));
  return state;
}

std::string SaveTorchRng() {
  const torch::Tensor state = at::detail::getDefaultCPUGenerator().get_state();
  std::string text;
  for (int64_t i = 0; i < state.numel(); ++i) {
    const uint8_t byte = state.data_ptr<uint8_t>()[i];
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

void RestoreTorchRng(const std::string& text, const std::string& where) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  torch::Tensor state = generator.get_state();
  if (static_cast<int64_t>(text.size()) != 2 * state.numel())
    throw Error(ErrorCode::kFormat,
                StrCat(where, ": ", text.size(), " digits: a generator's state has ", 2 * state.numel()));
  for (int64_t i = 0; i < state.numel(); ++i) {
    const int high = Digit(text[static_cast<size_t>(2 * i)]), low = Digit(text[static_cast<size_t>(2 * i + 1)]);
    if (high < 0 || low < 0) throw Error(ErrorCode::kFormat, where + ": must be hexadecimal digits");
    state.data_ptr<uint8_t>()[i] = static_cast<uint8_t>(16 * high + low);
  }
  generator.set_state(state);
}

double TargetBytes(const StepBatches& batches, const std::vector<int32_t>& token_bytes) {
  int64_t bytes = 0;
  for (const TokenBatch& micro : batches.micro) {
    const int64_t* targets = micro.batch.targets.data_ptr<int64_t>();
    for (int64_t i = 0; i < micro.batch.targets.numel(); ++i)
      if (targets[i] >= 0) bytes += token_bytes[static_cast<size_t>(targets[i])];
  }
  return static_cast<double>(bytes);
}

}  // namespace hydra::train
