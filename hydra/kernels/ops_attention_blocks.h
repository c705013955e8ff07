// SPDX-License-Identifier: Apache-2.0
// What the attention kernels share on every SIMD level: their scratch, blocks of the keys' runs, blocks of landmarks.
// Not here: the kernels (ops_attention.cc, ops_attention_query.cc).
// Dims: R rows of a tile = queries x heads; Rp, Dkp and Dvp: R, Dk and Dv rounded up to kAlign.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "hydra/kernels/ops.h"
#include "hydra/kernels/scratch.h"

namespace hydra::kernels {

constexpr int64_t kMostRows = 128;  // of a tile, so that all of it stays in the second-level cache
constexpr int64_t kMostQueries = 64;
// Queries of a tile at most.
inline int64_t TileQueries(int64_t heads) { return std::clamp<int64_t>(kMostRows / heads, 1, kMostQueries); }

// Queries of the tile that begins at t. A query in a tile of its own goes as one that is alone.
inline int64_t QueriesAt(const AttentionArgs& a, int64_t t) {
  return std::min(a.alone ? 1 : AttentionTileQueries(a.heads, a.t1 - a.t0), a.t1 - t);
}

struct AttentionScratch {
  float* q;          // [Dk, Rp]         queries times scale, transposed
  float* s;          // [kKeyBlock, Rp]  scores, then their exps; of one query [heads, kKeyBlock]
  float* o;          // [Rp, Dvp]        unnormalised sums of values
  float* k;          // [kKeyBlock, Dkp] keys and values widened
  float* v;          // [kKeyBlock, Dvp]
  std::byte* raw_k;  // [kKeyBlock] rows of a block that lies in more than one run, gathered
  std::byte* raw_v;  // [kKeyBlock] rows
  float* max;        // [Rp]
  float* sum;        // [Rp]             of exps
  float* keep;       // [Rp]             exp(old max - new max)
  float* lambda;     // [Rp]
  int32_t* lo;       // [Rp]             first position of the window that a row sees, and the last
  int32_t* hi;       // [Rp]
  int32_t* far;      // [Rp]             last position of landmarks that it sees
};
// Lays the parts out from `base`; returns the floats of all.
inline int64_t LayOut(float* base, int64_t heads, int64_t Dk, int64_t Dv, AttentionScratch* s) {
  const int64_t Rp = RoundUp(TileQueries(heads) * heads), Dkp = RoundUp(Dk), Dvp = RoundUp(Dv);
  ScratchParts take(base);
  // Widened rows have room for rows of any dtype as they are, too.
  *s = {.q = take(Dk * Rp),
        .s = take(kKeyBlock * Rp),
        .o = take(Rp * Dvp),
        .k = take(kKeyBlock * Dkp),
        .v = take(kKeyBlock * Dvp),
        .raw_k = reinterpret_cast<std::byte*>(take(kKeyBlock * Dkp)),
        .raw_v = reinterpret_cast<std::byte*>(take(kKeyBlock * Dvp)),
        .max = take(Rp),
        .sum = take(Rp),
        .keep = take(Rp),
        .lambda = take(Rp),
        .lo = reinterpret_cast<int32_t*>(take(Rp)),
        .hi = reinterpret_cast<int32_t*>(take(Rp)),
        .far = reinterpret_cast<int32_t*>(take(Rp))};
  return take.used();
}

// Rows that lie one after another.
struct KeyBlock {
  const std::byte* k;
  const std::byte* v;
  int64_t k_stride, v_stride;  // bytes
  int64_t n;
};

inline int64_t KeyStride(const KeySet& keys) {
  return keys.k_stride != 0 ? keys.k_stride : KvRowBytes(keys.dtype, keys.Dk);
}
inline int64_t ValueStride(const KeySet& keys) {
  return keys.v_stride != 0 ? keys.v_stride : KvRowBytes(keys.dtype, keys.Dv);
}
// n rows of a run from row i on.
inline KeyBlock RowsOf(const KeySet& keys, const KeyRun& run, int64_t i, int64_t n) {
  const int64_t k_stride = KeyStride(keys), v_stride = ValueStride(keys);
  return {static_cast<const std::byte*>(run.k) + i * k_stride, static_cast<const std::byte*>(run.v) + i * v_stride,
          k_stride, v_stride, n};
}

// Copies a block's rows behind `filled` gathered ones.
inline void GatherRows(const KeySet& keys, const KeyBlock& rows, int64_t filled, const AttentionScratch& s) {
  const int64_t k_bytes = KvRowBytes(keys.dtype, keys.Dk), v_bytes = KvRowBytes(keys.dtype, keys.Dv);
  for (int64_t j = 0; j < rows.n; ++j) {
    std::memcpy(s.raw_k + (filled + j) * k_bytes, rows.k + j * rows.k_stride, static_cast<size_t>(k_bytes));
    std::memcpy(s.raw_v + (filled + j) * v_bytes, rows.v + j * rows.v_stride, static_cast<size_t>(v_bytes));
  }
}

// f(block, position of its first row) for the blocks of the positions [begin, end), ascending. A block that lies in
// several runs is gathered, so its bits are those of one that does not.
template <class F>
void ForBlocks(const KeySet& keys, int64_t begin, int64_t end, const AttentionScratch& s, F&& f) {
  const KeyRun* run = keys.runs;
  const KeyRun* const last = keys.runs + keys.n_runs;
  const auto skip = [&](int64_t position) {  // runs that end before it
    while (run != last && (run->pos != nullptr || run->first + run->n <= position)) ++run;
  };
  for (skip(begin); run != last; skip(begin)) {
    begin = std::max(begin, run->first);
    if (begin >= end) return;
    const int64_t to = std::min(end, (begin / kKeyBlock + 1) * kKeyBlock);
    KeyBlock block = RowsOf(keys, *run, begin - run->first, std::min(to, run->first + run->n) - begin);
    int64_t at = begin + block.n;
    if (at < to) {
      GatherRows(keys, block, 0, s);
      for (skip(at); at < to && run != last && run->first == at; skip(at)) {
        const KeyBlock rows = RowsOf(keys, *run, 0, std::min(to - at, run->n));
        GatherRows(keys, rows, at - begin, s);
        at += rows.n;
      }
      block = {s.raw_k, s.raw_v, KvRowBytes(keys.dtype, keys.Dk), KvRowBytes(keys.dtype, keys.Dv), at - begin};
    }
    f(block, begin);
    begin = at;
  }
}
// The same for what the queries of the positions [first, last] see: the sinks, then the rest.
template <class F>
void ForVisible(const AttentionArgs& a, int64_t first, int64_t last, const AttentionScratch& s, F&& f) {
  ForBlocks(a.keys, 0, std::min(a.sinks, last + 1), s, f);
  ForBlocks(a.keys, std::max(a.sinks, first - a.window + 1), last + 1, s, f);
}

// f(block, positions, biases or null) for blocks of landmarks of which one at least lies at `far` or before.
template <class F>
void ForLandmarks(const AttentionArgs& a, int64_t far, F&& f) {
  for (const KeyRun* run = a.keys.runs; run != a.keys.runs + a.keys.n_runs; ++run)
    for (int64_t i = 0; run->pos != nullptr && i < run->n; i += kKeyBlock) {
      const int64_t n = std::min(kKeyBlock, run->n - i);
      if (std::any_of(run->pos + i, run->pos + i + n, [far](int32_t pos) { return pos <= far; }))
        f(RowsOf(a.keys, *run, i, n), run->pos + i, run->bias != nullptr ? run->bias + i : nullptr);
    }
}

// The query t alone. Of the level in use.
void AttentionQuery(const AttentionArgs& a, int64_t t);

inline int32_t Clamp32(int64_t n) { return static_cast<int32_t>(std::clamp<int64_t>(n, INT32_MIN, INT32_MAX)); }

}  // namespace hydra::kernels
