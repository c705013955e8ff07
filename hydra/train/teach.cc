// SPDX-License-Identifier: Apache-2.0
// Questions in batches, the untaught model beside the taught one, and the rows that may move.
#include "hydra/train/teach.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/nn/memory.h"
#include "hydra/train/batches.h"
#include "hydra/train/optim.h"

namespace hydra::train {
namespace {

using torch::Tensor;

// Rows of one example each, padded to the longest; targets are the answers' tokens.
nn::Batch BatchOf(const std::vector<const FactExample*>& examples, int64_t chunk) {
  std::vector<nn::Batch> rows;
  size_t longest = 0;
  for (const FactExample* one : examples) longest = std::max(longest, one->ids.size());
  const int64_t T = (static_cast<int64_t>(longest) + chunk - 1) / chunk * chunk;
  for (const FactExample* one : examples) {
    const std::vector<int64_t> ids(one->ids.begin(), one->ids.end());
    nn::Batch row = nn::Batch::Pack({ids}, chunk, T);
    row.targets = torch::full({1, T}, -100, torch::kInt64);
    for (auto t = static_cast<size_t>(one->answer); t < ids.size(); ++t)
      row.targets[0][static_cast<int64_t>(t) - 1] = ids[t];
    rows.push_back(std::move(row));
  }
  return nn::Batch::Stack(rows);
}

// What may be trained, and how the model goes back to what it was for a moment. A low-rank change is W + B A of every
// SSM's output projection: its gradients follow from W's.
class Taught {
 public:
  Taught(nn::Model& model, const TeachOptions& options, int64_t rank) {
    for (const auto& [spec, tensor] : model.Tensors()) {
      const bool low = options.into == TeachInto::kLowRank && IsProjection(spec->role);
      const bool on = options.into == TeachInto::kAll ? spec->parameter : spec->role == TensorRole::kPkmTable;
      const bool moves = low || (options.into != TeachInto::kLowRank && on);
      tensor.set_requires_grad(moves);
      if (!moves) continue;
      held_.push_back(tensor);
      own_.push_back(tensor.detach().clone());
      if (!low) {
        params_.push_back(
            {.name = spec->name, .tensor = tensor, .weight_decay = false, .rows = spec->role == TensorRole::kPkmTable});
        continue;
      }
      const double unit = 1 / std::sqrt(static_cast<double>(tensor.size(1)));
      LowRank change{tensor, own_.back(), torch::randn({rank, tensor.size(1)}) * unit,
                     torch::zeros({tensor.size(0), rank})};
      params_.push_back({.name = spec->name + ".a", .tensor = change.a, .weight_decay = false});
      params_.push_back({.name = spec->name + ".b", .tensor = change.b, .weight_decay = false});
      low_.push_back(change);
    }
  }
  static bool IsProjection(TensorRole role) {
    return role == TensorRole::kSsmOutProj || role == TensorRole::kDiagonalSkipProj;
  }
  [[nodiscard]] const std::vector<OptimParam>& params() const { return params_; }
  // Of the first tensor that moves: the table's.
  [[nodiscard]] const Tensor& Untaught() const { return own_[0]; }
  [[nodiscard]] int64_t Numbers() const {
    int64_t n = 0;
    for (const OptimParam& param : params_) n += param.tensor.numel();
    return n;
  }

  // f() with the weights of before.
  template <class F>
  Tensor Before(const F& f) {
    std::vector<Tensor> now;
    for (size_t i = 0; i < held_.size(); ++i) {
      now.push_back(held_[i].detach());
      held_[i].set_data(own_[i]);
    }
    Tensor out = f();
    for (size_t i = 0; i < held_.size(); ++i) held_[i].set_data(now[i]);
    return out;
  }
  void AfterBackward() {
    const torch::NoGradGuard no_grad;
    for (LowRank& change : low_) {
      const Tensor grad = change.weight.grad();
      change.a.mutable_grad() = torch::matmul(change.b.t(), grad);
      change.b.mutable_grad() = torch::matmul(grad, change.a.t());
      change.weight.mutable_grad().reset();
    }
  }
  void AfterStep() {
    const torch::NoGradGuard no_grad;
    for (LowRank& change : low_) change.weight.set_data(change.own + torch::matmul(change.b, change.a));
  }

 private:
  struct LowRank {
    Tensor weight, own, a, b;  // [out, in] twice, [rank, in], [out, rank]
  };
  std::vector<OptimParam> params_;
  std::vector<LowRank> low_;
  std::vector<Tensor> own_, held_;  // the untaught values; the tensors
};

// The rank at which a low-rank change has about so many numbers.
int64_t RankFor(const nn::Model& model, int64_t numbers) {
  int64_t a_rank = 0;
  for (const auto& [spec, tensor] : model.Tensors())
    if (Taught::IsProjection(spec->role)) a_rank += tensor.size(0) + tensor.size(1);
  return a_rank > 0 ? std::max<int64_t>(1, (numbers + a_rank / 2) / a_rank) : 1;
}

// log softmax of every real token's logits, [N, V].
Tensor LogProbabilities(const nn::Model& model, const nn::Batch& batch) {
  const Tensor hidden = model.Forward(batch).hidden;
  const Tensor real = (batch.seq_idx >= 0).view({-1}).nonzero().squeeze(1);
  return torch::log_softmax(model.Logits(hidden.reshape({-1, hidden.size(-1)}).index_select(0, real)), -1);
}

// The rows of the table that tokens of these examples read, at all sites; and the mean gate of the reads.
struct RowsRead {
  std::vector<int64_t> rows;  // ascending
  double mean_gate = 0;
};
RowsRead ReadRows(const nn::Model& model, const std::vector<FactExample>& examples, int64_t at_once) {
  const int64_t n = model.config().pkm.n_keys * model.config().pkm.n_keys;
  std::vector<bool> read(static_cast<size_t>(n));
  double gates = 0, reads = 0;
  const nn::PkmWatch watch = [&](const Tensor& ids, const Tensor& gate) {
    const Tensor flat = ids.to(torch::kCPU).contiguous().view({-1});
    for (int64_t i = 0; i < flat.numel(); ++i) read[static_cast<size_t>(flat.const_data_ptr<int64_t>()[i])] = true;
    gates += gate.sum().item<double>();
    reads += static_cast<double>(gate.numel());
  };
  const torch::NoGradGuard no_grad;
  for (size_t begin = 0; begin < examples.size(); begin += static_cast<size_t>(at_once)) {
    std::vector<const FactExample*> some;
    for (size_t i = begin; i < std::min(examples.size(), begin + static_cast<size_t>(at_once)); ++i)
      some.push_back(&examples[i]);
    nn::ForwardOptions options;
    options.pkm_watch = &watch;
    (void)model.Forward(BatchOf(some, model.config().chunk_len), options);
  }
  RowsRead out;
  for (int64_t row = 0; row < n; ++row)
    if (read[static_cast<size_t>(row)]) out.rows.push_back(row);
  out.mean_gate = reads > 0 ? gates / reads : 0;
  return out;
}

// Leaves of a sparse gradient of the table the rows that may move.
void KeepRows(const Tensor& table, const Tensor& may_move) {
  Tensor& grad = table.mutable_grad();
  if (!grad.defined()) return;
  const Tensor sparse = grad.is_sparse() ? grad.coalesce() : grad.to_sparse(1).coalesce();
  const Tensor rows = sparse._indices()[0];
  const Tensor kept = may_move.index_select(0, rows).nonzero().squeeze(1);
  grad = torch::sparse_coo_tensor(rows.index_select(0, kept).unsqueeze(0), sparse._values().index_select(0, kept),
                                  grad.sizes())
             ._coalesced_(true);
}

MemoryPack PackOf(const nn::Model& model, const Tensor& before, const std::string& base) {
  const PkmConfig& c = model.config().pkm;
  MemoryPack pack{.name = "", .base = base, .n_keys = c.n_keys, .width = c.d_value, .rows = {}, .delta = {}};
  const Tensor delta =
      (model.at(TensorRole::kPkmTable).detach() - before).to(torch::kCPU, torch::kFloat32).contiguous();
  const Tensor moved = (delta != 0).any(1).contiguous();
  for (int64_t row = 0; row < delta.size(0); ++row) {
    if (!moved.const_data_ptr<bool>()[row]) continue;
    pack.rows.push_back(static_cast<int32_t>(row));
    const float* values = delta.const_data_ptr<float>() + row * c.d_value;
    pack.delta.insert(pack.delta.end(), values, values + c.d_value);
  }
  return pack;
}

}  // namespace

double AnswersRight(const nn::Model& model, const std::vector<FactExample>& examples) {
  const torch::NoGradGuard no_grad;
  constexpr size_t kAtOnce = 32;
  int64_t right = 0;
  for (size_t begin = 0; begin < examples.size(); begin += kAtOnce) {
    std::vector<const FactExample*> some;
    for (size_t i = begin; i < std::min(examples.size(), begin + kAtOnce); ++i) some.push_back(&examples[i]);
    const nn::Batch batch = BatchOf(some, model.config().chunk_len);
    const Tensor best = model.Logits(model.Forward(batch).hidden).argmax(-1);
    const Tensor wrong = ((best != batch.targets) & (batch.targets >= 0)).any(1);
    right += static_cast<int64_t>(some.size()) - wrong.sum().item<int64_t>();
  }
  return examples.empty() ? 0 : static_cast<double>(right) / static_cast<double>(examples.size());
}

TeachReport Teach(nn::Model& model, const std::vector<FactExample>& trained, const std::vector<FactExample>& held_out,
                  const Corpus& rehearsal, const std::string& base, const TeachOptions& options) {
  if (options.into == TeachInto::kTable && !model.config().HasPkm())
    throw Error(ErrorCode::kUsage, "--teach: this model has no product-key memory");
  const double start = Seconds();
  TeachReport report{.trained = static_cast<int64_t>(trained.size()),
                     .held_out = static_cast<int64_t>(held_out.size())};
  report.trained_before = AnswersRight(model, trained);
  report.held_out_before = AnswersRight(model, held_out);
  Tensor may_move;
  int64_t numbers = 0;
  if (model.config().HasPkm()) {
    const RowsRead read = ReadRows(model, trained, options.examples);
    const PkmConfig& c = model.config().pkm;
    may_move = torch::zeros({c.n_keys * c.n_keys}, torch::kBool);
    for (const int64_t row : read.rows) may_move[row] = true;
    report.mean_gate = read.mean_gate;
    numbers = static_cast<int64_t>(read.rows.size()) * c.d_value;
  }
  Taught taught(model, options, options.low_rank > 0 ? options.low_rank : RankFor(model, numbers));
  report.numbers = options.into == TeachInto::kTable ? numbers : taught.Numbers();
  const auto optimizer = MakeOptimizer(taught.params(), {.weight_decay = 0, .clip = 1});
  RowPacker packer(rehearsal, {.chunk_len = model.config().chunk_len, .seed = options.seed});
  Rng rng(options.seed);
  std::vector<size_t> order(trained.size());
  std::iota(order.begin(), order.end(), size_t{0});
  size_t next = order.size();
  constexpr int64_t kLook = 20;  // steps between looks at what is answered
  for (int64_t step = 0; step < options.steps && (options.stop == nullptr || options.stop->load() == 0); ++step) {
    std::vector<const FactExample*> some;
    while (static_cast<int64_t>(some.size()) < std::min<int64_t>(options.examples, report.trained)) {
      if (next == order.size()) {
        for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
        next = 0;
      }
      some.push_back(&trained[order[next++]]);
    }
    const nn::Batch asked = BatchOf(some, model.config().chunk_len);
    const nn::Batch text = NextBatch(packer, options.rehearsal_rows, options.rehearsal_tokens).batch;
    Tensor before;
    {
      const torch::NoGradGuard no_grad;
      before = taught.Before([&] { return LogProbabilities(model, text); });
    }
    optimizer->ZeroGrad();
    const Tensor answers = model.Loss(asked).lm;
    const Tensor now = LogProbabilities(model, text);
    const Tensor kl = (torch::exp(before) * (before - now)).sum(-1).mean();
    (answers + options.rehearsal * kl).backward();
    taught.AfterBackward();
    if (options.into == TeachInto::kTable) KeepRows(model.at(TensorRole::kPkmTable), may_move);
    optimizer->Step(options.lr, optimizer->GradNorm());
    taught.AfterStep();
    report.steps = step + 1;
    if (options.on_step) options.on_step(step + 1, answers.item<double>(), kl.item<double>());
    if ((step + 1) % kLook == 0 && AnswersRight(model, trained) == 1) break;
  }
  report.trained_after = AnswersRight(model, trained);
  report.held_out_after = AnswersRight(model, held_out);
  report.seconds = Seconds() - start;
  if (options.into != TeachInto::kTable) return report;
  report.pack = PackOf(model, taught.Untaught(), base);
  report.rows = static_cast<int64_t>(report.pack->rows.size());
  return report;
}

}  // namespace hydra::train
