// SPDX-License-Identifier: Apache-2.0
// The JSON of replies and chunks.
#include "hydra/serve/text_reply.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <iterator>
#include <random>
#include <string_view>
#include <utility>

#include "hydra/base/utf8.h"

namespace hydra::serve {
namespace {

constexpr double kLeastLogprob = -9999;  // what OpenAI says of tokens that cannot come

std::string NewId(const char* prefix) {
  std::random_device random;
  std::string id = prefix;
  constexpr int kDigits = 24;
  for (int i = 0; i < kDigits; ++i) id += "0123456789abcdefghijklmnopqrstuvwxyz"[random() % 36];
  return id;
}

Json Number(double logprob) { return std::isnan(logprob) ? Json(nullptr) : Json(std::max(logprob, kLeastLogprob)); }

int64_t Characters(std::string_view bytes) {
  return std::ranges::count_if(bytes, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string Event(const Json& json) {
  return "data: " + json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n\n";
}

}  // namespace

TextReply::TextReply(const TextCall& call, const ServedModel& served)
    : call_(call),
      served_(served),
      id_(NewId(call.chat ? "chatcmpl-" : "cmpl-")),
      created_(static_cast<int64_t>(std::time(nullptr))),
      texts_(call.texts.size()),
      open_(static_cast<int>(call.texts.size())) {
  if (call.trace)
    for (const TextRequest& text : call.texts) prompts_.push_back(text.prompt);
}

Json TextReply::Head(const char* object) const {
  return {{"id", id_},
          {"object", object},
          {"created", created_},
          {"model", served_.name},
          {"system_fingerprint", served_.name}};
}

const char* TextReply::FinishOf(const Text& text) {
  switch (text.end.reason) {
    case FinishReason::kLength:
    case FinishReason::kContext: return "length";
    case FinishReason::kEnd:
    case FinishReason::kStop:
    case FinishReason::kComplete:
    case FinishReason::kCancelled: break;
  }
  return text.calls.empty() ? "stop" : "tool_calls";
}

// ---- Tokens ----

std::string TextReply::Name(int32_t id) const {
  if (id >= served_.tokenizer.vocab_size()) return "";
  const std::string_view bytes = served_.tokenizer.TokenBytes(id);
  if (ValidUtf8Prefix(bytes) == bytes.size()) return std::string(bytes);
  std::string name = "bytes:";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    name += "\\x";
    for (const int digit : {byte >> 4, byte & 15}) name += "0123456789abcdef"[digit];
  }
  return name;
}

Json TextReply::ChatLogprobs(const std::vector<PickedToken>& tokens) const {
  const auto one = [this](int32_t id, double logprob) {
    Json bytes = Json::array();
    if (id < served_.tokenizer.vocab_size())
      for (const char c : served_.tokenizer.TokenBytes(id)) bytes.push_back(static_cast<unsigned char>(c));
    return Json{{"token", Name(id)}, {"logprob", Number(logprob)}, {"bytes", std::move(bytes)}};
  };
  Json content = Json::array();
  for (const PickedToken& token : tokens) {
    Json entry = one(token.id, token.logprob);
    Json best = Json::array();
    for (const TokenLogprob& other : token.best) best.push_back(one(other.id, other.logprob));
    entry["top_logprobs"] = std::move(best);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json TextReply::OldLogprobs(const std::vector<PickedToken>& tokens, int64_t* said) const {
  Json names = Json::array(), logprobs = Json::array(), best = Json::array(), offsets = Json::array();
  for (const PickedToken& token : tokens) {
    names.push_back(Name(token.id));
    logprobs.push_back(Number(token.logprob));
    Json others = Json::object();
    for (const TokenLogprob& other : token.best) others.emplace(Name(other.id), Number(other.logprob));
    others.emplace(Name(token.id), Number(token.logprob));  // of names that tokens share, the most probable one counts
    best.push_back(std::isnan(token.logprob) ? Json(nullptr) : std::move(others));
    offsets.push_back(*said);
    if (token.id < served_.tokenizer.vocab_size()) *said += Characters(served_.tokenizer.TokenBytes(token.id));
  }
  return {{"tokens", std::move(names)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(best)},
          {"text_offset", std::move(offsets)}};
}

Json TextReply::Own(const std::vector<PickedToken>& tokens, const std::vector<XrayToken>& traces) const {
  Json said = Json::array(), did = Json::array();
  for (const PickedToken& token : tokens)
    if (!token.in_prompt)
      said.push_back(
          {{"id", token.id}, {"position", token.position}, {"text", Name(token.id)}, {"guessed", token.guessed}});
  for (const XrayToken& trace : traces) did.push_back(XrayJson(trace));
  return {{"tokens", std::move(said)}, {"trace", std::move(did)}};
}

Json TextReply::PromptTokens(size_t text) const {
  Json names = Json::array();
  for (const int32_t id : prompts_[text]) names.push_back(Name(id));
  return names;
}

CallReader::Part TextReply::Read(const TextPiece& piece) {
  Text& text = texts_[static_cast<size_t>(piece.text)];
  text.raw += piece.words;
  CallReader::Part part{.words = piece.words, .calls = {}};
  if (call_.calls) {
    part = text.reader.Feed(piece.words);
    if (piece.end) part.words += text.reader.Finish().words;
  }
  text.words += part.words;
  for (const ToolCall& call : part.calls) text.calls.push_back(call);
  return part;
}

Json TextReply::CallJson(const ToolCall& call, size_t index, bool in_stream) {
  Json json = Json::object();
  if (in_stream) json["index"] = index;
  json["id"] = NewId("call_");
  json["type"] = "function";
  json["function"] = {{"name", call.name}, {"arguments", call.arguments}};
  return json;
}

// ---- Numbers ----

void TextReply::Note(const TextPiece& piece) {
  if (!piece.end) return;
  --open_;
  texts_[static_cast<size_t>(piece.text)].end = *piece.end;
  if (piece.end->error_status != 0 && !failure_) failure_.emplace(piece.end->error_status, piece.end->error);
}

Json TextReply::Usage() const {
  int64_t prompt = 0, cached = 0, written = 0, guessed = 0, accepted = 0;
  for (size_t i = 0; i < texts_.size(); ++i) {
    const TextEnd& end = texts_[i].end;
    if (i % static_cast<size_t>(call_.choices) == 0) prompt += end.prompt_tokens, cached += end.cached_tokens;
    written += end.new_tokens;
    guessed += end.guessed;
    accepted += end.accepted;
  }
  Json usage{{"prompt_tokens", prompt},
             {"completion_tokens", written},
             {"total_tokens", prompt + written},
             {"prompt_tokens_details", {{"cached_tokens", cached}}}};
  if (guessed > 0)
    usage["completion_tokens_details"] = {{"accepted_prediction_tokens", accepted},
                                          {"rejected_prediction_tokens", guessed - accepted}};
  return usage;
}

Json TextReply::Timings() const {
  const TextEnd& end = texts_[0].end;
  const auto milli = [](double seconds) { return std::round(1e6 * seconds) / 1e3; };
  return {{"seed", call_.seed},
          {"queue_ms", milli(end.queue_seconds)},
          {"prompt_ms", milli(end.prompt_seconds)},
          {"write_ms", milli(end.write_seconds)}};
}

Json TextReply::Notes() const {
  Json notes = Usage();
  notes["texts"] = texts_.size();
  notes["finish_reason"] = failure_ ? "error" : open_ > 0 ? "cancelled" : FinishOf(texts_[0]);
  notes.update(Timings());
  return notes;
}

std::string TextReply::Words() const {
  std::string all;
  for (const Text& text : texts_) all += text.raw;
  return all;
}

// ---- A stream ----

std::string TextReply::Begin() const {
  std::string events;
  for (size_t i = 0; i < texts_.size(); ++i) {
    if (!call_.chat && !call_.echo && !call_.trace) continue;
    Json chunk = Head(call_.chat ? "chat.completion.chunk" : "text_completion");
    Json choice = Json::object();
    choice["index"] = i;
    if (call_.chat)
      choice["delta"] = {{"role", "assistant"}, {"content", ""}};
    else
      choice["text"] = call_.echo ? call_.echoed[i / static_cast<size_t>(call_.choices)] : "";
    choice["logprobs"] = nullptr;
    choice["finish_reason"] = nullptr;
    chunk["choices"] = Json::array({std::move(choice)});
    if (call_.include_usage) chunk["usage"] = nullptr;
    if (call_.trace) chunk["hydralm"] = {{"prompt", PromptTokens(i)}};
    events += Event(chunk);
  }
  return events;
}

std::string TextReply::Chunks(const TextPiece& piece) {
  Note(piece);
  Text& text = texts_[static_cast<size_t>(piece.text)];
  const size_t calls_before = text.calls.size();
  const CallReader::Part part = Read(piece);
  if (failure_) return Failure(*failure_);
  std::string events;
  // delta: what chats have in the place of words. full: with the piece's tokens and traces.
  const auto send = [&](const std::string& words, Json delta, bool full, const char* finish) {
    Json chunk = Head(call_.chat ? "chat.completion.chunk" : "text_completion");
    Json choice = Json::object();
    choice["index"] = piece.text;
    if (call_.chat)
      choice["delta"] = std::move(delta);
    else
      choice["text"] = words;
    choice["logprobs"] = nullptr;
    if (full && call_.logprobs >= 0 && !piece.tokens.empty())
      choice["logprobs"] = call_.chat ? ChatLogprobs(piece.tokens) : OldLogprobs(piece.tokens, &text.said);
    choice["finish_reason"] = finish == nullptr ? Json(nullptr) : Json(finish);
    chunk["choices"] = Json::array({std::move(choice)});
    if (call_.include_usage) chunk["usage"] = nullptr;
    if (full && call_.trace) chunk["hydralm"] = Own(piece.tokens, piece.traces);
    events += Event(chunk);
  };
  const bool says = !part.words.empty() || (call_.logprobs >= 0 && !piece.tokens.empty()) ||
                    (call_.trace && (!piece.tokens.empty() || !piece.traces.empty()));
  if (says) send(part.words, Json::object({{"content", part.words}}), true, nullptr);
  for (size_t i = 0; i < part.calls.size(); ++i) {
    Json delta = Json::object();
    delta["tool_calls"] = Json::array({CallJson(part.calls[i], calls_before + i, true)});
    send("", std::move(delta), false, nullptr);
  }
  if (piece.end) send("", Json::object(), false, FinishOf(text));
  return events;
}

std::string TextReply::End() const {
  std::string events;
  if (call_.include_usage) {
    Json chunk = Head(call_.chat ? "chat.completion.chunk" : "text_completion");
    chunk["choices"] = Json::array();
    chunk["usage"] = Usage();
    chunk["hydralm"] = Timings();
    events = Event(chunk);
  }
  return events + "data: [DONE]\n\n";
}

std::string TextReply::Failure(const ApiError& error) { return Event(ErrorJson(error)); }

// ---- One object ----

void TextReply::Add(TextPiece piece) {
  Note(piece);
  (void)Read(piece);
  Text& text = texts_[static_cast<size_t>(piece.text)];
  std::ranges::move(piece.tokens, std::back_inserter(text.tokens));
  std::ranges::move(piece.traces, std::back_inserter(text.traces));
}

Json TextReply::MessageJson(const Text& text) {
  Json message = {{"role", "assistant"}, {"content", text.words}, {"refusal", nullptr}};
  if (text.calls.empty()) return message;
  if (text.words.empty()) message["content"] = nullptr;
  for (const ToolCall& call : text.calls) message["tool_calls"].push_back(CallJson(call, 0, false));
  return message;
}

Json TextReply::Whole() const {
  Json reply = Head(call_.chat ? "chat.completion" : "text_completion");
  Json choices = Json::array();
  for (size_t i = 0; i < texts_.size(); ++i) {
    const Text& text = texts_[i];
    Json choice = Json::object();
    choice["index"] = i;
    if (call_.chat)
      choice["message"] = MessageJson(text);
    else
      choice["text"] = (call_.echo ? call_.echoed[i / static_cast<size_t>(call_.choices)] : "") + text.words;
    int64_t said = 0;
    choice["logprobs"] = nullptr;
    if (call_.logprobs >= 0)
      choice["logprobs"] = call_.chat ? ChatLogprobs(text.tokens) : OldLogprobs(text.tokens, &said);
    choice["finish_reason"] = FinishOf(text);
    if (call_.trace) choice["hydralm"] = Own(text.tokens, text.traces);
    choices.push_back(std::move(choice));
  }
  reply["choices"] = std::move(choices);
  reply["usage"] = Usage();
  reply["hydralm"] = Timings();
  if (call_.trace) {
    Json prompts = Json::array();
    for (size_t i = 0; i < prompts_.size(); ++i) prompts.push_back(PromptTokens(i));
    reply["hydralm"]["prompts"] = std::move(prompts);
  }
  return reply;
}

}  // namespace hydra::serve
