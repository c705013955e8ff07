// SPDX-License-Identifier: Apache-2.0
// Reads tokenizer.json in one pass: vocabulary and merges, which may hold 10^5 entries, go straight into lists; the
// small rest becomes a JSON tree. Not here: what the steps mean.
#include "hydra/core/tokenizer_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "hydra/core/error.h"
#include "hydra/core/tokenizer_text.h"

namespace hydra {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;
constexpr int64_t kMaxTokens = int64_t{1} << 28;  // a file that names more would be over 1 GiB

std::string Quoted(std::string_view text) {
  std::string out = json(std::string(text.substr(0, 64))).dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() > 64 ? out + "..." : out;
}

// The SAX events of nlohmann's parser. Where the path is model.vocab or model.merges, entries are kept as they come.
class Reader {
 public:
  // The names are those that nlohmann's interface asks for.
  explicit Reader(const std::string& file) : file_(file) {}

  std::vector<std::pair<std::string, int64_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  bool has_vocab = false, has_merges = false;
  json tree;

  bool null() { return Scalar(nullptr); }
  bool boolean(bool value) { return Scalar(value); }
  bool number_integer(int64_t value) { return Integer(value); }
  bool number_unsigned(uint64_t value) {
    return Integer(value > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string&) { return Scalar(value); }
  bool string(std::string& value) {
    if (where_ == Where::kMerges) return MergeText(value);
    if (where_ == Where::kPair) return PairText(value);
    return Scalar(std::move(value));
  }
  bool binary(json::binary_t&) { return false; }

  bool start_object(size_t) {
    Deeper();
    if (where_ != Where::kTree) WrongEntry("an object");
    if (depth_ == 3 && TopPath("vocab")) {
      has_vocab = true;
      where_ = Where::kVocab;
      Put(json::object());
      return true;
    }
    stack_.push_back(Put(json::object()));
    return true;
  }
  bool end_object() {
    --depth_;
    if (where_ == Where::kVocab) {
      where_ = Where::kTree;
    } else {
      stack_.pop_back();
    }
    return true;
  }
  bool start_array(size_t) {
    Deeper();
    if (where_ == Where::kMerges) {
      where_ = Where::kPair;
      merges.emplace_back();
      in_pair_ = 0;
      return true;
    }
    if (where_ != Where::kTree) WrongEntry("an array");
    if (depth_ == 3 && TopPath("merges")) {
      has_merges = true;
      where_ = Where::kMerges;
      Put(json::array());
      return true;
    }
    stack_.push_back(Put(json::array()));
    return true;
  }
  bool end_array() {
    --depth_;
    if (where_ == Where::kPair) {
      if (in_pair_ != 2) BadMerge(merges.size() - 1, fmt::format("has {} elements", in_pair_));
      where_ = Where::kMerges;
    } else if (where_ == Where::kMerges) {
      where_ = Where::kTree;
    } else {
      stack_.pop_back();
    }
    return true;
  }
  bool key(std::string& name) {
    key_ = std::move(name);
    if (depth_ == 1) top_key_ = key_;
    if (where_ == Where::kTree && stack_.back()->contains(key_)) {
      throw Error(ErrorCode::kFormat, fmt::format("{}: key {} is given twice", file_, Quoted(key_)));
    }
    return true;
  }
  bool parse_error(size_t position, const std::string&, const json::exception& e) {
    std::string what = e.what();
    if (const size_t colon = what.find(": "); colon != std::string::npos) what = what.substr(colon + 2);
    throw Error(ErrorCode::kFormat, fmt::format("{}: not valid JSON at byte {}: {}", file_, position, what));
  }

 private:
  enum class Where { kTree, kVocab, kMerges, kPair };

  void Deeper() {
    if (++depth_ > kMaxDepth)
      throw Error(ErrorCode::kFormat, fmt::format("{}: nested deeper than {} levels", file_, kMaxDepth));
  }
  [[nodiscard]] bool TopPath(std::string_view name) const { return top_key_ == "model" && key_ == name; }

  // Puts a value at the current place of the tree.
  json* Put(json value) {
    if (stack_.empty()) {
      tree = std::move(value);
      return &tree;
    }
    json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    json& slot = parent[key_];
    slot = std::move(value);
    return &slot;
  }
  bool Scalar(json value) {
    if (where_ != Where::kTree) WrongEntry(value.dump(-1, ' ', true, json::error_handler_t::replace));
    Put(std::move(value));
    return true;
  }
  bool Integer(int64_t value) {
    if (where_ != Where::kVocab) return Scalar(value);
    vocab.emplace_back(std::move(key_), value);
    return true;
  }
  bool MergeText(const std::string& text) {
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      BadMerge(merges.size(), "= " + Quoted(text));
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    return true;
  }
  bool PairText(std::string& text) {
    if (in_pair_ == 2) BadMerge(merges.size() - 1, "has more than 2 elements");
    (in_pair_ == 0 ? merges.back().first : merges.back().second) = std::move(text);
    ++in_pair_;
    return true;
  }
  [[noreturn]] void BadMerge(size_t index, const std::string& what) const {
    throw Error(
        ErrorCode::kFormat,
        fmt::format("{}: model.merges[{}] {}: must be two tokens, \"A B\" or [\"A\", \"B\"]", file_, index, what));
  }
  [[noreturn]] void WrongEntry(const std::string& what) const {
    if (where_ == Where::kVocab) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: model.vocab[{}] = {}: must be a whole number", file_, Quoted(key_), what));
    }
    BadMerge(where_ == Where::kPair ? merges.size() - 1 : merges.size(), "= " + what);
  }

  const std::string& file_;
  std::vector<json*> stack_;  // open objects and arrays of the tree
  std::string key_, top_key_;
  size_t depth_ = 0;
  Where where_ = Where::kTree;
  int in_pair_ = 0;
};

// Builds the lists from what was read.
class Builder {
 public:
  Builder(Reader& reader, const std::string& file) : reader_(reader), file_(file) {}

  TokenizerFile Build() {
    if (!reader_.tree.is_object()) Fail("", "must be an object");
    CheckTop();
    CheckModel();
    Tokens();
    std::vector<std::string_view> own(out_.tokens.size());
    for (size_t id = 0; id < own.size(); ++id) {
      if (out_.in_model[id]) own[id] = out_.tokens[id];
    }
    const TokenTable table(own);
    Merges(table);
    Unknown(table);
    for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
      out_.steps[key] = reader_.tree.contains(key) ? std::move(reader_.tree[key]) : json(nullptr);
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void Fail(std::string_view field, std::string_view why) const {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {}{}{}", file_, field, field.empty() ? "" : " ", why));
  }

  void CheckTop() const {
    for (const char* key : {"truncation", "padding"}) {
      if (reader_.tree.contains(key) && !reader_.tree[key].is_null()) {
        Fail(key, "is set: it would change ids and is not supported; set it to null");
      }
    }
    if (!reader_.tree.contains("model") || !reader_.tree["model"].is_object()) Fail("model", "is missing");
  }

  [[nodiscard]] bool Flag(const json& object, const char* key, const std::string& path) const {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return false;
    if (!found->is_boolean()) Fail(path + key, fmt::format("= {}: must be true or false", found->dump()));
    return found->get<bool>();
  }

  void CheckModel() {
    const json& model = reader_.tree["model"];
    const json type = model.value("type", json(nullptr));
    if (!type.is_null() && type != "BPE")
      Fail("model.type", fmt::format("= {}: only \"BPE\" is supported", type.dump()));
    if (!reader_.has_vocab) Fail("model.vocab", "is missing: must be an object of ids");
    if (!reader_.has_merges) Fail("model.merges", "is missing: must be an array");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const json value = model.value(key, json(nullptr));
      if (!value.is_null() && value.dump() != "\"\"")
        Fail(fmt::format("model.{}", key), fmt::format("= {}: not supported", value.dump()));
    }
    const json dropout = model.value("dropout", json(nullptr));
    if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
      Fail("model.dropout", fmt::format("= {}: random ids are not supported", dropout.dump()));
    }
    out_.options.byte_fallback = Flag(model, "byte_fallback", "model.");
    out_.options.fuse_unk = Flag(model, "fuse_unk", "model.");
    out_.options.ignore_merges = Flag(model, "ignore_merges", "model.");
  }

  // Gives `text` the id; both must be new.
  void Place(std::string text, int64_t id, const std::string& field) {
    if (id < 0) Fail(field, fmt::format("= {}: an id must not be negative", id));
    const auto entries = static_cast<int64_t>(reader_.vocab.size() + out_.added.size());
    if (id >= std::min(entries, kMaxTokens)) {
      Fail(field, fmt::format("= {}: leaves a gap, ids must be 0..{} for {} tokens", id, entries - 1, entries));
    }
    const auto i = static_cast<size_t>(id);
    if (i >= taken_.size()) {
      taken_.resize(i + 1, false);
      out_.tokens.resize(i + 1);
    }
    if (taken_[i]) Fail(field, fmt::format("= {}: the id is given twice, {} has it too", id, Quoted(out_.tokens[i])));
    taken_[i] = true;
    out_.tokens[i] = std::move(text);
  }

  void Tokens() {
    ReadAdded();
    for (auto& [text, id] : reader_.vocab) {
      if (!own_ids_.emplace(text, id).second) Fail(fmt::format("model.vocab[{}]", Quoted(text)), "is given twice");
      Place(text, id, fmt::format("model.vocab[{}]", Quoted(text)));
    }
    std::vector<bool> own = taken_;
    for (size_t i = 0; i < out_.added.size(); ++i) {
      const AddedToken& token = out_.added[i];
      const std::string field = fmt::format("added_tokens[{}] ({}).id", i, Quoted(token.content));
      const auto own = own_ids_.find(token.content);
      if (own == own_ids_.end()) {
        Place(token.content, token.id, field);
        own_ids_.emplace(token.content, token.id);
      } else if (own->second != token.id) {
        Fail(field, fmt::format("= {}: the same text has id {} already", token.id, own->second));
      }
    }
    const auto gap = std::find(taken_.begin(), taken_.end(), false);
    if (gap != taken_.end()) {
      Fail("model.vocab", fmt::format("has no token with id {}: ids must be 0..{} without a gap", gap - taken_.begin(),
                                      taken_.size() - 1));
    }
    if (out_.tokens.empty()) Fail("model.vocab", "is empty");
    own.resize(out_.tokens.size(), false);
    out_.in_model = std::move(own);
  }

  void ReadAdded() {
    if (!reader_.tree.contains("added_tokens") || reader_.tree["added_tokens"].is_null()) return;
    const json& list = reader_.tree["added_tokens"];
    if (!list.is_array()) Fail("added_tokens", "must be an array");
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string path = fmt::format("added_tokens[{}].", i);
      const json& entry = list[i];
      if (!entry.is_object()) Fail(fmt::format("added_tokens[{}]", i), "must be an object");
      const json content = entry.value("content", json(nullptr)), id = entry.value("id", json(nullptr));
      if (!content.is_string() || content.get_ref<const std::string&>().empty())
        Fail(path + "content", "must be a text that is not empty");
      if (!id.is_number_integer()) Fail(path + "id", fmt::format("= {}: must be a whole number", id.dump()));
      const auto value = id.get<int64_t>();
      if (value < 0) Fail(path + "id", fmt::format("= {}: an id must not be negative", value));
      if (value >= kMaxTokens) Fail(path + "id", fmt::format("= {}: leaves a gap", value));
      out_.added.push_back({.content = content.get<std::string>(),
                            .id = static_cast<int32_t>(value),
                            .special = Flag(entry, "special", path),
                            .single_word = Flag(entry, "single_word", path),
                            .lstrip = Flag(entry, "lstrip", path),
                            .rstrip = Flag(entry, "rstrip", path),
                            .normalized = Flag(entry, "normalized", path)});
    }
  }

  void Merges(const TokenTable& table) {
    out_.merges.reserve(reader_.merges.size());
    const auto id_of = [&](size_t i, const std::string& text) {
      const int32_t id = table.Find(text);
      if (id < 0) {
        Fail(fmt::format("model.merges[{}]", i), fmt::format("names {}: it is not in model.vocab", Quoted(text)));
      }
      return id;
    };
    for (size_t i = 0; i < reader_.merges.size(); ++i) {
      const auto& [left, right] = reader_.merges[i];
      const int32_t a = id_of(i, left), b = id_of(i, right);
      out_.merges.push_back({a, b, id_of(i, left + right)});
    }
  }

  void Unknown(const TokenTable& table) {
    const json unk = reader_.tree["model"].value("unk_token", json(nullptr));
    if (unk.is_null()) return;
    if (!unk.is_string()) Fail("model.unk_token", "must be a text or null");
    out_.options.unk_id = table.Find(unk.get_ref<const std::string&>());
    if (out_.options.unk_id < 0) Fail("model.unk_token", fmt::format("= {}: it is not in model.vocab", unk.dump()));
  }

  Reader& reader_;
  const std::string& file_;
  TokenizerFile out_;
  std::vector<bool> taken_;
  std::unordered_map<std::string, int64_t> own_ids_;
};

}  // namespace

TokenizerFile ParseTokenizerFile(std::string_view text, const std::string& file) {
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: byte {} is not valid UTF-8", file, valid));
  }
  if (text.empty()) throw Error(ErrorCode::kFormat, fmt::format("{}: the file is empty, JSON is expected", file));
  Reader reader(file);
  (void)json::sax_parse(text.begin(), text.end(), &reader);
  return Builder(reader, file).Build();
}

}  // namespace hydra
