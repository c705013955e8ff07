// SPDX-License-Identifier: Apache-2.0
// Layer by layer: forward without a graph keeping each layer's input, then backward with one layer's graph at a time.
#include "hydra/eval/influence.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/model/accounting.h"
#include "hydra/nn/influence.h"
#include "hydra/nn/layout.h"

namespace hydra::eval {

using torch::Tensor;

namespace {

bool HasUnits(const InfluenceProfile& profile, int layer) {
  return !profile.dense.layers[static_cast<size_t>(layer)].rules.empty();
}

// What the answer's tokens cost, and the gradient at the last layer's output x [1, T, D].
double LossAndGradient(const nn::Model& model, const LongItem& item, const Tensor& x, Tensor* gradient) {
  const torch::AutoGradMode with_grad(true);
  const Tensor top = x.detach().requires_grad_(true);
  const int64_t n = item.answer_end - item.answer_begin;
  const Tensor rows = top[0].narrow(0, item.answer_begin - 1, n);  // a row predicts the token after its own
  std::vector<int64_t> targets(item.answer().begin(), item.answer().end());
  const Tensor loss = torch::cross_entropy_loss(model.Logits(model.FinalNorm(rows)),
                                                torch::tensor(targets, torch::kInt64).to(x.device()));
  *gradient = torch::autograd::grad({loss}, {top})[0];
  return loss.item<double>();
}

// Goes back through one layer: gradient [1, T, D] of its output becomes that of its input x. Statistics of its
// attention, where it has units, go to `stats`.
void BackThroughLayer(const nn::Model& model, int layer, const Tensor& x_in, const nn::Layout& layout,
                      const nn::InfluenceOptions& options, nn::InfluenceStats* stats, Tensor* gradient) {
  const torch::AutoGradMode with_grad(true);
  const Tensor x = x_in.detach().requires_grad_(true);
  nn::AttentionSeen seen;
  const nn::AttentionWatch watch = [&](const nn::AttentionSeen& what) { seen = what; };
  nn::ForwardOptions forward;
  forward.attention_watch = &watch;
  const Tensor out = model.RunLayer(layer, x, layout, forward);
  std::vector<Tensor> inputs{x};
  if (stats != nullptr) inputs.push_back(seen.out);
  const auto gradients = torch::autograd::grad({out}, inputs, {*gradient});
  *gradient = gradients[0];
  if (stats != nullptr) nn::AttentionInfluence(seen, gradients[1], options, stats);
}

// Adds the rows of a layer's statistics to a half of the profile's sums. They may have one bin more than the length, of
// tokens that pad a text, where nothing is.
void AddStats(const nn::InfluenceStats& stats, int64_t half, int layer, int64_t N, InfluenceProfile* profile,
              InfluenceProfile::Length* to) {
  const int64_t nb = profile->Blocks(N), bins = std::min(nb, stats.f.size(1));
  const auto add = [&](const Tensor& from, std::vector<double>* sums) {
    const auto rows = from.accessor<double, 2>();
    for (int64_t head = 0; head < from.size(0); ++head) {
      double* row = sums->data() + profile->At(half, layer, head, N);
      for (int64_t m = 0; m < bins; ++m) row[m] += rows[head][m];
    }
  };
  add(stats.f, &to->f);
  add(stats.jabs, &to->jabs);
  add(stats.jsgn, &to->jsgn);
  to->guarded += stats.guarded;
}

}  // namespace

InfluenceProfile EmptyProfile(const ModelConfig& config, const std::string& name, const std::string& weights_sha256,
                              const ItemFile& items) {
  InfluenceProfile profile;
  profile.dense = AttentionPlan::Dense(config);
  if (profile.dense.n_units() == 0)
    throw Error(ErrorCode::kConfig, name + ": has no attention: there are no spans to find");
  profile.dense.name = "dense";
  profile.dense.model.name = name;
  profile.dense.model.weights_sha256 = weights_sha256;
  profile.items_sha256 = items.Sha256();
  return profile;
}

void FreezeWeights(nn::Model& model) {
  for (const auto& [spec, tensor] : model.Tensors()) {
    Tensor handle = tensor;
    handle.set_requires_grad(false);
  }
}

double AddItem(const nn::Model& model, const LongItem& item, const InfluenceOptions& options,
               InfluenceProfile* profile) {
  const ModelConfig& config = model.config();
  const int L = static_cast<int>(config.n_layers());
  const torch::NoGradGuard no_grad;
  // The answer's last token predicts nothing that counts.
  const std::vector<int64_t> ids(item.ids.begin(), item.ids.begin() + item.answer_end - 1);
  const nn::Batch batch = nn::Batch::OneDocumentPerRow(torch::tensor(ids, torch::kInt64).unsqueeze(0), config.chunk_len)
                              .To(options.device.device);
  const nn::Layout layout = nn::Layout::Make(batch, config.chunk_len);
  const auto tell = [&](int done, double weight, double before) {
    if (options.progress) options.progress(before + weight * done / L);
  };
  constexpr double kForward = 0.2;  // of an item's time
  std::vector<Tensor> inputs;       // of each layer
  Tensor x = model.Embed(batch.ids);
  for (int layer = 0; layer < L; ++layer) {
    inputs.push_back(x);
    x = model.RunLayer(layer, x, layout);
    tell(layer + 1, kForward, 0);
  }
  Tensor gradient;
  const double loss = LossAndGradient(model, item, x, &gradient);
  x = Tensor();
  if (!std::isfinite(loss))
    throw Error(ErrorCode::kData,
                StrCat("item ", item.id, ": its loss is ", loss,
                       ": a number of the model's weights is not finite, or grows beyond all bounds"));
  auto found = profile->lengths.find(item.length);
  InfluenceProfile::Length sums = found != profile->lengths.end() ? found->second : profile->Empty(item.length);
  const auto half = static_cast<int64_t>(sums.ids.size() % 2);
  int lowest = 0;  // below it there are no units
  while (!HasUnits(*profile, lowest)) ++lowest;
  for (int layer = L - 1; layer >= lowest; --layer) {
    const bool units = HasUnits(*profile, layer);
    nn::InfluenceStats stats;
    if (units) stats = nn::InfluenceStats::Zeros(profile->dense.model.n_heads, layout.T, profile->dense.block_size);
    BackThroughLayer(model, layer, inputs[static_cast<size_t>(layer)], layout,
                     {.block = profile->dense.block_size,
                      .n_sinks = profile->dense.layers[static_cast<size_t>(layer)].n_sinks,
                      .chunk_len = config.chunk_len},
                     units ? &stats : nullptr, &gradient);
    inputs[static_cast<size_t>(layer)] = Tensor();
    if (units) AddStats(stats, half, layer, item.length, profile, &sums);
    tell(L - layer, 1 - kForward, kForward);
  }
  ++sums.items[static_cast<size_t>(half)];
  sums.losses.push_back(loss);
  sums.ids.push_back(item.id);
  profile->lengths[item.length] = std::move(sums);
  return loss;
}

double ItemFlops(const ModelConfig& config, int64_t tokens) {
  const auto n = static_cast<double>(tokens);
  const Flops without = FlopsPerToken(config, 1, FlopForm::kScan);
  const double head = 2 * static_cast<double>(config.vocab_size * config.d_model);  // of a few rows only
  const double others = static_cast<double>(without.linear + without.scan + without.workspace) - head;
  const double attention = MeanForwardFlops(config, tokens) - static_cast<double>(without.total() - without.attention);
  // Forward, again, and back through activations; attention's backward pass has five products for two, and the
  // statistics two more.
  return n * (3 * others + 5.5 * attention);
}

}  // namespace hydra::eval
