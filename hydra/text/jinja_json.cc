// SPDX-License-Identifier: Apache-2.0
// tojson as `transformers` defines it: json.dumps(value, ensure_ascii=False, indent, separators, sort_keys), without
// escapes for HTML.
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/text/jinja_chars.h"
#include "hydra/text/jinja_run.h"

namespace hydra::jinja {
namespace {

struct JsonForm {
  bool ascii = false, sort_keys = false;
  std::optional<std::string> indent{};
  std::string between = ", ", behind_key = ": ";
};

class JsonWriter {
 public:
  JsonWriter(Run& run, const JsonForm& form) : run_(run), form_(form) {}

  void Write(const Value& value, int depth) {
    run_.Step();
    if (static_cast<int64_t>(out.size()) > run_.heap().left()) run_.Fail("tojson: the text becomes too long");
    switch (value.type()) {
      case Type::kNone: out += "null"; break;
      case Type::kBool: out += value.truth() ? "true" : "false"; break;
      case Type::kInt: out += std::to_string(value.integer()); break;
      case Type::kFloat: out += Number(value.number()); break;
      case Type::kText:
        run_.Step(static_cast<int64_t>(value.bytes().size() / 32));
        AppendJsonText(value.bytes(), form_.ascii, &out);
        break;
      case Type::kList: {
        const List& list = value.list();
        if (list.kind != List::Kind::kList && list.kind != List::Kind::kTuple) Refuse(value);
        out += '[';
        for (size_t i = 0; i < list.items.size(); ++i) {
          Next(i == 0, depth);
          Write(list.items[i], depth + 1);
        }
        End(']', list.items.empty(), depth);
        break;
      }
      case Type::kDict: WriteDict(value.dict(), depth); break;
      default: Refuse(value);
    }
  }

  std::string out;

 private:
  [[noreturn]] void Refuse(const Value& value) {
    run_.Fail(StrCat("tojson: a value of the type ", TypeName(value), " cannot be written as JSON",
                     value.undefined() ? ": " + value.missing().what : ""));
  }

  static std::string Number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return FloatText(value);
  }

  void Line(int depth) {
    if (!form_.indent) return;
    out += '\n';
    for (int i = 0; i < depth; ++i) out += *form_.indent;
  }
  void Next(bool first, int depth) {
    if (!first) out += form_.between;
    Line(depth + 1);
  }
  void End(char bracket, bool empty, int depth) {
    if (!empty) Line(depth);
    out += bracket;
  }

  void WriteDict(const Dict& dict, int depth) {
    std::vector<std::pair<Value, Value>> items = dict.items;
    if (form_.sort_keys)
      std::ranges::stable_sort(
          items, [&](const auto& a, const auto& b) { return run_.Order(a.first, b.first, "tojson: sort_keys") < 0; });
    out += '{';
    bool first = true;
    for (const auto& [key, value] : items) {
      Next(first, depth);
      first = false;
      switch (key.type()) {
        case Type::kText: AppendJsonText(key.bytes(), form_.ascii, &out); break;
        case Type::kNone: out += "\"null\""; break;
        case Type::kBool: out += key.truth() ? "\"true\"" : "\"false\""; break;
        case Type::kInt: out += StrCat("\"", key.integer(), "\""); break;
        case Type::kFloat: out += StrCat("\"", Number(key.number()), "\""); break;
        default: run_.Fail(StrCat("tojson: a key of the type ", TypeName(key)));
      }
      out += form_.behind_key;
      Write(value, depth + 1);
    }
    End('}', items.empty(), depth);
  }

  Run& run_;
  const JsonForm& form_;
};

}  // namespace

Value ToJson(Run& run, const Value& value, CallArgs& args) {
  JsonForm form;
  form.ascii = run.TakeBool(args, 0, "ensure_ascii", false);
  std::vector<Value> sources = {value};  // what the text is made of
  if (const auto indent = args.Take(1, "indent"); indent && !indent->none()) {
    sources.push_back(*indent);
    if (indent->is_text()) {
      form.indent = indent->bytes();
    } else {
      const int64_t width = run.IntOf(*indent, "tojson: indent");
      if (width > 1000) run.Fail("tojson: indent is above 1000");
      form.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
    form.between = ",";
  }
  if (const auto separators = args.Take(2, "separators"); separators && !separators->none()) {
    const std::vector<Value> two = run.Items(*separators);
    if (two.size() != 2) run.Fail("tojson: separators are two texts");
    sources.insert(sources.end(), two.begin(), two.end());
    form.between = run.TextArg(two[0], "tojson: separators").bytes();
    form.behind_key = run.TextArg(two[1], "tojson: separators").bytes();
  }
  form.sort_keys = run.TakeBool(args, 3, "sort_keys", false);
  run.Finish(args, 4);
  JsonWriter writer(run, form);
  writer.Write(value, 0);
  int32_t source = -1;
  for (const Value& part : sources)
    if (source == -1) source = SourceOf(part);
  return run.heap().Text(source == -1 ? MarkedText(std::move(writer.out)) : MarkedText(std::move(writer.out), source));
}

}  // namespace hydra::jinja
