// SPDX-License-Identifier: Apache-2.0
// tokenizer.ggml.* to the lists of a tokenizer.json. Not here: which steps a name stands for (pre_names.h), merges of
// scores (tokenizer_spm.h), writing the keys (tokenizer_gguf_write.cc).
#include "hydra/text/tokenizer_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/io/json.h"
#include "hydra/text/pre_names.h"
#include "hydra/text/template_text.h"
#include "hydra/text/tokenizer_gguf_keys.h"
#include "hydra/text/tokenizer_spm.h"
#include "hydra/text/tokenizer_write.h"

namespace hydra {
namespace {

using namespace gguf_keys;
using nlohmann::json;

constexpr uint64_t kMergeBytes = 32;  // a file may make one merge of scores for so many of twice its bytes + 1 MiB
constexpr size_t kMaxEmpty = 4096;    // tokens without a text

bool IsSpm(const GgufFile& file) {
  const std::string_view model = file.Text(kModel);
  if (model != "gpt2" && model != "llama")
    file.Fail(kModel,
              fmt::format("= \"{}\": must be gpt2 (byte-level BPE) or llama (SentencePiece)", OneLine(model, 60)));
  return model == "llama";
}

const PreSteps& StepsOf(const GgufFile& file, const std::string& chosen, std::vector<std::string>* warnings) {
  if (!chosen.empty()) {
    if (const PreSteps* steps = FindPre(chosen)) return *steps;
    throw Error(ErrorCode::kUsage, fmt::format("--pre {}: must be one of {}", OneLine(chosen, 60), PreNames()));
  }
  const std::string_view pre = file.FindText(kPre).value_or(kDefaultPre);
  if (file.Find(kPre) == nullptr)
    warnings->push_back(
        fmt::format("{}: {} is missing: {} is used; --pre NAME says which one the model was trained with", file.path(),
                    kPre, kDefaultPre));
  if (const PreSteps* steps = FindPre(pre)) return *steps;
  file.Fail(kPre, fmt::format("= \"{}\": is not known; --pre NAME says which one to use, of {}, hydra",
                              OneLine(pre, 60), PreNames()));
}

std::optional<int32_t> TokenId(const GgufFile& file, const char* name, size_t n_tokens) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  const auto id = file.FindInt(key);
  if (!id) return std::nullopt;
  if (*id < 0 || *id >= static_cast<int64_t>(n_tokens))
    file.Fail(key, fmt::format("= {}: must be 0 to {}", *id, n_tokens - 1));
  return static_cast<int32_t>(*id);
}

// bos, eos, unknown; SentencePiece's own ids where a file of model llama does not say.
std::optional<int32_t> EndId(const GgufFile& file, const char* name, size_t n_tokens) {
  const auto id = TokenId(file, name, n_tokens);
  if (id || !IsSpm(file)) return id;
  const std::string_view which = name;
  const int32_t own = which == "bos" ? 1 : which == "eos" ? 2 : which == "unknown" ? 0 : -1;
  return own >= 0 && static_cast<size_t>(own) < n_tokens ? std::optional(own) : std::nullopt;
}

void CheckCount(const GgufFile& file, const char* key, size_t n_tokens) {
  const GgufEntry* listed = file.Find(key);  // its length first: a value of one byte becomes eight
  if (listed != nullptr && listed->count != n_tokens)
    file.Fail(key, fmt::format("has {} entries: {} has {}", listed->count, kTokens, n_tokens));
}

std::vector<int32_t> ReadTypes(const GgufFile& file, size_t n_tokens) {
  CheckCount(file, kTypes, n_tokens);
  const auto listed = file.FindInts(kTypes);
  std::vector<int32_t> types(n_tokens, kNormal);
  for (size_t i = 0; listed && i < n_tokens; ++i) {
    const int64_t type = (*listed)[i];
    if (type < kNormal || type > kByte)
      file.Fail(fmt::format("{}[{}]", kTypes, i), fmt::format("= {}: must be 1 to 6", type));
    types[i] = static_cast<int32_t>(type);
  }
  return types;
}

// Special tokens and those that users define are found in a text before anything else.
bool IsAdded(int32_t type) { return type == kControl || type == kUnknown || type == kUserDefined; }

// The texts of all tokens, each valid and there once; an empty one is named by its id, as llama.cpp does.
TokenTable ReadTexts(const GgufFile& file, const std::vector<int32_t>& types) {
  const size_t n_tokens = types.size();
  const uint64_t bytes = file.Find(kTokens)->data.size() - sizeof(uint64_t) * n_tokens;
  if (bytes > std::numeric_limits<uint32_t>::max())
    file.Fail(kTokens, fmt::format("has {} bytes: must be below 4 GiB", WithCommas(bytes)));
  TextList texts;
  texts.Reserve(n_tokens, bytes);
  size_t empty = 0;
  file.ForEachText(kTokens, [&](size_t i, std::string_view text) {
    const std::string field = fmt::format("{}[{}]", kTokens, i);
    if (ValidUtf8Prefix(text) != text.size()) file.Fail(field, "is not valid UTF-8");
    if (!text.empty()) return texts.Add(text);
    if (IsAdded(types[i])) file.Fail(field, "is empty: a special token must have a text");
    if (++empty > kMaxEmpty) file.Fail(field, fmt::format("is empty: at most {} tokens may be", kMaxEmpty));
    texts.Add(fmt::format("[EMPTY_{}]", i));
  });
  TokenTable table(std::move(texts));
  if (const int32_t twice = table.twice(); twice >= 0)
    file.Fail(fmt::format("{}[{}]", kTokens, twice),
              fmt::format("= \"{}\": is given twice", OneLine(table.Text(twice), 60)));
  return table;
}

// All tokens belong to the model's vocabulary, the special ones too: `tokenizers` keeps the ids of those, and numbers
// what is only added anew.
void ReadTokens(const GgufFile& file, const std::vector<int32_t>& types, TokenizerFile* out) {
  out->tokens = ReadTexts(file, types);
  out->in_model.assign(types.size(), true);
  constexpr uint64_t kAddedBytes = 512;  // of memory for one; all together at most twice the file and 512 KiB
  const size_t most = (2 * file.file_bytes() + (1 << 19)) / kAddedBytes;
  for (size_t i = 0; i < types.size(); ++i) {
    if (!IsAdded(types[i])) continue;
    if (out->added.size() >= most) file.Fail(kTypes, "has more special tokens than a file of its size may have");
    const auto id = static_cast<int32_t>(i);
    out->added.push_back({.content = std::string(out->tokens.Text(id)), .id = id, .special = types[i] != kUserDefined});
  }
}

void ReadMerges(const GgufFile& file, TokenizerFile* out) {
  std::string joined;
  file.ForEachText(kMerges, [&](size_t i, std::string_view merge) {
    const auto fail = [&](std::string_view rule) {
      file.Fail(fmt::format("{}[{}]", kMerges, i), fmt::format("= \"{}\": {}", OneLine(merge, 60), rule));
    };
    if (merge.starts_with("#version:")) return;  // the comment of a merges file
    const size_t space = merge.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == merge.size() ||
        merge.find(' ', space + 1) != std::string_view::npos)
      fail("must be two tokens, \"A B\"");
    joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
    const int32_t left = out->tokens.Find(merge.substr(0, space)), right = out->tokens.Find(merge.substr(space + 1)),
                  both = out->tokens.Find(joined);
    if (left < 0 || right < 0 || both < 0) fail("names a token that is not in the vocabulary");
    out->merges.push_back({left, right, both});
  });
}

// Model gpt2: merges and the steps of the named pre-tokenizer. Returns whether bos comes first by default.
bool ReadByteLevel(const GgufFile& file, const std::string& chosen, TokenizerFile* out) {
  const PreSteps& pre = StepsOf(file, chosen, &out->warnings);
  ReadMerges(file, out);
  out->options.ignore_merges = pre.ignore_merges;
  out->steps["normalizer"] = pre.normalizer;
  out->steps["pre_tokenizer"] = pre.pre_tokenizer;
  out->steps["decoder"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return pre.add_bos;
}

// Model llama: merges by scores, bytes for unknown characters.
void ReadSpm(const GgufFile& file, const std::vector<int32_t>& types, TokenizerFile* out) {
  CheckCount(file, kScores, types.size());
  const auto scores = file.FindFloats(kScores);
  if (!scores) file.Fail(kScores, "is missing: tokens of model llama are merged by their scores");
  std::vector<bool> mergeable(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (!std::isfinite((*scores)[i])) file.Fail(fmt::format("{}[{}]", kScores, i), "must be a finite number");
    const std::string_view text = out->tokens.Text(static_cast<int32_t>(i));
    const bool byte = types[i] == kByte || IsByteToken(text);
    mergeable[i] = !byte && (types[i] == kNormal || types[i] == kUnused);
    out->options.byte_fallback |= byte;
    if (types[i] == kNormal && text.size() > kMaxSpmTokenBytes)
      file.Fail(fmt::format("{}[{}]", kTokens, i),
                fmt::format("has {} bytes: must be at most {}", text.size(), kMaxSpmTokenBytes));
  }
  const size_t most = (2 * file.file_bytes() + (1 << 20)) / kMergeBytes;
  try {
    out->merges = MergesFromScores(out->tokens, *scores, mergeable, most);
  } catch (const Error& e) {
    file.Fail(kScores, e.what());
  }
  out->options.fuse_unk = true;
  out->options.unk_id = EndId(file, "unknown", types.size()).value_or(-1);
  const bool prefix = file.FindBool(kAddPrefix).value_or(true);
  out->steps["normalizer"] = SpmNormalizer(prefix);
  out->steps["pre_tokenizer"] = nullptr;
  out->steps["decoder"] = SpmDecoder(prefix);
}

size_t CountTokens(const GgufFile& file) {
  size_t n = 0;
  file.ForEachText(kTokens, [&](size_t, std::string_view) { ++n; });
  if (n < 1 || n > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    file.Fail(kTokens, fmt::format("has {} tokens: must be 1 to 2^31 - 1", n));
  return n;
}

}  // namespace

GgufTokenizer ReadGgufTokenizer(const GgufFile& file, const std::string& pre) {
  GgufTokenizer out;
  const bool spm = IsSpm(file);
  if (spm && !pre.empty())
    throw Error(ErrorCode::kUsage, fmt::format("--pre {}: {} = \"llama\" in {}: it has no pre-tokenizer",
                                               OneLine(pre, 60), kModel, file.path()));
  const size_t n_tokens = CountTokens(file);
  out.bos = EndId(file, "bos", n_tokens);
  out.eos = EndId(file, "eos", n_tokens);
  out.eot = TokenId(file, "eot", n_tokens);
  if (pre.empty() && file.FindText(kPre) == kHydraPre) {
    out.json = file.Text(kWhole);
    return out;
  }
  const std::vector<int32_t> types = ReadTypes(file, n_tokens);
  ReadTokens(file, types, &out.file);
  bool bos_first = true;
  if (spm) {
    ReadSpm(file, types, &out.file);
  } else {
    bos_first = ReadByteLevel(file, pre, &out.file);
  }
  const bool add_bos = file.FindBool(kAddBos).value_or(bos_first) && out.bos;
  const bool add_eos = file.FindBool(kAddEos).value_or(false) && out.eos;
  out.file.steps["post_processor"] =
      AroundText(out.file, add_bos ? out.bos : std::nullopt, add_eos ? out.eos : std::nullopt);
  return out;
}

std::string TokenizerJson(const GgufTokenizer& tokenizer) {
  return tokenizer.json.empty() ? TokenizerJsonText(tokenizer.file) : tokenizer.json;
}

std::string TokenizerConfigJsonOfGguf(const GgufFile& file) {
  const auto tokens = file.Texts(kTokens);
  nlohmann::ordered_json out = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                {"clean_up_tokenization_spaces", false}};
  const std::vector<int32_t> types = ReadTypes(file, tokens.size());
  const auto set = [&](const char* key, const std::optional<int32_t>& id) {
    if (id) out[key] = std::string(tokens[static_cast<size_t>(*id)]);
  };
  // A name makes a token special. Many files pad with a plain piece of text, such as token 0: it must stay one.
  const auto set_special = [&](const char* key, const std::optional<int32_t>& id) {
    if (id && IsAdded(types[static_cast<size_t>(*id)])) set(key, id);
  };
  set("bos_token", EndId(file, "bos", tokens.size()));
  set("eos_token", EndId(file, "eos", tokens.size()));
  set_special("unk_token", TokenId(file, "unknown", tokens.size()));
  set_special("pad_token", TokenId(file, "padding", tokens.size()));
  if (const auto add = file.FindBool(kAddBos)) out["add_bos_token"] = *add;
  if (const auto add = file.FindBool(kAddEos)) out["add_eos_token"] = *add;
  const TemplateTexts templates = ReadTemplateTexts(file);
  if (!templates.chosen.empty()) out["hydralm_chat_template"] = templates.chosen;
  if (!templates.text.empty()) out["chat_template"] = templates.text;
  if (!templates.others.empty()) {
    auto list = nlohmann::ordered_json::array();
    if (!templates.text.empty()) list.push_back({{"name", "default"}, {"template", templates.text}});
    for (const auto& [name, text] : templates.others) list.push_back({{"name", name}, {"template", text}});
    out["chat_template"] = list;
  }
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace hydra
