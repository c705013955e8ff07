// SPDX-License-Identifier: Apache-2.0
// Reading of GGUF files. Every count is held against the bytes that are left before anything is reserved or looped
// over, so that a file costs no more than its size, whatever it declares. Not here: writing (gguf_write.cc).
#include "hydra/io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

namespace hydra {
namespace {

constexpr uint32_t kGgufMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kVersion = 3;
constexpr uint64_t kMaxKey = 65535;    // bytes, the format's own limit
constexpr uint64_t kMaxName = 256;     // bytes of a tensor's name
constexpr uint64_t kMaxKeys = 10'000;  // far over any model's
constexpr uint64_t kMaxTensors = 65'536;
constexpr uint32_t kMaxDims = 4;

// Bytes of one value; 0 for texts and arrays.
uint64_t SizeOf(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool: return 1;
    case GgufType::kU16:
    case GgufType::kI16: return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32: return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64: return 8;
    case GgufType::kText:
    case GgufType::kArray: return 0;
  }
  return 0;
}

std::string Quoted(std::string_view text) { return fmt::format("\"{}\"", OneLine(text, 80)); }

GgufType ReadType(ByteReader& reader, const std::string& field) {
  const uint32_t value = reader.U32(field);
  if (value > static_cast<uint32_t>(GgufType::kF64)) reader.Fail(field, fmt::format("= {}: must be 0 to 12", value));
  return static_cast<GgufType>(value);
}

void CheckBools(const ByteReader& reader, std::string_view field, std::span<const std::byte> bytes) {
  for (const std::byte b : bytes)
    if (b > std::byte{1}) reader.Fail(field, fmt::format("= {}: a bool must be 0 or 1", static_cast<unsigned>(b)));
}

// The next `count` values of one type, checked, not copied.
std::span<const std::byte> ReadValues(ByteReader& reader, GgufType type, uint64_t count, std::string_view field) {
  if (type == GgufType::kText) {
    const uint64_t begin = reader.pos();
    if (count > reader.left() / sizeof(uint64_t))
      reader.Fail(field, fmt::format("declares {} texts: the file has {} bytes left", WithCommas(count),
                                     WithCommas(reader.left())));
    for (uint64_t i = 0; i < count; ++i) reader.Skip(reader.U64(field), field);
    const uint64_t end = reader.pos();
    reader.Seek(begin, field);
    return reader.Bytes(end - begin, field);
  }
  const auto bytes = reader.Array(count, SizeOf(type), field);
  if (type == GgufType::kBool) CheckBools(reader, field, bytes);
  return bytes;
}

template <class T>
T At(std::span<const std::byte> data, uint64_t i) {
  T value;
  std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
  return value;
}

bool IsInteger(GgufType type) {
  return type != GgufType::kF32 && type != GgufType::kF64 && type != GgufType::kBool && type != GgufType::kText &&
         type != GgufType::kArray;
}

// Element i of integers; nullopt for a u64 past int64's end.
std::optional<int64_t> IntAt(GgufType type, std::span<const std::byte> data, uint64_t i) {
  switch (type) {
    case GgufType::kU8: return At<uint8_t>(data, i);
    case GgufType::kI8: return At<int8_t>(data, i);
    case GgufType::kU16: return At<uint16_t>(data, i);
    case GgufType::kI16: return At<int16_t>(data, i);
    case GgufType::kU32: return At<uint32_t>(data, i);
    case GgufType::kI32: return At<int32_t>(data, i);
    case GgufType::kI64: return At<int64_t>(data, i);
    case GgufType::kU64: {
      const auto value = At<uint64_t>(data, i);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default: HYDRA_CHECK(false, "not an integer type");
  }
  return std::nullopt;
}

// Calls f(text) for each text of checked data.
template <class F>
void EachText(std::span<const std::byte> data, uint64_t count, F&& f) {
  for (uint64_t i = 0, at = 0; i < count; ++i) {
    const auto n = At<uint64_t>(data.subspan(at), 0);
    f(std::string_view(reinterpret_cast<const char*>(data.data() + at + 8), n));
    at += 8 + n;
  }
}

// Positions of `items` sorted by name; the first one that is there twice goes to `twice`.
template <class T, class Name, class Twice>
std::vector<uint32_t> SortByName(const std::vector<T>& items, Name name, Twice twice) {
  std::vector<uint32_t> order(items.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto key = [&](uint32_t i) { return items[i].*name; };
  std::ranges::sort(order, {}, key);
  const auto it = std::ranges::adjacent_find(order, {}, key);
  if (it != order.end()) twice(items[*it].*name);
  return order;
}

template <class T, class Name>
const T* FindByName(const std::vector<T>& items, const std::vector<uint32_t>& order, Name name, std::string_view want) {
  const auto key = [&](uint32_t i) { return items[i].*name; };
  const auto it = std::ranges::lower_bound(order, want, {}, key);
  return it != order.end() && key(*it) == want ? &items[*it] : nullptr;
}

}  // namespace

const char* GgufTypeName(GgufType type) {
  constexpr const char* kNames[] = {"u8",   "i8",   "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "text", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

bool GgufFile::IsGguf(const std::string& path) {
  try {
    const MappedFile file(path);
    return file.size() >= sizeof(kGgufMagic) && At<uint32_t>(file.bytes(), 0) == kGgufMagic;
  } catch (const Error&) {
    return false;
  }
}

GgufFile GgufFile::Open(const std::string& path) {
  GgufFile file(path);
  ByteReader reader(file.bytes(), path);
  if (reader.Text(4, "magic") != "GGUF") reader.Fail("magic", "must be GGUF: this is no GGUF file");
  const uint32_t version = reader.U32("version");
  if (version == kVersion << 24) reader.Fail("version", "= 3, big-endian: only little-endian files are read");
  if (version != kVersion) reader.Fail("version", fmt::format("= {}: must be 3", version));
  const uint64_t n_tensors = reader.U64("tensor count");
  const uint64_t n_entries = reader.U64("metadata count");
  file.ReadEntries(reader, n_entries);
  file.ReadAlignment();
  file.ReadTensors(reader, n_tensors);
  return file;
}

void GgufFile::ReadEntries(ByteReader& reader, uint64_t count) {
  constexpr uint64_t kLeast = 8 + 1 + 4 + 1;  // key length, key, type, value
  if (count > std::min(kMaxKeys, reader.left() / kLeast))
    reader.Fail("metadata count", fmt::format("= {}: {} bytes are left and {} keys are the most", WithCommas(count),
                                              WithCommas(reader.left()), WithCommas(kMaxKeys)));
  entries_.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t key_bytes = reader.U64(fmt::format("metadata[{}]: key length", i));
    if (key_bytes < 1 || key_bytes > kMaxKey)
      reader.Fail(fmt::format("metadata[{}]: key length", i), fmt::format("= {}: must be 1 to {}", key_bytes, kMaxKey));
    GgufEntry entry;
    entry.key = reader.Text(key_bytes, fmt::format("metadata[{}]: key", i));
    const std::string field = OneLine(entry.key, 80);
    entry.type = entry.element = ReadType(reader, field + ": value type");
    if (entry.type == GgufType::kArray) {
      entry.element = ReadType(reader, field + ": element type");
      if (entry.element == GgufType::kArray)
        reader.Fail(field + ": element type", "is an array: arrays of arrays are not supported");
      entry.count = reader.U64(field + ": element count");
    }
    entry.data = ReadValues(reader, entry.element, entry.count, field);
    entries_.push_back(entry);
  }
  entries_by_key_ = SortByName(entries_, &GgufEntry::key,
                               [&](std::string_view key) { reader.Fail(OneLine(key, 80), "is given twice"); });
}

void GgufFile::ReadAlignment() {
  const GgufEntry* entry = Find(kGgufAlignment);
  if (entry == nullptr) return;
  if (entry->type != GgufType::kU32) WrongType(*entry, "u32");
  alignment_ = At<uint32_t>(entry->data, 0);
  if (!std::has_single_bit(alignment_) || alignment_ < 8 || alignment_ > 65536)
    Fail(kGgufAlignment, fmt::format("= {}: must be a power of two from 8 to 65536", alignment_));
}

void GgufFile::ReadTensors(ByteReader& reader, uint64_t count) {
  constexpr uint64_t kLeast = 8 + 1 + 4 + 8 + 4 + 8;  // name length, name, dims, one dim, type, offset
  constexpr uint64_t kMemory = 128;  // that a tensor takes here; all together at most twice the file and 512 KiB
  const uint64_t most = std::min(kMaxTensors, (2 * reader.size() + (1 << 19)) / kMemory);
  if (count > std::min(most, reader.left() / kLeast))
    reader.Fail("tensor count", fmt::format("= {}: {} bytes are left and {} tensors are the most", WithCommas(count),
                                            WithCommas(reader.left()), WithCommas(most)));
  tensors_.reserve(count);
  std::vector<uint64_t> offsets;
  offsets.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const std::string at = fmt::format("tensors[{}]", i);
    const uint64_t name_bytes = reader.U64(at + ": name length");
    if (name_bytes < 1 || name_bytes > kMaxName)
      reader.Fail(at + ": name length", fmt::format("= {}: must be 1 to {}", name_bytes, kMaxName));
    GgufTensor tensor;
    tensor.name = reader.Text(name_bytes, at + ": name");
    const std::string field = OneLine(tensor.name, 80);
    const uint32_t n_dims = reader.U32(field + ": dimensions");
    if (n_dims < 1 || n_dims > kMaxDims)
      reader.Fail(field + ": dimensions", fmt::format("= {}: must be 1 to {}", n_dims, kMaxDims));
    tensor.shape.resize(n_dims);
    std::optional<uint64_t> elements = 1;
    for (uint32_t d = 0; d < n_dims; ++d) {
      const uint64_t dim = reader.U64(field + ": dimension");
      if (dim < 1 || dim > static_cast<uint64_t>(INT64_MAX))
        reader.Fail(field, fmt::format("dimension {} = {}: must be 1 to 2^63 - 1", d, dim));
      tensor.shape[n_dims - 1 - d] = static_cast<int64_t>(dim);
      if (elements) elements = CheckedMul(*elements, dim);
    }
    const uint32_t type = reader.U32(field + ": type");
    const auto known = WeightTypeOfGgml(type);
    if (!known) {
      std::string names;
      for (const WeightTypeInfo& info : AllWeightTypes())
        names += fmt::format("{}{}", names.empty() ? "" : " ", info.name);
      reader.Fail(field, fmt::format("type = {}: supported are {}", type, names));
    }
    tensor.type = *known;
    const WeightTypeInfo& info = Info(tensor.type);
    if (tensor.shape.back() % info.block != 0)
      reader.Fail(field, fmt::format("shape {} of {}: rows must be whole blocks of {}", ShapeText(tensor.shape),
                                     info.name, info.block));
    auto bytes =
        elements ? CheckedMul(*elements / static_cast<uint64_t>(info.block), static_cast<uint64_t>(info.block_bytes))
                 : std::nullopt;
    if (!bytes || *bytes > static_cast<uint64_t>(INT64_MAX))
      reader.Fail(field,
                  fmt::format("shape {} of {}: more bytes than 63 bits can count", ShapeText(tensor.shape), info.name));
    tensor.nbytes = static_cast<int64_t>(*bytes);
    offsets.push_back(reader.U64(field + ": offset"));
    if (offsets.back() % alignment_ != 0)
      reader.Fail(field, fmt::format("offset {}: must be a multiple of the alignment {}", offsets.back(), alignment_));
    tensors_.push_back(std::move(tensor));
  }
  tensors_by_name_ = SortByName(tensors_, &GgufTensor::name,
                                [&](std::string_view name) { reader.Fail(OneLine(name, 80), "is there twice"); });
  PlaceTensors(reader, offsets);
}

void GgufFile::PlaceTensors(const ByteReader& reader, std::span<const uint64_t> offsets) {
  if (tensors_.empty()) return;
  const uint64_t start = *CheckedAlignUp(reader.pos(), alignment_);  // a position in a file: cannot wrap
  std::vector<uint32_t> order(tensors_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, [&](uint32_t i) { return offsets[i]; });
  uint64_t end_before = 0;
  const GgufTensor* before = nullptr;
  for (const uint32_t i : order) {
    GgufTensor& tensor = tensors_[i];
    const std::string field = OneLine(tensor.name, 80);
    const auto end = CheckedAdd(offsets[i], static_cast<uint64_t>(tensor.nbytes));
    const auto file_end = end ? CheckedAdd(start, *end) : std::nullopt;
    if (!file_end)
      reader.Fail(field, fmt::format("offset {} + {} bytes: more than 64 bits can count", offsets[i], tensor.nbytes));
    if (*file_end > reader.size())
      reader.Fail(field, fmt::format("the file ends at {} of {} bytes: incomplete copy?", WithCommas(reader.size()),
                                     WithCommas(*file_end)));
    if (before != nullptr && offsets[i] < end_before)
      reader.Fail(
          field, fmt::format("offset {}: overlaps {}, which ends at {}", offsets[i], Quoted(before->name), end_before));
    tensor.data = file_.bytes().data() + start + offsets[i];
    end_before = *end;
    before = &tensor;
  }
}

const GgufEntry* GgufFile::Find(std::string_view key) const {
  return FindByName(entries_, entries_by_key_, &GgufEntry::key, key);
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  return FindByName(tensors_, tensors_by_name_, &GgufTensor::name, name);
}

std::optional<int64_t> GgufFile::FindInt(std::string_view key) const {
  const GgufEntry* entry = Find(key);
  if (entry == nullptr) return std::nullopt;
  if (!IsInteger(entry->type)) WrongType(*entry, "an integer");
  const auto value = IntAt(entry->type, entry->data, 0);
  if (!value) Fail(key, fmt::format("= {}: must be below 2^63", At<uint64_t>(entry->data, 0)));
  return value;
}

std::optional<double> GgufFile::FindFloat(std::string_view key) const {
  const GgufEntry* entry = Find(key);
  if (entry == nullptr) return std::nullopt;
  if (entry->type == GgufType::kF32) return At<float>(entry->data, 0);
  if (entry->type == GgufType::kF64) return At<double>(entry->data, 0);
  if (!IsInteger(entry->type)) WrongType(*entry, "a number");
  return static_cast<double>(*FindInt(key));
}

std::optional<bool> GgufFile::FindBool(std::string_view key) const {
  const GgufEntry* entry = Find(key);
  if (entry == nullptr) return std::nullopt;
  if (entry->type != GgufType::kBool) WrongType(*entry, "a bool");
  return entry->data[0] != std::byte{0};
}

std::optional<std::string_view> GgufFile::FindText(std::string_view key) const {
  const GgufEntry* entry = Find(key);
  if (entry == nullptr) return std::nullopt;
  if (entry->type != GgufType::kText) WrongType(*entry, "a text");
  std::string_view text;
  EachText(entry->data, 1, [&](std::string_view found) { text = found; });
  return text;
}

std::optional<std::vector<int64_t>> GgufFile::FindInts(std::string_view key) const {
  const GgufEntry* entry = Find(key);
  if (entry == nullptr) return std::nullopt;
  if (entry->type != GgufType::kArray || !IsInteger(entry->element)) WrongType(*entry, "an array of integers");
  std::vector<int64_t> values(entry->count);
  for (uint64_t i = 0; i < entry->count; ++i) {
    const auto value = IntAt(entry->element, entry->data, i);
    if (!value) Fail(key, fmt::format("[{}] = {}: must be below 2^63", i, At<uint64_t>(entry->data, i)));
    values[i] = *value;
  }
  return values;
}

std::optional<std::vector<float>> GgufFile::FindFloats(std::string_view key) const {
  const GgufEntry* entry = Find(key);
  if (entry == nullptr) return std::nullopt;
  const GgufType type = entry->element;
  const bool is_float = type == GgufType::kF32 || type == GgufType::kF64;
  if (entry->type != GgufType::kArray || (!is_float && !IsInteger(type))) WrongType(*entry, "an array of numbers");
  std::vector<float> values(entry->count);
  for (uint64_t i = 0; i < entry->count; ++i) {
    if (type == GgufType::kF32) {
      values[i] = At<float>(entry->data, i);
    } else if (type == GgufType::kF64) {
      values[i] = static_cast<float>(At<double>(entry->data, i));
    } else {
      values[i] = static_cast<float>(IntAt(type, entry->data, i).value_or(INT64_MAX));
    }
  }
  return values;
}

const GgufEntry* GgufFile::FindTextArray(std::string_view key) const {
  const GgufEntry* entry = Find(key);
  if (entry != nullptr && (entry->type != GgufType::kArray || entry->element != GgufType::kText))
    WrongType(*entry, "an array of texts");
  return entry;
}

std::optional<std::vector<std::string_view>> GgufFile::FindTexts(std::string_view key) const {
  const GgufEntry* entry = FindTextArray(key);
  if (entry == nullptr) return std::nullopt;
  std::vector<std::string_view> texts;
  texts.reserve(entry->count);
  EachText(entry->data, entry->count, [&](std::string_view text) { texts.push_back(text); });
  return texts;
}

void GgufFile::ForEachText(std::string_view key, const std::function<void(size_t, std::string_view)>& found) const {
  const GgufEntry* entry = FindTextArray(key);
  if (entry == nullptr) Missing(key);
  size_t i = 0;
  EachText(entry->data, entry->count, [&](std::string_view text) { found(i++, text); });
}

std::string GgufFile::Describe(const GgufEntry& entry) const {
  constexpr size_t kMaxBytes = 60;
  if (entry.type == GgufType::kArray)
    return fmt::format("{} of {}", WithCommas(entry.count), GgufTypeName(entry.element));
  switch (entry.type) {
    case GgufType::kText: return Quoted(*FindText(entry.key)).substr(0, kMaxBytes + 2);
    case GgufType::kBool: return *FindBool(entry.key) ? "true" : "false";
    case GgufType::kF32: return fmt::format("{}", At<float>(entry.data, 0));
    case GgufType::kF64: return fmt::format("{}", At<double>(entry.data, 0));
    case GgufType::kU64: return fmt::format("{}", At<uint64_t>(entry.data, 0));
    default: return fmt::format("{}", *FindInt(entry.key));
  }
}

void GgufFile::Fail(std::string_view key, std::string_view rule) const {
  throw Error(ErrorCode::kFormat, fmt::format("{}: {} {}", path(), key, rule));
}

void GgufFile::Missing(std::string_view key) const { Fail(key, "is missing"); }

void GgufFile::WrongType(const GgufEntry& entry, const char* want) const {
  const std::string is = entry.type == GgufType::kArray ? fmt::format("an array of {}", GgufTypeName(entry.element))
                                                        : std::string(GgufTypeName(entry.type));
  Fail(entry.key, fmt::format("is {}: must be {}", is, want));
}

}  // namespace hydra
