// SPDX-License-Identifier: Apache-2.0
// The walk of a pass: embedding, blocks, final norm, head. Formulas: specs/hydra.md 1.
#include "hydra/runtime/pass.h"

#include <algorithm>
#include <cmath>

namespace hydra {

using kernels::MatMulArgs;

namespace {

int64_t FloatBytes(const F32& tensor) { return static_cast<int64_t>(tensor.size() * sizeof(float)); }

}  // namespace

std::vector<std::unique_ptr<Part>> MakeParts() {
  std::vector<std::unique_ptr<Part>> parts;
  for (const auto make : {MakeMamba2, MakeDiagonal, MakeFullAttention, MakeSparseAttention, MakeLatentAttention,
                          MakeChunkExperts, MakeBlockFfn, MakeDense, MakeWorkspace, MakeProductKeys})
    parts.push_back(make());
  return parts;
}

std::vector<std::string> OwnerNames(const ForwardScratch::Data& scratch) {
  std::vector<std::string> names;
  for (const auto& part : scratch.parts) names.emplace_back(part->Name());
  for (const char* name : {"norms and gates", "embedding", "head"}) names.emplace_back(name);
  return names;
}

int64_t ForwardScratch::Data::bytes() const {
  int64_t sum = matmul.bytes() + wanted.bytes() + wanted_at.bytes() + positions.bytes() + before.bytes();
  for (const auto* b : {&x, &u, &last, &logits, &workers}) sum += b->bytes();
  for (size_t i = 0; i < 3; ++i) sum += scale[i].bytes() + packed[i].bytes() + active[i].bytes();
  for (const auto& part : parts) sum += part->bytes();
  return sum;
}

Pass::Pass(const ModelWeights& weights, ForwardScratch::Data& scratch, std::span<const Piece> pieces, ThreadPool& pool)
    : w_(weights),
      c_(weights.config),
      s_(scratch),
      pool_(pool),
      act_(weights.act()),
      view_{.weights = weights,
            .config = weights.config,
            .pieces = pieces,
            .n = 0,
            .longest = 0,
            .steps = 0,
            .threads = pool.threads(),
            .positions = nullptr,
            .x = nullptr,
            .u = nullptr,
            .moved = &scratch.moved,
            .experts = &scratch.experts,
            .trace = scratch.trace,
            .routing = scratch.routing} {
  for (const Piece& p : pieces) {
    view_.n += p.T, view_.longest = std::max(view_.longest, p.T);
    if (IsStep(p) && p.row == view_.steps) view_.steps += p.T;  // not the last token of a prompt behind another
  }
}

void Pass::Run() {
  s_.round.products.clear();  // a pass that failed may have left some
  const int64_t D = c_.d_model, n = view_.n;
  view_.x = s_.x.Get(n * D);
  view_.u = s_.u.Get(n * D);
  s_.moved.weights += n * RowBytes(w_.embedding.type, w_.embedding.cols);
  constexpr int64_t kRows = 32;
  ForRows(OwnerOf(Owner::kEmbedding), n, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernels::DecodeMatrixRow(w_.embedding, s_.row_ids[static_cast<size_t>(i)], view_.x + i * D);
    const auto scale = static_cast<float>(c_.embedding_scale());
    for (int64_t i = begin * D; scale != 1 && i < end * D; ++i) view_.x[i] *= scale;
  });
  int64_t* positions = s_.positions.Get(n);
  for (const Piece& p : view_.pieces)
    for (int64_t t = 0; t < p.T; ++t) positions[p.row + t] = p.pos + t;
  view_.positions = positions;
  if (view_.trace != nullptr) TraceTokens();
  for (int layer = 0; layer < c_.n_layers(); ++layer) RunBlock(layer);
}

// Parallel: x += a1 g1 SSM(u) + a2 g2 SGA(u) + a3 g3 MoE(u), which is one group; then the memories, a group each.
// Sequential: x += mixer(norm(x)); x += ffn(norm(x)).
void Pass::RunBlock(int layer) {
  const BlockWeights& block = w_.blocks[static_cast<size_t>(layer)];
  const LayerConfig& config = c_.layers[static_cast<size_t>(layer)];
  s_.group.clear();
  for (const auto& part : s_.parts) {
    if (!part->In(c_, config)) continue;
    if (!s_.group.empty() && &part->NormOf(block) != &s_.group.front()->NormOf(block)) {
      RunGroup(layer, s_.group);
      s_.group.clear();
    }
    s_.group.push_back(part.get());
  }
  if (!s_.group.empty()) RunGroup(layer, s_.group);
  if (view_.trace != nullptr) TraceStream(layer);
}

void Pass::RunGroup(int layer, std::span<Part* const> group) {
  NormAndScales(layer, group.front()->NormOf(w_.blocks[static_cast<size_t>(layer)]));
  if (view_.trace != nullptr && group.front()->Path() >= 0) TraceGates(layer);
  s_.began.clear();
  for (Part* part : group) {
    const Share share = ShareOf(layer, *part);
    if (share.n == 0) continue;
    part->Begin(view_, layer, share);
    s_.began.push_back(part);
  }
  s_.going = s_.began;
  for (int round = 0; !s_.going.empty(); ++round) {
    s_.round.tasks.clear();
    std::erase_if(s_.going, [&](Part* part) {
      const size_t first = s_.round.products.size();
      const bool more = part->AddRound(round, s_.round);
      SetOwner(first, part);
      return !more;
    });
    RunRound();
  }
  for (Part* part : s_.began) {
    if (view_.trace != nullptr) {
      TraceOutput(layer, *part);
      continue;
    }
    const size_t first = s_.round.products.size();
    part->AddOutput(s_.round.products);
    SetOwner(first, part);
  }
  Products();
}

// ---- For a trace ----

void Pass::TraceTokens() {
  view_.trace->BeginPass(view_.n, c_.n_layers());
  for (const Piece& p : view_.pieces)
    for (int64_t t = 0; t < p.T; ++t) {
      TokenTrace& token = view_.trace->Row(p.row + t);
      token.sequence = p.state;
      token.id = s_.row_ids[static_cast<size_t>(p.row + t)];
      token.position = p.pos + t;
    }
}

void Pass::TraceGates(int layer) {
  if (c_.wiring != Wiring::kParallel) return;
  const LayerConfig& parts = c_.layers[static_cast<size_t>(layer)];
  const bool has[] = {parts.ssm, parts.attention != AttentionKind::kNone, parts.ffn != FfnKind::kNone};
  for (int64_t row = 0; row < view_.n; ++row)
    for (size_t i = 0; i < 3; ++i)
      if (has[i]) view_.trace->At(row, layer).gate[i] = s_.scale[i].data()[row];
}

void Pass::TraceOutput(int layer, Part& part) {
  const int64_t D = c_.d_model, n = view_.n;
  float* before = s_.before.Get(n * D);
  std::copy_n(view_.x, n * D, before);
  part.AddOutput(s_.round.products);
  if (s_.round.products.empty()) return;  // it has added by itself, and told so
  Products();
  const auto kind = static_cast<size_t>(part.TracedAs());
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t d = row * D; d < (row + 1) * D; ++d) before[d] = view_.x[d] - before[d];
    view_.trace->At(row, layer).size[kind] = std::sqrt(kernels::Dot(before + row * D, before + row * D, D));
  }
}

void Pass::TraceStream(int layer) {
  const int64_t D = c_.d_model;
  for (int64_t row = 0; row < view_.n; ++row)
    view_.trace->At(row, layer).stream = std::sqrt(kernels::Dot(view_.x + row * D, view_.x + row * D, D));
}

size_t Pass::OwnerOf(const Part* part) const {
  const auto at = std::ranges::find(s_.parts, part, &std::unique_ptr<Part>::get);
  return static_cast<size_t>(at - s_.parts.begin());
}

void Pass::SetOwner(size_t first, const Part* part) {
  if (!s_.clock) return;
  for (size_t i = first; i < s_.round.products.size(); ++i)
    s_.round.products[i].owner = 2 * static_cast<int>(OwnerOf(part));
}

void Pass::RunRound() {
  Products();
  if (s_.round.tasks.empty()) return;
  int64_t floats = 0;
  for (const Task& task : s_.round.tasks) floats = std::max(floats, task.part->ScratchFloats());
  constexpr int64_t kLine = 16;  // floats of a cache line
  floats = (floats + kLine - 1) / kLine * kLine;
  float* workers = s_.workers.Get(floats * pool_.threads());
  pool_.For(static_cast<int64_t>(s_.round.tasks.size()), [&](int64_t i, int worker) {
    const Task& task = s_.round.tasks[static_cast<size_t>(i)];
    Time(worker, s_.clock ? OwnerOf(task.part) : 0, [&] { task.part->Run(task, workers + worker * floats); });
  });
}

void Pass::Products() {
  if (s_.round.products.empty()) return;
  for (const MatMulArgs& product : s_.round.products)
    if (product.T > 0) s_.moved.weights += kernels::MatrixBytes(product.w);
  kernels::MatMul(s_.round.products, ProductOptions(), pool_, s_.matmul);
  s_.round.products.clear();
}

void Pass::NormAndScales(int layer, const F32& norm) {
  const BlockWeights& block = w_.blocks[static_cast<size_t>(layer)];
  const int64_t D = c_.d_model, n = view_.n;
  const bool scales = c_.wiring == Wiring::kParallel && &norm == &block.norm;
  for (size_t i = 0; scales && i < 3; ++i) s_.scale[i].Get(n);
  s_.moved.weights += FloatBytes(norm);
  if (scales)
    s_.moved.weights += sizeof(block.gates) + FloatBytes(block.controller) + FloatBytes(block.controller_bias);
  constexpr int64_t kRows = 32;
  ForRows(OwnerOf(Owner::kNorms), n, kRows, [&](int64_t begin, int64_t end) {
    kernels::RmsNorm({.x = view_.x + begin * D,
                      .w = norm.data(),
                      .y = s_.u.data() + begin * D,
                      .T = end - begin,
                      .D = D,
                      .eps = static_cast<float>(c_.norm_eps)});
    for (size_t i = 0; scales && i < view_.pieces.size(); ++i) {
      const Piece& p = view_.pieces[i];
      Scales(layer, p, std::max(begin, p.row), std::min(end, p.row + p.T));
    }
  });
}

void Pass::Scales(int layer, const Piece& piece, int64_t begin, int64_t end) {
  const BlockWeights& block = w_.blocks[static_cast<size_t>(layer)];
  const int64_t D = c_.d_model;
  for (size_t i = 0; i < 3; ++i) {
    const auto a = static_cast<float>(piece.state->controls(layer).path_scale[i]) * block.gates[i];
    float* scale = s_.scale[i].data();
    for (int64_t t = begin; t < end; ++t) {
      scale[t] = a;
      if (block.controller.empty()) continue;
      const float* row = block.controller.data() + static_cast<int64_t>(i) * D;
      scale[t] *= 2 / (1 + std::exp(-(kernels::Dot(row, view_.u + t * D, D) + block.controller_bias[i])));
    }
  }
}

Share Pass::ShareOf(int layer, const Part& part) {
  if (c_.wiring != Wiring::kParallel || part.Path() < 0) {
    Share share{.n = view_.n, .steps = view_.steps};
    if (c_.residual_scale() != 1) {
      float* scale = s_.scale[0].Get(view_.n);
      std::fill_n(scale, view_.n, static_cast<float>(c_.residual_scale()));
      share.by_row = share.packed = scale;
    }
    return share;
  }
  const auto path = static_cast<size_t>(part.Path());
  const float* by_row = s_.scale[path].data();
  Share share{.path = part.Path(), .n = view_.n, .steps = view_.steps, .by_row = by_row, .packed = by_row};
  const auto on = [&](const Piece& p) { return p.state->controls(layer).path_scale[path] != 0; };
  if (std::all_of(view_.pieces.begin(), view_.pieces.end(), on)) return share;
  int32_t* list = s_.active[path].Get(view_.n);
  float* packed = s_.packed[path].Get(view_.n);
  share.n = share.steps = 0;
  for (const Piece& p : view_.pieces)
    for (int64_t t = p.row; on(p) && t < p.row + p.T; ++t) {
      list[share.n] = static_cast<int32_t>(t);
      packed[share.n++] = by_row[t];
      if (t < view_.steps) share.steps = share.n;
    }
  share.list = list;
  share.packed = packed;
  return share;
}

void Pass::Logits(std::span<const int32_t> rows, const int32_t* at, float* logits) {
  const int64_t D = c_.d_model, n = static_cast<int64_t>(rows.size());
  s_.moved.weights += FloatBytes(w_.final_norm) + kernels::MatrixBytes(w_.head);
  float* last = s_.last.Get(n * D);
  constexpr int64_t kRows = 8;
  ForRows(OwnerOf(Owner::kHead), n, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernels::RmsNorm({.x = view_.x + rows[static_cast<size_t>(i)] * D,
                        .w = w_.final_norm.data(),
                        .y = last + i * D,
                        .T = 1,
                        .D = D,
                        .eps = static_cast<float>(c_.norm_eps)});
  });
  const int64_t steps = std::lower_bound(rows.begin(), rows.end(), view_.steps) - rows.begin();
  const MatMulArgs product{.w = w_.head,
                           .x = last,
                           .y = logits,
                           .T = n,
                           .y_rows = at,
                           .steps = steps,
                           .owner = 2 * static_cast<int>(OwnerOf(Owner::kHead))};
  kernels::MatMul(product, ProductOptions(), pool_, s_.matmul);
}

}  // namespace hydra
