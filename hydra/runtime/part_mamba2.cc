// SPDX-License-Identifier: Apache-2.0
// Mamba-2: projection, convolution, SSD, gated norm. Formulas: specs/hydra.md 2.
// Dims: n rows, H heads, P head_dim, N d_state, G groups, di = H P, cd = di + 2 G N.
#include <algorithm>
#include <cstring>

#include "hydra/runtime/part.h"

namespace hydra {
namespace {

class Mamba2 final : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "Mamba-2"; }
  [[nodiscard]] bool In(const ModelConfig& config, const LayerConfig& layer) const override {
    return layer.ssm && config.ssm.kind == SsmKind::kMamba2;
  }
  [[nodiscard]] int Path() const override { return 0; }
  [[nodiscard]] int64_t ScratchFloats() const override {
    const SsmConfig& c = ssm();
    const int64_t state = c.head_dim * c.d_state;  // of a head, in provisional passes
    return state + kernels::SsdScratchFloats(std::min(c.scan_chunk, pass_->longest), c.head_dim, c.d_state);
  }
  [[nodiscard]] int64_t bytes() const override { return zxbcdt_.bytes() + conv_.bytes() + dt_.bytes() + y_.bytes(); }

  // Round 0: projection, convolution and dt; 1: SSD; 2: gated norm.
  bool AddRound(int round, Round& out) override {
    if (round > 2) return false;
    const SsmConfig& c = ssm();
    if (round == 0) {
      out.products.push_back(OfInput(block().ssm.in_proj, zxbcdt_.Get(pass_->n * c.in_proj_dim())));
      conv_.Get(pass_->n * c.conv_dim());
      dt_.Get(pass_->n * c.n_heads);
      y_.Get(pass_->n * c.d_inner());
      const SsmWeights& w = block().ssm;
      CountWeights({&w.conv_w, &w.conv_b, &w.A, &w.D, &w.dt_bias, &w.norm});
    }
    for (size_t i = 0; i < pieces().size(); ++i) {
      const Piece& p = pieces()[i];
      const auto piece = static_cast<int32_t>(i);
      if (!On(p)) continue;
      if (round == 0) {
        CountState(p, StatePart::kConv);
        CountState(p, StatePart::kSsm);
        // A cut of a few lines of the cache; the convolution of a token or two is less work than handing it out.
        constexpr int64_t kChannels = 128, kFew = 4, kRows = 64;
        AddTasks(out, kConv, piece, c.conv_dim(), p.T <= kFew ? c.conv_dim() : kChannels);
        AddTasks(out, kDt, piece, p.T, kRows);
      } else if (round == 1) {
        const int64_t cuts = Cuts();
        for (int64_t cut = 0; cut < cuts; ++cut)
          out.tasks.push_back({this, kSsd, piece, c.n_heads * cut / cuts, c.n_heads * (cut + 1) / cuts});
      } else {
        constexpr int64_t kRows = 16;
        AddTasks(out, kNorm, piece, p.T, kRows);
      }
    }
    return true;
  }

  void Run(const Task& task, float* scratch) override {
    const Piece& p = pieces()[static_cast<size_t>(task.piece)];
    switch (task.kind) {
      case kConv: return Conv(p, task.begin, task.end);
      case kDt: return Dt(p, task.begin, task.end);
      case kSsd:
        return p.kept == nullptr ? Ssd(p, task.begin, task.end, scratch) : SsdSteps(p, task.begin, task.end, scratch);
      default: return Norm(p, task.begin, task.end);
    }
  }

  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    products.push_back(IntoStream(block().ssm.out_proj, y_.data(), ssm().d_inner()));
  }

  void Commit(const Accepted& a) const override {
    if (!a.On(Path())) return;
    const SsmConfig& c = a.config().ssm;
    const KeptOffsets& kept = a.kept_at();
    const StateDtype dtype = a.state.layout().state;
    for (int64_t head = 0; head < c.n_heads; ++head)
      for (int64_t t = 0; t < a.m; ++t)
        StepHead(c, a.block().ssm, head, a.Kept(kept.xbc) + t * c.conv_dim(), a.Kept(kept.dt) + t * c.n_heads, dtype,
                 a.state.At<std::byte>(a.at().ssm) + head * HeadBytes(c, dtype), a.Kept(kept.y));
    // The last K - 1 of the rows before and the new ones.
    float* rows = a.state.At(a.at().conv);
    const int64_t before = c.d_conv - 1, width = c.conv_dim();
    for (int64_t i = 0; i < before; ++i) {
      const int64_t from = i + a.m;
      std::copy_n(from < before ? rows + from * width : a.Kept(kept.conv) + (from - before) * width, width,
                  rows + i * width);
    }
  }

 private:
  enum Kind : int32_t { kConv, kDt, kSsd, kNorm };

  [[nodiscard]] const SsmConfig& ssm() const { return config().ssm; }
  // Enough cuts of a piece's heads for every thread; each recomputes the products that heads of a group share.
  [[nodiscard]] int64_t Cuts() const {
    const auto n = static_cast<int64_t>(pieces().size());
    return std::min<int64_t>(ssm().n_heads, (pass_->threads + n - 1) / n);
  }

  void Conv(const Piece& p, int64_t begin, int64_t end) {
    const SsmConfig& c = ssm();
    const SsmWeights& w = block().ssm;
    const float* x = zxbcdt_.data() + p.row * c.in_proj_dim() + c.d_inner();
    float *state = p.state->At(At(p).conv), *y = conv_.data() + p.row * c.conv_dim();
    if (p.kept != nullptr) {
      float* copy = p.kept->At(KeptAt(p).conv_state);
      CopyColumns(state, c.conv_dim(), c.d_conv - 1, begin, end, copy);
      state = copy;
      CopyColumns(x, c.in_proj_dim(), p.T, begin, end, p.kept->At(KeptAt(p).conv));
    }
    kernels::Conv({.x = x,
                   .w = w.conv_w.data(),
                   .b = w.conv_b.empty() ? nullptr : w.conv_b.data(),
                   .state = state,
                   .y = y,
                   .T = p.T,
                   .C = c.conv_dim(),
                   .K = c.d_conv,
                   .x_stride = c.in_proj_dim(),
                   .c0 = begin,
                   .c1 = end});
    if (p.kept != nullptr) CopyColumns(y, c.conv_dim(), p.T, begin, end, p.kept->At(KeptAt(p).xbc));
  }

  // The columns [begin, end) of some rows, to rows of conv_dim.
  void CopyColumns(const float* from, int64_t stride, int64_t rows, int64_t begin, int64_t end, float* to) const {
    for (int64_t i = 0; i < rows; ++i)
      std::copy_n(from + i * stride + begin, end - begin, to + i * ssm().conv_dim() + begin);
  }

  void Dt(const Piece& p, int64_t begin, int64_t end) {
    const SsmConfig& c = ssm();
    const int64_t row = p.row + begin;
    kernels::Dt({.raw = zxbcdt_.data() + row * c.in_proj_dim() + c.d_inner() + c.conv_dim(),
                 .bias = block().ssm.dt_bias.data(),
                 .dt = dt_.data() + row * c.n_heads,
                 .T = end - begin,
                 .H = c.n_heads,
                 .stride = c.in_proj_dim(),
                 .lo = static_cast<float>(c.dt_limit[0]),
                 .hi = static_cast<float>(c.dt_limit[1])});
    if (p.kept != nullptr)
      std::copy_n(dt_.data() + row * c.n_heads, (end - begin) * c.n_heads,
                  p.kept->At(KeptAt(p).dt) + begin * c.n_heads);
  }

  // One step of one head, with its state [P, N] anywhere; x, B, C, dt and y are rows of all heads and groups.
  static void StepHead(const SsmConfig& c, const SsmWeights& w, int64_t head, const float* xbc, const float* dt,
                       StateDtype dtype, void* state, float* y) {
    const float* B = xbc + c.d_inner() + head * c.n_groups / c.n_heads * c.d_state;
    kernels::Ssd({.x = xbc + head * c.head_dim,
                  .B = B,
                  .C = B + c.n_groups * c.d_state,
                  .dt = dt + head,
                  .A = w.A.data() + head,
                  .D = w.D.data() + head,
                  .state = state,
                  .y = y + head * c.head_dim,
                  .scratch = nullptr,
                  .T = 1,
                  .H = 1,
                  .P = c.head_dim,
                  .G = 1,
                  .N = c.d_state,
                  .Q = 1,
                  .h0 = 0,
                  .h1 = 1,
                  .state_dtype = dtype});
  }

  // Step by step on a copy of each head's state.
  void SsdSteps(const Piece& p, int64_t begin, int64_t end, float* scratch) {
    const SsmConfig& c = ssm();
    const StateDtype dtype = p.state->layout().state;
    const int64_t bytes = HeadBytes(c, dtype);
    for (int64_t head = begin; head < end; ++head) {
      std::memcpy(scratch, p.state->At<std::byte>(At(p).ssm) + head * bytes, static_cast<size_t>(bytes));
      for (int64_t t = p.row; t < p.row + p.T; ++t)
        StepHead(c, block().ssm, head, conv_.data() + t * c.conv_dim(), dt_.data() + t * c.n_heads, dtype, scratch,
                 y_.data() + t * c.d_inner());
    }
  }
  static int64_t HeadBytes(const SsmConfig& c, StateDtype dtype) {
    return c.head_dim * c.d_state * (dtype == StateDtype::kBF16 ? 2 : 4);
  }

  void Ssd(const Piece& p, int64_t begin, int64_t end, float* scratch) {
    const SsmConfig& c = ssm();
    const float* xBC = conv_.data() + p.row * c.conv_dim();
    kernels::Ssd({.x = xBC,
                  .B = xBC + c.d_inner(),
                  .C = xBC + c.d_inner() + c.n_groups * c.d_state,
                  .dt = dt_.data() + p.row * c.n_heads,
                  .A = block().ssm.A.data(),
                  .D = block().ssm.D.data(),
                  .state = p.state->At<std::byte>(At(p).ssm),
                  .y = y_.data() + p.row * c.d_inner(),
                  .scratch = scratch,
                  .T = p.T,
                  .H = c.n_heads,
                  .P = c.head_dim,
                  .G = c.n_groups,
                  .N = c.d_state,
                  .Q = std::min(c.scan_chunk, p.T),  // scratch is for the tokens that there are
                  .h0 = begin,
                  .h1 = end,
                  .x_stride = c.conv_dim(),
                  .bc_stride = c.conv_dim(),
                  .state_dtype = p.state->layout().state});
  }

  void Norm(const Piece& p, int64_t begin, int64_t end) {
    const SsmConfig& c = ssm();
    float* y = y_.data() + (p.row + begin) * c.d_inner();
    kernels::RmsNorm({.x = y,
                      .w = block().ssm.norm.data(),
                      .y = y,
                      .T = end - begin,
                      .D = c.d_inner(),
                      .groups = c.norm_groups,
                      .eps = static_cast<float>(config().norm_eps),
                      .z = zxbcdt_.data() + (p.row + begin) * c.in_proj_dim(),
                      .z_stride = c.in_proj_dim()});
  }

  Buffer<float> zxbcdt_, conv_, dt_, y_;  // [n, in_proj_dim], [n, cd], [n, H], [n, di]
};

}  // namespace

std::unique_ptr<Part> MakeMamba2() { return std::make_unique<Mamba2>(); }

}  // namespace hydra
