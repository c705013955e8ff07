// SPDX-License-Identifier: Apache-2.0
// Waiting for texts on behalf of a client.
#include "hydra/serve/api_text.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/serve/text_reply.h"

namespace hydra::serve {
namespace {

constexpr double kLook = 0.1;  // seconds between two looks at whether the client is there
constexpr double kSign = 1;    // seconds without a word after which a client gets a sign of life
constexpr int kClientClosed = 499;

std::shared_ptr<Job> SubmitOrRefuse(Engine& engine, std::vector<TextRequest> texts) {
  try {
    return engine.Submit(std::move(texts));
  } catch (const JobRefused& refused) {
    const int status = refused.why() == JobRefused::Why::kQueueFull      ? kTooManyRequests
                       : refused.why() == JobRefused::Why::kEngineFailed ? kServerError
                                                                         : kUnavailable;
    throw ApiError(status, refused.what(), "", status == kTooManyRequests ? "queue_full" : "");
  }
}

ApiError TimeIsUp(const TextLimits& limits) {
  return {kUnavailable, StrCat("the request took more than ", limits.seconds, " s (--timeout)")};
}

// A call while it is answered. The job is cancelled when nobody waits for it any more.
class TextRun {
 public:
  TextRun(TextCall call, const ServedModel& served, const TextLimits& limits, HttpRequest& request, HttpClient& client)
      : call_(std::move(call)),
        limits_(limits),
        request_(request),
        client_(client),
        reply_(call_, served),
        began_(Seconds()),
        signed_(began_),
        looked_(began_) {
    if (limits_.log_prompts) request_.notes["body"] = request_.body;
    request_.body.clear();
    job_ = SubmitOrRefuse(served.engine, std::move(call_.texts));
  }
  ~TextRun() { Close(); }
  TextRun(const TextRun&) = delete;
  TextRun& operator=(const TextRun&) = delete;

  // Nobody waits any more. What is to be logged is noted before the connection logs it.
  void Close() {
    job_->Cancel();
    request_.notes.update(reply_.Notes());
    if (limits_.log_prompts) request_.notes["text"] = reply_.Words();
  }

  void Stream(HttpSink& sink) {
    if (!sink.Write(reply_.Begin())) return;
    while (reply_.open() > 0) {
      const auto piece = Next(": ping\n\n", &sink);
      if (!piece) {
        if (TooLate()) (void)sink.Write(TextReply::Failure(TimeIsUp(limits_)));
        return;
      }
      const std::string events = reply_.Chunks(*piece);
      if (!sink.Write(events) || reply_.failure() != nullptr) return;
      if (!events.empty()) signed_ = Seconds();
    }
    (void)sink.Write(reply_.End());
  }

  // Whether all texts ended before a sign of life is due.
  [[nodiscard]] bool EndsSoon() {
    while (reply_.open() > 0 && reply_.failure() == nullptr) {
      auto piece = Next("", nullptr);
      if (!piece) return false;
      reply_.Add(std::move(*piece));
    }
    return true;
  }

  // The rest of it, spaces first: JSON allows them.
  void WriteLate(HttpSink& sink) {
    while (reply_.open() > 0 && reply_.failure() == nullptr) {
      auto piece = Next(" ", &sink);
      if (!piece) {
        if (TooLate()) (void)sink.Write(ErrorReply(TimeIsUp(limits_)).body);
        return;
      }
      reply_.Add(std::move(*piece));
    }
    (void)sink.Write(reply_.failure() != nullptr ? ErrorReply(*reply_.failure()).body : JsonReply(reply_.Whole()).body);
  }

  [[nodiscard]] const TextReply& reply() const { return reply_; }

 private:
  [[nodiscard]] bool TooLate() const { return Seconds() - began_ > limits_.seconds; }

  // The next piece; nothing where the client has left, time is up, or a sign of life is due and there is no sink for
  // it.
  std::optional<TextPiece> Next(const char* sign, HttpSink* sink) {
    while (true) {
      if (Seconds() - looked_ > kLook) {  // also where pieces come without a pause
        looked_ = Seconds();
        const HttpClient::State state = client_.state();
        if (state == HttpClient::State::kGone || TooLate()) return std::nullopt;
        const bool doubt = state == HttpClient::State::kClosing && !doubted_;
        if (doubt || Seconds() - signed_ > kSign) {
          if (sink == nullptr || !sink->Write(sign)) return std::nullopt;
          signed_ = Seconds();
          doubted_ |= doubt;
        }
      }
      if (auto piece = job_->Take(kLook)) return piece;
    }
  }

  TextCall call_;
  TextLimits limits_;
  HttpRequest& request_;
  HttpClient& client_;
  TextReply reply_;
  std::shared_ptr<Job> job_;
  double began_, signed_, looked_;
  bool doubted_ = false;  // it has closed its side, and got a sign to see whether it reads
};

void AddIgnored(const std::vector<std::string>& names, HttpReply* reply) {
  if (names.empty()) return;
  std::string list;
  constexpr size_t kMost = 1000;  // bytes of the header
  for (const std::string& name : names) {
    const bool plain = std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7F && c != ','; });
    if (plain && list.size() + name.size() < kMost) list += (list.empty() ? "" : ", ") + name;
  }
  if (!list.empty()) reply->headers.emplace_back("X-Hydralm-Ignored", list);
}

}  // namespace

HttpReply AnswerText(TextCall call, const ServedModel& served, const TextLimits& limits, HttpRequest& request,
                     HttpClient& client) {
  const std::vector<std::string> ignored = call.ignored;
  const bool stream = call.stream;
  const auto run = std::make_shared<TextRun>(std::move(call), served, limits, request, client);
  HttpReply reply;
  if (stream) {
    reply.type = "text/event-stream";
    reply.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    reply.stream = [run](HttpSink& sink) {
      run->Stream(sink);
      run->Close();
    };
  } else if (run->EndsSoon()) {
    if (run->reply().failure() != nullptr) throw ApiError(*run->reply().failure());
    reply = JsonReply(run->reply().Whole());
  } else if (client.state() == HttpClient::State::kGone) {
    throw ApiError(kClientClosed, "the client has left");
  } else {
    reply.stream = [run](HttpSink& sink) {
      run->WriteLate(sink);
      run->Close();
    };
  }
  AddIgnored(ignored, &reply);
  return reply;
}

TextEnd RunQuietly(Engine& engine, TextRequest text, const TextLimits& limits, HttpClient& client) {
  std::vector<TextRequest> texts;
  texts.push_back(std::move(text));
  const auto job = SubmitOrRefuse(engine, std::move(texts));
  const double began = Seconds();
  while (true) {
    if (const auto piece = job->Take(kLook); piece && piece->end) {
      if (piece->end->error_status != 0) throw ApiError(piece->end->error_status, piece->end->error);
      return *piece->end;
    }
    if (client.state() == HttpClient::State::kGone || Seconds() - began > limits.seconds) {
      job->Cancel();
      if (Seconds() - began > limits.seconds) throw ApiError(TimeIsUp(limits));
      throw ApiError(kClientClosed, "the client has left");
    }
  }
}

}  // namespace hydra::serve
