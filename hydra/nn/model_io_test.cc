// SPDX-License-Identifier: Apache-2.0
// Model folders: what is saved is what is loaded, bit for bit in each dtype; bad files are refused by name.
#include "hydra/nn/model_io.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "hydra/base/error.h"
#include "hydra/io/safetensors.h"
#include "hydra/nn/testing.h"

namespace hydra::nn {
namespace {

namespace fs = std::filesystem;
using testing::RandomModel;
using torch::Tensor;

class ModelFolder : public ::testing::Test {
 protected:
  ModelFolder() {
    std::string name = (fs::temp_directory_path() / "hydralm-model-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~ModelFolder() override { fs::remove_all(folder_); }
  [[nodiscard]] std::string File(const std::string& name) const { return (fs::path(folder_) / name).string(); }

  std::string folder_;
};

std::string MessageOf(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(ModelFolder, RoundTripsEveryTensorOfEveryKind) {
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  size_t n = 0;
  for (testing::Case& c : testing::Cases()) {
    c.config.dtype = dtypes[n++ % 3];
    Model model = RandomModel(c.config, 1, torch::kFloat32);
    SaveModel(folder_, model, "");
    Model loaded = LoadModel(folder_);
    EXPECT_EQ(loaded.config(), c.config) << c.name;
    const SafeTensors file = SafeTensors::Open(folder_);
    EXPECT_EQ(file.tensors().size(), model.table().specs().size());
    EXPECT_EQ(file.metadata().at("format"), "pt");
    for (const auto& [spec, tensor] : model.Tensors()) {
      EXPECT_EQ(file.Get(spec->name).dtype, spec->dtype) << spec->name;
      const auto type = spec->dtype == DType::kBF16  ? torch::kBFloat16
                        : spec->dtype == DType::kF16 ? torch::kFloat16
                                                     : torch::kFloat32;
      const Tensor want = tensor.detach().to(type).to(torch::kFloat32);
      EXPECT_TRUE(torch::equal(loaded.at(spec->role, spec->layer).detach(), want)) << c.name << " " << spec->name;
    }
  }
}

TEST_F(ModelFolder, MastersKeepAllBits) {
  ModelConfig config = testing::Tiny();
  config.dtype = DType::kBF16;
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kFloat64}) {
    Model model = RandomModel(config, 2, dtype);
    SaveWeights(File("masters.safetensors"), model, /*masters=*/true);
    Model loaded(config, ModelOptions{.dtype = dtype, .initialise = false});
    LoadWeights(File("masters.safetensors"), loaded);
    for (const auto& [spec, tensor] : model.Tensors())
      EXPECT_TRUE(torch::equal(loaded.at(spec->role, spec->layer), tensor)) << spec->name;
  }
}

TEST_F(ModelFolder, ReadsShardsThroughTheirIndex) {
  ModelConfig config = testing::Tiny();
  config.dtype = DType::kF32;
  Model model = RandomModel(config, 3, torch::kFloat32);
  SaveModel(folder_, model, "");
  {
    const SafeTensors whole = SafeTensors::Open(folder_);
    std::vector<TensorView> first, second;
    std::string map;
    for (const TensorView& view : whole.tensors()) {
      const bool half = first.size() < whole.tensors().size() / 2;
      (half ? first : second).push_back(view);
      map += (map.empty() ? "" : ",") +
             ("\"" + view.name + "\":\"model-0000" + (half ? "1" : "2") + "-of-00002.safetensors\"");
    }
    WriteSafeTensors(File("model-00001-of-00002.safetensors"), first, {});
    WriteSafeTensors(File("model-00002-of-00002.safetensors"), second, {});
    std::ofstream(File("model.safetensors.index.json")) << "{\"weight_map\":{" << map << "}}";
  }
  fs::remove(File("model.safetensors"));
  Model loaded = LoadModel(folder_);
  for (const auto& [spec, tensor] : model.Tensors())
    EXPECT_TRUE(torch::equal(loaded.at(spec->role, spec->layer), tensor)) << spec->name;
}

// Writes the model's tensors after a change, and loads them.
std::string AfterChange(const std::string& path, Model& model,
                        const std::function<void(std::vector<TensorView>&)>& change) {
  SaveWeights(path, model);
  {
    const SafeTensors file = SafeTensors::Open(path);
    std::vector<TensorView> views = file.tensors();
    change(views);
    WriteSafeTensors(path + ".changed", views, {});
  }
  return MessageOf([&] { LoadWeights(path + ".changed", model); });
}

TEST_F(ModelFolder, BadTensorsAreNamed) {
  ModelConfig config = testing::Tiny();
  config.dtype = DType::kF32;
  Model model = RandomModel(config, 4, torch::kFloat32);
  const std::string path = File("a.safetensors");
  std::string message = AfterChange(path, model, [](auto& views) {
    std::erase_if(views, [](const TensorView& v) { return v.name == "model.layers.2.pkm.sub_keys"; });
  });
  EXPECT_NE(message.find("model.layers.2.pkm.sub_keys"), message.npos) << message;
  message = AfterChange(path, model, [](auto& views) { views.front().name = "model.embed_token.weight"; });
  EXPECT_NE(message.find("model.embed_token.weight"), message.npos) << message;
  message = AfterChange(path, model, [](auto& views) {
    for (TensorView& v : views)
      if (v.name == "model.layers.0.mamba.in_proj.weight") std::swap(v.shape[0], v.shape[1]);
  });
  EXPECT_NE(message.find("model.layers.0.mamba.in_proj.weight: shape [24,"), message.npos) << message;
  EXPECT_EQ(AfterChange(path, model, [](auto&) {}), "no error");
}

TEST_F(ModelFolder, MissingFilesAreNamed) {
  EXPECT_NE(MessageOf([&] { (void)LoadModel(folder_ + "/nothing"); }).find("/nothing"), std::string::npos);
  EXPECT_NE(MessageOf([&] { (void)LoadModel(folder_); }).find("config.json"), std::string::npos);
  std::ofstream(File("config.json")) << ConfigJson(testing::Tiny());
  EXPECT_NE(MessageOf([&] { (void)LoadModel(folder_); }).find("model.safetensors"), std::string::npos);
}

TEST_F(ModelFolder, ATiedModelMayCarryItsHeadIfItIsTheSame) {
  ModelConfig config = TransformerNano();
  config.dtype = DType::kF32;
  Model model = RandomModel(config, 5, torch::kFloat32);
  const std::string path = File("a.safetensors");
  const auto with_head = [](auto& views) {
    views.push_back(views.front());
    views.back().name = "lm_head.weight";
  };
  EXPECT_EQ(AfterChange(path, model, with_head), "no error");
  std::vector<std::byte> other(static_cast<size_t>(config.vocab_size * config.d_model * 4));
  const std::string message = AfterChange(path, model, [&](auto& views) {
    with_head(views);
    views.back().data = other.data();
  });
  EXPECT_NE(message.find("lm_head.weight"), message.npos) << message;
}

}  // namespace
}  // namespace hydra::nn
