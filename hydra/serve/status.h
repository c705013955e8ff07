// SPDX-License-Identifier: Apache-2.0
// The status codes of HTTP that are used here.
#pragma once

namespace hydra::serve {

inline constexpr int kOk = 200, kNoContent = 204, kBadRequest = 400, kUnauthorized = 401, kForbidden = 403,
                     kNotFound = 404, kRequestTimeout = 408, kConflict = 409, kLengthRequired = 411, kTooLarge = 413,
                     kTargetTooLong = 414, kUnsupportedMedia = 415, kTooManyRequests = 429, kHeadTooLarge = 431,
                     kServerError = 500, kNotImplemented = 501, kUnavailable = 503, kInsufficientStorage = 507;

}  // namespace hydra::serve
