// SPDX-License-Identifier: Apache-2.0
// Opens models for the verbs of hydralm and says what was opened.
#include "hydra/cli/verb_runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/base/utf8.h"
#include "hydra/cli/byte_size.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/machine.h"
#include "hydra/io/file.h"
#include "hydra/kernels/target.h"
#include "hydra/model/accounting.h"

namespace hydra::cli {
namespace {

void CheckDevice(const std::string& device) {
  if (device == "auto" || device == "cpu") return;
  if (device.starts_with("cuda"))
    throw Error(ErrorCode::kNotBuilt,
                fmt::format("--device {}: this runtime computes on the CPU only: use auto or cpu", device));
  throw Error(ErrorCode::kUsage, fmt::format("--device {}: must be auto or cpu", device));
}

Activations ParseActivations(const std::string& name) {
  if (name == "auto") return Activations::kAuto;
  if (name == "f32") return Activations::kF32;
  if (name == "bf16") return Activations::kBF16;
  if (name == "q8") return Activations::kQ8;
  throw Error(ErrorCode::kUsage, fmt::format("--act {}: must be auto, f32, bf16 or q8", name));
}

std::string_view ActivationsName(Activations act) {
  return act == Activations::kQ8 ? "q8" : act == Activations::kBF16 ? "bf16" : "f32";
}

TuneMode ParseTuneMode(const std::string& name) {
  if (name == "on") return TuneMode::kOn;
  if (name == "off") return TuneMode::kOff;
  if (name == "again") return TuneMode::kAgain;
  throw Error(ErrorCode::kUsage, fmt::format("--tune {}: must be on, off or again", name));
}

AskAhead ParseAskAhead(const std::string& name) {
  if (name == "off") return AskAhead::kOff;
  if (name == "routed") return AskAhead::kRouted;
  if (name == "last") return AskAhead::kLast;
  throw Error(ErrorCode::kUsage, fmt::format("--ask-ahead {}: must be routed, last or off", name));
}

// Tokens a sequence, with a warning where the model was trained for fewer.
int64_t ContextSize(const ModelFlags& flags, const OpenOptions& options, int64_t trained) {
  if (!flags.ctx_given) return options.ctx > 0 ? options.ctx : std::min(flags.ctx, trained);
  const int64_t ctx = flags.ctx == 0 ? trained : flags.ctx;
  if (ctx > trained)
    fmt::print(stderr, "hydralm: warning: --ctx-size {}: the model was trained for {} tokens\n", ctx, Commas(trained));
  return ctx;
}

std::string GiB(int64_t bytes) { return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30)); }

// Refuses what would not fit before anything is taken; `extra` bytes are taken besides. Weights in a file need not fit.
void CheckMemory(const WeightSource& source, const LoadOptions& load, const RunOptions& run, const TensorBytes& bytes,
                 int64_t extra) {
  int64_t have = AvailableMemory();
  if (have == 0) return;
  if (!load.offload.empty()) have += PackedCopyBytes(source);
  Fit fit = CheckFit(source.config, run, std::max<int64_t>(have - extra, 1), bytes);
  if (fit.ok) return;
  if (fit.advice.starts_with("--ctx ")) fit.advice.replace(0, 5, "--ctx-size");
  throw Error(ErrorCode::kUsage, fmt::format("{}: needs {}, {} free{}", source.path, GiB(fit.need + extra), GiB(have),
                                             fit.advice.empty() ? "" : fmt::format(": {} fits", fit.advice)));
}

std::string Lines(const Model& model, const RunOptions& run, const TensorBytes& bytes, int threads) {
  const ModelWeights& w = model.weights();
  const RunBytes cost = CountRun(model.config(), run, bytes);
  std::string text =
      fmt::format("model        {}: {} parameters ({}), {}\n", ModelName(model.path()),
                  Commas(CountParams(model.config()).total), FamilyName(model.config().family), TypesText(w.source));
  const std::string packed =
      w.packed_bytes == 0 ? ""
      : w.options.offload.empty()
          ? fmt::format(" ({} in copies for {})", MiB(w.packed_bytes), w.target)
          : fmt::format(" ({} mapped from {}, for {})", MiB(w.packed_bytes), w.options.offload, w.target);
  std::string kv;
  if (cost.kv > 0)
    kv = fmt::format(" + KV {} ({} tokens, {}{})", MiB(cost.kv), Commas(run.ctx), KvDtypeName(run.kv),
                     run.plan ? ", by the plan" : "");
  const int64_t have = AvailableMemory();
  const std::string guesses =
      cost.provisional > 0 ? fmt::format(" + provisional passes {}", MiB(cost.provisional)) : "";
  text += fmt::format("memory       weights {}{}{} + state {} + scratch {}{} = {}{} MiB\n", MiB(cost.weights), packed,
                      kv, MiB(cost.state), MiB(cost.scratch), guesses, MiB(cost.total(1) - cost.snapshot),
                      have > 0 ? fmt::format(" of {} free", MiB(have)) : "");
  const std::string processor = ProcessorName();
  text += fmt::format("threads      {} on {}, activations {}{}\n", threads, w.target,
                      ActivationsName(model.options().act), processor.empty() ? "" : fmt::format(" ({})", processor));
  return text;
}

std::string KernelText(const kernels::Matrix& m, kernels::ActType act) {
  const char* layout = m.packed ? "panels" : "rows as stored";
  const bool pairs = act == kernels::ActType::kBF16 || (act == kernels::ActType::kQ8 && m.type == WeightType::kBF16);
  if (IsQuantised(m.type) && act == kernels::ActType::kQ8)
    return fmt::format("{}, int8 products with activations rounded in blocks of 32", layout);
  return fmt::format("{}, {}products in {}", layout, IsQuantised(m.type) ? "widened, " : "",
                     pairs && kernels::HasBf16Dots() ? "bf16 for many tokens, else in f32" : "f32");
}

std::string Explanation(const Model& model, const ModelFlags& flags, int threads) {
  const ModelWeights& w = model.weights();
  const Activations act = model.options().act;
  std::string targets;
  for (const std::string& name : kernels::Targets()) targets += (targets.empty() ? "" : " ") + name;
  std::string text = fmt::format("explain      SIMD level {} ({}); this machine runs: {}\n", kernels::CurrentTarget(),
                                 flags.target == "best" ? "the best there is" : "asked for", targets);
  text += fmt::format("explain      activations {}: {}\n", ActivationsName(act),
                      flags.act == "bf16" && act != Activations::kBF16 ? "this level multiplies no bf16"
                      : flags.act != "auto"                            ? "asked for"
                      : w.quantised                                    ? "the weights are quantised"
                      : act == Activations::kBF16                      ? "weights are bf16"
                                                                       : "the weights are not quantised");
  const ModelConfig& c = model.config();
  const bool mamba2 = c.HasSsm() && c.ssm.kind == SsmKind::kMamba2;
  text += fmt::format("explain      keys and values {}{}\n", KvDtypeName(model.options().kv_dtype),
                      mamba2 ? fmt::format(", recurrent state {}", StateDtypeName(model.options().state_dtype)) : "");
  text +=
      fmt::format("explain      weights of few tokens: {} ({})\n", Describe(w.tuning.tuning, threads), w.tuning.about);
  std::set<std::string> parts;  // the matrices of the first block of each kind
  w.ForEachMatrix([&](const std::string& part, const kernels::Matrix& m) {
    const kernels::ActType as = part == "router" ? kernels::ActType::kF32 : w.act();  // BlockFFN's scores are exact
    if (parts.insert(part).second)
      text += fmt::format("explain      {:<18} {:<5} [{}, {}]: {}\n", part, Info(m.type).name, m.rows, m.cols,
                          KernelText(m, as));
  });
  return text;
}

LoadOptions LoadOptionsOf(const ModelFlags& flags, const OpenOptions& options, const ModelConfig& config) {
  LoadOptions load;
  load.kv_dtype = ParseKvDtype(flags.kv_dtype, "--kv-dtype");
  load.state_dtype = ParseStateDtype(flags.state_dtype, "--state-dtype");
  load.act = options.f32_only ? Activations::kF32 : ParseActivations(flags.act);
  load.ctx_size = ContextSize(flags, options, config.max_position_embeddings);
  load.offload = flags.offload;
  load.ask_ahead = ParseAskAhead(flags.ask_ahead);
  load.tune = {ParseTuneMode(flags.tune), CacheFile("tuning.json"), MachineName()};
  return load;
}

// A plan's caches are counted as those of the longest sequences.
RunOptions RunOptionsOf(const LoadOptions& load, const OpenOptions& options, const WeightSource& source, int threads,
                        const UsedPlan& plan = {}) {
  return {.ctx = load.ctx_size,
          .batch = options.batch,
          .kv = load.kv_dtype,
          .state = load.state_dtype,
          .threads = threads,
          .int8 = load.act == Activations::kQ8 || (load.act == Activations::kAuto && AnyQuantised(source)),
          .provisional = options.provisional,
          .plan = plan.At(load.ctx_size)};
}

// A model's files, with their warnings on stderr.
WeightSource OpenSource(const std::string& path) {
  std::vector<std::string> warnings;
  WeightSource source = OpenWeights(path, &warnings);
  PrintWarnings(warnings);
  return source;
}

}  // namespace

namespace {

// "facts.safetensors:0.5": what stands behind the last colon is a strength, unless all of it is a file.
WeightedPack OpenPack(const std::string& word) {
  std::error_code ignored;
  const size_t colon = word.rfind(':');
  WeightedPack pack{.pack = {}, .path = word};
  if (colon != std::string::npos && !std::filesystem::exists(word, ignored)) {
    pack.path = word.substr(0, colon);
    pack.strength = ParseNumber(word.substr(colon + 1), "--memory " + pack.path);
  }
  if (pack.path.empty()) throw Error(ErrorCode::kUsage, "--memory: needs the name of a file: it is empty");
  pack.pack = MemoryPack::Load(pack.path);
  return pack;
}

std::shared_ptr<const MemoryOverlay> OpenMemory(const ModelFlags& flags, const WeightSource& source,
                                                std::vector<WeightedPack>* packs) {
  if (flags.memories.empty()) return nullptr;
  if (!source.config.HasPkm())
    throw Error(ErrorCode::kUsage,
                fmt::format("--memory {}: this model has no product-key memory", flags.memories.front()));
  for (const std::string& word : flags.memories) packs->push_back(OpenPack(word));
  return MemoryOverlay::Make(*packs, source, flags.memory_merge == "add");
}

}  // namespace

Runner OpenRunner(const ModelFlags& flags, const OpenOptions& options) {
  return OpenRunner(OpenSource(flags.model), flags, options);
}

Runner OpenRunner(const WeightSource& source, const ModelFlags& flags, const OpenOptions& options) {
  CheckDevice(flags.device);
  (void)ApplyControls(flags, source.config);
  kernels::SetTarget(flags.target);
  const int threads = flags.threads > 0 ? flags.threads : PhysicalCores();
  const LoadOptions load = LoadOptionsOf(flags, options, source.config);
  const UsedPlan plan(flags.plan, source.config);
  const RunOptions run = RunOptionsOf(load, options, source, threads, plan);
  std::vector<WeightedPack> packs;
  auto memory = OpenMemory(flags, source, &packs);
  const TensorBytes bytes = [&](const TensorSpec& spec) { return source.tensor(spec).nbytes; };
  CheckMemory(source, load, run, bytes, options.extra);
  auto pool = std::make_unique<ThreadPool>(threads);
  Model model(ModelWeights::Build(source, load, pool.get()));
  std::string about = options.quiet ? "" : Lines(model, run, bytes, pool->threads());
  if (flags.explain) about += Explanation(model, flags, pool->threads());
  if (!options.quiet) about += BudgetText(flags, source.config);
  if (memory && !options.quiet)
    about += fmt::format("memory packs {}: {} rows, {} KiB\n", memory->text(), memory->rows(), memory->bytes() / 1024);
  return {std::move(pool), std::move(model), std::move(about), std::move(memory), std::move(packs), plan};
}

Model OpenBeside(const ModelFlags& flags, const OpenOptions& options, ThreadPool& pool) {
  const WeightSource source = OpenSource(flags.model);
  LoadOptions load = LoadOptionsOf(flags, options, source.config);
  load.offload.clear();  // that is for the other model
  CheckMemory(
      source, load, RunOptionsOf(load, options, source, pool.threads()),
      [&](const TensorSpec& spec) { return source.tensor(spec).nbytes; }, options.extra);
  return Model(ModelWeights::Build(source, load, &pool));
}

void Runner::Announce() const { fmt::print(stderr, "{}", about); }

SequenceState Runner::NewState(const Controls& controls, int64_t N) const {
  SequenceState state(model, controls, plan.At(N));
  state.SetMemory(memory);
  return state;
}

SequenceState Runner::LoadState(const std::string& path) const {
  const int64_t N = SequenceState::PlanLengthIn(path);
  if (N > model.options().ctx_size)
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: kv_plan_length = {}: --ctx-size is {}", path, N, model.options().ctx_size));
  // A state without a plan is held to that of --plan by Load, which says what each of them has.
  return SequenceState::Load(path, model, plan.At(N > 0 ? N : model.options().ctx_size), memory);
}

int64_t Runner::PlanLengthOf(int64_t tokens) const {
  const int64_t ctx = model.options().ctx_size;
  return PlanLength(tokens < 0 ? ctx : std::min(tokens, ctx), kPlanStep, ctx);
}

void Runner::AnnouncePlan(int64_t N) const {
  if (plan && !about.empty()) fmt::print(stderr, "plan         {}\n", plan.Text(N, model.options().kv_dtype));
}

Tokenizer LoadTokenizerOf(const Model& model, const ModelFlags& flags) {
  Tokenizer tokenizer = LoadTokenizer(model.path(), flags.pre);
  if (tokenizer.vocab_size() > model.config().vocab_size)
    throw Error(ErrorCode::kConfig, fmt::format("{}: the tokenizer has {} tokens, the model's vocab_size is {}",
                                                model.path(), tokenizer.vocab_size(), model.config().vocab_size));
  return tokenizer;
}

GenerationConfig LoadWishes(const std::string& path) {
  GenerationConfig config = LoadGenerationConfig(path);
  PrintWarnings(config.warnings);
  config.warnings.clear();
  return config;
}

std::vector<int32_t> EndIds(const Model& model, GenerationConfig config, const Tokenizer& tokenizer) {
  config.DropEndsBeyond(model.config().vocab_size);
  PrintWarnings(config.warnings);
  std::vector<int32_t> ids = config.eos_token_ids;
  const auto add = [&ids](int64_t id) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(static_cast<int32_t>(id));
  };
  for (const int64_t id : model.config().EosTokenIds()) add(id);
  for (const auto& id : {tokenizer.eos_id(), tokenizer.eot_id()})
    if (id) add(*id);
  return ids;
}

std::string ModelName(const std::string& path) {
  namespace fs = std::filesystem;
  fs::path p = fs::path(path).lexically_normal();
  if (!p.has_filename()) p = p.parent_path();
  if (p == "." || p == "..") p = fs::weakly_canonical(p);
  const std::string extension = p.extension().string();
  return extension == ".gguf" || extension == ".safetensors" ? p.stem().string() : p.filename().string();
}

std::vector<WeightType> MatrixTypes(const WeightSource& source) {
  std::map<WeightType, int64_t> bytes;
  const TensorTable table(source.config);
  for (const TensorSpec& spec : table.specs())
    if (spec.shape.size() > 1) {
      const StoredTensor t = source.tensor(spec);
      bytes[t.type] += t.nbytes;
    }
  std::vector<WeightType> types;
  for (const auto& [type, n] : bytes) types.push_back(type);
  std::stable_sort(types.begin(), types.end(), [&](WeightType a, WeightType b) { return bytes[a] > bytes[b]; });
  return types;
}

std::string TypesText(const WeightSource& source) {
  std::string text;
  for (const WeightType type : MatrixTypes(source)) text += (text.empty() ? "" : ", ") + std::string(Info(type).name);
  return text;
}

std::string KernelsText(const Model& model) {
  const Activations act = model.options().act;
  std::string text;
  for (const WeightType type : MatrixTypes(model.weights().source))
    text += fmt::format("{}{} {} x {}", text.empty() ? "" : "; ", Info(type).name,
                        IsQuantised(type) && model.options().pack ? "panels" : "rows",
                        IsQuantised(type) && act == Activations::kQ8
                            ? "int8"
                            : ActivationsName(act == Activations::kQ8 ? Activations::kF32 : act));
  return text;
}

std::string TextOfTokens(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  Utf8Stream stream;
  std::string text;
  for (const int32_t id : ids)
    text += id < tokenizer.vocab_size() ? stream.Push(tokenizer.TokenBytes(id))
                                        : stream.Finish() + std::string(kReplacementChar);
  return text + stream.Finish();
}

void Show(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace hydra::cli
