// SPDX-License-Identifier: Apache-2.0
// Entropy and the JSON form of an X-ray.
#include "hydra/runtime/xray.h"

#include <algorithm>
#include <cmath>

namespace hydra {
namespace {

// Digits that a person or a plot may want.
double Rounded(double value) {
  constexpr double kDigits = 1e5;
  return std::round(value * kDigits) / kDigits;
}

Json Pairs(const std::vector<Weighted>& list) {
  Json out = Json::array();
  for (const Weighted& one : list) out.push_back({one.id, Rounded(one.weight)});
  return out;
}

template <size_t n>
Json Numbers(const std::array<float, n>& values) {
  Json out = Json::array();
  for (const float value : values) out.push_back(Rounded(value));
  return out;
}

Json LayerJson(const LayerTrace& layer) {
  Json out{{"gate", Numbers(layer.gate)}, {"size", Numbers(layer.size)}, {"stream", Rounded(layer.stream)}};
  if (!layer.experts.empty()) out["experts"] = Pairs(layer.experts);
  if (!layer.landmarks.empty()) {
    out["landmarks"] = Pairs(layer.landmarks);
    out["landmark_share"] = Rounded(layer.landmark_share);
  }
  if (!layer.slots_read.empty()) {
    out["slots_read"] = Pairs(layer.slots_read);
    out["workspace_gate"] = Rounded(layer.workspace_gate);
  }
  if (!layer.slots_written.empty()) out["slots_written"] = Pairs(layer.slots_written);
  if (!layer.rows.empty()) {
    out["rows"] = Pairs(layer.rows);
    out["pkm_gate"] = Rounded(layer.pkm_gate);
  }
  return out;
}

}  // namespace

double Entropy(std::span<const float> logits) {
  const double most = *std::ranges::max_element(logits);
  double sum = 0, weighted = 0;
  for (const float logit : logits) {
    const double e = std::exp(logit - most);
    if (e == 0) continue;
    sum += e;
    weighted += e * (logit - most);
  }
  return std::log(sum) - weighted / sum;
}

Json XrayJson(const XrayToken& token) {
  Json layers = Json::array();
  for (const LayerTrace& layer : token.trace.layers) layers.push_back(LayerJson(layer));
  return {{"id", token.trace.id},
          {"position", token.trace.position},
          {"generated", token.generated},
          {"entropy", std::isfinite(token.entropy) ? Json(Rounded(token.entropy)) : Json(nullptr)},
          {"bytes", std::round(token.bytes)},
          {"ms", Rounded(1e3 * token.seconds)},
          {"layers", layers}};
}

}  // namespace hydra
