// SPDX-License-Identifier: Apache-2.0
// What the attention kernels share on every SIMD level: their scratch, blocks of the cache, blocks of landmarks.
// Not here: the kernels (ops_attention.cc, ops_attention_query.cc).
// Dims: R rows of a tile = queries x heads of the KV group, Rp and Dp rounded up to kAlign.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "hydra/kernels/ops.h"
#include "hydra/kernels/scratch.h"

namespace hydra::kernels {

constexpr int64_t kMostRows = 128;  // of a tile, so that all of it stays in the second-level cache
constexpr int64_t kMostQueries = 64;
// Queries of a tile.
inline int64_t TileQueries(int64_t group) { return std::clamp<int64_t>(kMostRows / group, 1, kMostQueries); }

struct AttentionScratch {
  float* q;          // [Dh, Rp]         queries times scale, transposed
  float* s;          // [kKeyBlock, Rp]  scores, then their exps; of one query [group, kKeyBlock]
  float* o;          // [Rp, Dp]         unnormalised sums of values
  float* k;          // [kKeyBlock, Dp]  keys and values widened
  float* v;          // [kKeyBlock, Dp]
  std::byte* raw_k;  // [kKeyBlock] rows  listed landmarks, gathered
  std::byte* raw_v;  // [kKeyBlock] rows
  float* max;        // [Rp]
  float* sum;        // [Rp]             of exps
  float* keep;       // [Rp]             exp(old max - new max)
  float* lambda;     // [Rp]
  int32_t* lo;       // [Rp]             first and last key row that a row sees
  int32_t* hi;       // [Rp]
  int32_t* far;      // [Rp]             last position of landmarks that it sees
};
// Lays the parts out from `base`; returns the floats of all.
inline int64_t LayOut(float* base, int64_t group, int64_t Dh, AttentionScratch* s) {
  const int64_t Rp = RoundUp(TileQueries(group) * group), Dp = RoundUp(Dh);
  ScratchParts take(base);
  const int64_t keys = kKeyBlock * Dp;  // also enough for rows of any dtype as they are
  *s = {.q = take(Dh * Rp),
        .s = take(kKeyBlock * Rp),
        .o = take(Rp * Dp),
        .k = take(keys),
        .v = take(keys),
        .raw_k = reinterpret_cast<std::byte*>(take(keys)),
        .raw_v = reinterpret_cast<std::byte*>(take(keys)),
        .max = take(Rp),
        .sum = take(Rp),
        .keep = take(Rp),
        .lambda = take(Rp),
        .lo = reinterpret_cast<int32_t*>(take(Rp)),
        .hi = reinterpret_cast<int32_t*>(take(Rp)),
        .far = reinterpret_cast<int32_t*>(take(Rp))};
  return take.used();
}

// Rows of a cache that lie one after another.
struct KeyBlock {
  const std::byte* k;
  const std::byte* v;
  int64_t row_bytes, n;
};
struct Cache {
  const void* k;
  const void* v;
  int64_t head_rows, row_bytes;
  [[nodiscard]] KeyBlock Block(int64_t head, int64_t row, int64_t n) const {
    const int64_t at = (head * head_rows + row) * row_bytes;
    return {static_cast<const std::byte*>(k) + at, static_cast<const std::byte*>(v) + at, row_bytes, n};
  }
};
inline Cache CacheOf(const AttentionArgs& a) { return {a.k, a.v, a.head_rows, KvRowBytes(a.dtype, a.Dh)}; }

// The landmarks i .. i + n - 1 of a KV head: where they lie, or gathered into scratch if they are listed.
inline KeyBlock LandmarkBlock(const AttentionArgs& a, int64_t head, int64_t i, int64_t n, const AttentionScratch& s) {
  const LandmarkArgs& m = a.landmarks;
  const Cache cache{m.k, m.v, m.head_rows, KvRowBytes(a.dtype, a.Dh)};
  if (m.rows == nullptr) return cache.Block(head, i, n);
  for (int64_t j = 0; j < n; ++j) {
    const KeyBlock row = cache.Block(head, m.rows[i + j], 1);
    std::memcpy(s.raw_k + j * cache.row_bytes, row.k, static_cast<size_t>(cache.row_bytes));
    std::memcpy(s.raw_v + j * cache.row_bytes, row.v, static_cast<size_t>(cache.row_bytes));
  }
  return {s.raw_k, s.raw_v, cache.row_bytes, n};
}
// Does any of the landmarks i .. i + n - 1 lie at `far` or before?
inline bool AnyLandmark(const LandmarkArgs& m, int64_t i, int64_t n, int64_t far) {
  return std::any_of(m.pos + i, m.pos + i + n, [far](int32_t pos) { return pos <= far; });
}

// One query: AttentionArgs of the KV head kv and the query t. Of the level in use.
void AttentionQuery(const AttentionArgs& a, int64_t kv, int64_t t);

inline int32_t Clamp32(int64_t n) { return static_cast<int32_t>(std::clamp<int64_t>(n, INT32_MIN, INT32_MAX)); }

}  // namespace hydra::kernels
