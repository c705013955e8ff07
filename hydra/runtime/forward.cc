// SPDX-License-Identifier: Apache-2.0
// The forward pass from top to bottom: embedding, blocks, final norm, head. Its parts: path_ssm.cc, path_attention.cc,
// path_moe.cc, memories.cc. Formulas: specs/hydra.md 1.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "hydra/base/error.h"
#include "hydra/kernels/ops.h"
#include "hydra/runtime/pass.h"

namespace hydra {

using kernels::MatMulArgs;

// ---- One pass ----

Pass::Pass(const ModelWeights& weights, ForwardScratch::Data& scratch, std::span<const Piece> pieces, ThreadPool& pool)
    : w_(weights),
      c_(weights.config),
      s_(scratch),
      pieces_(pieces),
      pool_(pool),
      act_(weights.options.act == Activations::kQ8 ? kernels::ActType::kQ8 : kernels::ActType::kF32) {
  for (const Piece& p : pieces_) n_ += p.T, longest_ = std::max(longest_, p.T);
}

void Pass::Run() {
  const int64_t D = c_.d_model;
  float* x = s_.x.Get(n_ * D);
  s_.u.Get(n_ * D);
  for (int64_t i = 0; i < n_; ++i)
    kernels::DecodeMatrixRow(w_.embedding, s_.row_ids[static_cast<size_t>(i)], x + i * D);
  int64_t* positions = s_.positions.Get(n_);
  for (const Piece& p : pieces_)
    for (int64_t t = 0; t < p.T; ++t) positions[p.row + t] = p.pos + t;
  for (int layer = 0; layer < c_.n_layers(); ++layer)
    c_.wiring == Wiring::kParallel ? ParallelBlock(layer) : SequentialBlock(layer);
}

// x += a1 g1 SSM(u) + a2 g2 SGA(u) + a3 g3 MoE(u); then the memories. Three regions: products of u, what has state,
// products into x.
void Pass::ParallelBlock(int layer) {
  const BlockWeights& w = Block(layer);
  const LayerConfig& parts = Layer(layer);
  Norm(w.norm);
  PathScales(w);
  for (size_t i = 0; i < 3; ++i) rows_[i] = ActiveRows(i);
  const bool ssm = parts.ssm && rows_[0].n > 0;
  const bool attention = parts.attention != AttentionKind::kNone && rows_[1].n > 0;
  const bool moe = parts.ffn == FfnKind::kChunkMoe && rows_[2].n > 0;

  if (moe) Route(layer, w.moe);
  if (ssm) AddSsmInputs(w.ssm, rows_[0]);
  if (attention) AddAttentionInputs(w.attention, rows_[1]);
  if (moe) AddExpertInputs(w.moe);
  Products();

  if (ssm) PrepareSsm(layer);
  if (attention) PrepareAttention(layer);
  RunTasks(layer);
  if (ssm) FinishSsm(layer);
  if (attention) FinishAttention(layer);

  if (ssm && c_.ssm.kind == SsmKind::kMamba2) AddOutput(w.ssm.out_proj, s_.ssm_y.data(), c_.ssm.d_inner(), 0, rows_[0]);
  if (attention) AddOutput(w.attention.o, s_.attn_y.data(), c_.attention.n_heads * c_.attention.head_dim, 1, rows_[1]);
  if (moe) AddExpertOutputs(w.moe);
  Products();
  if (parts.workspace) Workspace(layer);
  if (parts.pkm) Pkm(layer);
}

// x += mixer(norm(x)); x += ffn(norm(x)).
void Pass::SequentialBlock(int layer) {
  const BlockWeights& w = Block(layer);
  const LayerConfig& parts = Layer(layer);
  const Rows all{nullptr, n_};
  Norm(w.norm);
  if (parts.ssm)
    AddSsmInputs(w.ssm, all);
  else
    AddAttentionInputs(w.attention, all);
  Products();
  parts.ssm ? PrepareSsm(layer) : PrepareAttention(layer);
  RunTasks(layer);
  parts.ssm ? FinishSsm(layer) : FinishAttention(layer);
  const int64_t D = c_.d_model, width = parts.ssm ? c_.ssm.d_inner() : c_.attention.n_heads * c_.attention.head_dim;
  s_.maps.push_back({.w = parts.ssm ? w.ssm.out_proj : w.attention.o,
                     .x = parts.ssm ? s_.ssm_y.data() : s_.attn_y.data(),
                     .y = s_.x.data(),
                     .T = n_,
                     .x_stride = width,
                     .y_stride = D,
                     .accumulate = true});
  Products();
  if (parts.ffn != FfnKind::kDense) return;

  Norm(w.dense.norm);
  const int64_t F = c_.d_ff;
  float* hidden = s_.hidden.Get(n_ * 2 * F);
  s_.maps.push_back({.w = w.dense.gate, .x = s_.u.data(), .y = hidden, .T = n_, .y_stride = 2 * F});
  s_.maps.push_back({.w = w.dense.up, .x = s_.u.data(), .y = hidden + F, .T = n_, .y_stride = 2 * F});
  Products();
  constexpr int64_t kRows = 8;
  ForRows(n_, kRows, [&](int64_t begin, int64_t end) {
    float* h = hidden + begin * 2 * F;
    kernels::SwiGlu({.gate = h, .up = h + F, .y = h, .T = end - begin, .F = F, .stride = 2 * F, .y_stride = 2 * F});
  });
  s_.maps.push_back({.w = w.dense.down,
                     .x = hidden,
                     .y = s_.x.data(),
                     .T = n_,
                     .x_stride = 2 * F,
                     .y_stride = D,
                     .accumulate = true});
  Products();
}

void Pass::Norm(const F32& weight) {
  const int64_t D = c_.d_model;
  constexpr int64_t kRows = 32;
  ForRows(n_, kRows, [&](int64_t begin, int64_t end) {
    kernels::RmsNorm({.x = s_.x.data() + begin * D,
                      .w = weight.data(),
                      .y = s_.u.data() + begin * D,
                      .T = end - begin,
                      .D = D,
                      .eps = static_cast<float>(c_.norm_eps)});
  });
}

// a_i gamma_i g_i of each row; gamma = 2 sigmoid(W u + b) with a controller, else 1.
void Pass::PathScales(const BlockWeights& w) {
  const int64_t D = c_.d_model;
  for (size_t i = 0; i < 3; ++i) {
    float* scale = s_.scale[i].Get(n_);
    for (const Piece& p : pieces_) {
      const auto a = static_cast<float>(p.state->controls().path_scale[i]) * w.gates[i];
      for (int64_t t = p.row; t < p.row + p.T; ++t) {
        scale[t] = a;
        if (!w.controller.empty())
          scale[t] *=
              2 /
              (1 + std::exp(-(kernels::Dot(w.controller.data() + static_cast<int64_t>(i) * D, s_.u.data() + t * D, D) +
                              w.controller_bias[i])));
      }
    }
  }
}

Rows Pass::ActiveRows(size_t path) {
  int64_t on = 0;
  for (const Piece& p : pieces_) on += PathOn(p, path) ? p.T : 0;
  if (on == n_) return {nullptr, n_};
  int32_t* list = s_.active.Get(3 * n_) + static_cast<int64_t>(path) * n_;
  int64_t k = 0;
  for (const Piece& p : pieces_)
    if (PathOn(p, path))
      for (int64_t t = 0; t < p.T; ++t) list[k++] = static_cast<int32_t>(p.row + t);
  return {list, k};
}

void Pass::AddOutput(const kernels::Matrix& w, const float* in, int64_t in_stride, size_t path, const Rows& rows) {
  // row_scale goes by the number of the row in the list
  const float* scale = s_.scale[path].data();
  if (rows.list != nullptr) {
    float* packed = s_.scale[path].data();
    for (int64_t i = 0; i < rows.n; ++i) packed[i] = scale[rows.list[i]];  // ascending: no later one is overwritten
  }
  s_.maps.push_back({.w = w,
                     .x = in,
                     .y = s_.x.data(),
                     .T = rows.n,
                     .x_stride = in_stride,
                     .y_stride = c_.d_model,
                     .x_rows = rows.list,
                     .y_rows = rows.list,
                     .row_scale = s_.scale[path].data(),
                     .accumulate = true});
}

void Pass::Logits(std::span<const int32_t> rows, float* logits) {
  const int64_t D = c_.d_model, n = static_cast<int64_t>(rows.size());
  float* last = s_.last.Get(n * D);
  for (int64_t i = 0; i < n; ++i)
    kernels::RmsNorm({.x = s_.x.data() + rows[static_cast<size_t>(i)] * D,
                      .w = w_.final_norm.data(),
                      .y = last + i * D,
                      .T = 1,
                      .D = D,
                      .eps = static_cast<float>(c_.norm_eps)});
  kernels::MatMul(MatMulArgs{.w = w_.head, .x = last, .y = logits, .T = n}, act_, pool_, s_.matmul);
}

// ---- Model ----

ForwardScratch::ForwardScratch() : data_(std::make_unique<Data>()) {}
ForwardScratch::~ForwardScratch() = default;
ForwardScratch::ForwardScratch(ForwardScratch&&) noexcept = default;
ForwardScratch& ForwardScratch::operator=(ForwardScratch&&) noexcept = default;

int64_t ForwardScratch::bytes() const {
  int64_t sum = data_->matmul.bytes();
  data_->ForEachBuffer([&](int64_t bytes) { sum += bytes; });
  return sum;
}

Model Model::Load(const std::string& path, const LoadOptions& options, ThreadPool* pool) {
  return Model(ModelWeights::Build(OpenWeights(path), options, pool));
}
const ModelConfig& Model::config() const { return weights_->config; }
const LoadOptions& Model::options() const { return weights_->options; }
const std::string& Model::path() const { return weights_->path; }

namespace {

void CheckSegments(const ModelWeights& w, std::span<const Segment> segments) {
  const bool grows = w.config.HasAttention(AttentionKind::kFull);
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    HYDRA_CHECK(s.state != nullptr && !s.ids.empty(), "segment ", i);
    for (size_t j = 0; j < i; ++j) HYDRA_CHECK(segments[j].state != s.state, "a state twice in a batch");
    for (const int32_t id : s.ids)
      if (id < 0 || id >= w.config.vocab_size)
        throw Error(ErrorCode::kUsage, StrCat("token id ", id, ": must be 0 to ", w.config.vocab_size - 1));
    const int64_t length = s.state->pos() + static_cast<int64_t>(s.ids.size());
    CheckSequenceLength(length);
    if (grows && length > w.options.ctx_size)
      throw Error(ErrorCode::kUsage,
                  StrCat("--ctx-size ", w.options.ctx_size, ": the sequence would have ", length, " tokens"));
  }
}

}  // namespace

std::span<const float> Model::Forward(std::span<const Segment> segments, LogitsOf which, ThreadPool& pool,
                                      ForwardScratch& scratch) const {
  const ModelWeights& w = *weights_;
  CheckSegments(w, segments);
  w.CheckUnchanged();
  ForwardScratch::Data& s = scratch.data();
  const int64_t V = w.config.vocab_size;
  int64_t total = 0;
  for (const Segment& segment : segments) total += static_cast<int64_t>(segment.ids.size());
  const int64_t out_rows = which == LogitsOf::kAll    ? total
                           : which == LogitsOf::kLast ? static_cast<int64_t>(segments.size())
                                                      : 0;
  float* logits = s.logits.Get(out_rows * V);

  // Passes of at most kPassTokens rows, segments in order.
  int64_t done = 0, out = 0;
  size_t segment = 0, offset = 0;
  while (segment < segments.size()) {
    s.pieces.clear();
    s.row_ids.clear();
    int32_t* wanted = s.wanted.Get(kPassTokens);
    int64_t rows = 0, n_wanted = 0;
    while (segment < segments.size() && rows < kPassTokens) {
      const Segment& now = segments[segment];
      const int64_t left = static_cast<int64_t>(now.ids.size() - offset), T = std::min(left, kPassTokens - rows);
      s.pieces.push_back({now.state, rows, T, now.state->pos()});
      const auto ids = now.ids.subspan(offset, static_cast<size_t>(T));
      s.row_ids.insert(s.row_ids.end(), ids.begin(), ids.end());
      if (which == LogitsOf::kAll)
        for (int64_t t = 0; t < T; ++t) wanted[n_wanted++] = static_cast<int32_t>(rows + t);
      else if (which == LogitsOf::kLast && T == left)
        wanted[n_wanted++] = static_cast<int32_t>(rows + T - 1);
      rows += T;
      offset += static_cast<size_t>(T);
      if (T == left) ++segment, offset = 0;
    }
    Pass pass(w, s, s.pieces, pool);
    pass.Run();
    for (const Piece& p : s.pieces)
      p.state->Append(std::span(s.row_ids).subspan(static_cast<size_t>(p.row), static_cast<size_t>(p.T)));
    if (n_wanted > 0) pass.Logits({wanted, static_cast<size_t>(n_wanted)}, logits + out * V);
    out += n_wanted;
    done += rows;
  }
  HYDRA_CHECK(done == total && out == out_rows);
  return {logits, static_cast<size_t>(out_rows * V)};
}

std::span<const float> Model::Prefill(SequenceState& state, std::span<const int32_t> ids, ThreadPool& pool) const {
  if (ids.empty()) throw Error(ErrorCode::kUsage, "prompt: no tokens");
  const Segment segment{&state, ids};
  return Forward({&segment, 1}, LogitsOf::kLast, pool, state.scratch());
}

std::span<const float> Model::Step(SequenceState& state, int32_t id, ThreadPool& pool) const {
  return Prefill(state, {&id, 1}, pool);
}

}  // namespace hydra
