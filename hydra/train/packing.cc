// SPDX-License-Identifier: Apache-2.0
// Cutting, shuffling and packing of documents, and the saved position.
#include "hydra/train/packing.h"

#include <algorithm>

#include "hydra/base/error.h"

namespace hydra::train {
namespace {

// Pieces of a document of n tokens; neighbours share a token, so a piece after the first adds row_len - 1.
int64_t CountPieces(int64_t n, int64_t row_len) {
  if (n < 2) return 0;  // nothing to predict
  return n <= row_len ? 1 : 1 + (n - row_len + row_len - 2) / (row_len - 1);
}

}  // namespace

bool HasTargets(const Corpus& corpus) {
  std::vector<uint8_t> mask;
  for (int64_t doc = 0; doc < corpus.n_docs(); ++doc) {
    const int64_t n = corpus.DocLength(doc) - 1;
    if (n < 1) continue;
    if (!corpus.has_mask()) return true;
    mask.resize(static_cast<size_t>(n));
    corpus.ReadMask(doc, 1, mask);
    if (std::find(mask.begin(), mask.end(), 1) != mask.end()) return true;
  }
  return false;
}

RowPacker::RowPacker(Corpus corpus, const PackingOptions& options) : corpus_(std::move(corpus)), options_(options) {
  HYDRA_CHECK(options_.chunk_len >= 1, "chunk_len ", options_.chunk_len);
  for (int64_t doc = 0; doc < corpus_.n_docs(); ++doc)
    if (corpus_.DocLength(doc) >= 2) return;
  throw Error(ErrorCode::kData, StrCat("the corpus has no document of two tokens or more (", corpus_.n_docs(),
                                       " documents, ", corpus_.n_tokens(), " tokens)"));
}

void RowPacker::Cut(int64_t row_len) {
  position_.row_len = row_len;
  first_piece_.assign(1, 0);
  first_piece_.reserve(static_cast<size_t>(corpus_.n_docs()) + 1);
  for (int64_t doc = 0; doc < corpus_.n_docs(); ++doc)
    first_piece_.push_back(first_piece_.back() + CountPieces(corpus_.DocLength(doc), row_len));
  BeginPass();
}

void RowPacker::BeginPass() {
  if (!options_.shuffle) return;
  const uint64_t seed = Mix64(options_.seed ^ Mix64(static_cast<uint64_t>(position_.pass) + 1));
  order_.emplace(static_cast<uint64_t>(first_piece_.back()), seed);
}

Piece RowPacker::PieceAt(int64_t index) const {
  if (order_) index = static_cast<int64_t>((*order_)(static_cast<uint64_t>(index)));
  const auto after = std::upper_bound(first_piece_.begin(), first_piece_.end(), index);
  const int64_t doc = after - first_piece_.begin() - 1;
  const int64_t begin = (index - first_piece_[static_cast<size_t>(doc)]) * (position_.row_len - 1);
  return {doc, begin, std::min(begin + position_.row_len, corpus_.DocLength(doc))};
}

int64_t RowPacker::Padded(const Piece& piece) const {
  return (piece.size() + options_.chunk_len - 1) / options_.chunk_len * options_.chunk_len;
}

void RowPacker::Refill() {
  while (position_.pending.size() < kWindow) {
    if (position_.next == first_piece_.back()) {
      if (!options_.repeat) return;
      ++position_.pass;
      position_.next = 0;
      BeginPass();
    }
    position_.pending.push_back(PieceAt(position_.next++));
  }
}

std::vector<PlacedPiece> RowPacker::Next(int64_t row_len) {
  HYDRA_CHECK(row_len > 1 && row_len % options_.chunk_len == 0, "row of ", row_len, ", chunk ", options_.chunk_len);
  if (row_len != position_.row_len) {
    if (position_.row_len != 0) ++position_.pass;
    position_.next = 0;
    position_.pending.clear();
    Cut(row_len);
  }
  std::vector<Piece>& pending = position_.pending;
  std::vector<PlacedPiece> row;
  int64_t offset = 0;
  while (offset < row_len) {
    Refill();
    if (pending.empty()) break;
    const int64_t left = row_len - offset;
    auto best = pending.end();
    if (row.empty()) {
      best = pending.begin();  // no piece waits for ever; none is longer than a row
    } else {
      for (auto it = pending.begin(); it != pending.end(); ++it)
        if (Padded(*it) <= left && (best == pending.end() || it->size() > best->size())) best = it;
    }
    if (best != pending.end()) {
      row.push_back({*best, offset});
      offset += Padded(*best);
      pending.erase(best);
      continue;
    }
    if (!options_.cut_to_fill || left * 16 < row_len || left < 2) break;
    Piece& oldest = pending.front();  // longer than `left`, since it does not fit
    row.push_back({{oldest.doc, oldest.begin, oldest.begin + left}, offset});
    oldest.begin += left - 1;
    break;
  }
  if (!row.empty()) ++position_.rows;
  return row;
}

void RowPacker::set_position(const Position& position) {
  position_ = position;
  order_.reset();
  if (position_.row_len != 0) Cut(position_.row_len);
}

nlohmann::ordered_json ToJson(const RowPacker::Position& position) {
  nlohmann::ordered_json pending = nlohmann::ordered_json::array();
  for (const Piece& piece : position.pending) pending.push_back({piece.doc, piece.begin, piece.end});
  return {{"pass", position.pass},
          {"row_len", position.row_len},
          {"next", position.next},
          {"rows", position.rows},
          {"pending", pending}};
}

RowPacker::Position PositionFromJson(const nlohmann::ordered_json& json, const std::string& where,
                                     const Corpus& corpus) {
  const auto fail = [&](const std::string& text) { throw Error(ErrorCode::kFormat, StrCat(where, text)); };
  const auto get = [&](const char* key) -> const nlohmann::ordered_json& {
    if (!json.is_object() || !json.contains(key)) fail(StrCat(".", key, ": missing"));
    return json[key];
  };
  RowPacker::Position position;
  const auto read = [&](const char* key, int64_t* out) {
    ReadJson(get(key), StrCat(where, ".", key), out);
    if (*out < 0) fail(StrCat(".", key, " = ", *out, ": must be >= 0"));
  };
  read("pass", &position.pass);
  read("row_len", &position.row_len);
  read("next", &position.next);
  read("rows", &position.rows);
  if (position.row_len == 1) fail(".row_len = 1: must be 0 or above 1");
  std::vector<std::vector<int64_t>> pending;
  ReadJson(get("pending"), where + ".pending", &pending);
  if (pending.size() > RowPacker::kWindow) fail(StrCat(".pending: ", pending.size(), " pieces, at most 64"));
  for (const std::vector<int64_t>& item : pending) {
    if (item.size() != 3 || item[0] < 0 || item[0] >= corpus.n_docs() || item[1] < 0 || item[2] - item[1] < 2 ||
        item[2] > corpus.DocLength(item[0]) || item[2] - item[1] > position.row_len)
      fail(".pending: a piece must be [document, begin, end] of the corpus");
    position.pending.push_back({item[0], item[1], item[2]});
  }
  if (position.row_len > 0) {
    int64_t pieces = 0;
    for (int64_t doc = 0; doc < corpus.n_docs(); ++doc) pieces += CountPieces(corpus.DocLength(doc), position.row_len);
    if (position.next > pieces) fail(StrCat(".next = ", position.next, ": the corpus has ", pieces, " pieces"));
  }
  return position;
}

}  // namespace hydra::train
