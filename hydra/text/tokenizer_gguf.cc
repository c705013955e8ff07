// SPDX-License-Identifier: Apache-2.0
// tokenizer.ggml.* to the lists of a tokenizer.json and back. llama.cpp names a pre-tokenizer and knows its steps by
// heart; so do we, for four of them. Not here: what the steps do (pretokenizer.h).
#include "hydra/text/tokenizer_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/io/json.h"
#include "hydra/text/pretokenizer_scan.h"
#include "hydra/text/tokenizer.h"

namespace hydra {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kModel = "tokenizer.ggml.model";
constexpr const char* kPre = "tokenizer.ggml.pre";
constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kMerges = "tokenizer.ggml.merges";
constexpr const char* kAddBos = "tokenizer.ggml.add_bos_token";
constexpr const char* kAddEos = "tokenizer.ggml.add_eos_token";
constexpr const char* kChatTemplate = "tokenizer.chat_template";
constexpr const char* kWhole = "tokenizer.huggingface.json";
constexpr const char* kHydraPre = "hydra";
constexpr uint64_t kMaxJsonBytes = uint64_t{256} << 20;

// Token types.
constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}
json SplitThenBytes(std::string_view regex) {
  const json split = {
      {"type", "Split"}, {"pattern", {{"Regex", std::string(regex)}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, ByteLevel(false)}}};
}

struct PreSteps {
  const char* name;
  json pre_tokenizer, normalizer;
  bool ignore_merges, add_bos;  // add_bos: where the file does not say
};
const std::vector<PreSteps>& KnownPres() {
  static const std::vector<PreSteps> known = {
      {"gpt-2", ByteLevel(true), nullptr, false, false},
      {"llama-bpe", SplitThenBytes(kLlama3Regex), nullptr, true, true},
      {"smollm",
       {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true)}}},
       nullptr,
       false,
       false},
      {"qwen2", SplitThenBytes(kQwen2Regex), {{"type", "NFC"}}, false, false},
  };
  return known;
}

const PreSteps& StepsOf(const GgufFile& file) {
  const std::string_view pre = file.Text(kPre);
  for (const PreSteps& known : KnownPres())
    if (pre == known.name) return known;
  file.Fail(kPre, fmt::format("= \"{}\": must be gpt-2, llama-bpe, smollm, qwen2 or hydra", OneLine(pre, 60)));
}

void CheckModel(const GgufFile& file) {
  const std::string_view model = file.Text(kModel);
  if (model != "gpt2")
    file.Fail(kModel, fmt::format("= \"{}\": only gpt2 (byte-level BPE) is supported", OneLine(model, 60)));
}

std::optional<int32_t> TokenId(const GgufFile& file, const char* name, size_t n_tokens) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  const auto id = file.FindInt(key);
  if (!id) return std::nullopt;
  if (*id < 0 || *id >= static_cast<int64_t>(n_tokens))
    file.Fail(key, fmt::format("= {}: must be 0 to {}", *id, n_tokens - 1));
  return static_cast<int32_t>(*id);
}

// The texts of all tokens, each valid and there once.
TokenTable ReadTexts(const GgufFile& file, size_t n_tokens) {
  if (n_tokens < 1 || n_tokens > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    file.Fail(kTokens, fmt::format("has {} tokens: must be 1 to 2^31 - 1", n_tokens));
  const uint64_t bytes = file.Find(kTokens)->data.size() - sizeof(uint64_t) * n_tokens;
  if (bytes > std::numeric_limits<uint32_t>::max())
    file.Fail(kTokens, fmt::format("has {} bytes: must be below 4 GiB", WithCommas(bytes)));
  TextList texts;
  texts.Reserve(n_tokens, bytes);
  file.ForEachText(kTokens, [&](size_t i, std::string_view text) {
    if (ValidUtf8Prefix(text) != text.size()) file.Fail(fmt::format("{}[{}]", kTokens, i), "is not valid UTF-8");
    texts.Add(text);
  });
  TokenTable table(std::move(texts));
  if (const int32_t twice = table.twice(); twice >= 0)
    file.Fail(fmt::format("{}[{}]", kTokens, twice),
              fmt::format("= \"{}\": is given twice", OneLine(table.Text(twice), 60)));
  return table;
}

// Tokens with their types; special and user-defined ones become added tokens.
void ReadTokens(const GgufFile& file, size_t n_tokens, TokenizerFile* out) {
  const GgufEntry* listed = file.Find(kTypes);  // its length first: a value of one byte becomes eight
  if (listed != nullptr && listed->count != n_tokens)
    file.Fail(kTypes, fmt::format("has {} entries: {} has {}", listed->count, kTokens, n_tokens));
  const auto types = file.FindInts(kTypes);
  out->tokens = ReadTexts(file, n_tokens);
  out->in_model.assign(n_tokens, false);
  constexpr uint64_t kAddedBytes = 512;  // of memory for one; all together at most twice the file and 512 KiB
  const size_t most = (2 * file.file_bytes() + (1 << 19)) / kAddedBytes;
  for (size_t i = 0; i < n_tokens; ++i) {
    const int64_t type = types ? (*types)[i] : kNormal;
    if (type < kNormal || type > kByte)
      file.Fail(fmt::format("{}[{}]", kTypes, i), fmt::format("= {}: must be 1 to 6", type));
    const bool special = type == kControl || type == kUnknown;
    out->in_model[i] = !special && type != kUserDefined;
    if (out->in_model[i]) continue;
    const auto id = static_cast<int32_t>(i);
    if (out->tokens.Text(id).empty())
      file.Fail(fmt::format("{}[{}]", kTokens, i), "is empty: a special token must have a text");
    if (out->added.size() >= most) file.Fail(kTypes, "has more special tokens than a file of its size may have");
    out->added.push_back({.content = std::string(out->tokens.Text(id)), .id = id, .special = special});
  }
}

void ReadMerges(const GgufFile& file, TokenizerFile* out) {
  std::string joined;
  file.ForEachText(kMerges, [&](size_t i, std::string_view merge) {
    const auto fail = [&](std::string_view rule) {
      file.Fail(fmt::format("{}[{}]", kMerges, i), fmt::format("= \"{}\": {}", OneLine(merge, 60), rule));
    };
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

// What is put around a text, as tokenizer.json says it.
json Template(const TokenizerFile& file, const std::optional<int32_t>& before, const std::optional<int32_t>& after) {
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

// ---- Writing ----

std::string MergeText(const TokenizerFile& file, const BpeModel::Merge& merge) {
  return StrCat(file.tokens.Text(merge.left), " ", file.tokens.Text(merge.right));
}

std::string Quote(std::string_view text) { return json(std::string(text)).dump(); }

// As text, piece by piece to `write`: nlohmann's ordered objects are slow for 10^5 keys.
void WriteJson(const TokenizerFile& file, const std::function<void(std::string_view)>& write) {
  constexpr size_t kPiece = 1 << 16;
  auto added = nlohmann::ordered_json::array();
  for (const AddedToken& t : file.added)
    added.push_back({{"id", t.id},
                     {"content", t.content},
                     {"single_word", t.single_word},
                     {"lstrip", t.lstrip},
                     {"rstrip", t.rstrip},
                     {"normalized", t.normalized},
                     {"special", t.special}});
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n";
  out += fmt::format("  \"added_tokens\": {},\n", added.dump());
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"})
    out += fmt::format("  \"{}\": {},\n", key, file.steps[key].dump());
  out += fmt::format(
      "  \"model\": {{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
      "    \"byte_fallback\": false,\n    \"ignore_merges\": {},\n    \"vocab\": {{",
      file.options.ignore_merges);
  bool first = true;
  const auto flush = [&](size_t least) {
    if (out.size() < least) return;
    write(out);
    out.clear();
  };
  for (int32_t id = 0; id < file.tokens.size(); ++id) {
    if (!file.in_model[static_cast<size_t>(id)]) continue;
    out += fmt::format("{}\n      {}: {}", first ? "" : ",", Quote(file.tokens.Text(id)), id);
    first = false;
    flush(kPiece);
  }
  out += "\n    },\n    \"merges\": [";
  first = true;
  for (const BpeModel::Merge& merge : file.merges) {
    out += fmt::format("{}\n      {}", first ? "" : ",", Quote(MergeText(file, merge)));
    first = false;
    flush(kPiece);
  }
  out += "\n    ]\n  }\n}\n";
  flush(0);
}

// Removes what does not change ids, so that files of several writers compare equal.
json Essence(const json& step) {
  if (step.is_array()) {
    json out = json::array();
    for (const json& element : step) out.push_back(Essence(element));
    return out;
  }
  if (!step.is_object()) return step;
  if (step.value("type", "") == "Sequence") {
    for (const char* key : {"pretokenizers", "normalizers"})
      if (step.contains(key) && step[key].size() == 1) return Essence(step[key][0]);
  }
  json out = json::object();
  for (const auto& [key, value] : step.items())
    if (key != "trim_offsets") out[key] = Essence(value);
  if (out.value("type", "") == "ByteLevel" && !out.contains("use_regex")) out["use_regex"] = true;
  return out;
}

// The known steps that the file has; null where the keys of GGUF cannot say what it does.
const PreSteps* KnownStepsOf(const TokenizerFile& file, const Tokenizer& tokenizer) {
  for (const AddedToken& t : file.added)
    if (t.lstrip || t.rstrip || t.single_word || t.normalized) return nullptr;
  if (file.options.unk_id >= 0 || file.options.byte_fallback || file.options.fuse_unk) return nullptr;
  if (file.steps["decoder"].value("type", "") != "ByteLevel") return nullptr;
  // Around a text there may be bos and eos, once each.
  const std::vector<int32_t> around = tokenizer.Encode("", {.parse_special = true, .add_special = true});
  const bool template_only = file.steps["post_processor"].is_null() || around.size() <= 1;
  if (!template_only || (around.size() == 1 && around[0] != tokenizer.bos_id())) return nullptr;
  for (const PreSteps& known : KnownPres())
    if (Essence(file.steps["pre_tokenizer"]) == Essence(known.pre_tokenizer) &&
        Essence(file.steps["normalizer"]) == Essence(known.normalizer) &&
        file.options.ignore_merges == known.ignore_merges)
      return &known;
  return nullptr;
}

void SetTokens(const TokenizerFile& file, int64_t vocab_size, const std::string& path, GgufMetadata* metadata) {
  const size_t n = static_cast<size_t>(file.tokens.size()), padded = static_cast<size_t>(vocab_size);
  if (n > padded)
    throw Error(ErrorCode::kFormat, fmt::format("{}: has {} tokens: vocab_size = {} in config.json", path, n, padded));
  std::vector<std::string> fill;
  for (size_t i = n; i < padded; ++i) fill.push_back(fmt::format("[PAD{}]", i));
  std::vector<std::string_view> tokens;
  tokens.reserve(padded);
  for (int32_t id = 0; id < file.tokens.size(); ++id) tokens.push_back(file.tokens.Text(id));
  tokens.insert(tokens.end(), fill.begin(), fill.end());
  std::vector<int32_t> types(padded, kUnused);
  std::fill_n(types.begin(), n, kNormal);
  for (const AddedToken& t : file.added) types[static_cast<size_t>(t.id)] = t.special ? kControl : kUserDefined;
  std::vector<std::string> joined;
  joined.reserve(file.merges.size());
  for (const BpeModel::Merge& merge : file.merges) joined.push_back(MergeText(file, merge));
  metadata->SetTexts(kTokens, tokens);
  metadata->SetI32s(kTypes, types);
  metadata->SetTexts(kMerges, std::vector<std::string_view>(joined.begin(), joined.end()));
}

std::string ChatTemplateOf(const fs::path& folder) {
  const fs::path own = folder / "chat_template.jinja", config = folder / "tokenizer_config.json";
  if (fs::exists(own)) return ReadFile(own.string(), kMaxJsonBytes);
  if (!fs::exists(config)) return {};
  const auto parsed = ParseJson(MappedFile(config.string(), kMaxJsonBytes).text(), config.string());
  const bool text = parsed.is_object() && parsed.contains("chat_template") && parsed["chat_template"].is_string();
  return text ? parsed["chat_template"].get<std::string>() : std::string();
}

}  // namespace

GgufTokenizer ReadGgufTokenizer(const GgufFile& file) {
  GgufTokenizer out;
  CheckModel(file);
  size_t n_tokens = 0;
  file.ForEachText(kTokens, [&](size_t, std::string_view) { ++n_tokens; });
  out.bos = TokenId(file, "bos", n_tokens);
  out.eos = TokenId(file, "eos", n_tokens);
  out.eot = TokenId(file, "eot", n_tokens);
  if (file.Text(kPre) == kHydraPre) {
    out.json = file.Text(kWhole);
    return out;
  }
  const PreSteps& pre = StepsOf(file);
  ReadTokens(file, n_tokens, &out.file);
  ReadMerges(file, &out.file);
  out.file.options.ignore_merges = pre.ignore_merges;
  const bool add_bos = file.FindBool(kAddBos).value_or(pre.add_bos) && out.bos;
  const bool add_eos = file.FindBool(kAddEos).value_or(false) && out.eos;
  out.file.steps = {
      {"normalizer", pre.normalizer},
      {"pre_tokenizer", pre.pre_tokenizer},
      {"post_processor", Template(out.file, add_bos ? out.bos : std::nullopt, add_eos ? out.eos : std::nullopt)},
      {"decoder", ByteLevel(true)}};
  return out;
}

void SetGgufTokenizer(const std::string& path, const ModelTokens& model, GgufMetadata* metadata) {
  const bool folder = fs::is_directory(path);
  const std::string name = folder ? (fs::path(path) / "tokenizer.json").string() : path;
  const std::string text = ReadFile(name, kMaxJsonBytes);
  const TokenizerFile file = ParseTokenizerFile(text, name);
  const Tokenizer tokenizer = Tokenizer::Load(path);
  if (!tokenizer.byte_level())
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: is not byte-level: GGUF files are written with byte-level BPE only", name));
  const PreSteps* pre = KnownStepsOf(file, tokenizer);
  metadata->SetText(kModel, "gpt2");
  metadata->SetText(kPre, pre != nullptr ? pre->name : kHydraPre);
  SetTokens(file, model.vocab_size, name, metadata);
  const auto set_id = [&](const char* key, std::optional<int64_t> id) {
    if (id) metadata->SetU32(fmt::format("tokenizer.ggml.{}_token_id", key), *id);
  };
  set_id("bos", tokenizer.bos_id() ? std::optional<int64_t>(tokenizer.bos_id()) : model.bos);
  set_id("eos", !model.eos.empty() ? std::optional<int64_t>(model.eos[0]) : std::optional<int64_t>(tokenizer.eos_id()));
  if (model.eos.size() > 1) set_id("eot", model.eos[1]);
  if (model.eos.size() > 2) set_id("eom", model.eos[2]);
  set_id("padding", model.pad);
  const auto around = tokenizer.Encode("", {.parse_special = true, .add_special = true});
  metadata->SetBool(kAddBos, !around.empty() && around.front() == tokenizer.bos_id());
  if (pre == nullptr) metadata->SetText(kWhole, text);
  const std::string chat_template = folder ? ChatTemplateOf(path) : std::string();
  if (!chat_template.empty()) metadata->SetText(kChatTemplate, chat_template);
}

std::string TokenizerJson(const GgufTokenizer& tokenizer) {
  if (!tokenizer.json.empty()) return tokenizer.json;
  std::string out;
  WriteJson(tokenizer.file, [&](std::string_view piece) { out += piece; });
  return out;
}

Sha256Digest TokenizerSha256(const GgufTokenizer& tokenizer) {
  if (!tokenizer.json.empty()) return Sha256::Of(tokenizer.json);
  Sha256 sha;
  WriteJson(tokenizer.file, [&](std::string_view piece) { sha.Update(piece); });
  return sha.Finish();
}

std::string TokenizerConfigJsonOfGguf(const GgufFile& file) {
  const auto tokens = file.Texts(kTokens);
  nlohmann::ordered_json out = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                {"clean_up_tokenization_spaces", false}};
  const auto set = [&](const char* key, const char* name) {
    if (const auto id = TokenId(file, name, tokens.size())) out[key] = std::string(tokens[static_cast<size_t>(*id)]);
  };
  set("bos_token", "bos");
  set("eos_token", "eos");
  set("pad_token", "padding");
  if (const auto add = file.FindBool(kAddBos)) out["add_bos_token"] = *add;
  if (const auto text = file.FindText(kChatTemplate)) out["chat_template"] = std::string(*text);
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace hydra
