// SPDX-License-Identifier: Apache-2.0
// GGUF v3 files, little-endian, single: strict reading over mapped bytes, atomic writing. Bytes: docs/formats.md.
// Not here: what keys and tensors mean for a model (gguf_model.h) or a tokenizer (tokenizer.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydra/io/file.h"
#include "hydra/io/safetensors.h"  // WrittenFile
#include "hydra/tensor/weight_type.h"

namespace hydra {

inline constexpr std::string_view kGgufAlignment = "general.alignment";  // key of the padding between tensors

// Types of metadata values, with GGUF's numbers.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kText = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
[[nodiscard]] const char* GgufTypeName(GgufType type);  // "u8", ..., "text", "array"

// One metadata value; views live as long as the file.
struct GgufEntry {
  std::string_view key;
  GgufType type = GgufType::kU8;
  GgufType element = GgufType::kU8;  // of an array, else type
  uint64_t count = 1;                // elements of an array, else 1
  std::span<const std::byte> data;   // the elements as the file has them
};

// One tensor as it lies in the file. `shape` is in our order, [rows, columns]; the file's is the reverse. A row is
// whole blocks. Data are aligned to the file's alignment only (8 at least).
struct GgufTensor {
  std::string_view name;
  WeightType type = WeightType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t nbytes = 0;
};

// Checked as a whole when opened: counts against the file, keys and names once each, value types, alignment, shapes
// times blocks, offsets aligned, in the file and without overlap. Throws kFormat naming file, key or tensor and value;
// kIo where a file cannot be read. Immutable, so safe to share between threads; views live as long as the object
// (moves included).
class GgufFile {
 public:
  [[nodiscard]] static GgufFile Open(const std::string& path);
  // Whether a file begins as GGUF files do; false where it cannot be read.
  [[nodiscard]] static bool IsGguf(const std::string& path);

  [[nodiscard]] const std::vector<GgufEntry>& entries() const { return entries_; }
  // Null where there is none.
  [[nodiscard]] const GgufEntry* Find(std::string_view key) const;

  // Values by key. Int takes every integer type that fits 64 bits, Float those and f32, f64 (finite or not). The plain
  // forms throw kFormat where the key is missing; all do where it has another type.
  [[nodiscard]] int64_t Int(std::string_view key) const { return Need(FindInt(key), key); }
  [[nodiscard]] double Float(std::string_view key) const { return Need(FindFloat(key), key); }
  [[nodiscard]] bool Bool(std::string_view key) const { return Need(FindBool(key), key); }
  [[nodiscard]] std::string_view Text(std::string_view key) const { return Need(FindText(key), key); }
  [[nodiscard]] std::vector<int64_t> Ints(std::string_view key) const { return Need(FindInts(key), key); }
  [[nodiscard]] std::vector<std::string_view> Texts(std::string_view key) const { return Need(FindTexts(key), key); }
  [[nodiscard]] std::optional<int64_t> FindInt(std::string_view key) const;
  [[nodiscard]] std::optional<double> FindFloat(std::string_view key) const;
  [[nodiscard]] std::optional<bool> FindBool(std::string_view key) const;
  [[nodiscard]] std::optional<std::string_view> FindText(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<int64_t>> FindInts(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<std::string_view>> FindTexts(std::string_view key) const;
  // An array of f32, f64 or integers, each as the nearest f32.
  [[nodiscard]] std::optional<std::vector<float>> FindFloats(std::string_view key) const;
  // Calls found(index, text) for each text of an array, without a list of them; as Texts otherwise.
  void ForEachText(std::string_view key, const std::function<void(size_t, std::string_view)>& found) const;
  // A value as one line of text, cut off where it is long: for messages and `inspect`.
  [[nodiscard]] std::string Describe(const GgufEntry& entry) const;

  // In the order of the file's list.
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const { return tensors_; }
  [[nodiscard]] const GgufTensor* FindTensor(std::string_view name) const;

  [[nodiscard]] uint64_t alignment() const { return alignment_; }
  [[nodiscard]] const std::string& path() const { return file_.path(); }
  [[nodiscard]] uint64_t file_bytes() const { return file_.size(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return file_.bytes(); }

  // Throws kIo where the file was written to since it was opened.
  void CheckUnchanged() const { file_.CheckUnchanged(); }

  // Throws kFormat "FILE: KEY RULE".
  [[noreturn]] void Fail(std::string_view key, std::string_view rule) const;

 private:
  explicit GgufFile(const std::string& path) : file_(path) {}
  void ReadEntries(ByteReader& reader, uint64_t count);
  void ReadAlignment();
  void ReadTensors(ByteReader& reader, uint64_t count);
  void PlaceTensors(const ByteReader& reader, std::span<const uint64_t> offsets);
  // The array of texts; null where the key is missing.
  [[nodiscard]] const GgufEntry* FindTextArray(std::string_view key) const;
  [[noreturn]] void Missing(std::string_view key) const;
  [[noreturn]] void WrongType(const GgufEntry& entry, const char* want) const;
  template <class T>
  T Need(std::optional<T> value, std::string_view key) const {
    if (!value) Missing(key);
    return *std::move(value);
  }

  MappedFile file_;
  uint64_t alignment_ = 32;
  std::vector<GgufEntry> entries_;
  std::vector<GgufTensor> tensors_;
  std::vector<uint32_t> entries_by_key_, tensors_by_name_;
};

// ---- Writing ----

// Metadata to be written, in the order in which keys were first set; setting a key again replaces its value.
class GgufMetadata {
 public:
  void SetU32(std::string_view key, int64_t value);  // 0 .. 2^32 - 1
  void SetF32(std::string_view key, double value);
  void SetBool(std::string_view key, bool value);
  void SetText(std::string_view key, std::string_view value);
  void SetI32s(std::string_view key, std::span<const int32_t> values);
  void SetF32s(std::string_view key, std::span<const float> values);
  void SetTexts(std::string_view key, std::span<const std::string_view> values);
  void Set(const GgufEntry& entry);  // a value of another file, as it is
  void Remove(std::string_view key);
  [[nodiscard]] bool Has(std::string_view key) const;

  // Keys and encoded values: u32 type, then the value.
  [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& entries() const { return entries_; }

 private:
  std::string& Slot(std::string_view key);
  std::vector<std::pair<std::string, std::string>> entries_;
};

struct GgufTensorInfo {
  std::string name;  // 1 to 63 bytes: ggml's limit
  WeightType type = WeightType::kF32;
  std::vector<int64_t> shape;  // ours: [rows, columns]; 1 to 4 dimensions
};

// Writes one file atomically, alignment 32. bytes_of is called once for each tensor, in order, with its index; its
// result is used until the next call.
using GgufBytesFn = std::function<std::span<const std::byte>(size_t index)>;
WrittenFile WriteGguf(const std::string& path, const GgufMetadata& metadata, std::span<const GgufTensorInfo> tensors,
                      const GgufBytesFn& bytes_of, const FileOps& ops = FileOps::Real());

}  // namespace hydra
