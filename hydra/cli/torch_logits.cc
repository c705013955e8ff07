// SPDX-License-Identifier: Apache-2.0
// `hydralm logits --engine torch`: the logits of given tokens as a float32 .npy [T, vocab], for any program to compare.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "hydra/cli/cli.h"
#include "hydra/cli/torch_model_flags.h"
#include "hydra/cli/verbs.h"
#include "hydra/core/error.h"
#include "hydra/core/npy.h"
#include "hydra/core/tokenizer.h"

namespace hydra::cli {
namespace {

struct LogitsOptions {
  ModelFlags model;
  std::string text, file, engine = "torch", output;
  std::vector<int64_t> ids;
};

std::vector<int64_t> InputIds(const LogitsOptions& options, const CLI::App* verb, int64_t vocab) {
  std::vector<int64_t> ids = options.ids;
  if (const auto text = PromptText(verb, options.text, options.file)) {
    if (!ids.empty()) throw Error(ErrorCode::kUsage, "logits: give one of -p, -f and --ids");
    for (const int32_t id : Tokenizer::Load(options.model.model).Encode(*text)) ids.push_back(id);
  }
  if (ids.empty()) throw Error(ErrorCode::kUsage, "logits: no tokens; give -p TEXT, -f FILE or --ids 1,2,3");
  for (const int64_t id : ids)
    if (id < 0 || id >= vocab) throw Error(ErrorCode::kUsage, StrCat("logits: token id ", id, ": must be 0 to ", vocab - 1));
  return ids;
}

int RunLogits(const LogitsOptions& options, const CLI::App* verb, const CommonFlags& common) {
  nn::Model model = OpenModel(options.model);
  const auto ids = InputIds(options, verb, model->config().vocab_size);
  torch::NoGradGuard no_grad;
  const auto n = static_cast<int64_t>(ids.size());
  const torch::Device device = model->at(TensorRole::kFinalNorm).device();
  const auto batch = nn::Batch::OneDocumentPerRow(torch::tensor(ids, torch::kInt64).unsqueeze(0), model->config().chunk_len);
  const auto hidden = model->forward(batch.To(device), ParseControls(options.model.controls)).hidden[0];
  NpyRowWriter writer(options.output, model->config().vocab_size);
  constexpr int64_t kRows = 512;  // logits held at once
  for (int64_t t = 0; t < n; t += kRows) {
    const auto rows = model->Logits(hidden.narrow(0, t, std::min(kRows, n - t))).to(torch::kCPU, torch::kFloat32).contiguous();
    writer.Write({rows.const_data_ptr<float>(), static_cast<size_t>(rows.numel())});
  }
  writer.Finish();
  if (common.json) {
    const nlohmann::ordered_json out = {{"file", options.output}, {"tokens", n}, {"vocab", model->config().vocab_size}};
    std::printf("%s\n", out.dump().c_str());
  } else {
    std::printf("%s: [%lld, %lld] float32\n", options.output.c_str(), static_cast<long long>(n),
                static_cast<long long>(model->config().vocab_size));
  }
  return kDone;
}

}  // namespace

void AddLogitsVerb(CLI::App& root, VerbContext& context) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* verb = context.AddVerb(root, kLogitsVerb, "hydralm logits -m runs/demo/model -p \"In the beginning\" -o logits.npy");
  AddModelFlags(verb, &options->model);
  verb->add_option("-p,--prompt", options->text, "text to encode")->type_name("TEXT");
  verb->add_option("-f,--file", options->file, "file to encode; - = stdin")->type_name("FILE");
  verb->add_option("--ids", options->ids, "token ids instead of text, such as 1,2,3")->delimiter(',');
  verb->add_option("--engine", options->engine, "torch: the training form, fp32")->check(CLI::IsMember({"torch"}));
  verb->add_option("-o,--output", options->output, "the .npy file to write")->required()->type_name("FILE.npy");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [options, verb](const CommonFlags& common) { return RunLogits(*options, verb, common); });
}

}  // namespace hydra::cli
