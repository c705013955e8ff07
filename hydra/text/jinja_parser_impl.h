// SPDX-License-Identifier: Apache-2.0
// The parser's class, for its two halves: statements and expressions. Not here: what others include (jinja_parser.h).
#pragma once

#include <algorithm>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydra/text/jinja_ast.h"
#include "hydra/text/jinja_lexer.h"

namespace hydra::jinja {

class Parser {
 public:
  Parser(std::string_view text, const std::string& where) : tokens_(Tokenize(text, where)) { program_.where = where; }
  Program Run();

 private:
  static constexpr int kMostDepth = 100;   // of blocks
  static constexpr int kMostHeight = 200;  // of an expression

  // ---- Tokens ----
  [[nodiscard]] const Token& Current() const { return tokens_[at_]; }
  [[nodiscard]] const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  [[noreturn]] void Fail(const std::string& what) const { FailAt(program_.where, Current().place, what); }
  [[nodiscard]] static std::string Shown(const Token& token);
  [[nodiscard]] bool IsName(std::string_view name) const {
    return Current().kind == Token::Kind::kName && Current().text == name;
  }
  [[nodiscard]] bool IsOperator(std::string_view op) const {
    return Current().kind == Token::Kind::kOperator && Current().text == op;
  }
  bool SkipName(std::string_view name) { return IsName(name) && ++at_ > 0; }
  bool SkipOperator(std::string_view op) { return IsOperator(op) && ++at_ > 0; }
  void ExpectName(std::string_view name);
  void ExpectOperator(std::string_view op);
  void EndTag();

  // ---- Statements ----
  [[nodiscard]] StmtPtr New(Stmt::Kind kind) const;
  int NameId(const std::string& name);
  void Statements(std::initializer_list<std::string_view> ends, Body* body);
  [[nodiscard]] Body BodyTo(std::initializer_list<std::string_view> ends);
  void Statement(Body* body);
  StmtPtr For();
  StmtPtr If();
  StmtPtr Set();
  StmtPtr Macro();
  StmtPtr Call();
  StmtPtr Filter();
  StmtPtr With();
  StmtPtr Generation();
  StmtPtr LoopControl();
  void Parameters(std::vector<Parameter>* out);
  void FunctionBody(Stmt* stmt, std::string_view end, bool has_parameters);

  // ---- Expressions ----
  struct TupleOptions {
    bool with_if = true;
    bool parentheses = false;     // () is a tuple
    bool simple = false;          // names and literals, as targets are
    bool with_namespace = false;  // of a target: name.attribute
    std::string_view end{};       // a name that ends it too
  };
  [[nodiscard]] ExprPtr NewExpr(Expr::Kind kind) const;
  // Takes the parts, and checks the height.
  [[nodiscard]] ExprPtr Grown(ExprPtr expr, std::vector<ExprPtr> parts) const;
  template <class... Parts>
  [[nodiscard]] ExprPtr Build(ExprPtr expr, Parts... parts) const {
    std::vector<ExprPtr> list;
    (list.push_back(std::move(parts)), ...);
    return Grown(std::move(expr), std::move(list));
  }
  void CheckHeight(Expr* expr, const Expr* below) const;
  void CheckAssignable(const Token& token) const;
  [[nodiscard]] ExprPtr Target(TupleOptions options);
  [[nodiscard]] ExprPtr Tuple(const TupleOptions& options);
  [[nodiscard]] ExprPtr Expression() { return Condition(); }
  ExprPtr Condition();
  ExprPtr Or();
  ExprPtr And();
  ExprPtr Not();
  ExprPtr Compare();
  ExprPtr Sum();
  ExprPtr Concat();
  ExprPtr Product();
  ExprPtr Power();
  ExprPtr Unary(bool with_filter);
  ExprPtr Primary(bool with_namespace);
  ExprPtr ListOf();
  ExprPtr DictOf();
  ExprPtr Postfix(ExprPtr expr);
  ExprPtr FilterAndTests(ExprPtr expr);
  ExprPtr Subscript(ExprPtr expr);
  ExprPtr Subscribed();
  ExprPtr CallOf(ExprPtr expr);
  ExprPtr FilterChain(ExprPtr expr);
  ExprPtr FirstFilter();
  ExprPtr FilterOf(ExprPtr expr);
  ExprPtr TestOf(ExprPtr expr);
  std::string DottedName();
  std::unique_ptr<Arguments> ArgumentList(Expr* owner);

  struct MacroNames {
    bool list = false, dict = false, caller = false;
  };
  Program program_;
  std::vector<Token> tokens_;
  std::map<std::string, int> ids_;
  std::vector<MacroNames*> macros_;  // those around
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0, nested_ = 0;
};

}  // namespace hydra::jinja
