// SPDX-License-Identifier: Apache-2.0
// Writing of GGUF v3 files: metadata, the list of tensors, their data one after another. Not here: reading (gguf.cc).
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/io/gguf.h"

namespace hydra {
namespace {

constexpr uint64_t kAlignment = 32;  // the default, so no key says it

template <class T>
void Append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void AppendText(std::string& out, std::string_view text) {
  Append(out, static_cast<uint64_t>(text.size()));
  out.append(text);
}
void AppendType(std::string& out, GgufType type) { Append(out, static_cast<uint32_t>(type)); }

void AppendArray(std::string& out, GgufType element, uint64_t count) {
  AppendType(out, GgufType::kArray);
  AppendType(out, element);
  Append(out, count);
}

uint64_t BytesOf(const GgufTensorInfo& tensor) {
  const int64_t columns = tensor.shape.back();
  return static_cast<uint64_t>(NumElements(tensor.shape) / columns * RowBytes(tensor.type, columns));
}

}  // namespace

std::string& GgufMetadata::Slot(std::string_view key) {
  HYDRA_CHECK(!key.empty() && key.size() <= 65535, "metadata key of ", key.size(), " bytes");
  const auto it = std::ranges::find(entries_, key, &std::pair<std::string, std::string>::first);
  if (it == entries_.end()) return entries_.emplace_back(key, "").second;
  it->second.clear();
  return it->second;
}

bool GgufMetadata::Has(std::string_view key) const {
  return std::ranges::find(entries_, key, &std::pair<std::string, std::string>::first) != entries_.end();
}

void GgufMetadata::Remove(std::string_view key) {
  std::erase_if(entries_, [&](const auto& entry) { return entry.first == key; });
}

void GgufMetadata::SetU32(std::string_view key, int64_t value) {
  HYDRA_CHECK(value >= 0 && value <= UINT32_MAX, key, " = ", value);
  std::string& out = Slot(key);
  AppendType(out, GgufType::kU32);
  Append(out, static_cast<uint32_t>(value));
}

void GgufMetadata::SetF32(std::string_view key, double value) {
  std::string& out = Slot(key);
  AppendType(out, GgufType::kF32);
  Append(out, static_cast<float>(value));
}

void GgufMetadata::SetBool(std::string_view key, bool value) {
  std::string& out = Slot(key);
  AppendType(out, GgufType::kBool);
  Append(out, static_cast<uint8_t>(value));
}

void GgufMetadata::SetText(std::string_view key, std::string_view value) {
  std::string& out = Slot(key);
  AppendType(out, GgufType::kText);
  AppendText(out, value);
}

void GgufMetadata::SetI32s(std::string_view key, std::span<const int32_t> values) {
  std::string& out = Slot(key);
  AppendArray(out, GgufType::kI32, values.size());
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

void GgufMetadata::SetF32s(std::string_view key, std::span<const float> values) {
  std::string& out = Slot(key);
  AppendArray(out, GgufType::kF32, values.size());
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

void GgufMetadata::SetTexts(std::string_view key, std::span<const std::string_view> values) {
  std::string& out = Slot(key);
  AppendArray(out, GgufType::kText, values.size());
  for (const std::string_view text : values) AppendText(out, text);
}

void GgufMetadata::Set(const GgufEntry& entry) {
  if (entry.key == kGgufAlignment) return;  // of the other file's layout
  std::string& out = Slot(entry.key);
  if (entry.type == GgufType::kArray)
    AppendArray(out, entry.element, entry.count);
  else
    AppendType(out, entry.type);
  out.append(reinterpret_cast<const char*>(entry.data.data()), entry.data.size());
}

WrittenFile WriteGguf(const std::string& path, const GgufMetadata& metadata, std::span<const GgufTensorInfo> tensors,
                      const GgufBytesFn& bytes_of, const FileOps& ops) {
  std::string header = "GGUF";
  Append(header, uint32_t{3});
  Append(header, static_cast<uint64_t>(tensors.size()));
  Append(header, static_cast<uint64_t>(metadata.entries().size()));
  for (const auto& [key, value] : metadata.entries()) {
    HYDRA_CHECK(key != kGgufAlignment, "the alignment is ours");
    AppendText(header, key);
    header += value;
  }
  uint64_t offset = 0;
  for (const GgufTensorInfo& tensor : tensors) {
    HYDRA_CHECK(!tensor.name.empty() && tensor.name.size() < 64, tensor.name, ": a name of ", tensor.name.size(),
                " bytes");
    HYDRA_CHECK(!tensor.shape.empty() && tensor.shape.size() <= 4, tensor.name, ": shape ", ShapeText(tensor.shape));
    AppendText(header, tensor.name);
    Append(header, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t d = tensor.shape.size(); d-- > 0;) Append(header, static_cast<uint64_t>(tensor.shape[d]));
    Append(header, Info(tensor.type).ggml_id);
    Append(header, offset);
    offset += *CheckedAlignUp(BytesOf(tensor), kAlignment);
  }
  AtomicFile file(path, ops);
  const auto pad = [&] { file.WriteZeros(*CheckedAlignUp(file.size(), kAlignment) - file.size()); };
  file.Write(header);
  pad();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto bytes = bytes_of(i);
    HYDRA_CHECK(bytes.size() == BytesOf(tensors[i]), tensors[i].name, ": ", bytes.size(), " bytes for ",
                BytesOf(tensors[i]));
    file.Write(bytes);
    pad();  // after the last one too: ggml reads whole aligned parts
  }
  const WrittenFile written{.bytes = file.size(), .crc32 = file.crc32()};
  file.Commit();
  return written;
}

}  // namespace hydra
