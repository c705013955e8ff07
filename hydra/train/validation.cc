// SPDX-License-Identifier: Apache-2.0
// Held-out loss.
#include "hydra/train/validation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include "hydra/train/batches.h"

namespace hydra::train {
namespace {

constexpr int64_t kFirstBucket = 16;  // positions 1-15, 16-31, 32-63, ...

size_t BucketOf(int64_t position) {
  return position < kFirstBucket ? 0
                                 : static_cast<size_t>(std::bit_width(static_cast<uint64_t>(position / kFirstBucket)));
}

// Leaves the first `n` targets of a batch, in the order of its rows.
void KeepTargets(int64_t n, TokenBatch* batch) {
  constexpr int64_t kNoTarget = -100;
  int64_t* targets = batch->batch.targets.data_ptr<int64_t>();
  for (int64_t i = 0; i < batch->batch.targets.numel(); ++i)
    if (targets[i] >= 0 && n-- <= 0) targets[i] = kNoTarget;
}

// Numbers of the documents of which a batch predicts a token.
void AddDocuments(const TokenBatch& batch, std::set<int64_t>* documents) {
  const int64_t* targets = batch.batch.targets.data_ptr<int64_t>();
  const int64_t* seq_idx = batch.batch.seq_idx.data_ptr<int64_t>();
  const int64_t T = batch.batch.targets.size(1);
  for (int64_t i = 0; i < batch.batch.targets.numel(); ++i)
    if (targets[i] >= 0)
      documents->insert(batch.row_documents[static_cast<size_t>(i / T)][static_cast<size_t>(seq_idx[i])]);
}

// Adds one batch: nats [B, T] of each target.
void Add(const nn::Batch& batch, const torch::Tensor& nats, const std::vector<int32_t>& token_bytes,
         ValidationResult* result) {
  const torch::Tensor host = nats.to(torch::kCPU, torch::kFloat64).contiguous();
  const int64_t n = batch.targets.numel();
  const int64_t* targets = batch.targets.data_ptr<int64_t>();
  const int64_t* pos = batch.pos.data_ptr<int64_t>();
  const double* loss = host.data_ptr<double>();
  for (int64_t i = 0; i < n; ++i) {
    if (targets[i] < 0) continue;
    const int64_t position = pos[i] + 1;  // of the predicted token
    const size_t bucket = BucketOf(position);
    if (bucket >= result->by_position.size()) result->by_position.resize(bucket + 1);
    ++result->by_position[bucket].tokens;
    result->by_position[bucket].nats += loss[i];
    result->nats += loss[i];
    ++result->tokens;
    if (!token_bytes.empty()) result->bytes += token_bytes[static_cast<size_t>(targets[i])];
  }
}

}  // namespace

double ValidationResult::bits_per_byte() const {
  if (bytes == 0) return std::numeric_limits<double>::quiet_NaN();
  return nats / std::numbers::ln2 / static_cast<double>(bytes);
}

std::vector<int32_t> TokenByteCounts(const Tokenizer& tokenizer) {
  std::vector<int32_t> out(static_cast<size_t>(tokenizer.vocab_size()), 0);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (!tokenizer.IsSpecial(id)) out[static_cast<size_t>(id)] = static_cast<int32_t>(tokenizer.TokenBytes(id).size());
  return out;
}

ValidationResult Validate(nn::Model& model, const Corpus& corpus, const std::vector<int32_t>& token_bytes,
                          const ValidationOptions& options) {
  if (!HasTargets(corpus)) return {};
  const int64_t chunk = model.config().chunk_len;
  const int64_t seq_len = (options.seq_len + chunk - 1) / chunk * chunk;
  RowPacker packer(corpus, {.chunk_len = chunk, .seed = 0, .shuffle = true, .repeat = false, .cut_to_fill = false});
  ValidationResult result;
  std::set<int64_t> documents;
  for (int64_t seen = 0; options.max_tokens == 0 || seen < options.max_tokens;) {
    if (options.max_targets > 0 && result.tokens == options.max_targets) break;
    TokenBatch batch = NextBatch(packer, options.rows, seq_len);
    if (batch.n_rows == 0) break;
    seen += batch.n_rows * seq_len;
    if (batch.n_targets == 0) continue;
    if (options.max_targets > 0) KeepTargets(options.max_targets - result.tokens, &batch);
    AddDocuments(batch, &documents);
    const AutocastScope autocast(options.device);
    Add(batch.batch, model.TokenLoss(batch.batch.To(options.device.device), options.forward), token_bytes, &result);
  }
  result.documents = static_cast<int64_t>(documents.size());
  for (size_t i = 0; i < result.by_position.size(); ++i) {
    result.by_position[i].begin = i == 0 ? 1 : kFirstBucket << (i - 1);
    result.by_position[i].end = std::min(kFirstBucket << i, seq_len);
  }
  std::erase_if(result.by_position, [](const PositionBucket& bucket) { return bucket.tokens == 0; });
  return result;
}

}  // namespace hydra::train
