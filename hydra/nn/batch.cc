// SPDX-License-Identifier: Apache-2.0
// Building of batches from documents, and the layout that layers read. Dims as in layout.h.
#include "hydra/nn/batch.h"

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/nn/layout.h"

namespace hydra::nn {

using torch::Tensor;

namespace {
int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
}  // namespace

Batch Batch::OneDocumentPerRow(const Tensor& ids, int64_t chunk_len) {
  HYDRA_CHECK(ids.dim() == 2 && ids.size(1) > 0, "ids ", ids.sizes());
  const int64_t B = ids.size(0), n = ids.size(1), T = RoundUp(n, chunk_len);
  const auto long_type = torch::TensorOptions().dtype(torch::kInt64).device(ids.device());
  Batch batch;
  batch.ids = torch::constant_pad_nd(ids.to(torch::kInt64), {0, T - n});
  batch.pos = torch::arange(T, long_type).expand({B, T}).contiguous();
  batch.seq_idx = torch::where(batch.pos < n, 0, -1).to(torch::kInt64);
  const Tensor next = torch::constant_pad_nd(batch.ids.narrow(1, 1, T - 1), {0, 1});
  batch.targets = torch::where(batch.pos < n - 1, next, -100);
  return batch;
}

Batch Batch::Pack(const std::vector<std::vector<int64_t>>& documents, int64_t chunk_len, int64_t row_len) {
  std::vector<int64_t> ids, seq, pos, targets;
  for (size_t d = 0; d < documents.size(); ++d) {
    const auto n = static_cast<int64_t>(documents[d].size()), room = RoundUp(n, chunk_len);
    for (int64_t t = 0; t < room; ++t) {
      ids.push_back(t < n ? documents[d][static_cast<size_t>(t)] : 0);
      targets.push_back(t + 1 < n ? documents[d][static_cast<size_t>(t) + 1] : -100);
      seq.push_back(t < n ? static_cast<int64_t>(d) : -1);
      pos.push_back(t);
    }
  }
  if (row_len > 0)
    HYDRA_CHECK(static_cast<int64_t>(ids.size()) <= row_len && row_len % chunk_len == 0, ids.size(), " tokens");
  for (auto T = static_cast<int64_t>(ids.size()); T < row_len; ++T) {
    ids.push_back(0);
    targets.push_back(-100);
    seq.push_back(-1);
    pos.push_back(pos.empty() ? T : pos.back() + 1);
  }
  const auto row = [](const std::vector<int64_t>& v) { return torch::tensor(v, torch::kInt64).unsqueeze(0); };
  return {.ids = row(ids), .targets = row(targets), .seq_idx = row(seq), .pos = row(pos), .domain = {}};
}

Batch Batch::Stack(const std::vector<Batch>& rows) {
  const auto cat = [&](Tensor Batch::*field) {
    std::vector<Tensor> parts;
    for (const Batch& row : rows) parts.push_back(row.*field);
    return torch::cat(parts, 0);
  };
  return {cat(&Batch::ids), cat(&Batch::targets), cat(&Batch::seq_idx), cat(&Batch::pos),
          rows[0].domain.defined() ? cat(&Batch::domain) : Tensor()};
}

Batch Batch::To(torch::Device device) const {
  const auto to = [&](const Tensor& x) { return x.defined() ? x.to(device) : x; };
  return {to(ids), to(targets), to(seq_idx), to(pos), to(domain)};
}

Layout Layout::Make(const Batch& batch, int64_t chunk_len) {
  Layout l;
  l.B = batch.ids.size(0);
  l.T = batch.ids.size(1);
  l.C = chunk_len;
  HYDRA_CHECK(l.T % l.C == 0, "T = ", l.T, " is no multiple of chunk_len = ", l.C);
  l.n_chunks = l.T / l.C;
  l.seq = batch.seq_idx;
  l.pos = batch.pos;
  l.real = l.seq >= 0;
  const Tensor t = torch::arange(l.T, l.seq.options()).expand({l.B, l.T});
  const Tensor begins = l.real & (l.pos == 0);
  // pads follow a document, so the latest start seen so far is the document's own
  l.doc_start = std::get<0>(torch::where(begins, t, 0).cummax(1)).contiguous();
  l.scan_seq = l.seq.gather(1, l.doc_start).contiguous();
  l.one_document = (l.seq == 0).logical_and(l.pos == t).all().item<bool>();
  const auto chunks = [&](const Tensor& x) { return x.reshape({l.B, l.n_chunks, l.C}); };
  const Tensor real = chunks(l.real);
  l.chunk_real = real.select(2, 0).contiguous();
  l.chunk_closed = real.all(2);
  l.chunk_first = chunks(begins).select(2, 0).contiguous();
  l.chunk_number = chunks(l.pos).select(2, 0).div(l.C, "floor");
  if (batch.domain.defined()) l.chunk_domain = chunks(batch.domain).select(2, 0).contiguous();
  if (!l.real.all().item<bool>()) l.real_rows = torch::nonzero(l.real.view({-1})).squeeze(1);
  if (!l.one_document) {
    const bool aligned = (begins.logical_and(t.remainder(l.C) != 0)).any().item<bool>() == false;
    const bool pads_last = (l.real.logical_and(l.seq != l.scan_seq)).any().item<bool>() == false;
    if (!aligned || !pads_last)
      throw Error(ErrorCode::kData, StrCat("batch: each document must begin at a multiple of chunk_len = ", l.C,
                                           " with position 0 and be padded at its end only"));
  }
  return l;
}

void Layout::ResetSsm(const Tensor& resets) {
  auto own = std::make_shared<Layout>(*this);
  own->ssm = nullptr;
  own->one_document = false;
  const Tensor t = torch::arange(T, seq.options()).expand({B, T});
  const Tensor begins = (real & (pos == 0)) | resets;
  own->doc_start = std::get<0>(torch::where(begins, t, 0).cummax(1)).contiguous();
  own->scan_seq = begins.to(torch::kInt64).cumsum(1).contiguous();
  ssm = std::move(own);
}

}  // namespace hydra::nn
