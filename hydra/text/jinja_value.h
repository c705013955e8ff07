// SPDX-License-Identifier: Apache-2.0
// Values of a template while it runs: Python's kinds of them, held by a heap that goes with the run and counts what it
// makes. Not here: operators and evaluation (jinja_run.h).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydra/io/json.h"
#include "hydra/text/jinja.h"
#include "hydra/text/jinja_ast.h"
#include "hydra/text/marked_text.h"

namespace hydra::jinja {

struct List;
struct Dict;
struct Callable;
struct Loop;
struct Missing;

enum class Type : uint8_t { kUndefined, kNone, kBool, kInt, kFloat, kText, kList, kDict, kNamespace, kCallable, kLoop };

// Cheap to copy; what it points at lives as long as the heap.
class Value {
 public:
  Value() : type_(Type::kNone), integer_(0) {}
  explicit Value(bool value) : type_(Type::kBool), integer_(value) {}
  explicit Value(int64_t value) : type_(Type::kInt), integer_(value) {}
  explicit Value(double value) : type_(Type::kFloat), number_(value) {}
  explicit Value(const MarkedText* text) : type_(Type::kText), text_(text) {}
  explicit Value(List* list) : type_(Type::kList), list_(list) {}
  explicit Value(Dict* dict, bool is_namespace = false)
      : type_(is_namespace ? Type::kNamespace : Type::kDict), dict_(dict) {}
  explicit Value(const Callable* callable) : type_(Type::kCallable), callable_(callable) {}
  explicit Value(Loop* loop) : type_(Type::kLoop), loop_(loop) {}
  explicit Value(const Missing* missing) : type_(Type::kUndefined), missing_(missing) {}

  [[nodiscard]] Type type() const { return type_; }
  [[nodiscard]] bool Is(Type type) const { return type_ == type; }
  [[nodiscard]] bool undefined() const { return type_ == Type::kUndefined; }
  [[nodiscard]] bool none() const { return type_ == Type::kNone; }
  [[nodiscard]] bool is_text() const { return type_ == Type::kText; }
  // A text that |safe or |escape made: what is added to it is escaped for HTML, as Python's Markup does it.
  [[nodiscard]] bool markup() const { return markup_; }
  [[nodiscard]] Value AsMarkup(bool markup = true) const {
    Value copy = *this;
    copy.markup_ = markup && is_text();
    return copy;
  }
  // bool is a kind of int, as in Python.
  [[nodiscard]] bool is_integer() const { return type_ == Type::kInt || type_ == Type::kBool; }
  [[nodiscard]] bool is_number() const { return is_integer() || type_ == Type::kFloat; }

  [[nodiscard]] bool truth() const { return integer_ != 0; }
  [[nodiscard]] int64_t integer() const { return integer_; }
  [[nodiscard]] double number() const { return type_ == Type::kFloat ? number_ : static_cast<double>(integer_); }
  [[nodiscard]] const MarkedText& text() const { return *text_; }
  [[nodiscard]] const std::string& bytes() const { return text_->bytes(); }
  [[nodiscard]] List& list() const { return *list_; }
  [[nodiscard]] Dict& dict() const { return *dict_; }
  [[nodiscard]] const Callable& callable() const { return *callable_; }
  [[nodiscard]] Loop& loop() const { return *loop_; }
  [[nodiscard]] const Missing& missing() const { return *missing_; }
  // The object behind it, for `is sameas`.
  [[nodiscard]] const void* object() const { return text_; }

 private:
  Type type_;
  bool markup_ = false;
  union {
    int64_t integer_;
    double number_;
    const MarkedText* text_;
    List* list_;
    Dict* dict_;
    const Callable* callable_;
    Loop* loop_;
    const Missing* missing_;
  };
};

// Why a value is undefined: what its use says.
struct Missing {
  std::string what;
};

struct List {
  // kGenerator gives its items once; dict views and ranges have no items by number and other texts.
  enum class Kind : uint8_t { kList, kTuple, kGenerator, kKeys, kValues, kItems, kRange };
  std::vector<Value> items;
  Kind kind = Kind::kList;
  size_t taken = 0;  // of a generator
  int height = 1;    // of the lists and dicts within
};

// Keys in the order in which they came.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int height = 1;
};

struct Scope;
struct CallArgs;
class Run;
using Function = Value (*)(Run&, const Value& self, CallArgs& args);

// A function, a method with its object, a macro, or the body of a `call` block.
struct Callable {
  std::string_view name{};
  Function function = nullptr;  // null: a macro
  Value self{};
  const Stmt* macro = nullptr;
  Scope* scope = nullptr;  // in which the macro stands
};

// Variables by number of their name.
struct Scope {
  Scope* outer = nullptr;
  std::vector<std::pair<int, Value>> values{};
};

struct Loop {
  std::vector<Value> items;
  size_t index = 0;
  int64_t depth = 0;
  const Stmt* stmt = nullptr;  // of a recursive loop
  Scope* scope = nullptr;      // around it
  std::vector<Value> changed{};
  bool asked_changed = false;
};

// Makes and keeps values. Everything counts: a template that makes too much is stopped by Error.
class Heap {
 public:
  explicit Heap(int64_t most_bytes) : left_(most_bytes) {}

  [[nodiscard]] Value Text(MarkedText text);
  [[nodiscard]] Value Text(std::string_view plain) { return Text(MarkedText(std::string(plain))); }
  [[nodiscard]] Value NewList(std::vector<Value> items, List::Kind kind = List::Kind::kList);
  [[nodiscard]] Value NewDict(std::vector<std::pair<Value, Value>> items, bool is_namespace = false);
  [[nodiscard]] Value NewCallable(Callable callable);
  [[nodiscard]] Value NewUndefined(std::string what);
  [[nodiscard]] Loop& NewLoop();
  [[nodiscard]] Scope& NewScope(Scope* outer);
  // What JSON says, texts marked: of the elements of a numbered list by their number.
  [[nodiscard]] Value FromJson(const Json& json, const JinjaVariable& variable);

  // Before something of that size is made. False where it is too much: the run then ends.
  [[nodiscard]] bool Spend(int64_t bytes) { return (left_ -= bytes) >= 0; }
  [[nodiscard]] int64_t left() const { return left_; }

 private:
  struct JsonPlace {
    int32_t source;
    bool is_role = false;
    int depth = 0;
  };
  [[nodiscard]] Value FromJson(const Json& json, const JinjaVariable& variable, JsonPlace place);

  int64_t left_;
  std::deque<MarkedText> texts_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Callable> callables_;
  std::deque<Missing> missing_;
  std::deque<Loop> loops_;
  std::deque<Scope> scopes_;
};

// "str", "list", "int", ...: what messages call a value.
[[nodiscard]] const char* TypeName(const Value& value);
[[nodiscard]] bool Truth(const Value& value);
// The value of a key; null where it has none. `steps` gets what looking took.
[[nodiscard]] const Value* FindKey(const Dict& dict, const Value& key, int64_t* steps);
[[nodiscard]] const Value* FindKey(const Dict& dict, std::string_view key, int64_t* steps);
// Python's ==.
[[nodiscard]] bool Equal(const Value& a, const Value& b, int64_t* steps);

}  // namespace hydra::jinja
