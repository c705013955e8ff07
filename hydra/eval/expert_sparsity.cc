// SPDX-License-Identifier: Apache-2.0
// Rows of held-out documents, one after another.
#include "hydra/eval/expert_sparsity.h"

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/train/batches.h"

namespace hydra::eval {

nn::SparsityByLayer MeasureSparsity(nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                                    const std::string& split, const PerplexityOptions& options) {
  const ModelConfig& config = model.config();
  if (!config.HasFfn(FfnKind::kBlockFfn))
    throw Error(ErrorCode::kUsage, "eval sparsity: this model has no BlockFFN layers");
  const train::Corpus corpus = OpenSplit(model, tokenizer, folder, split);
  const int64_t chunk = config.chunk_len;
  const int64_t ctx = options.ctx > 0 ? options.ctx : std::min<int64_t>(8192, config.max_position_embeddings);
  train::RowPacker packer(corpus,
                          {.chunk_len = chunk, .seed = 0, .shuffle = true, .repeat = false, .cut_to_fill = false});
  nn::SparsityByLayer counters;
  for (int64_t seen = 0; options.max_tokens == 0 || seen < options.max_tokens;) {
    const train::TokenBatch batch = train::NextBatch(packer, 1, (ctx + chunk - 1) / chunk * chunk);
    if (batch.n_rows == 0) break;
    seen += batch.n_tokens;
    const train::AutocastScope autocast(options.device);
    nn::AddSparsity(model, batch.batch.To(options.device.device), options.forward, &counters);
  }
  return counters;
}

}  // namespace hydra::eval
