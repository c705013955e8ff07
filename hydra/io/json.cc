// SPDX-License-Identifier: Apache-2.0
// Parsing with limits, and the typed readers of single values.
#include "hydra/io/json.h"

#include <algorithm>
#include <array>
#include <utility>

namespace hydra {
namespace {

constexpr size_t kMaxDepth = 64;

// Quotes the three words that Python's json writes for non-finite numbers; strings are left alone.
std::string QuoteNonFinite(std::string_view text) {
  size_t words = 0;
  for (const std::string_view word : {"Infinity", "NaN"})
    for (size_t at = 0; (at = text.find(word, at)) != text.npos; ++at) ++words;
  std::string out;
  out.reserve(text.size() + 2 * words);
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      out += c;
      if (c == '\\' && i + 1 < text.size()) out += text[++i];
      if (c == '"') in_string = false;
      continue;
    }
    bool replaced = false;
    for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
      if (text.substr(i, word.size()) != word) continue;
      out.append("\"").append(word).append("\"");
      i += word.size() - 1;
      replaced = true;
      break;
    }
    if (replaced) continue;
    in_string = c == '"';
    out += c;
  }
  return out;
}

[[noreturn]] void Refuse(const std::string& field, const Json& value, const char* rule) {
  throw Error(ErrorCode::kConfig, StrCat(field, " = ", JsonExcerpt(value), ": ", rule));
}

// What is common to both passes over a text.
class Handler : public nlohmann::json_sax<Json> {
 public:
  explicit Handler(const std::string& where) : where_(where) {}
  bool binary(binary_t&) override { return false; }  // JSON has none
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& e) override {
    Bad(StrCat("not valid JSON at byte ", position, After(), ": ", JsonErrorText(e, token)));
  }

 protected:
  [[noreturn]] void Bad(const std::string& what) const { throw Error(ErrorCode::kFormat, StrCat(where_, ": ", what)); }
  // Where in the file that was, as far as a reader of events knows it.
  [[nodiscard]] std::string After() const {
    return key_.empty() ? "" : StrCat(" after the key \"", key_.substr(0, 60), "\"");
  }
  const std::string& where_;
  std::string key_;
};

// The first pass builds nothing: it checks nesting, and what the tree will cost.
class Checker final : public Handler {
 public:
  Checker(const std::string& where, uint64_t used, uint64_t budget) : Handler(where), used_(used), budget_(budget) {}
  std::vector<uint32_t> sizes;  // of the objects and arrays, in the order in which they begin

  bool null() override { return Count(0); }
  bool boolean(bool) override { return Count(0); }
  bool number_integer(number_integer_t) override { return Count(0); }
  bool number_unsigned(number_unsigned_t) override { return Count(0); }
  bool number_float(number_float_t, const string_t&) override { return Count(0); }
  bool string(string_t& text) override { return Count(kTextBytes + HeapBytes(text)); }
  bool start_object(std::size_t) override { return Begin(true); }
  bool start_array(std::size_t) override { return Begin(false); }
  bool end_object() override { return open_.pop_back(), true; }
  bool end_array() override { return open_.pop_back(), true; }
  bool key(string_t& name) override {
    key_ = name;
    return Charge(HeapBytes(name));
  }

 private:
  struct Open {
    size_t index;  // in sizes
    bool is_object;
  };
  static constexpr uint64_t kElementBytes = sizeof(Json);
  static constexpr uint64_t kMemberBytes = sizeof(Json::object_t::value_type);
  // A tree is taken down with the help of a stack of all siblings on the way to a value, which doubles as it grows.
  // Less is needed to sort an object's keys when it ends.
  static constexpr uint64_t kDestroyBytes = 3 * sizeof(Json);
  static constexpr uint64_t kTextBytes = sizeof(std::string) + 8;                                  // 8: malloc's own
  static constexpr uint64_t kContainerBytes = sizeof(Json::object_t) + 16 + 3 * sizeof(uint32_t);  // 3: sizes grows
  static uint64_t HeapBytes(const std::string& text) {
    return text.size() < sizeof(std::string) / 2 ? 0 : text.size() + 16;
  }

  bool Charge(uint64_t bytes) {
    used_ += bytes;
    if (used_ > budget_) Bad(StrCat("more values than a text of its size may have", After()));
    return true;
  }
  bool Count(uint64_t bytes) {
    if (open_.empty()) return Charge(bytes);
    const uint32_t n = ++sizes[open_.back().index];
    uint32_t& largest = largest_[open_.size() - 1];
    if (n > largest) {
      bytes += (n - largest) * kDestroyBytes;
      largest = n;
    }
    return Charge(bytes + (open_.back().is_object ? kMemberBytes : kElementBytes));
  }
  bool Begin(bool is_object) {
    if (open_.size() >= kMaxDepth) Bad(StrCat("nested deeper than ", kMaxDepth, " levels", After()));
    Count(kContainerBytes);
    open_.push_back({sizes.size(), is_object});
    sizes.push_back(0);
    return true;
  }
  uint64_t used_, budget_;
  std::array<uint32_t, kMaxDepth> largest_{};  // container of each depth
  std::vector<Open> open_;
};

// The second builds the tree, each container at its size: nlohmann's own looks through all keys for every new one, and
// copies an object's whole contents when it grows.
class Builder final : public Handler {
 public:
  Builder(const std::string& where, const std::vector<uint32_t>& sizes) : Handler(where), sizes_(sizes) {}
  Json root;

  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(number_integer_t value) override { return Put(value); }
  bool number_unsigned(number_unsigned_t value) override { return Put(value); }
  bool number_float(number_float_t value, const string_t&) override { return Put(value); }
  bool string(string_t& text) override { return Put(std::string(text)); }  // a copy has no spare room
  bool start_object(std::size_t) override {
    Put(Json::object());
    open_.push_back(last_);
    last_->get_ref<Json::object_t&>().reserve(NextSize());
    return true;
  }
  bool start_array(std::size_t) override {
    Put(Json::array());
    open_.push_back(last_);
    last_->get_ref<Json::array_t&>().reserve(NextSize());
    return true;
  }
  bool end_object() override {
    CheckKeys(open_.back()->get_ref<const Json::object_t&>());
    open_.pop_back();
    return true;
  }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool key(string_t& name) override {
    key_ = name;
    return true;
  }

 private:
  bool Put(Json value) {
    if (open_.empty()) {
      root = std::move(value);
      last_ = &root;
    } else if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<Json::array_t&>();
      if (array.size() == array.capacity()) Bad(kChanged);
      last_ = &array.emplace_back(std::move(value));
    } else {
      auto& object = open_.back()->get_ref<Json::object_t&>();
      if (object.size() == object.capacity()) Bad(kChanged);
      last_ = &object.emplace_back(std::string(key_), std::move(value)).second;
    }
    return true;
  }
  uint32_t NextSize() {
    if (n_opened_ == sizes_.size()) Bad(kChanged);
    return sizes_[n_opened_++];
  }
  void CheckKeys(const Json::object_t& object) const {
    std::vector<std::string_view> keys;
    keys.reserve(object.size());
    for (const auto& [name, value] : object) keys.push_back(name);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) Bad(StrCat("key \"", twice->substr(0, 60), "\" is given twice"));
  }
  // A mapped file may change between the two readings.
  static constexpr const char* kChanged = "changed while it was read";
  const std::vector<uint32_t>& sizes_;
  size_t n_opened_ = 0;
  std::vector<Json*> open_;  // they do not move: nothing grows past its reserve
  Json* last_ = nullptr;
};

// Appends a value as dump() writes it, until `out` has `most` bytes or more.
void AppendExcerpt(const Json& value, size_t most, std::string* out) {
  const auto scalar = [&](const Json& v) { *out += v.dump(-1, ' ', true, Json::error_handler_t::replace); };
  if (value.is_string()) return scalar(value.get_ref<const std::string&>().substr(0, most));
  if (!value.is_structured()) return scalar(value);
  *out += value.is_array() ? '[' : '{';
  bool first = true;
  for (const auto& [key, element] : value.items()) {
    if (out->size() >= most) return;
    if (!std::exchange(first, false)) *out += ',';
    if (value.is_object()) {
      scalar(key.substr(0, most));
      *out += ':';
    }
    AppendExcerpt(element, most, out);
  }
  *out += value.is_array() ? ']' : '}';
}

}  // namespace

size_t LongestJsonToken(std::string_view text) {
  size_t longest = 0, begin = 0;
  bool in_text = false;
  const auto end_at = [&](size_t i) {
    longest = std::max(longest, i - begin);
    begin = i;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_text) {
      if (c == '\\') ++i;
      in_text = c != '"';
    } else if (c == '"') {
      end_at(i);
      in_text = true;
    } else if (c == ',' || c == ':' || c == '[' || c == ']' || c == '{' || c == '}') {
      end_at(i);
    }
  }
  end_at(text.size());
  return longest;
}

namespace {

// `budget`: bytes of memory for the parser and the tree.
Json Parse(std::string_view text, const std::string& where, uint64_t budget) {
  if (text.empty()) throw Error(ErrorCode::kFormat, StrCat(where, ": the file is empty, JSON is expected"));
  const bool python_words = text.find("Infinity") != text.npos || text.find("NaN") != text.npos;
  const std::string quoted = python_words ? QuoteNonFinite(text) : std::string();
  const std::string_view source = python_words ? std::string_view(quoted) : text;
  Checker checker(where, quoted.size() + kJsonTokenCopies * LongestJsonToken(source), budget);
  Json::sax_parse(source.begin(), source.end(), &checker);
  Builder builder(where, checker.sizes);
  Json::sax_parse(source.begin(), source.end(), &builder);
  return std::move(builder.root);
}

}  // namespace

Json ParseJson(std::string_view text, const std::string& where) {
  return Parse(text, where, 2 * uint64_t{text.size()} + (1 << 20));
}

Json ParseJsonLine(std::string_view text, const std::string& where) {
  return Parse(text, where, 8 * uint64_t{text.size()} + (64 << 20));
}

std::string JsonErrorText(const nlohmann::detail::exception& error, const std::string& token) {
  constexpr int kNumberOverflow = 406;
  if (error.id == kNumberOverflow) return StrCat("the number ", token.substr(0, 60), " is too large");
  std::string what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax ..."
  if (what.starts_with("[json.exception.")) what = what.substr(std::min(what.find("] "), what.size() - 2) + 2);
  if (what.starts_with("parse error"))
    if (const size_t colon = what.find(": "); colon != std::string::npos) what = what.substr(colon + 2);
  return what.substr(0, 200);
}

std::string DumpJson(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string JsonExcerpt(const Json& value) {
  std::string text;
  AppendExcerpt(value, 61, &text);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

void ReadJson(const Json& value, const std::string& field, int64_t* out) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    Refuse(field, value, "too large");
  if (value.is_number_integer()) {
    *out = value.get<int64_t>();
    return;
  }
  if (value.is_number_float()) {  // 2e3 is an integer too
    const double number = value.get<double>();
    if (std::floor(number) == number && std::abs(number) < 9e15) {
      *out = static_cast<int64_t>(number);
      return;
    }
  }
  Refuse(field, value, "must be an integer");
}

void ReadJson(const Json& value, const std::string& field, double* out) {
  if (value.is_number()) {
    *out = value.get<double>();
    if (std::isinf(*out)) Refuse(field, value, "out of range");
    return;
  }
  const Json* word = &value;
  if (value.is_object() && value.size() == 1 && value.contains("__float__")) word = &value["__float__"];
  if (word->is_string()) {
    const auto& text = word->get_ref<const std::string&>();
    if (text == "inf" || text == "Infinity") {
      *out = HUGE_VAL;
      return;
    }
  }
  Refuse(field, value, "must be a number");
}

void ReadJson(const Json& value, const std::string& field, bool* out) {
  if (!value.is_boolean()) Refuse(field, value, "must be true or false");
  *out = value.get<bool>();
}

void ReadJson(const Json& value, const std::string& field, std::string* out) {
  if (!value.is_string()) Refuse(field, value, "must be a string");
  *out = value.get<std::string>();
}

}  // namespace hydra
