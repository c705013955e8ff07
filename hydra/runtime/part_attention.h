// SPDX-License-Identifier: Apache-2.0
// What full and sparse attention share: products, QK-norm, RoPE and the output product. Internal to the runtime.
// Dims: n rows, A query heads, Akv KV heads, Dh head_dim.
#pragma once

#include "hydra/runtime/part.h"

namespace hydra {

class CachedAttention : public Part {
 public:
  [[nodiscard]] int Path() const override { return 1; }
  bool AddRound(int round, Round& out) final;
  void Run(const Task& task, float* scratch) final;
  void AddOutput(std::vector<kernels::MatMulArgs>& products) final;
  [[nodiscard]] int64_t ScratchFloats() const override {
    return kernels::AttentionScratchFloats(group(), attention().head_dim);
  }
  [[nodiscard]] int64_t bytes() const override { return q_.bytes() + k_.bytes() + v_.bytes() + y_.bytes(); }

 protected:
  static constexpr int64_t kQueryTile = 32;

  // Puts the keys and values of the rows [begin, end) of a piece where attention finds them.
  virtual void Store(const Piece& piece, int64_t begin, int64_t end) = 0;
  // Rounds after q, k and v are there, and their tasks; the first is 0.
  virtual bool AddAttention(int round, Round& out) = 0;
  virtual void RunAttention(const Task& task, float* scratch) = 0;

  [[nodiscard]] const AttentionConfig& attention() const { return config().attention; }
  [[nodiscard]] int64_t group() const { return attention().n_heads / attention().n_kv_heads; }
  [[nodiscard]] int64_t width() const { return attention().n_heads * attention().head_dim; }
  [[nodiscard]] int64_t RowBytes(const Piece& piece) const {
    return KvRowBytes(piece.state->layout().kv, attention().head_dim);
  }
  // Of a position's key and value, all heads.
  [[nodiscard]] int64_t KeyBytes(const Piece& piece) const { return 2 * attention().n_kv_heads * RowBytes(piece); }
  // Key and value of row t of a piece and a head, in the cache's type.
  void StoreRow(const Piece& piece, int64_t t, int64_t head, std::byte* key, std::byte* value) const;
  // The arguments that do not depend on where the keys lie.
  [[nodiscard]] kernels::AttentionArgs Args(const Piece& piece) const;
  // Tasks of kind `kind` for the queries [begin, end) of a piece and each KV head; the tiles that see most keys first.
  // A query sees the last `window` keys up to its own, and `others` besides.
  void AddQueryTiles(Round& out, int32_t kind, int32_t piece, int64_t begin, int64_t end, int64_t window,
                     int64_t others = 0);

  Buffer<float> q_, k_, v_, y_;  // [n, A Dh], [n, Akv Dh] twice, [n, A Dh]

 private:
  static constexpr int32_t kRotate = -1;  // kinds of the derived parts count from 0
};

}  // namespace hydra
