// SPDX-License-Identifier: Apache-2.0
// Opens model, facts and text, teaches, and says what came of it.
#include "hydra/cli/torch_teach.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/safetensors.h"
#include "hydra/nn/model_io.h"
#include "hydra/text/tokenizer.h"
#include "hydra/train/teach.h"
#include "hydra/train/validation.h"

namespace hydra::cli {
namespace {

namespace fs = std::filesystem;

train::TeachInto IntoOf(const std::string& word) {
  if (word == "table") return train::TeachInto::kTable;
  return word == "low-rank" ? train::TeachInto::kLowRank : train::TeachInto::kAll;
}

// What packs of a folder's model say they fit: what its file carries, else its own tensors.
std::string BaseOf(const std::string& folder, const nn::Model& model) {
  if (const auto recorded = RecordedMemoryBase(SafeTensors::Open(folder).metadata())) return *recorded;
  MemoryBaseHash hash;
  for (const auto& [spec, tensor] : model.Tensors()) {
    if (!MemoryBaseHash::Covers(spec->role)) continue;
    const torch::Tensor values = tensor.detach().to(torch::kCPU, torch::kFloat32).contiguous();
    hash.Add({values.const_data_ptr<float>(), static_cast<size_t>(values.numel())});
  }
  return hash.Finish();
}

void CheckOutput(const TeachFlags& flags) {
  if (flags.output.empty()) throw Error(ErrorCode::kUsage, "train --teach: give -o: the memory pack to write");
  const auto folder = fs::path(flags.output).parent_path();
  if (!folder.empty() && !fs::is_directory(folder))
    throw Error(ErrorCode::kIo, StrCat("-o ", flags.output, ": no such folder: ", folder.string()));
}

void Print(const train::TeachReport& report, double before, double after, const TeachFlags& flags) {
  std::printf("taught       %lld facts, %lld ways to ask, in %lld steps and %.0f s\n",
              static_cast<long long>(report.facts), static_cast<long long>(report.trained),
              static_cast<long long>(report.steps), report.seconds);
  std::printf("answers      %.1f%% -> %.1f%% of the questions that were taught", 100 * report.trained_before,
              100 * report.trained_after);
  if (report.held_out > 0)
    std::printf("; %.1f%% -> %.1f%% of %lld that were not", 100 * report.held_out_before, 100 * report.held_out_after,
                static_cast<long long>(report.held_out));
  std::printf("\nother text   %.4f -> %.4f bits per byte\n", before, after);
  if (report.pack)
    std::printf("memory       %s: %lld rows, %lld numbers could move, mean gate %.3f\n", flags.output.c_str(),
                static_cast<long long>(report.rows), static_cast<long long>(report.numbers), report.mean_gate);
  else
    std::printf("model        %s: %lld numbers could move\n", flags.output.c_str(),
                static_cast<long long>(report.numbers));
}

Json ReportJson(const train::TeachReport& r, double before, double after) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
  return {{"facts", r.facts},
          {"trained", r.trained},
          {"held_out", r.held_out},
          {"steps", r.steps},
          {"seconds", r.seconds},
          {"trained_before", r.trained_before},
          {"trained_after", r.trained_after},
          {"held_out_before", r.held_out_before},
          {"held_out_after", r.held_out_after},
          {"bpb_before", number(before)},
          {"bpb_after", number(after)},
          {"mean_gate", r.mean_gate},
          {"rows", r.rows},
          {"numbers", r.numbers}};
}

}  // namespace

void AddTeachFlags(CLI::App* verb, TeachFlags* flags) {
  verb->add_option("--teach", flags->facts,
                   "teach the model of --init facts (lines of JSON: prompt, answer, paraphrases), with --data as "
                   "rehearsal, into the memory pack of -o")
      ->type_name("FACTS");
  verb->add_option("-o,--output", flags->output, "of --teach: the memory pack; with other --teach-into a model folder")
      ->type_name("PACK");
  verb->add_option("--teach-into", flags->into, "table, or for comparison low-rank or all weights")
      ->check(CLI::IsMember({"table", "low-rank", "all"}))
      ->type_name("WHERE");
  verb->add_option("--teach-name", flags->name, "the pack's name; default that of FACTS")->type_name("NAME");
  verb->add_option("--teach-steps", flags->steps, "steps at most; it ends when every question is answered")
      ->check(Range(1, 1 << 24));
  verb->add_option("--teach-lr", flags->lr, "learning rate")->type_name("X");
  verb->add_option("--teach-keep-out", flags->keep_out, "paraphrases of each fact that are asked but not taught")
      ->check(Range(0, 1 << 20));
}

int RunTeach(const TeachFlags& flags, const std::string& folder, const std::string& data, int64_t seed,
             const CommonFlags& common) {
  CheckOutput(flags);
  if (folder.empty()) throw Error(ErrorCode::kUsage, "train --teach: give --init: the model folder that is taught");
  if (data.empty()) throw Error(ErrorCode::kUsage, "train --teach: give --data: text for rehearsal");
  const std::vector<train::Fact> facts = train::ReadFacts(flags.facts);
  const Tokenizer tokenizer = Tokenizer::Load(folder);
  nn::Model model = nn::LoadModel(folder);
  const TokenDataset::Expect expect{.tokenizer_sha256 = Hex(tokenizer.sha256()),
                                    .vocab_size = model.config().vocab_size};
  const train::Corpus text = train::Corpus::Open(data, "train", expect), val = train::Corpus::Open(data, "val", expect);
  const auto trained = train::Examples(facts, tokenizer, flags.keep_out, false);
  const auto held_out = train::Examples(facts, tokenizer, flags.keep_out, true);
  const auto bytes = train::TokenByteCounts(tokenizer);
  const auto loss = [&] {
    return train::Validate(model, val, bytes, {.max_tokens = flags.eval_tokens}).bits_per_byte();
  };
  const double before = loss();
  train::TeachOptions options{.into = IntoOf(flags.into),
                              .steps = flags.steps,
                              .lr = flags.lr,
                              .rehearsal = flags.rehearsal,
                              .seed = static_cast<uint64_t>(seed),
                              .stop = &StopSignal()};
  Pace pace(5);
  options.on_step = [&](int64_t step, double answers, double kl) {
    if (!common.quiet && pace.Due())
      std::fprintf(stderr, "step %lld/%lld | answers %.3f nats a token | rehearsal KL %.5f\n",
                   static_cast<long long>(step), static_cast<long long>(flags.steps), answers, kl);
  };
  const std::string base = options.into == train::TeachInto::kTable ? BaseOf(folder, model) : "";
  train::TeachReport report = train::Teach(model, trained, held_out, text, base, options);
  report.facts = static_cast<int64_t>(facts.size());
  const double after = loss();
  if (report.pack) {
    report.pack->name = flags.name.empty() ? fs::path(flags.facts).stem().string() : flags.name;
    report.pack->Save(flags.output);
  } else {
    nn::SaveModel(flags.output, model, ReadFile((fs::path(folder) / "tokenizer.json").string()));
  }
  constexpr double kClosed = 0.05;
  if (report.pack && report.mean_gate < kClosed)
    std::fprintf(stderr,
                 "hydralm: warning: the mean gate of the reads is %.3f on these questions: what the table says "
                 "hardly reaches the model\n",
                 report.mean_gate);
  if (common.json)
    std::puts(ReportJson(report, before, after).dump().c_str());
  else if (!common.quiet)
    Print(report, before, after, flags);
  return StopStatus();
}

}  // namespace hydra::cli
