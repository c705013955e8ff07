// SPDX-License-Identifier: Apache-2.0
// Statements. Expressions: jinja_parser_expr.cc.
#include "hydra/text/jinja_parser.h"

#include <algorithm>
#include <array>

#include "hydra/base/error.h"
#include "hydra/text/jinja_parser_impl.h"

namespace hydra::jinja {

Program Parser::Run() {
  Body body;
  Statements({}, &body);
  program_.body = std::move(body);
  return std::move(program_);
}

int Parser::NameId(const std::string& name) {
  const auto [found, is_new] = ids_.try_emplace(name, static_cast<int>(program_.names.size()));
  if (is_new) program_.names.push_back(name);
  for (MacroNames* macro : macros_) {
    macro->list |= name == "varargs";
    macro->dict |= name == "kwargs";
    macro->caller |= name == "caller";
  }
  return found->second;
}

StmtPtr Parser::New(Stmt::Kind kind) const {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->place = Current().place;
  return stmt;
}

std::string Parser::Shown(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kData: return "text";
    case Token::Kind::kPrintBegin: return "{{";
    case Token::Kind::kPrintEnd: return "}}";
    case Token::Kind::kBlockBegin: return "{%";
    case Token::Kind::kBlockEnd: return "%}";
    case Token::Kind::kText: return StrCat("the text '", token.text.substr(0, 40), "'");
    case Token::Kind::kInt: return StrCat("the number ", token.integer);
    case Token::Kind::kFloat: return StrCat("the number ", token.number);
    case Token::Kind::kEnd: return "the template's end";
    default: return StrCat("\"", token.text.substr(0, 40), "\"");
  }
}

void Parser::EndTag() {
  if (Current().kind != Token::Kind::kBlockEnd) Fail(StrCat("expected %}, found ", Shown(Current())));
  ++at_;
}

// Text, prints and statements up to a tag of `ends`, whose name is then the current token; without any, to the
// template's end.
void Parser::Statements(std::initializer_list<std::string_view> ends, Body* body) {
  const Place begin = Current().place;
  if (++depth_ > kMostDepth) Fail(StrCat("blocks are nested deeper than ", kMostDepth));
  for (;;) {
    switch (Current().kind) {
      case Token::Kind::kEnd:
        if (ends.size() > 0) FailAt(program_.where, begin, StrCat("the end ", *(ends.end() - 1), " is missing"));
        --depth_;
        return;
      case Token::Kind::kData:
        body->push_back(New(Stmt::Kind::kData));
        body->back()->text = tokens_[at_++].text;
        break;
      case Token::Kind::kPrintBegin:
        ++at_;
        body->push_back(New(Stmt::Kind::kPrint));
        body->back()->value = Tuple({.with_if = true});
        if (Current().kind != Token::Kind::kPrintEnd) Fail(StrCat("expected }}, found ", Shown(Current())));
        ++at_;
        break;
      default:
        ++at_;  // {%
        if (std::ranges::any_of(ends, [&](std::string_view end) { return IsName(end); })) {
          --depth_;
          return;
        }
        Statement(body);
        EndTag();
    }
  }
}

// The body of a statement: the rest of its tag's end, then statements up to one of `ends`.
Body Parser::BodyTo(std::initializer_list<std::string_view> ends) {
  (void)SkipOperator(":");
  EndTag();
  Body body;
  Statements(ends, &body);
  return body;
}

void Parser::Statement(Body* body) {
  const Token& tag = Current();
  if (tag.kind != Token::Kind::kName) Fail(StrCat("expected the name of a statement, found ", Shown(tag)));
  using Method = StmtPtr (Parser::*)();
  static constexpr std::array<std::pair<std::string_view, Method>, 10> kStatements = {
      {{"for", &Parser::For},
       {"if", &Parser::If},
       {"set", &Parser::Set},
       {"macro", &Parser::Macro},
       {"call", &Parser::Call},
       {"filter", &Parser::Filter},
       {"with", &Parser::With},
       {"generation", &Parser::Generation},
       {"break", &Parser::LoopControl},
       {"continue", &Parser::LoopControl}}};
  for (const auto& [name, method] : kStatements)
    if (tag.text == name) {
      body->push_back((this->*method)());
      return;
    }
  if (tag.text == "print") {
    ++at_;
    for (bool first = true; Current().kind != Token::Kind::kBlockEnd; first = false) {
      if (!first) ExpectOperator(",");
      body->push_back(New(Stmt::Kind::kPrint));
      body->back()->value = Expression();
    }
    return;
  }
  for (const char* other : {"include", "import", "from", "extends", "block"})
    if (tag.text == other) Fail(StrCat(other, ": a chat template stands alone, without other templates or blocks"));
  Fail(StrCat("unknown statement \"", tag.text.substr(0, 40), "\""));
}

StmtPtr Parser::For() {
  StmtPtr loop = New(Stmt::Kind::kFor);
  ++at_;
  loop->target = Target({.end = "in"});
  ExpectName("in");
  loop->value = Tuple({.with_if = false, .end = "recursive"});
  if (SkipName("if")) loop->test = Expression();
  loop->recursive = SkipName("recursive");
  ++loops_;
  loop->body = BodyTo({"else", "endfor"});
  --loops_;
  const bool has_else = IsName("else");
  ++at_;
  if (has_else) {
    loop->otherwise = BodyTo({"endfor"});
    ++at_;
  }
  return loop;
}

StmtPtr Parser::If() {
  StmtPtr choice = New(Stmt::Kind::kIf);
  for (;;) {
    ++at_;  // if, elif
    ExprPtr test = Tuple({.with_if = false});
    Body body = BodyTo({"elif", "else", "endif"});
    choice->branches.push_back({std::move(test), std::move(body)});
    if (IsName("elif")) continue;
    const bool has_else = IsName("else");
    ++at_;
    if (has_else) {
      choice->branches.push_back({nullptr, BodyTo({"endif"})});
      ++at_;
    }
    return choice;
  }
}

StmtPtr Parser::Set() {
  StmtPtr set = New(Stmt::Kind::kSet);
  ++at_;
  set->target = Target({.with_namespace = true});
  if (SkipOperator("=")) {
    set->value = Tuple({.with_if = true});
    return set;
  }
  set->kind = Stmt::Kind::kSetBlock;
  set->value = FilterChain(nullptr);
  const int loops = std::exchange(loops_, 0);
  set->body = BodyTo({"endset"});
  loops_ = loops;
  ++at_;
  return set;
}

void Parser::Parameters(std::vector<Parameter>* out) {
  ExpectOperator("(");
  while (!SkipOperator(")")) {
    if (!out->empty()) ExpectOperator(",");
    Parameter& parameter = out->emplace_back();
    if (Current().kind != Token::Kind::kName) Fail(StrCat("expected a name, found ", Shown(Current())));
    CheckAssignable(Current());
    parameter.text = Current().text;
    parameter.name = NameId(parameter.text);
    ++at_;
    if (SkipOperator("=")) {
      parameter.value = Expression();
    } else if (out->size() > 1 && (*out)[out->size() - 2].value != nullptr) {
      Fail("a parameter without a default stands behind one that has one");
    }
  }
}

// Parameters and a body that is called like a function.
void Parser::FunctionBody(Stmt* stmt, std::string_view end, bool has_parameters) {
  MacroNames names;
  macros_.push_back(&names);
  if (has_parameters) Parameters(&stmt->parameters);
  if (stmt->kind == Stmt::Kind::kCall) stmt->value = Expression();
  const int loops = std::exchange(loops_, 0);
  stmt->body = BodyTo({end});
  loops_ = loops;
  ++at_;
  macros_.pop_back();
  const auto declared = [&](const char* name) {
    return std::ranges::any_of(stmt->parameters, [&](const Parameter& p) { return p.text == name; });
  };
  stmt->takes_list = names.list && !declared("varargs");
  stmt->takes_dict = names.dict && !declared("kwargs");
  stmt->takes_caller = names.caller && !declared("caller");
}

StmtPtr Parser::Macro() {
  StmtPtr macro = New(Stmt::Kind::kMacro);
  ++at_;
  if (Current().kind != Token::Kind::kName) Fail(StrCat("expected the macro's name, found ", Shown(Current())));
  CheckAssignable(Current());
  macro->text = Current().text;
  macro->name = NameId(macro->text);
  ++at_;
  FunctionBody(macro.get(), "endmacro", true);
  return macro;
}

StmtPtr Parser::Call() {
  StmtPtr call = New(Stmt::Kind::kCall);
  ++at_;
  FunctionBody(call.get(), "endcall", IsOperator("("));
  if (call->value->kind != Expr::Kind::kCall) FailAt(program_.where, call->place, "call: expected a call");
  return call;
}

StmtPtr Parser::Filter() {
  StmtPtr filter = New(Stmt::Kind::kFilter);
  ++at_;
  filter->value = FilterChain(FirstFilter());
  const int loops = std::exchange(loops_, 0);
  filter->body = BodyTo({"endfilter"});
  loops_ = loops;
  ++at_;
  return filter;
}

StmtPtr Parser::With() {
  StmtPtr with = New(Stmt::Kind::kWith);
  ++at_;
  while (Current().kind != Token::Kind::kBlockEnd && !IsOperator(":")) {
    if (!with->variables.empty()) ExpectOperator(",");
    ExprPtr target = Target({});
    ExpectOperator("=");
    with->variables.emplace_back(std::move(target), Expression());
  }
  with->body = BodyTo({"endwith"});
  ++at_;
  return with;
}

StmtPtr Parser::Generation() {
  StmtPtr generation = New(Stmt::Kind::kGeneration);
  ++at_;
  const int loops = std::exchange(loops_, 0);
  generation->body = BodyTo({"endgeneration"});
  loops_ = loops;
  ++at_;
  return generation;
}

StmtPtr Parser::LoopControl() {
  StmtPtr control = New(IsName("break") ? Stmt::Kind::kBreak : Stmt::Kind::kContinue);
  if (loops_ == 0) Fail(StrCat(Current().text, ": is not within a loop"));
  ++at_;
  return control;
}

Program ParseProgram(std::string_view text, const std::string& where) { return Parser(text, where).Run(); }

}  // namespace hydra::jinja
