// SPDX-License-Identifier: Apache-2.0
// Attention of a pass: full over a growing cache, sparse over a ring of the window and a pool of landmarks.
// Formulas: specs/hydra.md 3. Dims: A query heads, Akv KV heads, Dh head_dim, W window, C chunk_len, Gm landmark
// budget.
#include <cmath>
#include <cstring>

#include "hydra/runtime/pass.h"

namespace hydra {
namespace {

// Keys of one query that one task reads in a long context; fixed, so that the thread count changes no bit.
constexpr int64_t kPartRows = 1024;
constexpr int64_t kQueryTile = 32;

}  // namespace

void Pass::AddAttentionInputs(const AttentionWeights& w, const Rows& rows) {
  const AttentionConfig& c = c_.attention;
  const auto add = [&](const kernels::Matrix& m, const F32& bias, Buffer<float>& out) {
    s_.maps.push_back({.w = m,
                       .x = s_.u.data(),
                       .y = out.Get(n_ * m.rows),
                       .T = rows.n,
                       .x_rows = rows.list,
                       .y_rows = rows.list,
                       .bias = bias.empty() ? nullptr : bias.data()});
  };
  add(w.q, w.q_bias, s_.q);
  add(w.k, w.k_bias, s_.k);
  add(w.v, w.v_bias, s_.v);
  s_.attn_y.Get(n_ * c.n_heads * c.head_dim);
}

kernels::AttentionArgs Pass::AttentionOf(const Piece& p) {
  const AttentionConfig& c = c_.attention;
  const int64_t width = c.n_heads * c.head_dim;
  kernels::AttentionArgs a{};
  a.q = s_.q.data() + p.row * width;
  a.y = s_.attn_y.data() + p.row * width;
  a.dtype = p.state->layout().kv;
  a.A = c.n_heads, a.Akv = c.n_kv_heads, a.Dh = c.head_dim;
  a.pos = p.pos;
  a.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  return a;
}

void Pass::PrepareAttention(int layer) {
  const AttentionConfig& c = c_.attention;
  const AttentionWeights& w = Block(layer).attention;
  constexpr int64_t kRows = 16;
  ForRows(n_, kRows, [&](int64_t begin, int64_t end) {
    const auto rotate = [&](float* x, int64_t heads, const F32& norm) {
      x += begin * heads * c.head_dim;
      if (!norm.empty())
        kernels::RmsNorm({.x = x,
                          .w = norm.data(),
                          .y = x,
                          .T = end - begin,
                          .D = heads * c.head_dim,
                          .groups = heads,
                          .eps = static_cast<float>(c_.norm_eps),
                          .shared_weight = true});
      kernels::Rope({.x = x,
                     .pos = s_.positions.data() + begin,
                     .inv_freq = w_.inv_freq.data(),
                     .T = end - begin,
                     .heads = heads,
                     .Dh = c.head_dim,
                     .interleaved = w_.rope_interleaved});
    };
    rotate(s_.q.data(), c.n_heads, w.q_norm);
    rotate(s_.k.data(), c.n_kv_heads, w.k_norm);
  });
  s_.log_sigmoid.Get(static_cast<int64_t>(pieces_.size()) * c.landmark_budget);
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& p = pieces_[i];
    if (!PathOn(p, 1)) continue;
    if (Layer(layer).attention == AttentionKind::kFull)
      PrepareFull(layer, static_cast<int32_t>(i));
    else if (p.T == 1)
      PrepareSparseStep(layer, static_cast<int32_t>(i));
    else
      SparsePiece(layer, p);
  }
}

// ---- Full attention ----

void Pass::PrepareFull(int layer, int32_t piece) {
  const Piece& p = pieces_[static_cast<size_t>(piece)];
  const AttentionConfig& c = c_.attention;
  const BlockOffsets& at = At(*p.state, layer);
  const KvDtype dtype = p.state->layout().kv;
  const int64_t row = KvRowBytes(dtype, c.head_dim), ctx = p.state->layout().ctx_size;
  pool_.For(p.T == 1 ? 1 : c.n_kv_heads, [&](int64_t task, int) {
    for (int64_t h = task; h < (p.T == 1 ? c.n_kv_heads : task + 1); ++h)
      for (int64_t t = 0; t < p.T; ++t) {
        const int64_t from = ((p.row + t) * c.n_kv_heads + h) * c.head_dim, to = (h * ctx + p.pos + t) * row;
        kernels::StoreKvRow(dtype, s_.k.data() + from, c.head_dim, p.state->At<std::byte>(at.k) + to);
        kernels::StoreKvRow(dtype, s_.v.data() + from, c.head_dim, p.state->At<std::byte>(at.v) + to);
      }
  });
  const int64_t keys = p.pos + 1;
  if (p.T == 1 && keys > kPartRows) {  // long: cut the keys too
    const int64_t parts = (keys + kPartRows - 1) / kPartRows, group = c.n_heads / c.n_kv_heads;
    // All parts of the pass lie one after another: piece, KV head, part. FinishAttention walks them alike.
    int64_t first = 0;
    for (int32_t i = 0; i < piece; ++i)
      if (const Piece& o = pieces_[static_cast<size_t>(i)]; o.T == 1 && o.pos + 1 > kPartRows && PathOn(o, 1))
        first += (o.pos + kPartRows) / kPartRows * c.n_kv_heads;
    s_.parts.Get((first + parts * c.n_kv_heads) * group * (c.head_dim + 2));
    for (int64_t kv = 0; kv < c.n_kv_heads; ++kv)
      for (int64_t i = 0; i < parts; ++i)
        s_.tasks.push_back({Task::kAttentionPart, piece, i * kPartRows, std::min(keys, (i + 1) * kPartRows), kv,
                            first + kv * parts + i});
    return;
  }
  for (int64_t t = (p.T - 1) / kQueryTile * kQueryTile; t >= 0; t -= kQueryTile)  // the tiles that see most keys first
    for (int64_t kv = 0; kv < c.n_kv_heads; ++kv)
      s_.tasks.push_back({Task::kAttention, piece, t, std::min(p.T, t + kQueryTile), kv, 0});
}

void Pass::FinishAttention(int layer) {
  const AttentionConfig& c = c_.attention;
  const int64_t group = c.n_heads / c.n_kv_heads, width = c.n_heads * c.head_dim;
  const bool full = Layer(layer).attention == AttentionKind::kFull;
  int64_t first = 0;
  for (const Piece& p : pieces_) {
    if (!PathOn(p, 1) || p.T != 1) continue;
    if (!full) {
      if (SeesLandmarks(layer, p) && (p.pos + 1) % c_.chunk_len == 0) {
        const BlockOffsets& at = At(*p.state, layer);
        CloseLandmarkChunk(layer, p, p.pos + 1,
                           {p.state->At<std::byte>(at.k), p.state->At<std::byte>(at.v), c.window, -1});
      }
      continue;
    }
    if (p.pos + 1 <= kPartRows) continue;
    const int64_t parts = (p.pos + kPartRows) / kPartRows;
    for (int64_t kv = 0; kv < c.n_kv_heads; ++kv)
      kernels::AttentionMerge({.parts = s_.parts.data() + (first + kv * parts) * group * (c.head_dim + 2),
                               .y = s_.attn_y.data() + p.row * width + kv * group * c.head_dim,
                               .n_parts = parts,
                               .heads = group,
                               .Dh = c.head_dim});
    first += parts * c.n_kv_heads;
  }
}

// ---- Window and landmarks ----

bool Pass::SeesLandmarks(int layer, const Piece& p) const {
  return !Block(layer).attention.scorer.empty() && p.state->controls().landmarks;
}

void Pass::ScoreRows(int layer, const Piece& p, float* scores) {
  const AttentionWeights& w = Block(layer).attention;
  const int64_t D = c_.d_model;
  for (int64_t t = 0; t < p.T; ++t)
    scores[t] = kernels::Dot(w.scorer.data(), s_.u.data() + (p.row + t) * D, D) + w.scorer_bias;
}

kernels::LandmarkArgs Pass::Landmarks(int layer, const Piece& p, float* log_sigmoid) {
  const BlockOffsets& at = At(*p.state, layer);
  return {.k = p.state->At<std::byte>(at.pool_k),
          .v = p.state->At<std::byte>(at.pool_v),
          .head_rows = c_.attention.landmark_budget,
          .rows = nullptr,
          .n = p.state->pool_size(layer),
          .pos = p.state->At<int32_t>(at.pool_pos),
          .log_sigmoid = log_sigmoid,
          .lambda = Block(layer).attention.lambda.data()};
}

// One token: into the ring; attention is a task for each KV head.
void Pass::PrepareSparseStep(int layer, int32_t piece) {
  const Piece& p = pieces_[static_cast<size_t>(piece)];
  const AttentionConfig& c = c_.attention;
  const BlockOffsets& at = At(*p.state, layer);
  const KvDtype dtype = p.state->layout().kv;
  const int64_t row = KvRowBytes(dtype, c.head_dim), slot = p.pos % c.window;
  for (int64_t h = 0; h < c.n_kv_heads; ++h) {
    const int64_t from = (p.row * c.n_kv_heads + h) * c.head_dim, to = (h * c.window + slot) * row;
    kernels::StoreKvRow(dtype, s_.k.data() + from, c.head_dim, p.state->At<std::byte>(at.k) + to);
    kernels::StoreKvRow(dtype, s_.v.data() + from, c.head_dim, p.state->At<std::byte>(at.v) + to);
  }
  if (SeesLandmarks(layer, p)) {
    ScoreRows(layer, p, p.state->At(at.ring_scores) + slot);
    kernels::LogSigmoid(p.state->At(at.pool_scores), s_.log_sigmoid.data() + piece * c.landmark_budget,
                        p.state->pool_size(layer));
  }
  for (int64_t kv = 0; kv < c.n_kv_heads; ++kv) s_.tasks.push_back({Task::kAttention, piece, 0, 1, kv, 0});
}

// Several tokens: the ring's rows and the new ones in one buffer, in order; chunk by chunk, because the pool changes
// where a chunk closes.
void Pass::SparsePiece(int layer, const Piece& p) {
  const AttentionConfig& c = c_.attention;
  SequenceState& state = *p.state;
  const BlockOffsets& at = At(state, layer);
  const KvDtype dtype = state.layout().kv;
  const int64_t W = c.window, C = c_.chunk_len, row = KvRowBytes(dtype, c.head_dim), old = std::min(p.pos, W),
                rows = old + p.T;
  std::byte* k = s_.window_k.Get(c.n_kv_heads * rows * row);
  std::byte* v = s_.window_v.Get(c.n_kv_heads * rows * row);
  pool_.For(c.n_kv_heads, [&](int64_t h, int) {
    for (int64_t i = 0; i < old; ++i) {
      const int64_t from = (h * W + (p.pos - old + i) % W) * row, to = (h * rows + i) * row;
      std::memcpy(k + to, state.At<std::byte>(at.k) + from, static_cast<size_t>(row));
      std::memcpy(v + to, state.At<std::byte>(at.v) + from, static_cast<size_t>(row));
    }
    for (int64_t t = 0; t < p.T; ++t) {
      const int64_t from = ((p.row + t) * c.n_kv_heads + h) * c.head_dim, to = (h * rows + old + t) * row;
      kernels::StoreKvRow(dtype, s_.k.data() + from, c.head_dim, k + to);
      kernels::StoreKvRow(dtype, s_.v.data() + from, c.head_dim, v + to);
    }
    for (int64_t t = std::max<int64_t>(0, p.T - W); t < p.T; ++t) {  // back into the ring
      const int64_t from = (h * rows + old + t) * row, to = (h * W + (p.pos + t) % W) * row;
      std::memcpy(state.At<std::byte>(at.k) + to, k + from, static_cast<size_t>(row));
      std::memcpy(state.At<std::byte>(at.v) + to, v + from, static_cast<size_t>(row));
    }
  });

  const bool landmarks = SeesLandmarks(layer, p);
  float* scores = s_.scores.Get(p.T + c.landmark_budget);
  float* log_sigmoid = scores + p.T;
  if (landmarks) ScoreRows(layer, p, scores);
  const int64_t floats = (kernels::AttentionScratchFloats(c.n_heads / c.n_kv_heads, c.head_dim) + 15) / 16 * 16;
  float* workers = s_.workers.Get(floats * pool_.threads());
  const KeySource keys{k, v, rows, p.pos - old};
  for (int64_t t = 0; t < p.T;) {
    const int64_t end = landmarks ? std::min(p.T, t + C - (p.pos + t) % C) : p.T;
    kernels::AttentionArgs a = AttentionOf(p);
    a.k = k, a.v = v, a.head_rows = rows, a.row = old, a.window = W;
    if (landmarks) {
      kernels::LogSigmoid(state.At(at.pool_scores), log_sigmoid, state.pool_size(layer));
      a.landmarks = Landmarks(layer, p, log_sigmoid);
    }
    const int64_t tiles = (end - t + kQueryTile - 1) / kQueryTile;
    pool_.For(tiles * c.n_kv_heads, [&](int64_t task, int worker) {
      kernels::AttentionArgs mine = a;
      mine.t0 = t + task / c.n_kv_heads * kQueryTile;
      mine.t1 = std::min(end, mine.t0 + kQueryTile);
      mine.kv0 = task % c.n_kv_heads, mine.kv1 = mine.kv0 + 1;
      mine.scratch = workers + worker * floats;
      kernels::Attention(mine);
    });
    if (landmarks)
      for (int64_t i = t; i < end; ++i) state.At(at.ring_scores)[(p.pos + i) % W] = scores[i];
    if (landmarks && (p.pos + end) % C == 0) CloseLandmarkChunk(layer, p, p.pos + end, keys);
    t = end;
  }
}

// The m best of the chunk enter the pool, best first; a full pool gives up its worst (of equals the later one) if the
// new one is better. That leaves the budget's best of all ever promoted.
void Pass::CloseLandmarkChunk(int layer, const Piece& p, int64_t end, const KeySource& keys) {
  const AttentionConfig& c = c_.attention;
  SequenceState& state = *p.state;
  const BlockOffsets& at = At(state, layer);
  const int64_t C = c_.chunk_len, row = KvRowBytes(state.layout().kv, c.head_dim), first = end - C;
  const int64_t m = std::min(c.landmarks_per_chunk, C);
  float* scores = s_.small.Get(C + m);
  int32_t* best = s_.best.Get(m);
  for (int64_t i = 0; i < C; ++i) scores[i] = state.At(at.ring_scores)[(first + i) % c.window];
  kernels::TopK(scores, C, m, best, nullptr);
  float* pool_scores = state.At(at.pool_scores);
  int32_t* pool_pos = state.At<int32_t>(at.pool_pos);
  int32_t& size = state.pool_size(layer);
  for (int64_t j = 0; j < m; ++j) {
    const float score = scores[best[j]];
    const int64_t pos = first + best[j];
    int64_t slot = size;
    if (size == c.landmark_budget) {
      slot = 0;
      for (int64_t i = 1; i < size; ++i)
        if (pool_scores[i] < pool_scores[slot] || (pool_scores[i] == pool_scores[slot] && pool_pos[i] > pool_pos[slot]))
          slot = i;
      if (score <= pool_scores[slot]) continue;  // of equals the earlier stays
    } else {
      ++size;
    }
    pool_scores[slot] = score;
    pool_pos[slot] = static_cast<int32_t>(pos);
    for (int64_t h = 0; h < c.n_kv_heads; ++h) {
      const int64_t from = (h * keys.head_rows + keys.Row(pos)) * row, to = (h * c.landmark_budget + slot) * row;
      std::memcpy(state.At<std::byte>(at.pool_k) + to, keys.k + from, static_cast<size_t>(row));
      std::memcpy(state.At<std::byte>(at.pool_v) + to, keys.v + from, static_cast<size_t>(row));
    }
  }
}

}  // namespace hydra
