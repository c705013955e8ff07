// SPDX-License-Identifier: Apache-2.0
// Strict JSON for files of strangers: depth, duplicate keys and memory checked, values read with their field named.
// Not here: which fields a file has (config_fields.h and the other readers).
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/error.h"

namespace hydra {

using Json = nlohmann::ordered_json;

// Keys keep the order of the file. Throws kFormat naming `where` for bad syntax, nesting over 64, a key given twice, or
// where the tree would take more than twice the text's size + 1 MiB of memory (about 60,000 values are always free).
// Python's bare NaN, Infinity and -Infinity are read as the strings "NaN", "Infinity", "-Infinity".
[[nodiscard]] Json ParseJson(std::string_view text, const std::string& where);

// For a line of a corpus, which may hold a document of a gigabyte: as ParseJson, with 8 times its size + 64 MiB of
// memory.
[[nodiscard]] Json ParseJsonLine(std::string_view text, const std::string& where);

// Bytes of the longest string, number or run of spaces. nlohmann's parser keeps what it reads in two buffers that
// double as they grow, up to kJsonTokenCopies times that: a reader with a limit on memory counts it.
[[nodiscard]] size_t LongestJsonToken(std::string_view text);
inline constexpr uint64_t kJsonTokenCopies = 6;

// What an exception of nlohmann's parser says, in one line without the library's names; `token` is what it read last.
[[nodiscard]] std::string JsonErrorText(const nlohmann::detail::exception& error, const std::string& token);

// As text on one line; invalid UTF-8, such as a path may have, becomes U+FFFD.
[[nodiscard]] std::string DumpJson(const Json& value);

// At most 60 characters of a value, for messages.
[[nodiscard]] std::string JsonExcerpt(const Json& value);

// Readers of one value; `field` is "file: key" and begins the message of the Error(kConfig).
void ReadJson(const Json& value, const std::string& field, int64_t* out);
void ReadJson(const Json& value, const std::string& field, double* out);  // also "inf", "Infinity"
void ReadJson(const Json& value, const std::string& field, bool* out);
void ReadJson(const Json& value, const std::string& field, std::string* out);

template <class T>
void ReadJson(const Json& value, const std::string& field, std::vector<T>* out) {
  if (!value.is_array()) throw Error(ErrorCode::kConfig, StrCat(field, " = ", JsonExcerpt(value), ": must be a list"));
  out->clear();
  out->reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) ReadJson(value[i], StrCat(field, "[", i, "]"), &out->emplace_back());
}

template <size_t n>
void ReadJson(const Json& value, const std::string& field, std::array<double, n>* out) {
  if (!value.is_array() || value.size() != n)
    throw Error(ErrorCode::kConfig, StrCat(field, " = ", JsonExcerpt(value), ": must be a list of ", n, " numbers"));
  for (size_t i = 0; i < n; ++i) ReadJson(value[i], StrCat(field, "[", i, "]"), &(*out)[i]);
}

// null is nullopt.
template <class T>
void ReadJson(const Json& value, const std::string& field, std::optional<T>* out) {
  if (value.is_null()) {
    out->reset();
    return;
  }
  T inner{};
  ReadJson(value, field, &inner);
  *out = inner;
}

}  // namespace hydra
