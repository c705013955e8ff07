// SPDX-License-Identifier: Apache-2.0
// The JSON of errors.
#include "hydra/serve/api_error.h"

namespace hydra::serve {
namespace {

const char* TypeOf(int status) {
  switch (status) {
    case kUnauthorized: return "authentication_error";
    case kForbidden: return "permission_error";
    case kTooManyRequests: return "rate_limit_error";
    case kUnavailable: return "unavailable_error";
    default: return status < kServerError ? "invalid_request_error" : "server_error";
  }
}

Json OrNull(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

}  // namespace

Json ErrorJson(const ApiError& error) {
  // /health has its number in the place of a word, as clients of other servers expect.
  return {{"error",
           {{"message", error.what()},
            {"type", TypeOf(error.status())},
            {"param", OrNull(error.param())},
            {"code", error.status() == kUnavailable ? Json(kUnavailable) : OrNull(error.code())}}}};
}

HttpReply JsonReply(const Json& body, int status) {
  return {.status = status, .body = body.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

HttpReply ErrorReply(const ApiError& error) {
  HttpReply reply = JsonReply(ErrorJson(error), error.status());
  if (error.status() == kTooManyRequests || error.status() == kUnavailable)
    reply.headers.emplace_back("Retry-After", "1");
  if (error.status() == kUnauthorized) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

}  // namespace hydra::serve
