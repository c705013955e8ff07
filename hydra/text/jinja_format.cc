// SPDX-License-Identifier: Apache-2.0
// Python's two ways to format: "%s" % values and "{}".format(values). Not here: filters (jinja_filters.cc).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/jinja_run.h"

namespace hydra::jinja {
namespace {

constexpr int64_t kMostWidth = 4096;

struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =
  char sign = '-';    // - + space
  bool alternate = false, zero = false, comma = false;
  int64_t width = 0, precision = -1;
  char type = '\0';
};

// Digits of |value| as a type says.
std::string FloatDigits(double value, const Spec& spec) {
  const double size = std::abs(value);
  const int precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
  switch (spec.type) {
    case 'e': return fmt::format("{:.{}e}", size, precision);
    case 'E': return fmt::format("{:.{}E}", size, precision);
    case 'f':
    case 'F': return fmt::format("{:.{}f}", size, precision);
    case 'G': return fmt::format("{:.{}G}", size, std::max(precision, 1));
    case '%': return fmt::format("{:.{}f}%", size * 100, precision);
    case 'g': return fmt::format("{:.{}g}", size, std::max(precision, 1));
    default:
      if (spec.precision < 0) return FloatText(size);
      return fmt::format("{:.{}g}", size, std::max(precision, 1));
  }
}

std::string IntDigits(int64_t value, const Spec& spec) {
  const uint64_t size = value < 0 ? ~static_cast<uint64_t>(value) + 1 : static_cast<uint64_t>(value);
  switch (spec.type) {
    case 'x': return (spec.alternate ? "0x" : "") + fmt::format("{:x}", size);
    case 'X': return (spec.alternate ? "0X" : "") + fmt::format("{:X}", size);
    case 'o': return (spec.alternate ? "0o" : "") + fmt::format("{:o}", size);
    case 'b': return (spec.alternate ? "0b" : "") + fmt::format("{:b}", size);
    default: return std::to_string(size);
  }
}

std::string WithCommas(std::string digits) {
  size_t end = std::min(digits.find_first_not_of("0123456789"), digits.size());
  while (end > 3) digits.insert(end -= 3, ",");
  return digits;
}

// A number's sign and digits within a width.
std::string NumberText(Run& run, const Value& value, const Spec& spec) {
  const bool is_float = value.Is(Type::kFloat) || std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  const bool negative = is_float ? std::signbit(value.number()) : value.integer() < 0;
  if (spec.precision > kMostWidth) run.Fail(StrCat("format: a precision above ", kMostWidth));
  std::string digits = is_float ? FloatDigits(value.number(), spec) : IntDigits(value.integer(), spec);
  if (spec.comma) digits = WithCommas(std::move(digits));
  std::string sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  const auto width = static_cast<size_t>(spec.width);
  if ((spec.zero && spec.align == '\0') || spec.align == '=') {
    const std::string fill = spec.zero ? "0" : spec.fill;
    while (CharCount(sign) + CharCount(digits) < width) sign += fill;
  }
  return sign + digits;
}

MarkedText Padded(MarkedText text, const Spec& spec, char align) {
  const size_t n = CharCount(text.bytes()), width = static_cast<size_t>(spec.width);
  if (n >= width) return text;
  const size_t missing = width - n, left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  MarkedText out;
  for (size_t i = 0; i < left; ++i) out.Append(spec.fill);
  out.Append(text);
  for (size_t i = left; i < missing; ++i) out.Append(spec.fill);
  return out;
}

int64_t Width(Run& run, int64_t width) {
  if (width > kMostWidth) run.Fail(StrCat("format: a width above ", kMostWidth));
  return width;
}

// Reads digits; -1 where there are none.
int64_t ReadNumber(std::string_view text, size_t* at) {
  int64_t value = -1;
  for (; *at < text.size() && text[*at] >= '0' && text[*at] <= '9'; ++*at)
    value = std::min<int64_t>(std::max<int64_t>(value, 0) * 10 + text[*at] - '0', kMostWidth + 1);
  return value;
}

// ---- % ----

class Percent {
 public:
  Percent(Run& run, const MarkedText& format, const Value& values) : run_(run), format_(format), values_(values) {
    is_tuple_ = values.Is(Type::kList) && values.list().kind == List::Kind::kTuple;
  }

  Value Format() {
    const std::string& text = format_.bytes();
    size_t done = 0;
    for (size_t at = text.find('%'); at != std::string::npos; at = text.find('%', done)) {
      out_.Append(format_, done, at - done);
      done = Directive(text, at + 1);
      run_.Step();
    }
    out_.Append(format_, done);
    const size_t given = is_tuple_ ? values_.list().items.size() : 1;
    if (used_ < given && !by_name_ && (is_tuple_ || !values_.Is(Type::kDict)))
      run_.Fail("%: not all arguments are used by the format");
    if (format_.marked()) out_.MarkAll(format_.source());
    return run_.heap().Text(std::move(out_));
  }

 private:
  Value Next() {
    if (!is_tuple_ && used_++ == 0) return values_;
    if (is_tuple_ && used_ < values_.list().items.size()) return values_.list().items[used_++];
    run_.Fail("%: the format needs more arguments");
  }

  // From behind the % on; returns where the directive ends.
  size_t Directive(const std::string& text, size_t at) {
    Spec spec;
    std::optional<Value> named;
    if (at < text.size() && text[at] == '(') {
      const size_t end = text.find(')', at);
      if (end == std::string::npos || !values_.Is(Type::kDict)) run_.Fail("%: a name needs a dict");
      int64_t steps = 0;
      const Value* found = FindKey(values_.dict(), std::string_view(text).substr(at + 1, end - at - 1), &steps);
      if (found == nullptr) run_.Fail("%: the dict lacks a name of the format");
      named = *found;
      by_name_ = true;
      at = end + 1;
    }
    for (; at < text.size() && std::string_view("-+ 0#").find(text[at]) != std::string_view::npos; ++at) {
      if (text[at] == '-') spec.align = '<';
      if (text[at] == '+' || (text[at] == ' ' && spec.sign != '+')) spec.sign = text[at];
      if (text[at] == '0') spec.zero = true;
      if (text[at] == '#') spec.alternate = true;
    }
    if (spec.align == '<') spec.zero = false;
    spec.width = Width(run_, std::max<int64_t>(ReadNumber(text, &at), 0));
    if (at < text.size() && text[at] == '.') spec.precision = std::max<int64_t>(ReadNumber(text, &++at), 0);
    if (at >= text.size()) run_.Fail("%: the format ends within a directive");
    spec.type = text[at];
    if (spec.type == '%') {
      out_.Append("%");
      return at + 1;
    }
    Append(named ? *named : Next(), spec);
    return at + 1;
  }

  void Append(const Value& value, Spec spec) {
    const char align = spec.align == '\0' ? '>' : spec.align;
    if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
      MarkedText text = spec.type == 's' ? run_.Str(value) : run_.TextAbout(run_.Repr(value), value).text();
      if (spec.precision >= 0) text = text.Part(0, CharOffset(text.bytes(), static_cast<size_t>(spec.precision)));
      return out_.Append(Padded(std::move(text), spec, align));
    }
    if (spec.type == 'c' && value.is_text() && CharCount(value.bytes()) == 1) return out_.Append(value.text());
    if (std::string_view("diuxXoeEfFgG").find(spec.type) == std::string_view::npos)
      run_.Fail(StrCat("%: unknown directive %", spec.type));
    if (!value.is_number()) run_.Fail(StrCat("%", spec.type, ": needs a number, not ", TypeName(value)));
    Value number = value;
    if (std::string_view("diuxXo").find(spec.type) != std::string_view::npos && value.Is(Type::kFloat)) {
      if (std::string_view("xXo").find(spec.type) != std::string_view::npos || !(std::abs(value.number()) < 9e18))
        run_.Fail(StrCat("%", spec.type, ": needs an int"));
      number = Value(static_cast<int64_t>(value.number()));
    }
    if (std::string_view("diu").find(spec.type) != std::string_view::npos) spec.type = 'd';
    out_.Append(Padded(MarkedText(NumberText(run_, number, spec)), spec, align));
  }

  Run& run_;
  const MarkedText& format_;
  const Value& values_;
  bool is_tuple_ = false, by_name_ = false;
  size_t used_ = 0;
  MarkedText out_;
};

// ---- {} ----

Spec ParseSpec(Run& run, std::string_view text) {
  Spec spec;
  size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const size_t first = text.empty() ? 0 : static_cast<size_t>(Utf8Length(text[0]));
  if (first > 0 && first < text.size() && is_align(text[first])) {
    spec.fill = std::string(text.substr(0, first));
    spec.align = text[first];
    at = first + 1;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[at++];
  }
  const auto skip = [&](std::string_view any) {
    return at < text.size() && any.find(text[at]) != std::string_view::npos ? text[at++] : '\0';
  };
  if (const char sign = skip("+- ")) spec.sign = sign;
  spec.alternate = skip("#") != '\0';
  spec.zero = skip("0") != '\0';
  spec.width = Width(run, std::max<int64_t>(ReadNumber(text, &at), 0));
  spec.comma = skip(",") != '\0';
  if (skip(".") != '\0') spec.precision = ReadNumber(text, &at);
  spec.type = skip("sdbcoxXneEfFgG%");
  if (at != text.size()) run.Fail(StrCat("format: \"", text.substr(0, 40), "\" is no format"));
  return spec;
}

MarkedText Formatted(Run& run, const Value& value, std::string_view text) {
  if (text.empty()) return run.Str(value);
  const Spec spec = ParseSpec(run, text);
  if (value.is_text()) {
    if (spec.type != '\0' && spec.type != 's') run.Fail(StrCat("format: ", spec.type, " cannot format a str"));
    MarkedText shown = value.text();
    if (spec.precision >= 0) shown = shown.Part(0, CharOffset(shown.bytes(), static_cast<size_t>(spec.precision)));
    return Padded(std::move(shown), spec, spec.align == '\0' ? '<' : spec.align);
  }
  if (!value.is_number()) run.Fail(StrCat("format: cannot format ", TypeName(value), " this way"));
  if (value.Is(Type::kFloat) && std::string_view("dbcoxXs").find(spec.type) != std::string_view::npos &&
      spec.type != '\0')
    run.Fail(StrCat("format: ", spec.type, " cannot format a float"));
  return Padded(MarkedText(NumberText(run, value, spec)), spec, spec.align == '\0' ? '>' : spec.align);
}

// The value that a field names: "", "0", "name", then .attribute and [item].
Value FieldOf(Run& run, std::string_view field, CallArgs& args, size_t* next) {
  const size_t end = std::min(field.find_first_of(".["), field.size());
  const std::string_view first = field.substr(0, end);
  std::optional<Value> value;
  const auto number = ParseInt(first, 10);
  if (first.empty() || number) {
    const size_t place = first.empty() ? (*next)++ : static_cast<size_t>(*number);
    if (place < args.positional.size()) value = args.positional[place];
  } else {
    for (const auto& [name, given] : args.named)
      if (name == first) value = given;
  }
  if (!value) run.Fail(StrCat("format: there is no argument for {", field.substr(0, 40), "}"));
  for (size_t at = end; at < field.size();) {
    const bool item = field[at] == '[';
    const size_t stop = item ? field.find(']', at) : std::min(field.find_first_of(".[", at + 1), field.size());
    if (stop == std::string_view::npos) run.Fail("format: a field lacks its ]");
    const std::string_view name = field.substr(at + 1, stop - at - 1);
    const auto index = item ? ParseInt(name, 10) : std::nullopt;
    value = !item   ? run.Attribute(*value, name)
            : index ? run.Item(*value, Value(*index))
                    : run.Item(*value, run.heap().Text(name));
    at = stop + (item ? 1 : 0);
  }
  return *value;
}

}  // namespace

Value FormatPercent(Run& run, const MarkedText& format, const Value& values) {
  return Percent(run, format, values).Format();
}

Value FormatBraces(Run& run, const MarkedText& format, CallArgs& args) {
  const std::string& text = format.bytes();
  MarkedText out;
  size_t next = 0;
  for (size_t at = 0; at < text.size();) {
    run.Step();
    const size_t brace = std::min(text.find_first_of("{}", at), text.size());
    out.Append(format, at, brace - at);
    if (brace == text.size()) break;
    if (brace + 1 < text.size() && text[brace + 1] == text[brace]) {
      out.Append(format, brace, 1);
      at = brace + 2;
      continue;
    }
    const size_t end = text[brace] == '{' ? text.find_first_of("{}", brace + 1) : std::string::npos;
    if (end == std::string::npos || text[end] == '{') run.Fail("format: braces do not match");
    std::string_view field = std::string_view(text).substr(brace + 1, end - brace - 1);
    const size_t colon = field.find(':');
    const std::string_view spec = colon == std::string_view::npos ? std::string_view() : field.substr(colon + 1);
    field = field.substr(0, colon);
    const size_t mark = field.find('!');
    const std::string_view conversion = mark == std::string_view::npos ? std::string_view() : field.substr(mark + 1);
    Value value = FieldOf(run, field.substr(0, mark), args, &next);
    if (conversion == "r") value = run.TextAbout(run.Repr(value), value);
    if (conversion == "s") value = run.StrValue(value);
    if (!conversion.empty() && conversion != "r" && conversion != "s") run.Fail("format: unknown conversion");
    out.Append(Formatted(run, value, spec));
    at = end + 1;
  }
  if (format.marked()) out.MarkAll(format.source());
  return run.heap().Text(std::move(out));
}

}  // namespace hydra::jinja
