// SPDX-License-Identifier: Apache-2.0
// Routes and rules.
#include "hydra/serve/server.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <string_view>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/serve/api_info.h"
#include "hydra/serve/api_states.h"
#include "hydra/serve/fields.h"
#include "hydra/serve/page.h"
#include "hydra/serve/text_call.h"

namespace hydra::serve {
namespace {

constexpr const char* kJson = "application/json";
constexpr std::string_view kModels = "/v1/models/", kStates = "/v1/states/";

std::string LowerCase(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// "localhost" of "localhost:8080", "[::1]" of "[::1]:8080".
std::string NameOfHost(std::string_view host) {
  const size_t colon = host.rfind(':'), bracket = host.rfind(']');
  const bool port = colon != std::string_view::npos && (bracket == std::string_view::npos || bracket < colon);
  return LowerCase(port ? host.substr(0, colon) : host);
}

bool IsLoopback(const std::string& name) { return name == "localhost" || name == "127.0.0.1" || name == "[::1]"; }

// Of another server's error for one that loads or ends: clients know it.
HttpReply Unavailable(const char* why) { return ErrorReply(ApiError(kUnavailable, why)); }

// Bytes of the process in memory.
double ResidentBytes() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/self/statm", "r"), std::fclose);
  long long pages = 0, resident = 0;
  if (file == nullptr || std::fscanf(file.get(), "%lld %lld", &pages, &resident) != 2) return 0;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

const char* ReasonFor(int status) {
  switch (status) {
    case kRequestTimeout: return "the request did not come in time";
    case kTooLarge: return "the body is too large (--max-body)";
    case kNotFound: return "there is no such path";
    default: return "this is no request that the server knows";
  }
}

}  // namespace

Server::Server(ServerOptions options, Metrics& metrics)
    : options_(std::move(options)), keys_(options_.api_keys), metrics_(metrics) {
  HttpCallbacks callbacks{
      .refuse = [this](const HttpRequest& request) { return Refuse(request); },
      .answer = [this](HttpRequest& request, HttpClient& client) { return Answer(request, client); },
      .fault =
          [](int status, const std::string& why) {
            return ErrorReply(ApiError(status, why.empty() ? ReasonFor(status) : why));
          },
      .done = [this](const HttpRequest& request, int status, double seconds) { Done(request, status, seconds); }};
  http_ = std::make_unique<HttpServer>(options_.http, std::move(callbacks));
}

Server::~Server() { Stop(0); }

void Server::Serve(const ServedModel& served) { served_.store(&served); }

void Server::Stop(double seconds) {
  stopping_.store(true);
  const double deadline = Seconds() + seconds;
  if (const ServedModel* served = served_.load()) served->engine.Stop(seconds);
  http_->Stop(std::max(deadline - Seconds(), std::min(seconds, 1.0)));
  served_.store(nullptr);  // nobody asks for it any more, and it may end before the server
}

std::string Server::url() const {
  std::string host = options_.http.host;
  if (host == "0.0.0.0" || host == "::") host = "127.0.0.1";
  if (host.find(':') != std::string::npos) host = "[" + host + "]";
  return StrCat("http://", host, ":", port(), "/");
}

const ServedModel& Server::Served() const {
  const ServedModel* served = served_.load();
  if (served == nullptr) throw ApiError(kUnavailable, "Loading model");
  return *served;
}

// ---- Before a body is read ----

bool Server::HostIsKnown(const std::string& host) const {
  const std::string name = NameOfHost(host);
  if (IsLoopback(name) || name == LowerCase(options_.http.host) || name == "[" + LowerCase(options_.http.host) + "]")
    return true;
  return std::ranges::any_of(options_.allowed_hosts, [&](const std::string& each) { return LowerCase(each) == name; });
}

// A page may ask the server that it came from, and pages of --cors-origin may.
bool Server::OriginIsKnown(const HttpRequest& request) const {
  const std::string origin = request.header("origin");
  if (origin.empty()) return true;
  if (options_.cors_origin == "*" || origin == options_.cors_origin) return true;
  const std::string host = LowerCase(request.header("host"));
  return !host.empty() && (LowerCase(origin) == "http://" + host || LowerCase(origin) == "https://" + host);
}

Server::Route Server::RouteOf(const std::string& path) {
  static constexpr std::pair<std::string_view, Route> kRoutes[] = {
      {"/", {.name = "/", .is_public = true}},
      {"/health", {.name = "/health", .is_public = true}},
      {"/v1/chat/completions", {.name = "/v1/chat/completions", .is_text = true}},
      {"/v1/completions", {.name = "/v1/completions", .is_text = true}},
      {"/v1/models", {.name = "/v1/models"}},
      {"/v1/states", {.name = "/v1/states"}},
      {"/tokenize", {.name = "/tokenize"}},
      {"/detokenize", {.name = "/detokenize"}},
      {"/tokenizer_info", {.name = "/tokenizer_info"}},
      {"/metrics", {.name = "/metrics"}},
      {"/props", {.name = "/props"}},
      {"/slots", {.name = "/slots"}}};
  for (const auto& [known, route] : kRoutes)
    if (path == known) return route;
  if (path.starts_with(kModels)) return {.name = "/v1/models/ID"};
  if (path.starts_with(kStates)) return {.name = "/v1/states/NAME"};
  return {};
}

std::optional<HttpReply> Server::Refuse(const HttpRequest& request) const {
  const auto refused = [&](const ApiError& error) { return Finished(ErrorReply(error), request); };
  if (request.path != "/health" && !HostIsKnown(request.header("host")))
    return refused(ApiError(kForbidden, "Host: the server is not called so (--allowed-host)", "", "unknown_host"));
  if (!OriginIsKnown(request))
    return refused(ApiError(kForbidden, "Origin: pages of this origin may not ask (--cors-origin)", "", "origin"));
  if (request.method == "OPTIONS") {
    if (options_.cors_origin.empty() || request.header("origin").empty())
      return refused(ApiError(kNotFound, "OPTIONS is for pages of --cors-origin"));
    HttpReply reply{.status = kNoContent};
    reply.headers = {{"Access-Control-Allow-Methods", "GET, POST, DELETE"},
                     {"Access-Control-Allow-Headers", "authorization, content-type"},
                     {"Access-Control-Max-Age", "600"}};
    return Finished(std::move(reply), request);
  }
  if (!RouteOf(request.path).is_public && !keys_.OwnerOf(request.header("authorization")))
    return refused(
        ApiError(kUnauthorized, "Authorization: needs Bearer and a key that the server knows", "", "invalid_api_key"));
  if (request.method != "POST") return std::nullopt;
  std::string type = LowerCase(request.header("content-type"));
  type = type.substr(0, type.find(';'));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  const std::string encoding = LowerCase(request.header("content-encoding"));
  if (type != kJson || (!encoding.empty() && encoding != "identity"))
    return refused(ApiError(kUnsupportedMedia, "Content-Type: must be application/json, not compressed"));
  return std::nullopt;
}

// ---- Answers ----

HttpReply Server::Finished(HttpReply reply, const HttpRequest& request) const {
  reply.headers.emplace_back("X-Content-Type-Options", "nosniff");
  const std::string origin = request.header("origin");
  if (!options_.cors_origin.empty() && !origin.empty() &&
      (options_.cors_origin == "*" || origin == options_.cors_origin)) {
    reply.headers.emplace_back("Access-Control-Allow-Origin", origin);
    reply.headers.emplace_back("Vary", "Origin");
  }
  return reply;
}

HttpReply Server::Answer(HttpRequest& request, HttpClient& client) {
  HttpReply reply;
  try {
    reply = Dispatch(request, client, keys_.OwnerOf(request.header("authorization")).value_or(""));
  } catch (const ApiError& error) {
    reply = ErrorReply(error);
  } catch (const std::bad_alloc&) {
    reply = ErrorReply(ApiError(kUnavailable, "out of memory"));
  } catch (const std::exception& error) {
    reply = ErrorReply(ApiError(kServerError, error.what()));
  }
  return Finished(std::move(reply), request);
}

HttpReply Server::Dispatch(HttpRequest& request, HttpClient& client, const std::string& owner) {
  const bool get = request.method == "GET" || request.method == "HEAD", post = request.method == "POST";
  const std::string& path = request.path;
  if (get && path == "/health") return Health();
  if (get && path == "/") return Page();
  if (get && path == "/metrics") return MetricsText();
  const Route route = RouteOf(path);
  if (stopping_.load() && route.is_text) throw ApiError(kUnavailable, "Shutting down");
  if (post && route.is_text) {
    const ServedModel& served = Served();
    const Caller caller{owner, options_.states.get()};
    TextCall call = Alone(request.body, [&] {
      const Json body = ParseBody(request.body);
      return path == "/v1/completions" ? ReadCompletionCall(body, served, caller) : ReadChatCall(body, served, caller);
    });
    return AnswerText(std::move(call), served, options_.limits, request, client);
  }
  if (path == "/v1/states" || path.starts_with(kStates)) return StatesReply(request, client, owner);
  if (get && path == "/v1/models") return JsonReply(ModelsJson(Served()));
  if (get && path.starts_with(kModels)) return JsonReply(ModelJson(Served(), path.substr(kModels.size())));
  if (get && path == "/props") return JsonReply(PropsJson(Served()));
  if (get && path == "/slots") return JsonReply(SlotsJson(Served()));
  if (post && path == "/tokenize")
    return Alone(request.body, [&] { return JsonReply(TokenizeJson(Served(), request.body)); });
  if (post && path == "/detokenize")
    return Alone(request.body, [&] { return JsonReply(DetokenizeJson(Served(), request.body)); });
  if (get && path == "/tokenizer_info") return JsonReply(TokenizerInfoJson(Served()));
  throw ApiError(kNotFound, request.method + " " + path.substr(0, 80) + ": is not served", "", "not_found");
}

HttpReply Server::StatesReply(HttpRequest& request, HttpClient& client, const std::string& owner) {
  if (!options_.states) throw ApiError(kNotFound, "this server keeps no states (--state-dir)", "", "no_states");
  StateStore& states = *options_.states;
  const std::string name = request.path.size() > kStates.size() ? request.path.substr(kStates.size()) : "";
  if (request.method == "GET" && name.empty()) return JsonReply(ListStates(states, owner));
  if (request.method == "DELETE" && !name.empty()) return JsonReply(DeleteState(states, owner, name));
  if (request.method != "POST" || !name.empty())
    throw ApiError(kNotFound, "states: GET, POST or DELETE /v1/states/NAME");
  if (stopping_.load()) throw ApiError(kUnavailable, "Shutting down");
  const ServedModel& served = Served();
  StateCall call = Alone(request.body, [&] { return ReadStateCall(request.body, served); });
  return JsonReply(MakeState(states, owner, std::move(call), served, options_.limits, request, client));
}

HttpReply Server::Health() const {
  if (stopping_.load()) return Unavailable("Shutting down");
  const ServedModel* served = served_.load();
  if (served == nullptr) return Unavailable("Loading model");
  if (const std::string why = served->engine.failure(); !why.empty())
    return ErrorReply(ApiError(kServerError, "the engine has failed: " + why, "", "engine_failed"));
  return JsonReply({{"status", "ok"}});
}

HttpReply Server::MetricsText() const {
  metrics_.Set(Metrics::Level::kResidentBytes, ResidentBytes());
  return {.type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics_.Text()};
}

HttpReply Server::Page() const {
  HttpReply reply{.type = "text/html; charset=utf-8", .body = PageText()};
  reply.headers = {{"Content-Security-Policy", PagePolicy()},
                   {"Referrer-Policy", "no-referrer"},
                   {"X-Frame-Options", "DENY"},
                   {"Cache-Control", "no-cache"}};
  return reply;
}

void Server::Done(const HttpRequest& request, int status, double seconds) {
  metrics_.CountRequest(RouteOf(request.path).name, status);
  if (!options_.log) return;
  Json line{{"method", request.method},
            {"path", request.path.substr(0, 200)},
            {"status", status},
            {"seconds", std::round(1e4 * seconds) / 1e4}};
  line.update(request.notes);
  options_.log(line);
}

}  // namespace hydra::serve
