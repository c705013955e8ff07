// SPDX-License-Identifier: Apache-2.0
// Models of the BlockFFN family between formats: the forms that published files have experts in, folders and GGUF and
// back, types that stay. Not here: pytorch_model.bin (torch_file_test.cc), numbers of the model
// (tests/parity/blockffn_parity.py).
#include <gtest/gtest.h>

#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/convert/convert.h"
#include "hydra/convert/quantize.h"
#include "hydra/convert/torch_weights.h"
#include "hydra/io/safetensors.h"
#include "hydra/model/gguf_model.h"
#include "hydra/model/model_tensors.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

ModelConfig Small(bool latent) {
  ModelConfig c = latent ? BlockFfnSmall() : BlockFfnNano();
  c.layers.resize(2);
  c.vocab_size = 48;
  c.d_model = 64;
  c.attention.n_heads = 4, c.attention.head_dim = 16;
  c.attention.n_kv_heads = latent ? 4 : 2;
  if (latent) c.attention.latent = {.q_rank = 24, .kv_rank = 20, .d_nope = 12, .d_rope = 8, .d_value = 16};
  c.moe.n_experts = 6, c.moe.d_expert = 32;
  c.dtype = DType::kF32;
  return c;
}

void ExpectSameModel(const WeightSource& want, const WeightSource& got) {
  EXPECT_EQ(CompareConfigs(want.config, got.config), std::vector<std::string>());
  const TensorTable table(want.config);
  for (const TensorSpec& spec : table.specs())
    ASSERT_EQ(TensorValues(want, spec), TensorValues(got, spec)) << spec.name;
}

// The file that another writer makes of a model: `form` is the place among OtherForms, -1 the table's own.
void WriteOtherForm(const WeightSource& source, const std::string& folder, int form) {
  std::filesystem::create_directories(folder);
  WriteFileAtomic(folder + "/config.json", ConfigJson(source.config));
  const ModelConfig& c = source.config;
  const TensorTable table(c);
  std::vector<TensorView> views;
  std::vector<std::vector<float>> kept;
  for (const TensorSpec& spec : table.specs()) {
    std::vector<float> values = TensorValues(source, spec);
    TensorView view{.name = spec.name, .dtype = DType::kF32, .shape = spec.shape};
    const auto forms = OtherForms(c, spec);
    if (form >= 0 && !forms.empty()) {
      const OtherForm& other = forms[static_cast<size_t>(form)];
      view.name = other.name, view.shape = other.shape;
      const int64_t D = c.d_model, E = c.moe.n_experts, de = c.moe.d_expert;
      std::vector<float> moved = values;
      for (int64_t d = 0; d < D && other.order != StoredOrder::kTable; ++d)
        for (int64_t e = 0; e < E; ++e)
          for (int64_t i = 0; i < de; ++i) {
            const int64_t to = other.order == StoredOrder::kTransposed ? (e * de + i) * D + d : (e * D + d) * de + i;
            moved[static_cast<size_t>(to)] = values[static_cast<size_t>(d * E * de + e * de + i)];
          }
      values = moved;
    }
    kept.push_back(std::move(values));
    views.push_back(view);
  }
  for (size_t i = 0; i < views.size(); ++i) {
    views[i].data = reinterpret_cast<const std::byte*>(kept[i].data());
    views[i].nbytes = static_cast<int64_t>(kept[i].size()) * 4;
  }
  WriteSafeTensors(folder + "/model.safetensors", views, {});
}

TEST(MiniCpm, EveryFormOfExpertsIsTheSameModel) {
  const TempDir dir;
  for (const bool latent : {false, true}) {
    const WeightSource source = testing::RandomSource(Small(latent), 1);
    for (int form = -1; form < 3; ++form) {
      SCOPED_TRACE(form);
      const std::string folder = dir / StrCat(latent ? "latent" : "grouped", form);
      WriteOtherForm(source, folder, form);
      ExpectSameModel(source, OpenWeights(folder));
      WriteModelFolder(OpenForConversion(folder), folder + "-out", std::nullopt, 1 << 30);
      const SafeTensors written = SafeTensors::Open(folder + "-out");
      const TensorTable table(source.config);
      ASSERT_EQ(written.tensors().size(), table.specs().size());
      for (const TensorSpec& spec : table.specs()) EXPECT_EQ(written.Get(spec.name).shape, spec.shape) << spec.name;
      ExpectSameModel(source, OpenWeights(folder + "-out"));
    }
  }
}

TEST(MiniCpm, OtherFormsAreHeldToTheirShapes) {
  const TempDir dir;
  const WeightSource source = testing::RandomSource(Small(false), 1);
  WriteOtherForm(source, dir / "m", 1);
  const auto rewrite = [&](const std::function<void(TensorView&)>& change) {
    const SafeTensors file = SafeTensors::Open(dir / "m");
    std::vector<TensorView> tensors = file.tensors();
    for (TensorView& tensor : tensors) change(tensor);
    std::filesystem::create_directories(dir / "changed");
    WriteSafeTensors(dir / "changed/model.safetensors", tensors, {});
    WriteFileAtomic(dir / "changed/config.json", ReadFile(dir / "m/config.json"));
  };
  const std::string down = "model.layers.1.mlp.experts.down_proj.weight";
  rewrite([&](TensorView& t) {
    if (t.name == down) std::swap(t.shape[0], t.shape[1]);
  });
  ExpectError([&] { (void)OpenWeights(dir / "changed"); }, ErrorCode::kTensor,
              {down, "shape [64, 6, 32]", "config.json says [6, 64, 32]"});
  rewrite([&](TensorView& t) {
    if (t.name == down) t.name = "model.layers.1.mlp.down_proj.weight";
  });
  ExpectError([&] { (void)OpenWeights(dir / "changed"); }, ErrorCode::kTensor,
              {"model.layers.1.mlp.down_proj", "no such tensor"});
}

TEST(MiniCpm, GoesIntoGgufAndBack) {
  const TempDir dir;
  for (const bool latent : {false, true}) {
    const WeightSource source = testing::RandomSource(Small(latent), 2);
    const std::string file = dir / "a.gguf", folder = dir / (latent ? "latent" : "grouped");
    WriteModelGguf(source, file, [](const TensorSpec&) { return WeightType::kF32; }, {});
    EXPECT_EQ(GgufFile::Open(file).Text("general.architecture"), "hydra");
    ExpectSameModel(source, OpenWeights(file));
    WriteModelFolder(OpenWeights(file), folder, std::nullopt, 1 << 30);
    ExpectSameModel(source, OpenWeights(folder));
    const auto q8 = [&](const TensorSpec& spec) { return QuantisedType(source.config, spec, QuantRecipe::kQ8_0); };
    const ConvertReport report = WriteModelGguf(source, file, q8, {});
    for (const TensorChange& change : report.changes) EXPECT_LT(change.error, 0.02) << change.name;
    EXPECT_EQ(OpenWeights(file).tensor(*TensorTable(source.config).Find(TensorRole::kBlockRouter, 0)).type,
              WeightType::kF32);
  }
}

TEST(MiniCpm, WithoutATypeEachTensorKeepsItsOwn) {
  const TempDir dir;
  ModelConfig config = Small(true);
  config.dtype = DType::kBF16;
  const WeightSource source = testing::RandomSource(config, 3, WeightType::kBF16);  // small tensors in f32
  WriteModelFolder(source, dir / "kept", std::nullopt, 1 << 30);
  WriteModelFolder(source, dir / "half", DType::kF16, 1 << 30);
  const SafeTensors kept = SafeTensors::Open(dir / "kept"), half = SafeTensors::Open(dir / "half");
  const TensorTable table(config);
  for (const TensorSpec& spec : table.specs()) {
    EXPECT_EQ(kept.Get(spec.name).dtype, spec.matmul ? DType::kBF16 : DType::kF32) << spec.name;
    EXPECT_EQ(half.Get(spec.name).dtype, spec.matmul ? DType::kF16 : DType::kF32) << spec.name;
  }
  EXPECT_EQ(LoadConfig(dir / "kept").dtype, DType::kBF16);
  EXPECT_EQ(LoadConfig(dir / "half").dtype, DType::kF16);
  // Norms in 16 bits stay so, to the bit.
  std::vector<TensorView> narrow;
  std::vector<std::vector<uint16_t>> bits;
  for (const TensorSpec& spec : table.specs()) {
    bits.emplace_back();
    for (const float v : TensorValues(source, spec)) bits.back().push_back(FloatToBF16(v));
    narrow.push_back({spec.name, DType::kBF16, spec.shape, nullptr, 2 * spec.size()});
  }
  for (size_t i = 0; i < narrow.size(); ++i) narrow[i].data = reinterpret_cast<const std::byte*>(bits[i].data());
  std::filesystem::create_directories(dir / "narrow");
  WriteSafeTensors(dir / "narrow/model.safetensors", narrow, {});
  WriteFileAtomic(dir / "narrow/config.json", ConfigJson(config));
  WriteModelFolder(OpenWeights(dir / "narrow"), dir / "out", std::nullopt, 1 << 30);
  const SafeTensors out = SafeTensors::Open(dir / "out");
  for (const TensorView& want : narrow) {
    const TensorView& got = out.Get(want.name);
    ASSERT_EQ(got.dtype, DType::kBF16) << want.name;
    ASSERT_TRUE(std::equal(want.data, want.data + want.nbytes, got.data)) << want.name;
  }
}

}  // namespace
}  // namespace hydra
