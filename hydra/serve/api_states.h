// SPDX-License-Identifier: Apache-2.0
// /v1/states: sequences that are read once and kept under a name. Not here: the files (state_store.h).
#pragma once

#include <string>

#include "hydra/io/json.h"
#include "hydra/serve/api_text.h"
#include "hydra/serve/http.h"
#include "hydra/serve/served_model.h"
#include "hydra/serve/state_store.h"

namespace hydra::serve {

// Throw ApiError.
[[nodiscard]] Json ListStates(const StateStore& states, const std::string& owner);
// POST {"name", "messages" or "prompt"}: reads the prompt and saves the state behind it.
struct StateCall {
  std::string name;
  TextRequest text;
};
[[nodiscard]] StateCall ReadStateCall(const std::string& body, const ServedModel& served);
[[nodiscard]] Json MakeState(StateStore& states, const std::string& owner, StateCall call, const ServedModel& served,
                             const TextLimits& limits, HttpRequest& request, HttpClient& client);
[[nodiscard]] Json DeleteState(StateStore& states, const std::string& owner, const std::string& name);

}  // namespace hydra::serve
