// SPDX-License-Identifier: Apache-2.0
// The endpoints that say something about the model and the server, or turn text into tokens and back. Not here: texts
// (api_text.h), saved states (api_states.h).
#pragma once

#include <string>

#include "hydra/io/json.h"
#include "hydra/serve/http.h"
#include "hydra/serve/served_model.h"

namespace hydra::serve {

[[nodiscard]] Json ModelsJson(const ServedModel& served);                               // GET /v1/models
[[nodiscard]] Json ModelJson(const ServedModel& served, const std::string& name);       // GET /v1/models/ID
[[nodiscard]] Json PropsJson(const ServedModel& served);                                // GET /props
[[nodiscard]] Json SlotsJson(const ServedModel& served);                                // GET /slots
[[nodiscard]] Json TokenizeJson(const ServedModel& served, const std::string& body);    // POST /tokenize
[[nodiscard]] Json DetokenizeJson(const ServedModel& served, const std::string& body);  // POST /detokenize
[[nodiscard]] Json TokenizerInfoJson(const ServedModel& served);                        // GET /tokenizer_info

}  // namespace hydra::serve
