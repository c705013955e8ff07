// SPDX-License-Identifier: Apache-2.0
// What every layer needs to know of a batch's packing, computed once for a forward pass (specs/hydra.md 7).
// Dims: B rows, T tokens, C chunk_len, n = T / C chunks, Q scan_chunk.
#pragma once

#include "hydra/nn/torch.h"

#include <cstdint>
#include <memory>

#include "hydra/nn/batch.h"

namespace hydra::nn {

// Index tensors live on the batch's device.
struct Layout {
  int64_t B = 0, T = 0, C = 0, n_chunks = 0;
  bool one_document = true;    // each row is one document that begins at offset 0 and has no pads
  torch::Tensor seq;           // [B, T] int64, -1 for pads
  torch::Tensor pos;           // [B, T] int64
  torch::Tensor real;          // [B, T] bool
  torch::Tensor real_rows;     // [M] int64: b T + t of real tokens; undefined where all are real
  torch::Tensor doc_start;     // [B, T] int64: row offset where the token's document begins; pads: the one before
  torch::Tensor scan_seq;      // [B, T] int64: seq, pads carry the document before them
  torch::Tensor chunk_real;    // [B, n] bool: has a real token
  torch::Tensor chunk_first;   // [B, n] bool: the first of its document
  torch::Tensor chunk_closed;  // [B, n] bool: all C tokens are real
  torch::Tensor chunk_number;  // [B, n] int64: pos / C
  torch::Tensor chunk_domain;  // [B, n] int64: of the chunk's document, -1 none; undefined where none is known

  std::shared_ptr<const Layout> ssm;  // what SSM paths take in its place; null: this

  [[nodiscard]] const Layout& of_ssm() const { return ssm ? *ssm : *this; }
  // Gives SSM paths a layout of their own, in which a document also begins at the tokens of resets [B, T] bool.
  void ResetSsm(const torch::Tensor& resets);

  // Throws kData when a document does not begin at a multiple of C or pads are not at its end.
  static Layout Make(const Batch& batch, int64_t chunk_len);
};

}  // namespace hydra::nn
