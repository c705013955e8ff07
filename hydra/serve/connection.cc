// SPDX-License-Identifier: Apache-2.0
// Sockets with deadlines, and the head of a request checked line by line.
#include "hydra/serve/connection.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <set>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/serve/status.h"

namespace hydra::serve {
namespace {

// Waits until the socket can do that, or the deadline. 1: it can; 0: time is up; -1: it is broken.
int Await(int fd, short what, double deadline) {
  while (true) {
    const double left = deadline - Seconds();
    if (left <= 0) return 0;
    constexpr double kMilli = 1e3, kLongest = 1e6;
    pollfd one{.fd = fd, .events = what, .revents = 0};
    const int ready = ::poll(&one, 1, static_cast<int>(std::min(left * kMilli + 1, kLongest)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return -1;
    if (ready > 0) return 1;
  }
}

std::string Lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

bool IsToken(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != std::string::npos;
  });
}

void Address(const sockaddr_storage& from, std::string& ip, int& port) {
  char text[INET6_ADDRSTRLEN] = "";
  if (from.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(from);
    ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    port = ntohs(v4.sin_port);
  } else if (from.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(from);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    port = ntohs(v6.sin6_port);
  }
  ip = text;
}

}  // namespace

Connection::~Connection() { ::close(fd_); }

int Connection::Receive(double deadline) {
  char buffer[16384];
  while (true) {
    const ssize_t n = ::recv(fd_, buffer, sizeof(buffer), 0);
    if (n > 0) {
      received_.append(buffer, static_cast<size_t>(n));
      return 1;
    }
    if (n == 0) return 0;
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
      broken_ = true;
      return -1;
    }
    const int ready = Await(fd_, POLLIN, deadline);
    if (ready < 0) broken_ = true;
    if (ready <= 0) return -1;
  }
}

int Connection::ReadHead(std::string* why) {
  taken = close = chunked_ = false;
  length_ = body_read_ = 0;
  body_fault_ = 0;
  head_at_ = 0;
  request = HttpRequest();
  head_.clear();
  received_.erase(0, std::exchange(received_at_, 0));
  while (received_.empty())
    if (Receive(Seconds() + options_.idle_seconds) <= 0) return -1;
  began = Seconds();
  deadline_ = began + options_.request_seconds;
  size_t end = 0;
  for (size_t from = 0;;) {
    while (received_.starts_with("\r\n")) received_.erase(0, 2), from = 0;  // as RFC 9112 2.2 wishes
    end = received_.find("\r\n\r\n", from);
    if (end != std::string::npos) break;
    from = received_.size() > 3 ? received_.size() - 3 : 0;
    const size_t line = received_.size() - (received_.rfind('\n') == std::string::npos ? 0 : received_.rfind('\n'));
    if (received_.size() > HttpOptions::kHeaderBytes || line > HttpOptions::kHeaderLine + 3) {
      *why = StrCat("a line of the head may have ", HttpOptions::kHeaderLine, " bytes, all of it ",
                    HttpOptions::kHeaderBytes);
      return kHeadTooLarge;
    }
    const int got = Receive(deadline_);
    if (got == 0 || broken_) return -1;
    if (got < 0) {
      *why = StrCat("the request did not come within ", options_.request_seconds, " s");
      return kRequestTimeout;
    }
  }
  const std::string head = received_.substr(0, end + 2);  // each line with its end
  received_.erase(0, end + 4);
  return CheckHead(head, why);
}

// Of the headers httplib gets what it needs to read the body; others that it would act upon (ranges, encodings) it must
// not see.
int Connection::CheckHead(std::string_view head, std::string* why) {
  static const std::set<std::string> kForHttplib{"connection", "content-length", "transfer-encoding", "content-type",
                                                 "expect"};
  bool has_length = false;
  size_t lines = 0;
  std::string method;
  for (size_t at = 0; at < head.size(); ++lines) {
    const size_t end = head.find("\r\n", at);
    const std::string_view line = head.substr(at, end - at);
    at = end + 2;
    if (line.size() > HttpOptions::kHeaderLine || lines > HttpOptions::kHeaderLines) {
      *why = StrCat("a line of the head may have ", HttpOptions::kHeaderLine, " bytes, and there may be ",
                    HttpOptions::kHeaderLines);
      return kHeadTooLarge;
    }
    *why = "the head is not that of an HTTP request";
    if (std::ranges::any_of(line, [](unsigned char c) { return (c < ' ' && c != '\t') || c == 0x7F; }))
      return kBadRequest;
    if (lines == 0) {
      const size_t first = line.find(' '), second = line.find(' ', first + 1);
      if (first == std::string_view::npos || second == std::string_view::npos) return kBadRequest;
      method = line.substr(0, first);
      if (second - first - 1 > HttpOptions::kTargetBytes) {
        *why = StrCat("the path may have ", HttpOptions::kTargetBytes, " bytes");
        return kTargetTooLong;
      }
      head_.append(line).append("\r\n");
      continue;
    }
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || !IsToken(line.substr(0, colon))) return kBadRequest;
    const std::string name = Lower(line.substr(0, colon));
    const std::string_view value = Trimmed(line.substr(colon + 1));
    if (name == "content-length") {
      const auto [last, error] = std::from_chars(value.data(), value.data() + value.size(), length_);
      if (has_length || error != std::errc() || last != value.data() + value.size() || length_ < 0) return kBadRequest;
      has_length = true;
    }
    if (name == "transfer-encoding") {
      if (Lower(value) != "chunked" || chunked_) {
        *why = "Transfer-Encoding: only chunked is known";
        return kNotImplemented;
      }
      chunked_ = true;
    }
    request.headers.emplace(name, value);
    if (kForHttplib.count(name) > 0) head_.append(line).append("\r\n");
  }
  if (has_length && chunked_) return kBadRequest;  // two answers to where the body ends
  if (length_ > options_.max_body) {
    *why = StrCat("the body has ", length_, " bytes: at most ", options_.max_body, " are taken (--max-body)");
    return kTooLarge;
  }
  if (!has_length && !chunked_ && (method == "POST" || method == "PUT" || method == "PATCH")) {
    *why = "the length of the body is missing";
    return kLengthRequired;
  }
  why->clear();
  head_ += "\r\n";
  return 0;
}

bool Connection::is_readable() const {
  if (head_at_ < head_.size() || received_at_ < received_.size()) return true;
  pollfd one{.fd = fd_, .events = POLLIN, .revents = 0};
  return ::poll(&one, 1, 0) > 0;
}

ssize_t Connection::read(char* out, size_t n) {
  if (head_at_ < head_.size()) {
    const size_t part = std::min(n, head_.size() - head_at_);
    std::memcpy(out, head_.data() + head_at_, part);
    head_at_ += part;
    return static_cast<ssize_t>(part);
  }
  constexpr int64_t kFraming = 65536;  // what chunks may add
  if (chunked_ && body_read_ > options_.max_body + kFraming) {
    body_fault_ = kTooLarge;
    return -1;
  }
  if (received_at_ == received_.size()) {
    received_.clear();
    received_at_ = 0;
    const int got = Receive(deadline_);
    if (got == 0) return 0;
    if (got < 0) {
      body_fault_ = kRequestTimeout;
      return -1;
    }
  }
  const size_t part = std::min(n, received_.size() - received_at_);
  std::memcpy(out, received_.data() + received_at_, part);
  received_at_ += part;
  body_read_ += static_cast<int64_t>(part);
  return static_cast<ssize_t>(part);
}

ssize_t Connection::write(const char* data, size_t n) {
  size_t done = 0;
  while (done < n && !broken_) {
    const ssize_t sent = ::send(fd_, data + done, n - done, MSG_NOSIGNAL);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
      continue;
    }
    if (sent < 0 && errno == EINTR) continue;
    const bool full = sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    if (!full || Await(fd_, POLLOUT, Seconds() + options_.write_seconds) <= 0) broken_ = true;
  }
  return broken_ ? -1 : static_cast<ssize_t>(done);
}

HttpClient::State Connection::state() const {
  if (broken_) return State::kGone;
  pollfd one{.fd = fd_, .events = POLLRDHUP, .revents = 0};
  if (::poll(&one, 1, 0) <= 0) return State::kThere;
  if ((one.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) return State::kGone;
  return (one.revents & POLLRDHUP) != 0 ? State::kClosing : State::kThere;
}

void Connection::CloseGently() {
  ::shutdown(fd_, SHUT_WR);
  constexpr double kLongest = 2;
  constexpr size_t kMost = size_t{64} << 20;
  const double deadline = Seconds() + kLongest;
  for (size_t thrown = 0; thrown < kMost && Receive(deadline) > 0; received_.clear()) thrown += received_.size();
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage from{};
  socklen_t size = sizeof(from);
  if (::getpeername(fd_, reinterpret_cast<sockaddr*>(&from), &size) == 0) Address(from, ip, port);
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage from{};
  socklen_t size = sizeof(from);
  if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&from), &size) == 0) Address(from, ip, port);
}

}  // namespace hydra::serve
