// SPDX-License-Identifier: Apache-2.0
// safetensors: a SAX pass over the header (a DOM would lose duplicate keys and cost memory), then the checks on all
// tensors together. Not here: what the tensors mean.
#include "hydra/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "hydra/io/json.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMaxHeader = uint64_t{100} << 20;
constexpr uint64_t kMaxIndex = uint64_t{100} << 20;
constexpr size_t kMaxTensorDims = 8;
constexpr size_t kMaxMetadata = 4096;   // keys: far over any file's
constexpr uint64_t kTensorBytes = 256;  // of memory for a tensor without its name, at most
constexpr uint64_t kFreeBytes = 1 << 20;
constexpr uint64_t kDataAlignment = 64;
constexpr int kMaxIndexDepth = 64;

[[noreturn]] void Bad(const std::string& file, std::string_view field, std::string_view rule) {
  throw Error(ErrorCode::kFormat, fmt::format("{}: {}: {}", file, OneLine(field), OneLine(rule)));
}

// What is left of the memory that a file may take, twice its size and a little, when its JSON is parsed.
uint64_t MemoryFor(const std::string& file, const char* part, uint64_t file_bytes, std::string_view json) {
  const uint64_t most = 2 * file_bytes + kFreeBytes, parser = kJsonTokenCopies * LongestJsonToken(json) + (1 << 16);
  if (parser > most - kFreeBytes / 2) Bad(file, part, "has a text longer than a file of its size may have");
  return most - parser;
}

// A SAX handler in which every event is refused; the two readers below override what their schema allows.
class StrictSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  StrictSax(std::string file, const char* part) : file_(std::move(file)), part_(part) {}

  bool null() override { return Scalar("null"); }
  bool boolean(bool) override { return Scalar("a boolean"); }
  bool number_integer(number_integer_t value) override { return Number(value < 0, 0, std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Number(false, value, ""); }
  bool number_float(number_float_t, const string_t& text) override { return Number(true, 0, text); }
  bool string(string_t&) override { return Scalar("a string"); }
  bool binary(binary_t&) override { return Scalar("binary"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    Bad(file_, part_, fmt::format("not JSON at its byte {}", position));
  }

 protected:
  virtual bool Scalar(const char* what) = 0;
  // `bad` for what is no non-negative integer of 64 bits; `text` is then its spelling.
  virtual bool Number(bool bad, uint64_t value, const std::string& text) = 0;

  std::string file_;
  const char* part_;  // what messages call the JSON
};

// One tensor as the header has it, offsets relative to the data.
struct Extent {
  uint64_t begin = 0, end = 0;
};

// {"__metadata__": {name: text}, NAME: {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ...}
class HeaderSax final : public StrictSax {
 public:
  // Room is made for `expected` tensors; all together may take `budget` bytes of memory.
  HeaderSax(std::string file, uint64_t budget, size_t expected)
      : StrictSax(std::move(file), "header"), budget_(budget), expected_(expected) {
    tensors.reserve(expected);
    extents.reserve(expected);
  }
  std::vector<TensorView> tensors;
  std::vector<Extent> extents;
  SafeTensorsMetadata metadata;

  bool start_object(size_t) override {
    if (depth_ >= 2) return Scalar("an object");
    ++depth_;
    seen_ = 0;
    field_ = kNone;
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ == 1) {
      in_metadata_ = name == "__metadata__";
      if (in_metadata_ && std::exchange(has_metadata_, true)) Bad(file_, name, "the key is there twice");
      if (!in_metadata_) {
        const bool room = tensors.size() < expected_;
        Charge(name, name.size() + (room ? 1 : 3) * kTensorBytes);
        tensors.emplace_back().name = name;  // a copy has no spare room
        extents.emplace_back();
      }
      return true;
    }
    if (in_metadata_) {
      metadata_key_ = std::move(name);
      if (metadata.contains(metadata_key_)) Bad(file_, Where(), "the key is there twice");
      if (metadata.size() >= kMaxMetadata) Bad(file_, "__metadata__", fmt::format("more than {} keys", kMaxMetadata));
      return true;
    }
    field_ = name == "dtype" ? kDtype : name == "shape" ? kShape : name == "data_offsets" ? kOffsets : kNone;
    if (field_ == kNone)
      Bad(file_, Name(), fmt::format("unknown key \"{}\": must be dtype, shape, data_offsets", name));
    if (seen_ & field_) Bad(file_, Where(), "the key is there twice");
    seen_ |= field_;
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && !in_metadata_) FinishTensor();
    if (depth_ == 1) in_metadata_ = false;
    return true;
  }

  bool string(string_t& text) override {
    if (depth_ == 2 && in_metadata_) {
      Charge("__metadata__", text.size() + metadata_key_.size());
      metadata.emplace(std::move(metadata_key_), text);
      return true;
    }
    if (depth_ != 2 || field_ != kDtype) return Scalar("a string");
    if (!ParseDType(text, &tensors.back().dtype))
      Bad(file_, Where(), fmt::format("\"{}\": unknown element type", text.substr(0, 32)));
    return true;
  }

  bool start_array(size_t) override {
    const bool wanted = depth_ == 2 && !in_metadata_ && !in_array_ && (field_ == kShape || field_ == kOffsets);
    if (!wanted) return Scalar("an array");
    in_array_ = true;
    n_elements_ = 0;
    return true;
  }

  bool end_array() override {
    if (field_ == kOffsets && n_elements_ != 2)
      Bad(file_, Where(), fmt::format("has {} numbers: must have 2", n_elements_));
    in_array_ = false;
    return true;
  }

 protected:
  bool Scalar(const char* what) override {
    const char* const rule = depth_ == 0        ? "the header must be an object"
                             : depth_ == 1      ? "must be an object"
                             : in_metadata_     ? "must be a string"
                             : field_ == kDtype ? "must be a string"
                             : in_array_        ? "must be a non-negative integer"
                                                : "must be an array";
    Bad(file_, Where(), fmt::format("{}: {}", what, rule));
  }

  bool Number(bool bad, uint64_t value, const std::string& text) override {
    if (!in_array_) return Scalar("a number");
    const std::string element = fmt::format("{}[{}]", Where(), n_elements_);
    if (bad || value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      Bad(file_, element, fmt::format("{}: must be an integer of 0 to 2^63 - 1", bad ? text : std::to_string(value)));
    if (field_ == kShape) {
      if (n_elements_ >= kMaxTensorDims) Bad(file_, Where(), fmt::format("more than {} dimensions", kMaxTensorDims));
      tensors.back().shape.push_back(static_cast<int64_t>(value));
    } else if (n_elements_ < 2) {
      (n_elements_ == 0 ? extents.back().begin : extents.back().end) = value;
    }
    ++n_elements_;
    return true;
  }

 private:
  enum Field : unsigned { kNone = 0, kDtype = 1, kShape = 2, kOffsets = 4 };

  void Charge(std::string_view field, uint64_t bytes) {
    used_ += bytes;
    if (used_ > budget_) Bad(file_, field, "the header has more than a file of its size may have");
  }

  std::string Name() const { return in_metadata_ ? "__metadata__" : tensors.back().name; }

  std::string Where() const {
    if (depth_ == 0) return "header";
    if (depth_ == 1) return Name();
    if (in_metadata_) return "__metadata__." + metadata_key_;
    return Name() + (field_ == kDtype ? ": dtype" : field_ == kShape ? ": shape" : ": data_offsets");
  }

  // Rules that one tensor can break by itself.
  void FinishTensor() {
    TensorView& tensor = tensors.back();
    for (const auto& [field, name] : {std::pair{kDtype, "dtype"}, {kShape, "shape"}, {kOffsets, "data_offsets"}})
      if (!(seen_ & field)) Bad(file_, tensor.name, fmt::format("\"{}\" is missing", name));
    field_ = kNone;
    const auto [begin, end] = extents.back();
    if (begin > end) Bad(file_, tensor.name, fmt::format("data_offsets [{}, {}]: must not descend", begin, end));
    auto size = std::optional<uint64_t>(static_cast<uint64_t>(DTypeSize(tensor.dtype)));
    // A zero dimension makes the product 0 whatever the rest is, but the rest must still be countable.
    for (const int64_t dim : tensor.shape)
      if (size) size = CheckedMul(*size, static_cast<uint64_t>(std::max<int64_t>(dim, 1)));
    if (!size || *size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      Bad(file_, tensor.name,
          fmt::format("shape {} of {}: more bytes than 63 bits can count", ShapeText(tensor.shape),
                      DTypeName(tensor.dtype)));
    if (std::ranges::find(tensor.shape, 0) != tensor.shape.end()) size = 0;
    if (end - begin != *size)
      Bad(file_, tensor.name,
          fmt::format("data_offsets [{}, {}] hold {} bytes: shape {} of {} needs {}", begin, end, end - begin,
                      ShapeText(tensor.shape), DTypeName(tensor.dtype), *size));
    tensor.nbytes = static_cast<int64_t>(*size);
  }

  uint64_t budget_, used_ = 0;
  size_t expected_;
  int depth_ = 0;
  bool in_metadata_ = false, has_metadata_ = false, in_array_ = false;
  unsigned seen_ = 0;
  Field field_ = kNone;
  size_t n_elements_ = 0;
  std::string metadata_key_;
};

// A table of names into `tensors`, sorted; throws on a name that is there twice.
std::vector<uint32_t> SortByName(const std::string& path, const std::vector<TensorView>& tensors) {
  std::vector<uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto name = [&](uint32_t i) -> const std::string& { return tensors[i].name; };
  std::ranges::sort(order, {}, name);
  const auto twice = std::ranges::adjacent_find(order, {}, name);
  if (twice != order.end()) Bad(path, name(*twice), "the tensor is there twice");
  return order;
}

// Reads and checks one file; appends its tensors, with data set, to `tensors`.
SafeTensorsMetadata ReadOne(const MappedFile& file, std::vector<TensorView>* tensors) {
  const std::string& path = file.path();
  ByteReader reader(file.bytes(), path);
  const uint64_t length = reader.U64("header length");
  if (length > kMaxHeader)
    reader.Fail("header length", fmt::format("= {}: must be at most {}", WithCommas(length), WithCommas(kMaxHeader)));
  const std::string_view header = reader.Text(length, "header");
  if (header.empty() || header[0] != '{') Bad(path, "header", "must be an object: its first byte must be {");
  const uint64_t budget = MemoryFor(path, "header", reader.size(), header);
  // One allocation of about the right size: growing would hold the table twice.
  uint64_t expected = 0;
  for (size_t at = 0; (at = header.find("\"data_offsets\"", at)) != std::string_view::npos; ++at) ++expected;
  HeaderSax sax(path, budget, std::min(expected, budget / (2 * kTensorBytes)));  // the words alone make no tensors
  nlohmann::json::sax_parse(header.begin(), header.end(), &sax);

  (void)SortByName(path, sax.tensors);  // names first: a tensor given twice is not an overlap

  const uint64_t data_bytes = reader.left();
  uint64_t needed = 0;
  for (const Extent& e : sax.extents) needed = std::max(needed, e.end);
  const uint64_t data_start = reader.pos();
  std::vector<uint32_t> order(sax.extents.size());
  std::iota(order.begin(), order.end(), 0u);
  // An empty tensor may share its offset with the next one, so the end decides between equal begins.
  std::ranges::sort(order, {}, [&](uint32_t i) { return std::pair(sax.extents[i].begin, sax.extents[i].end); });
  uint64_t at = 0;
  const std::string* before = nullptr;
  for (const uint32_t i : order) {
    TensorView& tensor = sax.tensors[i];
    const auto [begin, end] = sax.extents[i];
    if (end > data_bytes)
      Bad(path, tensor.name,
          fmt::format("data_offsets [{}, {}]: file ends at {} of {} bytes: incomplete copy?", begin, end,
                      WithCommas(reader.size()), WithCommas(CheckedAdd(data_start, needed).value_or(UINT64_MAX))));
    if (begin < at)
      Bad(path, tensor.name,
          fmt::format("data_offsets [{}, {}]: overlap with \"{}\", which ends at {}", begin, end, *before, at));
    if (begin > at)
      Bad(path, tensor.name,
          fmt::format("data_offsets [{}, {}]: a hole of {} bytes before it", begin, end, begin - at));
    tensor.data = reader.Bytes(end - begin, tensor.name).data();
    at = end;
    before = &tensor.name;
  }
  if (at != data_bytes)
    Bad(path, "data", fmt::format("{} bytes after the last tensor: must be none", WithCommas(data_bytes - at)));

  if (tensors->empty()) {
    *tensors = std::move(sax.tensors);
  } else {
    tensors->insert(tensors->end(), std::make_move_iterator(sax.tensors.begin()),
                    std::make_move_iterator(sax.tensors.end()));
  }
  return std::move(sax.metadata);
}

// {"metadata": {...}, "weight_map": {TENSOR: FILE, ...}}: each pair is handed on as it is read.
class IndexSax final : public StrictSax {
 public:
  IndexSax(std::string file, std::function<void(const std::string& tensor, const std::string& shard)> found)
      : StrictSax(std::move(file), "index"), found_(std::move(found)) {}
  bool has_weight_map = false;

  bool start_object(size_t) override { return Deeper(); }
  bool start_array(size_t) override {
    if (depth_ == 0 || InWeightMap()) return Scalar("an array");
    if (depth_ == 1 && key_ == "weight_map") return Scalar("an array");
    return Deeper();
  }
  bool end_object() override { return --depth_, true; }
  bool end_array() override { return --depth_, true; }

  bool key(string_t& name) override {
    if (depth_ == 1) {
      in_weight_map_ = name == "weight_map";
      if (in_weight_map_ && std::exchange(has_weight_map, true)) Bad(file_, name, "the key is there twice");
    }
    if (depth_ <= 2) key_ = std::move(name);
    return true;
  }

  bool string(string_t& text) override {
    if (!InWeightMap()) return Scalar("a string");
    found_(key_, text);
    return true;
  }

 protected:
  bool Scalar(const char* what) override {
    if (depth_ == 0) Bad(file_, "index", fmt::format("{}: must be an object", what));
    if (InWeightMap()) Bad(file_, "weight_map: " + key_, fmt::format("{}: must be a file name", what));
    if (depth_ == 1 && in_weight_map_) Bad(file_, "weight_map", fmt::format("{}: must be an object", what));
    return true;  // other keys are notes
  }
  bool Number(bool, uint64_t, const std::string&) override { return Scalar("a number"); }

 private:
  bool InWeightMap() const { return depth_ >= 2 && in_weight_map_; }
  bool Deeper() {
    if (InWeightMap()) return Scalar("an object or array");
    if (++depth_ > kMaxIndexDepth) Bad(file_, "index", fmt::format("nested deeper than {}", kMaxIndexDepth));
    return true;
  }

  std::function<void(const std::string&, const std::string&)> found_;
  int depth_ = 0;
  bool in_weight_map_ = false;
  std::string key_;
};

// The shards that an index names. They are opened as it names them, and each entry is checked against its shard at
// once, so that an index which declares much costs nothing.
class IndexedShards {
 public:
  explicit IndexedShards(const std::string& path) : path_(path) {
    const MappedFile index(path);
    ReadWeightMap(index,
                  [this](const std::string& tensor, const std::string& name) { List(tensor, Open(tensor, name)); });
    CheckAllListed();
  }

  std::vector<MappedFile> files;
  SafeTensorsMetadata metadata;  // of the first shard

  std::vector<TensorView> TakeTensors() {
    std::vector<TensorView> tensors;
    size_t n = 0;
    for (const Shard& shard : shards_) n += shard.tensors.size();
    tensors.reserve(n);
    for (Shard& shard : shards_) std::ranges::move(shard.tensors, std::back_inserter(tensors));
    return tensors;
  }

 private:
  struct Shard {
    std::string name;
    std::vector<TensorView> tensors;
    std::vector<uint32_t> by_name;
    std::vector<bool> listed;  // the index has it
  };

  Shard& Open(const std::string& tensor, const std::string& name) {
    if (const auto it = number_.find(name); it != number_.end()) return shards_[it->second];
    if (!IsPlainFileName(name))
      Bad(path_, "weight_map: " + tensor, fmt::format("\"{}\": must be a plain file name in the same folder", name));
    const std::string file = (fs::path(path_).parent_path() / name).string();
    std::error_code ignored;
    if (!fs::exists(file, ignored))  // the index says where it was expected; a bare "cannot open" would not
      throw Error(ErrorCode::kIo,
                  fmt::format("{}: weight_map: {}: shard {} is missing", path_, OneLine(tensor), OneLine(name)));
    Shard shard{.name = name, .tensors = {}, .by_name = {}, .listed = {}};
    files.emplace_back(file);
    auto shard_metadata = ReadOne(files.back(), &shard.tensors);
    if (shards_.empty()) metadata = std::move(shard_metadata);
    shard.by_name = SortByName(file, shard.tensors);
    shard.listed.resize(shard.tensors.size());
    number_.emplace(name, shards_.size());
    return shards_.emplace_back(std::move(shard));
  }

  void List(const std::string& tensor, Shard& shard) const {
    const auto it = std::ranges::lower_bound(shard.by_name, tensor, {},
                                             [&](uint32_t i) -> const std::string& { return shard.tensors[i].name; });
    if (it == shard.by_name.end() || shard.tensors[*it].name != tensor)
      Bad(path_, "weight_map: " + tensor, fmt::format("shard {} has no such tensor", shard.name));
    if (shard.listed[*it]) Bad(path_, "weight_map: " + tensor, "the tensor is there twice");
    shard.listed[*it] = true;
  }

  void CheckAllListed() const {
    for (const Shard& shard : shards_)
      for (size_t i = 0; i < shard.tensors.size(); ++i) {
        if (shard.listed[i]) continue;
        const std::string& tensor = shard.tensors[i].name;
        const std::string other = ListedIn(tensor);
        Bad(path_, tensor,
            other.empty() ? fmt::format("is in {} but not in weight_map", shard.name)
                          : fmt::format("is in two shards, {} and {}", other, shard.name));
      }
  }

  std::string ListedIn(const std::string& tensor) const {
    for (const Shard& shard : shards_)
      for (size_t i = 0; i < shard.tensors.size(); ++i)
        if (shard.listed[i] && shard.tensors[i].name == tensor) return shard.name;
    return {};
  }

  const std::string& path_;
  std::vector<Shard> shards_;
  std::unordered_map<std::string, size_t> number_;  // of a shard by its name
};

std::string ResolvePath(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"})
    if (fs::exists(fs::path(path) / name, ignored)) return (fs::path(path) / name).string();
  bool pickle = false;
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
    pickle |= fs::exists(fs::path(path) / name, ignored);
  throw Error(ErrorCode::kIo, fmt::format("{}: has no model.safetensors and no model.safetensors.index.json{}", path,
                                          pickle ? "; hydralm convert makes one of its pytorch_model.bin" : ""));
}

}  // namespace

SafeTensors SafeTensors::Open(const std::string& path) {
  SafeTensors result;
  result.path_ = ResolvePath(path);
  if (result.path_.ends_with(".json")) {
    IndexedShards shards(result.path_);
    result.files_ = std::move(shards.files);
    result.metadata_ = std::move(shards.metadata);
    result.tensors_ = shards.TakeTensors();
  } else {
    result.files_.emplace_back(result.path_);
    result.metadata_ = ReadOne(result.files_[0], &result.tensors_);
  }
  result.IndexNames();
  return result;
}

void ReadWeightMap(const MappedFile& index,
                   const std::function<void(const std::string& tensor, const std::string& file)>& found) {
  const std::string& path = index.path();
  if (index.size() > kMaxIndex)
    Bad(path, "index", fmt::format("{} bytes: must be at most {}", WithCommas(index.size()), WithCommas(kMaxIndex)));
  IndexSax sax(path, found);
  (void)MemoryFor(path, "index", index.size(), index.text());
  nlohmann::json::sax_parse(index.text().begin(), index.text().end(), &sax);
  if (!sax.has_weight_map) Bad(path, "weight_map", "is missing");
}

void SafeTensors::IndexNames() { by_name_ = SortByName(path_, tensors_); }

const TensorView* SafeTensors::Find(std::string_view name) const {
  const auto key = [&](uint32_t i) { return std::string_view(tensors_[i].name); };
  const auto it = std::ranges::lower_bound(by_name_, name, {}, key);
  return it != by_name_.end() && key(*it) == name ? &tensors_[*it] : nullptr;
}

const TensorView& SafeTensors::Get(std::string_view name) const {
  if (const TensorView* tensor = Find(name)) return *tensor;
  std::vector<std::string_view> names;
  names.reserve(tensors_.size());
  for (const TensorView& tensor : tensors_) names.push_back(tensor.name);
  throw Error(ErrorCode::kTensor,
              fmt::format("{}: {}: no such tensor{}", path_, name, DidYouMean(std::string(name), names)));
}

std::vector<std::string> SafeTensors::files() const {
  std::vector<std::string> paths;
  for (const MappedFile& file : files_) paths.push_back(file.path());
  return paths;
}

void SafeTensors::CheckUnchanged() const {
  for (const MappedFile& file : files_) file.CheckUnchanged();
}

uint64_t SafeTensors::file_bytes() const {
  uint64_t bytes = 0;
  for (const MappedFile& file : files_) bytes += file.size();
  return bytes;
}

WrittenFile WriteSafeTensors(const std::string& path, std::span<const TensorView> tensors,
                             const SafeTensorsMetadata& metadata, const TensorBytesFn& bytes_of, const FileOps& ops) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater<>(), [&](size_t i) { return DTypeSize(tensors[i].dtype); });
  std::vector<Extent> extents(tensors.size());
  const auto size_of = [&](size_t i) {
    return static_cast<uint64_t>(NumElements(tensors[i].shape) * DTypeSize(tensors[i].dtype));
  };
  uint64_t at = 0;
  for (const size_t i : order) {
    extents[i] = {at, at + size_of(i)};
    at = extents[i].end;
  }

  std::string header = "{\"__metadata__\":" + nlohmann::json(metadata).dump();
  for (size_t i = 0; i < tensors.size(); ++i)
    header += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}",
                          nlohmann::json(tensors[i].name).dump(), DTypeName(tensors[i].dtype),
                          nlohmann::json(tensors[i].shape).dump(), extents[i].begin, extents[i].end);
  header += '}';
  const uint64_t padded = *CheckedAlignUp(8 + header.size(), kDataAlignment);
  header.resize(padded - 8, ' ');
  HYDRA_CHECK(header.size() <= kMaxHeader, path, ": header of ", header.size(), " bytes");

  AtomicFile file(path, ops);
  const uint64_t length = header.size();
  file.Write(std::as_bytes(std::span(&length, 1)));
  file.Write(header);
  for (const size_t i : order) {
    const auto bytes = bytes_of(tensors[i]);
    HYDRA_CHECK(bytes.size() == size_of(i), tensors[i].name, ": ", bytes.size(), " bytes for ", size_of(i));
    file.Write(bytes);
  }
  const WrittenFile written{.bytes = file.size(), .crc32 = file.crc32()};
  file.Commit();
  return written;
}

WrittenFile WriteSafeTensors(const std::string& path, std::span<const TensorView> tensors,
                             const SafeTensorsMetadata& metadata, const FileOps& ops) {
  const auto bytes_of = [](const TensorView& t) { return std::span(t.data, static_cast<size_t>(t.nbytes)); };
  return WriteSafeTensors(path, tensors, metadata, bytes_of, ops);
}

}  // namespace hydra
