// SPDX-License-Identifier: Apache-2.0
// Window + landmark attention as one autograd function on the CPU in fp32: kernels/train_attention.h cut over threads.
// Its slow twin, which also serves other devices and types, is in sparse_attention.cc. Dims as in attention.h.
#include <ATen/Parallel.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "hydra/base/error.h"
#include "hydra/kernels/train_attention.h"
#include "hydra/nn/attention.h"
#include "hydra/nn/form.h"

namespace hydra::nn {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

using kernels::AttentionTrainArgs;

constexpr int64_t kChunks = 4;  // of a forward call

// The tensors of one call, contiguous; the last three are undefined without landmarks.
struct AttentionInputs {
  Tensor q, k, v, document, pos, log_sigma, lambda, pools;
};

float* AttentionData(const Tensor& x) { return x.defined() ? x.data_ptr<float>() : nullptr; }

AttentionTrainArgs Arguments(const AttentionInputs& in, int64_t chunk_len, int64_t window, const Tensor& out,
                             const Tensor& log_sum) {
  AttentionTrainArgs a{};
  a.M = in.q.size(0) * in.q.size(1), a.A = in.q.size(2), a.Akv = in.k.size(2), a.Dh = in.q.size(3);
  a.C = chunk_len, a.W = std::min(window, in.q.size(1)), a.G = in.pools.defined() ? in.pools.size(2) : 0;
  a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(a.Dh)));
  a.q = AttentionData(in.q), a.k = AttentionData(in.k), a.v = AttentionData(in.v),
  a.log_sigma = AttentionData(in.log_sigma), a.lambda = AttentionData(in.lambda);
  a.document = in.document.const_data_ptr<int64_t>(), a.pos = in.pos.const_data_ptr<int64_t>();
  a.pools = in.pools.defined() ? in.pools.const_data_ptr<int64_t>() : nullptr;
  a.out = AttentionData(out), a.log_sum = AttentionData(log_sum);
  return a;
}

// f(i, scratch) for i of 0 .. n - 1.
template <class F>
void ForAll(int64_t n, int64_t scratch_floats, const F& f) {
  at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[static_cast<size_t>(scratch_floats)]);  // not cleared
    for (int64_t i = begin; i < end; ++i) f(i, scratch.get());
  });
}

struct FusedAttentionFn : torch::autograd::Function<FusedAttentionFn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::optional<Tensor>& log_sigma, const std::optional<Tensor>& lambda,
                        const std::optional<Tensor>& pools, const Tensor& document, const Tensor& pos,
                        int64_t chunk_len, int64_t window) {
    const auto given = [](const std::optional<Tensor>& x) { return x ? x->contiguous() : Tensor(); };
    const AttentionInputs in{q.contiguous(),   k.contiguous(), v.contiguous(), document, pos,
                             given(log_sigma), given(lambda),  given(pools)};
    const Tensor out = torch::empty_like(in.q), log_sum = torch::empty({q.size(0), q.size(1), q.size(2)}, q.options());
    const AttentionTrainArgs a = Arguments(in, chunk_len, window, out, log_sum);
    const int64_t chunks = a.M / a.C, blocks = (chunks + kChunks - 1) / kChunks;
    ForAll(a.Akv * blocks, kernels::AttentionTrainScratchFloats(a), [&](int64_t i, float* scratch) {
      const int64_t c0 = i / a.Akv * kChunks;
      kernels::AttentionTrain(a, i % a.Akv, c0, std::min(c0 + kChunks, chunks), scratch);
    });
    ctx->save_for_backward({in.q, in.k, in.v, document, pos, in.log_sigma, in.lambda, in.pools, out, log_sum});
    ctx->saved_data["chunk_len"] = chunk_len;
    ctx->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto s = ctx->get_saved_variables();
    const AttentionInputs in{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]};
    AttentionTrainArgs a =
        Arguments(in, ctx->saved_data["chunk_len"].toInt(), ctx->saved_data["window"].toInt(), s[8], s[9]);
    const int64_t B = in.q.size(0), chunks = a.M / a.C / B;
    const Tensor dout = grads[0].contiguous(), dq = torch::empty_like(in.q), dk = torch::zeros_like(in.k),
                 dv = torch::zeros_like(in.v);
    a.dout = AttentionData(dout), a.dq = AttentionData(dq), a.dk = AttentionData(dk), a.dv = AttentionData(dv);
    Tensor dsigma, dlambda;  // of each head; of each row
    if (a.G > 0) {
      dsigma = torch::zeros({a.Akv, a.M}, dout.options());
      dlambda = torch::zeros({B, a.A}, dout.options());
      a.dsigma = AttentionData(dsigma);
    }
    // What a head's chunks of one row add to overlaps: one call each, in order, whatever the number of threads.
    ForAll(B * a.Akv, kernels::AttentionTrainScratchFloats(a), [&](int64_t i, float* scratch) {
      AttentionTrainArgs of_row = a;
      const int64_t b = i / a.Akv;
      of_row.dlambda = a.G > 0 ? AttentionData(dlambda) + b * a.A : nullptr;
      kernels::AttentionTrainBackward(of_row, i % a.Akv, b * chunks, (b + 1) * chunks, scratch);
    });
    return {dq,
            dk,
            dv,
            a.G > 0 ? dsigma.sum(0).view_as(in.log_sigma) : Tensor(),
            a.G > 0 ? dlambda.sum(0) : Tensor(),
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

}  // namespace

Tensor SparseAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_sigma, const Tensor& lambda,
                       const Tensor& pools, const Layout& layout, int64_t window) {
  HYDRA_CHECK(!pools.defined() || (log_sigma.defined() && lambda.defined()), "landmarks without scores");
  if (ChooseForm(Op::kSparseAttention, {q, k, v, log_sigma, lambda}) != Form::kFused)
    return composite::SparseAttention(q, k, v, log_sigma, lambda, pools, layout, window);
  HYDRA_CHECK(q.size(1) == layout.T && layout.T % layout.C == 0 && q.size(2) % k.size(2) == 0, "q ", q.sizes(), " k ",
              k.sizes());
  const auto maybe = [](const Tensor& x) { return x.defined() ? std::optional<Tensor>(x) : std::nullopt; };
  const Tensor row = torch::arange(0, layout.B * layout.T, layout.T, torch::kInt64).unsqueeze(1);
  return FusedAttentionFn::apply(q, k, v, maybe(log_sigma), maybe(lambda), maybe(pools),
                                 (layout.doc_start + row).contiguous(), layout.pos.contiguous(), layout.C, window);
}

}  // namespace hydra::nn
