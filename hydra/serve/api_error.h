// SPDX-License-Identifier: Apache-2.0
// Errors as the protocol has them: a status and {"error": {"message", "type", "param", "code"}}. Not here: where they
// are turned into replies (server.cc).
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "hydra/io/json.h"
#include "hydra/serve/http.h"
#include "hydra/serve/status.h"

namespace hydra::serve {

// What a client can cause, or what the server lacks.
class ApiError : public std::runtime_error {
 public:
  // param: the field of the request, "" for none; code: a word for programs, "" for none.
  ApiError(int status, const std::string& message, std::string param = "", std::string code = "")
      : std::runtime_error(message), status_(status), param_(std::move(param)), code_(std::move(code)) {}
  [[nodiscard]] int status() const { return status_; }
  [[nodiscard]] const std::string& param() const { return param_; }
  [[nodiscard]] const std::string& code() const { return code_; }

 private:
  int status_;
  std::string param_, code_;
};

// {"error": {..}}. The type follows from the status: "invalid_request_error" for 4xx, "rate_limit_error" for 429,
// "unavailable_error" for 503, "server_error" for the others.
[[nodiscard]] Json ErrorJson(const ApiError& error);
[[nodiscard]] HttpReply ErrorReply(const ApiError& error);
[[nodiscard]] HttpReply JsonReply(const Json& body, int status = kOk);

}  // namespace hydra::serve
