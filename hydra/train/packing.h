// SPDX-License-Identifier: Apache-2.0
// Which pieces of which documents go into which row: shuffled, packed tightly, and resumable from a small position.
// Not here: tensors (batches.h), tokens (corpus.h). Rules: specs/hydra.md 7.
// Dims: T tokens of a row, C chunk_len.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hydra/base/rng.h"
#include "hydra/io/json.h"
#include "hydra/train/corpus.h"

namespace hydra::train {

// Tokens [begin, end) of a document, a document of its own for the model.
struct Piece {
  int64_t doc = 0, begin = 0, end = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
  bool operator==(const Piece&) const = default;
};

struct PlacedPiece {
  Piece piece;
  int64_t offset = 0;  // in the row, a multiple of C
};

// Does any token of the corpus count in the loss? False where every document is shorter than two tokens or masked but
// for its first token, which nothing predicts.
[[nodiscard]] bool HasTargets(const Corpus& corpus);

struct PackingOptions {
  int64_t chunk_len = 1;  // C: pieces start at its multiples
  uint64_t seed = 1;
  bool shuffle = true;      // else in the order of the corpus
  bool repeat = true;       // start a new pass at the end; else Next() gives empty rows there
  bool cut_to_fill = true;  // may cut a document that is shorter than a row
};

// A stream of rows. A document longer than T is cut into pieces of T tokens, neighbours sharing one token, so that each
// token but a document's first is predicted once. Pieces come in an order drawn anew for each pass over the
// corpus; a row takes the oldest waiting piece, then the largest that still fits among the next kWindow. Where none
// does and more than 1/16 of the row is left, the oldest is cut. The stream depends on corpus, seed and the row lengths
// asked for alone, not on how rows are grouped into batches. Not thread-safe.
class RowPacker {
 public:
  static constexpr size_t kWindow = 64;

  // Where the stream stands; equal positions give equal rows from there on.
  struct Position {
    int64_t pass = 0;     // over the corpus, from 0
    int64_t row_len = 0;  // T that the pass is cut for; 0 before the first row
    int64_t next = 0;     // piece of the pass's order
    int64_t rows = 0;     // given so far
    std::vector<Piece> pending;
    bool operator==(const Position&) const = default;
  };

  // The corpus must have a document of two tokens or more (an Error(kData) otherwise).
  RowPacker(Corpus corpus, const PackingOptions& options);

  // The pieces of the next row of row_len tokens (a multiple of C, > 1). Another row_len than before begins a new
  // pass, since pieces are cut for one length.
  [[nodiscard]] std::vector<PlacedPiece> Next(int64_t row_len);

  [[nodiscard]] const Position& position() const { return position_; }
  void set_position(const Position& position);
  [[nodiscard]] const Corpus& corpus() const { return corpus_; }
  [[nodiscard]] int64_t chunk_len() const { return options_.chunk_len; }

 private:
  void Cut(int64_t row_len);
  void BeginPass();
  void Refill();
  [[nodiscard]] Piece PieceAt(int64_t index) const;
  [[nodiscard]] int64_t Padded(const Piece& piece) const;

  Corpus corpus_;
  PackingOptions options_;
  Position position_;
  std::vector<int64_t> first_piece_;  // [n_docs + 1] of each document, for position_.row_len
  std::optional<Permutation> order_;  // of the pass
};

[[nodiscard]] nlohmann::ordered_json ToJson(const RowPacker::Position& position);
// Throws kFormat or kConfig naming `where`; checks against the corpus.
[[nodiscard]] RowPacker::Position PositionFromJson(const nlohmann::ordered_json& json, const std::string& where,
                                                   const Corpus& corpus);

}  // namespace hydra::train
