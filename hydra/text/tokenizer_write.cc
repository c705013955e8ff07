// SPDX-License-Identifier: Apache-2.0
// The writer of tokenizer.json. As text, piece by piece: nlohmann's ordered objects are slow for 10^5 keys.
#include "hydra/text/tokenizer_write.h"

#include <fmt/format.h>

#include <algorithm>

namespace hydra {
namespace {

using nlohmann::json;

std::string QuotedText(std::string_view text) { return json(std::string(text)).dump(); }

std::string AddedTokensText(const TokenizerFile& file) {
  auto added = nlohmann::ordered_json::array();
  for (const AddedToken& t : file.added)
    added.push_back({{"id", t.id},
                     {"content", t.content},
                     {"single_word", t.single_word},
                     {"lstrip", t.lstrip},
                     {"rstrip", t.rstrip},
                     {"normalized", t.normalized},
                     {"special", t.special}});
  return added.dump();
}

// "a b" says a merge to every version of `tokenizers`; where a token has a space, or would make a merge look like the
// "#version" comment of a merges file, only ["a", "b"] does.
bool NeedsPairs(const TokenizerFile& file) {
  return std::ranges::any_of(file.merges, [&](const BpeModel::Merge& merge) {
    const std::string_view left = file.tokens.Text(merge.left), right = file.tokens.Text(merge.right);
    return left.find(' ') != std::string_view::npos || right.find(' ') != std::string_view::npos ||
           left.starts_with("#version");
  });
}

}  // namespace

void WriteTokenizerJson(const TokenizerFile& file, const std::function<void(std::string_view)>& write) {
  constexpr size_t kPiece = 1 << 16;
  const BpeOptions& options = file.options;
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n";
  out += fmt::format("  \"added_tokens\": {},\n", AddedTokensText(file));
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"})
    out += fmt::format("  \"{}\": {},\n", key, file.steps[key].dump());
  out += fmt::format(
      "  \"model\": {{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": {},\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": {},\n"
      "    \"byte_fallback\": {},\n    \"ignore_merges\": {},\n    \"vocab\": {{",
      options.unk_id < 0 ? "null" : QuotedText(file.tokens.Text(options.unk_id)), options.fuse_unk,
      options.byte_fallback, options.ignore_merges);
  bool first = true;
  const auto flush = [&](size_t least) {
    if (out.size() < least) return;
    write(out);
    out.clear();
  };
  for (int32_t id = 0; id < file.tokens.size(); ++id) {
    if (!file.in_model[static_cast<size_t>(id)]) continue;
    out += fmt::format("{}\n      {}: {}", first ? "" : ",", QuotedText(file.tokens.Text(id)), id);
    first = false;
    flush(kPiece);
  }
  out += "\n    },\n    \"merges\": [";
  first = true;
  const bool pairs = NeedsPairs(file);
  for (const BpeModel::Merge& merge : file.merges) {
    const std::string_view left = file.tokens.Text(merge.left), right = file.tokens.Text(merge.right);
    const std::string text = pairs ? fmt::format("[{}, {}]", QuotedText(left), QuotedText(right))
                                   : QuotedText(std::string(left).append(" ").append(right));
    out += fmt::format("{}\n      {}", first ? "" : ",", text);
    first = false;
    flush(kPiece);
  }
  out += "\n    ]\n  }\n}\n";
  flush(0);
}

std::string TokenizerJsonText(const TokenizerFile& file) {
  std::string out;
  WriteTokenizerJson(file, [&](std::string_view piece) { out += piece; });
  return out;
}

Sha256Digest TokenizerJsonSha256(const TokenizerFile& file) {
  Sha256 sha;
  WriteTokenizerJson(file, [&](std::string_view piece) { sha.Update(piece); });
  return sha.Finish();
}

}  // namespace hydra
