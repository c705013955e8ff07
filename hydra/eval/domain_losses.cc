// SPDX-License-Identifier: Apache-2.0
// Losses by domain and forced set.
#include "hydra/eval/domain_losses.h"

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/model/controls.h"
#include "hydra/train/batches.h"

namespace hydra::eval {
namespace {

// Share of the choices of labelled chunks that are of their own set, over as many tokens as the losses are of.
double ShareInSet(nn::Model& model, const train::Corpus& corpus, int64_t seq_len, int64_t max_tokens,
                  const train::Device& device) {
  const torch::NoGradGuard no_grad;
  const int64_t chunk = model.config().chunk_len;
  train::RowPacker packer(corpus, {.chunk_len = chunk, .seed = 0, .repeat = false, .cut_to_fill = false});
  double own = 0, all = 0;
  for (int64_t seen = 0; max_tokens == 0 || seen < max_tokens;) {
    const train::TokenBatch batch = train::NextBatch(packer, 1, (seq_len + chunk - 1) / chunk * chunk);
    if (batch.n_rows == 0) break;
    seen += batch.n_tokens;
    const train::AutocastScope autocast(device);
    const torch::Tensor in_set = model.Forward(batch.batch.To(device.device)).router.in_set;
    HYDRA_CHECK(in_set.defined(), "a batch with labels");
    own += in_set[0].item<double>();
    all += in_set[1].item<double>();
  }
  return own / all;
}

}  // namespace

std::vector<DomainLosses> MeasureDomains(nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                                         const std::string& split, const PerplexityOptions& options,
                                         const std::function<void(const DomainLosses&)>& on_domain) {
  const MoeConfig& moe = model.config().moe;
  if (const std::string why = WhyControlIsIgnored("domain", model.config()); !why.empty())
    throw Error(ErrorCode::kUsage, "eval domains: " + why);
  std::vector<std::string> names;
  for (const ExpertDomain& domain : moe.domains) names.push_back(domain.name);
  const train::Corpus corpus = OpenSplit(model, tokenizer, folder, split).WithDomains(names);
  std::vector<DomainLosses> measured;
  for (size_t i = 0; i < names.size(); ++i) {
    const train::Corpus own = corpus.OfDomain(static_cast<int>(i));
    if (!train::HasTargets(own)) continue;
    PerplexityOptions with = options;
    const PerplexityResult free = EvaluateCorpus(model, own, tokenizer, with);
    DomainLosses row{.domain = names[i],
                     .documents = own.n_docs(),
                     .tokens = free.sums.tokens,
                     .free = free.bits_per_byte(),
                     .forced = {},
                     .in_set = ShareInSet(model, own, free.ctx, options.max_tokens, options.device),
                     .chance = static_cast<double>(moe.domains[i].experts.size()) / static_cast<double>(moe.n_experts)};
    for (const std::string& name : names) {
      with.forward.controls = options.forward.controls;
      with.forward.controls.ban_experts = ExpertsOutside(moe, name);
      row.forced.push_back(EvaluateCorpus(model, own, tokenizer, with).bits_per_byte());
    }
    measured.push_back(std::move(row));
    on_domain(measured.back());
  }
  if (measured.empty())
    throw Error(ErrorCode::kData, StrCat(folder, ": no document of the split ", split,
                                         " is of a domain of this model: data build --domain-field KEY names them"));
  return measured;
}

}  // namespace hydra::eval
