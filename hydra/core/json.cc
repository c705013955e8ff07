// SPDX-License-Identifier: Apache-2.0
// Parsing with limits, and the typed readers of single values.
#include "hydra/core/json.h"

#include <set>

namespace hydra {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 64;

// Quotes the three words that Python's json writes for non-finite numbers; strings are left alone.
std::string QuoteNonFinite(std::string_view text) {
  std::string out;
  out.reserve(text.size());
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

// Builds nothing: only finds nesting over the limit and doubled keys, before a tree is made.
class Checker : public nlohmann::json_sax<Json> {
 public:
  explicit Checker(const std::string& where) : where_(where) {}
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Deeper();
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override { return Deeper(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second)
      throw Error(ErrorCode::kFormat, StrCat(where_, ": key \"", name, "\" is given twice"));
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    std::string what = e.what();  // "[json.exception.parse_error.101] parse error at ...: syntax error ..."
    if (const size_t colon = what.find(": "); colon != std::string::npos) what = what.substr(colon + 2);
    throw Error(ErrorCode::kFormat, StrCat(where_, ": not valid JSON at byte ", position, ": ", what));
  }

 private:
  bool Deeper() {
    if (++depth_ > kMaxDepth)
      throw Error(ErrorCode::kFormat, StrCat(where_, ": nested deeper than ", kMaxDepth, " levels"));
    return true;
  }
  const std::string& where_;
  int depth_ = 0;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

Json ParseJson(std::string_view text, const std::string& where) {
  if (text.empty()) throw Error(ErrorCode::kFormat, StrCat(where, ": the file is empty, JSON is expected"));
  const bool python_words = text.find("Infinity") != text.npos || text.find("NaN") != text.npos;
  const std::string quoted = python_words ? QuoteNonFinite(text) : std::string();
  const std::string_view source = python_words ? std::string_view(quoted) : text;
  try {
    Checker checker(where);
    Json::sax_parse(source.begin(), source.end(), &checker);
    return Json::parse(source.begin(), source.end());
  } catch (const nlohmann::json::exception& e) {
    throw Error(ErrorCode::kFormat, StrCat(where, ": not valid JSON: ", e.what()));
  }
}

std::string JsonExcerpt(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
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
