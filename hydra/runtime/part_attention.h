// SPDX-License-Identifier: Apache-2.0
// Attention over caches of keys and values: products, QK-norm, RoPE, queries, the output product. What a head keeps is
// the affair of its cache (model/kv_filling.h): all positions, or a ring with or without sinks. Internal to the
// runtime. Not here: landmarks (part_sparse_attention.cc). Dims: n rows, A query heads, Akv KV heads, Dh head_dim.
#pragma once

#include "hydra/runtime/part.h"

namespace hydra {

class CachedAttention : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "full attention"; }
  [[nodiscard]] bool In(const ModelConfig& config, const LayerConfig& layer) const override;
  [[nodiscard]] int Path() const final { return 1; }
  bool AddRound(int round, Round& out) final;
  void Run(const Task& task, float* scratch) final;
  void AddOutput(std::vector<kernels::MatMulArgs>& products) final;
  void Commit(const Accepted& tokens) const override;
  [[nodiscard]] int64_t ScratchFloats() const final {
    return kernels::AttentionScratchFloats(group(), attention().head_dim, attention().head_dim);
  }
  [[nodiscard]] int64_t bytes() const override;

 protected:
  void Start() override;

  // Brings the rows of token t of a provisional pass into the caches that do not have them.
  static void CommitRows(const Accepted& tokens, int64_t t);

  // What landmarks need of the walk through a piece, whose queries go in stretches [begin, end) from chunk to chunk.
  // Once the keys of the rows [begin, end) of a piece are there:
  virtual void AfterKeys(const Piece& /*piece*/, int64_t /*begin*/, int64_t /*end*/) {}
  // The end of the stretch that begins at `begin`, at most T.
  [[nodiscard]] virtual int64_t StretchEnd(const Piece& piece, int64_t /*begin*/) const { return piece.T; }
  // Before a stretch is attended, and after it.
  virtual void BeforeStretch(int32_t /*piece*/) {}
  virtual void AfterStretch(const Piece& /*piece*/, int64_t /*begin*/, int64_t /*end*/) {}
  // The runs of chosen positions that a head sees beside its cache.
  virtual void AddChosen(int32_t /*piece*/, int64_t /*head*/, std::vector<kernels::KeyRun>& /*out*/) const {}
  // Whether one query's keys may be cut into ranges: where its stretch is the whole piece.
  [[nodiscard]] virtual bool MayCut(const Piece& /*piece*/) const { return true; }
  // How many positions those are, and the factors of their biases, [A].
  [[nodiscard]] virtual int64_t ChosenRows(const Piece& /*piece*/) const { return 0; }
  [[nodiscard]] virtual const float* Lambda() const { return nullptr; }

  [[nodiscard]] const AttentionConfig& attention() const { return config().attention; }
  [[nodiscard]] int64_t group() const { return attention().n_heads / attention().n_kv_heads; }
  // The rows of a position that the head's cache still holds, or that the piece brings.
  struct Rows {
    const std::byte* k;
    const std::byte* v;
  };
  [[nodiscard]] Rows RowsAt(const Piece& piece, int64_t head, int64_t position) const;
  // Positions of the cache that a query head of `filling` sees, the i-th of those that share it.
  static int64_t WindowOf(const KvFilling& filling, int64_t i) {
    const auto own = filling.own_windows();
    return own.empty() ? filling.window() : own[static_cast<size_t>(i)];
  }
  // A query head of a row of the pass, normed and rotated: [Dh].
  [[nodiscard]] const float* Query(int64_t row, int64_t head) const {
    return q_.data() + (row * attention().n_heads + head) * attention().head_dim;
  }

 private:
  enum Kind : int32_t { kRotate, kQueries, kKeys, kMerge, kKeep };
  // Positions that a query sees are cut into ranges of so many where they are more; fixed, so that the thread count
  // changes no bit. The heads of a plan see up to 64 times as many as others: ranges, not heads, go to the threads.
  static constexpr int64_t kRange = 512;
  // Queries of prompts go in tiles that begin at multiples of so many positions.
  static constexpr int64_t kQueryTile = kernels::kKeyBlock;

  // A head of a piece: what its queries see, and where partial results lie.
  struct Head {
    size_t run = 0;  // first of its runs
    int64_t n_runs = 0;
    int64_t cut = 0;     // the queries from here on have partial results
    int64_t part = 0;    // the first of them in parts_, in results
    int64_t ranges = 0;  // room for so many of each query
  };
  // The ranges of positions that a query sees: the sinks, if they are apart, then pieces of the window.
  struct Ranges {
    int64_t sinks;        // 1 or 0
    int64_t from;         // first position of the window
    int64_t first, last;  // its ranges, in units of kRange
    [[nodiscard]] int64_t n() const { return sinks + last - first + 1; }
  };

  void AddKeys(Round& out);
  bool AddStretch(Round& out);
  bool AddEnd(Round& out);
  void AddQueries(Round& out, int32_t piece, int64_t head, int64_t begin, int64_t end);
  void AddTiles(Round& out, int32_t piece, int64_t head, int64_t begin, int64_t end);
  void AddRanges(Round& out, int32_t piece, int64_t head, int64_t begin, int64_t end);
  void Rotate(const Piece& piece, int64_t begin, int64_t end);
  void Attend(const Piece& piece, const Task& task, float* scratch);
  void RunRanges(const Task& task, float* scratch);
  void Merge(const Task& task);
  void Keep(const Piece& piece, int64_t head) const;

  // Whether new rows go into the cache at once: it grows, or none of them takes the place of a row that is in sight.
  static bool Direct(const Piece& p, const KvCache& cache) {
    if (cache.filling().grows()) return true;
    return p.kept == nullptr &&
           (p.T == 1 || cache.filling().CanTruncate(p.pos + p.T, p.pos, p.state->layout().ctx_size));
  }
  // Where the new rows of a head stand that do not go into the cache at once.
  [[nodiscard]] std::byte* AsideKey(const Piece& piece, int64_t head) const;
  [[nodiscard]] std::byte* AsideValue(const Piece& piece, int64_t head) const;
  [[nodiscard]] Head& HeadOf(int32_t piece, int64_t head) {
    return heads_[static_cast<size_t>(piece * attention().n_kv_heads + head)];
  }
  [[nodiscard]] kernels::KeySet KeysOf(const Piece& piece, const Head& head, const KvCache& cache) const;
  static Ranges RangesOf(const KvFilling& filling, int64_t position);
  // Positions that the queries [begin, end) of a piece see in a head's cache; the same with a window of their own; rows
  // that are read for that, where query heads with own windows read them one by one.
  static int64_t Seen(const KvFilling& filling, const Piece& piece, int64_t begin, int64_t end);
  static int64_t Seen(const KvFilling& filling, int64_t window, const Piece& piece, int64_t begin, int64_t end);
  static int64_t RowsRead(const KvFilling& filling, const Piece& piece, int64_t begin, int64_t end);

  Buffer<float> q_, k_, v_, y_;          // [n, A Dh], [n, Akv Dh] twice, [n, A Dh]
  Buffer<std::byte> aside_k_, aside_v_;  // [Akv, n] rows in the KV dtype
  Buffer<float> parts_;                  // partial results, [A / Akv, Dh + 2] each
  std::vector<RowRange> ranges_;
  std::vector<kernels::KeyRun> runs_;  // of all heads of the stretch
  std::vector<Head> heads_;            // [pieces, Akv]
  std::vector<int64_t> begin_, end_;   // of each piece: its stretch
  std::vector<int64_t> tiles_;         // of each tile of queries: tiles of keys that it read
  bool ended_ = false;                 // AddEnd was asked
};

}  // namespace hydra
