// SPDX-License-Identifier: Apache-2.0
// `hydralm train`: a run file and flags to a trained model folder, with progress, Ctrl-C and resume.
// Not here: training (train/trainer.h), what a run file holds (train/run_config.h).
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/base/utf8.h"
#include "hydra/cli/byte_size.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/machine.h"
#include "hydra/cli/torch_costs.h"
#include "hydra/cli/torch_model_flags.h"
#include "hydra/cli/torch_teach.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/json.h"
#include "hydra/model/accounting.h"
#include "hydra/text/tokenizer.h"
#include "hydra/train/run_config.h"
#include "hydra/train/trainer.h"
#include "hydra/train/validation.h"

namespace hydra::cli {
namespace {

namespace fs = std::filesystem;

struct TrainFlags {
  std::string file, run, resume = "auto", init, device = "auto";
  std::vector<std::string> settings;
  // Flags that stand for keys of the run file, as typed; empty = not given.
  std::string preset, config, data, steps, lr, batch, seq_len, seed;
  int threads = 0;
  bool dry_run = false;
  TeachFlags teach;
};

// A flag wins over --set, which wins over the file.
std::vector<std::string> Settings(const TrainFlags& flags) {
  std::vector<std::string> out = flags.settings;
  const auto text = [](const char* flag, const std::string& value) {
    if (value.empty()) return value;
    if (ValidUtf8Prefix(value) < value.size())
      throw Error(ErrorCode::kUsage,
                  StrCat(flag, " ", value, ": not UTF-8, which a run file must be: rename it, or give a link to it"));
    return Json(value).dump();
  };
  const std::pair<const char*, std::string> pairs[] = {{"model.preset", text("--preset", flags.preset)},
                                                       {"model.config", text("--model", flags.config)},
                                                       {"data.dir", text("--data", flags.data)},
                                                       {"optim.steps", flags.steps},
                                                       {"optim.lr", flags.lr},
                                                       {"optim.batch_rows", flags.batch},
                                                       {"optim.seq_len", flags.seq_len},
                                                       {"optim.seed", flags.seed}};
  for (const auto& [key, value] : pairs)
    if (!value.empty()) out.push_back(StrCat(key, "=", value));
  if (!flags.steps.empty()) out.push_back("optim.tokens=0");  // one length at a time: the flag's
  return out;
}

// The words of this command, without the program; and as one line for a shell.
std::vector<std::string> CommandWords() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  if (!words.empty()) words.erase(words.begin());
  return words;
}

std::string ShellLine(const std::vector<std::string>& words) {
  std::string line = "hydralm";
  for (const std::string& word : words) {
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789_-./=,:+") == std::string::npos;
    line += ' ';
    if (plain) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

// The words without --resume and its value.
std::vector<std::string> WithoutResume(std::vector<std::string> words) {
  for (size_t i = 0; i < words.size();) {
    const bool with_value = words[i].starts_with("--resume=");
    const size_t n = with_value ? 1 : words[i] == "--resume" ? std::min<size_t>(2, words.size() - i) : 0;
    if (n == 0) {
      ++i;
    } else {
      words.erase(words.begin() + static_cast<std::ptrdiff_t>(i), words.begin() + static_cast<std::ptrdiff_t>(i + n));
    }
  }
  return words;
}

// runs/DATE-NAME, where NAME is the run file's, or the model's.
std::string DefaultFolder(const TrainFlags& flags, const train::RunConfig& run) {
  std::string name = fs::path(flags.file).stem().string();
  if (name.empty()) name = run.model.preset;
  if (name.empty()) name = "model";
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%d", &parts);
  return StrCat("runs/", date, "-", name);
}

// Progress on stderr: drawn in place on a terminal. Elsewhere a line every few seconds, so that a log file or a pipe
// shows that the run lives and how it does; with -v all that is logged.
class Progress {
 public:
  explicit Progress(const CommonFlags& common)
      : live_(!common.quiet && StderrIsTerminal()),
        all_(!live_ && !common.quiet && common.verbose),
        some_(!live_ && !common.quiet && !common.verbose),
        pace_(live_ ? 0.1 : 5) {}
  ~Progress() { Clear(); }

  train::TrainerCallbacks Callbacks() {
    return {.on_step = [this](const train::StepReport& report) { Step(report); },
            .on_eval =
                [this](const train::EvalReport& report) {
                  if (live_ || all_ || Wanted(report.step == report.total_steps)) Line(train::EvalLine(report));
                },
            .on_note =
                [this](const std::string& text) {
                  if (live_ || all_) Line(text);
                },
            .on_warning =
                [this](const std::string& text) {
                  Clear();
                  std::fprintf(stderr, "hydralm: warning: %s\n", text.c_str());
                }};
  }

  void Clear() {
    if (std::exchange(drawn_, false)) std::fputs("\r\033[K", stderr);
  }

 private:
  // Is it time for one of the lines that only some of are shown? The last ones always are.
  bool Wanted(bool last) { return some_ && (pace_.Due() || last); }
  void Line(const std::string& text) {
    Clear();
    std::fprintf(stderr, "%s\n", text.c_str());
  }
  void Step(const train::StepReport& report) {
    const bool last = report.step == report.total_steps;
    if ((all_ && report.logged) || Wanted(last)) return Line(train::StepLine(report));
    if (!live_ || (!pace_.Due() && !last)) return;
    std::fprintf(stderr, "\r%s\033[K", train::StepLine(report).c_str());
    std::fflush(stderr);
    drawn_ = true;
  }

  bool live_, all_, some_, drawn_ = false;
  Pace pace_;
};

// Corpus, tokenizer and model of the run, checked against one another.
train::TrainerOptions Prepare(const TrainFlags& flags, train::RunConfig run) {
  std::optional<ModelConfig> base;
  if (!flags.init.empty()) base = LoadConfig(flags.init);
  const bool settings = std::any_of(flags.settings.begin(), flags.settings.end(),
                                    [](const std::string& setting) { return setting.starts_with("model."); });
  const std::string where = StrCat(flags.file, !flags.file.empty() && settings ? " and " : "", settings ? "--set" : "",
                                   flags.file.empty() && !settings ? "" : ": ", "[model]");
  ModelConfig model = train::ResolveModel(run, base ? &*base : nullptr, where);
  train::ResolveCurriculum(model, &run);
  if (run.data.dir.empty())
    throw Error(ErrorCode::kUsage, "train: data.dir: missing: give --data DIR (made by hydralm data build)");
  std::string tokenizer_path = run.data.tokenizer;
  if (tokenizer_path.empty()) {
    tokenizer_path = DataManifest::Load(run.data.dir).TokenizerPath(run.data.dir);
  } else if (std::error_code ignored; fs::is_directory(tokenizer_path, ignored)) {
    tokenizer_path += "/tokenizer.json";
  }
  const Tokenizer tokenizer = Tokenizer::Load(tokenizer_path);
  if (tokenizer.vocab_size() > model.vocab_size)
    throw Error(ErrorCode::kData,
                StrCat(tokenizer_path, ": ", tokenizer.vocab_size(), " entries, the model's vocab_size is ",
                       model.vocab_size, ": --set model.vocab_size=", tokenizer.vocab_size(), " fits"));
  const TokenDataset::Expect expect{.tokenizer_sha256 = Hex(tokenizer.sha256()), .vocab_size = model.vocab_size};
  train::Corpus corpus = train::Corpus::Open(run.data.dir, "train", expect);
  if (corpus.n_docs() == 0) throw Error(ErrorCode::kData, run.data.dir + ": no documents to train on");
  train::Corpus val = train::Corpus::Open(run.data.dir, "val", expect);
  std::map<std::string, train::Corpus> mixed;
  for (const train::Stage& stage : run.stages)
    for (const train::DataShare& data : stage.data) {
      if (data.path == run.data.dir || mixed.contains(data.path)) continue;
      train::Corpus more = train::Corpus::Open(data.path, "train", expect);
      if (more.n_docs() == 0)
        throw Error(ErrorCode::kData,
                    StrCat("stage \"", stage.name, "\": data: ", data.path, ": no documents to train on"));
      mixed.emplace(data.path, std::move(more));
    }
  if (*corpus.manifest() != *val.manifest())
    throw Error(ErrorCode::kData, run.data.dir + "/data.json: changed while it was read: give the same command again");
  if (!model.eos_token_id) model.eos_token_id = corpus.manifest()->eos_id;
  return {.run = run,
          .model = model,
          .train = std::move(corpus),
          .mixed = std::move(mixed),
          .val = std::move(val),
          .token_bytes = train::TokenByteCounts(tokenizer),
          .folder = flags.run.empty() ? DefaultFolder(flags, run) : flags.run,
          .tokenizer_path = tokenizer_path,
          .resume = flags.resume,
          .init = flags.init,
          .device = train::ResolveDevice(flags.device),
          .stop = &StopSignal(),
          .env = {},
          .callbacks = {},
          .after_backward = {}};
}

void PrintResult(const train::TrainResult& result, const Costs& costs, const CommonFlags& common) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
  if (common.json) {
    const Json out = {{"step", result.step},
                      {"steps", result.total_steps},
                      {"finished", result.finished},
                      {"tokens", result.tokens},
                      {"seconds", result.seconds},
                      {"skipped", result.skipped},
                      {"val", {{"loss", number(result.val_loss)}, {"bpb", number(result.val_bpb)}}},
                      {"checkpoint", result.checkpoint},
                      {"model", result.model_folder},
                      {"costs", CostsJson(costs)}};
    std::puts(DumpJson(out).c_str());
    return;
  }
  if (common.quiet) return;
  std::printf("trained      %s tokens in %.0f s", Commas(result.tokens).c_str(), result.seconds);
  if (result.skipped > 0)
    std::printf(", %s update%s skipped", Commas(result.skipped).c_str(), result.skipped == 1 ? "" : "s");
  if (!std::isnan(result.val_loss)) std::printf(": val loss %.4f", result.val_loss);
  if (!std::isnan(result.val_bpb)) std::printf(", %.4f bits per byte", result.val_bpb);
  std::printf("\n");
  if (!result.finished) return;
  std::printf("model        %s\n", result.model_folder.c_str());
  std::printf("next         hydralm generate -m %s -p \"In the beginning\"\n", result.model_folder.c_str());
}

int RunTrain(const TrainFlags& flags, const CommonFlags& common) {
  InstallStopSignals();
  ::signal(SIGPIPE, SIG_IGN);  // who reads the progress may go: the run goes on
  SetThreads(flags.threads);
  if (!flags.teach.facts.empty())
    return RunTeach(flags.teach, flags.init, flags.data,
                    flags.seed.empty() ? 1 : ParseWholeNumber(flags.seed, 0, INT64_MAX, "--seed"), common);
  if (!flags.teach.output.empty()) throw Error(ErrorCode::kUsage, "train: -o is for --teach: a run has --run");
  train::TrainerOptions options = Prepare(flags, train::LoadRunConfig(flags.file, Settings(flags)));
  const Costs costs = CountCosts(options.run, options.model);
  const std::string name =
      options.run.model.preset.empty() ? FamilyName(options.model.family) : options.run.model.preset;
  if (!common.quiet && !common.json) PrintCosts(costs, name);
  if (options.device.device.is_cpu()) CheckMemory(costs, options.run);
  if (flags.dry_run) {
    const double speed =
        options.run.log.peak_flops > 0 ? options.run.log.peak_flops : train::MeasurePeakFlops(options.device);
    if (common.json) {
      Json out = CostsJson(costs);
      out["stages"] = StagesJson(costs, speed);
      std::puts(out.dump().c_str());
    } else if (!common.quiet) {
      PrintStages(costs, speed);
    }
    return kDone;
  }
  std::vector<std::string> words = CommandWords();
  options.env["command"] = ShellLine(words);
  const std::string folder = options.folder, resume = options.resume;
  Progress progress(common);
  options.callbacks = progress.Callbacks();
  train::Trainer trainer(std::move(options));
  const train::TrainResult result = trainer.Run();
  progress.Clear();
  PrintResult(result, costs, common);
  if (result.finished) return kDone;
  if (flags.run.empty()) words.insert(words.end(), {"--run", folder});
  if (result.checkpoint != resume) words = WithoutResume(std::move(words));  // it would go back there again
  std::fprintf(stderr, "hydralm: stopped at step %s of %s%s; to go on: %s\n", Commas(result.step).c_str(),
               Commas(result.total_steps).c_str(),
               result.checkpoint.empty() ? ", no checkpoint" : (", checkpoint in " + result.checkpoint).c_str(),
               ShellLine(words).c_str());
  return StopStatus();
}

}  // namespace

void AddTrainVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* verb =
      context.AddVerb(root, kTrainVerb, "hydralm train -C examples/nano.toml --data data/nano --run runs/nano");
  verb->add_option("-C,--config", flags->file,
                   "run file: [model] [data] [optim] [log] [checkpoint] [guard] [eval] [[stage]]")
      ->type_name("FILE");
  verb->add_option("--set", flags->settings, "SECTION.KEY=VALUE over the run file; repeatable")->type_name("KEY=VALUE");
  verb->add_option("--run", flags->run, "folder of the run; default runs/DATE-NAME")->type_name("DIR");
  verb->add_option("--resume", flags->resume, "auto: the newest checkpoint of --run; none; or a checkpoint's folder")
      ->type_name("auto|none|CKPT");
  verb->add_option("--init", flags->init, "model folder whose weights are the first")->type_name("MODEL");
  verb->add_option("--preset", flags->preset, "model.preset, such as hydra-nano")->type_name("NAME");
  verb->add_option("-m,--model", flags->config, "model.config: a config.json or its folder")->type_name("PATH");
  verb->add_option("--data", flags->data, "data.dir: made by hydralm data build")->type_name("DIR");
  verb->add_option("--steps", flags->steps, "optim.steps")->type_name("N");
  verb->add_option("--lr", flags->lr, "optim.lr, the highest learning rate")->type_name("X");
  verb->add_option("--batch", flags->batch, "optim.batch_rows, rows of a micro-batch")->type_name("N");
  verb->add_option("--seq-len", flags->seq_len, "optim.seq_len, tokens of a row")->type_name("N");
  verb->add_option("--seed", flags->seed, "optim.seed, of weights and data order")->type_name("N");
  verb->add_option("--device", flags->device, "auto, cpu, cuda or cuda:N")->type_name("DEVICE");
  verb->add_option("-t,--threads", flags->threads, "threads; 0 = the cores that this process may use")
      ->check(Range(0, 1024));
  verb->add_flag("--dry-run", flags->dry_run, "check everything, print what the run costs, stop");
  AddTeachFlags(verb, &flags->teach);
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunTrain(*flags, common); });
}

}  // namespace hydra::cli
