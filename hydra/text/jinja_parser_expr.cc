// SPDX-License-Identifier: Apache-2.0
// Expressions, from the loosest to the tightest: a if b, or, and, not, comparisons, + -, ~, * / // %, **, signs, then
// what stands behind a value: .name [item] (call) |filter is test. Statements: jinja_parser.cc.
#include <algorithm>
#include <memory>

#include "hydra/base/error.h"
#include "hydra/text/jinja_parser_impl.h"

namespace hydra::jinja {
namespace {

// Recursion is bounded before the tree is there.
class Nested {
 public:
  explicit Nested(int* depth) : depth_(depth) { ++*depth_; }
  ~Nested() { --*depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;

 private:
  int* depth_;
};

}  // namespace

void Parser::ExpectName(std::string_view name) {
  if (!SkipName(name)) Fail(StrCat("expected \"", name, "\", found ", Shown(Current())));
}

void Parser::ExpectOperator(std::string_view op) {
  if (!SkipOperator(op)) Fail(StrCat("expected \"", op, "\", found ", Shown(Current())));
}

ExprPtr Parser::NewExpr(Expr::Kind kind) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->place = Current().place;
  return expr;
}

void Parser::CheckHeight(Expr* expr, const Expr* below) const {
  if (below == nullptr) return;
  expr->height = std::max(expr->height, below->height + 1);
  if (expr->height > kMostHeight)
    FailAt(program_.where, expr->place, StrCat("an expression is nested deeper than ", kMostHeight));
}

ExprPtr Parser::Grown(ExprPtr expr, std::vector<ExprPtr> parts) const {
  for (const ExprPtr& part : parts) CheckHeight(expr.get(), part.get());
  expr->parts = std::move(parts);
  return expr;
}

void Parser::CheckAssignable(const Token& token) const {
  for (const char* word : {"true", "false", "none", "True", "False", "None"})
    if (token.text == word) FailAt(program_.where, token.place, StrCat("cannot assign to ", token.text));
}

ExprPtr Parser::Target(TupleOptions options) {
  options.simple = true;
  ExprPtr target = Tuple(options);
  const auto assignable = [](const Expr& e) {
    return e.kind == Expr::Kind::kName || e.kind == Expr::Kind::kNamespaceRef;
  };
  bool good = assignable(*target);
  if (target->kind == Expr::Kind::kTuple) {
    good = !target->parts.empty();
    for (const ExprPtr& part : target->parts) good = good && (assignable(*part) || part->kind == Expr::Kind::kTuple);
  }
  if (!good) FailAt(program_.where, target->place, "cannot assign to this");
  return target;
}

ExprPtr Parser::Tuple(const TupleOptions& options) {
  ExprPtr tuple = NewExpr(Expr::Kind::kTuple);
  std::vector<ExprPtr> parts;
  bool is_tuple = false;
  const auto at_end = [&] {
    return Current().kind == Token::Kind::kPrintEnd || Current().kind == Token::Kind::kBlockEnd || IsOperator(")") ||
           (!options.end.empty() && IsName(options.end));
  };
  for (;;) {
    if (!parts.empty()) ExpectOperator(",");
    if (at_end()) break;
    parts.push_back(options.simple ? Primary(options.with_namespace) : options.with_if ? Condition() : Or());
    if (!IsOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !parts.empty()) return std::move(parts[0]);
  if (!is_tuple && !options.parentheses) Fail(StrCat("expected an expression, found ", Shown(Current())));
  return Grown(std::move(tuple), std::move(parts));
}

ExprPtr Parser::Condition() {
  const Nested nested(&nested_);
  if (nested_ > kMostHeight) Fail(StrCat("an expression is nested deeper than ", kMostHeight));
  ExprPtr value = Or();
  while (IsName("if")) {
    ExprPtr choice = NewExpr(Expr::Kind::kIf);
    ++at_;
    ExprPtr test = Or();
    ExprPtr other = SkipName("else") ? Condition() : nullptr;
    choice = Build(std::move(choice), std::move(test), std::move(value), std::move(other));
    value = std::move(choice);
  }
  return value;
}

ExprPtr Parser::Or() {
  ExprPtr left = And();
  while (IsName("or")) {
    ExprPtr both = NewExpr(Expr::Kind::kOr);
    ++at_;
    ExprPtr right = And();
    left = Build(std::move(both), std::move(left), std::move(right));
  }
  return left;
}

ExprPtr Parser::And() {
  ExprPtr left = Not();
  while (IsName("and")) {
    ExprPtr both = NewExpr(Expr::Kind::kAnd);
    ++at_;
    ExprPtr right = Not();
    left = Build(std::move(both), std::move(left), std::move(right));
  }
  return left;
}

ExprPtr Parser::Not() {
  if (!IsName("not")) return Compare();
  const Nested nested(&nested_);
  if (nested_ > kMostHeight) Fail(StrCat("an expression is nested deeper than ", kMostHeight));
  ExprPtr negated = NewExpr(Expr::Kind::kNot);
  ++at_;
  return Build(std::move(negated), Not());
}

ExprPtr Parser::Compare() {
  ExprPtr compare = NewExpr(Expr::Kind::kCompare);
  std::vector<ExprPtr> parts;
  parts.push_back(Sum());
  for (;;) {
    std::string op;
    for (const char* known : {"==", "!=", "<", "<=", ">", ">="})
      if (IsOperator(known)) op = known;
    if (IsName("in")) op = "in";
    const bool not_in = IsName("not") && Next().kind == Token::Kind::kName && Next().text == "in";
    if (not_in) op = "not in";
    if (op.empty()) break;
    at_ += not_in ? 2 : 1;
    compare->ops.push_back(op);
    parts.push_back(Sum());
  }
  if (parts.size() == 1) return std::move(parts[0]);
  return Grown(std::move(compare), std::move(parts));
}

ExprPtr Parser::Sum() {
  ExprPtr left = Concat();
  while (IsOperator("+") || IsOperator("-")) {
    ExprPtr sum = NewExpr(Expr::Kind::kBinary);
    sum->text = Current().text;
    ++at_;
    ExprPtr right = Concat();
    left = Build(std::move(sum), std::move(left), std::move(right));
  }
  return left;
}

ExprPtr Parser::Concat() {
  ExprPtr concat = NewExpr(Expr::Kind::kConcat);
  std::vector<ExprPtr> parts;
  parts.push_back(Product());
  while (SkipOperator("~")) parts.push_back(Product());
  if (parts.size() == 1) return std::move(parts[0]);
  return Grown(std::move(concat), std::move(parts));
}

ExprPtr Parser::Product() {
  ExprPtr left = Power();
  while (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%")) {
    ExprPtr product = NewExpr(Expr::Kind::kBinary);
    product->text = Current().text;
    ++at_;
    ExprPtr right = Power();
    left = Build(std::move(product), std::move(left), std::move(right));
  }
  return left;
}

ExprPtr Parser::Power() {
  ExprPtr left = Unary(true);
  while (IsOperator("**")) {
    ExprPtr power = NewExpr(Expr::Kind::kBinary);
    power->text = "**";
    ++at_;
    ExprPtr right = Unary(true);
    left = Build(std::move(power), std::move(left), std::move(right));
  }
  return left;
}

ExprPtr Parser::Unary(bool with_filter) {
  ExprPtr value;
  if (IsOperator("-") || IsOperator("+")) {
    const Nested nested(&nested_);
    if (nested_ > kMostHeight) Fail(StrCat("an expression is nested deeper than ", kMostHeight));
    ExprPtr sign = NewExpr(IsOperator("-") ? Expr::Kind::kNegative : Expr::Kind::kPositive);
    ++at_;
    value = Build(std::move(sign), Unary(false));
  } else {
    value = Primary(false);
  }
  value = Postfix(std::move(value));
  return with_filter ? FilterAndTests(std::move(value)) : std::move(value);
}

ExprPtr Parser::Primary(bool with_namespace) {
  const Token& token = Current();
  switch (token.kind) {
    case Token::Kind::kName: {
      const bool truth = token.text == "true" || token.text == "True";
      if (truth || token.text == "false" || token.text == "False") {
        ExprPtr value = NewExpr(Expr::Kind::kBool);
        value->truth = truth;
        return ++at_, std::move(value);
      }
      if (token.text == "none" || token.text == "None") {
        ExprPtr value = NewExpr(Expr::Kind::kNone);
        return ++at_, std::move(value);
      }
      ExprPtr name = NewExpr(Expr::Kind::kName);
      name->text = token.text;
      name->name = NameId(token.text);
      ++at_;
      if (with_namespace && SkipOperator(".")) {
        if (Current().kind != Token::Kind::kName) Fail(StrCat("expected a name, found ", Shown(Current())));
        name->kind = Expr::Kind::kNamespaceRef;
        name->ops.push_back(name->text);
        name->text = Current().text;
        ++at_;
      }
      return name;
    }
    case Token::Kind::kText: {
      ExprPtr text = NewExpr(Expr::Kind::kText);
      for (; Current().kind == Token::Kind::kText; ++at_) text->text += Current().text;
      return text;
    }
    case Token::Kind::kInt:
    case Token::Kind::kFloat: {
      ExprPtr number = NewExpr(token.kind == Token::Kind::kInt ? Expr::Kind::kInt : Expr::Kind::kFloat);
      number->integer = token.integer;
      number->number = token.number;
      return ++at_, std::move(number);
    }
    default: break;
  }
  if (SkipOperator("(")) {
    const Nested nested(&nested_);
    if (nested_ > kMostHeight) Fail(StrCat("an expression is nested deeper than ", kMostHeight));
    ExprPtr inner = Tuple({.with_if = true, .parentheses = true});
    ExpectOperator(")");
    return inner;
  }
  if (IsOperator("[")) return ListOf();
  if (IsOperator("{")) return DictOf();
  Fail(StrCat("expected an expression, found ", Shown(token)));
}

ExprPtr Parser::ListOf() {
  ExprPtr list = NewExpr(Expr::Kind::kList);
  ++at_;
  std::vector<ExprPtr> parts;
  while (!IsOperator("]")) {
    if (!parts.empty()) ExpectOperator(",");
    if (IsOperator("]")) break;
    parts.push_back(Expression());
  }
  ++at_;
  return Grown(std::move(list), std::move(parts));
}

ExprPtr Parser::DictOf() {
  ExprPtr dict = NewExpr(Expr::Kind::kDict);
  ++at_;
  std::vector<ExprPtr> parts;
  while (!IsOperator("}")) {
    if (!parts.empty()) ExpectOperator(",");
    if (IsOperator("}")) break;
    parts.push_back(Expression());
    ExpectOperator(":");
    parts.push_back(Expression());
  }
  ++at_;
  return Grown(std::move(dict), std::move(parts));
}

ExprPtr Parser::Postfix(ExprPtr expr) {
  for (;;) {
    if (IsOperator(".") || IsOperator("[")) {
      expr = Subscript(std::move(expr));
    } else if (IsOperator("(")) {
      expr = CallOf(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr Parser::FilterAndTests(ExprPtr expr) {
  for (;;) {
    if (IsOperator("|")) {
      expr = FilterChain(std::move(expr));
    } else if (IsName("is")) {
      expr = TestOf(std::move(expr));
    } else if (IsOperator("(")) {
      expr = CallOf(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr Parser::Subscript(ExprPtr expr) {
  ExprPtr item = NewExpr(Expr::Kind::kItem);
  if (SkipOperator(".")) {
    if (Current().kind == Token::Kind::kName) {
      item->kind = Expr::Kind::kAttribute;
      item->text = Current().text;
      ++at_;
      item = Build(std::move(item), std::move(expr));
    } else if (Current().kind == Token::Kind::kInt) {
      item = Build(std::move(item), std::move(expr), Primary(false));
    } else {
      Fail(StrCat("expected a name or a number behind the dot, found ", Shown(Current())));
    }
    return item;
  }
  ExpectOperator("[");
  ExprPtr tuple = NewExpr(Expr::Kind::kTuple);
  std::vector<ExprPtr> parts;
  while (!IsOperator("]")) {
    if (!parts.empty()) ExpectOperator(",");
    parts.push_back(Subscribed());
  }
  ++at_;
  ExprPtr index = parts.size() == 1 ? std::move(parts[0]) : Grown(std::move(tuple), std::move(parts));
  return Build(std::move(item), std::move(expr), std::move(index));
}

ExprPtr Parser::Subscribed() {
  ExprPtr slice = NewExpr(Expr::Kind::kSlice);
  ExprPtr begin, end, step;
  if (!SkipOperator(":")) {
    begin = Expression();
    if (!SkipOperator(":")) return begin;
  }
  const auto bare = [&] { return IsOperator("]") || IsOperator(",") || IsOperator(":"); };
  if (!bare()) end = Expression();
  if (SkipOperator(":") && !bare()) step = Expression();
  return Build(std::move(slice), std::move(begin), std::move(end), std::move(step));
}

std::unique_ptr<Arguments> Parser::ArgumentList(Expr* owner) {
  auto arguments = std::make_unique<Arguments>();
  ExpectOperator("(");
  for (bool first = true; !IsOperator(")"); first = false) {
    if (!first) ExpectOperator(",");
    if (IsOperator(")")) break;
    const auto require = [&](bool ok) {
      if (!ok) Fail("arguments stand in a wrong order");
    };
    ExprPtr value;
    if (SkipOperator("*")) {
      require(!arguments->list && !arguments->dict);
      CheckHeight(owner, (arguments->list = Expression()).get());
    } else if (SkipOperator("**")) {
      require(!arguments->dict);
      CheckHeight(owner, (arguments->dict = Expression()).get());
    } else if (Current().kind == Token::Kind::kName && Next().kind == Token::Kind::kOperator && Next().text == "=") {
      require(!arguments->dict);
      const std::string name = Current().text;
      at_ += 2;
      value = Expression();
      CheckHeight(owner, value.get());
      arguments->named.emplace_back(name, std::move(value));
    } else {
      require(!arguments->list && !arguments->dict && arguments->named.empty());
      value = Expression();
      CheckHeight(owner, value.get());
      arguments->positional.push_back(std::move(value));
    }
  }
  ++at_;
  return arguments;
}

ExprPtr Parser::CallOf(ExprPtr expr) {
  ExprPtr call = NewExpr(Expr::Kind::kCall);
  call->arguments = ArgumentList(call.get());
  return Build(std::move(call), std::move(expr));
}

std::string Parser::DottedName() {
  std::string name;
  do {
    if (Current().kind != Token::Kind::kName) Fail(StrCat("expected a name, found ", Shown(Current())));
    name += (name.empty() ? "" : ".") + Current().text;
    ++at_;
  } while (SkipOperator("."));
  return name;
}

ExprPtr Parser::FilterOf(ExprPtr expr) {
  ExprPtr filter = NewExpr(Expr::Kind::kFilter);
  filter->text = DottedName();
  filter->arguments = IsOperator("(") ? ArgumentList(filter.get()) : std::make_unique<Arguments>();
  return Build(std::move(filter), std::move(expr));
}

ExprPtr Parser::FirstFilter() { return FilterOf(nullptr); }

ExprPtr Parser::FilterChain(ExprPtr expr) {
  while (SkipOperator("|")) expr = FilterOf(std::move(expr));
  return expr;
}

ExprPtr Parser::TestOf(ExprPtr expr) {
  ++at_;  // is
  const bool negated = SkipName("not");
  ExprPtr test = NewExpr(Expr::Kind::kTest);
  test->text = DottedName();
  test->arguments = std::make_unique<Arguments>();
  const Token::Kind kind = Current().kind;
  if (IsOperator("(")) {
    test->arguments = ArgumentList(test.get());
  } else if ((kind == Token::Kind::kName && !IsName("else") && !IsName("or") && !IsName("and")) ||
             kind == Token::Kind::kText || kind == Token::Kind::kInt || kind == Token::Kind::kFloat ||
             IsOperator("[") || IsOperator("{")) {
    if (IsName("is")) Fail("tests cannot follow one another: use parentheses");
    ExprPtr argument = Postfix(Primary(false));
    CheckHeight(test.get(), argument.get());
    test->arguments->positional.push_back(std::move(argument));
  }
  test = Build(std::move(test), std::move(expr));
  if (!negated) return test;
  ExprPtr all = NewExpr(Expr::Kind::kNot);
  all->place = test->place;
  return Build(std::move(all), std::move(test));
}

}  // namespace hydra::jinja
