// SPDX-License-Identifier: Apache-2.0
// What the flags of `hydralm serve` are and what may not be together.
#include "hydra/cli/verb_serve_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/cli/byte_size.h"
#include "hydra/cli/cli.h"
#include "hydra/io/file.h"
#include "hydra/serve/keys.h"

namespace hydra::cli {
namespace {

bool IsLoopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

std::vector<std::string> AllKeys(const ServeFlags& flags) {
  std::vector<std::string> keys = flags.api_keys;
  if (!flags.api_key_file.empty())
    for (std::string& key : serve::Keys::ReadFileOfKeys(flags.api_key_file)) keys.push_back(std::move(key));
  return keys;
}

}  // namespace

int64_t ServeFlags::cache_bytes() const { return cache_ram == "0" ? 0 : ParseBytes("--cache-ram", cache_ram); }

void AddServeFlags(CLI::App* verb, ServeFlags* flags) {
  AddModelFlags(verb, &flags->model);
  verb->add_option("--chat-template", flags->chat_template,
                   "chatml, llama2, llama3, minicpm, plain, a Jinja file; or its own")
      ->type_name("NAME|FILE");
  verb->add_option("--alias", flags->aliases, "another name for the model; repeatable")->type_name("NAME");
  verb->add_option("--host", flags->host, "address to listen on")->type_name("HOST");
  verb->add_option("--port", flags->port, "0 = any that is free")->check(Range(0, 65535));
  verb->add_option("--parallel", flags->slots, "texts that are written at once")->check(Range(1, 64));
  verb->add_option("--queue", flags->queue, "requests that wait")->check(Range(0, 1 << 20));
  verb->add_option("--api-key", flags->api_keys, "that requests must bear; repeatable")->type_name("KEY");
  verb->add_option("--api-key-file", flags->api_key_file, "such keys, one a line")->type_name("FILE");
  verb->add_flag("--no-auth", flags->no_auth, "let others ask without a key");
  verb->add_option("--allowed-host", flags->allowed_hosts, "a name of this server; repeatable")->type_name("NAME");
  verb->add_option("--cors-origin", flags->cors_origin, "whose pages may ask; * = any")->type_name("ORIGIN");
  verb->add_option("--max-connections", flags->max_connections, "at once")->check(Range(1, 1 << 16));
  verb->add_option("--max-body", flags->max_body, "of a request")->type_name("BYTES");
  verb->add_option("--timeout", flags->timeout, "seconds of a request in all")->check(Range(1, 1 << 20));
  verb->add_option("--cache-ram", flags->cache_ram, "for prompts read before; 0 = off")->type_name("BYTES");
  verb->add_option("--snapshot-every", flags->snapshot_every, "tokens between snapshots of recurrent states")
      ->check(Range(1, 1 << 30));
  verb->add_option("--state-dir", flags->state_dir, "folder of saved states")->type_name("DIR");
  verb->add_option("--state-quota", flags->state_quota, "of that folder")->type_name("BYTES");
  verb->add_flag("--log-json", flags->log_json, "a line of JSON on stderr for each request");
  verb->add_flag("--log-prompts", flags->log_prompts, "the same, with prompts and texts");
  AddSpeculationFlags(verb, &flags->speculation);
  AddRuntimeFlags(verb, &flags->model);
  AddMemoryFlags(verb, &flags->model);
}

void CheckServeFlags(const ServeFlags& flags) {
  (void)flags.cache_bytes();
  if (!IsLoopback(flags.host) && !flags.no_auth && AllKeys(flags).empty())
    throw Error(ErrorCode::kUsage,
                fmt::format("--host {}: others can reach it: give --api-key, or --no-auth", flags.host));
}

serve::ServerOptions ServerOptionsOf(const ServeFlags& flags, std::function<void(const Json&)> log) {
  serve::ServerOptions options;
  options.http.host = flags.host;
  options.http.port = static_cast<int>(flags.port);
  options.http.max_connections = flags.max_connections;
  options.http.max_body = ParseBytes("--max-body", flags.max_body);
  options.api_keys = AllKeys(flags);
  options.allowed_hosts = flags.allowed_hosts;
  options.cors_origin = flags.cors_origin;
  options.limits = {.seconds = static_cast<double>(flags.timeout), .log_prompts = flags.log_prompts};
  if (!flags.state_dir.empty())
    options.states =
        std::make_shared<serve::StateStore>(flags.state_dir, ParseBytes("--state-quota", flags.state_quota));
  options.log = std::move(log);
  return options;
}

}  // namespace hydra::cli
