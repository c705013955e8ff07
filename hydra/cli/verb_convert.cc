// SPDX-License-Identifier: Apache-2.0
// `hydralm convert`: a model folder to GGUF or the other way round, with proof on request.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "hydra/base/error.h"
#include "hydra/cli/byte_size.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/verb_convert_files.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra::cli {
namespace {

struct ConvertFlags {
  std::string source, target, to, dtype, shard_size = "5GB";
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

int RunConvert(const ConvertFlags& flags, const CommonFlags& common) {
  CheckTarget(flags.source, flags.target);
  std::vector<std::string> warnings;
  const WeightSource source = OpenWeights(flags.source, &warnings);
  for (const std::string& warning : warnings) std::fprintf(stderr, "hydralm: warning: %s\n", warning.c_str());
  const bool gguf = flags.to.empty() ? flags.target.ends_with(".gguf") : flags.to == "gguf";
  const DType dtype = ParseDtype(flags.dtype, source.config.dtype);
  const int64_t shard_bytes = ParseBytes("convert: --shard-size", flags.shard_size);
  ConvertReport report;
  if (gguf) {
    const WeightType matrix = *WeightTypeOf(dtype);
    report = WriteModelGguf(
        source, flags.target, [&](const TensorSpec& spec) { return spec.matmul ? matrix : WeightType::kF32; },
        TokenizerKeys(source));
  } else {
    report = WriteModelFolder(source, flags.target, dtype, shard_bytes);
    WriteTokenizerFiles(source, flags.target);
  }

  VerifyReport verified;
  const Bounds bounds = BoundsOf(dtype);
  bool good = true;
  if (flags.verify) {
    ThreadPool pool(flags.threads);
    verified = VerifyModel(source, OpenWeights(flags.target), pool);
    good = verified.worst_tensor <= bounds.tensor && verified.logits <= bounds.logits;
  }
  if (common.json) {
    nlohmann::ordered_json json = {{"file", flags.target},
                                   {"read", report.read},
                                   {"written", report.written},
                                   {"dropped", report.read - report.written},
                                   {"bytes_before", report.bytes_before},
                                   {"bytes_after", report.bytes_after}};
    if (flags.verify)
      json["verify"] = {{"ok", good},
                        {"worst_tensor", verified.worst_name},
                        {"worst_error", verified.worst_tensor},
                        {"logits", verified.logits},
                        {"tokens", verified.tokens}};
    fmt::print("{}\n", DumpJson(json));
  } else {
    fmt::print("{}: {} tensors read, {} written, {} dropped; {} -> {} bytes\n", flags.target, report.read,
               report.written, report.read - report.written, WithCommas(static_cast<uint64_t>(report.bytes_before)),
               WithCommas(static_cast<uint64_t>(report.bytes_after)));
    if (flags.verify)
      fmt::print(
          "verify: every tensor once; values within {:.2g} ({}), bound {:.2g}; logits of {} tokens within {:.2g}, "
          "bound {:.2g}: {}\n",
          verified.worst_tensor, verified.worst_name, bounds.tensor, verified.tokens, verified.logits, bounds.logits,
          good ? "equal" : "DIFFERENT");
  }
  return good ? kDone : kCheckFailed;
}

}  // namespace

void AddConvertVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* verb = context.AddVerb(root, kConvertVerb, "hydralm convert runs/demo/model -o nano.gguf --verify");
  verb->add_option("SOURCE", flags->source, "model folder, .gguf or .safetensors file")->required()->type_name("PATH");
  verb->add_option("-o,--output", flags->target, "the folder or .gguf file to write")->required()->type_name("PATH");
  verb->add_option("--to", flags->to, "hf: a folder; gguf; default by the name of -o")
      ->check(CLI::IsMember({"hf", "gguf"}));
  verb->add_option("--dtype", flags->dtype, "matrices as f32, bf16 or f16; default the source's")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  verb->add_option("--shard-size", flags->shard_size, "largest .safetensors file, such as 2GB")->type_name("BYTES");
  verb->add_option("-t,--threads", flags->threads, "threads of --verify; 0 = all cores")->check(Range(0, 1024));
  verb->add_flag("--verify", flags->verify, "read it back: tensors and logits must agree, else exit 1");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunConvert(*flags, common); });
}

}  // namespace hydra::cli
