// SPDX-License-Identifier: Apache-2.0
// Conversion and quantisation: folders and GGUF files and back to the bit, the rules of types, a check that sees.
#include "hydra/convert/convert.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "hydra/base/testing.h"
#include "hydra/convert/quantize.h"
#include "hydra/convert/verify.h"
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
ModelConfig Qwen(Family family) {
  ModelConfig c = Llama();
  c.family = family;
  c.attention.qkv_bias = family == Family::kQwen2;
  c.attention.qk_norm = family == Family::kQwen3;
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
  for (const ModelConfig& config : {Llama(), Qwen(Family::kQwen2), Qwen(Family::kQwen3), Mamba2(), Hydra()}) {
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
    EXPECT_EQ(there.differences, std::vector<std::string>());
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

TEST(Convert, AFolderHasTheNewModelOnly) {
  const TempDir folder;
  ThreadPool pool(1);
  const WeightSource first = testing::RandomSource(Llama(), 1), second = testing::RandomSource(Llama(), 2);
  WriteModelFolder(first, folder / "out", DType::kF32, 1 << 30,
                   [](const std::string& to) { WriteFileAtomic(to + "/tokenizer.json", "of the first"); });
  WriteModelFolder(second, folder / "out", DType::kF32, 1 << 16);
  EXPECT_FALSE(std::filesystem::exists(folder / "out/model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(folder / "out/tokenizer.json"));
  EXPECT_EQ(VerifyModel(second, OpenWeights(folder / "out"), pool).worst_tensor, 0);
  WriteModelFolder(first, folder / "out", DType::kF32, 1 << 30);
  EXPECT_FALSE(std::filesystem::exists(folder / "out/model.safetensors.index.json"));
  EXPECT_EQ(VerifyModel(first, OpenWeights(folder / "out"), pool).worst_tensor, 0);
  // A conversion that fails late leaves the earlier model.
  ExpectError(
      [&] {
        WriteModelFolder(second, folder / "out", DType::kF32, 1 << 30,
                         [](const std::string&) { throw Error(ErrorCode::kIo, "disk full"); });
      },
      ErrorCode::kIo, {"disk full"});
  EXPECT_EQ(VerifyModel(first, OpenWeights(folder / "out"), pool).worst_tensor, 0);
  WriteFileAtomic(folder / "out/notes.txt", "mine");
  ExpectError([&] { WriteModelFolder(second, folder / "out", DType::kF32, 1 << 30); }, ErrorCode::kUsage,
              {"out", "notes.txt"});
}

TEST(Convert, ErrorsNameTensorAndPlace) {
  const TempDir folder;
  const WeightSource source = testing::RandomSource(Llama(), 1);
  const std::string victim = "model.layers.1.mlp.up_proj.weight";
  std::vector<std::byte> bytes;
  WeightSource changed = source;
  changed.tensor = [&](const TensorSpec& spec) {
    StoredTensor stored = source.tensor(spec);
    if (spec.name != victim) return stored;
    bytes.assign(stored.data, stored.data + stored.nbytes);
    const float large = 70000;
    std::memcpy(bytes.data() + (2 * spec.shape[1] + 3) * 4, &large, sizeof large);
    stored.data = bytes.data();
    return stored;
  };
  const auto half = [](const TensorSpec& spec) { return spec.matmul ? WeightType::kF16 : WeightType::kF32; };
  ExpectError([&] { WriteModelFolder(changed, folder / "out", DType::kF16, 1 << 30); }, ErrorCode::kTensor,
              {victim, "row 2, column 3 = 70000", "F16"});
  ExpectError([&] { WriteModelGguf(changed, folder / "out.gguf", half, {}); }, ErrorCode::kTensor,
              {victim, "row 2, column 3 = 70000"});
  EXPECT_EQ(folder.CountFiles(), 0u);
}

TEST(Convert, VerifySeesNaNZerosAndConfigs) {
  const WeightSource source = testing::RandomSource(Llama(), 3);
  ThreadPool pool(1);
  std::vector<float> values;
  const auto with = [&](const std::string& victim, float value) {
    WeightSource changed = source;
    changed.tensor = [&, victim, value](const TensorSpec& spec) {
      StoredTensor stored = source.tensor(spec);
      if (spec.name != victim) return stored;
      values.assign(static_cast<size_t>(spec.size()), value);
      stored.data = reinterpret_cast<const std::byte*>(values.data());
      return stored;
    };
    return changed;
  };
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  EXPECT_TRUE(std::isinf(VerifyModel(source, with(up, NAN), pool).worst_tensor));
  const WeightSource zeros = with(up, 0);
  std::vector<float> others(1 << 20, 1e-6f);
  WeightSource nearly = zeros;
  nearly.tensor = [&](const TensorSpec& spec) {
    StoredTensor stored = zeros.tensor(spec);
    if (spec.name == up) stored.data = reinterpret_cast<const std::byte*>(others.data());
    return stored;
  };
  EXPECT_TRUE(std::isinf(VerifyModel(zeros, nearly, pool).worst_tensor));
  EXPECT_EQ(VerifyModel(zeros, zeros, pool).worst_tensor, 0);
  WeightSource longer = source;  // of no effect on 64 tokens
  longer.config.max_position_embeddings *= 2;
  const VerifyReport report = VerifyModel(source, longer, pool);
  ASSERT_EQ(report.differences.size(), 1u);
  EXPECT_NE(report.differences[0].find("max_position_embeddings"), std::string::npos);
  WeightSource narrow = source;
  narrow.config.layers.resize(1);
  EXPECT_TRUE(std::isinf(VerifyModel(source, narrow, pool).worst_tensor));
}

TEST(Convert, WhatAFileSaysOfItsOriginSurvives) {
  const TempDir folder;
  const WeightSource source = testing::RandomSource(Llama(), 1);
  WriteModelGguf(source, folder / "a.gguf", AllF32, [](GgufMetadata& m) {
    m.SetText("general.license", "apache-2.0");
    m.SetText("general.author", "somebody \"else\"");
    m.SetU32("general.base_model.count", 2);
    m.SetU32("general.quantization_version", 99);
    const std::vector<std::string_view> tags{"one", "two"};
    m.SetTexts("general.tags", tags);
  });
  const auto q8 = [](const TensorSpec& spec) { return QuantisedType(Llama(), spec, QuantRecipe::kQ8_0); };
  WriteModelGguf(OpenWeights(folder / "a.gguf"), folder / "b.gguf", q8, {});
  WriteModelFolder(OpenWeights(folder / "b.gguf"), folder / "c", DType::kF32, 1 << 30);
  WriteModelFolder(OpenWeights(folder / "c"), folder / "d", DType::kF32, 1 << 30);
  WriteModelGguf(OpenWeights(folder / "d"), folder / "e.gguf", AllF32, {});
  for (const char* name : {"b.gguf", "e.gguf"}) {
    const GgufFile file = GgufFile::Open(folder / name);
    EXPECT_EQ(file.Text("general.license"), "apache-2.0");
    EXPECT_EQ(file.Text("general.author"), "somebody \"else\"");
    EXPECT_EQ(file.Int("general.base_model.count"), 2);
    EXPECT_EQ(file.Texts("general.tags"), (std::vector<std::string_view>{"one", "two"}));
    EXPECT_EQ(file.Text("general.architecture"), "llama");
  }
  const GgufFile quantised = GgufFile::Open(folder / "b.gguf"), plain = GgufFile::Open(folder / "e.gguf");
  EXPECT_EQ(quantised.Int("general.quantization_version"), 2);
  EXPECT_EQ(quantised.Int("general.file_type"), 7);
  EXPECT_EQ(plain.Find("general.quantization_version"), nullptr);
  EXPECT_EQ(plain.Int("general.file_type"), 0);
}

TEST(Convert, ASourceThatChangesIsAnError) {
  const TempDir folder;
  WriteModelFolder(testing::RandomSource(Llama(), 1), folder / "a", DType::kF32, 1 << 30);
  const WeightSource source = OpenWeights(folder / "a");
  std::filesystem::last_write_time(folder / "a/model.safetensors",
                                   std::filesystem::file_time_type() + std::chrono::hours(1));
  ExpectError([&] { WriteModelFolder(source, folder / "b", DType::kF32, 1 << 30); }, ErrorCode::kIo,
              {"model.safetensors", "changed"});
  ExpectError([&] { (void)ModelWeights::Build(source, {}, nullptr); }, ErrorCode::kIo, {"changed"});
  EXPECT_FALSE(std::filesystem::exists(folder / "b"));
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

// Blocks of a down matrix stay within an expert, and what that changes is said.
TEST(Quantise, ExpertsAreNotCutThroughBlocks) {
  ModelConfig config = BlockFfnNano();
  const auto type_of = [&](QuantRecipe recipe, TensorRole role) {
    return QuantisedType(config, *TensorTable(config).Find(role, 1), recipe);
  };
  using R = TensorRole;
  EXPECT_EQ(type_of(QuantRecipe::kQ4_0, R::kBlockDown), WeightType::kQ4_0);  // 32 wide
  EXPECT_EQ(type_of(QuantRecipe::kQ4_K_M, R::kBlockUp), WeightType::kQ4_K);
  EXPECT_EQ(type_of(QuantRecipe::kQ4_K_M, R::kBlockDown), WeightType::kQ8_0);
  EXPECT_EQ(type_of(QuantRecipe::kQ8_0, R::kBlockRouter), WeightType::kF32);
  EXPECT_EQ(ExpertDownNote(config, QuantRecipe::kQ4_0), "");
  EXPECT_EQ(ExpertDownNote(config, QuantRecipe::kQ4_K_M),
            "down matrices of experts are in Q8_0: blocks of 256 cross experts");
  config.moe.d_expert = 48;
  for (const QuantRecipe recipe : {QuantRecipe::kQ8_0, QuantRecipe::kQ4_1, QuantRecipe::kQ4_K_M})
    EXPECT_EQ(type_of(recipe, R::kBlockDown), WeightType::kBF16);
  EXPECT_EQ(ExpertDownNote(config, QuantRecipe::kQ8_0),
            "down matrices of experts are in BF16: experts are 48 wide, no multiple of 32");
  EXPECT_EQ(ExpertDownNote(Llama(), QuantRecipe::kQ4_K_M), "");
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
