// SPDX-License-Identifier: Apache-2.0
// The file in which choices of tuning are kept: {"tuning": [{"for": KEY, "ahead": ..., ...}, ...]}, the newest last.
// Beside tuning.cc, which measures them.
#include <algorithm>
#include <filesystem>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/runtime/tuning.h"

namespace hydra {
namespace {

using kernels::Tuning;

constexpr const char* kList = "tuning";
constexpr size_t kMost = 100;

// The list in a file; empty where there is no file or it is not one of ours, which is then written anew.
Json ReadList(const std::string& file) {
  std::error_code code;
  if (!std::filesystem::is_regular_file(file, code)) return Json::array();
  try {
    const Json json = ParseJson(ReadText(file), file);
    if (json.is_object() && json.contains(kList) && json.at(kList).is_array()) return json.at(kList);
  } catch (const Error&) {
  }
  return Json::array();
}

bool IsFor(const Json& entry, const std::string& key) {
  return entry.is_object() && entry.contains("for") && entry.at("for") == key;
}

// A whole number of an entry; nothing where it is not one from `least` to `most`.
std::optional<int64_t> Number(const Json& entry, const char* name, int64_t least, int64_t most) {
  if (!entry.contains(name) || !entry.at(name).is_number_integer()) return std::nullopt;
  const auto value = entry.at(name).get<int64_t>();
  return value >= least && value <= most ? std::optional(value) : std::nullopt;
}

}  // namespace

std::optional<Tuning> ReadTuning(const std::string& file, const std::string& key) {
  const Json list = ReadList(file);
  const auto at = std::ranges::find_if(list, [&](const Json& entry) { return IsFor(entry, key); });
  if (at == list.end()) return std::nullopt;
  constexpr int64_t kPage = 4096, kThreads = 1024;
  const auto ahead = Number(*at, "ahead", 0, 16 * kPage), streams = Number(*at, "streams", 1, kernels::kStreams),
             threads = Number(*at, "threads", 0, kThreads);
  if (!ahead || !streams || !threads || (*streams != 1 && *streams != kernels::kStreams)) return std::nullopt;
  return Tuning{.ahead = *ahead, .streams = *streams, .threads = static_cast<int>(*threads)};
}

void KeepTuning(const std::string& file, const std::string& key, const Tuning& tuning) {
  Json list = Json::array();
  for (const Json& entry : ReadList(file))
    if (!IsFor(entry, key)) list.push_back(entry);
  list.push_back({{"for", key}, {"ahead", tuning.ahead}, {"streams", tuning.streams}, {"threads", tuning.threads}});
  while (list.size() > kMost) list.erase(list.begin());
  std::error_code code;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), code);
  WriteFileAtomic(file, Json({{kList, list}}).dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace hydra
