// SPDX-License-Identifier: Apache-2.0
// Running the statements of a template. Expressions: jinja_run_expr.cc.
#include "hydra/text/jinja_run.h"

#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/jinja_parser.h"

namespace hydra {

JinjaTemplate JinjaTemplate::Parse(std::string_view text, const std::string& where) {
  std::string mended;
  return JinjaTemplate(std::make_shared<jinja::Program>(jinja::ParseProgram(MendUtf8(text, mended), where)));
}

MarkedText JinjaTemplate::Render(std::span<const JinjaVariable> variables, const JinjaOptions& options) const {
  return jinja::Run(*program_, variables, options).Render();
}

bool JinjaTemplate::Mentions(std::string_view name) const {
  return std::ranges::find(program_->names, name) != program_->names.end();
}

}  // namespace hydra

namespace hydra::jinja {
namespace {

constexpr int64_t kInputFactor = 32;  // bytes that a template may make for one of its variables
constexpr int kMostRunDepth = 400;    // of evaluation, macros and loops included

// What is nested too deep is refused when it becomes values.
int64_t JsonBytes(const Json& json, int depth = 0) {
  int64_t bytes = 16;
  if (json.is_string()) bytes += static_cast<int64_t>(json.get_ref<const std::string&>().size());
  if (!json.is_structured() || depth > kMostRunDepth) return bytes;
  for (const auto& [key, value] : json.items())
    bytes += (json.is_object() ? static_cast<int64_t>(key.size()) : 0) + JsonBytes(value, depth + 1);
  return bytes;
}

int64_t Budget(std::span<const JinjaVariable> variables, const JinjaOptions& options) {
  int64_t bytes = 0;
  for (const JinjaVariable& variable : variables) bytes += JsonBytes(variable.value);
  return options.most_bytes + kInputFactor * bytes;
}

// Counts a level of recursion.
class Level {
 public:
  explicit Level(int* depth) : depth_(depth) { ++*depth_; }
  ~Level() { --*depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  int* depth_;
};

}  // namespace

std::optional<Value> CallArgs::Take(size_t place, std::string_view name) {
  if (place < positional.size()) return positional[place];
  const auto found = std::ranges::find(named, name, [](const auto& entry) { return std::string_view(entry.first); });
  if (found == named.end()) return std::nullopt;
  const Value value = found->second;
  named.erase(found);
  return value;
}

Run::Run(const Program& program, std::span<const JinjaVariable> variables, const JinjaOptions& options)
    : program_(program),
      heap_(Budget(variables, options)),
      now_(options.now != 0 ? options.now : std::time(nullptr)),
      steps_left_(options.most_steps) {
  for (const JinjaVariable& variable : variables) {
    const auto found = std::ranges::find(program.names, variable.name);
    if (found == program.names.end()) continue;
    root_.values.emplace_back(static_cast<int>(found - program.names.begin()),
                              heap_.FromJson(variable.value, variable));
  }
}

void Run::Step(int64_t steps) {
  if ((steps_left_ -= steps) < 0) Fail("the template takes more steps than it may");
}

void Run::Fail(const std::string& what) const {
  throw Error(ErrorCode::kUsage,
              StrCat(program_.where, ": line ", place_.line, ", column ", place_.column, ": ", what));
}

MarkedText Run::Render() {
  MarkedText out;
  try {
    Execute(program_.body, &root_, &out);
  } catch (const Error& error) {
    if (std::string_view(error.what()).starts_with(program_.where)) throw;
    Fail(error.what());  // of the heap, which knows no place
  }
  return out;
}

Run::Flow Run::Execute(const Body& body, Scope* scope, MarkedText* out) {
  const Level level(&depth_);
  if (depth_ > kMostRunDepth) Fail("macros and blocks are nested too deep");
  for (const StmtPtr& stmt : body)
    if (const Flow flow = Execute(*stmt, scope, out); flow != Flow::kNext) return flow;
  return Flow::kNext;
}

Run::Flow Run::Execute(const Stmt& stmt, Scope* scope, MarkedText* out) {
  Step();
  switch (stmt.kind) {
    case Stmt::Kind::kData:
      if (!heap_.Spend(static_cast<int64_t>(stmt.text.size()))) Fail("the template makes more text than it may");
      out->Append(stmt.text);
      break;
    case Stmt::Kind::kPrint: {
      const Value value = Evaluate(*stmt.value, scope);
      const MarkedText text = Str(value);
      if (!heap_.Spend(static_cast<int64_t>(text.bytes().size()))) Fail("the template makes more text than it may");
      out->Append(text);
      break;
    }
    case Stmt::Kind::kIf:
      for (const Branch& branch : stmt.branches)
        if (branch.test == nullptr || Truth(Evaluate(*branch.test, scope))) return Execute(branch.body, scope, out);
      break;
    case Stmt::Kind::kFor: return For(stmt, scope, Evaluate(*stmt.value, scope), 0, out);
    case Stmt::Kind::kSet: Assign(*stmt.target, Evaluate(*stmt.value, scope), scope); break;
    case Stmt::Kind::kSetBlock: {
      Value text = heap_.Text(Captured(stmt.body, scope));
      if (stmt.value != nullptr) text = Filters(*stmt.value, text, scope);
      Assign(*stmt.target, text, scope);
      break;
    }
    case Stmt::Kind::kMacro: {
      const Value macro = heap_.NewCallable({.name = stmt.text, .macro = &stmt, .scope = scope});
      Expr target;
      target.kind = Expr::Kind::kName;
      target.name = stmt.name;
      Assign(target, macro, scope);
      break;
    }
    case Stmt::Kind::kCall: CallBlock(stmt, scope, out); break;
    case Stmt::Kind::kFilter: {
      const Value text = heap_.Text(Captured(stmt.body, scope));
      out->Append(Str(Filters(*stmt.value, text, scope)));
      break;
    }
    case Stmt::Kind::kWith: {
      Scope& inner = heap_.NewScope(scope);
      for (const auto& [target, value] : stmt.variables) Assign(*target, Evaluate(*value, scope), &inner);
      return Execute(stmt.body, &inner, out);
    }
    case Stmt::Kind::kGeneration: out->Append(Captured(stmt.body, scope)); break;
    case Stmt::Kind::kBreak: return Flow::kBreak;
    case Stmt::Kind::kContinue: return Flow::kContinue;
  }
  return Flow::kNext;
}

MarkedText Run::Captured(const Body& body, Scope* scope) {
  MarkedText text;
  Execute(body, &heap_.NewScope(scope), &text);
  return text;
}

Run::Flow Run::For(const Stmt& stmt, Scope* scope, const Value& over, int64_t depth, MarkedText* out) {
  place_ = stmt.place;
  Loop& loop = heap_.NewLoop();
  loop.items = Items(over);
  if (!heap_.Spend(static_cast<int64_t>(loop.items.size() * sizeof(Value))))
    Fail("the template makes longer lists than it may");
  loop.depth = depth;
  loop.stmt = &stmt;
  loop.scope = scope;
  if (stmt.test != nullptr) {
    std::vector<Value> kept;
    for (const Value& item : loop.items) {
      Scope& inner = heap_.NewScope(scope);
      Assign(*stmt.target, item, &inner);
      if (Truth(Evaluate(*stmt.test, &inner))) kept.push_back(item);
    }
    loop.items = std::move(kept);
  }
  static constexpr std::string_view kLoop = "loop";
  const auto found = std::ranges::find(program_.names, kLoop);
  const int loop_name = found == program_.names.end() ? -1 : static_cast<int>(found - program_.names.begin());
  for (loop.index = 0; loop.index < loop.items.size(); ++loop.index) {
    Step();
    Scope& inner = heap_.NewScope(scope);
    Assign(*stmt.target, loop.items[loop.index], &inner);
    if (loop_name >= 0) inner.values.emplace_back(loop_name, Value(&loop));
    if (Execute(stmt.body, &inner, out) == Flow::kBreak) return Flow::kNext;
  }
  if (loop.items.empty()) return Execute(stmt.otherwise, &heap_.NewScope(scope), out);
  return Flow::kNext;
}

void Run::Assign(const Expr& target, const Value& value, Scope* scope) {
  if (target.kind == Expr::Kind::kName) {
    const auto found = std::ranges::find(scope->values, target.name, [](const auto& entry) { return entry.first; });
    if (found != scope->values.end()) {
      found->second = value;
    } else {
      scope->values.emplace_back(target.name, value);
    }
    return;
  }
  place_ = target.place;
  if (target.kind == Expr::Kind::kNamespaceRef) {
    Expr name;
    name.kind = Expr::Kind::kName;
    name.name = target.name;
    name.text = target.ops[0];
    name.place = target.place;
    const Value space = Evaluate(name, scope);
    if (!space.Is(Type::kNamespace))
      Fail(StrCat("set ", target.ops[0], ".", target.text, ": ", target.ops[0], " is no namespace"));
    auto& items = space.dict().items;
    const auto found = std::ranges::find_if(items, [&](const auto& e) { return e.first.bytes() == target.text; });
    if (found != items.end()) {
      found->second = value;
    } else {
      items.emplace_back(heap_.Text(target.text), value);
    }
    return;
  }
  const std::vector<Value> items = Items(value);
  if (items.size() != target.parts.size())
    Fail(StrCat("cannot unpack ", items.size(), " values into ", target.parts.size(), " names"));
  for (size_t i = 0; i < items.size(); ++i) Assign(*target.parts[i], items[i], scope);
}

void Run::CallBlock(const Stmt& stmt, Scope* scope, MarkedText* out) {
  const Expr& call = *stmt.value;
  const Value callee = Evaluate(*call.parts[0], scope);
  CallArgs args = EvaluateArguments(*call.arguments, call.parts[0]->text, scope);
  args.named.emplace_back("caller", heap_.NewCallable({.name = "caller", .macro = &stmt, .scope = scope}));
  place_ = call.place;
  out->Append(Str(Call(callee, args)));
}

Value Run::CallMacro(const Callable& macro, CallArgs& args) {
  const Stmt& stmt = *macro.macro;
  const Level level(&depth_);
  if (depth_ > kMostRunDepth) Fail(StrCat("macro ", macro.name, ": calls are nested too deep"));
  const Place place = place_;
  Scope& inner = heap_.NewScope(macro.scope);
  const auto bind = [&](std::string_view name, const Value& value) {
    const auto found = std::ranges::find(program_.names, name);
    if (found != program_.names.end())
      inner.values.emplace_back(static_cast<int>(found - program_.names.begin()), value);
  };
  for (size_t i = 0; i < stmt.parameters.size(); ++i) {
    const Parameter& parameter = stmt.parameters[i];
    if (const auto given = args.Take(i, parameter.text)) {
      inner.values.emplace_back(parameter.name, *given);
    } else if (parameter.value != nullptr) {
      inner.values.emplace_back(parameter.name, Evaluate(*parameter.value, &inner));
    } else {
      inner.values.emplace_back(parameter.name,
                                heap_.NewUndefined(StrCat("parameter '", parameter.text, "' was not provided")));
    }
  }
  place_ = place;
  if (stmt.takes_caller) {
    const auto caller = args.Take(SIZE_MAX, "caller");
    bind("caller", caller ? *caller : heap_.NewUndefined("No caller defined"));
  }
  if (stmt.takes_dict) {
    std::vector<std::pair<Value, Value>> rest;
    for (const auto& [name, value] : args.named) rest.emplace_back(heap_.Text(args.NameText(name)), value);
    args.named.clear();
    bind("kwargs", heap_.NewDict(std::move(rest)));
  }
  const size_t n = stmt.parameters.size();
  if (stmt.takes_list) {
    std::vector<Value> rest;
    for (size_t i = n; i < args.positional.size(); ++i) rest.push_back(args.positional[i]);
    bind("varargs", heap_.NewList(std::move(rest), List::Kind::kTuple));
  } else {
    Finish(args, n);
  }
  MarkedText text;
  Execute(stmt.body, &inner, &text);
  place_ = place;
  return heap_.Text(std::move(text));
}

Value Run::CallLoop(Loop& loop, CallArgs& args) {
  if (loop.stmt == nullptr || !loop.stmt->recursive) Fail("loop(...): the loop is not recursive");
  const Value over = Take(args, 0, "iterable");
  Finish(args, 1);
  MarkedText text;
  For(*loop.stmt, loop.scope, over, loop.depth + 1, &text);
  return heap_.Text(std::move(text));
}

}  // namespace hydra::jinja
