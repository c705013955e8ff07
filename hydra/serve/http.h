// SPDX-License-Identifier: Apache-2.0
// An HTTP server for strangers' clients: a thread a connection, limits on all that they send and on the time that they
// take. Not here: what is answered (server.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydra/io/json.h"

namespace hydra::serve {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: any that is free
  int64_t max_connections = 256;
  int64_t max_body = int64_t{8} << 20;         // bytes
  double request_seconds = 30;                 // from the first byte of a request to its last
  double idle_seconds = 10;                    // between two requests
  double write_seconds = 30;                   // without the client taking anything
  static constexpr size_t kHeaderLine = 8192;  // bytes of a line
  static constexpr size_t kHeaderBytes = 65536;
  static constexpr size_t kHeaderLines = 100;
  static constexpr size_t kTargetBytes = 2048;  // of the path and the query
};

struct HttpRequest {
  std::string method, path, body;
  std::multimap<std::string, std::string> headers{};  // names in lower case
  Json notes = Json::object();                        // what the answer wants to be logged of it
  // The first header of a name in lower case; "" where there is none.
  [[nodiscard]] std::string header(const std::string& name) const;
};

// Who asked, while the answer is made.
class HttpClient {
 public:
  virtual ~HttpClient() = default;
  // kClosing: it has closed its side; only writing tells whether it still reads.
  enum class State { kThere, kClosing, kGone };
  [[nodiscard]] virtual State state() const = 0;
};

// Where an answer goes that is made bit by bit.
class HttpSink {
 public:
  virtual ~HttpSink() = default;
  // False where the client does not take it any more.
  virtual bool Write(std::string_view text) = 0;
};

struct HttpReply {
  int status = 200;
  std::string type = "application/json";
  std::string body{};
  std::vector<std::pair<std::string, std::string>> headers{};
  std::function<void(HttpSink&)> stream{};  // writes the body in the place of `body`
  bool close = false;                       // the connection, behind this reply
};

// Called from the connections' threads.
struct HttpCallbacks {
  // A request whose head was read: what refuses it, or nothing. Its body is read only then.
  std::function<std::optional<HttpReply>(const HttpRequest&)> refuse;
  std::function<HttpReply(HttpRequest&, HttpClient&)> answer;
  // The reply to what is no request, or to one beyond a limit.
  std::function<HttpReply(int status, const std::string& why)> fault;
  // After a reply was written.
  std::function<void(const HttpRequest&, int status, double seconds)> done;
};

class HttpServer {
 public:
  // Listens. Throws kIo where the address cannot be had.
  HttpServer(const HttpOptions& options, HttpCallbacks callbacks);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  [[nodiscard]] int port() const;
  [[nodiscard]] std::string address() const;  // that it listens on, as numbers
  // Takes no more connections, lets requests that were begun end within `seconds`, then closes them.
  void Stop(double seconds);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hydra::serve
