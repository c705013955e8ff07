// SPDX-License-Identifier: Apache-2.0
// The server that clients of OpenAI's protocol and the web page talk to: who may ask, where a request goes, health from
// before a model is loaded until the last request has ended. Not here: sockets (http.h), the endpoints (api_*.h), the
// page itself (page.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/serve/api_error.h"
#include "hydra/serve/api_text.h"
#include "hydra/serve/http.h"
#include "hydra/serve/keys.h"
#include "hydra/serve/metrics.h"
#include "hydra/serve/served_model.h"
#include "hydra/serve/state_store.h"

namespace hydra::serve {

struct ServerOptions {
  HttpOptions http{};
  std::vector<std::string> api_keys{};       // none: nobody needs one
  std::vector<std::string> allowed_hosts{};  // names that requests may call the server, besides loopback and http.host
  std::string cors_origin{};                 // of pages elsewhere that may ask; "*": of any; "": of none
  TextLimits limits{};
  std::shared_ptr<StateStore> states{};  // null: no saved states
  // A line for the log: method, path, status, seconds, and what the answer noted. Called from many threads.
  std::function<void(const Json&)> log{};
};

// Thread-safe.
class Server {
 public:
  // Listens at once: /health says that the model is being loaded. Throws kIo where the address cannot be had. Metrics
  // must outlive it.
  Server(ServerOptions options, Metrics& metrics);
  ~Server();  // Stop(0)
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // From here on requests are answered with this model, which must live until Stop has returned.
  void Serve(const ServedModel& served);
  // No new requests; those that were begun, and texts of the engine, get `seconds` to end.
  void Stop(double seconds);
  [[nodiscard]] int port() const { return http_->port(); }
  [[nodiscard]] std::string url() const;  // of the page

 private:
  struct Route {
    const char* name = "other";  // as metrics call it
    bool is_public = false, is_text = false;
  };
  // ---- Before a body is read ----
  [[nodiscard]] std::optional<HttpReply> Refuse(const HttpRequest& request) const;
  [[nodiscard]] bool HostIsKnown(const std::string& host) const;
  [[nodiscard]] bool OriginIsKnown(const HttpRequest& request) const;
  [[nodiscard]] static Route RouteOf(const std::string& path);
  // ---- Answers ----
  [[nodiscard]] HttpReply Answer(HttpRequest& request, HttpClient& client);
  [[nodiscard]] HttpReply Dispatch(HttpRequest& request, HttpClient& client, const std::string& owner);
  [[nodiscard]] HttpReply StatesReply(HttpRequest& request, HttpClient& client, const std::string& owner);
  [[nodiscard]] HttpReply Health() const;
  [[nodiscard]] HttpReply MetricsText() const;
  [[nodiscard]] HttpReply Page() const;
  [[nodiscard]] const ServedModel& Served() const;
  // f(), for a large body alone: what it is read into takes many times its size.
  template <class F>
  auto Alone(const std::string& body, F&& f) {
    constexpr size_t kLarge = size_t{1} << 18;
    std::unique_lock lock(large_, std::defer_lock);
    if (body.size() > kLarge) lock.lock();
    return f();
  }
  // What every reply carries.
  [[nodiscard]] HttpReply Finished(HttpReply reply, const HttpRequest& request) const;
  void Done(const HttpRequest& request, int status, double seconds);

  const ServerOptions options_;
  const Keys keys_;
  Metrics& metrics_;
  std::atomic<const ServedModel*> served_{nullptr};
  std::atomic<bool> stopping_{false};
  std::mutex large_;                  // held while a large body is read
  std::unique_ptr<HttpServer> http_;  // last: its threads use all of them
};

}  // namespace hydra::serve
