// SPDX-License-Identifier: Apache-2.0
// Reads generation_config.json, each number checked against its range.
#include "hydra/runtime/generation_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <limits>
#include <map>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra {
namespace {

// Keys that are obeyed.
constexpr const char* kObeyed[] = {"temperature", "top_p",     "min_p",       "repetition_penalty",
                                   "top_k",       "do_sample", "eos_token_id"};
// Keys that change no text here: who wrote the file, what other programs return and cache.
constexpr const char* kWithoutEffect[] = {
    "_from_model_config",  "transformers_version", "bos_token_id",         "pad_token_id",
    "use_cache",           "cache_implementation", "cache_config",         "return_dict_in_generate",
    "output_attentions",   "output_hidden_states", "output_scores",        "output_logits",
    "return_legacy_cache", "disable_compile",      "compile_config",       "decoder_start_token_id",
    "chat_format",         "trust_remote_code",    "assistant_early_exit", "is_assistant"};
// Values of other keys that ask for nothing: each library's defaults, written out.
bool AsksForNothing(std::string_view key, const Json& value) {
  if (value.is_null() || value == false) return true;
  if ((value.is_array() || value.is_object() || value.is_string()) && value.empty()) return true;
  if (!value.is_number()) return key == "early_stopping";
  const double number = value.get<double>();
  static const std::map<std::string_view, double> kNeutral = {{"num_beams", 1},
                                                              {"num_beam_groups", 1},
                                                              {"num_return_sequences", 1},
                                                              {"typical_p", 1},
                                                              {"length_penalty", 1},
                                                              {"guidance_scale", 1},
                                                              {"encoder_repetition_penalty", 1},
                                                              {"top_h", 1},
                                                              {"num_assistant_tokens", 20},
                                                              {"assistant_confidence_threshold", 0.4},
                                                              {"target_lookbehind", 10},
                                                              {"assistant_lookbehind", 10}};
  const auto neutral = kNeutral.find(key);
  return number == (neutral == kNeutral.end() ? 0 : neutral->second);
}

template <size_t N>
bool IsOneOf(std::string_view key, const char* const (&keys)[N]) {
  return std::ranges::find(keys, key) != std::end(keys);
}

// "no_repeat_ngram_size = 3, stop_strings": what a warning says; "" where everything is obeyed.
std::string NotObeyed(const Json& json) {
  std::string text;
  for (const auto& [key, value] : json.items()) {
    if (IsOneOf(key, kObeyed) || IsOneOf(key, kWithoutEffect) || AsksForNothing(key, value)) continue;
    constexpr size_t kMost = 60;
    text += (text.empty() ? "" : ", ") + OneLine(key, kMost);
    if (value.is_primitive()) text += " = " + JsonExcerpt(value);
  }
  return text;
}

}  // namespace

GenerationConfig ParseGenerationConfig(std::string_view text, const std::string& where) {
  const auto json = ParseJson(text, where);
  if (!json.is_object()) throw Error(ErrorCode::kFormat, where + ": must be an object");
  GenerationConfig c;
  c.where = where;
  if (const std::string keys = NotObeyed(json); !keys.empty())
    c.warnings.push_back(fmt::format("{}: not obeyed: {}", where, keys));
  const auto read = [&](const char* key, auto* out) {
    if (json.contains(key)) ReadJson(json[key], fmt::format("{}: {}", where, key), out);
  };
  const auto check = [&](const char* key, const auto& value, double low, double high) {
    if (value && std::abs(static_cast<double>(*value)) < std::numeric_limits<float>::min() && *value != 0)
      throw Error(ErrorCode::kConfig,
                  fmt::format("{}: {} = {}: is too small: 0, or at least 1.2e-38", where, key, *value));
    if (value && !(static_cast<double>(*value) >= low && static_cast<double>(*value) <= high))
      throw Error(ErrorCode::kConfig, fmt::format("{}: {} = {}: must be {} to {}", where, key, *value, low, high));
  };
  read("temperature", &c.temperature);
  read("top_p", &c.top_p);
  read("min_p", &c.min_p);
  read("repetition_penalty", &c.repetition_penalty);
  read("top_k", &c.top_k);
  read("do_sample", &c.do_sample);
  check("temperature", c.temperature, 0, 100);
  check("top_p", c.top_p, 0, 1);
  if (c.top_p == 0.0) throw Error(ErrorCode::kConfig, fmt::format("{}: top_p = 0: must be above 0", where));
  check("min_p", c.min_p, 0, 1);
  check("repetition_penalty", c.repetition_penalty, 0.01, 100);
  check("top_k", c.top_k, 0, std::numeric_limits<int32_t>::max());
  if (!json.contains("eos_token_id") || json["eos_token_id"].is_null()) return c;
  const auto& eos = json["eos_token_id"];
  std::vector<int64_t> ids;
  if (eos.is_array()) {
    ReadJson(eos, where + ": eos_token_id", &ids);
  } else {
    ReadJson(eos, where + ": eos_token_id", &ids.emplace_back());
  }
  for (const int64_t id : ids) {
    check("eos_token_id", std::optional(id), 0, std::numeric_limits<int32_t>::max());
    c.eos_token_ids.push_back(static_cast<int32_t>(id));
  }
  return c;
}

void GenerationConfig::DropEndsBeyond(int64_t vocab) {
  std::vector<int32_t> kept;
  for (const int32_t id : eos_token_ids) {
    if (id < vocab) {
      kept.push_back(id);
    } else {
      warnings.push_back(fmt::format("{}: eos_token_id = {}: not obeyed: ids are 0 to {}", where, id, vocab - 1));
    }
  }
  eos_token_ids = std::move(kept);
}

GenerationConfig LoadGenerationConfig(const std::string& model_path) {
  namespace fs = std::filesystem;
  if (fs::path(model_path).extension() == ".gguf") return {};
  const fs::path folder = fs::is_directory(model_path) ? fs::path(model_path) : fs::path(model_path).parent_path();
  const fs::path file = folder / "generation_config.json";
  if (!fs::exists(file)) return {};
  constexpr uint64_t kMaxBytes = 1 << 20;
  return ParseGenerationConfig(MappedFile(file.string(), kMaxBytes).text(), file.string());
}

}  // namespace hydra
