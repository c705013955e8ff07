// SPDX-License-Identifier: Apache-2.0
// What a user of `hydralm chat` types or pipes, as messages and commands: line editing and history at a terminal
// (libedit), line ends of both kinds, messages of several lines. Not here: what is done with them (verb_chat.cc).
//
//   /word ...        a command                     //text   the message "/text"
//   """  ..  """     all lines between the two lines of quotes are one message, whatever they are; it may begin
//                    behind the first quotes, and then ends with the first line that ends with quotes
#pragma once

#include <memory>
#include <string>

namespace hydra::cli {

struct ChatInput {
  enum class Kind { kMessage, kCommand, kEnd, kInterrupted } kind;  // kInterrupted: a signal came
  std::string text{};                                               // of a message or a command
};

// Reads stdin. Where stdin and stderr are a terminal that can move its cursor, lines are edited there; the history
// lasts as long as the reader. Prompts are written to stderr, at a terminal only.
class ChatReader {
 public:
  ChatReader();
  ~ChatReader();
  ChatReader(const ChatReader&) = delete;
  ChatReader& operator=(const ChatReader&) = delete;

  // The next message or command that is not blank. Throws kIo where stdin cannot be read.
  ChatInput Read();
  [[nodiscard]] bool terminal() const { return terminal_; }

 private:
  class Editor;
  enum class Line { kRead, kEnd, kInterrupted };
  Line ReadLine(const char* prompt, std::string* line);
  ChatInput ReadBlock(std::string first);

  bool terminal_;
  std::unique_ptr<Editor> editor_;
  std::string buffer_;  // bytes read behind the last line
};

}  // namespace hydra::cli
