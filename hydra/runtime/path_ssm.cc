// SPDX-License-Identifier: Apache-2.0
// The SSM path of a pass: Mamba-2 (projection, convolution, SSD, gated norm) and the diagonal form.
// Formulas: specs/hydra.md 2. Dims: n rows, H heads, P head_dim, N d_state, G groups, di = H P, cd = di + 2 G N.
#include "hydra/runtime/pass.h"

namespace hydra {

void Pass::AddSsmInputs(const SsmWeights& w, const Rows& rows) {
  const int64_t D = c_.d_model;
  if (c_.ssm.kind == SsmKind::kDiagonal) {
    s_.maps.push_back({.w = w.param_proj,
                       .x = s_.u.data(),
                       .y = s_.zxbcdt.Get(n_ * 4 * D),
                       .T = rows.n,
                       .x_rows = rows.list,
                       .y_rows = rows.list});
    s_.maps.push_back({.w = w.skip_proj,
                       .x = s_.u.data(),
                       .y = s_.ssm_y.Get(n_ * D),
                       .T = rows.n,
                       .x_rows = rows.list,
                       .y_rows = rows.list});
    return;
  }
  s_.maps.push_back({.w = w.in_proj,
                     .x = s_.u.data(),
                     .y = s_.zxbcdt.Get(n_ * c_.ssm.in_proj_dim()),
                     .T = rows.n,
                     .x_rows = rows.list,
                     .y_rows = rows.list});
}

void Pass::PrepareSsm(int layer) {
  const SsmConfig& c = c_.ssm;
  const SsmWeights& w = Block(layer).ssm;
  const bool diagonal = c.kind == SsmKind::kDiagonal;
  const int64_t width = diagonal ? c_.d_model : c.n_heads;
  // Enough cuts for every thread; each recomputes the products that heads of a group share.
  const int64_t cuts = std::min<int64_t>(
      width, (pool_.threads() + static_cast<int64_t>(pieces_.size()) - 1) / static_cast<int64_t>(pieces_.size()));
  const int64_t di = c.d_inner(), cd = c.conv_dim(), in = c.in_proj_dim();
  if (!diagonal) {
    s_.conv.Get(n_ * cd);
    s_.dt.Get(n_ * c.n_heads);
    s_.ssm_y.Get(n_ * di);
  }
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& p = pieces_[i];
    if (!PathOn(p, 0)) continue;
    if (!diagonal) {
      const float* raw = s_.zxbcdt.data() + p.row * in;
      kernels::Conv({.x = raw + di,
                     .w = w.conv_w.data(),
                     .b = w.conv_b.empty() ? nullptr : w.conv_b.data(),
                     .state = p.state->At(At(*p.state, layer).conv),
                     .y = s_.conv.data() + p.row * cd,
                     .T = p.T,
                     .C = cd,
                     .K = c.d_conv,
                     .x_stride = in});
      kernels::Dt({.raw = raw + di + cd,
                   .bias = w.dt_bias.data(),
                   .dt = s_.dt.data() + p.row * c.n_heads,
                   .T = p.T,
                   .H = c.n_heads,
                   .stride = in,
                   .lo = static_cast<float>(c.dt_limit[0]),
                   .hi = static_cast<float>(c.dt_limit[1])});
    }
    for (int64_t cut = 0; cut < cuts; ++cut)
      s_.tasks.push_back({diagonal ? Task::kDiagonal : Task::kSsd, static_cast<int32_t>(i), width * cut / cuts,
                          width * (cut + 1) / cuts, 0, 0});
  }
}

void Pass::FinishSsm(int layer) {
  const SsmConfig& c = c_.ssm;
  if (c.kind == SsmKind::kDiagonal) {  // no output map
    const int64_t D = c_.d_model;
    for (const Piece& p : pieces_)
      for (int64_t t = p.row; PathOn(p, 0) && t < p.row + p.T; ++t)
        kernels::Axpy(s_.scale[0].data()[t], s_.ssm_y.data() + t * D, s_.x.data() + t * D, D);
    return;
  }
  const int64_t di = c.d_inner(), in = c.in_proj_dim();
  constexpr int64_t kRows = 16;
  ForRows(n_, kRows, [&](int64_t begin, int64_t end) {
    float* y = s_.ssm_y.data() + begin * di;
    kernels::RmsNorm({.x = y,
                      .w = Block(layer).ssm.norm.data(),
                      .y = y,
                      .T = end - begin,
                      .D = di,
                      .groups = c.norm_groups,
                      .eps = static_cast<float>(c_.norm_eps),
                      .z = s_.zxbcdt.data() + begin * in,
                      .z_stride = in});
  });
}

// ---- Tasks of all paths ----

void Pass::RunTask(int layer, const Task& task, float* scratch) {
  const Piece& p = pieces_[static_cast<size_t>(task.piece)];
  const BlockOffsets& at = At(*p.state, layer);
  const SsmConfig& c = c_.ssm;
  switch (task.kind) {
    case Task::kSsd: {
      const float* xBC = s_.conv.data() + p.row * c.conv_dim();
      kernels::Ssd({.x = xBC,
                    .B = xBC + c.d_inner(),
                    .C = xBC + c.d_inner() + c.n_groups * c.d_state,
                    .dt = s_.dt.data() + p.row * c.n_heads,
                    .A = Block(layer).ssm.A.data(),
                    .D = Block(layer).ssm.D.data(),
                    .state = p.state->At<std::byte>(at.ssm),
                    .y = s_.ssm_y.data() + p.row * c.d_inner(),
                    .scratch = scratch,
                    .T = p.T,
                    .H = c.n_heads,
                    .P = c.head_dim,
                    .G = c.n_groups,
                    .N = c.d_state,
                    .Q = std::min(c.scan_chunk, p.T),  // scratch is for the tokens that there are
                    .h0 = task.begin,
                    .h1 = task.end,
                    .x_stride = c.conv_dim(),
                    .bc_stride = c.conv_dim(),
                    .state_dtype = p.state->layout().state});
      return;
    }
    case Task::kDiagonal:
      kernels::Diagonal({.params = s_.zxbcdt.data() + p.row * 4 * c_.d_model,
                         .lambda = Block(layer).ssm.lambda.data(),
                         .state = p.state->At(at.ssm),
                         .y = s_.ssm_y.data() + p.row * c_.d_model,
                         .T = p.T,
                         .D = c_.d_model,
                         .d0 = task.begin,
                         .d1 = task.end,
                         .accumulate = true});
      return;
    case Task::kAttention: {
      kernels::AttentionArgs a = AttentionOf(p);
      const bool full = Layer(layer).attention == AttentionKind::kFull;
      a.k = p.state->At<std::byte>(at.k);
      a.v = p.state->At<std::byte>(at.v);
      a.head_rows = full ? p.state->layout().ctx_size : c_.attention.window;
      a.row = full ? p.pos : std::min(p.pos, c_.attention.window - 1);
      a.window = full ? INT64_MAX : c_.attention.window;
      a.t0 = task.begin, a.t1 = task.end;
      a.kv0 = task.kv, a.kv1 = task.kv + 1;
      if (SeesLandmarks(layer, p))
        a.landmarks = Landmarks(layer, p, s_.log_sigmoid.data() + task.piece * c_.attention.landmark_budget);
      a.scratch = scratch;
      kernels::Attention(a);
      return;
    }
    case Task::kAttentionPart: {
      const AttentionConfig& a = c_.attention;
      const int64_t group = a.n_heads / a.n_kv_heads;
      kernels::AttentionPart({.q = s_.q.data() + p.row * a.n_heads * a.head_dim,
                              .k = p.state->At<std::byte>(at.k),
                              .v = p.state->At<std::byte>(at.v),
                              .dtype = p.state->layout().kv,
                              .A = a.n_heads,
                              .Akv = a.n_kv_heads,
                              .Dh = a.head_dim,
                              .head_rows = p.state->layout().ctx_size,
                              .begin = task.begin,
                              .end = task.end,
                              .scale = AttentionOf(p).scale,
                              .kv = task.kv,
                              .part = s_.parts.data() + task.part * group * (a.head_dim + 2),
                              .scratch = scratch});
      return;
    }
    case Task::kSwiGlu: {
      const int64_t F = c_.moe.d_expert;
      float* h = s_.hidden.data() + task.begin * 2 * F;
      kernels::SwiGlu(
          {.gate = h, .up = h + F, .y = h, .T = task.end - task.begin, .F = F, .stride = 2 * F, .y_stride = 2 * F});
      return;
    }
  }
}

void Pass::RunTasks(int layer) {
  if (s_.tasks.empty()) return;
  const SsmConfig& c = c_.ssm;
  const AttentionConfig& a = c_.attention;
  const int64_t floats = (std::max(kernels::SsdScratchFloats(std::min(c.scan_chunk, longest_), c.head_dim, c.d_state),
                                   kernels::AttentionScratchFloats(a.n_heads / a.n_kv_heads, a.head_dim)) +
                          15) /
                         16 * 16;
  float* workers = s_.workers.Get(floats * pool_.threads());
  pool_.For(static_cast<int64_t>(s_.tasks.size()), [&](int64_t i, int worker) {
    RunTask(layer, s_.tasks[static_cast<size_t>(i)], workers + worker * floats);
  });
  s_.tasks.clear();
}

}  // namespace hydra
