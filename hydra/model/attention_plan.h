// SPDX-License-Identifier: Apache-2.0
// An attention plan: how many keys each KV head of a model sees, as a rule of the text's length (specs/moa.md 1 and 7).
// The rule, what it costs, and the plan's file. Not here: how plans are found (hydra/moa), how they run
// (hydra/runtime).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "hydra/model/config.h"
#include "hydra/model/kv_filling.h"

namespace hydra {

// Span = alpha + beta * N before it is rounded; alpha in tokens, may be negative; beta 0 to 1.
struct SpanRule {
  double alpha = 0, beta = 1;
  bool operator==(const SpanRule&) const = default;
};

// The rules of one layer, and what they are held to.
struct LayerPlan {
  std::vector<SpanRule> rules = {};  // one a KV head, or a query head (PlanUnit::kHead); empty: no attention
  int64_t n_sinks = 64;              // first positions that are always seen, inside the span: 0 or block_size
  int64_t window = 0;                // the window that the model was trained with, the longest span; 0: none
  int64_t least_window = 0;          // keys behind the sinks that the layer needs: a chunk where it keeps landmarks
  bool operator==(const LayerPlan&) const = default;
};

// What has a rule of its own. kLayer is kKvHead with one rule for all of a layer.
enum class PlanUnit { kKvHead, kHead, kLayer };
[[nodiscard]] const char* PlanUnitName(PlanUnit unit);  // "kv-head", "head", "layer"

// What the query heads of a KV head see where they have rules of their own (kHead): all that its ring has, or each its
// own span of it.
enum class HeadSpans { kRing, kOwn };
// Throws kUsage "WHERE = NAME: must be ring or own".
[[nodiscard]] HeadSpans ParseHeadSpans(const std::string& name, const std::string& where);

// The model that a plan was made for.
struct PlanModel {
  std::string name;
  std::string config_sha256;   // PlanConfigSha256; "" in the bare form
  std::string weights_sha256;  // of the weights' file; "": not known
  std::string fields;          // PlanConfigFields, to say what differs; "": not known
  int64_t n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
};

// S(N) of a rule in a layer: the request rounded up to blocks, at least one block beside the sinks, at most
// ceil(N / block) blocks, then at most the layer's window. The only code of the rule.
[[nodiscard]] int64_t SpanOf(const SpanRule& rule, const LayerPlan& layer, int64_t block_size, int64_t N);

struct AttentionPlan {
  std::string name;
  PlanModel model;
  PlanUnit unit = PlanUnit::kKvHead;
  int64_t block_size = 64;
  std::vector<LayerPlan> layers;
  std::map<int64_t, double> bounds, density, predicted_loss;  // by length, for a reader
  std::string more = "{}";  // a JSON object: profile, validation, solver, and keys that this version does not know

  // Full attention for every head that the model has: the plan that others are made from. Throws kConfig for latent
  // attention, whose heads share one cache.
  [[nodiscard]] static AttentionPlan Dense(const ModelConfig& config, int64_t block_size = 64);
  // A file of format hydralm-plan/1. Throws kFormat naming file, field, layer and head.
  [[nodiscard]] static AttentionPlan Load(const std::string& path);
  // The same from its text; `where` names it in messages.
  [[nodiscard]] static AttentionPlan Parse(const std::string& text, const std::string& where);
  // The same, or the bare form {"alphas", "betas"}, held to a model: Check.
  [[nodiscard]] static AttentionPlan Load(const std::string& path, const ModelConfig& config);
  void Save(const std::string& path) const;
  [[nodiscard]] std::string Text() const;  // what Save writes

  // Throws kUsage "WHERE: made for another model: REASON" where shapes or config_sha256 are not the model's.
  void Check(const ModelConfig& config, const std::string& where) const;
  // A warning where the weights are others than those that were profiled, such as a quantised copy; "" where not.
  [[nodiscard]] std::string WeightsWarning(const std::string& weights_sha256, const std::string& where) const;

  // Span of a KV head for texts of N tokens; of unit kHead the widest of its query heads. 0: layer without attention.
  [[nodiscard]] int64_t Span(int layer, int64_t kv_head, int64_t N) const;
  // Span of a query head: that of its KV head but for unit kHead.
  [[nodiscard]] int64_t HeadSpan(int layer, int64_t head, int64_t N) const;
  // Span of a head of this layer that sees all that the model does.
  [[nodiscard]] int64_t DenseSpan(int layer, int64_t N) const;

  // Sum over KV heads of Span by that of DenseSpan: the share of keys and values that is kept for the last row.
  [[nodiscard]] double Density(int64_t N) const;
  // The same of query heads, each with its own span.
  [[nodiscard]] double HeadDensity(int64_t N) const;
  // Pairs of query and key of a text of N tokens that are visible to KV heads, by those of heads that see all.
  [[nodiscard]] double PairDensity(int64_t N) const;
  // Rows of keys (as many of values) that all rings have: sum of Span.
  [[nodiscard]] int64_t KvRows(int64_t N) const;

  // The caches of a sequence of plan length N: a ring of Span rows for each KV head. States are saved under the plan's
  // name and rules, and N.
  [[nodiscard]] KvPlan Fillings(int64_t N, HeadSpans spans = HeadSpans::kRing) const;
  // What decides the spans, as SHA-256: states and snapshots fit only under equal (RulesSha256, N).
  [[nodiscard]] std::string RulesSha256() const;
  [[nodiscard]] int64_t n_units() const;  // KV heads of layers with attention

  // Sets a key of `more` to a JSON text; the text of one, "" where it is not there.
  void SetNote(const std::string& key, const std::string& json);
  [[nodiscard]] std::string Note(const std::string& key) const;
};

// The plan's length of a sequence: min(ctx_size, tokens rounded up to a multiple of `step`), step >= 1.
[[nodiscard]] int64_t PlanLength(int64_t tokens, int64_t step, int64_t ctx_size);

// SHA-256 of the files that hold the weights of a model: a folder, a .gguf or a .safetensors file. Throws kIo, kFormat.
[[nodiscard]] std::string WeightsFileSha256(const std::string& path);

// The fields of a config that decide what attention does, as a JSON object, and their SHA-256. A folder and a GGUF file
// of one model have equal ones: types, names, vocabulary and what files round differently are left out.
[[nodiscard]] std::string PlanConfigFields(const ModelConfig& config);
[[nodiscard]] std::string PlanConfigSha256(const ModelConfig& config);

}  // namespace hydra
