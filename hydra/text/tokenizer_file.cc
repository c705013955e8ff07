// SPDX-License-Identifier: Apache-2.0
// Reads tokenizer.json in one pass: vocabulary and merges, which may hold 10^5 entries, go straight into lists; the
// small rest becomes a JSON tree. Not here: what the steps mean.
#include "hydra/text/tokenizer_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/io/json.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;
constexpr int64_t kMaxTokens = int64_t{1} << 28;  // a file that names more would be over 1 GiB

// The model's vocabulary, texts and ids in one order.
struct Vocabulary {
  TokenTable table;
  std::vector<int32_t> ids;
};

std::string Quoted(std::string_view text) {
  std::string out = json(std::string(text.substr(0, 64))).dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() > 64 ? out + "..." : out;
}

// At most 60 characters of a value.
std::string Excerpt(const json& value) {
  if (value.is_string()) return Quoted(value.get_ref<const std::string&>());
  if (value.is_array()) return "an array";
  return value.is_object() ? "an object" : value.dump();
}

// Merges as they come. Once the vocabulary is there each becomes three ids at once; before that, texts are kept.
class MergeList {
 public:
  explicit MergeList(const std::string& file) : file_(file) {}

  [[nodiscard]] size_t size() const { return ids_.size() + waiting_.size() / 2; }
  void Add(const Vocabulary* vocabulary, std::string_view left, std::string_view right) {
    if (vocabulary != nullptr) {
      Resolve(*vocabulary, left, right);
    } else {
      waiting_.Add(left);
      waiting_.Add(right);
    }
  }
  BpeModel::Merges Finish(const Vocabulary& vocabulary) {
    for (size_t i = 0; i < waiting_.size(); i += 2) Resolve(vocabulary, waiting_[i], waiting_[i + 1]);
    waiting_ = {};
    return std::move(ids_);
  }

 private:
  void Resolve(const Vocabulary& vocabulary, std::string_view left, std::string_view right) {
    joined_.assign(left).append(right);
    const auto id_of = [&](std::string_view text) {
      const int32_t at = vocabulary.table.Find(text);
      if (at < 0)
        throw Error(ErrorCode::kFormat, fmt::format("{}: model.merges[{}] names {}: it is not in model.vocab", file_,
                                                    ids_.size(), Quoted(text)));
      return vocabulary.ids[static_cast<size_t>(at)];
    };
    const int32_t a = id_of(left), b = id_of(right);
    ids_.push_back({a, b, id_of(joined_)});
  }
  const std::string& file_;
  BpeModel::Merges ids_;
  TextList waiting_;  // left, right, left, ...
  std::string joined_;
};

// The SAX events of nlohmann's parser. Where the path is model.vocab or model.merges, entries are kept as they come;
// the rest becomes a tree, which may cost half of the memory that a file may (twice its size + 1 MiB).
class Reader {
 public:
  // The names are those that nlohmann's interface asks for.
  Reader(const std::string& file, std::string_view text)
      : merges(file), file_(file), used_(kJsonTokenCopies * LongestJsonToken(text)), budget_(text.size() + (1 << 19)) {
    used_ = used_ > (1 << 19) ? used_ - (1 << 19) : 0;  // of the other half
  }

  Vocabulary vocab;  // in the order of the file
  MergeList merges;
  bool has_vocab = false, has_merges = false;
  json tree;

  bool null() { return Scalar(nullptr, 0); }
  bool boolean(bool value) { return Scalar(value, 0); }
  bool number_integer(int64_t value) { return Integer(value); }
  bool number_unsigned(uint64_t value) {
    return Integer(value > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string&) { return Scalar(value, 0); }
  bool string(std::string& value) {
    if (where_ == Where::kMerges) return MergeText(value);
    if (where_ == Where::kPair) return PairText(value);
    return Scalar(std::string(value), sizeof(std::string) + 16 + value.size());
  }
  bool binary(json::binary_t&) { return false; }

  bool start_object(size_t) {
    Deeper();
    if (where_ != Where::kTree) WrongEntry("an object");
    json* const object = Put(json::object(), kContainerBytes);
    if (depth_ == 3 && TopPath("vocab")) {
      has_vocab = true;
      where_ = Where::kVocab;
      return true;
    }
    stack_.push_back(object);
    return true;
  }
  bool end_object() {
    --depth_;
    if (where_ == Where::kVocab) {
      where_ = Where::kTree;
      FinishVocab();
    } else {
      stack_.pop_back();
    }
    return true;
  }
  bool start_array(size_t) {
    Deeper();
    if (where_ == Where::kMerges) {
      where_ = Where::kPair;
      in_pair_ = 0;
      return true;
    }
    if (where_ != Where::kTree) WrongEntry("an array");
    json* const array = Put(json::array(), kContainerBytes);
    if (depth_ == 3 && TopPath("merges")) {
      has_merges = true;
      where_ = Where::kMerges;
      return true;
    }
    stack_.push_back(array);
    return true;
  }
  bool end_array() {
    --depth_;
    if (where_ == Where::kPair) {
      if (in_pair_ != 2) BadMerge(fmt::format("has {} elements", in_pair_));
      AddMerge(pair_[0], pair_[1]);
      where_ = Where::kMerges;
    } else if (where_ == Where::kMerges) {
      where_ = Where::kTree;
    } else {
      stack_.pop_back();
    }
    return true;
  }
  bool key(std::string& name) {
    key_ = name;
    if (depth_ == 1) top_key_ = key_;
    if (where_ == Where::kTree && stack_.back()->contains(key_)) {
      throw Error(ErrorCode::kFormat, fmt::format("{}: key {} is given twice", file_, Quoted(key_)));
    }
    return true;
  }
  bool parse_error(size_t position, const std::string& token, const json::exception& e) {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: not valid JSON at byte {}: {}", file_, position, JsonErrorText(e, token)));
  }

 private:
  enum class Where { kTree, kVocab, kMerges, kPair };
  // What values of the tree cost: a place in an array that doubles as it grows, a node of an object.
  static constexpr size_t kElementBytes = 3 * sizeof(json);
  static constexpr size_t kMemberBytes = 48 + sizeof(std::string) + sizeof(json);
  static constexpr size_t kContainerBytes = sizeof(json::object_t) + 16;

  void Deeper() {
    if (++depth_ > kMaxDepth)
      throw Error(ErrorCode::kFormat, fmt::format("{}: nested deeper than {} levels", file_, kMaxDepth));
  }
  [[nodiscard]] bool TopPath(std::string_view name) const { return top_key_ == "model" && key_ == name; }

  void Charge(size_t bytes) {
    used_ += bytes;
    if (used_ > budget_)
      throw Error(ErrorCode::kFormat, fmt::format("{}: {}: more values than a file of its size may have", file_,
                                                  top_key_.empty() ? "it" : Quoted(top_key_)));
  }
  // Puts a value at the current place of the tree; `bytes` are its own, beside the place.
  json* Put(json value, size_t bytes) {
    if (stack_.empty()) {
      tree = std::move(value);
      return &tree;
    }
    json& parent = *stack_.back();
    if (parent.is_array()) {
      Charge(bytes + kElementBytes);
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Charge(bytes + kMemberBytes + key_.size());
    json& slot = parent[key_];
    slot = std::move(value);
    return &slot;
  }
  bool Scalar(json value, size_t bytes) {
    if (where_ != Where::kTree) WrongEntry(Excerpt(value));
    Put(std::move(value), bytes);
    return true;
  }
  bool Integer(int64_t value) {
    if (where_ != Where::kVocab) return Scalar(value, 0);
    const auto fail = [&](const char* why) {
      throw Error(ErrorCode::kFormat, fmt::format("{}: model.vocab[{}] = {}: {}", file_, Quoted(key_), value, why));
    };
    if (value < 0) fail("an id must not be negative");
    if (value >= kMaxTokens) fail("leaves a gap: ids must be 0 to one below the number of tokens");
    texts_.Add(key_);
    vocab.ids.push_back(static_cast<int32_t>(value));
    return true;
  }
  void FinishVocab() {
    vocab.table = TokenTable(std::move(texts_));
    if (vocab.table.twice() >= 0)
      throw Error(ErrorCode::kFormat, fmt::format("{}: model.vocab[{}] is given twice", file_,
                                                  Quoted(vocab.table.Text(vocab.table.twice()))));
  }
  void AddMerge(std::string_view left, std::string_view right) {
    merges.Add(has_vocab ? &vocab : nullptr, left, right);
  }
  bool MergeText(std::string_view text) {
    if (text.starts_with("#version")) return true;  // the comment of a merges file; `tokenizers` skips it too
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) BadMerge("= " + Quoted(text));
    AddMerge(text.substr(0, space), text.substr(space + 1));
    return true;
  }
  bool PairText(const std::string& text) {
    if (in_pair_ == 2) BadMerge("has more than 2 elements");
    pair_[in_pair_++] = text;
    return true;
  }
  [[noreturn]] void BadMerge(const std::string& what) const {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: model.merges[{}] {}: must be two tokens, \"A B\" or [\"A\", \"B\"]", file_,
                            merges.size(), what));
  }
  [[noreturn]] void WrongEntry(const std::string& what) const {
    if (where_ == Where::kVocab) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: model.vocab[{}] = {}: must be a whole number", file_, Quoted(key_), what));
    }
    BadMerge("= " + what);
  }

  const std::string& file_;
  size_t used_, budget_;
  TextList texts_;            // of the vocabulary, until it is whole
  std::vector<json*> stack_;  // open objects and arrays of the tree
  std::string key_, top_key_;
  size_t depth_ = 0;
  Where where_ = Where::kTree;
  std::array<std::string, 2> pair_;
  size_t in_pair_ = 0;
};

// Builds the lists from what was read.
class Builder {
 public:
  Builder(Reader& reader, const std::string& file) : reader_(reader), file_(file) {}

  TokenizerFile Build() {
    if (!reader_.tree.is_object()) Fail("", "must be an object");
    CheckTop();
    CheckModel();
    ReadAdded();
    out_.merges = reader_.merges.Finish(reader_.vocab);
    out_.tokens = TokenTable(Tokens());
    Unknown();
    for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
      out_.steps[key] = reader_.tree.contains(key) ? std::move(reader_.tree[key]) : json(nullptr);
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void Fail(std::string_view field, std::string_view why) const {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {}{}{}", file_, field, field.empty() ? "" : " ", why));
  }

  void CheckTop() {
    for (const char* key : {"truncation", "padding"})
      if (reader_.tree.contains(key) && !reader_.tree[key].is_null())
        out_.warnings.push_back(fmt::format("{}: {} is set: it is not applied, texts are encoded whole", file_, key));
    if (!reader_.tree.contains("model") || !reader_.tree["model"].is_object()) Fail("model", "is missing");
  }

  [[nodiscard]] bool Flag(const json& object, const char* key, const std::string& path) const {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return false;
    if (!found->is_boolean()) Fail(path + key, fmt::format("= {}: must be true or false", Excerpt(*found)));
    return found->get<bool>();
  }

  void CheckModel() {
    const json& model = reader_.tree["model"];
    const json type = model.value("type", json(nullptr));
    if (!type.is_null() && type != "BPE")
      Fail("model.type", fmt::format("= {}: only \"BPE\" is supported", Excerpt(type)));
    if (!reader_.has_vocab) Fail("model.vocab", "is missing: must be an object of ids");
    if (!reader_.has_merges) Fail("model.merges", "is missing: must be an array");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const json value = model.value(key, json(nullptr));
      if (!value.is_null() && value != json(""))
        Fail(fmt::format("model.{}", key), fmt::format("= {}: not supported", Excerpt(value)));
    }
    const json dropout = model.value("dropout", json(nullptr));
    if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
      Fail("model.dropout", fmt::format("= {}: random ids are not supported", Excerpt(dropout)));
    }
    out_.options.byte_fallback = Flag(model, "byte_fallback", "model.");
    out_.options.fuse_unk = Flag(model, "fuse_unk", "model.");
    out_.options.ignore_merges = Flag(model, "ignore_merges", "model.");
  }

  // Entries: those of the vocabulary first, then the added tokens.
  [[nodiscard]] std::string_view TextOf(int32_t entry) const {
    const auto i = static_cast<size_t>(entry);
    return i < own_.size() ? own_[i] : out_.added[i - own_.size()].content;
  }
  [[nodiscard]] std::string FieldOf(int32_t entry) const {
    const auto i = static_cast<size_t>(entry);
    return i < own_.size() ? fmt::format("model.vocab[{}]", Quoted(TextOf(entry)))
                           : fmt::format("added_tokens[{}] ({}).id", i - own_.size(), Quoted(TextOf(entry)));
  }

  // Gives an entry its id, which must be new.
  void Place(int32_t entry, int32_t id, std::vector<int32_t>* entries) const {
    const auto n = static_cast<int64_t>(entries->size());
    if (id >= n) Fail(FieldOf(entry), fmt::format("= {}: leaves a gap, ids must be 0..{} for {} tokens", id, n - 1, n));
    int32_t& place = (*entries)[static_cast<size_t>(id)];
    if (place >= 0)
      Fail(FieldOf(entry), fmt::format("= {}: the id is given twice, {} has it too", id, Quoted(TextOf(place))));
    place = entry;
  }

  // The texts of all tokens by id. What is not needed goes before more comes.
  TextList Tokens() {
    std::vector<int32_t> own_of_added;  // the vocabulary's entry of the same text, or -1
    for (const AddedToken& token : out_.added) own_of_added.push_back(reader_.vocab.table.Find(token.content));
    own_ = std::move(reader_.vocab.table).TakeTexts();
    std::vector<int32_t> ids = std::move(reader_.vocab.ids);
    reader_.vocab = {};

    std::vector<int32_t> entries(own_.size() + out_.added.size(), -1);  // by id
    bool empty = false;
    for (size_t i = 0; i < own_.size(); ++i) {
      if (own_[i].empty() && std::exchange(empty, true)) Fail("model.vocab[\"\"]", "is given twice");
      Place(static_cast<int32_t>(i), ids[i], &entries);
    }
    PlaceAdded(ids, own_of_added, &entries);
    ids = std::vector<int32_t>();
    const auto gap = static_cast<size_t>(std::find(entries.begin(), entries.end(), -1) - entries.begin());
    if (std::any_of(entries.begin() + static_cast<ptrdiff_t>(gap), entries.end(), [](int32_t e) { return e >= 0; }))
      Fail("model.vocab", fmt::format("has no token with id {}: ids must be without a gap", gap));
    if (gap == 0) Fail("model.vocab", "is empty");
    entries.resize(gap);

    size_t bytes = 0;
    for (const int32_t entry : entries) bytes += TextOf(entry).size();
    TextList texts;
    texts.Reserve(entries.size(), bytes);
    out_.in_model.reserve(entries.size());
    for (const int32_t entry : entries) {
      texts.Add(TextOf(entry));
      out_.in_model.push_back(static_cast<size_t>(entry) < own_.size());
    }
    own_ = {};
    return texts;
  }

  // Those whose text is in the vocabulary have its id; the others are new. `tokenizers` looks at their texts and their
  // order only and gives the new ones the ids after the vocabulary: a file that says other ids would be read otherwise
  // there.
  void PlaceAdded(const std::vector<int32_t>& ids, const std::vector<int32_t>& own_of_added,
                  std::vector<int32_t>* entries) const {
    std::unordered_map<std::string_view, int32_t> seen;
    auto next = static_cast<int32_t>(own_.size());
    for (size_t i = 0; i < out_.added.size(); ++i) {
      const AddedToken& token = out_.added[i];
      const auto entry = static_cast<int32_t>(own_.size() + i);
      const int32_t own = own_of_added[i];
      const auto [before, is_new] = seen.try_emplace(token.content, token.id);
      const int32_t known = own >= 0 ? ids[static_cast<size_t>(own)] : before->second;
      if (known != token.id)
        Fail(FieldOf(entry), fmt::format("= {}: the same text has id {} already", token.id, known));
      if (own >= 0 || !is_new) continue;
      Place(entry, token.id, entries);
      if (token.id != next)
        Fail(FieldOf(entry),
             fmt::format("= {}: it is not in model.vocab, so the tokenizers library gives it id {}", token.id, next));
      ++next;
    }
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
      if (!id.is_number_integer()) Fail(path + "id", fmt::format("= {}: must be a whole number", Excerpt(id)));
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
    reader_.tree.erase("added_tokens");  // its tree costs much more
  }

  void Unknown() {
    const json unk = reader_.tree["model"].value("unk_token", json(nullptr));
    if (unk.is_null()) return;
    if (!unk.is_string()) Fail("model.unk_token", "must be a text or null");
    const int32_t id = out_.tokens.Find(unk.get_ref<const std::string&>());
    const bool own = id >= 0 && out_.in_model[static_cast<size_t>(id)];
    if (!own && !(IsByteLevel() && HasEveryByte(out_.tokens, out_.in_model)))  // there nothing is unknown
      Fail("model.unk_token", fmt::format("= {}: it is not in model.vocab", Excerpt(unk)));
    out_.options.unk_id = own ? id : -1;
  }

  // Whether ByteLevel is the last step before the model.
  [[nodiscard]] bool IsByteLevel() const {
    const json* step = reader_.tree.contains("pre_tokenizer") ? &reader_.tree["pre_tokenizer"] : nullptr;
    while (step != nullptr && step->is_object() && step->contains("pretokenizers") &&
           (*step)["pretokenizers"].is_array() && !(*step)["pretokenizers"].empty())
      step = &(*step)["pretokenizers"].back();
    return step != nullptr && step->is_object() && step->value("type", json()) == "ByteLevel";
  }

  Reader& reader_;
  const std::string& file_;
  TokenizerFile out_;
  TextList own_;  // the vocabulary's texts in the order of the file, while ids are given
};

}  // namespace

TokenizerFile ParseTokenizerFile(std::string_view text, const std::string& file) {
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: byte {} is not valid UTF-8", file, valid));
  }
  if (text.empty()) throw Error(ErrorCode::kFormat, fmt::format("{}: the file is empty, JSON is expected", file));
  Reader reader(file, text);
  (void)json::sax_parse(text.begin(), text.end(), &reader);
  return Builder(reader, file).Build();
}

bool HasEveryByte(const TokenTable& tokens, const std::vector<bool>& in_model) {
  for (int byte = 0; byte < 256; ++byte) {
    std::string text;
    AppendUtf8(ByteLevelChar(static_cast<uint8_t>(byte)), text);
    if (const int32_t id = tokens.Find(text); id < 0 || !in_model[static_cast<size_t>(id)]) return false;
  }
  return true;
}

}  // namespace hydra
