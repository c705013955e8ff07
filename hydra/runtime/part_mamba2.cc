// SPDX-License-Identifier: Apache-2.0
// Mamba-2: projection, convolution, SSD, gated norm. Formulas: specs/hydra.md 2.
// Dims: n rows, H heads, P head_dim, N d_state, G groups, di = H P, cd = di + 2 G N.
#include "hydra/runtime/part.h"

namespace hydra {
namespace {

class Mamba2 final : public Part {
 public:
  [[nodiscard]] bool In(const ModelConfig& config, const LayerConfig& layer) const override {
    return layer.ssm && config.ssm.kind == SsmKind::kMamba2;
  }
  [[nodiscard]] int Path() const override { return 0; }
  [[nodiscard]] int64_t ScratchFloats() const override {
    return kernels::SsdScratchFloats(std::min(ssm().scan_chunk, pass_->longest), ssm().head_dim, ssm().d_state);
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
      case kSsd: return Ssd(p, task.begin, task.end, scratch);
      default: return Norm(p, task.begin, task.end);
    }
  }

  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    products.push_back(IntoStream(block().ssm.out_proj, y_.data(), ssm().d_inner()));
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
    kernels::Conv({.x = zxbcdt_.data() + p.row * c.in_proj_dim() + c.d_inner(),
                   .w = w.conv_w.data(),
                   .b = w.conv_b.empty() ? nullptr : w.conv_b.data(),
                   .state = p.state->At(At(p).conv),
                   .y = conv_.data() + p.row * c.conv_dim(),
                   .T = p.T,
                   .C = c.conv_dim(),
                   .K = c.d_conv,
                   .x_stride = c.in_proj_dim(),
                   .c0 = begin,
                   .c1 = end});
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
