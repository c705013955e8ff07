// SPDX-License-Identifier: Apache-2.0
// Reads and writes the files of a model folder through the tensor table.
#include "hydra/nn/model_io.h"

#include <filesystem>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/version.h"
#include "hydra/io/file.h"
#include "hydra/io/safetensors.h"
#include "hydra/model/model_tensors.h"

namespace hydra::nn {

namespace fs = std::filesystem;
using torch::Tensor;

namespace {

torch::Dtype TorchType(DType dtype, const std::string& where) {
  switch (dtype) {
    case DType::kF32: return torch::kFloat32;
    case DType::kF16: return torch::kFloat16;
    case DType::kBF16: return torch::kBFloat16;
    case DType::kF64: return torch::kFloat64;
    default:
      throw Error(ErrorCode::kTensor,
                  StrCat(where, ": type ", DTypeName(dtype), ", weights must be F32, F16, BF16 or F64"));
  }
}

}  // namespace

void LoadWeights(const std::string& path, Model& model) {
  torch::NoGradGuard no_grad;
  const SafeTensors file = SafeTensors::Open(path);
  CheckTensors(model.config(), file, {});
  for (auto& [spec, tensor] : model.Tensors()) {
    const auto [view, order] = FindTensor(model.config(), file, *spec);
    const auto type = TorchType(view.dtype, StrCat(file.path(), ": ", spec->name));
    Tensor host = torch::empty(spec->shape, torch::TensorOptions().dtype(type));
    if (order == StoredOrder::kTable) {
      std::memcpy(host.data_ptr(), view.data, static_cast<size_t>(view.nbytes));  // the file may be unaligned
    } else {
      const auto bytes = InTableOrder(model.config(), *spec, order, view.data, DTypeSize(view.dtype));
      std::memcpy(host.data_ptr(), bytes.data(), bytes.size());
    }
    tensor.copy_(host);
  }
  file.CheckUnchanged();
}

Model LoadModel(const std::string& folder, const ModelOptions& options) {
  if (!fs::is_directory(folder))
    throw Error(ErrorCode::kIo,
                StrCat(folder, fs::exists(folder) ? ": must be a model folder" : ": no such model folder"));
  ModelOptions without_init = options;
  without_init.initialise = false;
  Model model(LoadConfig(folder), without_init);
  LoadWeights(folder, model);
  return model;
}

void SaveWeights(const std::string& path, const Model& model, bool masters) {
  torch::NoGradGuard no_grad;
  std::vector<TensorView> views;
  std::vector<Tensor> sources;
  for (const auto& [spec, tensor] : model.Tensors()) {
    const bool f64 = tensor.scalar_type() == torch::kFloat64;
    const DType dtype = masters ? (f64 ? DType::kF64 : DType::kF32) : spec->dtype;
    views.push_back({spec->name, dtype, spec->shape, nullptr, spec->size() * DTypeSize(dtype)});
    sources.push_back(tensor);
  }
  Tensor host;  // lives until the next call of bytes_of
  const auto bytes_of = [&](const TensorView& view) {
    const auto* spec = model.table().FindName(view.name);
    const Tensor& source = sources[static_cast<size_t>(spec - model.table().specs().data())];
    host = source.detach().to(torch::kCPU, TorchType(view.dtype, view.name)).contiguous();
    return std::span<const std::byte>(static_cast<const std::byte*>(host.data_ptr()), static_cast<size_t>(view.nbytes));
  };
  const SafeTensorsMetadata metadata{
      {"format", "pt"}, {"hydralm", Version()}, {"config_sha256", Sha256Hex(ConfigJson(model.config()))}};
  WriteSafeTensors(path, views, metadata, bytes_of);
}

void SaveModel(const std::string& folder, const Model& model, const std::string& tokenizer_json) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) throw Error(ErrorCode::kIo, StrCat(folder, ": cannot be created: ", failed.message()));
  const fs::path root(folder);
  SaveWeights((root / "model.safetensors").string(), model);
  if (!tokenizer_json.empty()) WriteFileAtomic((root / "tokenizer.json").string(), tokenizer_json);
  WriteFileAtomic((root / "config.json").string(), ConfigJson(model.config()));  // last: the folder is whole
}

}  // namespace hydra::nn
