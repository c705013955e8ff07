// SPDX-License-Identifier: Apache-2.0
// The endpoints that write texts: from a request's body to a reply that is whole, a stream, or kept alive until it is
// whole; and what happens to clients that leave. Not here: fields (text_call.h), JSON of texts (text_reply.h).
#pragma once

#include <string>

#include "hydra/serve/http.h"
#include "hydra/serve/served_model.h"
#include "hydra/serve/text_call.h"

namespace hydra::serve {

struct TextLimits {
  double seconds = 600;      // of a request in all
  bool log_prompts = false;  // prompts and texts among the notes for the log
};

// POST /v1/chat/completions and /v1/completions. Throws ApiError. What the reply refers to lives as long as the
// connection: served, request and client.
[[nodiscard]] HttpReply AnswerText(TextCall call, const ServedModel& served, const TextLimits& limits,
                                   HttpRequest& request, HttpClient& client);
// Takes a job's pieces until all its texts have ended. Throws ApiError where one failed, the client left or time is up.
[[nodiscard]] TextEnd RunQuietly(Engine& engine, TextRequest text, const TextLimits& limits, HttpClient& client);

}  // namespace hydra::serve
