// SPDX-License-Identifier: Apache-2.0
// Model folders whose weights and config do not agree. Not here: the file formats themselves (io/safetensors_test.cc,
// model/gguf_model_test.cc).
#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/convert/convert.h"
#include "hydra/convert/verify.h"
#include "hydra/model/rope.h"
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
  std::vector<std::byte> other;
  Rewrite([&](std::vector<TensorView>& tensors) {
    TensorView& head = tensors.back();
    ASSERT_EQ(head.name, "lm_head.weight");
    other.assign(head.data, head.data + head.nbytes);
    other[5] ^= std::byte{1};
    head.data = other.data();
  });
  ExpectBadFile({.format = "safetensors",
                 .name = "tied-head-differs",
                 .file = path_ + "/model.safetensors",
                 .field = "lm_head.weight",
                 .found = {"tie_word_embeddings"},
                 .code = ErrorCode::kTensor},
                [&] { (void)OpenWeights(path_); });
}

TEST_F(ModelFolder, ATiedModelMayHaveItsMatrixUnderTheHeadsName) {
  Rewrite([&](std::vector<TensorView>& tensors) {
    for (TensorView& t : tensors)
      if (t.name == "model.embed_tokens.weight") t.name = "lm_head.weight";
  });
  const WeightSource source = OpenWeights(path_);
  ThreadPool pool(1);
  EXPECT_EQ(VerifyModel(testing::RandomSource(config_, 1), source, pool).worst_tensor, 0);
}

TEST_F(ModelFolder, SavedBuffersAreLeftOutWithAWarningWhereTheyDiffer) {
  std::vector<float> freqs;
  for (const double f : RopeInvFreq(config_.attention)) freqs.push_back(static_cast<float>(f));
  const int64_t n = static_cast<int64_t>(freqs.size()), bytes = n * 4, id = 7;
  const auto* data = reinterpret_cast<const std::byte*>(freqs.data());
  const auto add = [&](std::vector<TensorView>& tensors) {
    tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::kF32, {n}, data, bytes});
    tensors.push_back({"model.position_ids", DType::kI64, {1}, reinterpret_cast<const std::byte*>(&id), 8});
  };
  Rewrite(add);
  std::vector<std::string> warnings;
  (void)OpenWeights(path_, &warnings);
  EXPECT_EQ(warnings, std::vector<std::string>());
  freqs[1] *= 2;
  Rewrite([&](std::vector<TensorView>& tensors) { tensors[tensors.size() - 2].data = data; });
  (void)OpenWeights(path_, &warnings);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("inv_freq[1]"), std::string::npos);
}

TEST_F(ModelFolder, TensorsThatTheConfigDoesNotNameAreRefused) {
  Rewrite([&](std::vector<TensorView>& tensors) { tensors[0].name = "odd"; });
  ExpectError([&] { (void)OpenWeights(path_); }, ErrorCode::kTensor, {"model.safetensors"});
}

}  // namespace
}  // namespace hydra
