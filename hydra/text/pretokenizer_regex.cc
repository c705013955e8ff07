// SPDX-License-Identifier: Apache-2.0
// Oniguruma patterns for PCRE2: the translation, and matching within limits. Not here: split behaviours
// (pretokenizer.cc).
#include "hydra/text/pretokenizer_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <cctype>

#include "hydra/base/error.h"

namespace hydra {
namespace {

constexpr size_t kMaxPatternBytes = 16384;
constexpr uint32_t kMatchLimit = 1'000'000;  // backtracking steps for one match; the known patterns need none
constexpr uint32_t kHeapLimitKib = 65536;    // for the interpreter, where the JIT's stack is too small
constexpr size_t kJitStackBytes = 1 << 20;

// Walks a pattern once, copying what both engines read alike.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string Run() {
    if (in_.size() > kMaxPatternBytes)
      Refuse(fmt::format("is {} bytes long: the limit is {}", in_.size(), kMaxPatternBytes));
    while (pos_ < in_.size()) Item();
    return std::move(out_);
  }

 private:
  [[noreturn]] void Refuse(const std::string& why) const {
    throw Error(ErrorCode::kFormat, fmt::format("{}: regular expression at byte {}: {}", where_, pos_, why));
  }
  [[nodiscard]] bool At(std::string_view text) const { return in_.substr(pos_).starts_with(text); }
  void Copy(size_t n) {
    out_.append(in_.substr(pos_, n));
    pos_ += n;
  }

  void Item() {
    switch (in_[pos_]) {
      case '\\': return Escape(false);
      case '[': return Class();
      case '(': return Group();
      case '{': return Interval();
      default: return Copy(1);
    }
  }

  void Group() {
    static constexpr std::array<std::string_view, 8> kSame = {"(?:",  "(?=",  "(?!",  "(?>",
                                                              "(?<=", "(?<!", "(?i:", "(?-i:"};
    if (!At("(?")) {
      if (At("(*")) Refuse("'(*' is not supported");
      return Copy(1);
    }
    for (const auto prefix : kSame) {
      if (At(prefix)) return Copy(prefix.size());
    }
    // Elsewhere the two engines end the option's scope at different alternatives.
    if (At("(?i)") && pos_ == 0) return Copy(4);
    Refuse(fmt::format("'{}' is not supported", in_.substr(pos_, 4)));
  }

  // {n}, {n,}, {n,m}; not {,n}, nor a possessive {n}+ (a second repeat in Oniguruma).
  void Interval() {
    size_t i = pos_ + 1;
    const auto digits = [&] {
      const size_t from = i;
      while (i < in_.size() && std::isdigit(static_cast<unsigned char>(in_[i]))) ++i;
      return i > from;
    };
    bool good = digits();
    if (good && i < in_.size() && in_[i] == ',') {
      ++i;
      digits();
    }
    good = good && i < in_.size() && in_[i] == '}' && !(i + 1 < in_.size() && in_[i + 1] == '+');
    if (!good) Refuse("'{' must begin a repeat {n}, {n,} or {n,m}");
    Copy(i + 1 - pos_);
  }

  void Class() {
    Copy(1);
    if (At("^")) Copy(1);
    if (At("]")) Refuse("an empty class is not supported");
    while (!At("]")) {
      if (pos_ >= in_.size()) Refuse("a class is not closed");
      if (At("[")) Refuse("a class within a class is not supported; a literal one is \\[");
      if (At("&&")) Refuse("an intersection of classes is not supported");
      if (At("\\")) {
        Escape(true);
      } else {
        Copy(1);
      }
    }
    Copy(1);
  }

  void Escape(bool in_class) {
    if (pos_ + 1 >= in_.size()) Refuse("ends in a backslash");
    const char c = in_[pos_ + 1];
    switch (c) {
      case 'p':
      case 'P': return Property();
      case 'x': return HexEscape();
      case 'u': return UnicodeEscape();
      case 'v': return Replace("\\x0B");  // PCRE2: any vertical space
      case 's':
      case 'S':
      case 'd':
      case 'D':
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e': return Copy(2);
      case 'w':  // PCRE2's lacks marks and connectors
        return Replace(in_class ? "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}" : "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
      case 'W':
        if (!in_class) return Replace("[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
        break;
      case 'A':
      case 'z':
      case 'Z':
        if (!in_class) return Copy(2);
        break;
      default:
        if (!std::isalnum(static_cast<unsigned char>(c))) {
          return Copy(1 + 1);
        }
    }
    Refuse(fmt::format("'\\{}' is not supported", c));
  }

  void Replace(std::string_view text) {
    out_.append(text);
    pos_ += 2;
  }

  // General categories pass; a longer name is a script, which PCRE2 would take with its extensions.
  void Property() {
    size_t i = pos_ + 2;
    if (i >= in_.size() || in_[i] != '{') Refuse("'\\p' must be followed by {NAME}");
    ++i;
    const bool negated = i < in_.size() && in_[i] == '^';
    if (negated) ++i;
    const size_t close = in_.find('}', i);
    if (close == std::string_view::npos) Refuse("'\\p{' is not closed");
    const std::string_view name = in_.substr(i, close - i);
    out_.append(in_.substr(pos_, 2)).append("{").append(negated ? "^" : "");
    if (name.size() > 2 && name != "Alphabetic") out_.append("sc:");
    out_.append(name).append("}");
    pos_ = close + 1;
  }

  void HexEscape() {
    size_t i = pos_ + 2;
    if (i < in_.size() && in_[i] == '{') {
      const size_t close = in_.find('}', i);
      if (close == std::string_view::npos) Refuse("'\\x{' is not closed");
      return Copy(close + 1 - pos_);
    }
    const size_t from = i;
    while (i < in_.size() && i < from + 2 && std::isxdigit(static_cast<unsigned char>(in_[i]))) ++i;
    unsigned value = 0x100;
    if (i == from + 2) value = static_cast<unsigned>(std::stoi(std::string(in_.substr(from, 2)), nullptr, 16));
    if (value >= 0x80) Refuse("'\\x' must be followed by {...} or two digits below 80");  // Oniguruma: a raw byte
    Copy(i - pos_);
  }

  void UnicodeEscape() {
    const std::string_view digits = in_.substr(pos_ + 2, 4);
    for (const char c : digits) {
      if (!std::isxdigit(static_cast<unsigned char>(c))) Refuse("'\\u' must be followed by four hexadecimal digits");
    }
    if (digits.size() != 4) Refuse("'\\u' must be followed by four hexadecimal digits");
    out_.append(fmt::format("\\x{{{}}}", digits));
    pos_ += 6;
  }

  std::string_view in_;
  const std::string& where_;
  std::string out_;
  size_t pos_ = 0;
};

struct MatchContext {
  // One per call of ForEachMatch: match data and JIT stacks must not be shared between threads.
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;

  explicit MatchContext(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr)) {
    HYDRA_CHECK(data != nullptr && context != nullptr, "PCRE2 is out of memory");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchContext() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  MatchContext(const MatchContext&) = delete;
  MatchContext& operator=(const MatchContext&) = delete;
};

std::string Pcre2Message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

std::string TranslateRegex(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).Run();
}

struct Regex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern, std::string where) : code_(std::make_unique<Code>()), where_(std::move(where)) {
  const std::string translated = TranslateRegex(pattern, where_);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Oniguruma's ^ and $ always work by lines; its dot leaves out the newline only.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  HYDRA_CHECK(context != nullptr, "PCRE2 is out of memory");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), kOptions, &error,
                              &offset, context);
  pcre2_compile_context_free(context);
  if (code_->code == nullptr) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: bad regular expression: {} at byte {} of '{}'", where_,
                                                Pcre2Message(error), offset, translated));
  }
  // Without the JIT (not built in, or no executable memory) pcre2_match interprets: slower, the same matches.
  (void)pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);
  Probe();
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

void Regex::Probe() const {
  std::string mixed;
  for (int i = 0; i < 8; ++i) mixed += "aA1 .\n";
  for (const std::string& text : {std::string(48, 'a') + "!", std::string(48, '1') + "!", std::string(48, ' ') + "!",
                                  std::string(48, '!') + "a", mixed}) {
    try {
      ForEachMatch(text, [](Span) {});
    } catch (const Error& e) {
      throw Error(ErrorCode::kFormat, e.what());
    }
  }
}

void Regex::ForEachMatch(std::string_view text, const std::function<void(Span)>& found) const {
  const MatchContext match(code_->code);
  size_t at = 0;
  size_t last_end = std::string_view::npos;
  while (at <= text.size()) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.data, match.context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.data,
                       match.context);
    }
    if (rc == PCRE2_ERROR_NOMATCH) return;
    if (rc < 0) {
      throw Error(ErrorCode::kData,
                  fmt::format("{}: regular expression gave up at byte {} of a text of {}: {} (limit {})", where_, at,
                              text.size(), Pcre2Message(rc), kMatchLimit));
    }
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.data);
    const Span span{ends[0], ends[1]};
    const bool empty = span.begin >= span.end;
    if (!empty || span.begin != last_end) {
      found({span.begin, std::max(span.begin, span.end)});
      last_end = span.end;
    }
    at = span.end;
    if (empty) {  // step over one character
      if (at >= text.size()) return;
      do ++at;
      while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
    }
  }
}

}  // namespace hydra
