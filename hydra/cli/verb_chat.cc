// SPDX-License-Identifier: Apache-2.0
// `hydralm chat`: a conversation with a model. Answers on stdout as they come, all else on stderr. What was said stays
// in the sequence's state: a turn reads its own tokens only. Not here: templates (text/chat_template.h), the loop of an
// answer (runtime/generate.h).
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verb_sampling.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/file.h"
#include "hydra/text/chat_template.h"

namespace hydra::cli {
namespace {

struct ChatFlags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string system, chat_template;
  int64_t max_tokens = 1024;
};

constexpr const char* kPlainUser = "\nUser:";  // where an answer ends for models that know no turns

// Lines of stdin; a signal interrupts the wait.
class LineReader {
 public:
  enum class Result { kLine, kEnd, kInterrupted };
  Result Read(std::string* line) {
    for (;;) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        *line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return Result::kLine;
      }
      if (!Wait()) return Result::kInterrupted;
      char bytes[4096];
      const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof(bytes));
      if (n < 0 && errno == EINTR) return Result::kInterrupted;
      if (n < 0) ThrowIo("stdin", "cannot be read", errno);
      if (n == 0) {
        *line = std::exchange(buffer_, {});
        return line->empty() ? Result::kEnd : Result::kLine;
      }
      buffer_.append(bytes, static_cast<size_t>(n));
    }
  }

 private:
  // Until there is something to read; false when a signal came, be it just before the wait.
  static bool Wait() {
    sigset_t stops, before;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &stops, &before);
    pollfd in{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    const bool ready = !StopRequested() && ::ppoll(&in, 1, nullptr, &before) > 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return ready;
  }

  std::string buffer_;
};

class Chat {
 public:
  Chat(const ChatFlags& flags, const CLI::App* verb, const CommonFlags& common)
      : flags_(flags),
        common_(common),
        config_(LoadGenerationConfig(flags.model.model)),
        sampling_(ResolveSampling(flags.sampling, verb, config_)),
        runner_(OpenRunner(flags.model, {.quiet = common.quiet})),
        tokenizer_(LoadTokenizerOf(runner_.model, flags_.model)),
        template_(LoadTemplate()),
        state_(runner_.model, ParseControls(flags.model.controls)),
        sampler_(sampling_),
        terminal_(::isatty(STDIN_FILENO) == 1) {
    sampling_.CheckIds(tokenizer_.vocab_size());
    end_ids_ = EndIds(runner_.model, config_, tokenizer_);
    for (const int32_t id : template_.EndIds(tokenizer_)) end_ids_.push_back(id);
    if (!common_.quiet)
      fmt::print(stderr, "chat         template {}, {}; /reset /save F /load F /stats /quit\n", template_.name(),
                 sampling_.temperature > 0 ? fmt::format("seed {}", sampling_.seed) : "greedy");
  }

  int Run() {
    InstallStopSignals({.second_ends = false, .restart_reads = false});
    LineReader reader;
    std::string line;
    for (bool again = false;;) {
      if (terminal_) fmt::print(stderr, "> ");
      const LineReader::Result result = reader.Read(&line);
      if (StopSignal() == SIGTERM || (StopRequested() && (again || !terminal_))) return StopStatus();
      if (result == LineReader::Result::kEnd) {
        if (terminal_) fmt::print(stderr, "\n");
        return kDone;
      }
      again = StopRequested();
      ClearStop();
      if (again) fmt::print(stderr, "\n(Ctrl-C again, /quit or Ctrl-D to leave)\n");
      if (result == LineReader::Result::kInterrupted) continue;
      if (!Turn(line)) return kDone;
      if (StopSignal() == SIGTERM) return StopStatus();
      ClearStop();
    }
  }

 private:
  ChatTemplate LoadTemplate() const {
    std::vector<std::string> warnings;
    ChatTemplate found = ChatTemplate::Load(flags_.model.model, flags_.chat_template, tokenizer_, &warnings);
    for (const std::string& warning : warnings) fmt::print(stderr, "hydralm: warning: {}\n", warning);
    return found;
  }

  // False at /quit. At a terminal a mistake ends the turn, else the program.
  bool Turn(const std::string& line) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) return true;
    try {
      if (line.starts_with('/')) return Command(line);
      Answer(line);
    } catch (const Error& error) {
      if (!terminal_) throw;
      fmt::print(stderr, "hydralm: {}\n", error.what());
    }
    return true;
  }

  bool Command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    std::string argument =
        space == std::string::npos
            ? ""
            : line.substr(line.find_first_not_of(' ', space) == std::string::npos ? line.size()
                                                                                  : line.find_first_not_of(' ', space));
    while (!argument.empty() && (argument.back() == ' ' || argument.back() == '\r')) argument.pop_back();
    if (name == "/quit") return false;
    if (name == "/reset") {
      state_.Reset();
      sampler_ = Sampler(sampling_);
      fmt::print(stderr, "(forgotten)\n");
    } else if (name == "/stats") {
      PrintStatistics();
    } else if ((name == "/save" || name == "/load") && argument.empty()) {
      throw Error(ErrorCode::kUsage, fmt::format("{}: needs a file", name));
    } else if (name == "/save") {
      state_.Save(argument);
      fmt::print(stderr, "({} tokens in {})\n", Length(), argument);
    } else if (name == "/load") {
      state_ = SequenceState::Load(argument, runner_.model);
      fmt::print(stderr, "({} tokens from {})\n", Length(), argument);
    } else {
      static const std::vector<std::string> kCommands{"/reset", "/save", "/load", "/stats", "/quit"};
      throw Error(ErrorCode::kUsage, fmt::format("{}: unknown command{}: /reset /save F /load F /stats /quit", name,
                                                 DidYouMean(name, kCommands)));
    }
    return true;
  }

  [[nodiscard]] int64_t Length() const { return state_.pos() + static_cast<int64_t>(state_.pending().size()); }

  // The tokens of a user's turn, up to where the answer begins: what the state has not got yet.
  std::vector<int32_t> TurnIds(const std::string& text) const {
    std::vector<ChatMessage> messages;
    if (!flags_.system.empty()) messages.push_back({"system", flags_.system});
    if (Length() == 0) {
      messages.push_back({"user", text});
      return template_.Encode(tokenizer_, messages, true);
    }
    if (template_.form() == ChatForm::kPlain && SaidUser()) {  // the model has begun the user's turn itself
      std::vector<int32_t> ids = tokenizer_.Encode(" " + text + "\n", {.parse_special = false});
      for (const int32_t id : tokenizer_.Encode("Assistant:", {.parse_special = false})) ids.push_back(id);
      return ids;
    }
    // A later turn is what it adds to a conversation of one turn, the end of the answer before it included.
    messages.push_back({"user", "x"});
    const std::vector<int32_t> before = template_.Encode(tokenizer_, messages, true);
    messages.push_back({"assistant", ""});
    messages.push_back({"user", text});
    std::vector<int32_t> ids = template_.Encode(tokenizer_, messages, true);
    const auto [differs, rest] = std::mismatch(before.begin(), before.end(), ids.begin(), ids.end());
    if (differs != before.end())
      throw Error(ErrorCode::kConfig, fmt::format("{}: chat template {}: its turns do not follow one another as tokens",
                                                  flags_.model.model, template_.name()));
    ids.erase(ids.begin(), rest);
    // Where the model has said its end itself, it and what the template puts before it are there already.
    if (!state_.pending().empty() &&
        std::find(end_ids_.begin(), end_ids_.end(), state_.pending().back()) != end_ids_.end())
      if (const auto end = std::find(ids.begin(), ids.end(), state_.pending().back()); end != ids.end())
        ids.erase(ids.begin(), end + 1);
    return ids;
  }

  // Whether the text so far ends with the head of a user's turn in the plain form.
  [[nodiscard]] bool SaidUser() const {
    constexpr size_t kTail = 16;  // tokens that surely hold it
    std::vector<int32_t> tail(state_.ids().begin(), state_.ids().end());
    tail.insert(tail.end(), state_.pending().begin(), state_.pending().end());
    if (tail.size() > kTail) tail.erase(tail.begin(), tail.end() - kTail);
    return tokenizer_.Decode(tail).ends_with(kPlainUser);
  }

  void Answer(const std::string& text) {
    const Generator generator{runner_.model, tokenizer_, *runner_.pool};
    GenerateOptions options{.max_tokens = flags_.max_tokens, .end_ids = end_ids_, .cancelled = StopRequested};
    if (template_.form() == ChatForm::kPlain) options.stops.push_back(kPlainUser);
    last_ = generator.Generate(state_, sampler_, TurnIds(text), options, Show);
    Show("\n");
    if (last_.reason == FinishReason::kCancelled && terminal_) fmt::print(stderr, "(stopped)\n");
    if (last_.reason == FinishReason::kLength)
      fmt::print(stderr, "(cut off: -n {}, --ctx-size {})\n", flags_.max_tokens, runner_.model.options().ctx_size);
    if (common_.verbose) PrintStatistics();
  }

  void PrintStatistics() const {
    const auto rate = [](int64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0.0; };
    fmt::print(stderr, "(context {} of {} tokens | last turn: read {} tokens, {:.1f} tok/s; wrote {}, {:.1f} tok/s)\n",
               Length(), runner_.model.options().ctx_size, last_.prompt_tokens,
               rate(last_.prompt_tokens, last_.prefill_seconds), last_.ids.size(),
               rate(last_.steps, last_.decode_seconds));
  }

  const ChatFlags& flags_;
  const CommonFlags& common_;
  GenerationConfig config_;
  SamplerOptions sampling_;
  Runner runner_;
  Tokenizer tokenizer_;
  ChatTemplate template_;
  SequenceState state_;
  Sampler sampler_;
  bool terminal_;
  std::vector<int32_t> end_ids_;
  GenerateResult last_;
};

}  // namespace

void AddChatVerb(CLI::App& root, VerbContext& context) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* verb = context.AddVerb(root, kChatVerb, "hydralm chat -m SmolLM2-135M-Instruct.gguf");
  AddModelFlags(verb, &flags->model);
  verb->add_option("--system", flags->system, "what the model is told first; default: its template's own")
      ->type_name("TEXT");
  verb->add_option("--chat-template", flags->chat_template,
                   "chatml, llama2, llama3, minicpm or plain; default: the model's")
      ->type_name("NAME");
  verb->add_option("-n,--n-predict", flags->max_tokens, "tokens of an answer at most; -1 = to its end")
      ->check(Range(-1, 1 << 30));
  AddSamplingFlags(verb, &flags->sampling);
  AddRuntimeFlags(verb, &flags->model);
  AddActivationFlag(verb, &flags->model);
  context.AddQuietFlag(verb);
  context.AddVerboseFlag(verb);
  context.OnRun(verb, [flags, verb](const CommonFlags& common) { return Chat(*flags, verb, common).Run(); });
}

}  // namespace hydra::cli
