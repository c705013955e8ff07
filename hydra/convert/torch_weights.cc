// SPDX-License-Identifier: Apache-2.0
// Tensors of one or several files under the names of the table.
#include "hydra/convert/torch_weights.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "hydra/base/error.h"
#include "hydra/convert/torch_file.h"
#include "hydra/io/safetensors.h"
#include "hydra/model/model_tensors.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFile = "pytorch_model.bin";
constexpr const char* kIndex = "pytorch_model.bin.index.json";

// The file or index to read; nothing where the path is for OpenWeights.
std::optional<std::string> TorchPath(const std::string& path) {
  if (path.ends_with(".bin") || path.ends_with(".bin.index.json")) return path;
  if (!fs::is_directory(path)) return std::nullopt;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"})
    if (fs::exists(fs::path(path) / name)) return std::nullopt;
  for (const char* name : {kFile, kIndex})
    if (fs::exists(fs::path(path) / name)) return (fs::path(path) / name).string();
  return std::nullopt;
}

// Tensors of all files, sorted by name.
class TorchModel {
 public:
  explicit TorchModel(const std::string& path) : path_(path) {
    if (path.ends_with(".json")) {
      ReadIndexed();
    } else {
      files_.push_back(TorchFile::Open(path));
    }
    for (const TorchFile& file : files_)
      for (const TorchTensor& tensor : file.tensors()) tensors_.push_back(&tensor);
    std::ranges::sort(tensors_, {}, Name);
    const auto twice = std::ranges::adjacent_find(tensors_, {}, Name);
    if (twice != tensors_.end()) Fail((*twice)->name, "the tensor is in two files");
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::vector<const TorchTensor*>& tensors() const { return tensors_; }
  [[nodiscard]] std::optional<size_t> Find(std::string_view name) const {
    const auto at = std::ranges::lower_bound(tensors_, name, {}, Name);
    if (at == tensors_.end() || (*at)->name != name) return std::nullopt;
    return static_cast<size_t>(at - tensors_.begin());
  }
  void CheckUnchanged() const {
    for (const TorchFile& file : files_) file.CheckUnchanged();
  }

 private:
  static std::string_view Name(const TorchTensor* tensor) { return tensor->name; }

  // Each tensor is in the one file that the index names, and each tensor of a file is in the index.
  void ReadIndexed() {
    std::map<std::string, std::set<std::string_view>> unlisted;  // of each file the tensors not named yet
    const MappedFile index(path_);
    ReadWeightMap(index, [&](const std::string& tensor, const std::string& name) {
      const auto [at, is_new] = unlisted.try_emplace(name);
      if (is_new) {
        if (!IsPlainFileName(name)) Fail(tensor, StrCat("\"", OneLine(name, 60), "\": must be a plain file name"));
        files_.push_back(TorchFile::Open((fs::path(path_).parent_path() / name).string()));
        for (const TorchTensor& found : files_.back().tensors()) at->second.insert(found.name);
      }
      if (at->second.erase(tensor) == 0) Fail(tensor, StrCat("file ", OneLine(name, 60), " has no such tensor"));
    });
    for (const auto& [name, left] : unlisted)
      if (!left.empty()) Fail(*left.begin(), StrCat("is in ", OneLine(name, 60), " but not listed"));
  }
  [[noreturn]] void Fail(std::string_view what, const std::string& rule) const {
    throw Error(ErrorCode::kFormat, StrCat(path_, ": weight_map: ", OneLine(what, 120), ": ", rule));
  }

  std::string path_;
  std::vector<TorchFile> files_;
  std::vector<const TorchTensor*> tensors_;
};

WeightType TypeOf(const TorchModel& model, const TorchTensor& tensor) {
  if (const auto type = WeightTypeOf(tensor.dtype)) return *type;
  throw Error(ErrorCode::kTensor, StrCat(model.path(), ": ", tensor.name, ": type ", DTypeName(tensor.dtype),
                                         ": must be F32, F16 or BF16"));
}

// Number of a tensor of the table; throws where no file has it.
size_t Find(const ModelConfig& config, const TorchModel& model, const TensorSpec& spec) {
  const auto found = FindByAnyName(config, spec, [&](std::string_view name) { return model.Find(name); });
  if (found) return *found;
  std::vector<std::string_view> names;
  for (const TorchTensor* tensor : model.tensors()) names.push_back(tensor->name);
  throw Error(ErrorCode::kTensor,
              StrCat(model.path(), ": ", spec.name, ": no such tensor", DidYouMean(spec.name, names)));
}

// torch.save writes a tied model's one matrix under both of its names.
bool SameNumbers(const TorchTensor& a, const TorchTensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && TorchFile::Gather(a) == TorchFile::Gather(b);
}

void Check(const ModelConfig& config, const TorchModel& model) {
  size_t embedding = 0;
  TensorList list;
  list.path = model.path();
  list.config_says = "config.json says";
  list.count = model.tensors().size();
  list.find = [&](const TensorSpec& spec) {
    const size_t found = Find(config, model, spec);
    (void)TypeOf(model, *model.tensors()[found]);
    if (spec.role == TensorRole::kEmbedding) embedding = found;
    return found;
  };
  list.shape = [&](const TensorSpec& spec, size_t i) {
    const TorchTensor& tensor = *model.tensors()[i];
    return StoredShapeOf(config, spec, tensor.name, tensor.shape.size()).shape;
  };
  list.name = [&](size_t i) { return model.tensors()[i]->name; };
  list.stored_shape = [&](size_t i) { return std::span<const int64_t>(model.tensors()[i]->shape); };
  list.other = [&](size_t i) {
    const TorchTensor& tensor = *model.tensors()[i];
    if (IsSavedBuffer(config, tensor.name)) return;
    if (!IsHeadOfTied(config, tensor.name)) RefuseOther(config, model.path(), tensor.name);
    if (!SameNumbers(*model.tensors()[embedding], tensor)) RefuseTiedHead(model.path());
  };
  CheckTensors(config, list);
}

}  // namespace

WeightSource OpenForConversion(const std::string& path, std::vector<std::string>* warnings) {
  const auto torch_path = TorchPath(path);
  if (!torch_path) return OpenWeights(path, warnings);
  WeightSource source;
  source.path = path;
  const fs::path home = fs::path(*torch_path).parent_path();
  const std::string config_path = ((home.empty() ? fs::path(".") : home) / "config.json").string();
  source.config = LoadConfig(config_path, warnings);
  source.config.Validate(config_path);
  const auto model = std::make_shared<const TorchModel>(*torch_path);
  Check(source.config, *model);
  source.keep = model;
  source.check_unchanged = [model] { model->CheckUnchanged(); };
  source.tensor = [model, config = source.config](const TensorSpec& spec) {
    const TorchTensor& tensor = *model->tensors()[Find(config, *model, spec)];
    const StoredOrder order = StoredShapeOf(config, spec, tensor.name, tensor.shape.size()).order;
    const WeightType type = TypeOf(*model, tensor);
    if (tensor.contiguous() && order == StoredOrder::kTable) return StoredTensor{type, tensor.data, tensor.nbytes()};
    std::vector<std::byte> bytes = TorchFile::Gather(tensor);
    if (order != StoredOrder::kTable) bytes = InTableOrder(config, spec, order, bytes.data(), DTypeSize(tensor.dtype));
    return OwnedTensor(type, std::move(bytes));
  };
  return source;
}

}  // namespace hydra
