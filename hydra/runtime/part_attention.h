// SPDX-License-Identifier: Apache-2.0
// Attention over caches of keys and values: products, QK-norm, RoPE, queries, the output product. What a head keeps is
// the affair of its cache (model/kv_filling.h): all positions, or a ring with or without sinks. Internal to the
// runtime. Not here: landmarks (part_sparse_attention.cc), latent vectors (part_latent.cc).
// Dims: n rows, A query heads, Akv KV heads, Dh head_dim, G groups of query heads, Dk and Dv numbers of a key and of a
// value.
#pragma once

#include "hydra/runtime/part.h"

namespace hydra {

class CachedAttention : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "full attention"; }
  [[nodiscard]] bool In(const ModelConfig& config, const LayerConfig& layer) const override;
  [[nodiscard]] int Path() const final { return 1; }
  bool AddRound(int round, Round& out) override;
  void Run(const Task& task, float* scratch) override;
  void AddOutput(std::vector<kernels::MatMulArgs>& products) override;
  void Commit(const Accepted& tokens) const override;
  [[nodiscard]] int64_t ScratchFloats() const final {
    return kernels::AttentionScratchFloats(group(), shape_.Dk, shape_.Dv);
  }
  [[nodiscard]] int64_t bytes() const override;

 protected:
  void Start() override;

  // How query heads share caches, and their widths. A group is what a task attends: heads that read one cache.
  struct Shape {
    int64_t heads, groups, caches;  // caches divide groups, groups divide heads
    int64_t Dk, Dv;
    float scale;  // of the scores
  };
  [[nodiscard]] virtual Shape ShapeOf() const;
  // The first round, which makes queries and brings keys and values to the caches, or beside them.
  virtual void AddKeys(Round& out);
  virtual void Rotate(const Piece& piece, int64_t begin, int64_t end);
  // Tasks of Rotate over the rows of all pieces, and room for what does not go into a cache at once.
  void AddRotations(Round& out);
  // The queries' rounds, until it says that there is no more.
  bool Attend(Round& out);

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
  // Query heads of a group.
  [[nodiscard]] int64_t group() const { return shape_.heads / shape_.groups; }
  // The cache of a group; the first group of a cache counts and keeps its rows.
  [[nodiscard]] KvCache CacheOf(const Piece& piece, int64_t group) const {
    return Cache(piece, group * shape_.caches / shape_.groups);
  }
  [[nodiscard]] bool IsFirst(int64_t group) const { return group % (shape_.groups / shape_.caches) == 0; }
  // Where token t of a piece goes: the rows of its key and its value, in the KV dtype.
  [[nodiscard]] std::byte* NewKey(const Piece& piece, int64_t cache, int64_t t) const;
  [[nodiscard]] std::byte* NewValue(const Piece& piece, int64_t cache, int64_t t) const;
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
  // A query head of a row of the pass, as its scores read it: [Dk].
  [[nodiscard]] const float* Query(int64_t row, int64_t head) const {
    return q_.data() + (row * shape_.heads + head) * shape_.Dk;
  }

  Shape shape_{};
  Buffer<float> q_, k_, v_, y_;  // [n, A, Dk], [n, Akv Dh] twice, [n, A, Dv]

 private:
  enum Kind : int32_t { kRotate, kQueries, kKeys, kMerge, kKeep };
  // Positions that a query sees are cut into ranges of so many where they are more; fixed, so that the thread count
  // changes no bit. The heads of a plan see up to 64 times as many as others: ranges, not heads, go to the threads.
  static constexpr int64_t kRange = 512;
  // Queries of prompts go in tiles that begin at multiples of so many positions.
  static constexpr int64_t kQueryTile = kernels::kKeyBlock;

  // A group of a piece: what its queries see, and where partial results lie.
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

  bool AddStretch(Round& out);
  bool AddEnd(Round& out);
  void AddQueries(Round& out, int32_t piece, int64_t group, int64_t begin, int64_t end);
  void AddTiles(Round& out, int32_t piece, int64_t group, int64_t begin, int64_t end);
  void AddRanges(Round& out, int32_t piece, int64_t group, int64_t begin, int64_t end);
  void RunQueries(const Piece& piece, const Task& task, float* scratch);
  void RunRanges(const Task& task, float* scratch);
  void Merge(const Task& task);
  void Keep(const Piece& piece, int64_t cache) const;

  // Whether new rows go into the cache at once: it grows, or none of them takes the place of a row that is in sight.
  static bool Direct(const Piece& p, const KvCache& cache) {
    if (cache.filling().grows()) return true;
    return p.kept == nullptr &&
           (p.T == 1 || cache.filling().CanTruncate(p.pos + p.T, p.pos, p.state->layout().ctx_size));
  }
  // Where the new rows of a cache stand that do not go into it at once.
  [[nodiscard]] std::byte* AsideKey(const Piece& piece, int64_t cache) const;
  [[nodiscard]] std::byte* AsideValue(const Piece& piece, int64_t cache) const;
  [[nodiscard]] Head& HeadOf(int32_t piece, int64_t group) {
    return heads_[static_cast<size_t>(piece * shape_.groups + group)];
  }
  [[nodiscard]] kernels::KeySet KeysOf(const Piece& piece, const Head& head, const KvCache& cache) const;
  static Ranges RangesOf(const KvFilling& filling, int64_t position);
  // Positions that the queries [begin, end) of a piece see in a head's cache; the same with a window of their own; rows
  // that are read for that, where query heads with own windows read them one by one.
  static int64_t Seen(const KvFilling& filling, const Piece& piece, int64_t begin, int64_t end);
  static int64_t Seen(const KvFilling& filling, int64_t window, const Piece& piece, int64_t begin, int64_t end);
  static int64_t RowsRead(const KvFilling& filling, const Piece& piece, int64_t begin, int64_t end);

  Buffer<std::byte> aside_k_, aside_v_;  // [caches, n] rows in the KV dtype
  Buffer<float> parts_;                  // partial results, [A / G, Dv + 2] each
  std::vector<RowRange> ranges_;
  std::vector<kernels::KeyRun> runs_;  // of all groups of the stretch
  std::vector<Head> heads_;            // [pieces, G]
  std::vector<int64_t> begin_, end_;   // of each piece: its stretch
  std::vector<int64_t> tiles_;         // of each tile of queries: tiles of keys that it read
  bool ended_ = false;                 // AddEnd was asked
};

}  // namespace hydra
