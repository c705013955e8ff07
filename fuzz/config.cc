// SPDX-License-Identifier: Apache-2.0
// config.json: a config that is accepted can be counted (tensors, parameters, state, operations) and written, and what
// is written reads back equal. Not here: configs in GGUF files (gguf.cc).
#include "hydra/model/config.h"

#include "fuzz/input.h"
#include "hydra/model/accounting.h"
#include "hydra/model/tensor_table.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Accepts([&] {
    std::vector<std::string> warnings;
    const ModelConfig config = ParseConfig(fuzz::Text(data, size), "config.json", &warnings);
    const std::string text = ConfigJson(config);
    if (!(ParseConfig(text, "written") == config)) fuzz::Broken("a config does not read back equal", text);
    if (!CompareConfigs(config, config).empty()) fuzz::Broken("a config differs from itself", text);
    (void)CountParams(config);
    (void)CountState(config, KvDtype::kQ8_0);
    (void)KvBytesPerToken(config, KvDtype::kF32);
    (void)FlopsPerToken(config, config.max_position_embeddings, FlopForm::kStep);
    if (config.n_layers() > 64) return;  // long tables cost time and show nothing new
    const TensorTable table(config);
    for (const TensorSpec& spec : table.specs())
      if (spec.size() < 1) fuzz::Broken("a tensor without elements", spec.name);
  });
  return 0;
}
