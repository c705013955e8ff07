// SPDX-License-Identifier: Apache-2.0
// Sparse attention: a ring of the window's keys and a pool of landmarks, which the best tokens of a closed chunk enter.
// Formulas: specs/hydra.md 3. Dims as in part_attention.h; W window, C chunk_len, Gm landmark budget.
#include <cstring>

#include "hydra/runtime/part_attention.h"

namespace hydra {
namespace {

// Where the keys and values of recent positions lie: [Akv][head_rows] rows.
struct KeySource {
  const std::byte* k;
  const std::byte* v;
  int64_t head_rows;
  int64_t first;  // position of row 0; -1: a ring, position p in row p mod head_rows
  [[nodiscard]] int64_t Row(int64_t p) const { return first < 0 ? p % head_rows : p - first; }
};

class SparseAttention final : public CachedAttention {
 public:
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override {
    return layer.attention == AttentionKind::kSparse;
  }
  [[nodiscard]] int64_t bytes() const override {
    return CachedAttention::bytes() + window_k_.bytes() + window_v_.bytes() + scores_.bytes() + log_sigmoid_.bytes() +
           chunk_scores_.bytes() + best_.bytes();
  }

 private:
  enum Kind : int32_t { kGather, kQueries };

  // Where a piece is on its way through its chunks.
  struct Walk {
    int64_t begin = 0, end = 0;    // queries of the round
    int64_t window = 0, rows = 0;  // of its keys in order, in rows of the window buffers; rows a head
  };

  void Start() override {
    const int64_t Gm = attention().landmark_budget;
    log_sigmoid_.Get(static_cast<int64_t>(pieces().size()) * Gm);
    scores_.Get(pass_->n);
    walks_.assign(pieces().size(), {});
    int64_t bytes = 0;
    for (size_t i = 0; i < pieces().size(); ++i) {
      const Piece& p = pieces()[i];
      if (!On(p)) continue;
      if (SeesLandmarks(p)) CountState(p, StatePart::kLandmarks);
      if (p.T == 1) continue;
      walks_[i].window = bytes;
      walks_[i].rows = Old(p) + p.T;
      bytes += attention().n_kv_heads * walks_[i].rows * RowBytes(p);
    }
    window_k_.Get(bytes);
    window_v_.Get(bytes);
    CountWeights({&block().attention.scorer, &block().attention.lambda});
  }

  // A piece of one token goes into the ring at once; several tokens stand behind the ring's rows in order.
  void Store(const Piece& p, int64_t begin, int64_t end) override {
    const int64_t W = attention().window, row = RowBytes(p);
    if (p.T == 1)
      for (int64_t h = 0; h < attention().n_kv_heads; ++h) {
        const int64_t to = (h * W + p.pos % W) * row;
        StoreRow(p, 0, h, p.state->At<std::byte>(At(p).k) + to, p.state->At<std::byte>(At(p).v) + to);
      }
    if (!SeesLandmarks(p)) return;
    const AttentionWeights& w = block().attention;
    const int64_t D = config().d_model;
    for (int64_t t = p.row + begin; t < p.row + end; ++t)
      scores_.data()[t] = kernels::Dot(w.scorer.data(), pass_->u + t * D, D) + w.scorer_bias;
  }

  // Round 0 brings the keys of longer pieces in order; then each piece goes on to the next end of a chunk, because the
  // pool changes there.
  bool AddAttention(int round, Round& out) override {
    bool gather = false, more = false;
    for (size_t i = 0; i < pieces().size(); ++i) {
      const Piece& p = pieces()[i];
      if (!On(p)) continue;
      const auto piece = static_cast<int32_t>(i);
      if (round == 0 && p.T > 1) {
        AddTasks(out, kGather, piece, attention().n_kv_heads, 1);
        pass_->moved->kv_read += Old(p) * KeyBytes(p);
        gather = true;
        continue;
      }
      Walk& walk = walks_[i];
      Leave(p, walk);
      if (walk.end == p.T) {
        walk.begin = p.T;
        continue;
      }
      walk.begin = walk.end;
      walk.end = SeesLandmarks(p) ? std::min(p.T, walk.begin + ToChunkEnd(p, walk.begin)) : p.T;
      if (SeesLandmarks(p))
        kernels::LogSigmoid(p.state->At(At(p).pool_scores), LogSigmoids(piece), p.state->pool_size(layer_));
      const int64_t landmarks = SeesLandmarks(p) ? p.state->pool_size(layer_) : 0;
      AddQueryTiles(out, kQueries, piece, walk.begin, walk.end, attention().window, landmarks);
      more = true;
    }
    return gather || more;
  }

  void RunAttention(const Task& task, float* scratch) override {
    const Piece& p = pieces()[static_cast<size_t>(task.piece)];
    if (task.kind == kGather) return Gather(p, walks_[static_cast<size_t>(task.piece)], task.begin);
    const KeySource keys = Keys(p, walks_[static_cast<size_t>(task.piece)]);
    kernels::AttentionArgs a = Args(p);
    a.k = keys.k, a.v = keys.v, a.head_rows = keys.head_rows;
    a.row = p.T == 1 ? std::min(p.pos, attention().window - 1) : Old(p);
    a.window = attention().window;
    a.t0 = task.begin, a.t1 = task.end;
    a.kv0 = task.head, a.kv1 = task.head + 1;
    if (SeesLandmarks(p)) a.landmarks = Landmarks(p, LogSigmoids(task.piece));
    a.scratch = scratch;
    kernels::Attention(a);
  }

  // What the ring holds of a piece's past.
  [[nodiscard]] int64_t Old(const Piece& p) const { return std::min(p.pos, attention().window); }
  [[nodiscard]] int64_t ToChunkEnd(const Piece& p, int64_t t) const {
    return config().chunk_len - (p.pos + t) % config().chunk_len;
  }
  [[nodiscard]] bool SeesLandmarks(const Piece& p) const {
    return !block().attention.scorer.empty() && p.state->controls().landmarks;
  }
  [[nodiscard]] float* LogSigmoids(int32_t piece) const {
    return log_sigmoid_.data() + piece * attention().landmark_budget;
  }
  [[nodiscard]] KeySource Keys(const Piece& p, const Walk& walk) const {
    if (p.T == 1) return {p.state->At<std::byte>(At(p).k), p.state->At<std::byte>(At(p).v), attention().window, -1};
    return {window_k_.data() + walk.window, window_v_.data() + walk.window, walk.rows, p.pos - Old(p)};
  }
  [[nodiscard]] kernels::LandmarkArgs Landmarks(const Piece& p, const float* log_sigmoid) const {
    const BlockOffsets& at = At(p);
    return {.k = p.state->At<std::byte>(at.pool_k),
            .v = p.state->At<std::byte>(at.pool_v),
            .head_rows = attention().landmark_budget,
            .rows = nullptr,
            .n = p.state->pool_size(layer_),
            .pos = p.state->At<int32_t>(at.pool_pos),
            .log_sigmoid = log_sigmoid,
            .lambda = block().attention.lambda.data()};
  }

  // The ring's rows of a head and the new ones in order; the last W of them back into the ring.
  void Gather(const Piece& p, const Walk& walk, int64_t h) {
    SequenceState& state = *p.state;
    const int64_t W = attention().window, row = RowBytes(p), old = Old(p);
    std::byte *ring_k = state.At<std::byte>(At(p).k) + h * W * row,
              *ring_v = state.At<std::byte>(At(p).v) + h * W * row;
    std::byte *k = window_k_.data() + walk.window + h * walk.rows * row,
              *v = window_v_.data() + walk.window + h * walk.rows * row;
    const auto bytes = static_cast<size_t>(row);
    for (int64_t i = 0; i < old; ++i) {
      const int64_t from = (p.pos - old + i) % W * row;
      std::memcpy(k + i * row, ring_k + from, bytes);
      std::memcpy(v + i * row, ring_v + from, bytes);
    }
    for (int64_t t = 0; t < p.T; ++t) StoreRow(p, t, h, k + (old + t) * row, v + (old + t) * row);
    for (int64_t t = std::max<int64_t>(0, p.T - W); t < p.T; ++t) {
      const int64_t to = (p.pos + t) % W * row;
      std::memcpy(ring_k + to, k + (old + t) * row, bytes);
      std::memcpy(ring_v + to, v + (old + t) * row, bytes);
    }
  }

  // After the queries [begin, end) of a piece: their scores into the ring, and the landmarks of a chunk that ended.
  void Leave(const Piece& p, const Walk& walk) {
    if (!SeesLandmarks(p) || walk.begin == walk.end) return;
    float* ring = p.state->At(At(p).ring_scores);
    for (int64_t t = walk.begin; t < walk.end; ++t) ring[(p.pos + t) % attention().window] = scores_.data()[p.row + t];
    if ((p.pos + walk.end) % config().chunk_len == 0) CloseChunk(p, p.pos + walk.end, Keys(p, walk));
  }

  // The m best of the chunk before position `end` enter the pool, best first; a full pool gives up its worst (of equals
  // the later one) if the new one is better. That leaves the budget's best of all that were ever promoted.
  void CloseChunk(const Piece& p, int64_t end, const KeySource& keys) {
    const AttentionConfig& c = attention();
    SequenceState& state = *p.state;
    const BlockOffsets& at = At(p);
    const int64_t C = config().chunk_len, row = RowBytes(p), first = end - C, m = std::min(c.landmarks_per_chunk, C);
    float* scores = chunk_scores_.Get(C);
    int32_t* best = best_.Get(m);
    for (int64_t i = 0; i < C; ++i) scores[i] = state.At(at.ring_scores)[(first + i) % c.window];
    kernels::TopK(scores, C, m, best, nullptr);
    float* pool_scores = state.At(at.pool_scores);
    int32_t* pool_pos = state.At<int32_t>(at.pool_pos);
    for (int64_t j = 0; j < m; ++j) {
      const float score = scores[best[j]];
      const int64_t pos = first + best[j], slot = SlotFor(state, score, pool_scores, pool_pos);
      if (slot < 0) continue;
      pool_scores[slot] = score;
      pool_pos[slot] = static_cast<int32_t>(pos);
      for (int64_t h = 0; h < c.n_kv_heads; ++h) {
        const int64_t from = (h * keys.head_rows + keys.Row(pos)) * row, to = (h * c.landmark_budget + slot) * row;
        std::memcpy(state.At<std::byte>(at.pool_k) + to, keys.k + from, static_cast<size_t>(row));
        std::memcpy(state.At<std::byte>(at.pool_v) + to, keys.v + from, static_cast<size_t>(row));
      }
    }
  }

  // Where in the pool a landmark goes; -1: it stays out.
  int64_t SlotFor(SequenceState& state, float score, const float* pool_scores, const int32_t* pool_pos) {
    int32_t& size = state.pool_size(layer_);
    if (size < attention().landmark_budget) return size++;
    int64_t worst = 0;
    for (int64_t i = 1; i < size; ++i)
      if (pool_scores[i] < pool_scores[worst] ||
          (pool_scores[i] == pool_scores[worst] && pool_pos[i] > pool_pos[worst]))
        worst = i;
    return score <= pool_scores[worst] ? -1 : worst;  // of equals the earlier stays
  }

  Buffer<std::byte> window_k_, window_v_;  // of each longer piece [Akv, rows, Dh] in the KV dtype
  Buffer<float> scores_;                   // [n] landmark scores of the rows
  Buffer<float> log_sigmoid_;              // [pieces, Gm]
  Buffer<float> chunk_scores_;             // [C]
  Buffer<int32_t> best_;                   // [m]
  std::vector<Walk> walks_;                // of each piece
};

}  // namespace

std::unique_ptr<Part> MakeSparseAttention() { return std::make_unique<SparseAttention>(); }

}  // namespace hydra
