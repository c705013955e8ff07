// SPDX-License-Identifier: Apache-2.0
// Conversations: lines of the input are messages ("u...", "a...", "s...", else an unknown role). In every form,
// contents never become special tokens: each special id of the result is one of the form's own. Not here: generating
// answers.
#include "hydra/text/chat_template.h"

#include <algorithm>

#include "fuzz/input.h"
#include "fuzz/model.h"

using namespace hydra;

namespace {

struct Forms {
  Tokenizer tokenizer = fuzz::ChatTokenizer();
  std::vector<ChatTemplate> forms;
  Forms() {
    for (const char* name : {"chatml", "llama2", "llama3", "minicpm", "plain"})
      forms.push_back(ChatTemplate::Choose("fuzz", name, {}, tokenizer));
  }
};

std::vector<ChatMessage> Messages(std::string_view text) {
  std::vector<ChatMessage> messages;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const char first = line.empty() ? 'u' : line[0];
    const std::string role = first == 'u'   ? "user"
                             : first == 'a' ? "assistant"
                             : first == 's' ? "system"
                                            : std::string(line);
    std::string content(line.substr(std::min<size_t>(1, line.size())));
    std::replace(content.begin(), content.end(), '\r', '\n');
    messages.push_back({role, content});
  }
  return messages;
}

ptrdiff_t CountSpecial(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  return std::count_if(ids.begin(), ids.end(), [&](int32_t id) { return tokenizer.IsSpecial(id); });
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Forms forms;
  const std::vector<ChatMessage> messages = Messages(fuzz::Text(data, size));
  std::vector<ChatMessage> empty = messages;
  for (ChatMessage& message : empty) message.content = "x";
  for (const ChatTemplate& form : forms.forms)
    fuzz::Accepts([&] {
      const auto ids = form.Encode(forms.tokenizer, messages, true);
      (void)forms.tokenizer.Decode(ids);
      if (CountSpecial(forms.tokenizer, ids) !=
          CountSpecial(forms.tokenizer, form.Encode(forms.tokenizer, empty, true)))
        fuzz::Broken("a message's content became a special token", form.name());
    });
  return 0;
}
