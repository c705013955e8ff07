// SPDX-License-Identifier: Apache-2.0
// A client's socket as cpp-httplib reads and writes it. The head of each request is read and checked here first, since
// that library bounds neither lines nor time; it then gets a head that is fit for it. Not here: routes (http.cc).
#pragma once

#include <httplib.h>

#include <cstdint>
#include <string>

#include "hydra/serve/http.h"

namespace hydra::serve {

// Not thread-safe. Owns the socket, which does not block.
class Connection final : public httplib::Stream, public HttpClient {
 public:
  Connection(int fd, const HttpOptions& options) : fd_(fd), options_(options) {}
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Reads the next request up to its body. 0: httplib may read it; else the status that refuses it, `why` says more;
  // -1: there is none.
  [[nodiscard]] int ReadHead(std::string* why);
  // Says good bye so that a client that still sends gets to read the answer.
  void CloseGently();

  // What became of the request.
  bool taken = false;   // its body was read whole
  bool close = false;   // the reply ends the connection
  double began = 0;     // on the clock of Seconds()
  HttpRequest request;  // as the handlers see it
  [[nodiscard]] bool has_body() const { return length_ > 0 || chunked_; }
  [[nodiscard]] bool broken() const { return broken_; }
  // Why the body ended early: 413 or 408; 0: it did not.
  [[nodiscard]] int body_fault() const { return body_fault_; }

  [[nodiscard]] State state() const override;

  // httplib::Stream
  bool is_readable() const override;
  bool is_writable() const override { return !broken_; }
  ssize_t read(char* out, size_t n) override;
  ssize_t write(const char* data, size_t n) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  // Not that of the system: httplib refuses numbers that select(2) cannot take, and asks for nothing else.
  socket_t socket() const override { return 0; }

 private:
  // More bytes from the socket into received_, until `deadline`. 1: some came; 0: the client closed it; -1: time is up
  // or it is broken.
  int Receive(double deadline);
  [[nodiscard]] int CheckHead(std::string_view head, std::string* why);

  int fd_;
  const HttpOptions& options_;
  std::string head_, received_;           // for httplib; from the socket
  size_t head_at_ = 0, received_at_ = 0;  // what of them was given to it
  int64_t length_ = 0, body_read_ = 0;
  bool chunked_ = false, broken_ = false;
  int body_fault_ = 0;
  double deadline_ = 0;  // of the request
};

}  // namespace hydra::serve
