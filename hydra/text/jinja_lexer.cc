// SPDX-License-Identifier: Apache-2.0
// Tokens of a template: the text between tags, and what stands within them.
#include "hydra/text/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/template_text.h"

namespace hydra::jinja {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 20;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0; }

// Longest first, as Jinja looks for them.
constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                         "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                         ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

class Lexer {
 public:
  Lexer(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  std::vector<Token> Run() {
    while (at_ < text_.size()) Root();
    tokens_.push_back({.kind = Token::Kind::kEnd, .place = Here()});
    return std::move(tokens_);
  }

 private:
  enum class Tag { kPrint, kBlock, kComment, kRaw };

  [[noreturn]] void Fail(const std::string& what) { FailAt(where_, Here(), what); }

  // The place of at_; asked for in ascending order.
  Place Here() {
    for (; counted_ < at_; ++counted_) {
      if (text_[counted_] == '\n') {
        ++place_.line;
        place_.column = 1;
      } else {
        ++place_.column;
      }
    }
    return place_;
  }
  [[nodiscard]] bool Sees(std::string_view word, size_t at) const { return text_.substr(at, word.size()) == word; }
  void SkipSpace() { at_ += SpaceAt(text_, at_); }

  void Add(Token token) {
    if (tokens_.size() >= kMaxTokens) Fail(StrCat("a template has at most ", kMaxTokens, " parts"));
    tokens_.push_back(std::move(token));
  }
  void AddData(std::string_view data, Place place) {
    if (!data.empty()) Add({.kind = Token::Kind::kData, .place = place, .text = std::string(data)});
  }

  // The bytes of "{%- raw -%}" at `at`, white space behind it included; 0: none.
  [[nodiscard]] size_t RawTag(std::string_view word, size_t at, bool end_of_line) const {
    const size_t begin = at;
    if (!Sees("{%", at)) return 0;
    at += 2;
    if (at < text_.size() && (text_[at] == '-' || text_[at] == '+')) ++at;
    at += SpaceAt(text_, at);
    if (!Sees(word, at)) return 0;
    at += word.size();
    at += SpaceAt(text_, at);
    if (Sees("-%}", at)) return at + 3 + SpaceAt(text_, at + 3) - begin;
    if (end_of_line && Sees("+%}", at)) return at + 3 - begin;
    if (!Sees("%}", at)) return 0;
    at += 2;
    if (end_of_line && at < text_.size() && text_[at] == '\n') ++at;
    return at - begin;
  }

  // The text before a tag as it is shown: a minus takes all white space, else what stands on the tag's line alone goes.
  [[nodiscard]] std::string_view Before(std::string_view data, size_t tag, bool is_print) const {
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    if (sign == '-') return data.substr(0, data.size() - SpaceBefore(data, data.size()));
    if (sign == '+' || is_print) return data;
    const size_t newline = data.rfind('\n');
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    if (line == 0 && !line_starting_) return data;
    return line < data.size() && SpaceAt(data, line) == data.size() - line ? data.substr(0, line) : data;
  }

  void Root() {
    const size_t begin = at_;
    size_t tag = begin;
    while ((tag = text_.find('{', tag)) != std::string_view::npos && !Sees("{{", tag) && !Sees("{%", tag) &&
           !Sees("{#", tag))
      ++tag;
    if (tag == std::string_view::npos) {
      AddData(text_.substr(begin), Here());
      at_ = text_.size();
      return;
    }
    const size_t raw = RawTag("raw", tag, false);
    const Tag kind = raw > 0                 ? Tag::kRaw
                     : text_[tag + 1] == '{' ? Tag::kPrint
                     : text_[tag + 1] == '%' ? Tag::kBlock
                                             : Tag::kComment;
    AddData(Before(text_.substr(begin, tag - begin), tag, kind == Tag::kPrint), Here());
    at_ = tag;
    if (kind == Tag::kRaw) {
      Here();
      at_ += raw;
      line_starting_ = text_[at_ - 1] == '\n';
      return Raw(place_);
    }
    const bool signed_tag = tag + 2 < text_.size() && (text_[tag + 2] == '-' || text_[tag + 2] == '+');
    const Place place = Here();
    at_ += signed_tag ? 3 : 2;
    if (kind == Tag::kComment) return Comment(place);
    Add({.kind = kind == Tag::kPrint ? Token::Kind::kPrintBegin : Token::Kind::kBlockBegin, .place = place});
    Inside(kind == Tag::kPrint, place);
  }

  void Comment(Place place) {
    const size_t end = text_.find("#}", at_);
    if (end == std::string_view::npos) FailAt(where_, place, "comment: its end #} is missing");
    // The sign belongs to the end: {#-#} has none of its own.
    const char sign = end > at_ ? text_[end - 1] : '\0';
    at_ = end + 2;
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && at_ < text_.size() && text_[at_] == '\n') {
      ++at_;
    }
    line_starting_ = text_[at_ - 1] == '\n';
  }

  void Raw(Place begin) {
    for (size_t end = text_.find("{%", at_); end != std::string_view::npos; end = text_.find("{%", end + 1)) {
      const size_t bytes = RawTag("endraw", end, true);
      if (bytes == 0) continue;
      AddData(Before(text_.substr(at_, end - at_), end, false), Here());
      at_ = end + bytes;
      line_starting_ = text_[at_ - 1] == '\n';
      return;
    }
    FailAt(where_, begin, "raw: its end {% endraw %} is missing");
  }

  // The end of a tag at at_: its bytes, white space that it takes included; 0: none.
  [[nodiscard]] size_t EndOfTag(bool is_print) const {
    const std::string_view end = is_print ? "}}" : "%}";
    if (at_ < text_.size() && text_[at_] == '-' && Sees(end, at_ + 1)) return 3 + SpaceAt(text_, at_ + 3);
    if (!is_print && at_ < text_.size() && text_[at_] == '+' && Sees(end, at_ + 1)) return 3;
    if (!Sees(end, at_)) return 0;
    return !is_print && at_ + 2 < text_.size() && text_[at_ + 2] == '\n' ? 3 : 2;
  }

  void Inside(bool is_print, Place begin) {
    std::string open;  // brackets
    for (;;) {
      if (open.empty())
        if (const size_t bytes = EndOfTag(is_print); bytes > 0) {
          Add({.kind = is_print ? Token::Kind::kPrintEnd : Token::Kind::kBlockEnd, .place = Here()});
          at_ += bytes;
          line_starting_ = text_[at_ - 1] == '\n';
          return;
        }
      SkipSpace();
      if (at_ >= text_.size())
        FailAt(where_, begin, StrCat(is_print ? "{{" : "{%", ": its end ", is_print ? "}}" : "%}", " is missing"));
      const char c = text_[at_];
      if (open.empty() && EndOfTag(is_print) > 0) {
        continue;
      } else if (IsDigit(c)) {
        Number();
      } else if (IsNameStart(c)) {
        size_t end = at_;
        while (end < text_.size() && (IsNameStart(text_[end]) || IsDigit(text_[end]))) ++end;
        Add({.kind = Token::Kind::kName, .place = Here(), .text = std::string(text_.substr(at_, end - at_))});
        at_ = end;
      } else if (c == '\'' || c == '"') {
        Quoted(c);
      } else {
        Operator(open);
      }
    }
  }

  void Operator(std::string& open) {
    const Place place = Here();
    for (const std::string_view op : kOperators) {
      if (!Sees(op, at_)) continue;
      if (op == "(" || op == "[" || op == "{") open += op == "(" ? ')' : op == "[" ? ']' : '}';
      if (op == ")" || op == "]" || op == "}") {
        if (open.empty() || open.back() != op[0])
          Fail(open.empty() ? StrCat("unexpected ", op) : StrCat("unexpected ", op, ", expected ", open.back()));
        open.pop_back();
      }
      if (open.size() > kMostBrackets) Fail(StrCat("brackets are nested deeper than ", kMostBrackets));
      Add({.kind = Token::Kind::kOperator, .place = place, .text = std::string(op)});
      at_ += op.size();
      return;
    }
    const auto length = std::min<size_t>(static_cast<size_t>(Utf8Length(text_[at_])), text_.size() - at_);
    Fail(StrCat("unexpected character ", text_.substr(at_, length)));
  }

  // Digits with single underscores between them, from `at` on; 0: none.
  template <class Is>
  [[nodiscard]] size_t Digits(size_t at, Is&& is) const {
    const size_t begin = at;
    while (at < text_.size() && (is(text_[at]) || (text_[at] == '_' && at > begin && text_[at - 1] != '_' &&
                                                   at + 1 < text_.size() && is(text_[at + 1]))))
      ++at;
    return at - begin;
  }

  void Number() {
    const Place place = Here();
    const auto plain = [](std::string_view digits) {
      std::string out;
      for (const char c : digits)
        if (c != '_') out += c;
      return out;
    };
    if (at_ > 0 && text_[at_ - 1] == '.') return Integer(place, plain);  // x.0.1 asks for an item of an item
    size_t end = at_ + Digits(at_, IsDigit);
    bool is_float = false;
    if (end + 1 < text_.size() && text_[end] == '.' && IsDigit(text_[end + 1])) {
      end += 1 + Digits(end + 1, IsDigit);
      is_float = true;
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const size_t sign = end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-') ? 1 : 0;
      if (const size_t exponent = Digits(end + 1 + sign, IsDigit); exponent > 0) {
        end += 1 + sign + exponent;
        is_float = true;
      }
    }
    if (is_float) {
      const std::string digits = plain(text_.substr(at_, end - at_));
      Token token{.kind = Token::Kind::kFloat, .place = place};
      const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), token.number);
      if (error != std::errc() || stop != digits.data() + digits.size())
        Fail(StrCat("the number ", digits, " is out of range"));
      at_ = end;
      return Add(token);
    }
    Integer(place, plain);
  }

  template <class Plain>
  void Integer(Place place, Plain&& plain) {
    int base = 10;
    size_t skip = 0;
    const char kind = at_ + 1 < text_.size() && text_[at_] == '0' ? static_cast<char>(text_[at_ + 1] | 0x20) : '\0';
    const auto is_hex = [](char c) { return IsDigit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f'); };
    size_t n = 0;
    const auto try_base = [&](char letter, int value, auto&& is) {
      if (kind != letter) return;
      const size_t digits = Digits(at_ + 2, is);
      if (digits > 0) base = value, skip = 2, n = digits;
    };
    try_base('x', 16, is_hex);
    try_base('b', 2, [](char c) { return c == '0' || c == '1'; });
    try_base('o', 8, [](char c) { return c >= '0' && c <= '7'; });
    if (base == 10) n = text_[at_] == '0' ? Digits(at_, [](char c) { return c == '0'; }) : Digits(at_, IsDigit);
    const std::string digits = plain(text_.substr(at_ + skip, n));
    Token token{.kind = Token::Kind::kInt, .place = place};
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base);
    if (error != std::errc() || stop != digits.data() + digits.size())
      Fail(StrCat("the number ", digits.substr(0, 40), " is out of range"));
    at_ += skip + n;
    Add(token);
  }

  void Quoted(char quote) {
    const Place place = Here();
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) Fail("a quoted text has no end");
    Token token{.kind = Token::Kind::kText, .place = place};
    if (const char* wrong = Unescape(text_.substr(at_ + 1, end - at_ - 1), &token.text); wrong != nullptr) Fail(wrong);
    at_ = end + 1;
    Add(std::move(token));
  }

  static constexpr size_t kMostBrackets = 200;
  std::string_view text_;
  const std::string& where_;
  std::vector<Token> tokens_;
  size_t at_ = 0, counted_ = 0;
  Place place_;
  bool line_starting_ = true;
};

}  // namespace

void FailAt(const std::string& where, Place place, const std::string& what) {
  throw Error(ErrorCode::kFormat, StrCat(where, ": line ", place.line, ", column ", place.column, ": ", what));
}

std::vector<Token> Tokenize(std::string_view text, const std::string& where) {
  const std::string read = AsJinjaReads(text);
  return Lexer(read, where).Run();
}

}  // namespace hydra::jinja
