// SPDX-License-Identifier: Apache-2.0
// Copies of GGUF's general.* keys, and the numbers of llama.cpp's file types.
#include "hydra/convert/gguf_origin.h"

#include <algorithm>
#include <iterator>
#include <map>

#include "hydra/base/error.h"
#include "hydra/io/json.h"
#include "hydra/runtime/memory_overlay.h"

namespace hydra {
namespace {

constexpr std::string_view kPrefix = "gguf:";
constexpr std::string_view kOfTheFile[] = {"general.architecture", "general.type", "general.file_type",
                                           "general.quantization_version", kGgufAlignment};

bool IsOrigin(std::string_view key) {
  constexpr size_t kMaxKey = 256;
  return key.starts_with("general.") && key.size() <= kMaxKey &&
         std::ranges::find(kOfTheFile, key) == std::end(kOfTheFile);
}

// A value as JSON; null for arrays of anything but texts.
Json ToJson(const GgufFile& file, const GgufEntry& entry) {
  if (entry.type == GgufType::kArray) {
    if (entry.element != GgufType::kText) return nullptr;
    Json list = Json::array();
    file.ForEachText(entry.key, [&](size_t, std::string_view text) { list.push_back(text); });
    return list;
  }
  if (entry.type == GgufType::kText) return *file.FindText(entry.key);
  if (entry.type == GgufType::kBool) return *file.FindBool(entry.key);
  if (entry.type == GgufType::kF32 || entry.type == GgufType::kF64) return *file.FindFloat(entry.key);
  return *file.FindInt(entry.key);
}

// A text of __metadata__ that is not what OriginTexts writes is passed over: anyone may write there.
void SetFromText(const std::string& key, const std::string& text, GgufMetadata* metadata) {
  const Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_string()) metadata->SetText(key, value.get<std::string>());
  if (value.is_boolean()) metadata->SetBool(key, value.get<bool>());
  if (value.is_number_unsigned() && value.get<uint64_t>() <= UINT32_MAX) metadata->SetU32(key, value.get<int64_t>());
  if (value.is_number_float()) metadata->SetF32(key, value.get<double>());
  if (!value.is_array() || !std::ranges::all_of(value, [](const Json& text) { return text.is_string(); })) return;
  const auto texts = value.get<std::vector<std::string>>();
  metadata->SetTexts(key, std::vector<std::string_view>(texts.begin(), texts.end()));
}

// llama.cpp's numbers (LLAMA_FTYPE_*).
int64_t FileTypeOf(WeightType type) {
  switch (type) {
    case WeightType::kF32: return 0;
    case WeightType::kF16: return 1;
    case WeightType::kQ4_0: return 2;
    case WeightType::kQ4_1: return 3;
    case WeightType::kQ8_0: return 7;
    case WeightType::kQ5_0: return 8;
    case WeightType::kQ5_1: return 9;
    case WeightType::kQ4_K: return 15;
    case WeightType::kQ5_K: return 17;
    case WeightType::kQ6_K: return 18;
    case WeightType::kBF16: return 32;
  }
  HYDRA_CHECK(false, "type ", static_cast<int>(type));
  return 0;
}

}  // namespace

SafeTensorsMetadata OriginTexts(const WeightSource& source) {
  SafeTensorsMetadata texts;
  if (GgufFile::IsGguf(source.path)) {
    const GgufFile file = GgufFile::Open(source.path);
    for (const GgufEntry& entry : file.entries()) {
      if (!IsOrigin(entry.key)) continue;
      const Json value = ToJson(file, entry);
      if (!value.is_null())
        texts[StrCat(kPrefix, entry.key)] = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    }
  }
  for (const auto& [key, text] : source.metadata)
    if (key.starts_with(kPrefix)) texts[key] = text;
  if (const auto base = FindMemoryBase(source)) texts[StrCat(kPrefix, kMemoryBaseKey)] = Json(*base).dump();
  return texts;
}

void SetOrigin(const WeightSource& source, GgufMetadata* metadata) {
  if (GgufFile::IsGguf(source.path)) {
    const GgufFile file = GgufFile::Open(source.path);
    for (const GgufEntry& entry : file.entries())
      if (IsOrigin(entry.key)) metadata->Set(entry);
  }
  for (const auto& [key, text] : source.metadata)
    if (key.starts_with(kPrefix) && IsOrigin(std::string_view(key).substr(kPrefix.size())))
      SetFromText(key.substr(kPrefix.size()), text, metadata);
  if (const auto base = FindMemoryBase(source)) metadata->SetText(kMemoryBaseKey, *base);
}

void SetFileType(std::span<const GgufTensorInfo> tensors, GgufMetadata* metadata) {
  constexpr int64_t kQuantisationVersion = 2;  // of ggml's blocks
  std::map<WeightType, int64_t> numbers;
  for (const GgufTensorInfo& tensor : tensors) numbers[tensor.type] += NumElements(tensor.shape);
  HYDRA_CHECK(!numbers.empty(), "a file without tensors");
  const auto most = std::ranges::max_element(numbers, {}, [](const auto& row) { return row.second; });
  metadata->SetU32("general.file_type", FileTypeOf(most->first));
  if (std::ranges::any_of(numbers, [](const auto& row) { return IsQuantised(row.first); }))
    metadata->SetU32("general.quantization_version", kQuantisationVersion);
}

}  // namespace hydra
