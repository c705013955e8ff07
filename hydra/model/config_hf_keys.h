// SPDX-License-Identifier: Apache-2.0
// What the readers of Hugging Face configs share: keys that are asked for by name, and those that all families have.
// Private to config_hf.cc and config_minicpm.cc.
#pragma once

#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/io/json.h"
#include "hydra/model/config.h"

namespace hydra {

// Reads keys and remembers which were asked for.
class HfKeys {
 public:
  HfKeys(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  const Json* Find(const char* key) {
    asked_.insert(key);
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  template <class T>
  bool Get(const char* key, T* out) {
    const Json* value = Find(key);
    if (value != nullptr) ReadJson(*value, Field(key), out);
    return value != nullptr;
  }
  template <class T>
  void Need(const char* key, T* out) {
    if (!Get(key, out)) throw Error(ErrorCode::kConfig, StrCat(Field(key), " is missing"));
  }
  // The key may be absent or have this value.
  template <class T>
  void Only(const char* key, const T& allowed) {
    const Json* value = Find(key);
    if (value != nullptr && *value != Json(allowed))
      Refuse(key, *value, StrCat("only ", Json(allowed).dump(), " is supported"));
  }
  [[nodiscard]] bool Has(const char* key) const { return json_.contains(key); }
  // A token id, or none where the file has null or a negative number, as old files say "none".
  void GetTokenId(const char* key, std::optional<int64_t>* out) {
    if (Get(key, out) && *out && **out < 0) out->reset();
  }
  void Ignore(std::initializer_list<const char*> keys) { asked_.insert(keys.begin(), keys.end()); }

  [[noreturn]] void Refuse(const char* key, const Json& value, const std::string& rule) const {
    throw Error(ErrorCode::kConfig, StrCat(Field(key), " = ", JsonExcerpt(value), ": ", rule));
  }
  [[nodiscard]] std::string Field(const char* key) const { return StrCat(where_, ": ", key); }

  void WarnUnknown(std::vector<std::string>* warnings) const {
    std::string unknown;
    for (const auto& [key, value] : json_.items())
      if (asked_.count(key) == 0) unknown += (unknown.empty() ? "" : ", ") + key;
    if (!unknown.empty() && warnings != nullptr)
      warnings->push_back(internal::WithoutControls(StrCat(where_, ": ignored keys: ", unknown)));
  }

 private:
  const Json& json_;
  std::string where_;
  std::set<std::string> asked_;
};

// vocab_size, hidden_size, ids, torch_dtype and what transformers writes into any config.
void ReadCommon(HfKeys& k, ModelConfig* c);
[[nodiscard]] int64_t ReadLayerCount(HfKeys& k);
[[nodiscard]] Json WriteCommon(const ModelConfig& c, const char* architecture);

[[nodiscard]] ModelConfig ReadMiniCpm(HfKeys& k);
[[nodiscard]] Json WriteMiniCpm(const ModelConfig& c);

}  // namespace hydra
