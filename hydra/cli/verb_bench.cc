// SPDX-License-Identifier: Apache-2.0
// `hydralm bench`: a row for each test of a model's speed, the memory's read rate, perplexity, another engine beside.
// Not here: how it is measured (runtime/speed.h, runtime/perplexity.h), how rows look (verb_bench_rows.cc).
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/machine.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_bench_rows.h"
#include "hydra/cli/verb_bench_speculation.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verbs.h"
#include "hydra/convert/random_model.h"
#include "hydra/io/file.h"
#include "hydra/kernels/peak.h"
#include "hydra/runtime/perplexity.h"
#include "hydra/runtime/speed.h"

namespace hydra::cli {
namespace {

struct BenchFlags {
  ModelFlags model;
  std::string preset, type = "bf16", format = "md", ppl, compare;
  std::vector<int64_t> prompts{512}, generates{128}, depths{0}, batches{1}, provisional{};
  std::vector<std::string> plants;
  double accept = 1;
  int64_t repeats = 5;
  bool stream = false, interleave = false, profile = false, no_limits = false;
  TextFlags special;  // of --ppl
  SpeculationFlags speculation;
  std::string speculation_text;
};

// "0.16,0.87" or "1".
MarkovRouting::Options ParsePlant(const std::string& text) {
  const size_t comma = text.find(',');
  MarkovRouting::Options plant{.a = ParseNumber(text.substr(0, comma), "--plant " + text + ": active share")};
  if (comma != std::string::npos) plant.r = ParseNumber(text.substr(comma + 1), "--plant " + text + ": reuse");
  if (comma == std::string::npos && plant.a != 1)
    throw Error(ErrorCode::kUsage, fmt::format("--plant {}: give the reuse behind a comma, such as 0.16,0.87", text));
  (void)MarkovRouting(1, 1, 1, plant);  // throws for shares that no trace has
  return plant;
}

// Each test under each planted trace; as they are where none is planted.
std::vector<SpeedTest> UnderEachPlant(const std::vector<SpeedTest>& tests, const BenchFlags& flags) {
  if (flags.plants.empty()) return tests;
  std::vector<SpeedTest> all;
  for (const SpeedTest& test : tests)
    for (const std::string& plant : flags.plants) all.emplace_back(test).plant = ParsePlant(plant);
  return all;
}

std::vector<SpeedTest> Tests(const BenchFlags& flags) {
  std::vector<SpeedTest> tests;
  for (const int64_t batch : flags.batches)
    for (const int64_t depth : flags.depths) {
      for (const int64_t p : flags.prompts)
        if (p > 0) tests.push_back({.prompt = p, .generate = 0, .depth = depth, .batch = batch});
      for (const int64_t n : flags.generates) {
        if (n == 0) continue;
        tests.push_back({.prompt = 0, .generate = n, .depth = depth, .batch = batch});
        for (const int64_t tokens : flags.provisional)
          tests.push_back({.prompt = 0,
                           .generate = n,
                           .provisional = tokens,
                           .depth = depth,
                           .batch = batch,
                           .accept = flags.accept});
      }
    }
  return UnderEachPlant(tests, flags);
}

// What was asked for: --ppl or --stream alone leave the speed tests out.
bool WantsSpeed(const BenchFlags& flags, const CLI::App* verb) {
  if (flags.ppl.empty() && !flags.stream) return true;
  for (const char* flag : {"-p", "-n", "-d", "-b", "-r", "--provisional", "--accept", "--plant", "--interleave",
                           "--profile", "--no-limits", "--compare-cmd"})
    if (verb->count(flag) > 0) return true;
  return false;
}

std::string Replace(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

// Runs another engine's command once and reads its tokens a second: llama-bench's "avg_ts" where the output has one,
// else the last number of the last line.
double RunCompared(const BenchFlags& flags, const SpeedTest& test, int threads) {
  std::string command = flags.compare;
  for (const auto& [key, value] : {std::pair{"{p}", test.prompt},
                                   {"{n}", test.generate},
                                   {"{d}", test.depth},
                                   {"{b}", test.batch},
                                   {"{t}", static_cast<int64_t>(threads)}})
    command = Replace(command, key, std::to_string(value));
  command = Replace(command, "{model}", flags.model.model);
  const auto close = [](FILE* file) { pclose(file); };
  std::unique_ptr<FILE, decltype(close)> pipe(popen(command.c_str(), "r"), close);
  if (!pipe) throw Error(ErrorCode::kIo, fmt::format("--compare-cmd {}: cannot be started", command));
  std::string out;
  for (int c = 0; (c = std::fgetc(pipe.get())) != EOF;) out += static_cast<char>(c);
  const int status = pclose(pipe.release());
  if (status != 0)
    throw Error(ErrorCode::kUsage, fmt::format("--compare-cmd {}: ended with status {}", command,
                                               WIFEXITED(status) ? WEXITSTATUS(status) : status));
  const std::optional<double> rate = CompareRate(out);
  if (!rate)
    throw Error(ErrorCode::kUsage,
                fmt::format("--compare-cmd {}: its output has no tokens a second: \"{}\"", command, OneLine(out, 80)));
  return *rate;
}

// A test under way.
struct Running {
  SpeedTest test;
  SpeedRunner speed;
  std::vector<double> rates{}, compared{};
  int64_t disk = 0;                  // bytes read from disk meanwhile
  double read_before = 0, read = 0;  // bytes a second that the machine reads of as much as a pass does; in the end
};

// `row` holds what all rows of this call share; what was measured of a test is filled in.
BenchRow MakeRow(const Runner& runner, Running& running, const BenchFlags& flags, BenchRow row) {
  row.test = running.test;
  row.samples = running.rates;
  row.rate = Summarise(running.rates);
  row.moved = running.speed.moved();
  row.kv_bytes = running.speed.kv_bytes();
  if (runner.plan) row.plan = runner.plan.About(running.test.plan.length, runner.model.options().kv_dtype);
  row.experts = running.speed.experts();
  if (!flags.model.offload.empty())
    row.disk_bytes = static_cast<double>(running.disk) /
                     static_cast<double>(running.test.tokens() * static_cast<int64_t>(running.rates.size()));
  if (!flags.no_limits) row.read_bytes_per_s = (running.read_before + running.read) / 2;
  row.token_flops = CountTokenFlops(runner.model.config(), running.test);
  if (row.token_flops > 0 && !flags.no_limits)
    row.peak_flops = kernels::MeasurePeak(MatrixTypes(runner.model.weights().source).front(),
                                          runner.model.weights().act(), *runner.pool);
  if (!running.compared.empty()) row.compared = Summarise(running.compared);
  if (flags.profile) row.profile = running.speed.Profile();
  return row;
}

// Measures tests in turn, again and again, the other engine after each of ours. A row for each.
std::vector<BenchRow> Measure(const BenchFlags& flags, const Runner& runner, std::span<const SpeedTest> tests,
                              const BenchRow& common) {
  std::vector<Running> all;
  int64_t most = 0;  // bytes of a pass
  for (const SpeedTest& test : tests) {
    if (StopRequested()) return {};
    all.push_back({test, SpeedRunner(runner.model, test, *runner.pool)});
    most = std::max(most, all.back().speed.pass_bytes());
    if (!flags.compare.empty()) (void)RunCompared(flags, test, runner.pool->threads());  // its warm-up
  }
  std::optional<ReadMeter> meter;
  if (!flags.no_limits) meter.emplace(*runner.pool, std::min(most, ReadMeter::DefaultBytes()));
  const auto measure = [&](double Running::*rate) {
    if (meter)
      for (Running& one : all) one.*rate = meter->Measure(one.speed.pass_bytes()).bytes_per_s;
  };
  measure(&Running::read_before);
  for (int64_t i = 0; i < flags.repeats; ++i)
    for (Running& one : all) {
      if (StopRequested()) break;
      const int64_t disk = DiskBytesRead();
      one.rates.push_back(static_cast<double>(one.test.tokens()) / one.speed.Run());
      one.disk += DiskBytesRead() - disk;
      if (!flags.compare.empty()) one.compared.push_back(RunCompared(flags, one.test, runner.pool->threads()));
    }
  measure(&Running::read);
  std::vector<BenchRow> rows;
  for (Running& one : all) {
    if (one.rates.empty()) continue;
    constexpr double kVoid = 0.05;
    if (std::abs(one.read - one.read_before) > kVoid * std::max(one.read, one.read_before))
      fmt::print(stderr,
                 "hydralm: warning: {}: the memory's read rate moved from {:.1f} to {:.1f} GB/s: measure again on a "
                 "quiet machine\n",
                 TestName(one.test), one.read_before / 1e9, one.read / 1e9);
    rows.push_back(MakeRow(runner, one, flags, common));
  }
  return rows;
}

// Nothing where a signal stopped it: the number of a part would look like that of the text.
std::optional<TextPerplexity> Perplexity(const BenchFlags& flags, const Runner& runner, int64_t chunk,
                                         const CommonFlags& common) {
  const Tokenizer tokenizer = LoadTokenizerOf(runner.model, flags.model);
  const std::string text = ReadText(flags.ppl);
  const std::vector<int32_t> ids = tokenizer.Encode(text, flags.special.Options());
  PerplexityOptions options{.name = "--ppl " + flags.ppl,
                            .chunk = chunk,
                            .controls = ApplyControls(flags.model, runner.model.config()),
                            .plan = runner.plan.At(runner.PlanLengthOf(chunk))};
  // Where a first token is put before the text, each chunk has it too.
  const std::vector<int32_t> empty = tokenizer.Encode("", flags.special.Options());
  if (tokenizer.bos_id() && !empty.empty() && empty.front() == *tokenizer.bos_id()) options.bos = *tokenizer.bos_id();
  const bool draw = !common.quiet && StderrIsTerminal(), lines = common.verbose && !common.quiet && !draw;
  bool stopped = false;
  options.progress = [&](int64_t done, int64_t chunks) {
    if (draw || lines)
      fmt::print(stderr, "{}perplexity   chunk {} of {}{}", draw ? "\r" : "", done, chunks, lines ? "\n" : "");
    stopped = done < chunks && StopRequested();
    return !stopped;
  };
  CheckPerplexity(runner.model, ids, options);
  runner.Announce();
  const TextPerplexity result = MeasurePerplexity(runner.model, ids, options, *runner.pool);
  if (draw) fmt::print(stderr, "\n");
  if (!stopped) return result;
  fmt::print(stderr, "hydralm: --ppl {}: stopped after {} chunks of {} tokens: no perplexity\n", flags.ppl,
             result.chunks, chunk);
  return std::nullopt;
}

// Read rates with 1, 2, 4, .. and all threads.
std::vector<StreamRate> Stream(int most) {
  std::vector<StreamRate> rates;
  for (int threads = 1;; threads = std::min(2 * threads, most)) {
    ThreadPool pool(threads);
    rates.push_back({threads, ReadMeter(pool).Measure()});
    if (threads == most) return rates;
  }
}

int64_t FileBytes(const Model& model) {
  std::error_code code;
  const auto size =
      std::filesystem::is_regular_file(model.path(), code) ? std::filesystem::file_size(model.path(), code) : 0;
  return !code && size > 0 ? static_cast<int64_t>(size) : model.weights().file_bytes;
}

Runner Open(const BenchFlags& flags, const OpenOptions& options) {
  if (flags.preset.empty()) return OpenRunner(flags.model, options);
  const auto type = ParseWeightType(flags.type);
  if (!type)
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--type {}: must be f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k or q6_k", flags.type));
  WeightSource source = RandomWeights(Preset(flags.preset), {.type = *type});
  source.path = fmt::format("{} {}", flags.preset, Info(*type).name);
  return OpenRunner(source, flags.model, options);
}

// Flags that do not go together.
void CheckFlags(const BenchFlags& flags, const CLI::App* verb, bool speed) {
  if ((speed || flags.ppl.empty()) &&
      !(flags.model.controls.empty() && flags.model.control_profile.empty() && flags.model.budget.empty()))
    throw Error(ErrorCode::kUsage,
                fmt::format("bench: {}: for --ppl alone; speed tests count the bytes of the whole model",
                            flags.model.controls.empty() ? "--control-profile " + flags.model.control_profile
                                                         : "--control " + flags.model.controls.front()));
  if (flags.speculation.on() && (!flags.preset.empty() || !flags.ppl.empty()))
    throw Error(ErrorCode::kUsage, "bench: --spec needs a model with its tokenizer, -m, and no --ppl");
  if (flags.speculation.on())
    for (const char* flag : {"-d", "-b", "--provisional", "--accept", "--plant", "--interleave", "--profile",
                             "--no-limits", "--compare-cmd", "--stream", "--plan"})
      if (verb->count(flag) > 0)
        throw Error(ErrorCode::kUsage,
                    fmt::format("bench: {}: not with --spec, which times one sequence with and without guesses", flag));
  if (!flags.speculation.on() && !flags.speculation_text.empty())
    throw Error(ErrorCode::kUsage, "bench: --spec-text is for --spec");
  if (!flags.preset.empty() && !flags.ppl.empty())
    throw Error(ErrorCode::kUsage, "bench: --ppl needs a trained model: give -m");
  if (!(flags.accept >= 0 && flags.accept <= 1))
    throw Error(ErrorCode::kUsage, fmt::format("--accept {}: must be 0 to 1", flags.accept));
  if (verb->count("--accept") > 0 && flags.provisional.empty())
    throw Error(ErrorCode::kUsage, "bench: --accept is for --provisional");
  if (speed && Tests(flags).empty()) throw Error(ErrorCode::kUsage, "bench: nothing to do: -p and -n are 0");
}

// Makes room for the longest test and for the sequences of `together` tests, one of which has forks of its own.
void MakeRoom(std::span<const SpeedTest> tests, size_t together, OpenOptions* open) {
  for (size_t i = 0; i < tests.size(); i += together) {
    int64_t held = 0, most = 0;
    for (const SpeedTest& test : tests.subspan(i, together)) {
      open->ctx = std::max(open->ctx, test.length());
      held += test.batch;
      most = std::max(most, test.batch);
    }
    open->batch = std::max(open->batch, held + most);
  }
}

int RunSpeculation(const BenchFlags& flags, const CommonFlags& common) {
  OpenOptions open{.quiet = common.quiet, .provisional = flags.speculation.provisional()};
  open.ctx = *std::ranges::max_element(flags.prompts) + *std::ranges::max_element(flags.generates) + 1;
  const Runner runner = OpenRunner(flags.model, open);
  runner.Announce();
  RunSpeculationTests({flags.speculation_text, flags.prompts, flags.generates, flags.repeats}, flags.speculation,
                      flags.model, runner, ParseRowFormat(flags.format));
  return StopStatus();
}

int RunBench(const BenchFlags& flags, const CLI::App* verb, const CommonFlags& common) {
  InstallStopSignals();
  const bool speed = WantsSpeed(flags, verb);
  if (flags.ppl.empty()) RefuseTextFlags(verb, "is for --ppl");
  CheckFlags(flags, verb, speed);
  RowWriter writer(ParseRowFormat(flags.format));
  if (flags.stream) writer.WriteStream(Stream(flags.model.threads > 0 ? flags.model.threads : PhysicalCores()));
  if (!speed && flags.ppl.empty()) {
    writer.Finish();
    return StopStatus();
  }
  if (flags.speculation.on()) return RunSpeculation(flags, common);
  std::vector<SpeedTest> tests = speed ? Tests(flags) : std::vector<SpeedTest>{};
  constexpr int64_t kChunk = 512;
  const int64_t chunk = verb->count("-c") > 0 && flags.model.ctx > 0 ? flags.model.ctx : kChunk;
  OpenOptions open{.quiet = common.quiet, .ctx = flags.ppl.empty() ? 1 : chunk};
  const size_t together = flags.interleave ? tests.size() : 1;  // tests whose states are held at once
  MakeRoom(tests, together, &open);
  ModelFlags model_flags = flags.model;
  if (model_flags.ctx_given && model_flags.ctx < open.ctx) {
    if (speed && flags.ppl.empty())
      throw Error(ErrorCode::kUsage,
                  fmt::format("--ctx-size {}: the longest test needs {}", model_flags.ctx, open.ctx));
    model_flags.ctx_given = false;  // there it is the length of perplexity's chunks
  }
  BenchFlags opened = flags;
  opened.model = model_flags;
  const Runner runner = Open(opened, open);
  const Model& model = runner.model;
  for (SpeedTest& test : tests) test.plan = runner.plan.At(runner.PlanLengthOf(test.length()));
  if (!flags.plants.empty() && !model.config().HasFfn(FfnKind::kBlockFfn))
    throw Error(ErrorCode::kUsage, fmt::format("--plant {}: this model has no BlockFFN layers", flags.plants.front()));
  if (!flags.plants.empty() && !common.quiet)
    fmt::print(stderr, "planted      routing of experts: the speeds are the engine's, not those of the model's text\n");
  BenchRow row{.model = ModelName(model.path()),
               .params = CountParams(model.config()).total,
               .file_bytes = FileBytes(model),
               .threads = runner.pool->threads(),
               .target = model.weights().target,
               .kernels = KernelsText(model)};
  if (!flags.ppl.empty()) {
    const std::optional<TextPerplexity> ppl = Perplexity(flags, runner, chunk, common);
    if (ppl)
      row.perplexity =
          PerplexityOf{ppl->perplexity(), ppl->standard_error(), ppl->loss(), ppl->chunks, chunk, ppl->tokens};
    if (ppl && tests.empty()) writer.Write(row);
  } else {
    runner.Announce();
  }
  for (size_t i = 0; i < tests.size() && !StopRequested(); i += together)
    for (const BenchRow& made : Measure(flags, runner, std::span<const SpeedTest>(tests).subspan(i, together), row))
      writer.Write(made);
  writer.Finish();
  return StopStatus();
}

}  // namespace

void AddBenchVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* verb = context.AddVerb(root, kBenchVerb, "hydralm bench -m model.gguf -p 512 -n 128 -d 0,8192");
  AddModelFlags(verb, &flags->model);
  CLI::Option* preset =
      verb->add_option("--preset", flags->preset, "a model by name with random weights in place of -m")
          ->type_name("NAME");
  preset->excludes(verb->get_option("--model"));
  verb->add_option("--type", flags->type, "type of --preset's matrices, such as q8_0")
      ->type_name("TYPE")
      ->needs(preset);
  AddNumbers(verb, "-p,--n-prompt", &flags->prompts, "tokens read at once; a list makes a test of each; 0 = none",
             Range(0, 1 << 24));
  AddNumbers(verb, "-n,--n-gen", &flags->generates, "tokens one by one; 0 = none", Range(0, 1 << 24));
  AddNumbers(verb, "--provisional", &flags->provisional, "-n also in passes of so many tokens, as a draft is verified",
             Range(1, kProvisionalTokens));
  verb->add_option("--accept", flags->accept, "of --provisional's tokens, the share of a draft that is right");
  verb->add_option("--plant", flags->plants, "active share and reuse of BlockFFN's experts; repeatable")
      ->type_name("A[,R]");
  AddNumbers(verb, "-d,--depth", &flags->depths, "tokens held before", Range(0, 1 << 26));
  AddNumbers(verb, "-b,--batch", &flags->batches, "sequences at once", Range(1, 512));
  verb->add_option("-r,--repeats", flags->repeats, "repetitions of each test, after a warm-up")->check(Range(1, 10000));
  verb->add_flag("--interleave", flags->interleave, "repeat all tests in turn, so that a slow moment meets each");
  verb->add_flag("--profile", flags->profile, "where the time of each test goes, in one more repetition");
  verb->add_flag("--no-limits", flags->no_limits, "leave out the machine's read rate and peak: quicker");
  verb->add_option("-o,--format", flags->format, "md, csv, json or jsonl")->type_name("FORMAT");
  verb->add_option("--ppl", flags->ppl, "perplexity on a text, in chunks of 512 or -c; - = stdin")->type_name("FILE");
  AddTextFlags(verb, {.parse_special = false, .add_special = true}, &flags->special);
  AddSpeculationFlags(verb, &flags->speculation);
  verb->add_option("--spec-text", flags->speculation_text, "with --spec: the prompts of -p are its first tokens")
      ->type_name("FILE");
  verb->add_flag("--stream", flags->stream, "print the memory's read rate; alone: nothing else");
  verb->add_option(
          "--compare-cmd", flags->compare,
          "another engine, run in turn; {model} {p} {n} {d} {b} {t} are filled in; prints tokens a second last")
      ->type_name("CMD");
  AddRuntimeFlags(verb, &flags->model);
  AddActivationFlag(verb, &flags->model);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return RunBench(*flags, verb, common); });
}

}  // namespace hydra::cli
