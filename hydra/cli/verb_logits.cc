// SPDX-License-Identifier: Apache-2.0
// `hydralm logits`: the logits of given tokens as a float32 .npy [T, vocab], for any program to compare. Activations
// are f32 whatever the weights. Not here: LibTorch's (torch_logits.cc), to which --engine torch hands over.
#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/npy.h"

namespace hydra::cli {
namespace {

struct RuntimeLogitsFlags {
  LogitsFlags io;
  std::vector<int64_t> split;
};

// Flags that the other engine would not obey.
void RefuseRuntimeFlags(const CLI::App* verb) {
  for (const char* flag : {"--split", "--ctx-size", "--kv-dtype", "--state-dtype", "--target", "--explain", "--memory"})
    if (verb->count(flag) > 0) throw Error(ErrorCode::kUsage, StrCat("logits: ", flag, " is for --engine runtime"));
}

int RunLogits(const RuntimeLogitsFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  const OpenOptions open{.quiet = common.quiet || !common.verbose, .f32_only = true};
  const Runner runner = OpenRunner(flags.io.model, open);
  const Model& model = runner.model;
  const int64_t vocab = model.config().vocab_size;
  const std::vector<int32_t> ids = InputIds(flags.io, verb, vocab);
  runner.Announce();
  runner.AnnouncePlan(runner.PlanLengthOf(static_cast<int64_t>(ids.size())));
  SequenceState state = runner.NewState(ApplyControls(flags.io.model, model.config()),
                                        runner.PlanLengthOf(static_cast<int64_t>(ids.size())));
  ForwardScratch scratch;
  NpyRowWriter writer(flags.io.output, vocab);
  std::span<const int32_t> left(ids);
  for (size_t piece = 0; !left.empty(); ++piece) {
    size_t n = left.size();
    if (!flags.split.empty())
      n = std::min(n, static_cast<size_t>(flags.split[std::min(piece, flags.split.size() - 1)]));
    for (std::span<const int32_t> now = left.first(n); !now.empty();) {
      const Segment segment{&state, now.first(std::min<size_t>(kPassTokens, now.size())), LogitsOf::kAll};
      writer.Write(model.Forward({&segment, 1}, *runner.pool, scratch));
      now = now.subspan(segment.ids.size());
    }
    left = left.subspan(n);
  }
  writer.Finish();
  PrintLogitsResult(flags.io, static_cast<int64_t>(ids.size()), vocab, common.json);
  return kDone;
}

}  // namespace

void AddLogitsVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<RuntimeLogitsFlags>();
  flags->io.engine = "runtime";
  CLI::App* verb =
      context.AddVerb(root, kLogitsVerb, "hydralm logits -m runs/demo/model -p \"In the beginning\" -o logits.npy");
  AddLogitsFlags(verb, &flags->io);
  AddNumbers(verb, "--split", &flags->split,
             "tokens of each pass, the last number repeats: 1 = token by token; default one piece",
             Range(1, INT32_MAX));
  AddRuntimeFlags(verb, &flags->io.model);
  AddMemoryFlags(verb, &flags->io.model);
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags, verb, &context](const CommonFlags& common) {
    if (flags->io.engine == "runtime") return RunLogits(*flags, verb, common);
    RefuseRuntimeFlags(verb);
    context.HandOver();
  });
}

}  // namespace hydra::cli
