// SPDX-License-Identifier: Apache-2.0
// `hydralm chat`: a conversation with a model. Answers on stdout as they come, all else on stderr. Not here: what is
// typed (verb_chat_input.h), turns and the state that holds them (runtime/conversation.h).
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/control_flags.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_chat_input.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verb_sampling.h"
#include "hydra/cli/verb_speculation.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/file.h"
#include "hydra/runtime/conversation.h"
#include "hydra/runtime/pins.h"

namespace hydra::cli {
namespace {

struct ChatFlags {
  ModelFlags model;
  SamplingFlags sampling;
  SpeculationFlags speculation;
  std::string system, chat_template;
  int64_t max_tokens = 1024;
  std::vector<std::string> pins;
};

constexpr const char* kCommands =
    "/reset /save F /load F /stats /quit; //TEXT says /TEXT, \"\"\" begins and ends many lines";

class Chat {
 public:
  Chat(const ChatFlags& flags, const CLI::App* verb, const CommonFlags& common)
      : flags_(flags),
        common_(common),
        wishes_(LoadWishes(flags.model.model)),
        sampling_(ResolveSampling(flags.sampling, verb, wishes_)),
        runner_(OpenRunner(flags.model, {.quiet = common.quiet, .provisional = flags.speculation.provisional()})),
        tokenizer_(LoadTokenizerOf(runner_.model, flags_.model)),
        draft_(OpenDraftModel(flags.speculation, flags.model, runner_.model, tokenizer_, *runner_.pool)),
        speculation_(MakeSpeculation(flags.speculation, runner_.model, draft_.get(), *runner_.pool, scratch_)),
        template_(LoadTemplate()),
        conversation_({runner_.model, tokenizer_, *runner_.pool, scratch_}, template_,
                      {.system = SystemMessage(verb),
                       .end_ids = EndIds(runner_.model, wishes_, tokenizer_),
                       .sampling = sampling_},
                      NewState()) {
    sampling_.CheckIds(tokenizer_.vocab_size());
    runner_.Announce();
    runner_.AnnouncePlan(runner_.PlanLengthOf(-1));
    if (common_.quiet) return;
    fmt::print(stderr, "{}", DrafterMemory(speculation_.get(), draft_.get()));
    fmt::print(stderr, "chat         template {}, {}; {}\n", template_.name(),
               sampling_.temperature > 0 ? fmt::format("seed {}", sampling_.seed) : "greedy", kCommands);
    if (common_.verbose) fmt::print(stderr, "sampling     {}\n", SamplingText(sampling_));
  }

  int Run() {
    InstallStopSignals({.second_ends = false, .restart_reads = false});
    for (bool again = false;;) {
      const ChatInput input = reader_.Read();
      if (StopSignal() == SIGTERM || (StopRequested() && (again || !reader_.terminal()))) return StopStatus();
      if (input.kind == ChatInput::Kind::kEnd) return status_;
      again = StopRequested();
      ClearStop();
      if (again) fmt::print(stderr, "\n(Ctrl-C again, /quit or Ctrl-D to leave)\n");
      if (input.kind == ChatInput::Kind::kInterrupted) continue;
      if (!Turn(input)) return status_;
      if (StopSignal() == SIGTERM) return StopStatus();
      ClearStop();
    }
  }

 private:
  [[nodiscard]] ChatTemplate LoadTemplate() const {
    std::vector<std::string> warnings;
    ChatTemplate found = ChatTemplate::Load(flags_.model.model, flags_.chat_template, tokenizer_, &warnings);
    PrintWarnings(warnings);
    return found;
  }

  // --system "": an empty message where the template has one of its own, else none.
  [[nodiscard]] std::optional<std::string> SystemMessage(const CLI::App* verb) const {
    const bool given = verb->count("--system") > 0;
    if (!given || (flags_.system.empty() && !template_.HasDefaultSystem())) return std::nullopt;
    return flags_.system;
  }

  [[nodiscard]] SequenceState NewState() const {
    return runner_.NewState(WithPins(ApplyControls(flags_.model, runner_.model.config()),
                                     PinnedPositions(flags_.pins, runner_.model.config())),
                            runner_.PlanLengthOf(-1));
  }

  // False at /quit. At a terminal a mistake ends the turn, else the program.
  bool Turn(const ChatInput& input) {
    try {
      if (input.kind == ChatInput::Kind::kCommand) return Command(input.text);
      Answer(input.text);
    } catch (const Error& error) {
      if (!reader_.terminal()) throw;
      fmt::print(stderr, "hydralm: {}\n", error.what());
    }
    return true;
  }

  // A command that is none has changed nothing: the conversation goes on, and the status tells of it in the end.
  void NoCommand(const std::string& line, const std::string& why) {
    fmt::print(stderr, "hydralm: {}: {}: {}\n", OneLine(line), why, kCommands);
    if (!reader_.terminal()) status_ = kUserError;
  }

  bool Command(const std::string& line) {
    constexpr const char* kBlank = " \t";
    const std::string name = line.substr(0, line.find_first_of(kBlank));
    const size_t begin = line.find_first_not_of(kBlank, name.size()), end = line.find_last_not_of(kBlank);
    const std::string argument = begin == std::string::npos ? "" : line.substr(begin, end + 1 - begin);
    const bool takes_file = name == "/save" || name == "/load";
    static const std::vector<std::string> kNames{"/reset", "/save", "/load", "/stats", "/quit"};
    if (std::ranges::find(kNames, name) == kNames.end()) {
      NoCommand(name, "unknown command" + DidYouMean(name, kNames));
    } else if (takes_file != !argument.empty()) {
      NoCommand(line, takes_file ? "needs a file" : "takes nothing behind it");
    } else if (name == "/quit") {
      return false;
    } else if (name == "/reset") {
      conversation_.GoOnFrom(NewState());
      fmt::print(stderr, "(forgotten)\n");
    } else if (name == "/stats") {
      PrintStatistics();
    } else if (name == "/save") {
      conversation_.state().Save(argument);
      fmt::print(stderr, "({} tokens in {})\n", conversation_.length(), argument);
    } else {
      SequenceState state = runner_.LoadState(argument);
      state.SetControls(ApplyControls(flags_.model, runner_.model.config(), state.controls()));
      conversation_.GoOnFrom(std::move(state));
      fmt::print(stderr, "({} tokens from {})\n", conversation_.length(), argument);
    }
    return true;
  }

  void Answer(const std::string& text) {
    last_ = conversation_.Say(text,
                              {.max_tokens = flags_.max_tokens,
                               .cancelled = StopRequested,
                               .speculation = speculation_.get(),
                               .pins = PinnedTexts(flags_.pins)},
                              Show);
    Show("\n");
    if (last_.reason == FinishReason::kCancelled && reader_.terminal()) fmt::print(stderr, "(stopped)\n");
    if (last_.reason == FinishReason::kLength) fmt::print(stderr, "(cut off: -n {})\n", flags_.max_tokens);
    if (last_.reason == FinishReason::kContext)
      fmt::print(stderr, "(cut off: the context is full: --ctx-size {})\n", runner_.model.options().ctx_size);
    if (common_.verbose) PrintStatistics();
  }

  // -q leaves the speeds out: two runs then say the same.
  void PrintStatistics() const {
    const auto rate = [this](int64_t n, double seconds) {
      return common_.quiet ? "" : fmt::format(", {:.1f} tok/s", seconds > 0 ? static_cast<double>(n) / seconds : 0.0);
    };
    fmt::print(stderr, "(context {} of {} tokens | last turn: read {} tokens{}; wrote {}{})\n", conversation_.length(),
               runner_.model.options().ctx_size, last_.prompt_tokens, rate(last_.prompt_tokens, last_.prefill_seconds),
               last_.ids.size(), rate(last_.steps, last_.decode_seconds));
    if (speculation_) fmt::print(stderr, "(speculation {})\n", SpeculationText(*speculation_));
  }

  const ChatFlags& flags_;
  const CommonFlags& common_;
  ChatReader reader_;
  GenerationConfig wishes_;
  SamplerOptions sampling_;
  Runner runner_;
  Tokenizer tokenizer_;
  ForwardScratch scratch_;
  std::unique_ptr<Model> draft_;
  std::unique_ptr<Speculation> speculation_;
  ChatTemplate template_;
  Conversation conversation_;
  GenerateResult last_;
  int status_ = kDone;  // at the end of the input
};

}  // namespace

void AddChatVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* verb = context.AddVerb(root, kChatVerb, "hydralm chat -m SmolLM2-135M-Instruct.gguf");
  AddModelFlags(verb, &flags->model);
  verb->add_option("--system", flags->system, "what the model is told first; \"\" = empty; default: its template's own")
      ->type_name("TEXT");
  verb->add_option("--chat-template", flags->chat_template,
                   "chatml, llama2, llama3, minicpm, plain, a Jinja file; or its own")
      ->type_name("NAME|FILE");
  verb->add_option("-n,--n-predict", flags->max_tokens, "tokens of an answer at most; -1 = to its end")
      ->check(Range(-1, 1 << 30));
  AddPinFlag(verb, &flags->pins);
  AddSamplingFlags(verb, &flags->sampling);
  AddSpeculationFlags(verb, &flags->speculation);
  AddRuntimeFlags(verb, &flags->model);
  AddMemoryFlags(verb, &flags->model);
  AddActivationFlag(verb, &flags->model);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return Chat(*flags, verb, common).Run(); });
}

}  // namespace hydra::cli
