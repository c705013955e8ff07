// SPDX-License-Identifier: Apache-2.0
// Merges of SentencePiece's scores. SentencePiece itself has no merges: two neighbours may become one token where their
// texts joined are a token, so every way to cut a token in two tokens is a merge.
#include "hydra/text/tokenizer_spm.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"

namespace hydra {
namespace {

using nlohmann::json;

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

}  // namespace

BpeModel::Merges MergesFromScores(const TokenTable& tokens, std::span<const float> scores,
                                  const std::vector<bool>& mergeable, size_t most) {
  std::vector<int32_t> order(static_cast<size_t>(tokens.size()));
  std::iota(order.begin(), order.end(), 0);
  const auto score = [&](int32_t id) { return scores[static_cast<size_t>(id)]; };
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return score(a) > score(b); });
  const auto find = [&](std::string_view text) {
    const int32_t id = tokens.Find(text);
    return id >= 0 && mergeable[static_cast<size_t>(id)] ? id : -1;
  };
  BpeModel::Merges merges;
  for (const int32_t id : order) {
    const std::string_view text = tokens.Text(id);
    if (!mergeable[static_cast<size_t>(id)] || text.size() > kMaxSpmTokenBytes) continue;
    for (size_t cut = text.size(); cut-- > 1;) {
      if ((static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) continue;  // within a character
      const int32_t left = find(text.substr(0, cut));
      const int32_t right = left < 0 ? -1 : find(text.substr(cut));
      if (right < 0) continue;
      if (merges.size() >= most)
        throw Error(ErrorCode::kFormat, fmt::format("the scores make more than {} merges", most));
      merges.push_back({left, right, id});
    }
  }
  return merges;
}

std::vector<float> ScoresFromMerges(const TokenizerFile& file) {
  std::vector<float> scores(static_cast<size_t>(file.tokens.size()), 1);  // 1: none yet
  float next = 0;
  for (const BpeModel::Merge& merge : file.merges) {
    float& score = scores[static_cast<size_t>(merge.result)];
    if (score > 0) score = next--;
  }
  for (float& score : scores)
    if (score > 0) score = next--;
  return scores;
}

bool ScoresSayMerges(const TokenizerFile& file, std::span<const float> scores, const std::vector<bool>& mergeable) {
  BpeModel::Merges made;
  try {
    made = MergesFromScores(file.tokens, scores, mergeable, file.merges.size());
  } catch (const Error&) {
    return false;  // more than the file has
  }
  return std::ranges::equal(made, file.merges, [](const BpeModel::Merge& a, const BpeModel::Merge& b) {
    return a.left == b.left && a.right == b.right && a.result == b.result;
  });
}

json SpmNormalizer(bool prefix) {
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}};
  if (!prefix) return replace;
  return {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}, {"prepend", kSpace}}, replace}}};
}

json SpmDecoder(bool prefix) {
  json steps = {{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                {{"type", "ByteFallback"}},
                {{"type", "Fuse"}}};
  if (prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

json SpmPreTokenizer(bool prefix) {
  return {
      {"type", "Metaspace"}, {"replacement", kSpace}, {"prepend_scheme", prefix ? "first" : "never"}, {"split", false}};
}

json AroundText(const TokenizerFile& file, const std::optional<int32_t>& before, const std::optional<int32_t>& after) {
  if (!before && !after) return nullptr;
  json single = json::array(), tokens = json::object();
  const auto add = [&](const std::optional<int32_t>& id) {
    if (!id) return;
    const std::string text(file.tokens.Text(*id));
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    tokens[text] = {{"id", text}, {"ids", {*id}}, {"tokens", {text}}};
  };
  add(before);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(after);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", tokens}};
}

bool IsByteToken(std::string_view text) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return text.size() == 6 && text.starts_with("<0x") && is_hex(text[3]) && is_hex(text[4]) && text[5] == '>';
}

}  // namespace hydra
