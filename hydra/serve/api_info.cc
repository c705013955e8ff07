// SPDX-License-Identifier: Apache-2.0
// What a model is, as the page and other clients ask for it.
#include "hydra/serve/api_info.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/utf8.h"
#include "hydra/base/version.h"
#include "hydra/io/file.h"
#include "hydra/model/accounting.h"
#include "hydra/model/controls.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/serve/api_error.h"
#include "hydra/serve/fields.h"

namespace hydra::serve {
namespace {

Json OneModel(const ServedModel& served, const std::string& name) {
  return {{"id", name}, {"object", "model"}, {"created", served.created}, {"owned_by", "hydralm"}};
}

// The parts of a layer under the names that traces have for them; in sequential models the mixer counts as ssm or sga
// and the ffn as moe.
Json LayerParts(const LayerConfig& layer) {
  Json parts = Json::array();
  if (layer.ssm) parts.push_back("ssm");
  if (layer.attention != AttentionKind::kNone) parts.push_back("sga");
  if (layer.ffn != FfnKind::kNone) parts.push_back("moe");
  if (layer.workspace) parts.push_back("workspace");
  if (layer.pkm) parts.push_back("pkm");
  return parts;
}

// What the caches of a layer's heads keep, each kind once: "all", "ring 256".
Json Spans(const SequenceState& state, size_t layer) {
  std::vector<std::string> kinds;
  for (const KvCacheLayout& cache : state.layout().blocks[layer].caches) {
    const std::string kind = cache.filling->Describe();
    if (std::ranges::find(kinds, kind) == kinds.end()) kinds.push_back(kind);
  }
  return kinds;
}

Json ControlNames(const ModelConfig& config) {
  Json names = Json::array();
  for (const char* name : {"path_scale", "workspace_read", "pkm_read", "landmarks", "router_temperature", "moe_top_k",
                           "force_experts", "ban_experts", "expert_bias", "pins"})
    if (WhyControlIsIgnored(name, config).empty()) names.push_back(name);
  if (!config.moe.domains.empty()) names.push_back("domain");
  return names;
}

Json DomainNames(const ModelConfig& config) {
  Json names = Json::array();
  for (const ExpertDomain& domain : config.moe.domains) names.push_back(domain.name);
  return names;
}

Json SamplingJson(const SamplerOptions& s) {
  return {{"temperature", s.temperature},
          {"top_k", s.top_k},
          {"top_p", s.top_p},
          {"min_p", s.min_p},
          {"repeat_penalty", s.repeat_penalty},
          {"repeat_last_n", s.repeat_last_n},
          {"presence_penalty", s.presence_penalty},
          {"frequency_penalty", s.frequency_penalty}};
}

}  // namespace

Json ModelsJson(const ServedModel& served) {
  Json list = Json::array({OneModel(served, served.name)});
  for (const std::string& alias : served.aliases) list.push_back(OneModel(served, alias));
  return {{"object", "list"}, {"data", std::move(list)}};
}

Json ModelJson(const ServedModel& served, const std::string& name) {
  if (name != served.name && std::ranges::find(served.aliases, name) == served.aliases.end())
    throw ApiError(kNotFound, "model \"" + OneLine(name, 60) + "\" is not served here", "model", "model_not_found");
  return OneModel(served, name);
}

Json PropsJson(const ServedModel& served) {
  const ModelConfig& config = served.model.config();
  const SequenceState probe(served.model, {}, served.plan ? served.plan(served.model.options().ctx_size) : KvPlan());
  Json layers = Json::array(), spans = Json::array(), packs = Json::array();
  for (size_t i = 0; i < config.layers.size(); ++i) {
    layers.push_back(LayerParts(config.layers[i]));
    spans.push_back(Spans(probe, i));
  }
  for (const NamedPack& pack : served.packs) packs.push_back(pack.name);
  return {{"model", served.name},
          {"description", served.description},
          {"version", Version()},
          {"family", FamilyName(config.family)},
          {"parallel_paths", config.wiring == Wiring::kParallel},
          {"context", served.context},
          {"vocab_size", served.tokenizer.vocab_size()},
          {"slots", served.engine.options().slots},
          {"chat_template", served.chat ? Json(served.chat->name()) : Json(nullptr)},
          {"default_sampling", SamplingJson(served.sampling)},
          {"layers", std::move(layers)},
          {"spans", std::move(spans)},
          {"landmarks", config.HasLandmarks()},
          {"n_experts", config.HasFfn(FfnKind::kChunkMoe) ? Json(config.moe.n_experts) : Json(nullptr)},
          {"controls", ControlNames(config)},
          {"domains", DomainNames(config)},
          {"memory_packs", std::move(packs)},
          {"speculation", served.drafter}};
}

Json SlotsJson(const ServedModel& served) {
  Json slots = Json::array();
  for (const SlotView& slot : served.engine.slots()) {
    const char* state = slot.state == SlotView::State::kIdle      ? "idle"
                        : slot.state == SlotView::State::kReading ? "reading"
                                                                  : "writing";
    slots.push_back({{"id", slots.size()},
                     {"state", state},
                     {"prompt_tokens", slot.prompt_tokens},
                     {"read_tokens", slot.read_tokens},
                     {"new_tokens", slot.new_tokens},
                     {"cached_tokens", slot.cached_tokens},
                     {"seconds", slot.seconds},
                     {"speculating", slot.speculating}});
  }
  return slots;
}

Json TokenizeJson(const ServedModel& served, const std::string& body) {
  const Json json = ParseBody(body);
  Fields fields(json);
  const auto content = fields.Text(json.contains("content") ? "content" : "prompt");
  if (!content) throw ApiError(kBadRequest, "content: is missing", "content");
  const bool add_special =
      fields.Bool(json.contains("add_special") ? "add_special" : "add_special_tokens").value_or(false);
  const bool parse_special = fields.Bool("parse_special").value_or(true);
  try {
    return {
        {"tokens", served.tokenizer.Encode(*content, {.parse_special = parse_special, .add_special = add_special})}};
  } catch (const Error& error) {
    throw ApiError(kBadRequest, error.what(), "content");
  }
}

Json DetokenizeJson(const ServedModel& served, const std::string& body) {
  const Json json = ParseBody(body);
  Fields fields(json);
  const Json* tokens = fields.Find("tokens");
  if (tokens == nullptr || !tokens->is_array()) throw ApiError(kBadRequest, "tokens: must be a list of ids", "tokens");
  std::vector<int32_t> ids;
  for (const Json& id : *tokens) {
    const bool fits = id.is_number_integer() && !(id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX) &&
                      id.get<int64_t>() >= 0 && id.get<int64_t>() < served.tokenizer.vocab_size();
    if (!fits)
      throw ApiError(
          kBadRequest,
          StrCat("tokens: ", JsonExcerpt(id), ": must be an id from 0 to ", served.tokenizer.vocab_size() - 1),
          "tokens");
    ids.push_back(id.get<int32_t>());
  }
  const std::string text = served.tokenizer.Decode(ids);
  return {{"content", text}, {"prompt", text}};
}

Json TokenizerInfoJson(const ServedModel& served) {
  const auto spelled = [&](std::optional<int32_t> id) {
    return id ? Json(std::string(served.tokenizer.TokenText(*id))) : Json(nullptr);
  };
  return {{"bos_token", spelled(served.tokenizer.bos_id())}, {"eos_token", spelled(served.tokenizer.eos_id())}};
}

}  // namespace hydra::serve
