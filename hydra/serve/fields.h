// SPDX-License-Identifier: Apache-2.0
// The fields of a request's JSON object: each read once, with its bounds; what nobody reads is known in the end. Not
// here: which fields there are (text_call.cc, api_states.cc).
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/serve/api_error.h"

namespace hydra::serve {

// f(), whose errors are those of a field; or name the part of it that is wrong themselves.
template <class F>
auto OfField(const std::string& param, F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    throw ApiError(kBadRequest, param + ": " + error.what(), param);
  }
}
template <class F>
auto WithParam(const std::string& param, F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    throw ApiError(kBadRequest, error.what(), param);
  }
}

[[nodiscard]] inline bool IsText(const Json& value, std::string_view text) {
  return value.is_string() && value.get_ref<const std::string&>() == text;
}

// The body of a request as an object. 400 where it is none, or is deeper, larger or otherwise than JSON may be here.
[[nodiscard]] Json ParseBody(const std::string& body);

// `object` must outlive it. A field that is null counts as absent. What breaks a rule throws ApiError(400) naming the
// field, its value and the rule.
class Fields {
 public:
  // where: "" for the body, "stream_options." for an object within.
  explicit Fields(const Json& object, std::string where = "");

  // The value; null where it is absent.
  [[nodiscard]] const Json* Find(const char* name);
  [[nodiscard]] std::optional<int64_t> Whole(const char* name, int64_t low, int64_t high);
  [[nodiscard]] std::optional<double> Number(const char* name, double low, double high);
  [[nodiscard]] std::optional<bool> Bool(const char* name);
  [[nodiscard]] std::optional<std::string> Text(const char* name, size_t most_bytes = SIZE_MAX);
  // The object of a field; nothing where it is absent.
  [[nodiscard]] std::optional<Fields> Object(const char* name);
  // "stream_options.include_usage"
  [[nodiscard]] std::string NameOf(const std::string& name) const { return where_ + name; }
  [[noreturn]] void Refuse(const std::string& name, const std::string& rule) const;
  // Fields that were not asked for.
  [[nodiscard]] std::vector<std::string> Ignored() const;

 private:
  const Json& object_;
  std::string where_;
  std::set<std::string> known_;
};

}  // namespace hydra::serve
