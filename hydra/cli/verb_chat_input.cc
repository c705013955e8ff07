// SPDX-License-Identifier: Apache-2.0
// Lines from a terminal, by libedit, or from a pipe, and what they say.
#include "hydra/cli/verb_chat_input.h"

#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "hydra/base/utf8.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"

namespace hydra::cli {
namespace {

constexpr std::string_view kQuotes = R"(""")";

// Until stdin has something to read; false when a signal came, be it just before the wait.
bool WaitForInput() {
  sigset_t stops, before;
  sigemptyset(&stops);
  sigaddset(&stops, SIGINT);
  sigaddset(&stops, SIGTERM);
  sigaddset(&stops, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &stops, &before);
  pollfd in{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  int ready = -1;
  do {  // a change of the window's size is no stop
    ready = StopRequested() ? -1 : ::ppoll(&in, 1, nullptr, &before);
  } while (ready < 0 && !StopRequested() && errno == EINTR);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return ready > 0;
}

// Whether lines can be edited: libedit moves the cursor, and says so on stderr where it knows nothing of a terminal.
bool CanEdit() {
  const char* const kind = std::getenv("TERM");
  return ::isatty(STDIN_FILENO) == 1 && ::isatty(STDERR_FILENO) == 1 && kind != nullptr && *kind != '\0' &&
         std::string_view(kind) != "dumb";
}

bool Blank(std::string_view line) { return line.find_first_not_of(" \t") == std::string_view::npos; }

}  // namespace

// libedit on stdin and stderr: stdout is for answers.
class ChatReader::Editor {
 public:
  Editor() {
    std::setlocale(LC_CTYPE, "C.UTF-8");  // libedit writes characters as the locale has them
    HistEvent event;
    history_ = history_init();
    history(history_, &event, H_SETSIZE, 1000);
    history(history_, &event, H_SETUNIQUE, 1);
    edit_ = el_init("hydralm", stdin, stderr, stderr);
    el_set(edit_, EL_CLIENTDATA, this);
    el_set(edit_, EL_PROMPT, Prompt);
    el_set(edit_, EL_EDITOR, "emacs");
    el_set(edit_, EL_HIST, history, history_);
    el_set(edit_, EL_GETCFN, ReadCharacter);
  }
  ~Editor() {
    el_end(edit_);
    history_end(history_);
  }
  Editor(const Editor&) = delete;
  Editor& operator=(const Editor&) = delete;

  Line Read(const char* prompt, std::string* line) {
    prompt_ = prompt;
    el_resize(edit_);                // the window may have another size since the last line
    el_set(edit_, EL_PREP_TERM, 1);  // before the prompt: what is typed at it is for libedit, not for the terminal
    int count = 0;
    const char* const typed = el_gets(edit_, &count);
    if (typed == nullptr || count <= 0) {
      std::fputs("\n", stderr);
      return StopRequested() ? Line::kInterrupted : Line::kEnd;
    }
    line->assign(typed, static_cast<size_t>(count));
    if (line->ends_with('\n')) line->pop_back();
    HistEvent event;
    if (!Blank(*line)) history(history_, &event, H_ENTER, line->c_str());
    return Line::kRead;
  }

 private:
  static Editor* Of(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<Editor*>(self);
  }
  static char* Prompt(EditLine* edit) { return const_cast<char*>(Of(edit)->prompt_); }  // it is only read
  // One character, as libedit asks for it: 1, 0 at the end, -1 on a signal. Its own reader would go on after a signal.
  static int ReadCharacter(EditLine* edit, wchar_t* out) {
    std::string& text = Of(edit)->decoded_;
    while (text.empty()) {
      char byte = 0;
      const ssize_t n = WaitForInput() ? ::read(STDIN_FILENO, &byte, 1) : -1;
      if (n <= 0) return static_cast<int>(n);
      if (byte == '\0') continue;  // a Ctrl-D typed while an answer ran; as a mark it would hide the next one
      text = Of(edit)->utf8_.Push({&byte, 1});
    }
    const CodePoint c = DecodeUtf8(text.data());
    text.erase(0, static_cast<size_t>(c.bytes));
    *out = static_cast<wchar_t>(c.value);
    return 1;
  }

  History* history_;
  EditLine* edit_;
  const char* prompt_ = "";
  Utf8Stream utf8_;
  std::string decoded_;  // characters that libedit has not taken yet
};

ChatReader::ChatReader() : terminal_(::isatty(STDIN_FILENO) == 1) {
  if (CanEdit()) editor_ = std::make_unique<Editor>();
}
ChatReader::~ChatReader() = default;

ChatReader::Line ChatReader::ReadLine(const char* prompt, std::string* line) {
  if (editor_) return editor_->Read(prompt, line);
  if (terminal_) std::fputs(prompt, stderr);
  for (;;) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      *line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      break;
    }
    if (!WaitForInput()) return Line::kInterrupted;
    char bytes[4096];
    const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof(bytes));
    if (n < 0 && errno == EINTR) return Line::kInterrupted;
    if (n < 0) ThrowIo("stdin", "cannot be read", errno);
    if (n == 0) {
      if (terminal_) std::fputs("\n", stderr);
      if (buffer_.empty()) return Line::kEnd;
      *line = std::exchange(buffer_, {});
      break;
    }
    buffer_.append(bytes, static_cast<size_t>(n));
  }
  if (line->ends_with('\r')) line->pop_back();
  return Line::kRead;
}

ChatInput ChatReader::Read() {
  std::string line;
  do {
    const Line result = ReadLine("> ", &line);
    if (result == Line::kInterrupted) return {ChatInput::Kind::kInterrupted};
    if (result == Line::kEnd) return {ChatInput::Kind::kEnd};
  } while (Blank(line));
  if (line.starts_with(kQuotes)) return ReadBlock(line.substr(kQuotes.size()));
  if (line.starts_with("//")) return {ChatInput::Kind::kMessage, line.substr(1)};
  return {line.starts_with('/') ? ChatInput::Kind::kCommand : ChatInput::Kind::kMessage, line};
}

// A message of several lines; the end of the input ends it too. `first` stands behind the first quotes.
ChatInput ChatReader::ReadBlock(std::string first) {
  const bool quotes_alone = Blank(first);
  if (first.ends_with(kQuotes)) return {ChatInput::Kind::kMessage, first.substr(0, first.size() - kQuotes.size())};
  std::string text = quotes_alone ? "" : first + "\n", line;
  for (;;) {
    const Line result = ReadLine(". ", &line);
    if (result == Line::kInterrupted) return {ChatInput::Kind::kInterrupted};
    const bool last = quotes_alone ? line == kQuotes : line.ends_with(kQuotes);
    if (last && !quotes_alone) text += line.substr(0, line.size() - kQuotes.size()) + "\n";
    if (last || result == Line::kEnd) break;
    text += line + "\n";
  }
  if (text.ends_with('\n')) text.pop_back();
  return {ChatInput::Kind::kMessage, text};
}

}  // namespace hydra::cli
