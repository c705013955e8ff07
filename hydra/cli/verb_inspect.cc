// SPDX-License-Identifier: Apache-2.0
// `hydralm inspect`: what a model is made of and what it costs, as text or JSON. Every number comes from
// model/accounting.h or from the file; nothing is computed here but units.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/thread_pool.h"
#include "hydra/cli/account_page.h"
#include "hydra/cli/byte_size.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/machine.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/io/safetensors.h"
#include "hydra/kernels/target.h"
#include "hydra/model/accounting.h"
#include "hydra/model/config.h"
#include "hydra/model/gguf_model.h"
#include "hydra/model/model_tensors.h"
#include "hydra/runtime/weights.h"
#include "hydra/text/tokenizer.h"

namespace hydra::cli {
namespace {

namespace fs = std::filesystem;

struct InspectOptions {
  std::string model = ".";
  std::string preset;
  int64_t ctx = 8192;
  int64_t batch = 1;
  std::string kv_dtype = "f16", state_dtype = "f32";
  std::string fit;        // bytes, with a unit
  std::string bandwidth;  // bytes a second, with a unit
  double active = 1;      // share of BlockFFN's experts that a step reads
  bool tensors = false;
  std::string report;  // a page of HTML
  PlanFlags plan;
};

std::string Lower(std::string name) {
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

// One tensor as it is stored, or would be.
struct Stored {
  std::string type;  // "BF16", "Q4_K"
  int64_t bytes;
};

// What was named: a config, the tensors of a file, or both.
struct Subject {
  std::optional<ModelConfig> config;
  std::optional<SafeTensors> file;
  std::optional<GgufFile> gguf;        // with a config: of a family that runs here
  std::optional<WeightSource> source;  // the same file as the runtime reads it
  std::vector<std::string> notes;

  // A tensor of the config's table.
  [[nodiscard]] Stored Of(const TensorSpec& spec) const {
    if (source) {
      const StoredTensor t = source->tensor(spec);
      return {Info(t.type).name, t.nbytes};
    }
    if (file) {
      const TensorView& view = FindTensor(*config, *file, spec).view;
      return {DTypeName(view.dtype), view.nbytes};
    }
    return {DTypeName(spec.dtype), DefaultTensorBytes(spec)};
  }
};

bool IsSafeTensors(const std::string& path) {
  return path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json");
}

bool BeginsAsJson(const std::string& path) {
  const MappedFile file(path);
  const std::string_view text = file.text();
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && text[first] == '{';
}

Subject LoadSubject(const InspectOptions& options) {
  Subject subject;
  if (!options.preset.empty()) {
    subject.config = Preset(options.preset);
    return subject;
  }
  const fs::path path(options.model);
  if (!fs::exists(path)) throw Error(ErrorCode::kIo, fmt::format("{}: no such file or folder", options.model));
  const bool folder = fs::is_directory(path);
  if (!folder && (path.extension() == ".gguf" || GgufFile::IsGguf(options.model))) {
    subject.gguf = GgufFile::Open(options.model);
    const std::string_view family = subject.gguf->Text("general.architecture");
    if (!IsGgufFamily(family)) {
      subject.notes.push_back(fmt::format("{}: general.architecture = {}: not a family that runs here", options.model,
                                          OneLine(family, 40)));
      return subject;
    }
    subject.source = OpenWeights(options.model, &subject.notes);
    subject.config = subject.source->config;
    return subject;
  }
  if (!folder && !IsSafeTensors(options.model)) {
    if (path.extension() != ".json" && !BeginsAsJson(options.model))
      throw Error(
          ErrorCode::kUsage,
          fmt::format("{}: must be a model folder, a .gguf, a .safetensors or a config.json file", options.model));
    subject.config = LoadConfig(options.model, &subject.notes);
    return subject;
  }
  // A config beside a file describes it only if the file has the name that a model's weights have.
  const fs::path home = folder ? path : path.parent_path();
  const bool weights = path.filename().string().starts_with("model.safetensors");
  if (folder || (weights && fs::exists(home / "config.json")))
    subject.config = LoadConfig((home / "config.json").string(), &subject.notes);
  if (!folder || fs::exists(path / "model.safetensors") || fs::exists(path / "model.safetensors.index.json"))
    subject.file = SafeTensors::Open(options.model);
  if (subject.config && subject.file)
    CheckTensors(*subject.config, *subject.file, {.warnings = &subject.notes, .others = OtherTensors::kNoted});
  return subject;
}

// Of weights that the runtime takes; 0 for others and for configs alone.
int64_t PackedCopies(const Subject& subject) {
  if (subject.source) return PackedCopyBytes(*subject.source);
  if (!subject.config || !subject.file) return 0;
  WeightSource source;
  source.config = *subject.config;
  for (const TensorView& view : subject.file->tensors())
    if (!WeightTypeOf(view.dtype)) return 0;
  source.tensor = [&subject](const TensorSpec& spec) {
    const TensorView& view = FindTensor(*subject.config, *subject.file, spec).view;
    return StoredTensor{*WeightTypeOf(view.dtype), view.data, view.nbytes};
  };
  return PackedCopyBytes(source);
}

// What this very process has after loading the model's tokenizer, where there is one.
int64_t ProgramBytes(const std::string& model) {
  std::optional<Tokenizer> tokenizer;
  try {
    if (!model.empty()) tokenizer = Tokenizer::Load(model);
  } catch (const Error&) {
    // A config alone, or a tokenizer that other verbs will refuse with its reason.
  }
  return ProgramMemory();
}

// All that is printed of a model.
struct Costs {
  ParamCounts params;
  Flops scan, step;
  double mean = 0;  // forward FLOPs of a token, averaged over a document of ctx tokens
  RunBytes run;
  int64_t program = 0;  // what a process has before the model's part: code, libraries, the tokenizer; 0 = not known
  int64_t packed = 0;   // copies of weights that the runtime makes for this machine
  TrainMemory train;
  Fit fit;
  std::optional<int64_t> bandwidth;
  UsedPlan plan{};  // of sequences of the length that was asked for
};

// Rows of params.by_kind: the components; where blocks have no gates, all norms together.
std::vector<std::pair<std::string, int64_t>> Kinds(const ModelConfig& config, const ParamCounts& params) {
  std::vector<std::pair<std::string, int64_t>> kinds;
  const bool merge = config.wiring == Wiring::kSequential;
  for (const ComponentParams& row : params.by_component)
    if (!merge || (row.component != Component::kBlockNorms && row.component != Component::kFinalNorm))
      kinds.emplace_back(ComponentName(row.component), row.total);
  if (merge) kinds.emplace_back("norms", params.Of(Component::kBlockNorms) + params.Of(Component::kFinalNorm));
  return kinds;
}

std::string DtypeText(const ModelConfig& config, const Subject& subject) {
  const TensorTable table(config);
  const auto of = [&](const TensorSpec& spec) { return Lower(subject.Of(spec).type); };
  std::string main = subject.source ? Lower(TypesText(*subject.source)) : of(*table.Find(TensorRole::kEmbedding));
  for (const TensorSpec& spec : table.specs())
    if (of(spec) != main)
      return fmt::format("{}; {} {}", main, config.family == Family::kLlama ? "norms" : "small ones",
                         of(*table.Find(TensorRole::kFinalNorm)));
  return main;
}

void PrintText(const ModelConfig& config, const Subject& subject, const InspectOptions& options, const Costs& c) {
  std::string kinds;
  for (const auto& [name, count] : Kinds(config, c.params)) {
    const bool tied = name == ComponentName(Component::kEmbedding) && config.tie_embeddings;
    kinds += fmt::format("{}{} {}{}", kinds.empty() ? "" : "; ", name, Commas(count), tied ? " tied" : "");
  }
  fmt::print("params       {} ({})  active {}\n", Commas(c.params.total), kinds, Commas(c.params.active));

  std::string flops = fmt::format("{} linear", Commas(c.scan.linear));
  if (c.scan.attention > 0) flops += fmt::format(" + {} attention at {}", Commas(c.scan.attention), options.ctx);
  if (c.scan.scan > 0) flops += fmt::format(" + {} scan", Commas(c.scan.scan));
  if (c.scan.workspace > 0) flops += fmt::format(" + {} workspace", Commas(c.scan.workspace));
  if (c.scan.scan > 0)
    flops += fmt::format(" = {} (token by token {})", Commas(c.scan.total()), Commas(c.step.total()));
  fmt::print("FLOPs/token  {}\n", flops);
  fmt::print("             {} forward, {} in training: mean over a text of {} tokens\n", Commas(std::llround(c.mean)),
             Commas(std::llround(3 * c.mean)), options.ctx);

  std::string kv = Commas(c.run.kv);
  if (c.run.kv > 0 && !c.plan) kv += fmt::format(" ({}, {} a token)", options.kv_dtype, Commas(c.run.kv_per_token));
  fmt::print("bytes        weights {} ({})  state {}{}  KV {}\n", Commas(c.run.weights), DtypeText(config, subject),
             Commas(c.run.state), c.run.state > 0 ? " (constant)" : "", kv);
  if (c.plan)
    fmt::print("plan         {} ({})\n",
               c.plan.Text(options.ctx, ParseKvDtype(options.kv_dtype, "inspect: --kv-dtype")), options.kv_dtype);
  if (c.packed > 0)
    fmt::print("copies       {} of weights in panels for {}; the file's pages of them are given back\n",
               Commas(c.packed), kernels::CurrentTarget());

  std::string rate;
  if (c.bandwidth)
    rate = fmt::format(": at most {:.1f} tok/s at {:g} GB/s",
                       static_cast<double>(*c.bandwidth) / static_cast<double>(c.run.read_per_token),
                       static_cast<double>(*c.bandwidth) / 1e9);
  const std::string experts =
      config.HasFfn(FfnKind::kBlockFfn) ? fmt::format(" with {:g}% of the experts", 100 * options.active) : "";
  fmt::print("read/token   {} B{}{}\n", Commas(c.run.read_per_token), experts, rate);

  std::string verdict = " MiB";
  if (c.fit.have > 0) {
    verdict = fmt::format(" of {} MiB{}: {}", MiB(c.fit.have), options.fit.empty() ? " free here" : "",
                          c.fit.ok ? "fits" : "does not fit");
    if (!c.fit.ok)
      verdict += c.fit.advice.empty() ? ", and no single flag mends it" : fmt::format("; would with {}", c.fit.advice);
  }
  fmt::print("memory       weights {} + {}KV {} + scratch {} + snapshots {} = {}{}\n", MiB(c.run.weights),
             c.run.state > 0 ? fmt::format("state {} + ", MiB(c.run.state)) : "", MiB(c.run.kv), MiB(c.run.scratch),
             MiB(options.batch * c.run.snapshot), MiB(c.fit.need), verdict);
  fmt::print("             and the program with its tokenizer: {} MiB\n", MiB(c.program));
  fmt::print(
      "training     weights {} + gradients {} + moments {} + activations about {} = {} MiB for {} tokens a step "
      "(f32)\n",
      MiB(c.train.weights), MiB(c.train.gradients), MiB(c.train.moments), MiB(c.train.activations),
      MiB(c.train.total()), Commas(options.batch * options.ctx));
}

// "block norms + gates" -> "block_norms"
std::string JsonKey(std::string name) {
  name = name.substr(0, name.find(" +"));
  for (char& c : name)
    if (c == ' ') c = '_';
  return name;
}

Json CostsJson(const ModelConfig& config, const InspectOptions& options, const Costs& c) {
  Json by_kind = Json::object(), fit;
  for (const auto& [name, count] : Kinds(config, c.params)) by_kind[JsonKey(name)] = count;
  fit["have"] = c.fit.have > 0 ? Json(c.fit.have) : Json();
  fit["need"] = c.fit.need;
  fit["ok"] = c.fit.have > 0 ? Json(c.fit.ok) : Json();
  fit["advice"] = c.fit.advice.empty() ? Json() : Json(c.fit.advice);
  Json json = {
      {"params",
       {{"total", c.params.total}, {"active", c.params.active}, {"by_kind", by_kind}, {"buffers", c.params.buffers}}},
      {"flops",
       {{"linear", c.scan.linear},
        {"attention", c.scan.attention},
        {"scan", c.scan.scan},
        {"workspace", c.scan.workspace},
        {"total", c.scan.total()},
        {"step_total", c.step.total()},
        {"forward_mean", std::llround(c.mean)},
        {"train", std::llround(3 * c.mean)}}},
      {"bytes",
       {{"weights", c.run.weights},
        {"state", c.run.state},
        {"kv", c.run.kv},
        {"kv_per_token", c.run.kv_per_token},
        {"snapshot", c.run.snapshot},
        {"scratch", c.run.scratch},
        {"program", c.program},
        {"read_per_token", c.run.read_per_token}}},
      {"packed", c.packed},
      {"training",
       {{"weights", c.train.weights},
        {"gradients", c.train.gradients},
        {"moments", c.train.moments},
        {"activations_estimate", c.train.activations},
        {"total", c.train.total()}}},
      {"ctx", options.ctx},
      {"batch", options.batch},
      {"fit", fit}};
  if (c.plan) json["plan"] = c.plan.About(options.ctx, ParseKvDtype(options.kv_dtype, "inspect: --kv-dtype"));
  if (config.HasFfn(FfnKind::kBlockFfn)) json["experts_read"] = options.active;
  if (c.bandwidth)
    json["max_tok_per_s"] = static_cast<double>(*c.bandwidth) / static_cast<double>(c.run.read_per_token);
  return json;
}

struct TensorRow {
  std::string name;
  std::string type;
  std::vector<int64_t> shape;
  int64_t bytes;
};

// In table order where there is a config, else in the file's.
std::vector<TensorRow> TensorRows(const Subject& subject) {
  std::vector<TensorRow> rows;
  if (subject.config) {
    const TensorTable table(*subject.config);
    for (const TensorSpec& spec : table.specs()) {
      Stored stored = subject.Of(spec);
      rows.push_back({spec.name, std::move(stored.type), spec.shape, stored.bytes});
    }
  } else if (subject.gguf) {
    for (const GgufTensor& tensor : subject.gguf->tensors())
      rows.push_back({std::string(tensor.name), Info(tensor.type).name, tensor.shape, tensor.nbytes});
  } else {
    for (const TensorView& view : subject.file->tensors())
      rows.push_back({view.name, DTypeName(view.dtype), view.shape, view.nbytes});
  }
  return rows;
}

void PrintTensors(const std::vector<TensorRow>& rows) {
  size_t width = 0;
  for (const TensorRow& row : rows) width = std::max(width, row.name.size());
  for (const TensorRow& row : rows)
    fmt::print("{:<{}}  {:<4}  {:<20} {:>15}\n", row.name, width, row.type, ShapeText(row.shape), Commas(row.bytes));
}

Json TensorsJson(const std::vector<TensorRow>& rows) {
  Json list = Json::array();
  for (const TensorRow& row : rows)
    list.push_back({{"name", row.name}, {"dtype", row.type}, {"shape", row.shape}, {"bytes", row.bytes}});
  return list;
}

// A file alone says nothing of the model: tensors, numbers and bytes of each type.
int InspectFile(const Subject& subject, const InspectOptions& options, const CommonFlags& common) {
  if (!options.fit.empty() || !options.bandwidth.empty() || !options.report.empty() || !options.plan.file.empty())
    throw Error(ErrorCode::kUsage,
                fmt::format("inspect: {}: --fit, --bandwidth, --report and --plan need a config.json beside it",
                            options.model));
  const std::vector<TensorRow> rows = TensorRows(subject);
  int64_t numbers = 0, bytes = 0;
  std::map<std::string, std::pair<int64_t, int64_t>> types;  // name: tensors, bytes
  for (const TensorRow& row : rows) {
    numbers += NumElements(row.shape);
    bytes += row.bytes;
    types[row.type].first += 1;
    types[row.type].second += row.bytes;
  }
  if (common.json) {
    Json by_type = Json::object();
    for (const auto& [name, sums] : types) by_type[name] = {{"tensors", sums.first}, {"bytes", sums.second}};
    Json metadata;
    if (subject.gguf) {
      for (const GgufEntry& entry : subject.gguf->entries())
        metadata[std::string(entry.key)] = subject.gguf->Describe(entry);
    } else {
      metadata = subject.file->metadata();
    }
    Json json = {{"file", options.model}, {"n_tensors", rows.size()}, {"numbers", numbers},
                 {"bytes", bytes},        {"types", by_type},         {"metadata", metadata}};
    if (options.tensors) json["tensors"] = TensorsJson(rows);
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
    return kDone;
  }
  std::string text;
  for (const auto& [name, sums] : types)
    text += fmt::format("{}{} in {} {}", text.empty() ? "" : "; ", Commas(sums.second), sums.first, name);
  fmt::print("tensors      {} with {} numbers ({})\n", rows.size(), Commas(numbers),
             subject.gguf ? "of a family that does not run here" : "no config.json beside the file");
  fmt::print("bytes        {} ({})\n", Commas(bytes), text);
  if (options.tensors) PrintTensors(rows);
  return kDone;
}

int RunInspect(const InspectOptions& options, const CommonFlags& common) {
  const int64_t have = options.fit.empty() ? 0 : ParseBytes("inspect: --fit", options.fit);
  std::optional<int64_t> bandwidth;
  if (!options.bandwidth.empty()) bandwidth = ParseBytes("inspect: --bandwidth", options.bandwidth);
  RunOptions run{.ctx = options.ctx,
                 .batch = options.batch,
                 .kv = ParseKvDtype(options.kv_dtype, "inspect: --kv-dtype"),
                 .state = ParseStateDtype(options.state_dtype, "inspect: --state-dtype"),
                 .threads = PhysicalCores(),  // as many as generate takes
                 .active = options.active};
  if (!(options.active >= 0 && options.active <= 1))
    throw Error(ErrorCode::kUsage, fmt::format("inspect: --active {}: must be 0 to 1", options.active));

  const Subject subject = LoadSubject(options);
  if (!common.quiet) PrintWarnings(subject.notes);
  if (!subject.config) return InspectFile(subject, options, common);

  const ModelConfig& config = *subject.config;
  const UsedPlan plan(options.plan, config);
  run.plan = plan.At(options.ctx);
  const TensorBytes bytes = [&](const TensorSpec& spec) { return subject.Of(spec).bytes; };
  run.int8 = subject.source && AnyQuantised(*subject.source);
  Costs costs;
  costs.params = CountParams(config);
  costs.plan = plan;
  costs.scan = FlopsPerToken(config, options.ctx, FlopForm::kScan, run.plan);
  costs.step = FlopsPerToken(config, options.ctx, FlopForm::kStep, run.plan);
  costs.mean = MeanForwardFlops(config, options.ctx, run.plan);
  costs.run = CountRun(config, run, bytes);
  costs.train = CountTrainMemory(config, {.tokens = options.batch * options.ctx});
  costs.bandwidth = bandwidth;
  costs.fit.need = costs.run.total(options.batch);
  // Without --fit the verdict is about this machine, and only told.
  if (const int64_t memory = have > 0 ? have : AvailableMemory(); memory > 0)
    costs.fit = CheckFit(config, run, memory, bytes);
  costs.packed = PackedCopies(subject);
  costs.program = ProgramBytes(options.model);
  if (!options.report.empty()) {
    // The page compares lengths, up to a quarter of a million tokens unless -c says otherwise.
    constexpr int64_t kLongest = 262144;
    if (options.ctx == InspectOptions().ctx) run.ctx = kLongest;
    run.plan = nullptr;  // it is about models of equal size, to which no plan belongs
    WriteFileAtomic(options.report, AccountPage(options.preset.empty() ? options.model : options.preset, config, run));
  }

  if (common.json) {
    Json json = CostsJson(config, options, costs);
    if (options.tensors) json["tensors"] = TensorsJson(TensorRows(subject));
    fmt::print("{}\n", json.dump());
  } else {
    PrintText(config, subject, options, costs);
    if (options.tensors) PrintTensors(TensorRows(subject));
  }
  return have > 0 && !costs.fit.ok ? kCheckFailed : kDone;
}

}  // namespace

void AddInspectVerb(CLI::App& root, VerbContext& context) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* verb =
      context.AddVerb(root, kInspectVerb, "hydralm inspect --preset hydra-nano --fit 2GB --bandwidth 25GB/s");
  CLI::Option* model =
      verb->add_option("-m,--model", options->model, "model folder, .gguf, .safetensors or config.json")
          ->type_name("PATH");
  verb->add_option("--preset", options->preset, "a model by name in place of -m, such as hydra-29m")
      ->type_name("NAME")
      ->excludes(model);
  verb->add_option("-c,--ctx,--ctx-size", options->ctx, "tokens a sequence")->check(Range(1, 1 << 27));
  verb->add_option("--batch", options->batch, "sequences at once")->check(Range(1, 4096));
  AddStateFlags(verb, &options->kv_dtype, &options->state_dtype);
  AddPlanFlags(verb, &options->plan);
  verb->add_option("--fit", options->fit, "exit with 1 if running it needs more memory, such as 2GB or 1.5GiB")
      ->type_name("BYTES");
  verb->add_option("--bandwidth", options->bandwidth,
                   "memory bandwidth, such as 25GB/s, for a bound on tokens a second")
      ->type_name("BYTES/s");
  verb->add_option("--active", options->active, "share of BlockFFN's experts that a step reads, such as 0.16")
      ->type_name("SHARE");
  verb->add_option("--report", options->report,
                   "write a page with tables and plots, beside a transformer and a Mamba-2 of equal size")
      ->type_name("FILE.html");
  verb->add_flag("--tensors", options->tensors, "list every tensor");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [options](const CommonFlags& common) { return RunInspect(*options, common); });
}

}  // namespace hydra::cli
