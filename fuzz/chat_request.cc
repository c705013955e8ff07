// SPDX-License-Identifier: Apache-2.0
// Bodies of requests for texts: those that begin with "m" go to chats, others to completions, without their first byte.
// What is accepted fits the model; what is not is the client's fault. Not here: heads of requests, running them.
#include "fuzz/input.h"
#include "fuzz/state_model.h"
#include "hydra/serve/engine.h"
#include "hydra/serve/fields.h"
#include "hydra/serve/text_call.h"

#include <filesystem>

using namespace hydra;

namespace {

struct Desk {
  Model model = fuzz::StateModel();
  Tokenizer tokenizer = fuzz::ChatTokenizer();
  ThreadPool pool{1};
  serve::Metrics metrics;
  serve::Engine engine{model, tokenizer, pool, metrics, {}};
  serve::ServedModel served{.model = model, .tokenizer = tokenizer, .engine = engine};

  Desk() {
    served.chat = std::make_unique<const serve::ChatPrompter>(
        tokenizer, ChatTemplate::Load(std::filesystem::temp_directory_path().string(), "chatml", tokenizer));
    served.forms = std::make_unique<serve::TextForms>(tokenizer, model.config().vocab_size);
    served.name = "fuzz";
    served.context = 2000;
    served.longest = 100;
  }
};

void Check(const serve::TextCall& call, const Desk& desk) {
  for (const serve::TextRequest& text : call.texts) {
    if (text.prompt.empty()) fuzz::Broken("a text without a prompt", "");
    if (static_cast<int64_t>(text.prompt.size()) + text.max_tokens > desk.served.context)
      fuzz::Broken("a text beyond the context", "");
    if (static_cast<int64_t>(text.stops.size()) > serve::kMostStops) fuzz::Broken("more stops than may be", "");
    text.sampling.Validate();
    text.controls.Validate(desk.model.config());
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Desk desk;
  const std::string_view text = fuzz::Text(data, size);
  if (text.empty()) return 0;
  try {
    const Json body = serve::ParseBody(std::string(text.substr(1)));
    Check(
        text[0] == 'm' ? serve::ReadChatCall(body, desk.served, {}) : serve::ReadCompletionCall(body, desk.served, {}),
        desk);
  } catch (const serve::ApiError& error) {
    if (error.status() < 400 || error.status() >= 500) fuzz::Broken("not the client's fault", error.what());
    if (std::string_view(error.what()).empty()) fuzz::Broken("an error without a message", "");
  }
  return 0;
}
