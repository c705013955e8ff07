// SPDX-License-Identifier: Apache-2.0
// A memory pack: what a model was taught, as changes of rows of its product-key table (specs/hydra.md 6). Not here: how
// packs are made (train/teach.h) and read while a model runs (runtime/memory_overlay.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/io/file.h"
#include "hydra/io/safetensors.h"
#include "hydra/model/tensor_table.h"

namespace hydra {

struct MemoryPack {
  std::string name;
  std::string base;               // names what finds the rows of a table: see MemoryBaseHash
  int64_t n_keys = 0, width = 0;  // of the table: [n_keys^2, width]
  std::vector<int32_t> rows;      // ascending
  std::vector<float> delta;       // [rows, width]

  // A safetensors file: `rows` I32 [R], `delta` F32 [R, width], metadata. Throws kFormat naming file and field: rows
  // that do not ascend or lie past the table, shapes that do not agree, values that are not finite.
  [[nodiscard]] static MemoryPack Load(const std::string& path);
  void Save(const std::string& path) const;
};

// What a pack and its model must have in common: SHA-256 over the values (f32) of all query projections, query norms
// and sub-keys, layer by layer. A model that was written with other types carries the hash of what it was made from.
class MemoryBaseHash {
 public:
  void Add(std::span<const float> values) { hash_.Update(std::as_bytes(values)); }
  [[nodiscard]] std::string Finish() { return Hex(hash_.Finish()); }
  // Whether a tensor is one of those, in the order of the tensor table.
  [[nodiscard]] static bool Covers(TensorRole role);

 private:
  Sha256 hash_;
};

// The key of GGUF files that carries it, and what a model folder's metadata say.
inline constexpr const char* kMemoryBaseKey = "general.memory_base";
[[nodiscard]] std::optional<std::string> RecordedMemoryBase(const SafeTensorsMetadata& metadata);

}  // namespace hydra
