// SPDX-License-Identifier: Apache-2.0
// Full attention over a growing cache. A piece of one token with many keys is cut into blocks of keys, which are merged
// in order. Dims as in part_attention.h.
#include "hydra/runtime/part_attention.h"

namespace hydra {
namespace {

// Keys of one query that one task reads in a long context; fixed, so that the thread count changes no bit.
constexpr int64_t kPartRows = 1024;

class FullAttention final : public CachedAttention {
 public:
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override {
    return layer.attention == AttentionKind::kFull;
  }
  [[nodiscard]] int64_t bytes() const override { return CachedAttention::bytes() + parts_.bytes(); }

 private:
  enum Kind : int32_t { kQueries, kKeys, kMerge };

  static bool IsCut(const Piece& p) { return p.T == 1 && p.pos + 1 > kPartRows; }
  static int64_t Parts(const Piece& p) { return (p.pos + kPartRows) / kPartRows; }

  void Store(const Piece& p, int64_t begin, int64_t end) override {
    const int64_t ctx = p.state->layout().ctx_size, row = RowBytes(p);
    for (int64_t h = 0; h < attention().n_kv_heads; ++h)
      for (int64_t t = begin; t < end; ++t) {
        const int64_t to = (h * ctx + p.pos + t) * row;
        StoreRow(p, t, h, p.state->At<std::byte>(At(p).k) + to, p.state->At<std::byte>(At(p).v) + to);
      }
  }

  // Round 0 attends, 1 merges what was cut.
  bool AddAttention(int round, Round& out) override {
    const bool cut = std::any_of(pieces().begin(), pieces().end(), [&](const Piece& p) { return On(p) && IsCut(p); });
    if (round > (cut ? 1 : 0)) return false;
    const int64_t heads = attention().n_kv_heads;
    int64_t slot = 0;  // all parts of the pass lie one after another: piece, KV head, part
    for (size_t i = 0; i < pieces().size(); ++i) {
      const Piece& p = pieces()[i];
      const auto piece = static_cast<int32_t>(i);
      if (!On(p)) continue;
      if (!IsCut(p)) {
        if (round == 0) AddQueryTiles(out, kQueries, piece, 0, p.T, INT64_MAX);
        continue;
      }
      const int64_t n = Parts(p);
      if (round == 0) pass_->moved->kv_read += (p.pos + 1) * KeyBytes(p);
      for (int64_t kv = 0; kv < heads; ++kv, slot += n) {
        if (round == 1) out.tasks.push_back({this, kMerge, piece, 0, n, kv, slot});
        for (int64_t j = 0; round == 0 && j < n; ++j)
          out.tasks.push_back(
              {this, kKeys, piece, j * kPartRows, std::min(p.pos + 1, (j + 1) * kPartRows), kv, slot + j});
      }
    }
    if (round == 0) parts_.Get(slot * PartFloats());
    return true;
  }

  void RunAttention(const Task& task, float* scratch) override {
    const Piece& p = pieces()[static_cast<size_t>(task.piece)];
    const AttentionConfig& c = attention();
    auto *k = p.state->At<std::byte>(At(p).k), *v = p.state->At<std::byte>(At(p).v);
    const int64_t ctx = p.state->layout().ctx_size;
    kernels::AttentionArgs a = Args(p);
    switch (task.kind) {
      case kQueries:
        a.k = k, a.v = v, a.head_rows = ctx, a.row = p.pos;
        a.t0 = task.begin, a.t1 = task.end;
        a.kv0 = task.head, a.kv1 = task.head + 1;
        a.scratch = scratch;
        kernels::Attention(a);
        return;
      case kKeys:
        kernels::AttentionPart({.q = a.q,
                                .k = k,
                                .v = v,
                                .dtype = a.dtype,
                                .A = a.A,
                                .Akv = a.Akv,
                                .Dh = a.Dh,
                                .head_rows = ctx,
                                .begin = task.begin,
                                .end = task.end,
                                .scale = a.scale,
                                .kv = task.head,
                                .part = parts_.data() + task.slot * PartFloats(),
                                .scratch = scratch});
        return;
      default:
        kernels::AttentionMerge({.parts = parts_.data() + task.slot * PartFloats(),
                                 .y = a.y + task.head * group() * c.head_dim,
                                 .n_parts = task.end,
                                 .heads = group(),
                                 .Dh = c.head_dim});
    }
  }

  [[nodiscard]] int64_t PartFloats() const { return group() * (attention().head_dim + 2); }

  Buffer<float> parts_;  // [parts of the pass, A / Akv, Dh + 2]
};

}  // namespace

std::unique_ptr<Part> MakeFullAttention() { return std::make_unique<FullAttention>(); }

}  // namespace hydra
