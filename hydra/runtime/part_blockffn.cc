// SPDX-License-Identifier: Apache-2.0
// BlockFFN: experts behind a ReLU router, of which only the active ones are read (specs/blockffn.md 1 and 6). The same
// part serves sequential blocks, with a norm of its own, and parallel ones, on the block's norm. Not here: the products
// of lists (kernels/blockffn.h), routing that benchmarks plant (routing_source.h). Dims: n rows, E experts.
#include <algorithm>
#include <bit>
#include <cmath>

#include "hydra/kernels/blockffn.h"
#include "hydra/runtime/offload.h"
#include "hydra/runtime/part.h"
#include "hydra/runtime/routing_source.h"

namespace hydra {
namespace {

class BlockFfn final : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "BlockFFN"; }
  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override {
    return layer.ffn == FfnKind::kBlockFfn;
  }
  [[nodiscard]] int Path() const override { return 2; }
  [[nodiscard]] const F32& NormOf(const BlockWeights& block) const override {
    return block.block_ffn.norm.empty() ? block.norm : block.block_ffn.norm;
  }
  [[nodiscard]] int64_t bytes() const override { return gates_.bytes() + active_.bytes() + products_.bytes(); }

  // Round 0: the router's scores; then the experts' first products, in as many rounds as bound their memory.
  bool AddRound(int round, Round& out) override {
    const bool few = pass_->n <= kernels::ExpertProducts::kFew;
    if (round == 0) {
      if (asks_ == AskAhead::kLast) AskForLast();
      out.products.push_back(OfInput(block().block_ffn.router, gates_.Get(pass_->n * E())));
      out.products.back().f32 = true;  // which experts run is not a matter of rounding
      if (few) out.products.back().steps = share_.n;
      return true;
    }
    if (round == 1) Route();
    return products_.AddUp(block().block_ffn.up, pass_->u, out.products);
  }

  void Run(const Task& /*task*/, float* /*scratch*/) override {}  // products are all

  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    products_.AddDown(block().block_ffn.down, pass_->x, products);
  }

 private:
  [[nodiscard]] int64_t E() const { return config().moe.n_experts; }
  [[nodiscard]] int64_t words() const { return (E() + 31) / 32; }
  [[nodiscard]] int64_t RowOf(int64_t i) const { return share_.list != nullptr ? share_.list[i] : i; }

  // Gates and lists, on the calling thread: a few operations for each score.
  void Route() {
    const BlockFfnWeights& w = block().block_ffn;
    CountWeights({&w.router_scale});
    uint32_t* active = active_.Get(pass_->n * words());
    for (int64_t i = 0; i < share_.n; ++i) {
      const int64_t row = RowOf(i);
      float* gates = gates_.data() + row * E();
      kernels::ReluGates({.raw = gates,
                          .scale = w.router_scale.data(),
                          .gates = gates,
                          .active = active + row * words(),
                          .n = 1,
                          .E = E(),
                          .eps = static_cast<float>(config().norm_eps)});
      if (pass_->routing != nullptr) Plant(row, gates, active + row * words());
      if (pass_->trace != nullptr) TraceRow(row);
    }
    products_.Begin({.gates = gates_.data(),
                     .active = active,
                     .scale = share_.by_row,
                     .list = share_.list,
                     .n = share_.n,
                     .E = E()},
                    pass_->steps);
    Count();
    if (asks_ != AskAhead::kOff) AskForNew();
  }

  // ---- weights in a file (offload.h) ----

  void Start() override {
    const LoadOptions& options = pass_->weights.options;
    asks_ = options.offload.empty() ? AskAhead::kOff : options.ask_ahead;
    if (asks_ != AskAhead::kOff) last_.resize(config().layers.size());
  }

  // What the next layer that has such experts ran when it ran last; the first one's for the next token.
  void AskForLast() {
    const size_t layers = last_.size();
    for (size_t i = 1; i <= layers; ++i) {
      const size_t next = (static_cast<size_t>(layer_) + i) % layers;
      if (last_[next].empty()) continue;
      for (int64_t e = 0; e < E(); ++e)
        if (last_[next][static_cast<size_t>(e)] != 0) Ask(pass_->weights.blocks[next].block_ffn, e);
      return;
    }
  }

  // What this pass runs here and the one before it did not.
  void AskForNew() {
    std::vector<uint8_t>& last = last_[static_cast<size_t>(layer_)];
    std::vector<uint8_t> now(static_cast<size_t>(E()), 0);
    products_.lists().ForEach([&](int64_t e) {
      now[static_cast<size_t>(e)] = 1;
      if (last.empty() || last[static_cast<size_t>(e)] == 0) Ask(block().block_ffn, e);
    });
    last = std::move(now);
  }

  // An expert's two matrices lie one after the other.
  static void Ask(const BlockFfnWeights& w, int64_t e) {
    const kernels::Matrix &up = w.up[static_cast<size_t>(e)], &down = w.down[static_cast<size_t>(e)];
    AskFor(up.data, down.data + kernels::MatrixBytes(down) - up.data);
  }

  // Active sets of a benchmark in the place of the router's, with gates of a usual size.
  void Plant(int64_t row, float* gates, uint32_t* active) const {
    pass_->routing->Experts(layer_, pass_->positions[row], {active, static_cast<size_t>(words())});
    int64_t count = 0;
    for (int64_t w = 0; w < words(); ++w) count += std::popcount(active[w]);
    const float gate = std::sqrt(static_cast<float>(E()) / static_cast<float>(std::max<int64_t>(count, 1)));
    for (int64_t e = 0; e < E(); ++e) gates[e] = (active[e / 32] >> (e % 32) & 1) != 0 ? gate : 0;
  }

  void TraceRow(int64_t row) const {
    for (int64_t e = 0; e < E(); ++e)
      if ((active_.data()[row * words() + e / 32] >> (e % 32) & 1) != 0)
        pass_->trace->At(row, layer_).experts.push_back({e, gates_.data()[row * E() + e]});
  }

  void Count() const {
    ExpertUse& use = *pass_->experts;
    use.layers += E();
    products_.lists().ForEach([&](int64_t) { ++use.read; });
    for (int64_t i = 0; i < share_.n; ++i)
      for (int64_t w = 0; w < words(); ++w) use.active += std::popcount(active_.data()[RowOf(i) * words() + w]);
    use.tokens += share_.n * E();
  }

  Buffer<float> gates_;      // [n, E]
  Buffer<uint32_t> active_;  // [n, ceil(E / 32)]
  kernels::ExpertProducts products_;
  AskAhead asks_ = AskAhead::kOff;
  std::vector<std::vector<uint8_t>> last_;  // of each layer: whether each expert ran in the last pass
};

}  // namespace

std::unique_ptr<Part> MakeBlockFfn() { return std::make_unique<BlockFfn>(); }

}  // namespace hydra
