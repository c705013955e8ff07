// SPDX-License-Identifier: Apache-2.0
// Attention over caches. Formulas: specs/hydra.md 3. Round 0 makes queries, keys and values; then the queries attend;
// the last one merges partial results and brings new rows into rings.
#include "hydra/runtime/part_attention.h"

#include <algorithm>
#include <cmath>

namespace hydra {

using kernels::KeyRun;

bool CachedAttention::In(const ModelConfig& /*config*/, const LayerConfig& layer) const {
  return layer.attention == AttentionKind::kFull;
}

int64_t CachedAttention::bytes() const {
  int64_t sum = aside_k_.bytes() + aside_v_.bytes();
  for (const auto* b : {&q_, &k_, &v_, &y_, &parts_}) sum += b->bytes();
  return sum;
}

CachedAttention::Shape CachedAttention::ShapeOf() const {
  const AttentionConfig& c = attention();
  return {.heads = c.n_heads,
          .groups = c.n_kv_heads,
          .caches = c.n_kv_heads,
          .Dk = c.head_dim,
          .Dv = c.head_dim,
          .scale = 1 / std::sqrt(static_cast<float>(c.head_dim))};
}

void CachedAttention::Start() {
  shape_ = ShapeOf();
  begin_.assign(pieces().size(), 0);
  end_.assign(pieces().size(), 0);
  heads_.assign(pieces().size() * static_cast<size_t>(shape_.groups), {});
  tiles_.clear();
  ended_ = false;
}

bool CachedAttention::AddRound(int round, Round& out) {
  if (round > 0) return Attend(out);
  AddKeys(out);
  return true;
}

bool CachedAttention::Attend(Round& out) {
  if (AddStretch(out)) return true;
  if (ended_) return false;
  ended_ = true;
  return AddEnd(out);
}

void CachedAttention::Run(const Task& task, float* scratch) {
  const Piece& p = pieces()[static_cast<size_t>(task.piece)];
  switch (task.kind) {
    case kRotate: return Rotate(p, task.begin, task.end);
    case kKeys: return RunRanges(task, scratch);
    case kMerge: return Merge(task);
    case kKeep: return Keep(p, task.head);
    default: break;
  }
  RunQueries(p, task, scratch);
}

// The queries of a task; query heads that see other windows of one cache go one by one.
void CachedAttention::RunQueries(const Piece& p, const Task& task, float* scratch) {
  const KvCache cache = CacheOf(p, task.head);
  const KvFilling& filling = cache.filling();
  const int64_t alike = filling.own_windows().empty() ? group() : 1;
  for (int64_t i = 0; i < group(); i += alike) {
    const int64_t head = task.head * group() + i, at = p.row * shape_.heads + head;
    kernels::KeyTiles seen;
    kernels::Attention({.q = q_.data() + at * shape_.Dk,
                        .y = y_.data() + at * shape_.Dv,
                        .keys = KeysOf(p, HeadOf(task.piece, task.head), cache),
                        .heads = alike,
                        .pos = p.pos,
                        .window = WindowOf(filling, i),
                        .sinks = filling.sinks(),
                        .scale = shape_.scale,
                        .t0 = task.begin,
                        .t1 = task.end,
                        .lambda = Lambda() != nullptr ? Lambda() + head : nullptr,
                        .alone = IsStep(p),
                        .bf16 = pass_->weights.options.act != Activations::kF32,
                        .q_stride = shape_.heads * shape_.Dk,
                        .y_stride = shape_.heads * shape_.Dv,
                        .scratch = scratch,
                        .tiles = &seen});
    if (!IsStep(p) && IsFirst(task.head)) tiles_[static_cast<size_t>(task.slot)] += seen.n;
  }
}

void CachedAttention::AddOutput(std::vector<kernels::MatMulArgs>& products) {
  products.push_back(IntoStream(block().attention.o, y_.data(), attention().n_heads * attention().head_dim));
}

// ---- Keys ----

void CachedAttention::AddKeys(Round& out) {
  const AttentionWeights& w = block().attention;
  const auto add = [&](const kernels::Matrix& m, const F32& bias, Buffer<float>& to) {
    out.products.push_back(OfInput(m, to.Get(pass_->n * m.rows)));
    if (!bias.empty()) out.products.back().bias = bias.data();
  };
  add(w.q, w.q_bias, q_);
  add(w.k, w.k_bias, k_);
  add(w.v, w.v_bias, v_);
  y_.Get(pass_->n * attention().n_heads * attention().head_dim);
  CountWeights({&w.q_bias, &w.k_bias, &w.v_bias, &w.q_norm, &w.k_norm});
  AddRotations(out);
}

void CachedAttention::AddRotations(Round& out) {
  int64_t aside_key = 0, aside_value = 0;  // bytes of a row; the heads of a layer have rows of one width
  for (size_t i = 0; i < pieces().size(); ++i) {
    const Piece& p = pieces()[i];
    if (!On(p)) continue;
    constexpr int64_t kRows = 16;
    AddTasks(out, kRotate, static_cast<int32_t>(i), p.T, kRows);
    for (int64_t h = 0; h < shape_.caches; ++h) {
      const KvCache cache = Cache(p, h);
      pass_->moved->kv_written += p.T * cache.layout().row_bytes();
      if (Direct(p, cache) || p.kept != nullptr) continue;
      aside_key = cache.layout().k_stride, aside_value = cache.value_in_key() ? 0 : cache.layout().v_stride;
    }
  }
  aside_k_.Get(shape_.caches * pass_->n * aside_key);
  aside_v_.Get(shape_.caches * pass_->n * aside_value);
}

void CachedAttention::Rotate(const Piece& p, int64_t begin, int64_t end) {
  const AttentionConfig& c = attention();
  const AttentionWeights& w = block().attention;
  const int64_t row = p.row + begin, T = end - begin;
  const auto rotate = [&](float* x, int64_t heads, const F32& norm) {
    x += row * heads * c.head_dim;
    if (!norm.empty())
      kernels::RmsNorm({.x = x,
                        .w = norm.data(),
                        .y = x,
                        .T = T,
                        .D = heads * c.head_dim,
                        .groups = heads,
                        .eps = static_cast<float>(config().norm_eps),
                        .shared_weight = true});
    kernels::Rope({.x = x,
                   .pos = pass_->positions + row,
                   .inv_freq = pass_->weights.inv_freq.data(),
                   .T = T,
                   .heads = heads,
                   .Dh = c.head_dim,
                   .interleaved = pass_->weights.rope_interleaved});
  };
  rotate(q_.data(), c.n_heads, w.q_norm);
  rotate(k_.data(), c.n_kv_heads, w.k_norm);
  const KvDtype dtype = p.state->layout().kv;
  for (int64_t h = 0; h < c.n_kv_heads; ++h)
    for (int64_t t = begin; t < end; ++t) {
      const int64_t from = ((p.row + t) * c.n_kv_heads + h) * c.head_dim;
      kernels::StoreKvRow(dtype, k_.data() + from, c.head_dim, NewKey(p, h, t));
      kernels::StoreKvRow(dtype, v_.data() + from, c.head_dim, NewValue(p, h, t));
    }
  AfterKeys(p, begin, end);
}

std::byte* CachedAttention::NewKey(const Piece& p, int64_t h, int64_t t) const {
  const KvCache cache = Cache(p, h);
  return Direct(p, cache) ? cache.KeyOf(p.pos + t) : AsideKey(p, h) + t * cache.layout().k_stride;
}

std::byte* CachedAttention::NewValue(const Piece& p, int64_t h, int64_t t) const {
  const KvCache cache = Cache(p, h);
  return Direct(p, cache) ? cache.ValueOf(p.pos + t) : AsideValue(p, h) + t * cache.layout().v_stride;
}

std::byte* CachedAttention::AsideKey(const Piece& p, int64_t head) const {
  if (p.kept != nullptr) return p.kept->At<std::byte>(KeptAt(p).k[static_cast<size_t>(head)]);
  return aside_k_.data() + (head * pass_->n + p.row) * Cache(p, head).layout().k_stride;
}

std::byte* CachedAttention::AsideValue(const Piece& p, int64_t head) const {
  if (Cache(p, head).value_in_key()) return AsideKey(p, head);
  if (p.kept != nullptr) return p.kept->At<std::byte>(KeptAt(p).v[static_cast<size_t>(head)]);
  return aside_v_.data() + (head * pass_->n + p.row) * Cache(p, head).layout().v_stride;
}

CachedAttention::Rows CachedAttention::RowsAt(const Piece& p, int64_t head, int64_t position) const {
  const KvCache cache = Cache(p, head);
  if (position < p.pos || Direct(p, cache)) return {cache.KeyOf(position), cache.ValueOf(position)};
  return {AsideKey(p, head) + (position - p.pos) * cache.layout().k_stride,
          AsideValue(p, head) + (position - p.pos) * cache.layout().v_stride};
}

// ---- Queries ----

// Each piece goes on by a stretch.
bool CachedAttention::AddStretch(Round& out) {
  for (const int64_t n : tiles_) pass_->moved->key_tiles += n;  // of the stretch before
  tiles_.clear();
  runs_.clear();
  const auto first = static_cast<std::ptrdiff_t>(out.tasks.size());
  int64_t parts = 0;
  bool more = false;
  for (size_t i = 0; i < pieces().size(); ++i) {
    const Piece& p = pieces()[i];
    const auto piece = static_cast<int32_t>(i);
    if (!On(p)) continue;
    if (begin_[i] < end_[i]) AfterStretch(p, begin_[i], end_[i]);
    begin_[i] = end_[i];
    if (end_[i] == p.T) continue;
    end_[i] = StretchEnd(p, begin_[i]);
    BeforeStretch(piece);
    for (int64_t h = 0; h < shape_.groups; ++h) {
      const KvCache cache = CacheOf(p, h);
      Head& head = HeadOf(piece, h);
      head.run = runs_.size();
      const bool direct = Direct(p, cache);
      const int64_t number = h * shape_.caches / shape_.groups;
      cache.AddRuns(direct ? p.pos + p.T : p.pos, ranges_, runs_);
      if (!direct) runs_.push_back({.k = AsideKey(p, number), .v = AsideValue(p, number), .n = p.T, .first = p.pos});
      AddChosen(piece, h, runs_);
      head.n_runs = static_cast<int64_t>(runs_.size() - head.run);
      head.part = parts;
      AddQueries(out, piece, h, begin_[i], end_[i]);
      parts += head.ranges * (p.T - head.cut);
    }
    more = true;
  }
  if (more) parts_.Get(parts * group() * (shape_.Dv + 2));
  // The longest first, so that no thread is left with one in the end.
  std::stable_sort(out.tasks.begin() + first, out.tasks.end(),
                   [](const Task& a, const Task& b) { return a.cost > b.cost; });
  return more;
}

void CachedAttention::AddQueries(Round& out, int32_t piece, int64_t h, int64_t begin, int64_t end) {
  const Piece& p = pieces()[static_cast<size_t>(piece)];
  if (!IsStep(p)) return AddTiles(out, piece, h, begin, end);
  const KvCache cache = CacheOf(p, h);
  const KvFilling& filling = cache.filling();
  // Groups of one cache run side by side, so that it is read once.
  const int64_t bytes = IsFirst(h) ? cache.layout().row_bytes() : 0, chosen = ChosenRows(p);
  const bool whole = !MayCut(p) || !filling.own_windows().empty();
  int64_t cut = begin;  // from here on queries see more than a range
  while (cut < end && (whole || Seen(filling, p, cut, cut + 1) <= kRange)) ++cut;
  constexpr int64_t kFew = 4;
  for (int64_t from = begin; from < cut; from += kFew) {
    const int64_t to = std::min(cut, from + kFew), rows = RowsRead(filling, p, from, to) + chosen;
    pass_->moved->kv_read += rows * bytes;
    out.tasks.push_back({.part = this,
                         .kind = kQueries,
                         .piece = piece,
                         .begin = from,
                         .end = to,
                         .head = h,
                         .cost = rows * (to - from)});
  }
  if (cut == end) return;
  pass_->moved->kv_read += Seen(filling, p, cut, end) * bytes;
  AddRanges(out, piece, h, cut, end);
}

void CachedAttention::AddTiles(Round& out, int32_t piece, int64_t h, int64_t begin, int64_t end) {
  const Piece& p = pieces()[static_cast<size_t>(piece)];
  const KvCache cache = CacheOf(p, h);
  const KvFilling& filling = cache.filling();
  const int64_t bytes = IsFirst(h) ? cache.layout().row_bytes() : 0, chosen = ChosenRows(p);
  const int64_t together = filling.own_windows().empty() ? group() : 1;  // heads
  for (int64_t from = begin, to = begin; from < end; from = to) {
    to = std::min(end, ((p.pos + from) / kQueryTile + 1) * kQueryTile - p.pos);
    const int64_t each = kernels::AttentionTileQueries(together, to - from);
    int64_t rows = 0;
    for (int64_t t = from; t < to; t += each) rows += RowsRead(filling, p, t, std::min(to, t + each)) + chosen;
    pass_->moved->kv_read += rows * bytes;
    out.tasks.push_back({.part = this,
                         .kind = kQueries,
                         .piece = piece,
                         .begin = from,
                         .end = to,
                         .head = h,
                         .slot = static_cast<int64_t>(tiles_.size()),
                         .cost = rows * each});
    tiles_.push_back(0);
  }
}

void CachedAttention::AddRanges(Round& out, int32_t piece, int64_t h, int64_t begin, int64_t end) {
  const Piece& p = pieces()[static_cast<size_t>(piece)];
  const KvFilling& filling = CacheOf(p, h).filling();
  const Ranges first = RangesOf(filling, p.pos + begin), last = RangesOf(filling, p.pos + end - 1);
  Head& head = HeadOf(piece, h);
  head.cut = begin;
  for (int64_t t = begin; t < end; ++t) head.ranges = std::max(head.ranges, RangesOf(filling, p.pos + t).n());
  for (int64_t slot = last.sinks > 0 ? -1 : first.first; slot <= last.last; slot = std::max(slot + 1, first.first))
    out.tasks.push_back({.part = this,
                         .kind = kKeys,
                         .piece = piece,
                         .begin = begin,
                         .end = end,
                         .head = h,
                         .slot = slot,
                         .cost = (slot < 0 ? filling.sinks() : kRange) * (end - begin)});
}

CachedAttention::Ranges CachedAttention::RangesOf(const KvFilling& filling, int64_t position) {
  if (position < filling.sinks()) return {0, 0, 0, position / kRange};  // all that there is
  const int64_t from = std::max(filling.sinks(), position - filling.window() + 1);
  return {filling.sinks() > 0 ? 1 : 0, from, from / kRange, position / kRange};
}

int64_t CachedAttention::Seen(const KvFilling& filling, const Piece& p, int64_t begin, int64_t end) {
  return Seen(filling, filling.window(), p, begin, end);
}

int64_t CachedAttention::Seen(const KvFilling& filling, int64_t window, const Piece& p, int64_t begin, int64_t end) {
  const int64_t first = p.pos + begin, last = p.pos + end - 1, sinks = std::min(filling.sinks(), last + 1);
  return sinks + std::max<int64_t>(0, last + 1 - std::max(sinks, first - window + 1));
}

int64_t CachedAttention::RowsRead(const KvFilling& filling, const Piece& p, int64_t begin, int64_t end) {
  if (filling.own_windows().empty()) return Seen(filling, p, begin, end);
  int64_t rows = 0;
  for (const int64_t window : filling.own_windows()) rows += Seen(filling, window, p, begin, end);
  return rows;
}

kernels::KeySet CachedAttention::KeysOf(const Piece& p, const Head& head, const KvCache& cache) const {
  return {.runs = runs_.data() + head.run,
          .n_runs = head.n_runs,
          .dtype = p.state->layout().kv,
          .Dk = shape_.Dk,
          .Dv = shape_.Dv,
          .k_stride = cache.layout().k_stride,
          .v_stride = cache.layout().v_stride};
}

// One range of positions, for each query that sees some of it.
void CachedAttention::RunRanges(const Task& task, float* scratch) {
  const Piece& p = pieces()[static_cast<size_t>(task.piece)];
  const KvCache cache = CacheOf(p, task.head);
  const KvFilling& filling = cache.filling();
  const Head& head = HeadOf(task.piece, task.head);
  for (int64_t t = task.begin; t < task.end; ++t) {
    const int64_t position = p.pos + t;
    const Ranges ranges = RangesOf(filling, position);
    const bool sinks = task.slot < 0;
    if (sinks ? ranges.sinks == 0 : task.slot < ranges.first || task.slot > ranges.last) continue;
    const int64_t index =
        head.part + (t - head.cut) * head.ranges + (sinks ? 0 : ranges.sinks + task.slot - ranges.first);
    kernels::AttentionPart({.q = Query(p.row + t, task.head * group()),
                            .keys = KeysOf(p, head, cache),
                            .heads = group(),
                            .begin = sinks ? 0 : std::max(ranges.from, task.slot * kRange),
                            .end = sinks ? filling.sinks() : std::min(position + 1, (task.slot + 1) * kRange),
                            .scale = shape_.scale,
                            .part = parts_.data() + index * group() * (shape_.Dv + 2),
                            .scratch = scratch});
  }
}

// ---- The end ----

bool CachedAttention::AddEnd(Round& out) {
  const size_t before = out.tasks.size();
  for (size_t i = 0; i < pieces().size(); ++i) {
    const Piece& p = pieces()[i];
    const auto piece = static_cast<int32_t>(i);
    for (int64_t h = 0; On(p) && h < shape_.groups; ++h) {
      const Head& head = HeadOf(piece, h);
      if (head.ranges > 0) out.tasks.push_back({this, kMerge, piece, head.cut, p.T, h});
    }
    for (int64_t h = 0; On(p) && h < shape_.caches; ++h)
      if (p.kept == nullptr && !Direct(p, Cache(p, h))) out.tasks.push_back({this, kKeep, piece, 0, p.T, h});
  }
  return out.tasks.size() > before;
}

void CachedAttention::Merge(const Task& task) {
  const Piece& p = pieces()[static_cast<size_t>(task.piece)];
  const Head& head = HeadOf(task.piece, task.head);
  for (int64_t t = task.begin; t < task.end; ++t)
    kernels::AttentionMerge(
        {.parts = parts_.data() + (head.part + (t - head.cut) * head.ranges) * group() * (shape_.Dv + 2),
         .y = y_.data() + ((p.row + t) * shape_.heads + task.head * group()) * shape_.Dv,
         .n_parts = RangesOf(CacheOf(p, task.head).filling(), p.pos + t).n(),
         .heads = group(),
         .Dv = shape_.Dv});
}

// New rows into a ring: those that it still holds at the end.
void CachedAttention::Keep(const Piece& p, int64_t h) const {
  const KvCache cache = Cache(p, h);
  const KvFilling& filling = cache.filling();
  for (int64_t t = 0; t < p.T; ++t)
    if (p.pos + t < filling.sinks() || t >= p.T - filling.window())
      cache.Put(filling.RowOf(p.pos + t), AsideKey(p, h) + t * cache.layout().k_stride,
                AsideValue(p, h) + t * cache.layout().v_stride);
}

void CachedAttention::Commit(const Accepted& a) const {
  for (int64_t t = 0; a.On(Path()) && t < a.m; ++t) CommitRows(a, t);
}

void CachedAttention::CommitRows(const Accepted& a, int64_t t) {
  for (size_t h = 0; h < a.at().caches.size(); ++h) {
    const KvCache cache(a.at().caches[h], a.state.At<std::byte>(0));
    if (cache.filling().grows()) continue;  // there already
    cache.Put(cache.filling().RowOf(a.pos + t), a.Kept<std::byte>(a.kept_at().k[h]) + t * cache.layout().k_stride,
              a.Kept<std::byte>(a.kept_at().v[h]) + t * cache.layout().v_stride);
  }
}

std::unique_ptr<Part> MakeFullAttention() { return std::make_unique<CachedAttention>(); }

}  // namespace hydra
