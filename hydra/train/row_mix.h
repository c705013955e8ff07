// SPDX-License-Identifier: Apache-2.0
// Rows of several corpora in given shares: which corpus the next row is of. Not here: rows of one corpus (packing.h).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/train/packing.h"

namespace hydra::train {

// A row of packed documents and the corpus that they are of.
struct PackedRow {
  const Corpus* corpus;
  std::vector<PlacedPiece> pieces;
};

// Not thread-safe. With one corpus the rows are those of its RowPacker.
class RowMix {
 public:
  // Where all streams stand; equal positions and shares give equal rows from there on.
  struct Position {
    std::vector<RowPacker::Position> corpora;
    std::vector<int64_t> given;  // rows of each since Begin
    bool operator==(const Position&) const = default;
  };

  // Names are for Begin; the first corpus is what a run reads without shares.
  RowMix(std::vector<std::pair<std::string, Corpus>> corpora, const PackingOptions& options);

  // From the next row on: shares by name, which add up to 1; empty: all from the first. Throws kUsage for a name that
  // is none.
  void Begin(const std::vector<std::pair<std::string, double>>& shares);
  // The same shares go on at a position that was saved: counts are kept.
  void GoOn(const std::vector<std::pair<std::string, double>>& shares);

  // The next row of the corpus that lags furthest behind its share, the earlier one of equals.
  [[nodiscard]] PackedRow Next(int64_t row_len);
  [[nodiscard]] int64_t chunk_len() const { return packers_[0].chunk_len(); }

  [[nodiscard]] Position position() const;
  void set_position(const Position& position);
  // For PositionFromJson.
  [[nodiscard]] const std::vector<RowPacker>& packers() const { return packers_; }

 private:
  std::vector<std::string> names_;
  std::vector<RowPacker> packers_;
  std::vector<double> shares_;
  std::vector<int64_t> given_;
};

// With one corpus: what ToJson of its packer's position is.
[[nodiscard]] Json ToJson(const RowMix::Position& position);
// Throws kFormat or kConfig naming `where`; checks against the corpora.
[[nodiscard]] RowMix::Position PositionFromJson(const Json& json, const std::string& where, const RowMix& mix);

}  // namespace hydra::train
