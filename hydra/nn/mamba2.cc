// SPDX-License-Identifier: Apache-2.0
// Mamba-2 between its projections as one autograd function on the CPU in fp32: the order of the phases of
// kernels/train_mamba.h, cut over threads. Its slow twin, which also serves other devices and types, is in ssm.cc.
// Dims as in kernels/train_mamba.h.
#include <ATen/Parallel.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/kernels/train_mamba.h"
#include "hydra/nn/form.h"
#include "hydra/nn/functions.h"
#include "hydra/nn/ssm.h"

namespace hydra::nn {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

using kernels::MambaChunk;
using kernels::MambaTrainArgs;

constexpr int64_t kStrip = 64;     // tokens of a strip, at least where the row has as many
constexpr int64_t kStateRows = 8;  // rows of a state that a thread passes on at a time
constexpr int64_t kChannels = 32;  // of the convolution, that a thread goes back through at a time

// What is known before any number is: the chunks, and how they are cut over threads. Cuts depend on documents only, so
// sums keep their order whatever the number of threads.
struct Plan {
  std::vector<MambaChunk> chunks;
  std::vector<int64_t> strips;  // first chunk of each run of chunks of one row, and the end
  std::vector<int64_t> rows;    // first chunk of each row, and the end

  // start [B, T] int64: row offset where the token's document begins.
  Plan(const Tensor& start, int64_t Q) {
    const int64_t B = start.size(0), T = start.size(1);
    const int64_t* s = start.const_data_ptr<int64_t>();
    for (int64_t b = 0; b < B; ++b) {
      rows.push_back(Count());
      int64_t strip_begin = b * T;
      for (int64_t t = 0; t < T;) {
        const int64_t document = s[b * T + t];
        int64_t end = t + 1;
        while (end < T && end < t + Q && s[b * T + end] == document) ++end;
        if (t == 0 || b * T + t - strip_begin >= kStrip) {
          strips.push_back(Count());
          strip_begin = b * T + t;
        }
        chunks.push_back({b * T + t, b * T + end, b * T + document});
        t = end;
      }
    }
    rows.push_back(Count());
    strips.push_back(Count());
  }
  [[nodiscard]] int64_t Count() const { return static_cast<int64_t>(chunks.size()); }
  [[nodiscard]] int64_t Strips() const { return static_cast<int64_t>(strips.size()) - 1; }
  [[nodiscard]] int64_t Rows() const { return static_cast<int64_t>(rows.size()) - 1; }
};

// f(strip, first chunk, last chunk + 1, scratch) for all strips.
template <class F>
void ForStrips(const Plan& plan, int64_t scratch_floats, const F& f) {
  at::parallel_for(0, plan.Strips(), 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[static_cast<size_t>(scratch_floats)]);  // not cleared
    for (int64_t i = begin; i < end; ++i)
      f(i, plan.strips[static_cast<size_t>(i)], plan.strips[static_cast<size_t>(i) + 1], scratch.get());
  });
}

// f(row, its first chunk, last + 1, a, b) for all rows and all blocks a .. b - 1 of 0 .. n - 1.
template <class F>
void ForRowBlocks(const Plan& plan, int64_t n, int64_t block, const F& f) {
  const int64_t blocks = (n + block - 1) / block;
  at::parallel_for(0, plan.Rows() * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto row = static_cast<size_t>(i / blocks);
      const int64_t a = i % blocks * block;
      f(i / blocks, plan.rows[row], plan.rows[row + 1], a, std::min(a + block, n));
    }
  });
}

// n0 .. n1 - 1 of [G N] of all rows, by MambaPassStates or MambaPassGradients.
template <class F>
void PassRows(const Plan& plan, const MambaTrainArgs& a, const F& pass) {
  ForRowBlocks(plan, a.G * a.N, kStateRows, [&](int64_t, int64_t c0, int64_t c1, int64_t n0, int64_t n1) {
    std::vector<float> carry(static_cast<size_t>(a.H / a.G * a.P));
    pass(a, c0, c1, n0, n1, carry.data());
  });
}

struct Numbers : torch::CustomClassHolder {
  Numbers(const SsmConfig& c, double e) : ssm(c), eps(e) {}
  SsmConfig ssm;
  double eps;
};

// The tensors of one call, contiguous.
struct MambaInputs {
  Tensor projected, taps, conv_b, dt_bias, A, D, norm, start, real;  // conv_b, real: undefined where there is none
};

float* MambaData(const Tensor& x) { return x.defined() ? x.data_ptr<float>() : nullptr; }

MambaTrainArgs Arguments(const Numbers& n, const MambaInputs& in, const Plan& plan) {
  const SsmConfig& c = n.ssm;
  MambaTrainArgs a{};
  a.H = c.n_heads, a.P = c.head_dim, a.G = c.n_groups, a.N = c.d_state, a.K = c.d_conv;
  a.Q = std::min(c.scan_chunk, in.start.size(1)), a.norm_groups = c.norm_groups;
  a.eps = static_cast<float>(n.eps);
  a.dt_lo = static_cast<float>(c.dt_limit[0]), a.dt_hi = static_cast<float>(c.dt_limit[1]);
  a.projected = MambaData(in.projected), a.taps = MambaData(in.taps), a.conv_b = MambaData(in.conv_b),
  a.dt_bias = MambaData(in.dt_bias);
  a.A = MambaData(in.A), a.D = MambaData(in.D), a.norm = MambaData(in.norm);
  a.real = in.real.defined() ? in.real.const_data_ptr<bool>() : nullptr;
  a.chunks = plan.chunks.data(), a.n_chunks = plan.Count();
  return a;
}

struct Mamba2Fn : torch::autograd::Function<Mamba2Fn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& projected, const Tensor& conv_w,
                        const std::optional<Tensor>& conv_b, const Tensor& A_log, const Tensor& D,
                        const Tensor& dt_bias, const Tensor& norm, const Tensor& start,
                        const std::optional<Tensor>& real, const c10::intrusive_ptr<Numbers>& numbers) {
    const SsmConfig& c = numbers->ssm;
    const MambaInputs in{projected.contiguous(),
                         conv_w.t().contiguous(),
                         conv_b ? conv_b->contiguous() : Tensor(),
                         dt_bias.contiguous(),
                         -torch::exp(A_log).contiguous(),
                         D.contiguous(),
                         norm.contiguous(),
                         start.contiguous(),
                         real ? real->contiguous() : Tensor()};
    const int64_t B = start.size(0), T = start.size(1);
    const Plan plan(in.start, c.scan_chunk);
    MambaTrainArgs a = Arguments(*numbers, in, plan);
    const auto empty = [&](at::IntArrayRef shape) { return torch::empty(shape, in.projected.options()); };
    const Tensor xBC = empty({B, T, c.conv_dim()}), y = empty({B, T, c.d_inner()}), out = empty({B, T, c.d_inner()});
    const Tensor states = empty({plan.Count(), c.d_state, c.d_inner()}), decay = empty({plan.Count(), c.n_heads});
    a.xBC = MambaData(xBC), a.y = MambaData(y), a.out = MambaData(out), a.states = MambaData(states),
    a.decay = MambaData(decay);
    const int64_t floats = kernels::MambaScratchFloats(a);
    ForStrips(plan, floats, [&](int64_t, int64_t c0, int64_t c1, float* scratch) {
      for (int64_t i = c0; i < c1; ++i) kernels::MambaChunkStates(a, i, scratch);
    });
    PassRows(plan, a, kernels::MambaPassStates);
    ForStrips(plan, floats, [&](int64_t, int64_t c0, int64_t c1, float* scratch) {
      for (int64_t i = c0; i < c1; ++i) kernels::MambaChunkOutputs(a, i, scratch);
    });
    ctx->save_for_backward(
        {in.projected, in.taps, in.conv_b, in.dt_bias, in.A, in.D, in.norm, in.start, in.real, y, states, decay});
    ctx->saved_data["numbers"] = c10::IValue::make_capsule(numbers);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto numbers = c10::static_intrusive_pointer_cast<Numbers>(ctx->saved_data["numbers"].toCapsule());
    const SsmConfig& c = numbers->ssm;
    const MambaInputs in{saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], saved[6], saved[7], saved[8]};
    const Plan plan(in.start, c.scan_chunk);
    MambaTrainArgs a = Arguments(*numbers, in, plan);
    const int64_t H = c.n_heads, di = c.d_inner(), cd = c.conv_dim(), K = c.d_conv;
    const Tensor dout = grads[0].contiguous(), dprojected = torch::empty_like(in.projected),
                 dstates = torch::empty_like(saved[10]);
    const Tensor sums = torch::zeros({plan.Strips(), kernels::MambaSums(a)}, dout.options());
    const Tensor dtaps = torch::zeros({plan.Rows(), K + 1, cd}, dout.options());
    a.y = MambaData(saved[9]), a.states = MambaData(saved[10]), a.decay = MambaData(saved[11]);
    a.dout = MambaData(dout), a.dprojected = MambaData(dprojected), a.dstates = MambaData(dstates);
    const int64_t floats = kernels::MambaScratchFloats(a);
    const auto sums_of = [&](int64_t strip) { return MambaData(sums) + strip * kernels::MambaSums(a); };
    ForStrips(plan, floats, [&](int64_t strip, int64_t c0, int64_t c1, float* scratch) {
      for (int64_t i = c0; i < c1; ++i) kernels::MambaBackwardStates(a, i, sums_of(strip), scratch);
    });
    PassRows(plan, a, kernels::MambaPassGradients);
    ForStrips(plan, floats, [&](int64_t strip, int64_t c0, int64_t c1, float* scratch) {
      for (int64_t i = c0; i < c1; ++i) kernels::MambaBackwardInputs(a, i, sums_of(strip), scratch);
    });
    ForRowBlocks(plan, cd, kChannels, [&](int64_t row, int64_t c0, int64_t c1, int64_t d0, int64_t d1) {
      kernels::MambaBackwardConv(a, c0, c1, d0, d1, MambaData(dtaps) + row * (K + 1) * cd);
    });
    const Tensor sum = sums.sum(0), conv = dtaps.sum(0);
    return {dprojected,
            conv.narrow(0, 0, K).t().contiguous(),
            in.conv_b.defined() ? conv[K] : Tensor(),
            sum.narrow(0, di + H, H) * in.A,
            sum.narrow(0, di, H),
            sum.narrow(0, di + 2 * H, H),
            sum.narrow(0, 0, di),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

}  // namespace

Tensor Mamba2Core(const ModelConfig& config, const SsmWeights& w, const Tensor& projected, const Layout& layout) {
  const SsmConfig& c = config.ssm;
  if (ChooseForm(Op::kMamba2Core, {projected, w.conv_w, w.conv_b, w.A_log, w.D, w.dt_bias, w.norm},
                 {.taps = c.d_conv, .scan_chunk = c.scan_chunk}) != Form::kFused)
    return composite::Mamba2Core(config, w, projected, layout);
  HYDRA_CHECK(projected.dim() == 3 && projected.size(2) == c.in_proj_dim(), "projected ", projected.sizes());
  const auto given = [](bool there, const Tensor& x) { return there ? std::optional<Tensor>(x) : std::nullopt; };
  return Mamba2Fn::apply(projected, w.conv_w.squeeze(1), given(w.conv_b.defined(), w.conv_b), w.A_log, w.D, w.dt_bias,
                         w.norm, layout.doc_start, given(!layout.one_document, layout.real),
                         c10::make_intrusive<Numbers>(c, config.norm_eps));
}

}  // namespace hydra::nn
