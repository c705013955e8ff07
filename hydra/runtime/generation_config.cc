// SPDX-License-Identifier: Apache-2.0
// Reads generation_config.json, each number checked against its range.
#include "hydra/runtime/generation_config.h"

#include <fmt/format.h>

#include <filesystem>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra {

GenerationConfig ParseGenerationConfig(std::string_view text, const std::string& where) {
  const auto json = ParseJson(text, where);
  if (!json.is_object()) throw Error(ErrorCode::kFormat, where + ": must be an object");
  GenerationConfig c;
  const auto read = [&](const char* key, auto* out) {
    if (json.contains(key)) ReadJson(json[key], fmt::format("{}: {}", where, key), out);
  };
  const auto check = [&](const char* key, const auto& value, double low, double high) {
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
