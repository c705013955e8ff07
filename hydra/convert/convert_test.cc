// SPDX-License-Identifier: Apache-2.0
// Conversion and quantisation: folders and GGUF files and back to the bit, the rules of types, a check that sees.
#include "hydra/convert/convert.h"

#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/convert/quantize.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

ModelConfig Llama() {
  ModelConfig c = TransformerNano();
  c.layers.resize(2);
  c.vocab_size = 96;
  c.dtype = DType::kF32;
  return c;
}
ModelConfig Mamba2() {
  ModelConfig c = MambaNano();
  c.layers.resize(2);
  c.vocab_size = 96;
  c.dtype = DType::kF32;
  c.ssm.scan_chunk = 256;  // GGUF does not say it (it changes speed only): readers take the family's default
  return c;
}
ModelConfig Hydra() {
  ModelConfig c = HydraNano();
  c.vocab_size = 96;
  c.dtype = DType::kF32;
  return c;
}

WeightType AllF32(const TensorSpec&) { return WeightType::kF32; }

TEST(Convert, FolderAndGgufKeepEveryValue) {
  const TempDir folder;
  ThreadPool pool(1);
  for (const ModelConfig& config : {Llama(), Mamba2(), Hydra()}) {
    SCOPED_TRACE(FamilyName(config.family));
    const WeightSource source = testing::RandomSource(config, 1);
    const ConvertReport report = WriteModelGguf(source, folder / "a.gguf", AllF32, {});
    const TensorTable table(config);
    EXPECT_EQ(report.read, static_cast<int64_t>(table.specs().size()));
    EXPECT_EQ(report.written, report.read);
    const WeightSource gguf = OpenWeights(folder / "a.gguf");
    const VerifyReport there = VerifyModel(source, gguf, pool);
    EXPECT_LT(there.worst_tensor, 1e-6) << there.worst_name;  // -exp(A_log) and its log
    EXPECT_LT(there.logits, testing::kTolF32);
    WriteModelFolder(gguf, folder / "back", DType::kF32, 1 << 30);
    const VerifyReport back = VerifyModel(source, OpenWeights(folder / "back"), pool);
    EXPECT_LT(back.worst_tensor, 1e-6) << back.worst_name;
    EXPECT_LT(back.logits, testing::kTolF32);
    EXPECT_EQ(CompareConfigs(OpenWeights(folder / "back").config, config), std::vector<std::string>());
    std::filesystem::remove_all(folder / "back");
  }
}

TEST(Convert, ShardsHoldTheSameModel) {
  const TempDir folder;
  ThreadPool pool(1);
  const WeightSource source = testing::RandomSource(Hydra(), 2);
  WriteModelFolder(source, folder / "shards", DType::kF32, 1 << 20);
  EXPECT_TRUE(std::filesystem::exists(folder / "shards/model.safetensors.index.json"));
  const VerifyReport report = VerifyModel(source, OpenWeights(folder / "shards"), pool);
  EXPECT_EQ(report.worst_tensor, 0) << report.worst_name;
  EXPECT_EQ(report.logits, 0);
}

TEST(Convert, VerifySeesAnotherModel) {
  const WeightSource source = testing::RandomSource(Hydra(), 3);
  ThreadPool pool(1);
  EXPECT_EQ(VerifyModel(source, source, pool).logits, 0);
  WeightSource changed = source;
  const std::string victim = "model.layers.3.workspace.read_v.weight";
  const WeightSource other = testing::RandomSource(Hydra(), 4);
  changed.tensor = [&](const TensorSpec& spec) {
    return spec.name == victim ? other.tensor(spec) : source.tensor(spec);
  };
  const VerifyReport report = VerifyModel(source, changed, pool);
  EXPECT_EQ(report.worst_name, victim);
  EXPECT_GT(report.worst_tensor, 0.5);
  EXPECT_GT(report.logits, 1e-3);
}

TEST(Convert, NarrowTypesStayWithinTheirRounding) {
  const TempDir folder;
  ThreadPool pool(1);
  const WeightSource source = testing::RandomSource(Hydra(), 5);
  for (const auto& [dtype, bound] : {std::pair{DType::kF16, 1e-3}, std::pair{DType::kBF16, 4e-3}}) {
    WriteModelFolder(source, folder / "narrow", dtype, 1 << 30);
    const VerifyReport report = VerifyModel(source, OpenWeights(folder / "narrow"), pool);
    EXPECT_GT(report.worst_tensor, 0);
    EXPECT_LT(report.worst_tensor, bound) << report.worst_name;
    EXPECT_LT(report.logits, 0.1);
  }
}

TEST(Quantise, TypesFollowTheRules) {
  const ModelConfig config = Transformer29M();  // rows of 512 and 1504
  const TensorTable table(config);
  int more = 0;
  for (const TensorSpec& spec : table.specs()) {
    const WeightType type = QuantisedType(config, spec, QuantRecipe::kQ4_K_M);
    if (!spec.matmul) {
      EXPECT_EQ(type, WeightType::kF32) << spec.name;
    } else if (spec.role == TensorRole::kEmbedding) {
      EXPECT_EQ(type, WeightType::kQ6_K);  // tied: it is the head
    } else if (spec.role == TensorRole::kFfnDown) {
      EXPECT_EQ(type, WeightType::kQ8_0) << "1504 is no multiple of 256";
    } else if (spec.role == TensorRole::kAttnV) {
      more += type == WeightType::kQ6_K;
    } else {
      EXPECT_EQ(type, WeightType::kQ4_K) << spec.name;
    }
  }
  EXPECT_EQ(more, 4);  // of 8: the first, the last, and 3 and 6
  const ModelConfig hydra = HydraNano();
  const TensorTable hydra_table(hydra);
  for (const TensorSpec& spec : hydra_table.specs()) {
    if (spec.role == TensorRole::kPkmTable || spec.role == TensorRole::kPkmSubKeys) {
      EXPECT_EQ(QuantisedType(hydra, spec, QuantRecipe::kQ4_0), WeightType::kQ8_0) << spec.name;
    }
  }
}

TEST(Quantise, ErrorsShrinkWithBits) {
  const TempDir folder;
  ModelConfig config = Llama();
  config.d_model = 256;
  config.attention.n_heads = config.attention.n_kv_heads = 8;
  config.d_ff = 512;
  const WeightSource source = testing::RandomSource(config, 6);
  double before = 0;
  for (const QuantRecipe recipe : {QuantRecipe::kQ8_0, QuantRecipe::kQ4_K_M, QuantRecipe::kQ4_0}) {
    const ConvertReport report = WriteModelGguf(
        source, folder / "q.gguf", [&](const TensorSpec& spec) { return QuantisedType(config, spec, recipe); }, {});
    double worst = 0;
    for (const TensorChange& change : report.changes) worst = std::max(worst, change.error);
    EXPECT_GT(worst, before) << QuantRecipeName(recipe);
    EXPECT_LT(worst, 0.15) << QuantRecipeName(recipe);
    EXPECT_LT(report.bytes_after, report.bytes_before * 3 / 10);
    before = worst;
    ThreadPool pool(1);
    EXPECT_LT(VerifyModel(source, OpenWeights(folder / "q.gguf"), pool).worst_tensor, 0.15);
  }
}

}  // namespace
}  // namespace hydra
