// SPDX-License-Identifier: Apache-2.0
// The tree that a template is parsed into. Names are numbers of the template's table of names. Not here: parsing
// (jinja_parser.h), running (jinja_run.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace hydra::jinja {

// From 1; a column counts bytes.
struct Place {
  int line = 1, column = 1;
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Arguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr list, dict;  // *list, **dict
};

struct Expr {
  enum class Kind {
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kName,       // name
    kList,       // parts
    kTuple,      // parts
    kDict,       // parts: key, value, key, value, ...
    kAttribute,  // parts[0].text
    kItem,       // parts[0][parts[1]]
    kSlice,      // parts: begin, end, step, each may be null
    kCall,       // parts[0](arguments)
    kFilter,     // parts[0] | text(arguments); parts[0] is null in the blocks `filter` and `set`
    kTest,       // parts[0] is text(arguments)
    kNot,        // parts[0]
    kNegative,
    kPositive,
    kAnd,  // parts[0], parts[1]
    kOr,
    kIf,           // parts: test, value, other value or null
    kCompare,      // parts[0] ops[0] parts[1] ops[1] parts[2] ...
    kConcat,       // parts
    kBinary,       // parts[0] text parts[1]
    kNamespaceRef  // name.text, of `set`
  };
  Kind kind = Kind::kNone;
  Place place;
  bool truth = false;
  int64_t integer = 0;
  double number = 0;
  int name = -1;
  int height = 1;  // of the tree below
  std::string text{};
  std::vector<ExprPtr> parts{};
  std::vector<std::string> ops{};
  std::unique_ptr<Arguments> arguments{};
};

struct Stmt;
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

struct Branch {
  ExprPtr test;  // null: else
  Body body;
};
struct Parameter {
  int name = -1;
  std::string text;
  ExprPtr value;  // null: none by default
};

struct Stmt {
  enum class Kind {
    kData,        // text
    kPrint,       // value
    kIf,          // branches
    kFor,         // target, value, test or null, body, otherwise
    kSet,         // target = value
    kSetBlock,    // target, value: filters or null, body
    kMacro,       // name(parameters), body
    kCall,        // value: the call; parameters of its caller, body
    kFilter,      // value: filters, body
    kWith,        // variables, body
    kGeneration,  // body
    kBreak,
    kContinue
  };
  Kind kind = Kind::kData;
  Place place;
  std::string text{};
  int name = -1;
  bool recursive = false;
  bool takes_list = false, takes_dict = false, takes_caller = false;  // of a macro: varargs, kwargs, caller
  ExprPtr target{}, value{}, test{};
  std::vector<Branch> branches{};
  std::vector<Parameter> parameters{};
  std::vector<std::pair<ExprPtr, ExprPtr>> variables{};
  Body body{}, otherwise{};
};

struct Program {
  std::string where;               // what messages call the template
  std::vector<std::string> names;  // by number
  Body body;
};

}  // namespace hydra::jinja
