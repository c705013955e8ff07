// SPDX-License-Identifier: Apache-2.0
// States are made by the engine like texts, and saved by the thread that answers.
#include "hydra/serve/api_states.h"

#include <utility>

#include "hydra/serve/api_error.h"
#include "hydra/serve/fields.h"
#include "hydra/serve/text_call.h"

namespace hydra::serve {
namespace {

Json StateJson(const StateStore::Entry& entry) {
  return {{"name", entry.name}, {"object", "state"}, {"tokens", entry.tokens}, {"bytes", entry.bytes}};
}

}  // namespace

Json ListStates(const StateStore& states, const std::string& owner) {
  Json list = Json::array();
  for (const StateStore::Entry& entry : states.List(owner)) list.push_back(StateJson(entry));
  return {{"object", "list"}, {"data", std::move(list)}};
}

StateCall ReadStateCall(const std::string& body, const ServedModel& served) {
  const Json json = ParseBody(body);
  Fields fields(json);
  const std::string name = fields.Text("name").value_or("");
  if (!StateStore::IsName(name)) fields.Refuse("name", "must be 1 to 64 letters, digits, _, - and, not first, dots");
  return {name, ReadPromptCall(fields, served)};
}

Json MakeState(StateStore& states, const std::string& owner, StateCall call, const ServedModel& served,
               const TextLimits& limits, HttpRequest& request, HttpClient& client) {
  call.text.owner = owner;
  call.text.keep_state = true;
  const TextEnd end = RunQuietly(served.engine, std::move(call.text), limits, client);
  request.notes["prompt_tokens"] = end.prompt_tokens;
  request.notes["cached_tokens"] = end.cached_tokens;
  return StateJson(states.Save(owner, call.name, *end.state));
}

Json DeleteState(StateStore& states, const std::string& owner, const std::string& name) {
  states.Delete(owner, name);
  return {{"name", name}, {"object", "state"}, {"deleted", true}};
}

}  // namespace hydra::serve
