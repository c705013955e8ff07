// SPDX-License-Identifier: Apache-2.0
// Writers of model folders and GGUF files, a tensor at a time.
#include "hydra/convert/convert.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>

#include "hydra/base/error.h"
#include "hydra/base/version.h"
#include "hydra/convert/gguf_origin.h"
#include "hydra/convert/quantize.h"
#include "hydra/io/file.h"
#include "hydra/io/folder_lock.h"
#include "hydra/io/safetensors.h"
#include "hydra/io/staged_folder.h"
#include "hydra/model/gguf_model.h"
#include "hydra/model/rope.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

WeightType TypeOfDtype(DType dtype) {
  const auto type = WeightTypeOf(dtype);
  if (!type) throw Error(ErrorCode::kUsage, StrCat("--dtype ", TorchDTypeName(dtype), ": must be f32, bf16 or f16"));
  return *type;
}

DType DtypeOfType(WeightType type) {
  return type == WeightType::kF16 ? DType::kF16 : type == WeightType::kBF16 ? DType::kBF16 : DType::kF32;
}

bool IsQk(TensorRole role) { return role == TensorRole::kAttnQ || role == TensorRole::kAttnK; }

// f32 values of the tensor `name` to the bytes of a file, a row at a time.
std::vector<std::byte> Encode(const std::string& name, const std::vector<float>& values, int64_t cols,
                              WeightType type) {
  const int64_t rows = static_cast<int64_t>(values.size()) / cols, row = RowBytes(type, cols);
  std::vector<std::byte> bytes(static_cast<size_t>(rows * row));
  for (int64_t i = 0; i < rows; ++i) {
    try {
      EncodeRow(type, values.data() + i * cols, cols, bytes.data() + i * row);
    } catch (const Error& error) {  // it knows the column only
      throw Error(error.code(), StrCat(name, ": row ", i, ", ", error.what()));
    }
  }
  return bytes;
}

std::vector<float> Decode(const std::byte* data, WeightType type, int64_t n, int64_t cols) {
  std::vector<float> values(static_cast<size_t>(n));
  const int64_t row = RowBytes(type, cols);
  for (int64_t i = 0; i < n / cols; ++i) DecodeRow(type, data + i * row, cols, values.data() + i * cols);
  return values;
}

int64_t Columns(const TensorSpec& spec) { return spec.shape.empty() ? 1 : spec.shape.back(); }

// Keeps account of one tensor that was encoded. Its source must be what it was.
void Note(const WeightSource& source, const TensorSpec& spec, const StoredTensor& stored,
          const std::vector<float>& values, const std::vector<std::byte>& bytes, WeightType type,
          ConvertReport* report) {
  if (source.check_unchanged) source.check_unchanged();
  ++report->read, ++report->written;
  report->bytes_before += stored.nbytes;
  report->bytes_after += static_cast<int64_t>(bytes.size());
  const auto back = Decode(bytes.data(), type, spec.size(), Columns(spec));
  report->changes.push_back({spec.name, stored.type, type, RelativeError(values, back)});
}

std::vector<float> ValuesOf(const WeightSource& source, const TensorSpec& spec, const StoredTensor& stored) {
  const int64_t cols = Columns(spec);
  std::vector<float> values = IsQuantised(stored.type) ? Decode(stored.data, stored.type, spec.size(), cols)
                                                       : Decode(stored.data, stored.type, spec.size(), spec.size());
  if (source.A_is_negative && spec.role == TensorRole::kSsmALog)
    for (float& v : values) v = std::log(-v);
  if (!source.rope_interleaved || !IsQk(spec.role)) return values;
  std::vector<float> ours(values.size());
  for (int64_t i = 0; i < spec.size() / cols; ++i)
    std::copy_n(values.data() + GgufQkRow(i, source.config.attention.head_dim) * cols, cols, ours.data() + i * cols);
  return ours;
}

// The type of a tensor in a folder, where no type was asked for.
WeightType KeptType(const WeightSource& source, const TensorSpec& spec) {
  const WeightType type = source.tensor(spec).type;
  if (!IsQuantised(type)) return type;
  const DType of_config = source.config.dtype == DType::kF64 ? DType::kF32 : source.config.dtype;
  return spec.matmul ? TypeOfDtype(of_config) : WeightType::kF32;
}

// Rows of a llama Q or K matrix from our order to GGUF's.
std::vector<float> PermuteRows(const std::vector<float>& values, int64_t cols, int64_t head_dim) {
  std::vector<float> out(values.size());
  for (int64_t i = 0; i < static_cast<int64_t>(values.size()) / cols; ++i)
    std::copy_n(values.data() + i * cols, cols, out.data() + GgufQkRow(i, head_dim) * cols);
  return out;
}

std::string ShardName(size_t i, size_t n) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, n);
  return name;
}

// The model's own token ids, where no tokenizer said them.
void SetTokenIds(const ModelConfig& config, GgufMetadata* metadata) {
  const auto set = [&](const char* name, std::optional<int64_t> id) {
    const std::string key = StrCat("tokenizer.ggml.", name, "_token_id");
    if (id && !metadata->Has(key)) metadata->SetU32(key, *id);
  };
  if (GgufCarriesConfig(config.family)) return;  // hydra.config says them
  set("bos", config.bos_token_id);
  set("padding", config.pad_token_id);
  const std::vector<int64_t> ends = config.EosTokenIds();
  constexpr const char* kEnds[] = {"eos", "eot", "eom"};
  for (size_t i = 0; i < std::min(ends.size(), std::size(kEnds)); ++i) set(kEnds[i], ends[i]);
}

// model-00001-of-00002.safetensors
bool IsShardName(std::string_view name) {
  constexpr std::string_view kStart = "model-", kMiddle = "-of-", kEnd = ".safetensors";
  if (!name.starts_with(kStart) || !name.ends_with(kEnd) || name.size() < kStart.size() + kEnd.size()) return false;
  name = name.substr(kStart.size(), name.size() - kStart.size() - kEnd.size());
  const size_t middle = name.find(kMiddle);
  const auto digits = [](std::string_view part) {
    return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  return middle != std::string_view::npos && digits(name.substr(0, middle)) &&
         digits(name.substr(middle + kMiddle.size()));
}

}  // namespace

bool IsModelFolderFile(std::string_view name) {
  if (std::ranges::find(kModelTextFiles, name) != std::end(kModelTextFiles)) return true;
  for (const std::string_view known :
       {"config.json", "model.safetensors", "model.safetensors.index.json", FolderLock::kFileName})
    if (name == known) return true;
  return IsShardName(name);
}

std::vector<float> TensorValues(const WeightSource& source, const TensorSpec& spec) {
  return ValuesOf(source, spec, source.tensor(spec));
}

ConvertReport WriteModelFolder(const WeightSource& source, const std::string& folder, std::optional<DType> dtype,
                               int64_t shard_bytes, const std::function<void(const std::string&)>& add_files) {
  if (shard_bytes < 1)
    throw Error(ErrorCode::kUsage, StrCat("--shard-size ", shard_bytes, ": must be at least 1 byte"));
  ModelConfig config = source.config;
  const TensorTable table(config);
  const auto type_of = [&](const TensorSpec& spec) {
    if (!dtype) return KeptType(source, spec);
    return spec.matmul ? TypeOfDtype(*dtype) : WeightType::kF32;
  };
  config.dtype = DtypeOfType(type_of(*table.Find(TensorRole::kEmbedding)));

  // Shards in the order of the table.
  std::vector<std::vector<TensorView>> shards(1);
  int64_t in_shard = 0;
  for (const TensorSpec& spec : table.specs()) {
    const DType stored = DtypeOfType(type_of(spec));
    const int64_t bytes = spec.size() * DTypeSize(stored);
    if (in_shard > 0 && in_shard + bytes > shard_bytes) shards.emplace_back(), in_shard = 0;
    shards.back().push_back({spec.name, stored, spec.shape, nullptr, bytes});
    in_shard += bytes;
  }
  if (fs::is_directory(folder)) RemoveStaleTemporaries(folder);
  StagedFolder stage(folder, IsModelFolderFile, "config.json");
  const fs::path to(stage.path());
  const std::string text = ConfigJson(config);
  SafeTensorsMetadata metadata = {{"format", "pt"}, {"hydralm", Version()}, {"config_sha256", Sha256Hex(text)}};
  metadata.merge(OriginTexts(source));
  ConvertReport report;
  std::vector<std::byte> bytes;
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1 ? "model.safetensors" : ShardName(i, shards.size());
    WriteSafeTensors((to / name).string(), shards[i], metadata, [&](const TensorView& view) {
      const TensorSpec& spec = *table.FindName(view.name);
      const StoredTensor stored = source.tensor(spec);
      const auto values = ValuesOf(source, spec, stored);
      const WeightType type = *WeightTypeOf(view.dtype);
      bytes = Encode(StrCat(source.path, ": ", spec.name), values, Columns(spec), type);
      Note(source, spec, stored, values, bytes, type, &report);
      return std::span<const std::byte>(bytes);
    });
    for (const TensorView& view : shards[i]) map[view.name] = name;
  }
  if (shards.size() > 1) {
    const nlohmann::ordered_json index = {{"metadata", {{"total_size", report.bytes_after}}}, {"weight_map", map}};
    WriteFileAtomic((to / "model.safetensors.index.json").string(), index.dump(2) + "\n");
  }
  WriteFileAtomic((to / "config.json").string(), text);
  if (add_files) add_files(stage.path());
  stage.Commit();
  return report;
}

ConvertReport WriteModelGguf(const WeightSource& source, const std::string& path, const TypeOfTensor& type_of,
                             const std::function<void(GgufMetadata&)>& add_metadata) {
  const ModelConfig& config = source.config;
  const TensorTable table(config);
  GgufMetadata all = GgufModelMetadata(config);
  SetOrigin(source, &all);
  if (add_metadata) add_metadata(all);
  SetTokenIds(config, &all);
  const std::vector<GgufTensorSlot> slots = GgufTensorSlots(config, table);
  std::vector<GgufTensorInfo> infos;
  for (const GgufTensorSlot& slot : slots)
    infos.push_back({slot.name, slot.spec != nullptr ? type_of(*slot.spec) : WeightType::kF32, slot.shape});
  SetFileType(infos, &all);
  ConvertReport report;
  std::vector<std::byte> bytes;
  WriteGguf(path, all, infos, [&](size_t i) {
    const WeightType type = infos[i].type;
    if (slots[i].spec == nullptr) {
      const auto divisors = RopeDivisors(config.attention);
      const std::vector<float> values(divisors.begin(), divisors.end());
      bytes = Encode(kGgufRopeFreqs, values, static_cast<int64_t>(values.size()), type);
      return std::span<const std::byte>(bytes);
    }
    const TensorSpec& spec = *slots[i].spec;
    const StoredTensor stored = source.tensor(spec);
    auto values = ValuesOf(source, spec, stored);
    const auto stored_values = [&]() -> std::vector<float> {
      switch (GgufStorageOf(config, spec)) {
        case GgufStorage::kPermutedRows: return PermuteRows(values, Columns(spec), config.attention.head_dim);
        case GgufStorage::kNegativeExp: {
          std::vector<float> a = values;
          for (float& v : a) v = -std::exp(v);
          return a;
        }
        case GgufStorage::kSame: break;
      }
      return values;
    }();
    bytes = Encode(StrCat(source.path, ": ", spec.name), stored_values, Columns(spec), type);
    Note(source, spec, stored, stored_values, bytes, type, &report);
    return std::span<const std::byte>(bytes);
  });
  return report;
}

}  // namespace hydra
