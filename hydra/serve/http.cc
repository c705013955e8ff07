// SPDX-License-Identifier: Apache-2.0
// Threads, connections and cpp-httplib, which parses requests and writes replies.
#include "hydra/serve/http.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/serve/connection.h"
#include "hydra/serve/status.h"

namespace hydra::serve {
namespace {

// Which connection this thread serves: the handlers of httplib are not told.
thread_local Connection* t_connection = nullptr;

class Sink final : public HttpSink {
 public:
  explicit Sink(httplib::DataSink& sink) : sink_(sink) {}
  bool Write(std::string_view text) override {
    if (ok_ && !text.empty()) ok_ = sink_.write(text.data(), text.size()) && !t_connection->broken();
    return ok_;
  }
  [[nodiscard]] bool ok() const { return ok_; }

 private:
  httplib::DataSink& sink_;
  bool ok_ = true;
};

void Apply(const HttpReply& reply, const httplib::Request& request, httplib::Response& out) {
  out.status = reply.status;
  for (const auto& [name, value] : reply.headers) out.set_header(name, value);
  const bool old = request.version == "HTTP/1.0";  // it knows no chunks: the end of the connection ends the body
  if (reply.close || (old && reply.stream)) {
    t_connection->close = true;
    out.set_header("Connection", "close");
  }
  if (!reply.stream) {
    out.set_content(reply.body, reply.type);
    return;
  }
  const auto write = [stream = reply.stream](size_t, httplib::DataSink& data) {
    Sink sink(data);
    stream(sink);
    if (sink.ok()) data.done();
    return sink.ok();
  };
  if (old)
    out.set_content_provider(reply.type, write);
  else
    out.set_chunked_content_provider(reply.type, write);
}

// Lets this thread have a CPU as soon as it wakes, for turns that are shorter than those of the threads that compute. A
// system that knows no such turns (Linux before 6.12) takes no notice.
void TakeShortTurns() {
  // sched_setattr(2); the system's header of it does not go with <sched.h>.
  struct {
    uint32_t size = sizeof(*this), policy = SCHED_OTHER;
    uint64_t flags = 0;
    int32_t nice = 0;
    uint32_t priority = 0;
    uint64_t runtime = 100'000, deadline = 0, period = 0;  // nanoseconds; no turn may be shorter
  } turns;
  (void)::syscall(SYS_sched_setattr, 0, &turns, 0U);
}

HttpRequest Head(const httplib::Request& from) {
  HttpRequest head = std::move(t_connection->request);  // with the headers as they came
  head.method = from.method;
  head.path = from.path;
  return head;
}

// Text of an error of getaddrinfo and the like.
[[noreturn]] void CannotListen(const HttpOptions& options, const std::string& why) {
  throw Error(ErrorCode::kIo, StrCat("--host ", options.host, " --port ", options.port, ": ", why));
}

int Listen(const HttpOptions& options) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  const std::string port = std::to_string(options.port);
  if (const int error = ::getaddrinfo(options.host.c_str(), port.c_str(), &hints, &found); error != 0)
    CannotListen(options, ::gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> list(found, ::freeaddrinfo);
  int last = 0;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    const int fd = ::socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, each->ai_protocol);
    if (fd < 0) {
      last = errno;
      continue;
    }
    const int on = 1;
    constexpr int kBacklog = 512;
    (void)::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (::bind(fd, each->ai_addr, each->ai_addrlen) == 0 && ::listen(fd, kBacklog) == 0) return fd;
    last = errno;
    ::close(fd);
  }
  CannotListen(options, std::strerror(last));
}

}  // namespace

std::string HttpRequest::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

class HttpServer::Impl : public httplib::Server {
 public:
  Impl(const HttpOptions& options, HttpCallbacks callbacks)
      : options_(options),
        callbacks_(std::move(callbacks)),
        listening_(Listen(options_)),
        wake_(::eventfd(0, EFD_CLOEXEC)) {
    svr_sock_ = listening_;  // httplib takes a server without one for one that shuts down
    SetRoutes();
    accepting_ = std::thread([this] { Accept(); });
  }
  ~Impl() override {
    ::close(listening_);
    ::close(wake_);
  }

  void Stop(double seconds) {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    const uint64_t one = 1;
    (void)!::write(wake_, &one, sizeof(one));
    if (accepting_.joinable()) accepting_.join();
    std::unique_lock lock(mutex_);
    for (const int fd : open_) ::shutdown(fd, SHUT_RD);  // those that wait for a request are done
    const auto none = [this] { return threads_ == 0; };
    if (!ended_.wait_for(lock, std::chrono::duration<double>(seconds), none)) {
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
      ended_.wait(lock, none);
    }
  }

  [[nodiscard]] sockaddr_storage Local() const {
    sockaddr_storage at{};
    socklen_t size = sizeof(at);
    (void)::getsockname(listening_, reinterpret_cast<sockaddr*>(&at), &size);
    return at;
  }

 private:
  void SetRoutes() {
    const char* any = R"([\s\S]*)";
    const Handler answer = [this](const httplib::Request& request, httplib::Response& out) { Answer(request, out); };
    Get(any, answer);
    Post(any, answer);
    Put(any, answer);
    Patch(any, answer);
    Delete(any, answer);
    Options(any, answer);
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& out) {
      t_connection->request = Head(request);
      const auto refused = callbacks_.refuse(t_connection->request);
      if (!refused) return HandlerResponse::Unhandled;
      Apply(*refused, request, out);
      return HandlerResponse::Handled;
    });
    // Where httplib itself refuses, or could not read the body.
    const HandlerWithResponse fault = [this](const httplib::Request& request, httplib::Response& out) {
      if (!out.body.empty() || out.content_provider_) return HandlerResponse::Unhandled;
      if (const int why = t_connection->body_fault(); why != 0) out.status = why;
      HttpReply reply = callbacks_.fault(out.status, "");
      reply.close = true;  // what follows on the connection may be anything
      Apply(reply, request, out);
      return HandlerResponse::Handled;
    };
    set_error_handler(fault);
    set_logger([this](const httplib::Request& request, const httplib::Response& out) {
      HttpRequest& seen = t_connection->request;
      if (seen.method.empty()) seen.method = request.method, seen.path = request.path;
      callbacks_.done(seen, out.status, Seconds() - t_connection->began);
    });
  }

  void Answer(const httplib::Request& request, httplib::Response& out) {
    t_connection->taken = true;
    t_connection->request.body = request.body;
    Apply(callbacks_.answer(t_connection->request, *t_connection), request, out);
  }

  void Accept() {
    while (true) {
      pollfd both[] = {{.fd = listening_, .events = POLLIN, .revents = 0},
                       {.fd = wake_, .events = POLLIN, .revents = 0}};
      if (::poll(both, 2, -1) < 0 && errno != EINTR) return;
      {
        const std::lock_guard lock(mutex_);
        if (stopping_) return;
      }
      const int fd = ::accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd >= 0) {
        Take(fd);
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until another connection ends
      }
    }
  }

  void Take(int fd) {
    const int on = 1;
    (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    {
      const std::lock_guard lock(mutex_);
      if (static_cast<int64_t>(open_.size()) >= options_.max_connections) return TurnAway(fd);
      open_.insert(fd);
      ++threads_;
    }
    try {
      std::thread([this, fd] { Serve(fd); }).detach();
    } catch (const std::system_error&) {  // no more threads
      const std::lock_guard lock(mutex_);
      open_.erase(fd);
      --threads_;
      TurnAway(fd);
    }
  }

  void TurnAway(int fd) {
    const HttpReply reply = callbacks_.fault(kUnavailable, "too many connections");
    const std::string text = StrCat("HTTP/1.1 503 Service Unavailable\r\nContent-Type: ", reply.type,
                                    "\r\nContent-Length: ", reply.body.size(),
                                    "\r\nRetry-After: 1\r\nConnection: close\r\n\r\n", reply.body);
    (void)!::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::close(fd);
  }

  void Serve(int fd) {
    TakeShortTurns();
    {
      Connection connection(fd, options_);
      t_connection = &connection;
      try {
        while (Exchange(connection)) continue;
      } catch (const std::exception&) {  // of a reply that was being written: only the end of it can say so
      }
      t_connection = nullptr;
      const std::lock_guard lock(mutex_);
      open_.erase(fd);  // before its number is free
    }
    const std::lock_guard lock(mutex_);  // held to the end: whoever waits may then destroy all this
    --threads_;
    ended_.notify_all();
  }

  // One request and its reply. False where the connection is done.
  bool Exchange(Connection& connection) {
    std::string why;
    const int status = connection.ReadHead(&why);
    if (status < 0) return false;
    if (status > 0) {
      WriteFault(connection, status, why);
      return false;
    }
    bool last = false, closed = false;
    {
      const std::lock_guard lock(mutex_);
      last = stopping_;
    }
    const bool ok = process_request(connection, last, closed, nullptr);
    const bool unread = connection.has_body() && !connection.taken;
    const bool done = !ok || closed || last || unread || connection.close || connection.broken();
    if (done && !connection.broken()) connection.CloseGently();
    return !done;
  }

  void WriteFault(Connection& connection, int status, const std::string& why) {
    const HttpReply reply = callbacks_.fault(status, why);
    const std::string text =
        StrCat("HTTP/1.1 ", status, " Refused\r\nContent-Type: ", reply.type, "\r\nContent-Length: ", reply.body.size(),
               "\r\nConnection: close\r\n\r\n", reply.body);
    if (connection.write(text.data(), text.size()) > 0) connection.CloseGently();
    callbacks_.done(connection.request, status, Seconds() - connection.began);
  }

  const HttpOptions options_;
  const HttpCallbacks callbacks_;
  int listening_, wake_;
  std::mutex mutex_;  // of what follows
  std::condition_variable ended_;
  std::set<int> open_;  // sockets of the connections
  int64_t threads_ = 0;
  bool stopping_ = false;
  std::thread accepting_;
};

HttpServer::HttpServer(const HttpOptions& options, HttpCallbacks callbacks)
    : impl_(std::make_unique<Impl>(options, std::move(callbacks))) {}

HttpServer::~HttpServer() { impl_->Stop(0); }

int HttpServer::port() const {
  const sockaddr_storage at = impl_->Local();
  return at.ss_family == AF_INET6 ? ntohs(reinterpret_cast<const sockaddr_in6&>(at).sin6_port)
                                  : ntohs(reinterpret_cast<const sockaddr_in&>(at).sin_port);
}

std::string HttpServer::address() const {
  const sockaddr_storage at = impl_->Local();
  char host[NI_MAXHOST] = "";
  (void)::getnameinfo(reinterpret_cast<const sockaddr*>(&at), sizeof(at), host, sizeof(host), nullptr, 0,
                      NI_NUMERICHOST);
  return host;
}

void HttpServer::Stop(double seconds) { impl_->Stop(seconds); }

}  // namespace hydra::serve
