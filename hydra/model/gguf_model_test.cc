// SPDX-License-Identifier: Apache-2.0
// Models in GGUF: config to file and back for each family, every tensor once, values as stored, inconsistent files.
#include "hydra/model/gguf_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "hydra/base/testing.h"
#include "hydra/model/rope.h"

namespace hydra {
namespace {

ModelConfig TinyLlama() {
  ModelConfig c = TransformerNano();
  c.vocab_size = 40;
  c.d_model = 24;
  c.layers.resize(2);
  c.attention.n_heads = 4, c.attention.n_kv_heads = 2, c.attention.head_dim = 8;
  c.d_ff = 36;
  c.norm_eps = 1e-5;
  c.tie_embeddings = false;
  c.dtype = DType::kF32;
  c.bos_token_id = 1, c.eos_token_id = 2;
  return c;
}

ModelConfig TinyQwen(Family family) {
  ModelConfig c = TinyLlama();
  c.family = family;
  c.attention.qkv_bias = family == Family::kQwen2;
  c.attention.qk_norm = family == Family::kQwen3;
  return c;
}

ModelConfig TinyMamba() {
  ModelConfig c = MambaNano();
  c.vocab_size = 40;
  c.d_model = 24;
  c.layers.resize(2);
  c.ssm.n_heads = 6, c.ssm.head_dim = 8, c.ssm.d_state = 5, c.ssm.n_groups = c.ssm.norm_groups = 2;
  c.ssm.scan_chunk = 256;
  c.dtype = DType::kF32;
  return c;
}

// What a test may change before the file is written.
struct Draft {
  GgufMetadata metadata;
  std::vector<GgufTensorInfo> tensors;
  std::vector<std::vector<float>> values;  // all f32

  size_t IndexOf(const std::string& name) const {
    for (size_t i = 0; i < tensors.size(); ++i)
      if (tensors[i].name == name) return i;
    throw std::logic_error("no tensor " + name);
  }
  void Drop(const std::string& name) {
    const auto i = static_cast<std::ptrdiff_t>(IndexOf(name));
    tensors.erase(tensors.begin() + i);
    values.erase(values.begin() + i);
  }
};

class GgufModelTest : public testing::Test {
 protected:
  static Draft MakeDraft(const ModelConfig& config) {
    Draft draft{GgufModelMetadata(config), {}, {}};
    for (const char* name : {"bos", "eos"}) {
      const auto id = name[0] == 'b' ? config.bos_token_id : config.eos_token_id;
      if (id) draft.metadata.SetU32(std::string("tokenizer.ggml.") + name + "_token_id", *id);
    }
    const TensorTable table(config);
    float next = 0;
    for (const GgufTensorSlot& slot : GgufTensorSlots(config, table)) {
      draft.tensors.push_back({slot.name, WeightType::kF32, slot.shape});
      auto& values = draft.values.emplace_back(static_cast<size_t>(NumElements(slot.shape)));
      for (float& v : values) v = -(next += 0.25f);  // negative: ssm_a is
      if (slot.spec == nullptr) {
        const auto divisors = RopeDivisors(config.attention);
        values.assign(divisors.begin(), divisors.end());
      }
    }
    return draft;
  }
  std::string Write(const Draft& draft) const {
    std::string path = dir_ / "m.gguf";
    FileOps ops = FileOps::Real();
    ops.fsync = [](int) { return 0; };  // many small files
    WriteGguf(
        path, draft.metadata, draft.tensors, [&](size_t i) { return std::as_bytes(std::span(draft.values[i])); }, ops);
    return path;
  }
  // `name`: its name in specs/product.md, or "".
  void Bad(const ModelConfig& config, const std::function<void(Draft&)>& change, ErrorCode code, const char* field,
           std::vector<std::string> found = {}, const char* name = "") const {
    Draft draft = MakeDraft(config);
    change(draft);
    const std::string path = Write(draft);
    ExpectBadFile(
        {.format = "GGUF", .name = name, .file = path, .field = field, .found = std::move(found), .code = code},
        [&] { (void)GgufModel::Open(path); });
  }
  TempDir dir_;
};

TEST_F(GgufModelTest, EachFamilyComesBackEqual) {
  ModelConfig scaled = TinyLlama();
  scaled.attention.rope_theta = 500000;
  scaled.attention.rope_scaling = RopeScaling{.factor = 32};
  ModelConfig tied = TinyLlama();
  tied.tie_embeddings = true;
  ModelConfig hydra = HydraNano();
  hydra.bos_token_id = hydra.eos_token_id = 3;
  for (const ModelConfig& want :
       {TinyLlama(), scaled, tied, TinyQwen(Family::kQwen2), TinyQwen(Family::kQwen3), TinyMamba(), hydra}) {
    SCOPED_TRACE(FamilyName(want.family));
    const Draft draft = MakeDraft(want);
    const std::string path = Write(draft);
    std::vector<std::string> warnings;
    const GgufModel model = GgufModel::Open(path, &warnings);
    EXPECT_TRUE(warnings.empty()) << warnings[0];
    ModelConfig got = model.config();
    got.initializer_range = want.initializer_range;  // not in GGUF
    EXPECT_EQ(CompareConfigs(got, want), std::vector<std::string>());
    const TensorTable table(want);
    size_t seen = 0;
    for (const TensorSpec& spec : table.specs()) {
      const GgufTensor& tensor = model.Tensor(spec);
      EXPECT_EQ(NumElements(tensor.shape), spec.size()) << spec.name;
      const size_t i = draft.IndexOf(GgufName(want, spec));
      EXPECT_EQ(std::memcmp(tensor.data, draft.values[i].data(), draft.values[i].size() * sizeof(float)), 0)
          << spec.name;
      ++seen;
    }
    EXPECT_EQ(seen + (want.attention.rope_scaling ? 1 : 0), model.file().tensors().size());
    EXPECT_EQ(model.rope_interleaved(), want.family == Family::kLlama);
    EXPECT_EQ(model.A_is_negative(), want.family == Family::kMamba2);
  }
}

TEST_F(GgufModelTest, NamesAndShapesAreLlamaCpps) {
  const ModelConfig mamba = TinyMamba();
  const TensorTable table(mamba);
  const std::map<TensorRole, std::pair<std::string, std::vector<int64_t>>> want = {
      {TensorRole::kSsmConvWeight, {"blk.1.ssm_conv1d.weight", {48 + 2 * 2 * 5, 4}}},
      {TensorRole::kSsmALog, {"blk.1.ssm_a", {6, 1}}},
      {TensorRole::kSsmD, {"blk.1.ssm_d", {6, 1}}},
      {TensorRole::kSsmDtBias, {"blk.1.ssm_dt.bias", {6}}},
      {TensorRole::kSsmNorm, {"blk.1.ssm_norm.weight", {2, 24}}},
  };
  for (const auto& [role, name_shape] : want) {
    const TensorSpec* spec = table.Find(role, 1);
    EXPECT_EQ(GgufName(mamba, *spec), name_shape.first);
    EXPECT_EQ(GgufShape(mamba, *spec), name_shape.second);
  }
  const ModelConfig llama = TinyLlama();
  const TensorTable rows(llama);
  EXPECT_EQ(GgufStorageOf(llama, *rows.Find(TensorRole::kAttnQ, 0)), GgufStorage::kPermutedRows);
  EXPECT_EQ(GgufStorageOf(llama, *rows.Find(TensorRole::kAttnV, 0)), GgufStorage::kSame);
  EXPECT_EQ(GgufStorageOf(mamba, *table.Find(TensorRole::kSsmALog, 0)), GgufStorage::kNegativeExp);
}

TEST(GgufQkRow, IsThePermutationOfTheConverter) {
  // reshape(heads, 2, half, in).swapaxes(1, 2), written out for heads of 6.
  const std::vector<int64_t> ours_of_file = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
  for (int64_t row = 0; row < 12; ++row) {
    EXPECT_EQ(OurQkRow(row, 6), ours_of_file[static_cast<size_t>(row)]);
    EXPECT_EQ(GgufQkRow(OurQkRow(row, 6), 6), row);
  }
}

TEST_F(GgufModelTest, QwensRowsAreNotPermuted) {
  for (const Family family : {Family::kQwen2, Family::kQwen3}) {
    const ModelConfig config = TinyQwen(family);
    const TensorTable table(config);
    for (const TensorSpec& spec : table.specs()) EXPECT_EQ(GgufStorageOf(config, spec), GgufStorage::kSame);
    EXPECT_FALSE(GgufModel::Open(Write(MakeDraft(config))).rope_interleaved());
  }
}

TEST_F(GgufModelTest, ArchitecturesThatAreALlamaButForTheName) {
  for (const std::string name : {"mistral3", "xverse", "internlm2"}) {
    const std::string from = Write(MakeDraft(TinyLlama()));
    const GgufFile file = GgufFile::Open(from);
    Draft draft = MakeDraft(TinyLlama());
    draft.metadata = {};
    for (GgufEntry entry : file.entries()) {
      std::string key(entry.key);
      if (key.starts_with("llama.")) key = name + key.substr(5);
      entry.key = key;
      draft.metadata.Set(entry);
    }
    draft.metadata.SetText("general.architecture", name);
    const GgufModel model = GgufModel::Open(Write(draft));
    EXPECT_EQ(model.config().family, Family::kLlama);
    EXPECT_TRUE(model.rope_interleaved());
  }
}

TEST_F(GgufModelTest, KeysThatChangeTheMathsAreRefusedUnlessNeutral) {
  const auto number = [](const char* key, double value) {
    return [=](Draft& d) { d.metadata.SetF32(std::string("llama.") + key, value); };
  };
  const auto whole = [](const char* key, int64_t value) {
    return [=](Draft& d) { d.metadata.SetU32(std::string("llama.") + key, value); };
  };
  const auto flag = [](const char* key, bool value) {
    return [=](Draft& d) { d.metadata.SetBool(std::string("llama.") + key, value); };
  };
  using Change = std::function<void(Draft&)>;
  const std::pair<Change, Change> rows[] = {
      // neutral, not neutral
      {number("logit_scale", 1), number("logit_scale", 0.5)},
      {number("residual_scale", 1), number("residual_scale", 0.25)},
      {number("embedding_scale", 1), number("embedding_scale", 12)},
      {number("attention.scale", 1 / std::sqrt(8.0)), number("attention.scale", 0.25)},
      {number("attn_logit_softcapping", 0), number("attn_logit_softcapping", 50)},
      {number("final_logit_softcapping", 0), number("final_logit_softcapping", 30)},
      {number("attention.clamp_kqv", 0), number("attention.clamp_kqv", 8)},
      {number("attention.max_alibi_bias", 0), number("attention.max_alibi_bias", 8)},
      {number("rope.scaling.attn_factor", 1), number("rope.scaling.attn_factor", 1.2)},
      {number("rope.scaling.factor", 1), number("rope.scaling.factor", 4)},
      {whole("attention.sliding_window", 1 << 20), whole("attention.sliding_window", 16)},
      {whole("expert_count", 0), whole("expert_shared_count", 1)},
      {flag("use_parallel_residual", false), flag("use_parallel_residual", true)},
      {flag("attention.causal", true), flag("attention.causal", false)},
  };
  for (const auto& [neutral, other] : rows) {
    Draft draft = MakeDraft(TinyLlama());
    neutral(draft);
    std::vector<std::string> warnings;
    EXPECT_NO_THROW((void)GgufModel::Open(Write(draft), &warnings));
    EXPECT_EQ(warnings, std::vector<std::string>());
    Bad(TinyLlama(), other, ErrorCode::kFormat, "llama.", {"supported"});
  }
}

TEST_F(GgufModelTest, SavedFrequenciesAreLeftOut) {
  Draft draft = MakeDraft(TinyLlama());
  draft.tensors.push_back({"blk.0.attn_rot_embd.weight", WeightType::kF32, {4}});
  draft.values.push_back({1, 2, 3, 4});
  EXPECT_NO_THROW((void)GgufModel::Open(Write(draft)));
}

TEST_F(GgufModelTest, RefusesInconsistentFiles) {
  const auto set = [](const char* key, int64_t value) { return [=](Draft& d) { d.metadata.SetU32(key, value); }; };
  const auto drop = [](const char* key) { return [=](Draft& d) { d.metadata.Remove(key); }; };
  const ModelConfig llama = TinyLlama(), mamba = TinyMamba();
  const auto kFormat = ErrorCode::kFormat, kTensor = ErrorCode::kTensor;
  Bad(llama, [](Draft& d) { d.metadata.SetText("general.architecture", "gpt9"); }, kFormat, "general.architecture",
      {"gpt9", "hydra"});
  Bad(llama, drop("general.architecture"), kFormat, "general.architecture", {"is missing"});
  Bad(llama, drop("llama.block_count"), kFormat, "llama.block_count", {"is missing"});
  Bad(llama, set("llama.block_count", 0), kFormat, "llama.block_count = 0");
  Bad(llama, set("llama.block_count", 4096), kTensor, "tensor blk.2.attn_norm.weight", {"is missing"});
  Bad(llama, set("llama.block_count", 3), kTensor, "tensor blk.2.attn_norm.weight", {"is missing"});
  Bad(llama, set("llama.block_count", 1), kTensor, "tensor blk.1.", {"not in a llama model"});
  Bad(llama, set("llama.attention.head_count", 0), kFormat, "llama.attention.head_count = 0");
  Bad(llama, set("llama.attention.head_count_kv", 3), ErrorCode::kConfig, "num_key_value_heads = 3");
  Bad(llama, set("llama.rope.dimension_count", 4), kFormat, "llama.rope.dimension_count = 4", {"8"});
  Bad(llama, set("llama.expert_count", 8), kFormat, "llama.expert_count = 8");
  Bad(
      llama, [](Draft& d) { d.metadata.SetText("llama.rope.scaling.type", "yarn"); }, kFormat,
      "llama.rope.scaling.type = yarn");
  Bad(
      llama, [](Draft& d) { d.metadata.SetF32("llama.attention.layer_norm_rms_epsilon", -1); }, kFormat,
      "llama.attention.layer_norm_rms_epsilon = -1");
  Bad(llama, set("split.count", 2), kFormat, "split.count");
  Bad(llama, set("tokenizer.ggml.eos_token_id", 40), ErrorCode::kConfig, "eos_token_id = 40", {"vocab_size = 40"});
  Bad(
      llama, [](Draft& d) { d.metadata.SetTexts("tokenizer.ggml.tokens", std::vector<std::string_view>(39, "x")); },
      kFormat, "tokenizer.ggml.tokens", {"has 39", "40 rows"}, "vocab-not-embedding");
  Bad(llama, [](Draft& d) { d.Drop("token_embd.weight"); }, kFormat, "token_embd.weight", {"is missing"});
  Bad(llama, [](Draft& d) { d.Drop("blk.1.ffn_up.weight"); }, kTensor, "tensor blk.1.ffn_up.weight", {"is missing"});
  Bad(llama,
      [](Draft& d) {
        d.tensors.push_back({"blk.0.odd", WeightType::kF32, {1}});
        d.values.push_back({1});
      },
      kTensor, "tensor blk.0.odd", {"not in a llama model"});
  Bad(llama,
      [](Draft& d) {
        std::swap(d.tensors[d.IndexOf("blk.0.ffn_up.weight")].shape[0],
                  d.tensors[d.IndexOf("blk.0.ffn_up.weight")].shape[1]);
      },
      kTensor, "blk.0.ffn_up.weight", {"[24, 36]", "[36, 24]"});
  ModelConfig scaled = llama;
  scaled.attention.rope_scaling = RopeScaling{};
  Bad(
      scaled, [](Draft& d) { d.values[0][1] = 0; }, kFormat, "rope_freqs.weight [1] = 0");
  Bad(scaled, [](Draft& d) { d.tensors[0].shape = {2}, d.values[0].resize(2); }, kFormat, "rope_freqs.weight", {"[4]"});
  for (const float bad : {0.5f, 0.0f, std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
    Bad(
        mamba, [&](Draft& d) { d.values[d.IndexOf("blk.1.ssm_a")][3] = bad; }, kTensor, "blk.1.ssm_a[3]", {"negative"},
        "ssm_a-positive");
  Bad(mamba, set("mamba2.ssm.inner_size", 50), kFormat, "mamba2.ssm.inner_size = 50", {"24"});
  Bad(mamba, set("mamba2.ssm.time_step_rank", 7), kFormat, "mamba2.ssm.time_step_rank = 7");
  Bad(mamba, set("mamba2.ssm.group_count", 4), ErrorCode::kConfig, "mamba_n_groups = 4");
  Bad(HydraNano(), [](Draft& d) { d.metadata.SetText("hydra.config", R"({"model_type": "hydra", "odd": 1})"); },
      ErrorCode::kConfig, "hydra.config", {"odd"});
  Bad(HydraNano(), [](Draft& d) { d.metadata.SetText("hydra.config", ConfigJson(TransformerNano())); }, kFormat,
      "hydra.config", {"llama"});
  Bad(HydraNano(), drop("hydra.config"), kFormat, "hydra.config", {"is missing"});
}

TEST_F(GgufModelTest, WarnsOfKeysItDoesNotKnow) {
  Draft draft = MakeDraft(TinyLlama());
  draft.metadata.SetU32("llama.some_new_key", 3);
  std::vector<std::string> warnings;
  (void)GgufModel::Open(Write(draft), &warnings);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("llama.some_new_key"), std::string::npos);
}

TEST(GgufModelMetadata, RefusesWhatGgufCannotSay) {
  ModelConfig c = TinyMamba();
  c.ssm.dt_limit = {0, 0.5};
  ExpectError([&] { (void)GgufModelMetadata(c); }, ErrorCode::kConfig, {"time_step_limit", "0.5"});
  c = TinyMamba();
  c.ssm.norm_groups = 1;
  ExpectError([&] { (void)GgufModelMetadata(c); }, ErrorCode::kConfig, {"mamba_norm_groups = 1"});
  c = TinyQwen(Family::kQwen3);
  c.attention.rope_scaling = RopeScaling{};
  ExpectError([&] { (void)GgufModelMetadata(c); }, ErrorCode::kConfig, {"rope_scaling", "qwen3"});
  c = TinyMamba();
  c.ssm.conv_bias = false;
  ExpectError([&] { (void)GgufModelMetadata(c); }, ErrorCode::kConfig, {"use_conv_bias"});
}

}  // namespace
}  // namespace hydra
