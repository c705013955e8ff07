// SPDX-License-Identifier: Apache-2.0
// Models in GGUF files: metadata to config and back, tensor names and shapes per role, and how values are stored there.
// llama, qwen2, qwen3, mamba2, hydra and minicpm are read and written. Not here: bytes of the format (gguf.h),
// tokenizers in GGUF (tokenizer_gguf.h). Dims as in tensor_table.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "hydra/io/gguf.h"
#include "hydra/model/config.h"
#include "hydra/model/tensor_table.h"

namespace hydra {

// How a tensor's values differ between our files (Hugging Face's) and a GGUF file.
enum class GgufStorage {
  kSame,          // the same values in the same order; the shape may have other dimensions
  kPermutedRows,  // llama's Q and K: GgufQkRow
  kNegativeExp,   // ssm_a = -exp(A_log), f32
};

// Whether models of a family have the architecture hydra in GGUF files: `hydra.config` is the text of config.json, and
// tensors have our names and shapes. llama.cpp has no such models.
[[nodiscard]] inline bool GgufCarriesConfig(Family family) {
  return family == Family::kHydra || family == Family::kMiniCpm;
}

// Name, shape and storage of a tensor of the table in GGUF files of its family.
[[nodiscard]] std::string GgufName(const ModelConfig& config, const TensorSpec& spec);
[[nodiscard]] std::vector<int64_t> GgufShape(const ModelConfig& config, const TensorSpec& spec);
[[nodiscard]] GgufStorage GgufStorageOf(const ModelConfig& config, const TensorSpec& spec);

// llama's GGUF files have pairs of RoPE beside each other, Hugging Face's half a head apart. Our row of a Q or K matrix
// [heads * head_dim, D] is row GgufQkRow(row) there, and the other way round.
[[nodiscard]] inline int64_t GgufQkRow(int64_t ours, int64_t head_dim) {
  const int64_t head = ours / head_dim * head_dim, i = ours % head_dim, half = head_dim / 2;
  return head + i % half * 2 + i / half;
}
[[nodiscard]] inline int64_t OurQkRow(int64_t in_gguf, int64_t head_dim) {
  const int64_t head = in_gguf / head_dim * head_dim, i = in_gguf % head_dim, half = head_dim / 2;
  return head + i % 2 * half + i / 2;
}

inline constexpr const char* kGgufRopeFreqs = "rope_freqs.weight";  // [head_dim / 2] f32, RopeDivisors

// A model file, checked: metadata give a valid config, each tensor of the table is there once in its shape, no other
// tensor is, the vocabulary has a token for each row of the embedding, ssm_a is finite and negative. Immutable.
class GgufModel {
 public:
  // Throws Error naming file, key or tensor. Warnings are one line each.
  [[nodiscard]] static GgufModel Open(const std::string& path, std::vector<std::string>* warnings = nullptr);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const GgufFile& file() const { return *file_; }
  [[nodiscard]] std::shared_ptr<const GgufFile> shared_file() const { return file_; }
  // As stored: see GgufStorageOf for what the values are.
  [[nodiscard]] const GgufTensor& Tensor(const TensorSpec& spec) const;

  // Of the whole file: Q and K rows are in GgufQkRow's order; kSsmALog holds -exp(A_log).
  [[nodiscard]] bool rope_interleaved() const { return config_.family == Family::kLlama; }
  [[nodiscard]] bool A_is_negative() const { return config_.family == Family::kMamba2; }

 private:
  GgufModel() = default;
  void CheckTensors() const;
  void CheckA(const TensorSpec& spec, const GgufTensor& tensor) const;
  ModelConfig config_;
  std::shared_ptr<const GgufFile> file_;
};

// The config that a file's metadata and tensors say, validated.
[[nodiscard]] ModelConfig ReadGgufConfig(const GgufFile& file, std::vector<std::string>* warnings = nullptr);

// Whether the architecture is one that ReadGgufConfig knows, or another name of one.
[[nodiscard]] bool IsGgufFamily(std::string_view architecture);

// Metadata of the model (not of its tokenizer). Throws kConfig for what GGUF cannot say: rope scaling of qwen, a
// time_step_limit, norm groups other than the SSM's, a conv without bias.
[[nodiscard]] GgufMetadata GgufModelMetadata(const ModelConfig& config);

// One tensor of a file to be written; spec is null for kGgufRopeFreqs, which holds RopeDivisors. The type is the
// writer's choice.
struct GgufTensorSlot {
  const TensorSpec* spec;
  std::string name;
  std::vector<int64_t> shape;
};
// In the order of the table, which must outlive them; rope_freqs.weight first, where there is scaling.
[[nodiscard]] std::vector<GgufTensorSlot> GgufTensorSlots(const ModelConfig& config, const TensorTable& table);

}  // namespace hydra
