// SPDX-License-Identifier: Apache-2.0
// Opens model files for the runtime and holds them to the tensor table.
#include <algorithm>
#include <filesystem>

#include "hydra/base/error.h"
#include "hydra/io/json.h"
#include "hydra/io/safetensors.h"
#include "hydra/model/gguf_model.h"
#include "hydra/model/memory_pack.h"
#include "hydra/model/model_tensors.h"
#include "hydra/runtime/weights.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

WeightType TypeOf(const TensorView& view, const std::string& path) {
  if (const auto type = WeightTypeOf(view.dtype)) return *type;
  throw Error(ErrorCode::kTensor,
              StrCat(path, ": ", view.name, ": type ", DTypeName(view.dtype), ": must be F32, F16 or BF16"));
}

[[noreturn]] void RefusePickle(const std::string& path) {
  throw Error(ErrorCode::kFormat,
              StrCat(path, ": the runtime reads no pickles: hydralm convert makes safetensors of it"));
}

WeightSource OpenFolder(const std::string& path, std::vector<std::string>* warnings) {
  const bool folder = fs::is_directory(path);
  const fs::path home = folder ? fs::path(path) : fs::path(path).parent_path();
  WeightSource source;
  source.path = path;
  source.config = LoadConfig((home / "config.json").string(), warnings);
  source.config.Validate((home / "config.json").string());
  if (folder && !fs::exists(home / "model.safetensors") && !fs::exists(home / "model.safetensors.index.json"))
    for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
      if (fs::exists(home / name)) RefusePickle((home / name).string());
  const auto file = std::make_shared<const SafeTensors>(SafeTensors::Open(path));
  CheckTensors(source.config, *file, {.warnings = warnings});
  source.keep = file;
  source.check_unchanged = [file] { file->CheckUnchanged(); };
  source.metadata = file->metadata();
  source.tensor = [file, config = source.config](const TensorSpec& spec) {
    const auto [view, order] = FindTensor(config, *file, spec);
    const WeightType type = TypeOf(view, file->path());
    if (order == StoredOrder::kTable) return StoredTensor{type, view.data, view.nbytes};
    return OwnedTensor(type, InTableOrder(config, spec, order, view.data, DTypeSize(view.dtype)));
  };
  TensorTable::ForEach(source.config, [&](const TensorSpec& spec) { (void)source.tensor(spec); });  // types
  return source;
}

WeightSource OpenGguf(const std::string& path, std::vector<std::string>* warnings) {
  const auto model = std::make_shared<const GgufModel>(GgufModel::Open(path, warnings));
  WeightSource source;
  source.path = path;
  source.config = model->config();
  source.keep = model;
  source.rope_interleaved = model->rope_interleaved();
  source.A_is_negative = model->A_is_negative();
  source.check_unchanged = [model] { model->file().CheckUnchanged(); };
  if (const auto base = model->file().FindText(kMemoryBaseKey))
    source.metadata[StrCat("gguf:", kMemoryBaseKey)] = Json(std::string(*base)).dump();
  source.tensor = [model](const TensorSpec& spec) {
    const GgufTensor& tensor = model->Tensor(spec);
    return StoredTensor{tensor.type, tensor.data, tensor.nbytes};
  };
  return source;
}

}  // namespace

WeightSource OpenWeights(const std::string& path, std::vector<std::string>* warnings) {
  if (!fs::exists(path)) throw Error(ErrorCode::kIo, StrCat(path, ": no such file or folder"));
  const std::string extension = fs::path(path).extension().string();
  if (fs::is_directory(path) || extension == ".safetensors" || path.ends_with(".safetensors.index.json"))
    return OpenFolder(path, warnings);
  if (extension == ".gguf" || GgufFile::IsGguf(path)) return OpenGguf(path, warnings);
  if (extension == ".bin" || path.ends_with(".bin.index.json")) RefusePickle(path);
  throw Error(ErrorCode::kFormat, StrCat(path, ": must be a model folder, a .gguf or a .safetensors file"));
}

StoredTensor OwnedTensor(WeightType type, std::vector<std::byte> bytes) {
  const auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  return {type, owner->data(), static_cast<int64_t>(owner->size()), owner};
}

bool AnyQuantised(const WeightSource& source) {
  const TensorTable table(source.config);
  return std::ranges::any_of(table.specs(),
                             [&](const TensorSpec& spec) { return IsQuantised(source.tensor(spec).type); });
}

}  // namespace hydra
