// SPDX-License-Identifier: Apache-2.0
// Packed rows to tensors.
#include "hydra/train/batches.h"

#include <algorithm>
#include <span>
#include <utility>

namespace hydra::train {
namespace {

constexpr int64_t kNoTarget = -100;

// One row, written in place; all spans have T entries, already filled with pads.
struct RowSpans {
  std::span<int64_t> ids, targets, seq_idx, pos;
  std::span<int64_t> domain;  // empty where no corpus has labels
};

int64_t FillRow(const Corpus& corpus, const std::vector<PlacedPiece>& pieces, const RowSpans& row) {
  int64_t n_targets = 0;
  std::vector<uint8_t> mask;
  for (size_t number = 0; number < pieces.size(); ++number) {
    const auto& [piece, offset] = pieces[number];
    const auto at = static_cast<size_t>(offset), n = static_cast<size_t>(piece.size());
    corpus.Read(piece.doc, piece.begin, row.ids.subspan(at, n));
    mask.assign(n, 1);
    if (corpus.has_mask()) corpus.ReadMask(piece.doc, piece.begin, mask);
    for (size_t i = 0; i < n; ++i) {
      row.seq_idx[at + i] = static_cast<int64_t>(number);
      if (i + 1 < n && mask[i + 1]) {
        row.targets[at + i] = row.ids[at + i + 1];
        ++n_targets;
      }
    }
    const size_t end = number + 1 < pieces.size() ? static_cast<size_t>(pieces[number + 1].offset) : row.ids.size();
    for (size_t i = at; i < end; ++i) row.pos[i] = static_cast<int64_t>(i - at);  // pads count on
    if (!row.domain.empty()) std::ranges::fill(row.domain.subspan(at, n), corpus.Domain(piece.doc));
  }
  return n_targets;
}

TokenBatch BatchOf(const std::vector<PackedRow>& packed, int64_t chunk, int64_t seq_len) {
  TokenBatch out;
  for (const PackedRow& row : packed) {
    out.row_documents.emplace_back();
    for (const PlacedPiece& placed : row.pieces) {
      out.row_documents.back().push_back(placed.piece.doc);
      const int64_t n = placed.piece.size();
      out.documents.push_back(n);
      out.n_tokens += n;
      out.n_chunks += (n + chunk - 1) / chunk;
    }
  }
  out.n_rows = static_cast<int64_t>(packed.size());
  const auto full = [&](int64_t value) { return torch::full({out.n_rows, seq_len}, value, torch::kInt64); };
  out.batch = {.ids = full(0), .targets = full(kNoTarget), .seq_idx = full(-1), .pos = full(0), .domain = {}};
  if (std::ranges::any_of(packed, [](const PackedRow& row) { return row.corpus->has_domains(); }))
    out.batch.domain = full(-1);
  const auto row_of = [&](const torch::Tensor& tensor, int64_t i) {
    if (!tensor.defined()) return std::span<int64_t>();
    return std::span<int64_t>(tensor.data_ptr<int64_t>() + i * seq_len, static_cast<size_t>(seq_len));
  };
  for (int64_t i = 0; i < out.n_rows; ++i)
    out.n_targets += FillRow(*packed[static_cast<size_t>(i)].corpus, packed[static_cast<size_t>(i)].pieces,
                             {row_of(out.batch.ids, i), row_of(out.batch.targets, i), row_of(out.batch.seq_idx, i),
                              row_of(out.batch.pos, i), row_of(out.batch.domain, i)});
  return out;
}

// Up to `rows` rows of next(); an empty one is the end.
template <class Next>
TokenBatch Take(const Next& next, int64_t rows, int64_t chunk, int64_t seq_len) {
  std::vector<PackedRow> packed;
  while (static_cast<int64_t>(packed.size()) < rows) {
    packed.push_back(next());
    if (!packed.back().pieces.empty()) continue;
    packed.pop_back();
    break;
  }
  return BatchOf(packed, chunk, seq_len);
}

}  // namespace

TokenBatch NextBatch(RowPacker& packer, int64_t rows, int64_t seq_len) {
  return Take([&] { return PackedRow{&packer.corpus(), packer.Next(seq_len)}; }, rows, packer.chunk_len(), seq_len);
}

TokenBatch NextBatch(RowMix& mix, int64_t rows, int64_t seq_len) {
  return Take([&] { return mix.Next(seq_len); }, rows, mix.chunk_len(), seq_len);
}

StepBatches NextStep(RowMix& mix, int64_t accum, int64_t rows, int64_t seq_len) {
  StepBatches step;
  for (int64_t i = 0; i < accum; ++i) {
    TokenBatch batch = NextBatch(mix, rows, seq_len);
    step.n_read += batch.n_tokens;
    if (batch.n_targets == 0) continue;
    step.n_targets += batch.n_targets;
    step.n_chunks += batch.n_chunks;
    step.n_tokens += batch.n_tokens;
    step.micro.push_back(std::move(batch));
  }
  return step;
}

}  // namespace hydra::train
