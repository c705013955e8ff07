// SPDX-License-Identifier: Apache-2.0
// Tokens of a model folder from several files. The order in which tokens are added decides their ids, so it is that of
// `transformers`: added_tokens_decoder by id, then the named ones (bos, eos, ...), then the additional ones.
#include "hydra/text/tokenizer_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <map>
#include <unordered_map>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/io/json.h"
#include "hydra/text/sentencepiece_file.h"
#include "hydra/text/tokenizer_write.h"

namespace hydra {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;
constexpr const char* kJsonName = "tokenizer.json";
constexpr const char* kPiecesName = "tokenizer.model";
constexpr std::array<const char*, 7> kNamed = {"bos_token", "eos_token", "unk_token", "sep_token",
                                               "pad_token", "cls_token", "mask_token"};
constexpr std::array<const char*, 2> kLists = {"additional_special_tokens", "extra_special_tokens"};

Json ReadObject(const fs::path& path) {
  if (!fs::exists(path)) return Json::object();
  Json json = ParseJson(MappedFile(path.string(), kMaxFileBytes).text(), path.string());
  if (!json.is_object()) throw Error(ErrorCode::kFormat, fmt::format("{}: must be an object", path.string()));
  return json;
}

class FolderReader {
 public:
  FolderReader(const fs::path& folder, FolderTokenizer* out) : folder_(folder), out_(*out), file_(out->file) {
    config_ = ReadObject(folder / "tokenizer_config.json");
    config_path_ = (folder / "tokenizer_config.json").string();
    for (size_t i = 0; i < file_.added.size(); ++i) listed_.try_emplace(file_.added[i].content, i);
  }

  void Read() {
    ReadDecoder();
    for (const char* key : kNamed) ReadNamed(key);
    for (const char* key : kLists) ReadList(key);
    AppendTexts();
  }

 private:
  [[noreturn]] void Fail(const std::string& path, const std::string& field, const std::string& rule) const {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {}: {}", path, field, rule));
  }

  // "<x>" or {"content": "<x>", ...}.
  [[nodiscard]] AddedToken TokenOf(const Json& value, bool special, const std::string& path,
                                   const std::string& field) const {
    if (value.is_string()) return {.content = value.get<std::string>(), .special = special, .normalized = !special};
    if (!value.is_object() || !value.contains("content") || !value["content"].is_string())
      Fail(path, fmt::format("{} = {}", field, JsonExcerpt(value)),
           "must be a token's text or an object with its content");
    const auto flag = [&](const char* key, bool missing) {
      if (!value.contains(key) || value[key].is_null()) return missing;
      if (!value[key].is_boolean())
        Fail(path, fmt::format("{}.{} = {}", field, key, JsonExcerpt(value[key])), "must be true or false");
      return value[key].get<bool>();
    };
    AddedToken token{.content = value["content"].get<std::string>()};
    token.special = special || flag("special", false);
    token.single_word = flag("single_word", false);
    token.lstrip = flag("lstrip", false);
    token.rstrip = flag("rstrip", false);
    token.normalized = flag("normalized", !token.special);
    return token;
  }

  // added_tokens_decoder; in folders that have none, the two older files.
  void ReadDecoder() {
    std::map<int64_t, std::pair<AddedToken, std::string>> by_id;  // and the field that names it
    std::string path = config_path_;
    if (config_.contains("added_tokens_decoder") && config_["added_tokens_decoder"].is_object()) {
      for (const auto& [key, value] : config_["added_tokens_decoder"].items()) {
        const std::string field = fmt::format("added_tokens_decoder[{}]", JsonExcerpt(Json(key)));
        int64_t id = -1;
        const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
        if (error != std::errc() || end != key.data() + key.size() || id < 0)
          Fail(path, field, "must be named by an id, a whole number from 0");
        by_id[id] = {TokenOf(value, false, path, field), field};
      }
    } else {
      ReadOlderMap();
      path = (folder_ / "added_tokens.json").string();
      const Json older = ReadObject(path);
      for (const auto& [text, value] : older.items()) {
        const std::string field = JsonExcerpt(Json(text));
        if (!value.is_number_integer() || value.get<int64_t>() < 0)
          Fail(path, fmt::format("{} = {}", field, JsonExcerpt(value)), "must be an id, a whole number from 0");
        const bool special = IsNamed(text);
        by_id[value.get<int64_t>()] = {{.content = text, .special = special, .normalized = !special}, field};
      }
    }
    for (auto& [id, entry] : by_id) {
      auto& [token, field] = entry;
      if (token.content.empty()) continue;
      const int32_t known = Find(token.content);
      const int64_t would = known >= 0 ? known : Next();
      if (id != would)
        Fail(path, fmt::format("{} = {}: {}", field, id, JsonExcerpt(Json(token.content))),
             known >= 0 ? fmt::format("{} gives this token id {}", FileName(), known)
                        : fmt::format("the next free id is {}, which the tokenizers library gives it", Next()));
      Add(std::move(token), path, field);
    }
  }

  // special_tokens_map.json counts before tokenizer_config.json.
  void ReadOlderMap() {
    const std::string path = (folder_ / "special_tokens_map.json").string();
    const Json map = ReadObject(path);
    for (const auto& [key, value] : map.items()) {
      config_[key] = value;
      path_of_[key] = path;
    }
  }

  // Whether a text is one of the named or additional tokens.
  [[nodiscard]] bool IsNamed(const std::string& text) const {
    const auto is = [&](const Json& value) {
      return value == Json(text) || (value.is_object() && value.contains("content") && value["content"] == Json(text));
    };
    const auto named = [&](const char* key) { return config_.contains(key) && is(config_[key]); };
    const auto listed = [&](const char* key) {
      return config_.contains(key) && config_[key].is_array() && std::ranges::any_of(config_[key], is);
    };
    return std::ranges::any_of(kNamed, named) || std::ranges::any_of(kLists, listed);
  }

  void ReadNamed(const char* key) {
    if (!config_.contains(key)) return;
    const bool bos = key == std::string_view("bos_token"), eos = key == std::string_view("eos_token");
    NamedToken unused;
    NamedToken& out = bos ? out_.bos : eos ? out_.eos : unused;
    out = {.said = true, .id = std::nullopt};
    const Json& value = config_[key];
    if (value.is_null()) return;
    AddedToken token = TokenOf(value, true, NamedPath(key), key);
    if (token.content.empty()) return;
    if ((bos || eos) && Find(token.content) < 0)
      Fail(NamedPath(key), fmt::format("{} = {}", key, JsonExcerpt(Json(token.content))),
           FileName() + " has no such token");
    const std::string content = token.content;
    AddUnlessListed(std::move(token), NamedPath(key), key);
    out.id = Find(content);
  }

  void ReadList(const char* key) {
    if (!config_.contains(key)) return;
    const Json& list = config_[key];
    if (list.is_null()) return;
    if (!list.is_array() && !list.is_object())
      Fail(NamedPath(key), fmt::format("{} = {}", key, JsonExcerpt(list)), "must be a list of tokens");
    for (const Json& value : list) AddUnlessListed(TokenOf(value, true, NamedPath(key), key), NamedPath(key), key);
  }

  // tokenizer.json or tokenizer.model.
  [[nodiscard]] std::string FileName() const { return fs::path(out_.name).filename().string(); }

  // The file that a key of config_ comes from.
  [[nodiscard]] const std::string& NamedPath(const char* key) const {
    const auto other = path_of_.find(key);
    return other == path_of_.end() ? config_path_ : other->second;
  }

  [[nodiscard]] int32_t Find(const std::string& text) const {
    if (const int32_t id = file_.tokens.Find(text); id >= 0) return id;
    const auto found = new_ids_.find(text);
    return found == new_ids_.end() ? -1 : found->second;
  }

  // A token that is only named, not described: one that is an added token already stays as it is.
  void AddUnlessListed(AddedToken token, const std::string& path, const std::string& field) {
    if (!listed_.contains(token.content) && !token.content.empty()) Add(std::move(token), path, field);
  }

  // As `tokenizers` adds: a known text keeps its id and gets the flags, a new one the next id.
  void Add(AddedToken token, const std::string& path, const std::string& field) {
    const int32_t known = Find(token.content);
    token.id = known >= 0 ? known : Next();
    if (known < 0 && token.id >= Rows()) {
      file_.warnings.push_back(fmt::format("{}: {} = {}: would be token {}, the model has {} tokens: it is left out",
                                           path, field, JsonExcerpt(Json(token.content)), token.id, Rows()));
      return;
    }
    if (known < 0) {
      new_.push_back(token.content);
      new_ids_[token.content] = token.id;
    }
    const auto [listed, is_new] = listed_.try_emplace(token.content, file_.added.size());
    if (is_new) {
      file_.added.push_back(std::move(token));
      out_.changed = true;
    } else {
      SetFlags(std::move(token), listed->second);
    }
  }

  // The later flags count; but a token that is special stays it, and one that was looked for in the normalized text and
  // now in the plain one, or the other way round, is looked for in both.
  void SetFlags(AddedToken token, size_t listed) {
    AddedToken& before = file_.added[listed];
    token.special |= before.special;
    if (token == before) return;
    out_.changed = true;
    const bool both = token.normalized != before.normalized;
    const bool normalized = std::exchange(before, token).normalized;
    if (!both) return;
    before.normalized = normalized;
    file_.added.push_back(std::move(token));
  }

  [[nodiscard]] int32_t Next() const { return file_.tokens.size() + static_cast<int32_t>(new_.size()); }

  // Rows of the model's embedding; without a config.json as many as one likes.
  [[nodiscard]] int64_t Rows() {
    if (!rows_) {
      const Json config = ReadObject(folder_ / "config.json");
      const bool said = config.contains("vocab_size") && config["vocab_size"].is_number_integer();
      rows_ = said ? config["vocab_size"].get<int64_t>() : INT64_MAX;
    }
    return *rows_;
  }

  void AppendTexts() {
    if (new_.empty()) return;
    TextList texts = std::move(file_.tokens).TakeTexts();
    for (const std::string& text : new_) texts.Add(text);
    file_.tokens = TokenTable(std::move(texts));
    file_.in_model.resize(file_.in_model.size() + new_.size(), false);
  }

  const fs::path folder_;
  FolderTokenizer& out_;
  TokenizerFile& file_;
  Json config_;  // tokenizer_config.json, and what special_tokens_map.json puts in its place
  std::string config_path_;
  std::map<std::string, std::string> path_of_;      // keys that special_tokens_map.json gives
  std::unordered_map<std::string, size_t> listed_;  // of added tokens, their place in the list
  std::vector<std::string> new_;                    // texts without a token before, in the order of their ids
  std::unordered_map<std::string, int32_t> new_ids_;
  std::optional<int64_t> rows_;
};

// tokenizer.model, with what tokenizer_config.json of its folder (none: "") says of the steps around it.
void ReadPieces(const MappedFile& mapped, const fs::path& folder, FolderTokenizer* out) {
  SentencePieceFile pieces = ReadSentencePiece(mapped.bytes(), mapped.path());
  out->changed = true;
  out->scores = pieces.scores;
  out->bos = {true, pieces.bos}, out->eos = {true, pieces.eos};
  SentencePieceOptions options;
  if (!folder.empty()) {
    const fs::path path = folder / "tokenizer_config.json";
    const Json config = ReadObject(path);
    const auto flag = [&](const char* key) -> std::optional<bool> {
      if (!config.contains(key) || config[key].is_null()) return std::nullopt;
      if (!config[key].is_boolean())
        throw Error(ErrorCode::kFormat,
                    fmt::format("{}: {} = {}: must be true or false", path.string(), key, JsonExcerpt(config[key])));
      return config[key].get<bool>();
    };
    options.legacy = flag("legacy").value_or(true);
    options.add_prefix_space = flag("add_prefix_space");
    options.add_bos = flag("add_bos_token").value_or(true);
    options.add_eos = flag("add_eos_token").value_or(false);
  }
  out->file = TokenizerFileOf(std::move(pieces), options, mapped.path());
}

}  // namespace

bool HasTokenizerFile(const std::string& folder) {
  return fs::exists(fs::path(folder) / kJsonName) || fs::exists(fs::path(folder) / kPiecesName);
}

FolderTokenizer ReadFolderTokenizer(const std::string& path) {
  const bool folder = fs::is_directory(path);
  FolderTokenizer out;
  out.name = path;
  if (folder) {
    const bool pieces = !fs::exists(fs::path(path) / kJsonName) && fs::exists(fs::path(path) / kPiecesName);
    out.name = (fs::path(path) / (pieces ? kPiecesName : kJsonName)).string();
  }
  const MappedFile mapped(out.name, kMaxFileBytes);
  if (out.name.ends_with(".model")) {
    ReadPieces(mapped, folder ? fs::path(path) : fs::path(), &out);
  } else {
    out.sha256 = Sha256::Of(mapped.bytes());
    out.file = ParseTokenizerFile(mapped.text(), out.name);
  }
  if (folder) FolderReader(path, &out).Read();
  if (out.changed) out.sha256 = TokenizerJsonSha256(out.file);
  return out;
}

std::string WholeTokenizerJson(const std::string& path) {
  FolderTokenizer read = ReadFolderTokenizer(path);
  return read.changed ? TokenizerJsonText(read.file) : ReadFile(read.name, kMaxFileBytes);
}

}  // namespace hydra
