// SPDX-License-Identifier: Apache-2.0
// `hydralm convert`: a model folder to GGUF or the other way round, with proof on request.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "hydra/base/error.h"
#include "hydra/cli/byte_size.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_convert_files.h"
#include "hydra/cli/verbs.h"
#include "hydra/convert/torch_weights.h"
#include "hydra/convert/verify.h"
#include "hydra/io/json.h"

namespace hydra::cli {
namespace {

struct ConvertFlags {
  std::string source, target, to, dtype, pre, shard_size = "5GB";
  int threads = 0;
  bool verify = false;
};

DType ParseDtype(const std::string& name, DType of_source) {
  if (name.empty()) return of_source == DType::kF64 ? DType::kF32 : of_source;
  return name == "f32" ? DType::kF32 : name == "f16" ? DType::kF16 : DType::kBF16;
}

// How far values may move in a type: specs/hydra.md 13 for logits, half an ulp's relative size for tensors.
struct Bounds {
  double tensor, logits;
};
Bounds BoundsOf(DType dtype) {
  switch (dtype) {
    case DType::kF32: return {1e-6, 1e-4};  // ssm_a is an exponential and back
    case DType::kF16: return {1e-3, 2e-2};
    default: return {4e-3, 2e-2};
  }
}

struct Verdict {
  VerifyReport report;
  bool equal = false;
};

Verdict Verify(const WeightSource& source, const ConvertFlags& flags, const Bounds& bounds) {
  ThreadPool pool(flags.threads);
  Verdict verdict{.report = VerifyModel(source, OpenWeights(flags.target), pool)};
  VerifyReport& report = verdict.report;
  const std::optional<Tokenizer> from = TokenizerOf(flags.source, flags.pre), to = TokenizerOf(flags.target);
  if (from) {
    const std::string difference = to ? CompareTokenizers(*from, *to) : "tokenizer: is not there";
    if (!difference.empty()) report.differences.push_back(difference);
  }
  verdict.equal = report.worst_tensor <= bounds.tensor && report.logits <= bounds.logits && report.differences.empty();
  return verdict;
}

nlohmann::ordered_json VerifyJson(const Verdict& verdict) {
  const VerifyReport& r = verdict.report;
  return {{"ok", verdict.equal},
          {"worst_tensor", r.worst_name},
          {"worst_error", r.worst_tensor},  // null where it is infinite
          {"logits", r.logits},
          {"tokens", r.tokens},
          {"differences", r.differences}};
}

void PrintVerdict(const Verdict& verdict, const Bounds& bounds) {
  const VerifyReport& r = verdict.report;
  for (const std::string& difference : r.differences) fmt::print("verify: {}\n", difference);
  fmt::print(
      "verify: every tensor once; values within {:.2g} ({}), bound {:.2g}; logits of {} tokens within {:.2g}, "
      "bound {:.2g}; config and tokenizer {}: {}\n",
      r.worst_tensor, r.worst_name, bounds.tensor, r.tokens, r.logits, bounds.logits,
      r.differences.empty() ? "the same" : "differ", verdict.equal ? "equal" : "DIFFERENT");
}

int RunConvert(const ConvertFlags& flags, const CommonFlags& common) {
  const bool gguf = flags.to.empty() ? flags.target.ends_with(".gguf") : flags.to == "gguf";
  if (!gguf && flags.to.empty()) RefuseFileName(flags.target);
  const WeightSource source =
      OpenSource(flags.source, flags.target, gguf ? TargetKind::kGguf : TargetKind::kFolder, OpenForConversion);
  const DType dtype = ParseDtype(flags.dtype, source.config.dtype);
  const int64_t shard_bytes = ParseBytes("convert: --shard-size", flags.shard_size);
  ConvertReport report;
  if (gguf) {
    const WeightType matrix = *WeightTypeOf(dtype);
    report = WriteGgufModel(
        source, flags.target, [&](const TensorSpec& spec) { return spec.matmul ? matrix : WeightType::kF32; },
        flags.pre);
  } else {
    report = WriteFolderModel(source, flags.target, flags.dtype.empty() ? std::nullopt : std::optional(dtype),
                              shard_bytes, flags.pre);
  }
  const Bounds bounds = BoundsOf(dtype);
  std::optional<Verdict> verdict;
  if (flags.verify) verdict = Verify(source, flags, bounds);
  if (common.json) {
    nlohmann::ordered_json json = ReportJson(flags.target, report);
    json["read"] = report.read;
    json["written"] = report.written;
    json["dropped"] = report.read - report.written;
    if (verdict) json["verify"] = VerifyJson(*verdict);
    fmt::print("{}\n", DumpJson(json));
  } else {
    fmt::print("{}: {} tensors read, {} written, {} dropped; {}\n", flags.target, report.read, report.written,
               report.read - report.written, BytesText(report));
    if (verdict) PrintVerdict(*verdict, bounds);
  }
  return !verdict || verdict->equal ? kDone : kCheckFailed;
}

}  // namespace

void AddConvertVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* verb = context.AddVerb(root, kConvertVerb, "hydralm convert runs/demo/model -o nano.gguf --verify");
  verb->add_option("SOURCE", flags->source, "model folder, .gguf, .safetensors or pytorch_model.bin file")
      ->required()
      ->type_name("PATH");
  verb->add_option("-o,--output", flags->target, "the folder or .gguf file to write")->required()->type_name("PATH");
  verb->add_option("--to", flags->to, "hf: a folder; gguf; default by the name of -o")
      ->check(CLI::IsMember({"hf", "gguf"}));
  verb->add_option("--dtype", flags->dtype, "matrices as f32, bf16 or f16; default as in the source")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  verb->add_option("--shard-size", flags->shard_size, "largest .safetensors file, such as 2GB")->type_name("BYTES");
  AddPreFlag(verb, &flags->pre);
  verb->add_option("-t,--threads", flags->threads, "threads of --verify; 0 = all cores")->check(Range(0, 1024));
  verb->add_flag("--verify", flags->verify,
                 "read it back: tensors, logits, config and tokenizer must agree, else exit 1");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunConvert(*flags, common); });
}

}  // namespace hydra::cli
