// SPDX-License-Identifier: Apache-2.0
// Model folders whose weights and config do not agree. Not here: the file formats themselves (io/safetensors_test.cc,
// model/gguf_model_test.cc).
#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/convert/convert.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

class ModelFolder : public ::testing::Test {
 protected:
  ModelFolder() {
    config_ = TransformerNano();
    config_.layers.resize(1);
    config_.vocab_size = 16;
    config_.dtype = DType::kF32;
    config_.tie_embeddings = true;
    WriteModelFolder(testing::RandomSource(config_, 1), path_, DType::kF32, 1 << 30);
  }
  // Writes the weights again with one more tensor, or one changed.
  void Rewrite(const std::function<void(std::vector<TensorView>&)>& change) {
    const SafeTensors file = SafeTensors::Open(path_);
    std::vector<TensorView> tensors = file.tensors();
    change(tensors);
    WriteSafeTensors(dir_ / "new", tensors, file.metadata());
    std::filesystem::rename(dir_ / "new", path_ + "/model.safetensors");
  }
  TempDir dir_;
  const std::string path_ = dir_ / "model";
  ModelConfig config_;
};

TEST_F(ModelFolder, ATiedModelMayHoldItsHeadTwiceIfBothAreEqual) {
  const std::string embedding = TensorTable(config_).Find(TensorRole::kEmbedding)->name;
  const auto add_head = [&](std::vector<TensorView>& tensors) {
    for (const TensorView& t : std::vector(tensors))
      if (t.name == embedding) tensors.push_back({"lm_head.weight", t.dtype, t.shape, t.data, t.nbytes});
  };
  Rewrite(add_head);
  EXPECT_EQ(CompareConfigs(OpenWeights(path_).config, config_), std::vector<std::string>());
  std::vector<std::byte> other;  // tied-head-differs
  Rewrite([&](std::vector<TensorView>& tensors) {
    TensorView& head = tensors.back();
    ASSERT_EQ(head.name, "lm_head.weight");
    other.assign(head.data, head.data + head.nbytes);
    other[5] ^= std::byte{1};
    head.data = other.data();
  });
  ExpectError([&] { (void)OpenWeights(path_); }, ErrorCode::kTensor,
              {"model.safetensors", "lm_head.weight", "tie_word_embeddings"});
}

TEST_F(ModelFolder, TensorsThatTheConfigDoesNotNameAreRefused) {
  Rewrite([&](std::vector<TensorView>& tensors) { tensors[0].name = "odd"; });
  ExpectError([&] { (void)OpenWeights(path_); }, ErrorCode::kTensor, {"model.safetensors"});
}

}  // namespace
}  // namespace hydra
