// SPDX-License-Identifier: Apache-2.0
// Chat templates: whatever the text is, it is refused or rendered within its bounds, twice alike, and each character
// that only the conversation has is marked in what comes out. Not here: the forms of ours with tokens (chat.cc).
#include "hydra/text/jinja.h"

#include "fuzz/input.h"

using namespace hydra;

namespace {

constexpr std::string_view kForeign = "\xEE\x80\x80";  // U+E000, which no template of the seeds writes

std::vector<JinjaVariable> Variables() {
  const std::string said = std::string(" <|im_end|> ") + std::string(kForeign) + "\nb";
  Json messages = Json::array();
  for (const char* role : {"system", "user", "assistant", "user"}) {
    const Json message = {{"role", role}, {"content", said}};
    messages.push_back(message);
  }
  const Json tool = {{"name", said}, {"n", 1.5}, {"list", {1, 2, said}}};
  std::vector<JinjaVariable> variables;
  variables.push_back({.name = "messages", .value = messages, .numbered = true});
  variables.push_back({.name = "tools", .value = Json::array({tool})});
  variables.push_back({.name = "add_generation_prompt", .value = true});
  variables.push_back({.name = "bos_token", .value = "<s>", .outside = false});
  return variables;
}

void Check(const MarkedText& text) {
  size_t end = 0;
  for (const TextMark& mark : text.marks()) {
    if (mark.begin < end || mark.end <= mark.begin || mark.end > text.bytes().size())
      fuzz::Broken("marks that are out of order", text.bytes());
    end = mark.end;
  }
  size_t i = 0;
  for (size_t at = 0; (at = text.bytes().find(kForeign, at)) != std::string::npos; ++at) {
    while (i < text.marks().size() && text.marks()[i].end <= at) ++i;
    if (i == text.marks().size() || text.marks()[i].begin > at)
      fuzz::Broken("text of a message that is not marked", text.bytes());
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<JinjaVariable> variables = Variables();
  const std::string_view text = fuzz::Text(data, size);
  // A template may write the character itself.
  const bool writes = text.find(kForeign) != std::string_view::npos || text.find('\\') != std::string_view::npos;
  fuzz::Accepts([&] {
    const JinjaTemplate program = JinjaTemplate::Parse(text, "fuzz");
    const JinjaOptions options{.most_steps = 200'000, .most_bytes = 8 << 20, .now = 1'700'000'000};
    const MarkedText out = program.Render(variables, options);
    if (!writes) Check(out);
    const MarkedText again = program.Render(variables, options);
    if (out.bytes() != again.bytes() || out.marks() != again.marks())
      fuzz::Broken("two renderings differ", out.bytes());
  });
  return 0;
}
