// SPDX-License-Identifier: Apache-2.0
// `hydralm logits --engine torch`: the logits of given tokens from the training form, fp32. Not here: the runtime's
// (verb_logits.cc).
#include <algorithm>
#include <memory>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/torch_model_flags.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/npy.h"

namespace hydra::cli {
namespace {

int RunLogits(const LogitsFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  if (flags.engine != "torch")
    throw Error(ErrorCode::kUsage, "logits: hydralm-train has --engine torch only; the runtime is hydralm's");
  nn::Model model = OpenModel(flags.model);
  const int64_t vocab = model.config().vocab_size;
  const std::vector<int32_t> ids = InputIds(flags, verb, vocab);
  const Controls controls = ApplyControls(flags.model, model.config());
  torch::NoGradGuard no_grad;
  const auto n = static_cast<int64_t>(ids.size());
  const torch::Device device = model.at(TensorRole::kFinalNorm).device();
  const auto batch =
      nn::Batch::OneDocumentPerRow(torch::tensor(ids, torch::kInt64).unsqueeze(0), model.config().chunk_len);
  nn::ForwardOptions options{.controls = controls};
  const UsedPlan plan(flags.model.plan, model.config());
  if (plan) {  // of the length that the runtime takes
    options.plan = &plan.plan();
    options.plan_length = PlanLength(n, kPlanStep, std::min(flags.model.ctx, model.config().max_position_embeddings));
    options.head_spans = plan.spans();
  }
  const auto hidden = model.Forward(batch.To(device), options).hidden[0];
  NpyRowWriter writer(flags.output, vocab);
  constexpr int64_t kRows = 512;  // logits held at once
  for (int64_t t = 0; t < n; t += kRows) {
    const auto rows =
        model.Logits(hidden.narrow(0, t, std::min(kRows, n - t))).to(torch::kCPU, torch::kFloat32).contiguous();
    writer.Write({rows.const_data_ptr<float>(), static_cast<size_t>(rows.numel())});
  }
  writer.Finish();
  PrintLogitsResult(flags, n, vocab, common.json);
  return kDone;
}

}  // namespace

void AddLogitsVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<LogitsFlags>();
  flags->engine = "torch";
  CLI::App* verb = context.AddVerb(
      root, kLogitsVerb, "hydralm logits --engine torch -m runs/demo/model -p \"In the beginning\" -o logits.npy");
  AddLogitsFlags(verb, flags.get());
  AddPlanFlags(verb, &flags->model.plan);
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return RunLogits(*flags, verb, common); });
}

}  // namespace hydra::cli
