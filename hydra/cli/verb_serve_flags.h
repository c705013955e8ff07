// SPDX-License-Identifier: Apache-2.0
// Flags of `hydralm serve`: where it listens, who may ask, what it takes and keeps. Not here: the verb (verb_serve.cc).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_speculation.h"
#include "hydra/serve/server.h"

namespace hydra::cli {

struct ServeFlags {
  ModelFlags model;
  SpeculationFlags speculation;
  std::string chat_template;
  std::string host = "127.0.0.1";
  int64_t port = 8080, slots = 4, queue = 64, max_connections = 256, timeout = 600, snapshot_every = 1024;
  std::string max_body = "8MiB", cache_ram = "1GiB", state_dir, state_quota = "10GiB";
  std::vector<std::string> api_keys, allowed_hosts, aliases;
  std::string api_key_file, cors_origin;
  bool no_auth = false, log_json = false, log_prompts = false;
  // Of --cache-ram.
  [[nodiscard]] int64_t cache_bytes() const;
};
void AddServeFlags(CLI::App* verb, ServeFlags* flags);
// What needs no model to be known as wrong. Throws kUsage.
void CheckServeFlags(const ServeFlags& flags);
[[nodiscard]] serve::ServerOptions ServerOptionsOf(const ServeFlags& flags, std::function<void(const Json&)> log);

}  // namespace hydra::cli
