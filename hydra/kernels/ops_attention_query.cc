// SPDX-License-Identifier: Apache-2.0
// Attention of one query: all heads of a KV head together, keys and values streamed; parts of its keys and their merge.
// Formulas: specs/hydra.md 3. Not here: tiles of queries (ops_attention.cc).
// Dims: n keys of a block, Dvp = Dv rounded up to kAlign.
#include "hydra/base/error.h"
#include "hydra/kernels/dispatch.h"
#include "hydra/kernels/ops.h"
#include "hydra/kernels/ops_attention_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hydra/kernels/ops_attention_query.cc"
#include <hwy/foreach_target.h>
#include "hydra/kernels/simd.h"
#include "hydra/kernels/simd_gemm-inl.h"
#include "hydra/kernels/simd_kv-inl.h"
#include "hydra/kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hydra::kernels {
namespace HWY_NAMESPACE {

struct Query {
  AttentionScratch s{};
  const float* q;  // [heads, Dk]
  int64_t heads, Dk, Dv, Dvp;
  float scale;
  KvDtype dtype;
  bool first = true;  // no block yet: sums are not defined
};

// Into the second-level cache: the values of the keys j .. j + 3, and the same keys of the block behind this one. The
// processor's own prefetchers stop at pages and lose the thread where a value's row is read in halves. An address
// behind the cache's end does no harm.
HWY_INLINE void FetchAhead(const KeyBlock& block, int64_t j) {
  const std::byte* v = block.v + j * block.v_stride;
  const std::byte* k = block.k + (j + kKeyBlock) * block.k_stride;
  for (int64_t i = 0; i < 4 * block.v_stride; i += 64) __builtin_prefetch(v + i, 0, 3);
  for (int64_t i = 0; i < 4 * block.k_stride; i += 64) __builtin_prefetch(k + i, 0, 3);
}

// s[h, j] = q_h k_j for kHeads heads from h on. Four keys at a time, so that their sums over lanes come together.
template <class Row, int kHeads>
HWY_NOINLINE void QueryScores(const Query& query, const KeyBlock& block, int64_t h) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float* q = query.q + h * query.Dk;
  for (int64_t j = 0; j < block.n; j += 4) {
    const std::byte* k[4];  // behind the end the last one again; those scores are not read
    for (int64_t i = 0; i < 4; ++i) k[i] = block.k + std::min(j + i, block.n - 1) * block.k_stride;
    if (h == 0) FetchAhead(block, j);
    FloatVec sums[kHeads][4];
    Repeat<kHeads>([&](auto g)
                       HYDRA_TILE_LAMBDA { Repeat<4>([&](auto x) HYDRA_TILE_LAMBDA { sums[g][x] = hn::Zero(d); }); });
    const auto step = [&](int64_t i, size_t left) HYDRA_TILE_LAMBDA {
      FloatVec kv[4];
      Repeat<4>([&](auto x) HYDRA_TILE_LAMBDA { kv[x] = Row::Load(k[x], i, left); });
      Repeat<kHeads>([&](auto g) HYDRA_TILE_LAMBDA {
        const auto qv = LoadPart(d, q + g * query.Dk + i, left);
        Repeat<4>([&](auto x) HYDRA_TILE_LAMBDA { sums[g][x] = hn::MulAdd(qv, kv[x], sums[g][x]); });
      });
    };
    int64_t i = 0;
    for (; i + lanes <= query.Dk; i += lanes) step(i, static_cast<size_t>(lanes));
    if (i < query.Dk) step(i, Left(query.Dk, i));
    Repeat<kHeads>([&](auto g) HYDRA_TILE_LAMBDA {
      ReduceSum4(sums[g][0], sums[g][1], sums[g][2], sums[g][3], query.s.s + (h + g) * kKeyBlock + j);
    });
  }
}

// Scores of one head [n] to exps, with its running maximum and sum. score(j, v) puts bias and mask into the vector of
// scores v that begins at key j.
template <class Score>
HWY_INLINE void QuerySoftmax(const Query& query, int64_t h, int64_t n, Score&& score) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const AttentionScratch& s = query.s;
  float* row = s.s + h * kKeyBlock;
  const auto lowest = hn::Set(d, -INFINITY), scale = hn::Set(d, query.scale);
  auto max = lowest;
  for (int64_t j = 0; j < n; j += lanes) {
    auto v = score(j, hn::Mul(scale, hn::LoadU(d, row + j)));
    if (j + lanes > n) v = hn::IfThenElse(hn::FirstN(d, Left(n, j)), v, lowest);
    hn::StoreU(v, d, row + j);
    max = hn::Max(max, v);
  }
  const float old = query.first ? -INFINITY : s.max[h], top = std::max(old, ReduceMax(d, max));
  const auto base = hn::Set(d, top == -INFINITY ? 0.0f : top);
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < n; j += lanes) {
    const auto e = Exp<true>(hn::Sub(hn::LoadU(d, row + j), base));
    hn::StoreU(e, d, row + j);
    sum = hn::Add(sum, e);
  }
  const float keep = hn::GetLane(Exp<true>(hn::Sub(hn::Set(d, old), base)));
  s.keep[h] = keep;
  s.max[h] = top;
  s.sum[h] = (query.first ? 0.0f : keep * s.sum[h]) + ReduceSum(d, sum);
}

template <class Row, class Score>
HWY_INLINE void QueryBlock(Query* query, const KeyBlock& block, Score&& score) {
  constexpr int kHeads = HWY_MAX_BYTES >= 64 ? 4 : 2;
  int64_t h = 0;
  for (; h + kHeads <= query->heads; h += kHeads) QueryScores<Row, kHeads>(*query, block, h);
  if constexpr (kHeads == 4) {
    if (h + 3 == query->heads) QueryScores<Row, 3>(*query, block, h), h += 3;
    if (h + 2 == query->heads) QueryScores<Row, 2>(*query, block, h), h += 2;
  }
  if (h < query->heads) QueryScores<Row, 1>(*query, block, h);
  for (h = 0; h < query->heads; ++h)
    QuerySoftmax(*query, h, block.n, [&](int64_t j, FloatVec v) HWY_ATTR { return score(h, j, v); });
  SmallGemm<Row, 4>({.a = query->s.s,
                     .a_row = kKeyBlock,
                     .a_k = 1,
                     .b = block.v,
                     .b_row = block.v_stride,
                     .c = query->s.o,
                     .c_row = query->Dvp,
                     .M = query->heads,
                     .N = query->Dv,
                     .K = block.n,
                     .beta = query->first ? nullptr : query->s.keep,
                     .beta_row = 1});
  query->first = false;
}

void QueryLandmarks(Query* query, const AttentionArgs& a, int64_t far) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto limit = hn::Set(di, Clamp32(far));
  WithKvRow(query->dtype, [&](auto type) HWY_ATTR {
    ForLandmarks(a, far, [&](const KeyBlock& block, const int32_t* pos, const float* bias) HWY_ATTR {
      QueryBlock<decltype(type)>(query, block, [&](int64_t h, int64_t j, FloatVec v) HWY_ATTR {
        const size_t left = Left(block.n, j);
        if (bias != nullptr) v = hn::MulAdd(hn::Set(d, a.lambda[h]), LoadPart(d, bias + j, left), v);
        const auto hidden = hn::Gt(LoadPart(di, pos + j, left), limit);
        return hn::IfThenElse(hn::RebindMask(d, hidden), hn::Set(d, -INFINITY), v);
      });
    });
  });
}

void AttentionQuery(const AttentionArgs& a, int64_t t) {
  const FloatTag d;
  const int64_t Dk = a.keys.Dk, Dv = a.keys.Dv, position = a.pos + t;
  const int64_t qs = a.q_stride != 0 ? a.q_stride : a.heads * Dk, ys = a.y_stride != 0 ? a.y_stride : a.heads * Dv;
  Query query{.q = a.q + t * qs,
              .heads = a.heads,
              .Dk = Dk,
              .Dv = Dv,
              .Dvp = RoundUp(Dv),
              .scale = a.scale,
              .dtype = a.keys.dtype};
  LayOut(a.scratch, a.heads, Dk, Dv, &query.s);
  WithKvRow(query.dtype, [&](auto type) HWY_ATTR {
    ForVisible(a, position, position, query.s, [&](const KeyBlock& block, int64_t begin) HWY_ATTR {
      if (a.tiles != nullptr) a.tiles->Visit(begin);
      QueryBlock<decltype(type)>(&query, block, [](int64_t, int64_t, FloatVec v) HWY_ATTR { return v; });
    });
  });
  QueryLandmarks(&query, a, position - a.window);
  for (int64_t h = 0; h < a.heads; ++h) {
    const auto inverse = hn::Set(d, 1 / query.s.sum[h]);
    float* y = a.y + t * ys + h * Dv;
    for (int64_t i = 0; i < Dv; i += static_cast<int64_t>(hn::Lanes(d)))
      StorePart(hn::Mul(inverse, hn::LoadU(d, query.s.o + h * query.Dvp + i)), d, y + i, Left(Dv, i));
  }
}

// ---- Parts ----

void AttentionPart(const AttentionPartArgs& a) {
  const int64_t Dv = a.keys.Dv;
  Query query{.q = a.q,
              .heads = a.heads,
              .Dk = a.keys.Dk,
              .Dv = Dv,
              .Dvp = RoundUp(Dv),
              .scale = a.scale,
              .dtype = a.keys.dtype};
  LayOut(a.scratch, a.heads, a.keys.Dk, Dv, &query.s);
  WithKvRow(query.dtype, [&](auto type) HWY_ATTR {
    ForBlocks(a.keys, a.begin, a.end, query.s, [&](const KeyBlock& block, int64_t /*position*/) HWY_ATTR {
      QueryBlock<decltype(type)>(&query, block, [](int64_t, int64_t, FloatVec v) HWY_ATTR { return v; });
    });
  });
  for (int64_t h = 0; h < a.heads; ++h) {
    float* part = a.part + h * (Dv + 2);
    std::memcpy(part, query.s.o + h * query.Dvp, static_cast<size_t>(Dv) * sizeof(float));
    part[Dv] = query.s.max[h];
    part[Dv + 1] = query.s.sum[h];
  }
}

// Part by part in order, each by exp(its max - the max of all).
void AttentionMerge(const AttentionMergeArgs& a) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = a.Dv + 2;
  for (int64_t h = 0; h < a.heads; ++h) {
    const auto part = [&](int64_t p) { return a.parts + (p * a.heads + h) * width; };
    float max = -INFINITY, sum = 0;
    for (int64_t p = 0; p < a.n_parts; ++p) max = std::max(max, part(p)[a.Dv]);
    float* y = a.y + h * a.Dv;
    for (int64_t p = 0; p < a.n_parts; ++p) {
      const auto share = Exp<true>(hn::Set(d, part(p)[a.Dv] - max));
      sum += hn::GetLane(share) * part(p)[a.Dv + 1];
      for (int64_t i = 0; i < a.Dv; i += lanes) {
        const auto before = p == 0 ? hn::Zero(d) : LoadPart(d, y + i, Left(a.Dv, i));
        StorePart(hn::MulAdd(share, LoadPart(d, part(p) + i, Left(a.Dv, i)), before), d, y + i, Left(a.Dv, i));
      }
    }
    const auto inverse = hn::Set(d, 1 / sum);
    for (int64_t i = 0; i < a.Dv; i += lanes)
      StorePart(hn::Mul(inverse, LoadPart(d, y + i, Left(a.Dv, i))), d, y + i, Left(a.Dv, i));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hydra::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hydra::kernels {

HWY_EXPORT(AttentionQuery);
HWY_EXPORT(AttentionPart);
HWY_EXPORT(AttentionMerge);

void AttentionQuery(const AttentionArgs& a, int64_t t) { HYDRA_DISPATCH(AttentionQuery)(a, t); }

void AttentionPart(const AttentionPartArgs& a) {
  HYDRA_CHECK(a.heads >= 1 && a.begin < a.end);
  HYDRA_DISPATCH(AttentionPart)(a);
}

void AttentionMerge(const AttentionMergeArgs& a) {
  HYDRA_CHECK(a.n_parts >= 1);
  HYDRA_DISPATCH(AttentionMerge)(a);
}

}  // namespace hydra::kernels
#endif
