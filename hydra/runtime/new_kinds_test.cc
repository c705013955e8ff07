// SPDX-License-Identifier: Apache-2.0
// Small examples of what the joints carry, each written as a new kind would be: a feed-forward of which a token
// runs only some blocks, and a drafter of tokens. A new kind of cache is in kv_cache_test.cc.
#include <algorithm>

#include "hydra/base/testing.h"
#include "hydra/runtime/pass.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::ExpectSameBits;
using testing::LogitsInPieces;
using testing::RandomIds;

// ---- A new kind of feed-forward ----

// The neurons are cut into blocks; a token runs those whose first gate is above zero: y = W_down (relu(W_gate u) *
// W_up u), zero in the other blocks. Dims: n rows, F d_ff, B = F / kBlocks neurons of a block.
class BlockFfnPart : public Part {
 public:
  [[nodiscard]] const char* Name() const override { return "blockffn"; }
  static constexpr int64_t kBlocks = 4;

  [[nodiscard]] bool In(const ModelConfig&, const LayerConfig& layer) const override {
    return layer.ffn == FfnKind::kDense;
  }
  [[nodiscard]] const F32& NormOf(const BlockWeights& block) const override { return block.dense.norm; }
  void AddOutput(std::vector<kernels::MatMulArgs>& products) override {
    products.push_back(IntoStream(block().dense.down, hidden_.data(), config().d_ff));
  }
  // Rows first .. first + count of a matrix that is not packed.
  static kernels::Matrix Rows(kernels::Matrix w, int64_t first, int64_t count) {
    HYDRA_CHECK(!w.packed);
    w.data += first * RowBytes(w.type, w.cols);
    w.rows = count;
    return w;
  }

 protected:
  Buffer<float> hidden_;  // [n, F]
};

class BlockFfn final : public BlockFfnPart {
 public:
  [[nodiscard]] int64_t bytes() const override { return score_.bytes() + hidden_.bytes() + packed_.bytes(); }

  // Round 0: every block's score of every row. Round 1: gates and ups of the rows that run a block, then their product.
  bool AddRound(int round, Round& out) override {
    const int64_t n = pass_->n, F = config().d_ff, B = F / kBlocks;
    if (round > 1) return false;
    if (round == 0) {
      float* score = score_.Get(n * kBlocks);
      for (int64_t b = 0; b < kBlocks; ++b) {
        out.products.push_back(OfInput(Rows(block().dense.gate, b * B, 1), score + b));
        out.products.back().y_stride = kBlocks;
      }
      return true;
    }
    std::fill_n(hidden_.Get(n * F), n * F, 0.0f);
    float* packed = packed_.Get(kBlocks * n * 2 * B);
    for (int64_t b = 0; b < kBlocks; ++b) {
      std::vector<int32_t>& rows = rows_[static_cast<size_t>(b)];
      rows.clear();
      for (int32_t t = 0; t < n; ++t)
        if (score_.data()[t * kBlocks + b] > 0) rows.push_back(t);
      const auto steps = std::lower_bound(rows.begin(), rows.end(), pass_->steps) - rows.begin();
      for (int64_t half = 0; half < 2; ++half)
        out.products.push_back({.w = Rows(half == 0 ? block().dense.gate : block().dense.up, b * B, B),
                                .x = pass_->u,
                                .y = packed + b * n * 2 * B + half * B,
                                .T = static_cast<int64_t>(rows.size()),
                                .y_stride = 2 * B,
                                .x_rows = rows.data(),
                                .steps = steps});
      out.tasks.push_back({.part = this, .begin = b});
    }
    return true;
  }

  void Run(const Task& task, float* /*scratch*/) override {
    const int64_t F = config().d_ff, B = F / kBlocks, b = task.begin;
    const float* packed = packed_.data() + b * pass_->n * 2 * B;
    for (const int32_t t : rows_[static_cast<size_t>(b)]) {
      for (int64_t i = 0; i < B; ++i) hidden_.data()[t * F + b * B + i] = std::max(packed[i], 0.0f) * packed[B + i];
      packed += 2 * B;
    }
  }

 private:
  Buffer<float> score_, packed_;        // [n, kBlocks], [kBlocks, n, 2B]
  std::vector<int32_t> rows_[kBlocks];  // that run a block
};

// The same by its formula, row by row.
class SlowBlockFfn final : public BlockFfnPart {
 public:
  [[nodiscard]] int64_t bytes() const override { return hidden_.bytes(); }
  bool AddRound(int round, Round& out) override {
    if (round > 0) return false;
    hidden_.Get(pass_->n * config().d_ff);
    AddTasks(out, 0, 0, pass_->n, 1);
    return true;
  }
  void Run(const Task& task, float* /*scratch*/) override {
    const int64_t D = config().d_model, F = config().d_ff, B = F / kBlocks;
    const auto product = [&](const kernels::Matrix& w, int64_t row) {
      const auto* values = reinterpret_cast<const float*>(Rows(w, row, 1).data);
      double sum = 0;
      for (int64_t d = 0; d < D; ++d) sum += static_cast<double>(values[d]) * pass_->u[task.begin * D + d];
      return static_cast<float>(sum);
    };
    for (int64_t i = 0; i < F; ++i) {
      const bool runs = product(block().dense.gate, i / B * B) > 0;
      const float gate = product(block().dense.gate, i), up = product(block().dense.up, i);
      hidden_.data()[task.begin * F + i] = runs ? std::max(gate, 0.0f) * up : 0;
    }
  }
};

// Scratch whose passes run the part F in place of the dense feed-forward.
template <class F>
ForwardScratch With(const Model& model) {
  ForwardScratch scratch;
  for (auto& part : scratch.data().parts)
    if (part->In(model.config(), {.ssm = false, .ffn = FfnKind::kDense})) part = std::make_unique<F>();
  return scratch;
}

std::vector<float> AllLogits(const Model& model, SequenceState& state, std::span<const int32_t> ids, Provisional* kept,
                             ThreadPool& pool, ForwardScratch& scratch) {
  const Segment segment{&state, ids, LogitsOf::kAll, kept};
  const auto logits = model.Forward({&segment, 1}, pool, scratch);
  return {logits.begin(), logits.end()};
}

TEST(NewKinds, AFeedForwardOfBlocks) {
  const testing::Case c = testing::Cases()[3];
  const Model model = testing::BuildModel(testing::RandomSource(c.config, 51),
                                          {.ctx_size = 128, .kv_dtype = KvDtype::kF32, .pack = false});
  ThreadPool pool(2);
  const auto ids = RandomIds(60, c.config.vocab_size, 52);
  ForwardScratch fast = With<BlockFfn>(model), slow = With<SlowBlockFfn>(model), dense;
  SequenceState a(model), b(model), d(model);
  const auto got = AllLogits(model, a, ids, nullptr, pool, fast);
  EXPECT_LT(testing::Difference(got, AllLogits(model, b, ids, nullptr, pool, slow)), testing::kTolF32);
  EXPECT_GT(testing::Difference(got, AllLogits(model, d, ids, nullptr, pool, dense)), 1e-2);
  // Provisional passes come with the joint: the bits of steps, in one read of the blocks that run.
  SequenceState steps = a.Fork();
  Provisional kept(a, 6);
  std::vector<float> want;
  const PassBytes before_steps = fast.moved();
  for (size_t t = 0; t < 6; ++t) {
    const auto one = AllLogits(model, steps, std::span(ids).subspan(t, 1), nullptr, pool, fast);
    want.insert(want.end(), one.begin(), one.end());
  }
  const PassBytes before_pass = fast.moved();
  ExpectSameBits(AllLogits(model, a, std::span(ids).first(6), &kept, pool, fast), want);
  EXPECT_LT((fast.moved() - before_pass).weights, (before_pass - before_steps).weights / 4);
  model.Commit(a, kept, 6, pool, fast);
  ExpectSameBits(AllLogits(model, a, std::span(ids).first(1), nullptr, pool, fast),
                 AllLogits(model, steps, std::span(ids).first(1), nullptr, pool, fast));
}

// ---- A drafter ----

int32_t Best(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// What followed the last place where the text's last token stood before, at most n tokens.
std::vector<int32_t> Repeat(std::span<const int32_t> text, size_t n) {
  for (size_t i = text.size() - 1; i-- > 0;)
    if (text[i] == text.back()) {
      const auto found = text.subspan(i + 1, std::min(n, text.size() - 1 - i));
      return {found.begin(), found.end()};
    }
  return {};
}

// Greedy text of n tokens behind a prompt, drafted; and the passes that it took.
template <class Drafter>
std::pair<std::vector<int32_t>, int64_t> Drafted(const Model& model, std::vector<int32_t> text, size_t n, Drafter draft,
                                                 ThreadPool& pool) {
  constexpr size_t kDrafts = 4;
  const auto V = static_cast<size_t>(model.config().vocab_size);
  SequenceState state(model);
  ForwardScratch scratch;
  Provisional kept(state, 1 + kDrafts);
  const size_t prompt = text.size();
  text.push_back(Best(model.Prefill(state, text, pool, scratch)));
  int64_t passes = 1;
  for (; text.size() < prompt + n; ++passes) {
    std::vector<int32_t> tried = draft(text, kDrafts);
    tried.insert(tried.begin(), text.back());
    const auto logits = AllLogits(model, state, tried, &kept, pool, scratch);
    size_t m = 0;
    do text.push_back(Best(std::span(logits).subspan(m++ * V, V)));
    while (m < tried.size() && tried[m] == text.back());
    model.Commit(state, kept, static_cast<int64_t>(m), pool, scratch);
  }
  text.resize(prompt + n);
  return {text, passes};
}

TEST(NewKinds, ADrafterChangesNoToken) {
  ThreadPool pool(2);
  constexpr size_t kTokens = 60;
  for (const testing::Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    const Model model = testing::BuildModel(testing::RandomSource(c.config, 53));
    const auto prompt = RandomIds(20, c.config.vocab_size, 54);
    const auto none = [](std::span<const int32_t>, size_t) { return std::vector<int32_t>(); };
    const auto [plain, steps] = Drafted(model, prompt, kTokens, none, pool);
    EXPECT_EQ(steps, static_cast<int64_t>(kTokens));
    SequenceState state(model);
    ForwardScratch scratch;
    std::vector<int32_t> text = prompt;
    text.push_back(Best(model.Prefill(state, prompt, pool, scratch)));
    while (text.size() < prompt.size() + kTokens) text.push_back(Best(model.Step(state, text.back(), pool, scratch)));
    EXPECT_EQ(plain, text);
    EXPECT_EQ(Drafted(model, prompt, kTokens, Repeat, pool).first, text);
    // One that knows the text: a pass takes its drafts and one token more.
    const auto knows = [&, &text = text](std::span<const int32_t> so_far, size_t n) {
      const auto rest = std::span<const int32_t>(text).subspan(so_far.size());
      return std::vector<int32_t>(rest.begin(), rest.begin() + static_cast<int64_t>(std::min(n, rest.size())));
    };
    EXPECT_EQ(Drafted(model, prompt, kTokens, knows, pool), std::pair(text, int64_t{1 + 12}));
  }
}

}  // namespace
}  // namespace hydra
