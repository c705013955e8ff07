// SPDX-License-Identifier: Apache-2.0
// Draws weights by the table's initial values and stores them in the wanted type.
#include "hydra/convert/random_model.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/convert/quantize.h"
#include "hydra/model/initial_value.h"

namespace hydra {
namespace {

// The wanted type where the table allows it and rows are whole blocks.
WeightType TypeOf(const ModelConfig& config, const TensorSpec& spec, WeightType wanted) {
  if (!spec.matmul) return WeightType::kF32;
  if (spec.role == TensorRole::kBlockDown) return ExpertDownType(config, wanted);
  for (const WeightType type : {wanted, WeightType::kQ8_0})
    if (spec.shape.back() % Info(type).block == 0) return type;
  return WeightType::kF32;
}

std::vector<std::byte> Fill(const ModelConfig& config, const TensorSpec& spec, WeightType type, Rng rng) {
  constexpr int64_t kDistinctRows = 64;  // encoding K-quants takes long
  const int64_t cols = spec.shape.empty() ? 1 : spec.shape.back(), rows = spec.size() / cols,
                bytes = RowBytes(type, cols);
  const int64_t drawn = type == WeightType::kF32 ? rows : std::min(rows, kDistinctRows);
  std::vector<std::byte> out(static_cast<size_t>(rows * bytes));
  std::vector<float> row(static_cast<size_t>(cols));
  for (int64_t r = 0; r < drawn; ++r) {
    for (int64_t i = 0; i < cols; ++i)
      row[static_cast<size_t>(i)] = static_cast<float>(InitialValue(config, spec, r * cols + i, rng));
    EncodeRow(type, row.data(), cols, out.data() + r * bytes);
  }
  for (int64_t r = drawn; r < rows; ++r)
    std::memcpy(out.data() + r * bytes, out.data() + (r % drawn) * bytes, static_cast<size_t>(bytes));
  return out;
}

}  // namespace

WeightSource RandomWeights(const ModelConfig& config, const RandomWeightOptions& options) {
  struct Stored {
    WeightType type;
    std::vector<std::byte> bytes;
  };
  using Tensors = std::unordered_map<std::string, Stored>;
  config.Validate("config");
  const TensorTable table(config);
  auto tensors = std::make_shared<Tensors>();
  for (size_t i = 0; i < table.specs().size(); ++i) {
    const TensorSpec& spec = table.specs()[i];
    const WeightType type = TypeOf(config, spec, options.type);
    tensors->emplace(spec.name, Stored{type, Fill(config, spec, type, Rng(options.seed, i))});
  }
  WeightSource source;
  source.config = config;
  source.path = "random weights";
  source.keep = tensors;
  source.mapped = false;
  source.tensor = [tensors](const TensorSpec& spec) {
    const Stored& t = tensors->at(spec.name);
    return StoredTensor{t.type, t.bytes.data(), static_cast<int64_t>(t.bytes.size())};
  };
  return source;
}

}  // namespace hydra
