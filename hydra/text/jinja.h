// SPDX-License-Identifier: Apache-2.0
// Chat templates: the part of Jinja that they use, run as `transformers` sets Jinja up. Templates are programs of
// strangers: they get what they are given, do no input or output, and their steps, memory and depth are bounded.
// What is supported: docs/formats.md. Not here: conversations (chat_template.h).
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/text/marked_text.h"

namespace hydra {

namespace jinja {
struct Program;
}

// A name that the template sees.
struct JinjaVariable {
  std::string name;
  Json value;
  // Its texts come from outside: they are marked in the output, with this number, or, where it is a numbered list, with
  // the place of the element that they stand in.
  bool outside = true;
  int32_t source = -2;
  bool numbered = false;
};

struct JinjaOptions {
  int64_t most_steps = 4'000'000;          // a fraction of a second
  int64_t most_bytes = int64_t{64} << 20;  // of all values made, beside 32 times the variables' own
  std::time_t now = 0;                     // of strftime_now; 0: the present
};

// Immutable, cheap to copy, safe to share between threads.
class JinjaTemplate {
 public:
  // `where` stands for the template in messages. Throws kFormat "WHERE: line L, column C: ...".
  [[nodiscard]] static JinjaTemplate Parse(std::string_view text, const std::string& where);

  // The rendered text; marks of `outside` texts. Throws kUsage "WHERE: line L, column C: ..." for what raise_exception
  // says, for operations that Python refuses, and where a bound is exceeded.
  [[nodiscard]] MarkedText Render(std::span<const JinjaVariable> variables, const JinjaOptions& options = {}) const;

  // Whether the template says this name anywhere.
  [[nodiscard]] bool Mentions(std::string_view name) const;

 private:
  explicit JinjaTemplate(std::shared_ptr<const jinja::Program> program) : program_(std::move(program)) {}
  std::shared_ptr<const jinja::Program> program_;
};

// Roles that are no text from outside, as templates put them into special tokens (<|user|>): a member "role" with
// another value is marked like any text.
[[nodiscard]] bool IsChatRole(std::string_view role);

}  // namespace hydra
