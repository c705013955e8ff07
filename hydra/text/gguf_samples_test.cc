// SPDX-License-Identifier: Apache-2.0
// GGUF files of ours for Python's `gguf`, and files of its making for us: tests/parity/gguf_test.py. The folder is in
// HYDRALM_GGUF_SAMPLES; without it there is nothing to do.
#include <gtest/gtest.h>
#include <cstdlib>

#include <cstring>
#include <string>
#include <vector>

#include "hydra/io/npy.h"
#include "hydra/model/gguf_model.h"
#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_gguf.h"

namespace hydra {
namespace {

bool IsWritten(WeightType type) {
  return type != WeightType::kQ5_0 && type != WeightType::kQ5_1 && type != WeightType::kQ5_K;
}

// One tensor a type, of the rows in values.npy.
void WriteTypes(const std::string& base) {
  const NpyArray values = NpyArray::Open(base + "values.npy");
  const std::vector<float> rows = values.Floats();
  const int64_t n = values.shape()[1], n_rows = values.shape()[0];
  GgufMetadata metadata;
  metadata.SetText("general.architecture", "none");
  metadata.SetText("text", "\xC3\xA9t\xC3\xA9");
  metadata.SetU32("u32", 4000000000);
  metadata.SetF32("f32", 0.1);
  metadata.SetBool("bool", true);
  metadata.SetI32s("i32s", std::vector<int32_t>{-1, 2});
  metadata.SetTexts("texts", std::vector<std::string_view>{"a", "", "c"});
  std::vector<GgufTensorInfo> infos;
  std::vector<std::vector<std::byte>> data;
  for (const WeightTypeInfo& info : AllWeightTypes()) {
    if (!IsWritten(info.type)) continue;
    infos.push_back({std::string("t.") + info.name, info.type, {n_rows, n}});
    const int64_t row_bytes = RowBytes(info.type, n);
    auto& bytes = data.emplace_back(static_cast<size_t>(n_rows * row_bytes));
    for (int64_t r = 0; r < n_rows; ++r) EncodeRow(info.type, rows.data() + r * n, n, bytes.data() + r * row_bytes);
  }
  WriteGguf(base + "types.gguf", metadata, infos, [&](size_t i) { return std::span<const std::byte>(data[i]); });
}

// A tiny llama with values 1, 2, 3, ... and the tokenizer of the folder.
void WriteModel(const std::string& base) {
  ModelConfig c = TransformerNano();
  c.vocab_size = 320;
  c.d_model = 32;
  c.layers.resize(2);
  c.attention.n_heads = 4, c.attention.n_kv_heads = 2, c.attention.head_dim = 8;
  c.attention.rope_theta = 500000;
  c.attention.rope_scaling = RopeScaling{};
  c.d_ff = 64;
  c.eos_token_id = 0;
  GgufMetadata metadata = GgufModelMetadata(c);
  SetGgufTokenizer(base + "tokenizer.json", {.vocab_size = 320, .eos = {0}}, &metadata);
  const TensorTable table(c);
  const auto slots = GgufTensorSlots(c, table);
  std::vector<GgufTensorInfo> infos;
  for (const GgufTensorSlot& slot : slots) infos.push_back({slot.name, WeightType::kF32, slot.shape});
  std::vector<float> values;
  float next = 0;
  WriteGguf(base + "model.gguf", metadata, infos, [&](size_t i) {
    values.resize(static_cast<size_t>(NumElements(infos[i].shape)));
    for (float& v : values) v = ++next;
    return std::as_bytes(std::span<const float>(values));
  });
}

// What Python wrote: values of each tensor as we decode them go to NAME.npy for Python to compare.
void ReadTheirs(const std::string& base) {
  const GgufFile file = GgufFile::Open(base + "theirs.gguf");
  EXPECT_EQ(file.Text("general.architecture"), "llama");
  EXPECT_EQ(file.Int("some.u64"), int64_t{1} << 40);
  EXPECT_EQ(file.Float("some.f64"), 0.1);
  EXPECT_EQ(file.Ints("some.ints"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(file.alignment(), 64u);
  for (const GgufTensor& tensor : file.tensors()) {
    ASSERT_EQ(tensor.shape.size(), 2u);
    std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
    const int64_t n = tensor.shape[1];
    for (int64_t r = 0; r < tensor.shape[0]; ++r)
      DecodeRow(tensor.type, tensor.data + r * RowBytes(tensor.type, n), n, values.data() + r * n);
    WriteNpy(base + std::string(tensor.name) + ".npy", values, tensor.shape);
  }
}

TEST(GgufSamples, AreWritten) {
  const char* const folder = ::getenv("HYDRALM_GGUF_SAMPLES");
  if (folder == nullptr) GTEST_SKIP() << "HYDRALM_GGUF_SAMPLES names no folder";
  const std::string base = std::string(folder) + "/";
  WriteTypes(base);
  WriteModel(base);
  ReadTheirs(base);
}

}  // namespace
}  // namespace hydra
