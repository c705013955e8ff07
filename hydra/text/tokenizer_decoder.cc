// SPDX-License-Identifier: Apache-2.0
// The decoder steps of tokenizer.json. Not here: splitting text (pretokenizer.cc).
#include "hydra/text/tokenizer_decoder.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {

using nlohmann::json;
using tokenizer_json::Refuse;
using tokenizer_json::StepType;
using tokenizer_json::String;

namespace {

// The byte of "<0x41>", or -1.
int FallbackByte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

void AppendTokenBytes(std::string_view token, std::string& out) {
  std::string bytes;
  out.append(FromByteLevel(token, bytes) ? std::string_view(bytes) : token);  // a token outside the alphabet is text
}

size_t Count(const json& value, const char* key, const std::string& where) {
  const auto found = value.find(key);
  if (found == value.end() || !found->is_number_integer() || found->get<int64_t>() < 0) {
    Refuse(fmt::format("{}.{}", where, key), "must be a whole number >= 0");
  }
  return static_cast<size_t>(found->get<int64_t>());
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t at = 0;
  for (size_t hit = text.find(from); hit != std::string_view::npos; hit = text.find(from, at)) {
    out.append(text.substr(at, hit - at)).append(to);
    at = hit + from.size();
  }
  return out.append(text.substr(at));
}

size_t Bytes(const std::vector<std::string>& tokens) {
  size_t bytes = 0;
  for (const std::string& token : tokens) bytes += token.size();
  return bytes;
}

}  // namespace

TokenDecoder TokenDecoder::FromJson(const json& value, const std::string& where) {
  TokenDecoder decoder;
  if (!value.is_null()) decoder.Add(value, where);
  return decoder;
}

void TokenDecoder::Add(const json& value, const std::string& where) {
  const std::string type = StepType(value, where);
  tokenizer_json::CheckStepCount(steps_.size(), where);
  if (type == "Sequence") {
    const auto elements = value.find("decoders");
    if (elements == value.end() || !elements->is_array()) Refuse(where + ".decoders", "must be an array of steps");
    for (size_t i = 0; i < elements->size(); ++i) Add((*elements)[i], fmt::format("{}.decoders[{}]", where, i));
  } else if (type == "ByteLevel") {
    steps_.emplace_back(ByteLevelStep{});
  } else if (type == "ByteFallback") {
    steps_.emplace_back(ByteFallbackStep{});
  } else if (type == "Fuse") {
    steps_.emplace_back(FuseStep{});
  } else if (type == "Replace") {
    if (!value.contains("pattern")) Refuse(where + ".pattern", "is missing");
    steps_.emplace_back(
        ReplaceStep{TextPattern::FromJson(value["pattern"], where + ".pattern"), String(value, "content", where)});
  } else if (type == "Strip") {
    const std::string content = String(value, "content", where);
    if (content.empty() || content.size() != static_cast<size_t>(Utf8Length(content[0]))) {
      Refuse(where + ".content", fmt::format("= '{}': must be one character", content));
    }
    steps_.emplace_back(
        StripStep{DecodeUtf8(content.data()).value, Count(value, "start", where), Count(value, "stop", where)});
  } else if (type == "Metaspace") {
    const std::string replacement = String(value, "replacement", where);
    if (replacement.empty()) Refuse(where + ".replacement", "must not be empty");
    const bool drop = !value.contains("prepend_scheme") || value["prepend_scheme"] != "never";
    steps_.emplace_back(MetaspaceStep{replacement, drop});
  } else {
    Refuse(where + ".type",
           fmt::format("= '{}': unknown step; supported are ByteLevel, ByteFallback, Fuse, Replace, Strip, "
                       "Metaspace, Sequence",
                       type));
  }
}

bool TokenDecoder::byte_level() const { return steps_.size() == 1 && std::holds_alternative<ByteLevelStep>(steps_[0]); }

std::string TokenDecoder::Decode(std::vector<std::string> tokens) const {
  const size_t most = tokenizer_json::MostBytes(Bytes(tokens));
  for (const auto& step : steps_) {
    std::visit(
        [&](const auto& s) {
          if constexpr (std::is_same_v<std::decay_t<decltype(s)>, ReplaceStep>) {
            Run(s, tokens, most);
          } else {
            Run(s, tokens);
          }
        },
        step);
  }
  std::string out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && steps_.empty()) out.push_back(' ');  // without a decoder, tokens are words
    out.append(tokens[i]);
  }
  return out;
}

std::string TokenDecoder::TokenBytes(std::string_view token) const {
  std::string out(token);
  for (const auto& step : steps_) {
    if (std::holds_alternative<ByteLevelStep>(step)) {
      std::string bytes;
      AppendTokenBytes(out, bytes);
      return bytes;
    }
    if (std::holds_alternative<ByteFallbackStep>(step)) {
      if (const int byte = FallbackByte(out); byte >= 0) return std::string(1, static_cast<char>(byte));
    } else if (const auto* replace = std::get_if<ReplaceStep>(&step)) {
      out = replace->pattern.Replace(out, replace->by, tokenizer_json::MostBytes(token.size()));
    } else if (const auto* metaspace = std::get_if<MetaspaceStep>(&step)) {
      out = ReplaceAll(out, metaspace->replacement, " ");
    }
  }
  return out;
}

void TokenDecoder::Run(const ByteLevelStep&, Tokens& tokens) {
  std::string bytes, buffer;
  for (const auto& token : tokens) AppendTokenBytes(token, bytes);
  tokens = {std::string(MendUtf8(bytes, buffer))};
}

// Runs of byte tokens become their text, or one U+FFFD a byte where they are no valid UTF-8.
void TokenDecoder::Run(const ByteFallbackStep&, Tokens& tokens) {
  Tokens out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (ValidUtf8Prefix(bytes) == bytes.size()) {
      out.push_back(bytes);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) out.emplace_back(kReplacementChar);
    }
    bytes.clear();
  };
  for (auto& token : tokens) {
    if (const int byte = FallbackByte(token); byte >= 0) {
      bytes.push_back(static_cast<char>(byte));
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(out);
}

void TokenDecoder::Run(const FuseStep&, Tokens& tokens) {
  std::string all;
  for (const auto& token : tokens) all += token;
  tokens = {std::move(all)};
}

void TokenDecoder::Run(const ReplaceStep& step, Tokens& tokens, size_t most) {
  size_t made = 0;
  for (auto& token : tokens) {
    token = step.pattern.Replace(token, step.by, most - made);
    made += token.size();
    tokenizer_json::CheckGrowth(made, most);
  }
}

void TokenDecoder::Run(const StripStep& step, Tokens& tokens) {
  std::string content;
  AppendUtf8(step.content, content);
  for (auto& token : tokens) {
    std::string_view left = token;
    for (size_t i = 0; i < step.start && left.starts_with(content); ++i) left.remove_prefix(content.size());
    for (size_t i = 0; i < step.stop && left.ends_with(content); ++i) left.remove_suffix(content.size());
    token = std::string(left);
  }
}

void TokenDecoder::Run(const MetaspaceStep& step, Tokens& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = ReplaceAll(tokens[i], step.replacement, i == 0 && step.drop_first ? "" : " ");
  }
}

}  // namespace hydra
