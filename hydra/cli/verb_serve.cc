// SPDX-License-Identifier: Apache-2.0
// `hydralm serve`: loads a model and answers over HTTP until it is told to stop. The URL on stdout once it is ready,
// all else on stderr. Not here: flags (verb_serve_flags.h), protocol and page (hydra/serve).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verb_sampling.h"
#include "hydra/cli/verb_serve_flags.h"
#include "hydra/cli/verb_speculation.h"
#include "hydra/cli/verbs.h"
#include "hydra/model/accounting.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/serve/chat_prompter.h"
#include "hydra/serve/engine.h"
#include "hydra/serve/metrics.h"
#include "hydra/serve/served_model.h"
#include "hydra/serve/server.h"
#include "hydra/serve/state_store.h"
#include "hydra/serve/text_forms.h"

namespace hydra::cli {
namespace {

constexpr double kDrainSeconds = 30;      // that requests get to end
constexpr int64_t kServePlanStep = 1024;  // of plan lengths: prompts that begin alike mostly have one (specs/moa.md 1)

// "2026-01-31T12:00:00Z"
std::string Now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32] = "";
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// A line on stderr for each request: all of it as JSON, or what a person wants to see.
std::function<void(const Json&)> LogOf(const ServeFlags& flags, const CommonFlags& common) {
  if (!flags.log_json && !flags.log_prompts && !common.verbose) return {};
  const auto mutex = std::make_shared<std::mutex>();
  const bool json = flags.log_json || flags.log_prompts;
  return [mutex, json](const Json& line) {
    std::string text;
    if (json) {
      Json all = Json::object();
      all["time"] = Now();
      all.update(line);
      text = DumpJson(all);
    } else {
      text = fmt::format("{} {} {} {} in {} s", Now(), line.value("method", ""), line.value("path", ""),
                         line.value("status", 0), line.value("seconds", 0.0));
      if (line.contains("completion_tokens"))
        text += fmt::format(", prompt {} tokens, wrote {}", line.value("prompt_tokens", int64_t{0}),
                            line.value("completion_tokens", int64_t{0}));
    }
    const std::lock_guard lock(*mutex);
    fmt::print(stderr, "{}\n", text);
  };
}

// Whatever happens, the server ends before what it serves.
struct Ending {
  serve::Server& server;
  ~Ending() { server.Stop(0); }
};

class ServeRun {
 public:
  ServeRun(const ServeFlags& flags, const CommonFlags& common)
      : flags_(flags), common_(common), server_(ServerOptionsOf(flags, LogOf(flags, common)), metrics_) {}

  int Run() {
    InstallStopSignals();
    const GenerationConfig wishes = LoadWishes(flags_.model.model);
    const Runner runner = OpenRunner(flags_.model, {.quiet = common_.quiet,
                                                    .batch = flags_.slots,
                                                    .provisional = flags_.speculation.provisional(),
                                                    .extra = flags_.cache_bytes()});
    const Tokenizer tokenizer = LoadTokenizerOf(runner.model, flags_.model);
    const auto draft = OpenDraftModel(flags_.speculation, flags_.model, runner.model, tokenizer, *runner.pool);
    CheckCache(runner.model);
    serve::Engine engine(runner.model, tokenizer, *runner.pool, metrics_, EngineOptionsOf(runner, draft.get()));
    serve::ServedModel served{.model = runner.model, .tokenizer = tokenizer, .engine = engine};
    Describe(runner, wishes, &served);
    LoadTemplate(tokenizer, &served);
    if (StopRequested()) return StopStatus();
    const Ending ending{server_};
    server_.Serve(served);
    Announce(runner, served);
    WaitForTheEnd(engine);
    server_.Stop(kDrainSeconds);
    if (!engine_failure_.empty()) throw Error(ErrorCode::kIo, engine_failure_);
    return StopStatus();
  }

 private:
  // A cache that cannot hit would only cost.
  void CheckCache(const Model& model) const {
    const int64_t bytes = flags_.cache_bytes(), least = serve::Engine::LeastCacheBytes(model);
    if (bytes > 0 && bytes < least)
      throw Error(ErrorCode::kUsage,
                  fmt::format("--cache-ram {}: a short sequence of this model needs {} bytes: give more, or 0 for none",
                              flags_.cache_ram, least));
  }

  [[nodiscard]] serve::EngineOptions EngineOptionsOf(const Runner& runner, const Model* draft) const {
    serve::EngineOptions options{.slots = static_cast<int>(flags_.slots),
                                 .queue = flags_.queue,
                                 .cache_bytes = flags_.cache_bytes(),
                                 .snapshot_every = flags_.snapshot_every};
    if (runner.plan)
      options.plan = [&runner](int64_t tokens) {
        const int64_t ctx = runner.model.options().ctx_size;
        return runner.plan.At(PlanLength(std::min(tokens, ctx), kServePlanStep, ctx));
      };
    if (flags_.speculation.on())
      options.speculation = [this, &runner, draft](ForwardScratch& scratch) {
        return MakeSpeculation(flags_.speculation, runner.model, draft, *runner.pool, scratch);
      };
    return options;
  }

  void Describe(const Runner& runner, const GenerationConfig& wishes, serve::ServedModel* served) const {
    const Model& model = runner.model;
    served->forms = std::make_unique<serve::TextForms>(served->tokenizer, model.config().vocab_size);
    served->name = ModelName(model.path());
    served->aliases = flags_.aliases;
    served->sampling = WishedSampling(wishes);
    served->end_ids = EndIds(model, wishes, served->tokenizer);
    served->controls = ApplyControls(flags_.model, model.config());
    for (const WeightedPack& pack : runner.packs)
      served->packs.push_back({std::filesystem::path(pack.path).stem().string(), pack});
    served->memory = runner.memory;
    served->add_packs = flags_.model.memory_merge == "add";
    if (runner.plan) served->plan = [&runner](int64_t N) { return runner.plan.At(N); };
    served->drafter = flags_.speculation.drafter;
    served->created = static_cast<int64_t>(std::time(nullptr));
    served->description =
        fmt::format("{} parameters ({}), {}", WithCommas(static_cast<uint64_t>(CountParams(model.config()).total)),
                    FamilyName(model.config().family), TypesText(model.weights().source));
    const int64_t most = SequenceState(model).layout().most_tokens;
    served->context = std::min(most, kMaxSequenceTokens);
    served->longest = model.options().ctx_size;
  }

  // A model without a template still continues texts.
  void LoadTemplate(const Tokenizer& tokenizer, serve::ServedModel* served) const {
    std::vector<std::string> warnings;
    try {
      served->chat = std::make_unique<const serve::ChatPrompter>(
          tokenizer, ChatTemplate::Load(flags_.model.model, flags_.chat_template, tokenizer, &warnings));
    } catch (const Error& error) {
      if (!flags_.chat_template.empty()) throw;
      served->no_chat = error.what();
      warnings.push_back(fmt::format("{}: chats are refused", error.what()));
    }
    PrintWarnings(warnings);
  }

  void Announce(const Runner& runner, const serve::ServedModel& served) const {
    runner.Announce();
    if (!common_.quiet) {
      fmt::print(stderr, "chat         {}\n", served.chat ? "template " + served.chat->name() : "no template");
      if (flags_.cache_bytes() == 0)
        fmt::print(stderr, "cache        off: every prompt is read from its first token\n");
      else
        fmt::print(stderr, "cache        {} for prompts that begin like earlier ones\n", flags_.cache_ram);
      fmt::print(stderr, "serving      {} texts at once, {} requests wait; Ctrl-C ends\n", flags_.slots, flags_.queue);
    }
    Show(server_.url() + "\n");
  }

  void WaitForTheEnd(const serve::Engine& engine) {
    constexpr auto kLook = std::chrono::milliseconds(50);
    while (!StopRequested() && engine_failure_.empty()) {
      std::this_thread::sleep_for(kLook);
      engine_failure_ = engine.failure();
    }
    if (!common_.quiet && StopRequested())
      fmt::print(stderr, "ending       requests get {} s (again: at once)\n", kDrainSeconds);
  }

  const ServeFlags& flags_;
  const CommonFlags& common_;
  serve::Metrics metrics_;
  serve::Server server_;  // listens from its start on: /health says that the model is being loaded
  std::string engine_failure_;
};

}  // namespace

void AddServeVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* verb = context.AddVerb(root, kServeVerb, "hydralm serve -m SmolLM2-135M-Instruct.gguf --port 8080");
  AddServeFlags(verb, flags.get());
  context.OnRun(verb, [flags](const CommonFlags& common) {
    CheckServeFlags(*flags);
    return ServeRun(*flags, common).Run();
  });
}

}  // namespace hydra::cli
