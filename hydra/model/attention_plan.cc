// SPDX-License-Identifier: Apache-2.0
// Spans of a plan, what they cost, and which model a plan fits. The file is in attention_plan_file.cc.
#include "hydra/model/attention_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/model/rope.h"

namespace hydra {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Pairs of query and key that a head of this span sees in a text of N tokens.
double Pairs(int64_t span, int64_t N) {
  const auto triangle = [](int64_t n) { return static_cast<double>(n) * static_cast<double>(n + 1) / 2; };
  return span >= N ? triangle(N) : triangle(span) + static_cast<double>(N - span) * static_cast<double>(span);
}

// Numbers as a GGUF file keeps them, in f32, with fewer digits than that rounds.
std::string Rounded(double value, int digits) {
  char text[32];
  (void)std::snprintf(text, sizeof(text), "%.*g", digits, value);
  return text;
}

std::string LayerKind(const LayerConfig& l) {
  constexpr const char* kAttention[] = {"", "full", "sparse", "latent"};
  constexpr const char* kFfn[] = {"", "dense", "chunk_moe", "blockffn"};
  return StrCat(l.ssm ? "ssm " : "", kAttention[static_cast<int>(l.attention)], " ", kFfn[static_cast<int>(l.ffn)],
                l.workspace ? " workspace" : "", l.pkm ? " pkm" : "");
}

}  // namespace

const char* PlanUnitName(PlanUnit unit) {
  constexpr const char* kNames[] = {"kv-head", "head", "layer"};
  return kNames[static_cast<int>(unit)];
}

int64_t SpanOf(const SpanRule& rule, const LayerPlan& layer, int64_t block_size, int64_t N) {
  const int64_t least = layer.n_sinks / block_size + std::max<int64_t>(1, CeilDiv(layer.least_window, block_size));
  const auto request = static_cast<int64_t>(std::floor(rule.alpha + rule.beta * static_cast<double>(N)));
  const int64_t blocks = std::max(request, int64_t{0}) / block_size + (std::max(request, int64_t{0}) % block_size > 0);
  const int64_t span = block_size * std::min(std::max(blocks, least), std::max(least, CeilDiv(N, block_size)));
  return layer.window > 0 ? std::min(span, layer.window) : span;
}

AttentionPlan AttentionPlan::Dense(const ModelConfig& config, int64_t block_size) {
  const AttentionConfig& a = config.attention;
  AttentionPlan plan;
  plan.model = {.config_sha256 = PlanConfigSha256(config),
                .fields = PlanConfigFields(config),
                .n_layers = config.n_layers(),
                .n_heads = a.n_heads,
                .n_kv_heads = a.n_kv_heads,
                .head_dim = a.head_dim};
  plan.block_size = block_size;
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const AttentionKind kind = config.layers[i].attention;
    if (kind == AttentionKind::kLatent)
      throw Error(ErrorCode::kConfig,
                  StrCat("layers.", i, ": latent attention has one cache for all heads: it can follow no plan"));
    LayerPlan& layer = plan.layers.emplace_back();
    layer.n_sinks = kind == AttentionKind::kFull ? block_size : 0;
    if (kind != AttentionKind::kNone) layer.rules.assign(static_cast<size_t>(a.n_kv_heads), SpanRule{});
    if (kind != AttentionKind::kSparse) continue;
    layer.window = a.window;
    if (a.landmark_budget > 0) layer.least_window = config.chunk_len;
  }
  return plan;
}

void AttentionPlan::Check(const ModelConfig& config, const std::string& where) const {
  const AttentionPlan own = Dense(config, block_size);
  std::string reason;
  const auto differs = [&](const char* what, int64_t plans, int64_t models) {
    if (plans != models) reason += StrCat(reason.empty() ? "" : ", ", what, " = ", plans, ", this one has ", models);
  };
  differs("n_layers", model.n_layers, own.model.n_layers);
  differs("n_heads", model.n_heads, own.model.n_heads);
  differs("n_kv_heads", model.n_kv_heads, own.model.n_kv_heads);
  differs("head_dim", model.head_dim, own.model.head_dim);
  for (size_t i = 0; i < layers.size() && reason.empty(); ++i) {
    const LayerPlan &ours = layers[i], &its = own.layers[i];
    const std::string layer = StrCat("layer ", i, ": ");
    differs((layer + "rules").c_str(), ours.rules.empty() ? 0 : 1, its.rules.empty() ? 0 : 1);
    differs((layer + "window").c_str(), ours.window, its.window);
    differs((layer + "least_window").c_str(), ours.least_window, its.least_window);
    if (its.window > 0) differs((layer + "n_sinks").c_str(), ours.n_sinks, 0);
  }
  if (reason.empty() && !model.config_sha256.empty() && model.config_sha256 != own.model.config_sha256) {
    const Json its = Json::parse(own.model.fields), plans = model.fields.empty() ? its : Json::parse(model.fields);
    for (const auto& [key, value] : its.items())
      if (!plans.contains(key) || plans[key] != value)
        reason += StrCat(reason.empty() ? "" : ", ", key, " = ", plans.contains(key) ? JsonExcerpt(plans[key]) : "null",
                         ", this one has ", JsonExcerpt(value));
    if (reason.empty())
      reason = StrCat("config_sha256 = ", model.config_sha256, ", this one has ", own.model.config_sha256);
  }
  if (!reason.empty())
    throw Error(ErrorCode::kUsage, StrCat(where, ": made for another model",
                                          model.name.empty() ? "" : StrCat(" (", model.name, ")"), ": ", reason));
}

std::string AttentionPlan::WeightsWarning(const std::string& weights_sha256, const std::string& where) const {
  if (model.weights_sha256.empty() || weights_sha256.empty() || model.weights_sha256 == weights_sha256) return "";
  return StrCat(where, ": made for other weights of this architecture: model.weights_sha256 = ",
                model.weights_sha256.substr(0, 12), "..., these are ", weights_sha256.substr(0, 12), "...");
}

int64_t AttentionPlan::HeadSpan(int layer, int64_t head, int64_t N) const {
  const LayerPlan& l = layers.at(static_cast<size_t>(layer));
  if (l.rules.empty()) return 0;
  const int64_t group = unit == PlanUnit::kHead ? 1 : model.n_heads / model.n_kv_heads;
  return SpanOf(l.rules.at(static_cast<size_t>(head / group)), l, block_size, N);
}

int64_t AttentionPlan::Span(int layer, int64_t kv_head, int64_t N) const {
  const int64_t group = model.n_heads / model.n_kv_heads;
  int64_t widest = 0;
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) widest = std::max(widest, HeadSpan(layer, h, N));
  return widest;
}

int64_t AttentionPlan::DenseSpan(int layer, int64_t N) const {
  const LayerPlan& l = layers.at(static_cast<size_t>(layer));
  return l.rules.empty() ? 0 : SpanOf(SpanRule{}, l, block_size, N);
}

namespace {

// Sums of f(span) over heads, as a share of those of heads that see all; 1 where there is no attention.
double ShareOfDense(const AttentionPlan& plan, int64_t heads, int64_t N,
                    const std::function<int64_t(int layer, int64_t head)>& span,
                    const std::function<double(int64_t span)>& f) {
  double sum = 0, all = 0;
  for (int layer = 0; layer < static_cast<int>(plan.layers.size()); ++layer) {
    const int64_t dense = plan.DenseSpan(layer, N);
    for (int64_t h = 0; h < heads && dense > 0; ++h) sum += f(span(layer, h)), all += f(dense);
  }
  return all > 0 ? sum / all : 1;
}

double Rows(int64_t span) { return static_cast<double>(span); }

}  // namespace

double AttentionPlan::Density(int64_t N) const {
  return ShareOfDense(
      *this, model.n_kv_heads, N, [&](int layer, int64_t h) { return Span(layer, h, N); }, Rows);
}

double AttentionPlan::HeadDensity(int64_t N) const {
  return ShareOfDense(
      *this, model.n_heads, N, [&](int layer, int64_t h) { return HeadSpan(layer, h, N); }, Rows);
}

double AttentionPlan::PairDensity(int64_t N) const {
  return ShareOfDense(
      *this, model.n_kv_heads, N, [&](int layer, int64_t h) { return Span(layer, h, N); },
      [&](int64_t span) { return Pairs(span, N); });
}

int64_t AttentionPlan::KvRows(int64_t N) const {
  int64_t rows = 0;
  for (int layer = 0; layer < static_cast<int>(layers.size()); ++layer)
    for (int64_t h = 0; h < model.n_kv_heads; ++h) rows += Span(layer, h, N);
  return rows;
}

int64_t AttentionPlan::n_units() const {
  const auto with = std::ranges::count_if(layers, [](const LayerPlan& l) { return !l.rules.empty(); });
  return with * model.n_kv_heads;
}

HeadSpans ParseHeadSpans(const std::string& name, const std::string& where) {
  if (name == "ring") return HeadSpans::kRing;
  if (name == "own") return HeadSpans::kOwn;
  throw Error(ErrorCode::kUsage, StrCat(where, " = ", OneLine(name, 40), ": must be ring or own"));
}

KvPlan AttentionPlan::Fillings(int64_t N, HeadSpans spans) const {
  const bool own = spans == HeadSpans::kOwn && unit == PlanUnit::kHead;
  const int64_t group = model.n_heads / model.n_kv_heads;
  std::vector<std::vector<std::shared_ptr<const KvFilling>>> all(layers.size());
  for (int layer = 0; layer < static_cast<int>(layers.size()); ++layer) {
    const LayerPlan& l = layers[static_cast<size_t>(layer)];
    for (int64_t h = 0; h < model.n_kv_heads && !l.rules.empty(); ++h) {
      std::vector<int64_t> windows;
      for (int64_t q = h * group; own && q < (h + 1) * group; ++q) windows.push_back(HeadSpan(layer, q, N) - l.n_sinks);
      const int64_t window = Span(layer, h, N) - l.n_sinks;
      all[static_cast<size_t>(layer)].push_back(l.window > 0 ? KeepRing(window, l.n_sinks, std::move(windows))
                                                             : KeepSpan(window, l.n_sinks, std::move(windows)));
    }
  }
  KvPlan plan = [all = std::move(all)](int layer, int64_t kv_head) -> std::shared_ptr<const KvFilling> {
    const auto& heads = all.at(static_cast<size_t>(layer));
    return heads.empty() ? nullptr : heads.at(static_cast<size_t>(kv_head));
  };
  constexpr size_t kDigits = 16;
  plan.name = StrCat(name.empty() ? "plan" : name, " ", RulesSha256().substr(0, kDigits), own ? " own" : "");
  plan.length = N;
  return plan;
}

std::string AttentionPlan::RulesSha256() const {
  std::string text = StrCat(PlanUnitName(unit == PlanUnit::kLayer ? PlanUnit::kKvHead : unit), " ", block_size, "\n");
  for (const LayerPlan& l : layers) {
    text += StrCat(l.n_sinks, " ", l.window, " ", l.least_window);
    for (const SpanRule& rule : l.rules) text += StrCat(" ", Json(rule.alpha).dump(), "+", Json(rule.beta).dump(), "N");
    text += "\n";
  }
  return Sha256Hex(text);
}

int64_t PlanLength(int64_t tokens, int64_t step, int64_t ctx_size) {
  HYDRA_CHECK(tokens >= 0 && step >= 1 && ctx_size >= 1, tokens, " ", step, " ", ctx_size);
  return std::min(ctx_size, std::max(step, CeilDiv(tokens, step) * step));
}

std::string PlanConfigFields(const ModelConfig& config) {
  const AttentionConfig& a = config.attention;
  Json layers = Json::array();  // runs of equal layers
  for (size_t i = 0, j = 0; i < config.layers.size(); i = j) {
    while (j < config.layers.size() && config.layers[j] == config.layers[i]) ++j;
    layers.push_back(StrCat(j - i, " ", LayerKind(config.layers[i])));
  }
  const std::vector<double> divisors = RopeDivisors(a);
  Json json{{"model_type", FamilyName(config.family)},
            {"layers", layers},
            {"hidden_size", config.d_model},
            {"num_attention_heads", a.n_heads},
            {"num_key_value_heads", a.n_kv_heads},
            {"head_dim", a.head_dim},
            {"rope_theta", Rounded(a.rope_theta, 6)},
            {"rope_factor", Rounded(divisors.empty() ? 1 : divisors.back(), 3)},
            {"qk_norm", a.qk_norm},
            {"qkv_bias", a.qkv_bias}};
  if (config.HasFfn(FfnKind::kDense)) json["intermediate_size"] = config.d_ff;
  if (config.HasFfn(FfnKind::kChunkMoe) || config.HasFfn(FfnKind::kBlockFfn)) {
    json["num_experts"] = config.moe.n_experts;
    json["moe_intermediate_size"] = config.moe.d_expert;
  }
  if (config.HasAttention(AttentionKind::kSparse)) {
    json["sliding_window"] = a.window;
    json["landmark_budget"] = a.landmark_budget;
    json["landmarks_per_chunk"] = a.landmarks_per_chunk;
    json["model_chunk_size"] = config.chunk_len;
  }
  return json.dump();
}

std::string PlanConfigSha256(const ModelConfig& config) { return Sha256Hex(PlanConfigFields(config)); }

}  // namespace hydra
