// SPDX-License-Identifier: Apache-2.0
// The web page: one file of HTML that asks this server and nobody else. Its parts are in hydra/serve/page.
#pragma once

#include <string>

namespace hydra::serve {

[[nodiscard]] const std::string& PageText();
// The Content-Security-Policy under which it runs: its own script and style by their hashes, requests to this server.
[[nodiscard]] const std::string& PagePolicy();

}  // namespace hydra::serve
