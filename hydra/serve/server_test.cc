// SPDX-License-Identifier: Apache-2.0
// The server over sockets: who is let in, limits at their bounds and one beyond, damaged requests, clients that are
// slow or leave, health from loading to the end. Not here: clients of the protocol (tests/commands/serve_test.py).
#include "hydra/serve/server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "hydra/base/testing.h"
#include "hydra/serve/testing.h"

namespace hydra::serve {
namespace {

using testing::Kit;

// One connection, as a client that may say anything.
class Client {
 public:
  explicit Client(int port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    ::inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    const timeval longest{.tv_sec = 30, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &longest, sizeof(longest));
    EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  }
  ~Client() {
    if (fd_ >= 0) ::close(fd_);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Send(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
      const ssize_t n = ::send(fd_, text.data() + at, text.size() - at, MSG_NOSIGNAL);
      if (n <= 0) return;
      at += static_cast<size_t>(n);
    }
  }
  // Up to the end, or until `marker` has come.
  std::string Receive(const std::string& marker = "") {
    char buffer[4096];
    std::string text;
    while (marker.empty() || text.find(marker) == std::string::npos) {
      const ssize_t n = ::recv(fd_, buffer, sizeof(buffer), 0);
      if (n <= 0) break;
      text.append(buffer, static_cast<size_t>(n));
    }
    return text;
  }
  void Leave() { ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

struct Reply {
  int status = 0;
  std::string head, body;
  [[nodiscard]] Json json() const { return Json::parse(body); }
};

struct ServerDesk {
  explicit ServerDesk(ServerOptions options = {}, int64_t family = 0)
      : kit(testing::Families()[static_cast<size_t>(family)].config) {
    options.http.port = 0;
    server = std::make_unique<Server>(std::move(options), kit.metrics);
  }
  ~ServerDesk() { server->Stop(0); }
  void Serve(EngineOptions options = {}) {
    engine = kit.Start(std::move(options));
    served.emplace(ServedModel{.model = kit.model, .tokenizer = kit.tokenizer, .engine = *engine});
    served->forms = std::make_unique<TextForms>(kit.tokenizer, testing::kVocab);
    served->name = "tiny";
    served->context = 1 << 20;
    served->longest = 100;
    const TempDir empty;
    served->chat =
        std::make_unique<const ChatPrompter>(kit.tokenizer, ChatTemplate::Load(empty.path(), "chatml", kit.tokenizer));
    server->Serve(*served);
  }
  // A request as text and its reply; the connection ends behind it.
  Reply Ask(const std::string& method, const std::string& path, const std::string& body = "",
            const std::string& headers = "", const std::string& host = "127.0.0.1") {
    Client client(server->port());
    client.Send(Request(method, path, body, headers, host));
    return Parse(client.Receive());
  }
  static std::string Request(const std::string& method, const std::string& path, const std::string& body,
                             const std::string& headers = "", const std::string& host = "127.0.0.1") {
    std::string text = StrCat(method, " ", path, " HTTP/1.1\r\nHost: ", host, "\r\nConnection: close\r\n", headers);
    if (method == "POST" && headers.find("Content-Type") == std::string::npos)
      text += "Content-Type: application/json\r\n";
    if (method == "POST" || !body.empty()) text += StrCat("Content-Length: ", body.size(), "\r\n");
    return text + "\r\n" + body;
  }
  static Reply Parse(const std::string& text) {
    Reply reply;
    const size_t end = text.find("\r\n\r\n");
    if (text.size() < 12 || end == std::string::npos) return reply;
    reply.status = std::stoi(text.substr(9, 3));
    reply.head = text.substr(0, end);
    reply.body = text.substr(end + 4);
    if (reply.head.find("chunked") == std::string::npos) return reply;
    std::string whole;
    for (size_t at = 0; at < reply.body.size();) {
      const size_t line = reply.body.find("\r\n", at);
      const size_t n = std::stoul(reply.body.substr(at, line - at), nullptr, 16);
      whole += reply.body.substr(line + 2, n);
      at = line + 2 + n + 2;
    }
    reply.body = whole;
    return reply;
  }
  [[nodiscard]] bool BecomesIdle() const {
    for (int i = 0; i < 500 && !engine->Idle(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return engine->Idle();
  }

  Kit kit;
  std::unique_ptr<Engine> engine;
  std::optional<ServedModel> served;
  std::unique_ptr<Server> server;
};

const std::string kAsk = R"({"prompt": "hello", "max_tokens": 5, "temperature": 0})";

TEST(Server, HealthGoesFromLoadingToTheEnd) {
  ServerDesk desk;
  Reply reply = desk.Ask("GET", "/health");
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.json()["error"]["message"], "Loading model");
  EXPECT_EQ(reply.json()["error"]["code"], 503);
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", kAsk).status, 503);
  desk.Serve();
  reply = desk.Ask("GET", "/health");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.json()["status"], "ok");
  const Reply text = desk.Ask("POST", "/v1/completions", kAsk);
  EXPECT_EQ(text.status, 200);
  EXPECT_EQ(text.json()["usage"]["completion_tokens"], 5);
  // A request that was begun may end, new ones are refused.
  Client begun(desk.server->port());
  begun.Send(ServerDesk::Request("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 300, "stream": true})"));
  EXPECT_NE(begun.Receive("data: ").find("200 OK"), std::string::npos);
  std::thread stop([&] { desk.server->Stop(30); });
  EXPECT_NE(begun.Receive().find("[DONE]"), std::string::npos);
  stop.join();
}

TEST(Server, OnlyKeysHostsAndOriginsThatAreKnownMayAsk) {
  ServerOptions options;
  options.api_keys = {"secret"};
  options.allowed_hosts = {"models.example"};
  options.cors_origin = "https://page.example";
  ServerDesk desk(std::move(options));
  desk.Serve();
  const std::string key = "Authorization: Bearer secret\r\n";
  EXPECT_EQ(desk.Ask("GET", "/v1/models").status, 401);
  EXPECT_EQ(desk.Ask("GET", "/v1/models", "", "Authorization: Bearer other\r\n").status, 401);
  EXPECT_EQ(desk.Ask("GET", "/v1/models", "", key).status, 200);
  EXPECT_EQ(desk.Ask("GET", "/metrics").status, 401);
  EXPECT_EQ(desk.Ask("GET", "/").status, 200);  // the page asks for the key itself
  EXPECT_EQ(desk.Ask("GET", "/health").status, 200);
  for (const char* host : {"localhost", "localhost:8080", "[::1]:1", "LOCALHOST", "models.example:443"})
    EXPECT_EQ(desk.Ask("GET", "/v1/models", "", key, host).status, 200) << host;
  for (const char* host : {"evil.example", "localhost.evil.example", "127.0.0.2", ""})
    EXPECT_EQ(desk.Ask("GET", "/v1/models", "", key, host).status, 403) << host;
  for (const char* origin : {"http://127.0.0.1", "https://page.example"})
    EXPECT_EQ(desk.Ask("GET", "/v1/models", "", key + "Origin: " + origin + "\r\n").status, 200) << origin;
  for (const char* origin : {"null", "https://evil.example", "http://127.0.0.1:99"})
    EXPECT_EQ(desk.Ask("GET", "/v1/models", "", key + "Origin: " + origin + "\r\n").status, 403) << origin;
  const Reply asked = desk.Ask("OPTIONS", "/v1/models", "", "Origin: https://page.example\r\n");
  EXPECT_EQ(asked.status, 204);
  EXPECT_NE(asked.head.find("Access-Control-Allow-Origin: https://page.example"), std::string::npos) << asked.head;
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", kAsk, key + "Content-Type: text/plain\r\n").status, 415);
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", kAsk, key + "Content-Type: application/json; charset=utf-8\r\n").status,
            200);
}

TEST(Server, LimitsHoldAtTheirBoundsAndNotOneBeyond) {
  ServerOptions options;
  options.http.max_body = 2000;
  ServerDesk desk(std::move(options));
  desk.Serve();
  const auto padded = [&](size_t n) { return kAsk + std::string(n - kAsk.size(), ' '); };
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", padded(2000)).status, 200);
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", padded(2001)).status, 413);
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", padded(200000)).status, 413);  // and it is told so
  const auto line = [](size_t n) { return "X-Long: " + std::string(n - 8, 'x') + "\r\n"; };
  EXPECT_EQ(desk.Ask("GET", "/health", "", line(8192)).status, 200);
  EXPECT_EQ(desk.Ask("GET", "/health", "", line(8193)).status, 431);
  EXPECT_EQ(desk.Ask("GET", "/" + std::string(2047, 'x')).status, 404);
  EXPECT_EQ(desk.Ask("GET", "/" + std::string(2048, 'x')).status, 414);
  std::string many;
  for (int i = 0; i < 98; ++i) many += "X-A: b\r\n";
  EXPECT_EQ(desk.Ask("GET", "/health", "", many).status, 200);
  EXPECT_EQ(desk.Ask("GET", "/health", "", many + "X-A: b\r\n").status, 431);
}

TEST(Server, DamagedRequestsAreRefusedAndTheNextIsAnswered) {
  ServerDesk desk;
  desk.Serve();
  struct Bad {
    std::string text;
    int status;
  };
  const std::string head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
  const std::string close = "Connection: close\r\n";
  const Bad bad[] = {
      {"nonsense\r\n\r\n", 400},
      {"GET /health\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\nHost localhost\r\n\r\n", 400},
      {"GET /health HTTP/1.1\nHost: localhost\n\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\nHost: local\x01host\r\n\r\n", 400},
      {"BREW /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
      {head + "\r\n{}", 411},
      {head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400},
      {head + "Content-Length: -2\r\n\r\n{}", 400},
      {head + "Content-Length: 2x\r\n\r\n{}", 400},
      {head + "Content-Length: 99999999999999999999999\r\n\r\n{}", 400},
      {head + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400},
      {head + "Transfer-Encoding: gzip\r\n\r\n{}", 501},
      {head + close + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400},
      {head + close + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415},
      {head + close + "Content-Length: 1\r\n\r\n{", 400},
      {head + close + "Content-Length: 2\r\n\r\n[]", 400},
      {"GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404},
      {"DELETE /v1/states/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404},
  };
  for (const Bad& each : bad) {
    SCOPED_TRACE(each.text);
    Client client(desk.server->port());
    client.Send(each.text);
    const Reply reply = ServerDesk::Parse(client.Receive());
    EXPECT_EQ(reply.status, each.status) << reply.body;
    EXPECT_TRUE(reply.json().contains("error")) << reply.body;
  }
  const std::string chunked = head + close + "Transfer-Encoding: chunked\r\n\r\n";
  Client client(desk.server->port());
  std::ostringstream size;
  size << std::hex << kAsk.size();
  client.Send(StrCat(chunked, size.str(), "\r\n", kAsk, "\r\n0\r\n\r\n"));
  EXPECT_EQ(ServerDesk::Parse(client.Receive()).status, 200);
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", kAsk).status, 200);
  EXPECT_TRUE(desk.BecomesIdle());
}

TEST(Server, AConnectionServesRequestAfterRequest) {
  ServerDesk desk;
  desk.Serve();
  Client client(desk.server->port());
  for (int i = 0; i < 20; ++i) {
    client.Send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_NE(client.Receive("\"ok\"}").find("200 OK"), std::string::npos) << i;
  }
}

TEST(Server, ConnectionsAreBounded) {
  ServerOptions options;
  options.http.max_connections = 2;
  ServerDesk desk(std::move(options));
  desk.Serve();
  Client one(desk.server->port()), two(desk.server->port());
  for (Client* each : {&one, &two}) {
    each->Send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_NE(each->Receive("\"ok\"}").find("200 OK"), std::string::npos);
  }
  EXPECT_EQ(desk.Ask("GET", "/health").status, 503);
  one.Leave();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(desk.Ask("GET", "/health").status, 200);
}

TEST(Server, SlowRequestsRunOutOfTime) {
  ServerOptions options;
  options.http.request_seconds = 0.5;
  options.http.idle_seconds = 0.5;
  ServerDesk desk(std::move(options));
  desk.Serve();
  Client silent(desk.server->port());
  EXPECT_EQ(silent.Receive(), "");  // closed without a word
  Client slow(desk.server->port());
  slow.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: 100\r\n\r\n{");
  EXPECT_EQ(ServerDesk::Parse(slow.Receive()).status, 408);
}

TEST(Server, AClientThatLeavesFreesItsSlot) {
  ServerDesk desk({}, 2);
  desk.Serve({.slots = 1});
  for (const bool stream : {true, false}) {
    const std::string body =
        StrCat(R"({"prompt": "a", "max_tokens": 1000000, "stream": )", stream ? "true" : "false", "}");
    Client client(desk.server->port());
    client.Send(ServerDesk::Request("POST", "/v1/completions", body));
    if (stream) {
      EXPECT_NE(client.Receive("data: ").find("200 OK"), std::string::npos);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    EXPECT_FALSE(desk.engine->Idle());
    client.Leave();
    EXPECT_TRUE(desk.BecomesIdle()) << stream;
  }
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", kAsk).status, 200);
}

TEST(Server, LongRepliesThatAreNoStreamsShowThatTheyLive) {
  ServerDesk desk({}, 2);
  desk.Serve();
  const Reply reply = desk.Ask("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 20000})");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.json()["usage"]["completion_tokens"], 20000);
  if (reply.head.find("chunked") != std::string::npos) {  // unless the machine is fast
    EXPECT_EQ(reply.body[0], ' ');
  }
}

TEST(Server, ARequestThatTakesTooLongEnds) {
  ServerOptions options;
  options.limits.seconds = 0.3;
  ServerDesk desk(std::move(options), 2);
  desk.Serve();
  const Reply reply = desk.Ask("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 1000000, "stream": true})");
  EXPECT_NE(reply.body.find("--timeout"), std::string::npos);
  EXPECT_EQ(reply.body.find("[DONE]"), std::string::npos);
  EXPECT_TRUE(desk.BecomesIdle());
}

TEST(Server, NotesAndMetricsHoldNoText) {
  ServerOptions options;
  std::mutex mutex;
  std::vector<Json> lines;
  options.log = [&](const Json& line) {
    const std::lock_guard lock(mutex);
    lines.push_back(line);
  };
  ServerDesk desk(std::move(options));
  desk.Serve();
  EXPECT_EQ(desk.Ask("POST", "/v1/completions", R"({"prompt": "sesame", "max_tokens": 3})").status, 200);
  const Reply metrics = desk.Ask("GET", "/metrics");
  EXPECT_NE(metrics.body.find("hydralm_requests_total{"), std::string::npos) << metrics.body;
  EXPECT_NE(metrics.body.find("hydralm_generated_tokens_total 3"), std::string::npos) << metrics.body;
  EXPECT_EQ(metrics.body.find("sesame"), std::string::npos);
  for (const char* path : {"/props", "/slots"}) EXPECT_EQ(desk.Ask("GET", path).body.find("sesame"), std::string::npos);
  const std::lock_guard lock(mutex);
  const auto asked = std::ranges::find_if(lines, [](const Json& line) { return line["path"] == "/v1/completions"; });
  ASSERT_NE(asked, lines.end());
  EXPECT_EQ((*asked)["status"], 200);
  EXPECT_EQ((*asked)["completion_tokens"], 3);
  for (const Json& line : lines) EXPECT_EQ(line.dump().find("sesame"), std::string::npos);
}

TEST(Server, ThePageRunsItsOwnScriptOnly) {
  ServerDesk desk;
  const Reply page = desk.Ask("GET", "/");
  EXPECT_EQ(page.status, 200);
  EXPECT_NE(page.head.find("Content-Security-Policy: default-src 'none'; script-src 'sha256-"), std::string::npos);
  const size_t begin = page.body.find("<script>") + 8, end = page.body.find("</script>");
  ASSERT_NE(end, std::string::npos);
  EXPECT_EQ(page.body.find("<script", begin), std::string::npos);
  EXPECT_GT(end - begin, 10000U);
  for (const char* outside : {"src=\"http", "href=\"http", "url(http", "@import"})
    EXPECT_EQ(page.body.find(outside), std::string::npos) << outside;
}

}  // namespace
}  // namespace hydra::serve
