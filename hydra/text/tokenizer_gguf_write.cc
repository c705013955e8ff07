// SPDX-License-Identifier: Apache-2.0
// A model folder's tokenizer to tokenizer.ggml.*: by a pre-tokenizer's name, by scores, or carried whole.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "hydra/base/error.h"
#include "hydra/text/pre_names.h"
#include "hydra/text/template_text.h"
#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_folder.h"
#include "hydra/text/tokenizer_gguf.h"
#include "hydra/text/tokenizer_gguf_keys.h"
#include "hydra/text/tokenizer_spm.h"

namespace hydra {
namespace {

using namespace gguf_keys;
using nlohmann::json;

// Removes what does not change ids, so that files of several writers compare equal.
json Essence(const json& step) {
  if (step.is_array()) {
    json out = json::array();
    for (const json& element : step) out.push_back(Essence(element));
    return out;
  }
  if (!step.is_object()) return step;
  if (step.value("type", "") == "Sequence") {
    for (const char* key : {"pretokenizers", "normalizers", "decoders"})
      if (step.contains(key) && step[key].size() == 1) return Essence(step[key][0]);
  }
  json out = json::object();
  for (const auto& [key, value] : step.items())
    if (key != "trim_offsets") out[key] = Essence(value);
  if (out.value("type", "") == "ByteLevel" && !out.contains("use_regex")) out["use_regex"] = true;
  return out;
}

// What the keys have no words for, whatever the model: flags of added tokens, and more around a text than bos.
bool KeysSuffice(const TokenizerFile& file, const Tokenizer& tokenizer) {
  for (const AddedToken& t : file.added)
    if (t.lstrip || t.rstrip || t.single_word || t.normalized) return false;
  const std::vector<int32_t> around = tokenizer.Encode("", {.parse_special = true, .add_special = true});
  const bool template_only = file.steps["post_processor"].is_null() || around.size() <= 1;
  return template_only && (around.empty() || around[0] == tokenizer.bos_id());
}

// The known steps that a byte-level file has; null where the keys cannot say what it does.
const PreSteps* KnownStepsOf(const TokenizerFile& file, const Tokenizer& tokenizer) {
  if (!KeysSuffice(file, tokenizer)) return nullptr;
  const BpeOptions& options = file.options;
  const bool for_unknown = options.unk_id >= 0 || options.byte_fallback || options.fuse_unk;
  if (for_unknown && !HasEveryByte(file.tokens, file.in_model)) return nullptr;
  if (file.steps["decoder"].value("type", "") != "ByteLevel") return nullptr;
  for (const PreSteps& known : KnownPres())
    if (Essence(file.steps["pre_tokenizer"]) == Essence(known.pre_tokenizer) &&
        Essence(file.steps["normalizer"]) == Essence(known.normalizer) &&
        file.options.ignore_merges == known.ignore_merges)
      return &known;
  return nullptr;
}

std::vector<int32_t> TypesOf(const TokenizerFile& file, size_t padded, bool spm) {
  std::vector<int32_t> types(padded, kUnused);
  std::fill_n(types.begin(), file.tokens.size(), kNormal);
  if (spm && file.options.byte_fallback)
    for (int32_t id = 0; id < file.tokens.size(); ++id)
      if (IsByteToken(file.tokens.Text(id))) types[static_cast<size_t>(id)] = kByte;
  for (const AddedToken& t : file.added) types[static_cast<size_t>(t.id)] = t.special ? kControl : kUserDefined;
  if (spm && file.options.unk_id >= 0) types[static_cast<size_t>(file.options.unk_id)] = kUnknown;
  return types;
}

// Whether model, types and scores say all that the file says.
bool SpmKeysSuffice(const TokenizerFile& file, const Tokenizer& tokenizer, const std::vector<int32_t>& types,
                    const std::vector<float>& scores, bool prefix) {
  const BpeOptions& options = file.options;
  if (!KeysSuffice(file, tokenizer) || !options.byte_fallback || options.ignore_merges || !options.fuse_unk)
    return false;
  const bool steps = file.steps["pre_tokenizer"].is_null() &&
                     Essence(file.steps["normalizer"]) == Essence(SpmNormalizer(prefix)) &&
                     Essence(file.steps["decoder"]) == Essence(SpmDecoder(prefix));
  if (!steps) return false;
  const auto special = [&](int32_t id) {
    return std::ranges::any_of(file.added, [&](const AddedToken& t) { return t.id == id && t.special; });
  };
  if (options.unk_id < 0 || !special(options.unk_id)) return false;
  std::vector<bool> mergeable(static_cast<size_t>(file.tokens.size()));
  for (size_t i = 0; i < mergeable.size(); ++i) {
    const std::string_view text = file.tokens.Text(static_cast<int32_t>(i));
    mergeable[i] = types[i] == kNormal;
    if (types[i] == kNormal && (text.size() > kMaxSpmTokenBytes || text.empty())) return false;
  }
  return ScoresSayMerges(file, scores, mergeable);
}

void SetTokens(const TokenizerFile& file, const std::vector<int32_t>& types, GgufMetadata* metadata) {
  std::vector<std::string> fill;
  for (size_t i = static_cast<size_t>(file.tokens.size()); i < types.size(); ++i)
    fill.push_back(fmt::format("[PAD{}]", i));
  std::vector<std::string_view> tokens;
  tokens.reserve(types.size());
  for (int32_t id = 0; id < file.tokens.size(); ++id) tokens.push_back(file.tokens.Text(id));
  tokens.insert(tokens.end(), fill.begin(), fill.end());
  metadata->SetTexts(kTokens, tokens);
  metadata->SetI32s(kTypes, types);
}

// Model gpt2. Returns whether the keys say all.
bool SetByteLevel(const TokenizerFile& file, const Tokenizer& tokenizer, size_t padded, GgufMetadata* metadata) {
  const PreSteps* pre = KnownStepsOf(file, tokenizer);
  metadata->SetText(kModel, "gpt2");
  metadata->SetText(kPre, pre != nullptr ? pre->names.front() : kHydraPre);
  SetTokens(file, TypesOf(file, padded, false), metadata);
  std::vector<std::string> joined;
  joined.reserve(file.merges.size());
  for (const BpeModel::Merge& merge : file.merges)
    joined.push_back(StrCat(file.tokens.Text(merge.left), " ", file.tokens.Text(merge.right)));
  metadata->SetTexts(kMerges, std::vector<std::string_view>(joined.begin(), joined.end()));
  return pre != nullptr;
}

// Model llama. Returns whether the keys say all; where they do not, they are what other programs make do with.
bool SetSpm(const FolderTokenizer& read, const Tokenizer& tokenizer, size_t padded, GgufMetadata* metadata) {
  const TokenizerFile& file = read.file;
  const std::vector<int32_t> types = TypesOf(file, padded, true);
  const bool known = !read.scores.empty();  // tokenizer.model has them
  std::vector<float> scores = known ? read.scores : ScoresFromMerges(file);
  scores.resize(static_cast<size_t>(file.tokens.size()));
  // A text of one space has the prefix before it, or not.
  const bool prefix = Essence(file.steps["normalizer"]) != Essence(SpmNormalizer(false));
  const bool whole = SpmKeysSuffice(file, tokenizer, types, scores, prefix);
  constexpr float kNeverMerged = -10000;
  scores.resize(padded, kNeverMerged);
  for (size_t i = 0; i < padded && !known; ++i)
    if (types[i] == kControl || types[i] == kUnknown || types[i] == kByte) scores[i] = 0;
  metadata->SetText(kModel, "llama");
  metadata->SetText(kPre, whole ? kDefaultPre : kHydraPre);
  SetTokens(file, types, metadata);
  metadata->SetF32s(kScores, scores);
  metadata->SetBool(kAddPrefix, prefix);
  if (file.options.unk_id >= 0) metadata->SetU32("tokenizer.ggml.unknown_token_id", file.options.unk_id);
  return whole;
}

void SetIds(const Tokenizer& tokenizer, const ModelTokens& model, GgufMetadata* metadata) {
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
}

void SetTemplates(const std::string& folder, GgufMetadata* metadata) {
  const TemplateTexts templates = ReadTemplateTexts(folder);
  if (!templates.chosen.empty()) metadata->SetText(kChosenTemplate, templates.chosen);
  if (!templates.text.empty()) metadata->SetText(kTemplate, templates.text);
  std::vector<std::string_view> names;
  for (const auto& [name, text] : templates.others) {
    if (name.empty()) continue;
    metadata->SetText(fmt::format("{}.{}", kTemplate, name), text);
    names.push_back(name);
  }
  if (!names.empty()) metadata->SetTexts(kTemplateNames, names);
}

}  // namespace

void SetGgufTokenizer(const std::string& path, const ModelTokens& model, GgufMetadata* metadata) {
  const FolderTokenizer read = ReadFolderTokenizer(path);
  const Tokenizer tokenizer = Tokenizer::Load(path);
  const auto padded = static_cast<size_t>(model.vocab_size);
  if (static_cast<size_t>(read.file.tokens.size()) > padded)
    throw Error(ErrorCode::kFormat, fmt::format("{}: has {} tokens: vocab_size = {} in config.json", read.name,
                                                read.file.tokens.size(), padded));
  if (!tokenizer.byte_level() && !read.file.options.byte_fallback)
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: is not byte-level and has no byte fallback: GGUF files are written "
                            "with byte-level BPE or SentencePiece's BPE only",
                            read.name));
  const bool keys_say_all = tokenizer.byte_level() ? SetByteLevel(read.file, tokenizer, padded, metadata)
                                                   : SetSpm(read, tokenizer, padded, metadata);
  if (!keys_say_all) metadata->SetText(kWhole, WholeTokenizerJson(path));
  SetIds(tokenizer, model, metadata);
  if (std::filesystem::is_directory(path)) SetTemplates(path, metadata);
}

}  // namespace hydra
