// SPDX-License-Identifier: Apache-2.0
// One run of a template: its variables, its bounds, and what Python's operators do with its values. Errors name the
// place in the template that was being evaluated. Not here: parsing (jinja_parser.h), values (jinja_value.h).
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydra/text/jinja.h"
#include "hydra/text/jinja_ast.h"
#include "hydra/text/jinja_value.h"

namespace hydra::jinja {

// What a function is called with.
struct CallArgs {
  std::string_view callee;
  std::vector<Value> positional{};
  std::vector<std::pair<std::string, Value>> named{};
  int32_t source = -1;  // of names that are marked

  [[nodiscard]] MarkedText NameText(const std::string& name) const {
    return source == -1 ? MarkedText(name) : MarkedText(name, source);
  }
  // The parameter at a place or of a name, which is then used up.
  [[nodiscard]] std::optional<Value> Take(size_t place, std::string_view name);
};

using Test = bool (*)(Run&, const Value& self, CallArgs& args);
// Null where there is none of that name.
[[nodiscard]] Function FindFilter(std::string_view name);
[[nodiscard]] Test FindTest(std::string_view name);
struct Method {
  std::string_view name;
  Function function;  // null: Python has it, and it would change its object: the sandbox refuses it
};
// Of texts, lists, dicts, loops, cyclers; null where there is none of that name.
[[nodiscard]] const Method* FindMethod(const Value& self, std::string_view name);
// range, namespace, raise_exception, ...
[[nodiscard]] std::optional<Callable> FindGlobal(std::string_view name);

class Run {
 public:
  Run(const Program& program, std::span<const JinjaVariable> variables, const JinjaOptions& options);
  [[nodiscard]] MarkedText Render();

  [[nodiscard]] Heap& heap() { return heap_; }
  [[nodiscard]] std::time_t now() const { return now_; }
  // Throws where the run has taken too many steps.
  void Step(int64_t steps = 1);
  [[noreturn]] void Fail(const std::string& what) const;

  // ---- Python's operators (jinja_ops.cc) ----
  [[nodiscard]] MarkedText Str(const Value& value);
  // str() as a value: texts stay the same.
  [[nodiscard]] Value StrValue(const Value& value);
  [[nodiscard]] std::string Repr(const Value& value);
  // A text of our making about a value: marked where the value has marked texts.
  [[nodiscard]] Value TextAbout(std::string text, const Value& value);
  [[nodiscard]] std::vector<Value> Items(const Value& value);  // iter()
  [[nodiscard]] int64_t Length(const Value& value);
  [[nodiscard]] bool Equals(const Value& a, const Value& b);
  // < 0, 0, > 0
  [[nodiscard]] int Order(const Value& a, const Value& b, const char* op);
  [[nodiscard]] bool Contains(const Value& container, const Value& value);
  [[nodiscard]] bool Compare(const std::string& op, const Value& a, const Value& b);
  [[nodiscard]] Value Binary(const std::string& op, const Value& a, const Value& b);
  [[nodiscard]] Value Attribute(const Value& object, std::string_view name);
  [[nodiscard]] Value Item(const Value& object, const Value& key);
  [[nodiscard]] Value Slice(const Value& object, std::span<const Value> bounds);

  // ---- Calls ----
  [[nodiscard]] Value Call(const Value& callee, CallArgs& args);
  [[nodiscard]] Value Filter(std::string_view name, const Value& input, CallArgs& args);
  [[nodiscard]] bool IsTrue(std::string_view test, const Value& input, CallArgs& args);
  // Parameters as functions take them; Finish throws where arguments are left.
  [[nodiscard]] Value Take(CallArgs& args, size_t place, std::string_view name);
  [[nodiscard]] int64_t TakeInt(CallArgs& args, size_t place, std::string_view name, std::optional<int64_t> missing);
  [[nodiscard]] bool TakeBool(CallArgs& args, size_t place, std::string_view name, bool missing);
  void Finish(const CallArgs& args, size_t parameters) const;
  [[nodiscard]] int64_t IntOf(const Value& value, std::string_view what) const;
  [[nodiscard]] const MarkedText& TextArg(const Value& value, std::string_view what) const;

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // ---- Statements (jinja_run.cc) ----
  Flow Execute(const Body& body, Scope* scope, MarkedText* out);
  Flow Execute(const Stmt& stmt, Scope* scope, MarkedText* out);
  Flow For(const Stmt& stmt, Scope* scope, const Value& over, int64_t depth, MarkedText* out);
  void CallBlock(const Stmt& stmt, Scope* scope, MarkedText* out);
  void Assign(const Expr& target, const Value& value, Scope* scope);
  // Text that a block makes, within a scope of its own.
  [[nodiscard]] MarkedText Captured(const Body& body, Scope* scope);
  [[nodiscard]] Value CallMacro(const Callable& macro, CallArgs& args);
  [[nodiscard]] Value CallLoop(Loop& loop, CallArgs& args);
  // A method of a text that is markup: what comes in is escaped, what comes out is markup.
  [[nodiscard]] Value CallOnMarkup(const Callable& method, CallArgs& args);

  // ---- Expressions (jinja_run_expr.cc) ----
  [[nodiscard]] Value Evaluate(const Expr& expr, Scope* scope);
  [[nodiscard]] Value EvaluateAt(const Expr& expr, Scope* scope);
  [[nodiscard]] Value Name(const Expr& expr, Scope* scope);
  [[nodiscard]] Value Constant(const Expr& expr);
  [[nodiscard]] Value CompareChain(const Expr& expr, Scope* scope);
  [[nodiscard]] Value Filters(const Expr& chain, const Value& input, Scope* scope);
  [[nodiscard]] CallArgs EvaluateArguments(const Arguments& arguments, std::string_view callee, Scope* scope);

  [[nodiscard]] Value UndefinedMember(const Value& object, std::string_view name);
  [[nodiscard]] std::optional<Value> LoopMember(Loop& loop, std::string_view name);
  [[nodiscard]] Value Arithmetic(const std::string& op, const Value& a, const Value& b);
  [[nodiscard]] Value IntArithmetic(const std::string& op, int64_t a, int64_t b);
  [[nodiscard]] Value Repeated(const Value& what, int64_t times);
  void AppendRepr(const Value& value, std::string* out);

  const Program& program_;
  Heap heap_;
  std::time_t now_;
  int64_t steps_left_;
  Scope root_;
  Place place_;
  int depth_ = 0;
};

// tojson (jinja_json.cc), % and format (jinja_format.cc)
[[nodiscard]] Value ToJson(Run& run, const Value& value, CallArgs& args);
[[nodiscard]] Value FormatPercent(Run& run, const MarkedText& format, const Value& values);
[[nodiscard]] Value FormatBraces(Run& run, const MarkedText& format, CallArgs& args);
// Whether anything within a value is marked; its source, or -1.
[[nodiscard]] int32_t SourceOf(const Value& value);

}  // namespace hydra::jinja
