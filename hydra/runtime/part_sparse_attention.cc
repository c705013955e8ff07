// SPDX-License-Identifier: Apache-2.0
// Sparse attention: a ring of the window's keys, and a pool of landmarks, which the best tokens of a closed chunk
// enter. Formulas: specs/hydra.md 3. Dims as in part_attention.h; W window, C chunk_len, Gm landmark budget.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "hydra/runtime/part_attention.h"

namespace hydra {
namespace {

// The landmarks of a block of one sequence, as its state holds them.
class Landmarks {
 public:
  Landmarks(const ModelConfig& config, SequenceState& state, int layer)
      : config_(config), state_(state), at_(state.layout().blocks[static_cast<size_t>(layer)]), layer_(layer) {}

  [[nodiscard]] int64_t size() const { return state_.pool_size(layer_); }
  [[nodiscard]] const int32_t* positions() const { return state_.At<int32_t>(at_.pool_pos); }
  [[nodiscard]] const float* scores() const { return state_.At(at_.pool_scores); }
  [[nodiscard]] KvCache Pool(int64_t head) const {
    return {at_.pools[static_cast<size_t>(head)], state_.At<std::byte>(0)};
  }
  // The score of a position of the window.
  [[nodiscard]] float& ScoreAt(int64_t position) const {
    return state_.At(at_.ring_scores)[position % config_.attention.window];
  }

  // The pinned positions of the chunk before position `end` enter the pool, and its m best others, best first; a full
  // pool gives up its worst (of equals the later one), never a pinned one, if the new one is better or pinned. That
  // leaves the pinned ones and the budget's best of all that were ever promoted. score(position); rows(head, position)
  // -> {k, v}. What changes is remembered in `kept`, if there is one.
  template <class Score, class Rows>
  void CloseChunk(int64_t end, Score&& score, Rows&& rows, Provisional* kept) {
    const int64_t C = config_.chunk_len, first = end - C, m = std::min(config_.attention.landmarks_per_chunk, C);
    std::vector<float> scores(static_cast<size_t>(C)), others(static_cast<size_t>(C));
    std::vector<int32_t> best(static_cast<size_t>(m));
    for (int64_t i = 0; i < C; ++i) {
      const auto at = static_cast<size_t>(i);
      scores[at] = score(first + i);
      others[at] = IsPinned(first + i) ? -std::numeric_limits<float>::infinity() : scores[at];
    }
    if (kept != nullptr) kept->Remember(&state_.pool_size(layer_), sizeof(int32_t));
    const auto enter = [&](int64_t i) {
      const float value = scores[static_cast<size_t>(i)];
      const int64_t slot = SlotFor(value, IsPinned(first + i));
      if (slot < 0) return;
      if (kept != nullptr) RememberSlot(slot, *kept);
      state_.At(at_.pool_scores)[slot] = value;
      state_.At<int32_t>(at_.pool_pos)[slot] = static_cast<int32_t>(first + i);
      for (size_t h = 0; h < at_.pools.size(); ++h) {
        const auto from = rows(static_cast<int64_t>(h), first + i);
        Pool(static_cast<int64_t>(h)).Put(slot, from.k, from.v);
      }
    };
    for (int64_t i = 0; i < C; ++i)
      if (IsPinned(first + i)) enter(i);
    kernels::TopK(others.data(), C, m, best.data(), nullptr);
    for (const int32_t i : best)
      if (!IsPinned(first + i)) enter(i);
  }

 private:
  [[nodiscard]] bool IsPinned(int64_t position) const {
    return std::ranges::binary_search(state_.controls().pins, position);
  }

  // Where in the pool a landmark goes; -1: it stays out.
  int64_t SlotFor(float score, bool pinned) {
    int32_t& size = state_.pool_size(layer_);
    if (size < config_.attention.landmark_budget) return size++;
    int64_t worst = -1;
    for (int64_t i = 0; i < size; ++i) {
      if (IsPinned(positions()[i])) continue;
      if (worst < 0 || scores()[i] < scores()[worst] ||
          (scores()[i] == scores()[worst] && positions()[i] > positions()[worst]))
        worst = i;
    }
    return worst < 0 || (!pinned && score <= scores()[worst]) ? -1 : worst;  // of equals the earlier stays
  }

  void RememberSlot(int64_t slot, Provisional& kept) const {
    kept.Remember(state_.At(at_.pool_scores) + slot, sizeof(float));
    kept.Remember(state_.At<int32_t>(at_.pool_pos) + slot, sizeof(int32_t));
    for (size_t h = 0; h < at_.pools.size(); ++h) {
      const KvCache pool = Pool(static_cast<int64_t>(h));
      kept.Remember(pool.Key(slot), pool.layout().k_stride);
      kept.Remember(pool.Value(slot), pool.layout().v_stride);
    }
  }

  const ModelConfig& config_;
  SequenceState& state_;
  const BlockOffsets& at_;
  int layer_;
};

bool HasLandmarks(const BlockWeights& block, const SequenceState& state) {
  return !block.attention.scorer.empty() && state.controls().landmarks;
}

class SparseAttention final : public CachedAttention {
 public:
  [[nodiscard]] const char* Name() const override { return "sparse attention"; }
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override {
    return layer.attention == AttentionKind::kSparse;
  }
  [[nodiscard]] int64_t bytes() const override {
    return CachedAttention::bytes() + scores_.bytes() + log_sigmoid_.bytes();
  }

  // Token by token, because a later one may take the place in the ring of what a chunk's end still needs.
  void Commit(const Accepted& a) const override {
    if (!a.On(Path())) return;
    const bool sees = HasLandmarks(a.block(), a.state);
    Landmarks landmarks(a.config(), a.state, a.layer);
    for (int64_t t = 0; t < a.m; ++t) {
      CommitRows(a, t);
      if (!sees) continue;
      landmarks.ScoreAt(a.pos + t) = a.Kept(a.kept_at().scores)[t];
      if ((a.pos + t + 1) % a.config().chunk_len != 0) continue;
      landmarks.CloseChunk(
          a.pos + t + 1, [&](int64_t position) { return landmarks.ScoreAt(position); },
          [&](int64_t head, int64_t position) -> Rows {
            const KvCache cache(a.at().caches[static_cast<size_t>(head)], a.state.At<std::byte>(0));
            return {cache.KeyOf(position), cache.ValueOf(position)};
          },
          nullptr);
    }
  }

 protected:
  void Start() override {
    CachedAttention::Start();
    log_sigmoid_.Get(static_cast<int64_t>(pieces().size()) * attention().landmark_budget);
    scores_.Get(pass_->n);
    for (const Piece& p : pieces())
      if (On(p) && Sees(p)) CountState(p, StatePart::kLandmarks);
    CountWeights({&block().attention.scorer, &block().attention.lambda});
  }

  void AfterKeys(const Piece& p, int64_t begin, int64_t end) override {
    if (!Sees(p)) return;
    const AttentionWeights& w = block().attention;
    const int64_t D = config().d_model;
    for (int64_t t = begin; t < end; ++t) {
      const float score = kernels::Dot(w.scorer.data(), pass_->u + (p.row + t) * D, D) + w.scorer_bias;
      scores_.data()[p.row + t] = score;
      if (p.kept != nullptr) p.kept->At(KeptAt(p).scores)[t] = score;
    }
  }

  // To the next end of a chunk, because the pool changes there.
  [[nodiscard]] int64_t StretchEnd(const Piece& p, int64_t begin) const override {
    const int64_t C = config().chunk_len;
    return Sees(p) ? std::min(p.T, begin + C - (p.pos + begin) % C) : p.T;
  }
  void BeforeStretch(int32_t piece) override {
    const Piece& p = pieces()[static_cast<size_t>(piece)];
    if (Sees(p)) kernels::LogSigmoid(Of(p).scores(), LogSigmoids(piece), Of(p).size());
  }
  void AfterStretch(const Piece& p, int64_t begin, int64_t end) override {
    if (!Sees(p)) return;
    for (int64_t t = begin; pass_->trace != nullptr && t < end; ++t) TraceToken(p, t);
    Landmarks landmarks = Of(p);
    for (int64_t t = begin; t < end && p.kept == nullptr; ++t) landmarks.ScoreAt(p.pos + t) = scores_.data()[p.row + t];
    if ((p.pos + end) % config().chunk_len != 0) return;
    landmarks.CloseChunk(
        p.pos + end,
        [&](int64_t position) {
          return position < p.pos ? landmarks.ScoreAt(position) : scores_.data()[p.row + position - p.pos];
        },
        [&](int64_t head, int64_t position) { return RowsAt(p, head, position); }, p.kept);
  }
  void AddChosen(int32_t piece, int64_t head, std::vector<kernels::KeyRun>& out) const override {
    const Piece& p = pieces()[static_cast<size_t>(piece)];
    if (ChosenRows(p) == 0) return;
    const KvCache pool = Of(p).Pool(head);
    out.push_back({.k = pool.Key(0),
                   .v = pool.Value(0),
                   .n = Of(p).size(),
                   .pos = Of(p).positions(),
                   .bias = LogSigmoids(piece)});
  }
  [[nodiscard]] bool MayCut(const Piece& p) const override { return !Sees(p); }
  [[nodiscard]] int64_t ChosenRows(const Piece& p) const override { return Sees(p) ? Of(p).size() : 0; }
  [[nodiscard]] const float* Lambda() const override {
    return block().attention.lambda.empty() ? nullptr : block().attention.lambda.data();
  }

 private:
  // How much attention token t of a piece gives to each landmark, computed anew for a trace: shares of the softmax over
  // window and pool, means over the heads.
  void TraceToken(const Piece& p, int64_t t) {
    const int64_t Dh = attention().head_dim, H = attention().n_heads, position = p.pos + t;
    const Landmarks landmarks = Of(p);
    const KvDtype dtype = p.state->layout().kv;
    std::vector<float> key(static_cast<size_t>(Dh)), scores, shares(static_cast<size_t>(landmarks.size()));
    const float scale = 1 / std::sqrt(static_cast<float>(Dh));
    for (int64_t h = 0; h < H; ++h) {
      const int64_t kv = h / group();
      const int64_t first = std::max<int64_t>(0, position - WindowOf(Cache(p, kv).filling(), h % group()) + 1);
      std::vector<int64_t> far;  // places in the pool
      for (int64_t i = 0; i < landmarks.size(); ++i)
        if (landmarks.positions()[i] < first) far.push_back(i);
      if (far.empty()) continue;
      const float* query = Query(p.row + t, h);
      const auto score = [&](const std::byte* row) {
        kernels::LoadKvRow(dtype, row, Dh, key.data());
        return kernels::Dot(query, key.data(), Dh) * scale;
      };
      scores.clear();
      for (int64_t i = first; i <= position; ++i) scores.push_back(score(RowsAt(p, kv, i).k));
      const size_t window = scores.size();
      for (const int64_t place : far) {
        float log_sigma = 0;
        kernels::LogSigmoid(landmarks.scores() + place, &log_sigma, 1);
        scores.push_back(score(landmarks.Pool(kv).Key(place)) + (Lambda() != nullptr ? Lambda()[h] * log_sigma : 0));
      }
      const auto n = static_cast<int64_t>(scores.size());
      kernels::Softmax({.x = scores.data(), .y = scores.data(), .T = 1, .D = n});
      for (size_t i = 0; i < far.size(); ++i)
        shares[static_cast<size_t>(far[i])] += scores[window + i] / static_cast<float>(H);
    }
    LayerTrace& trace = pass_->trace->At(p.row + t, layer_);
    std::vector<Weighted> all;
    for (size_t i = 0; i < shares.size(); ++i) {
      if (shares[i] == 0) continue;
      all.push_back({landmarks.positions()[i], shares[i]});
      trace.landmark_share += shares[i];
    }
    constexpr size_t kTraced = 8;
    trace.landmarks = Heaviest(std::move(all), kTraced);
  }
  [[nodiscard]] bool Sees(const Piece& p) const { return HasLandmarks(block(), *p.state); }
  [[nodiscard]] Landmarks Of(const Piece& p) const { return {config(), *p.state, layer_}; }
  [[nodiscard]] float* LogSigmoids(int32_t piece) const {
    return log_sigmoid_.data() + piece * attention().landmark_budget;
  }

  Buffer<float> scores_;       // [n] landmark scores of the rows
  Buffer<float> log_sigmoid_;  // [pieces, Gm]
};

}  // namespace

std::unique_ptr<Part> MakeSparseAttention() { return std::make_unique<SparseAttention>(); }

}  // namespace hydra
