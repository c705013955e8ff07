// SPDX-License-Identifier: Apache-2.0
// A stack machine over values that are plain data. Source: CPython's documentation of the pickle protocols 2
// to 5; LibTorch's own writer for the arguments of the tensors.
#include "hydra/convert/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <limits>

#include "hydra/base/utf8.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

constexpr size_t kMaxDims = 8;
constexpr uint64_t kValueMemory = 40;  // of an operation: a value of 16 bytes, in a vector that grows by doubling
constexpr uint64_t kDimsMemory = 2 * (kMaxDims * sizeof(int64_t) + 16);  // of a tensor's shape and strides

// What a name in the file may be. The types of storage follow one another.
enum class Name : uint8_t { kOrderedDict, kRebuildTensor, kRebuildParameter, kStorage };
struct KnownName {
  const char* module;
  const char* name;
  Name what;
  DType dtype = DType::kF32;  // of a storage
};
constexpr KnownName kKnownNames[] = {
    {"collections", "OrderedDict", Name::kOrderedDict},
    {"torch._utils", "_rebuild_tensor_v2", Name::kRebuildTensor},
    {"torch._utils", "_rebuild_parameter", Name::kRebuildParameter},
    {"torch", "FloatStorage", Name::kStorage, DType::kF32},
    {"torch", "HalfStorage", Name::kStorage, DType::kF16},
    {"torch", "BFloat16Storage", Name::kStorage, DType::kBF16},
    {"torch", "DoubleStorage", Name::kStorage, DType::kF64},
    {"torch", "LongStorage", Name::kStorage, DType::kI64},
    {"torch", "IntStorage", Name::kStorage, DType::kI32},
    {"torch", "ShortStorage", Name::kStorage, DType::kI16},
    {"torch", "CharStorage", Name::kStorage, DType::kI8},
    {"torch", "ByteStorage", Name::kStorage, DType::kU8},
    {"torch", "BoolStorage", Name::kStorage, DType::kBool},
};

enum class Kind : uint8_t { kNone, kBool, kInt, kText, kTuple, kList, kDict, kName, kStorage, kTensor, kMark };
constexpr const char* kKindTexts[] = {"None",         "a bool", "a number",  "a text",   "a tuple", "a list",
                                      "a dictionary", "a name", "a storage", "a tensor", "a mark"};

struct Value {
  Kind kind = Kind::kNone;
  uint32_t length = 0;  // of a text, in bytes; of a tuple
  int64_t number = 0;   // itself; of others the place of what it is: in the pickle, or among those of its kind
};

struct Storage {
  std::string_view name;
  DType dtype;
  int64_t size;
};

class Machine {
 public:
  Machine(std::span<const std::byte> pickle, const std::string& where, uint64_t memory)
      : in_(pickle, where), bytes_(pickle), where_(where), memory_(memory) {}

  std::vector<PickledTensor> Run() {
    while (!done_) {
      at_ = in_.pos();
      Charge(kValueMemory);
      Do(in_.U8("opcode"));
    }
    if (in_.left() > 0) Fail(fmt::format("ends here, and {} bytes follow", in_.left()));
    return Tensors();
  }

 private:
  [[noreturn]] void Fail(const std::string& rule) const {
    throw Error(ErrorCode::kFormat, fmt::format("{}: byte {}: {}", where_, at_, rule));
  }
  void Charge(uint64_t bytes) {
    used_ += bytes;
    if (used_ > memory_) Fail("makes more values than a file of its size may have");
  }

  // ---- The stack ----

  void Push(Value value) { stack_.push_back(value); }
  Value Pop() {
    const size_t floor = marks_.empty() ? 0 : marks_.back() + 1;
    if (stack_.size() <= floor) Fail("takes a value where there is none");
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }
  Value Pop(Kind kind) {
    const Value value = Pop();
    if (value.kind != kind) Fail(fmt::format("finds {}: must be {}", TextOf(value.kind), TextOf(kind)));
    return value;
  }
  const Value& Top() {
    const Value value = Pop();
    stack_.push_back(value);
    return stack_.back();
  }
  static const char* TextOf(Kind kind) { return kKindTexts[static_cast<size_t>(kind)]; }

  // What lies above the last mark, which goes with it.
  std::vector<Value> PopMarked() {
    if (marks_.empty()) Fail("takes values up to a mark where there is none");
    const auto first = stack_.begin() + static_cast<ptrdiff_t>(marks_.back()) + 1;
    std::vector<Value> values(first, stack_.end());
    stack_.erase(first - 1, stack_.end());
    marks_.pop_back();
    return values;
  }

  // ---- What values stand for ----

  void PushText(uint64_t length) {
    const std::string_view text = in_.Text(length, "text");
    const auto begin = static_cast<int64_t>(reinterpret_cast<const std::byte*>(text.data()) - bytes_.data());
    if (length > std::numeric_limits<uint32_t>::max()) Fail(fmt::format("has a text of {} bytes", length));
    Push({Kind::kText, static_cast<uint32_t>(length), begin});
  }
  [[nodiscard]] std::string_view Text(const Value& value) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + value.number, value.length};
  }
  void PushTuple(std::span<const Value> values) {
    const auto begin = static_cast<int64_t>(tuples_.size());
    Charge(values.size() * kValueMemory);
    tuples_.insert(tuples_.end(), values.begin(), values.end());
    Push({Kind::kTuple, static_cast<uint32_t>(values.size()), begin});
  }
  void PushTupleOf(size_t n) {
    std::array<Value, 3> values;
    for (size_t i = n; i-- > 0;) values[i] = Pop();
    PushTuple(std::span(values).first(n));
  }
  [[nodiscard]] std::span<const Value> Items(const Value& tuple) const {
    return std::span(tuples_).subspan(static_cast<size_t>(tuple.number), tuple.length);
  }
  void PushContainer(Kind kind) {
    Push({kind, 0, static_cast<int64_t>(containers_.size())});
    containers_.emplace_back();
  }
  // Adds to the container that lies on top.
  void Extend(Kind kind, std::span<const Value> values) {
    const Value container = Top();
    if (container.kind != kind) Fail(fmt::format("adds to {}: must be {}", TextOf(container.kind), TextOf(kind)));
    if (kind == Kind::kDict && values.size() % 2 != 0) Fail("has a key without a value");
    Charge(values.size() * kValueMemory);
    std::vector<Value>& to = containers_[static_cast<size_t>(container.number)];
    to.insert(to.end(), values.begin(), values.end());
  }

  void PushLong() {
    const uint8_t n = in_.U8("length of a number");
    if (n > 8) Fail(fmt::format("has a number of {} bytes: must be at most 8", n));
    const auto bytes = in_.Bytes(n, "number");
    uint64_t value = n > 0 && (static_cast<uint8_t>(bytes.back()) & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = n; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
    Push({Kind::kInt, 0, static_cast<int64_t>(value)});
  }

  std::string_view Line() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + in_.pos(), in_.left());
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos) Fail("has a line without an end");
    in_.Skip(end + 1, "line");
    return rest.substr(0, end);
  }
  void PushName(std::string_view module, std::string_view name) {
    for (const KnownName& known : kKnownNames) {
      if (module != known.module || name != known.name) continue;
      return Push({Kind::kName, 0, &known - kKnownNames});
    }
    Fail(fmt::format("global {}.{}: a state_dict of tensors has no such name; nothing of the file was executed",
                     OneLine(module, 60), OneLine(name, 60)));
  }
  [[nodiscard]] const KnownName& NameOf(const Value& value) const { return kKnownNames[value.number]; }

  void Remember(uint64_t index) {
    if (index > memo_.size()) Fail(fmt::format("keeps a value as {}: the next one is {}", index, memo_.size()));
    const Value value = Top();
    if (index == memo_.size()) {
      Charge(kValueMemory);
      memo_.push_back(value);
    } else {
      memo_[index] = value;
    }
  }
  void Recall(uint64_t index) {
    if (index >= memo_.size()) Fail(fmt::format("asks for value {}: {} were kept", index, memo_.size()));
    Push(memo_[index]);
  }

  // ---- Operations ----

  void Do(uint8_t op) {
    switch (op) {
      case 0x80: return Protocol();
      case 0x95: return Frame();
      case '.': done_ = true; return;
      case 'c': {
        const std::string_view module = Line();
        return PushName(module, Line());
      }
      case 0x93: {
        const Value name = Pop(Kind::kText), module = Pop(Kind::kText);
        return PushName(Text(module), Text(name));
      }
      case 'q': return Remember(in_.U8("index"));
      case 'r': return Remember(in_.U32("index"));
      case 0x94: return Remember(memo_.size());
      case 'h': return Recall(in_.U8("index"));
      case 'j': return Recall(in_.U32("index"));
      case ')': return PushTuple({});
      case 't': return PushTuple(PopMarked());
      case 0x85:
      case 0x86:
      case 0x87: return PushTupleOf(op - 0x84);
      case '(': marks_.push_back(stack_.size()); return Push({Kind::kMark, 0, 0});
      case 'X': return PushText(in_.U32("length of a text"));
      case 0x8c: return PushText(in_.U8("length of a text"));
      case 'J': return Push({Kind::kInt, 0, in_.I32("number")});
      case 'K': return Push({Kind::kInt, 0, in_.U8("number")});
      case 'M': return Push({Kind::kInt, 0, in_.U16("number")});
      case 0x8a: return PushLong();
      case 0x88: return Push({Kind::kBool, 0, 1});
      case 0x89: return Push({Kind::kBool, 0, 0});
      case 'N': return Push({});
      case 'Q': return PushStorage();
      case 'R': return Call();
      case 'b': return SetAttributes();
      case '}': return PushContainer(Kind::kDict);
      case ']': return PushContainer(Kind::kList);
      case 's': {
        const Value value = Pop(), key = Pop();
        const std::array<Value, 2> entry = {key, value};
        return Extend(Kind::kDict, entry);
      }
      case 'u': return Extend(Kind::kDict, PopMarked());
      case 'a': {
        const Value value = Pop();
        return Extend(Kind::kList, std::span(&value, 1));
      }
      case 'e': return Extend(Kind::kList, PopMarked());
      default: Fail(fmt::format("opcode 0x{:02x}: a state_dict of tensors is not written with it", op));
    }
  }

  void Protocol() {
    const uint8_t version = in_.U8("protocol");
    if (version < 2 || version > 5) Fail(fmt::format("protocol {}: must be 2 to 5", version));
  }
  void Frame() {
    const uint64_t length = in_.U64("length of a frame");
    if (length > in_.left()) Fail(fmt::format("has a frame of {} bytes: {} are left", length, in_.left()));
  }

  // ('storage', torch.FloatStorage, '0', 'cpu', 12)
  void PushStorage() {
    const Value id = Pop(Kind::kTuple);
    const auto items = Items(id);
    constexpr Kind kWanted[] = {Kind::kText, Kind::kName, Kind::kText, Kind::kText, Kind::kInt};
    if (!Are(items, kWanted) || Text(items[0]) != "storage" || NameOf(items[1]).what != Name::kStorage)
      Fail("names something outside the pickle that is no storage");
    if (items[4].number < 0) Fail(fmt::format("has a storage of {} numbers", items[4].number));
    Charge(sizeof(Storage) * 3);
    storages_.push_back({Text(items[2]), NameOf(items[1]).dtype, items[4].number});
    Push({Kind::kStorage, 0, static_cast<int64_t>(storages_.size()) - 1});
  }

  static bool Are(std::span<const Value> items, std::span<const Kind> kinds) {
    return std::ranges::equal(items, kinds, [](const Value& item, Kind kind) { return item.kind == kind; });
  }

  void Call() {
    const Value args = Pop(Kind::kTuple), name = Pop(Kind::kName);
    const auto items = Items(args);
    const KnownName& known = NameOf(name);
    switch (known.what) {
      case Name::kOrderedDict:
        if (!items.empty()) Fail("makes an OrderedDict of arguments: must have none");
        return PushContainer(Kind::kDict);
      case Name::kRebuildParameter: {
        constexpr Kind kWanted[] = {Kind::kTensor, Kind::kBool, Kind::kDict};
        if (!Are(items, kWanted)) Fail("makes a parameter of other arguments than a tensor, a bool and its hooks");
        return Push(items[0]);
      }
      case Name::kRebuildTensor: return PushTensor(items);
      case Name::kStorage: Fail(fmt::format("calls {}.{}: a type of storage is only named", known.module, known.name));
    }
  }

  // storage, offset, shape, strides, requires_grad, hooks, and perhaps what torch calls metadata
  void PushTensor(std::span<const Value> items) {
    constexpr Kind kWanted[] = {Kind::kStorage, Kind::kInt, Kind::kTuple, Kind::kTuple, Kind::kBool, Kind::kDict};
    if (items.size() < 6 || items.size() > 7 || !Are(items.first(6), kWanted))
      Fail("makes a tensor of other arguments than storage, offset, shape, strides, requires_grad and hooks");
    const Storage& storage = storages_[static_cast<size_t>(items[0].number)];
    Charge(3 * sizeof(PickledTensor) + kDimsMemory);
    PickledTensor tensor{.storage = storage.name, .dtype = storage.dtype, .storage_size = storage.size};
    tensor.offset = items[1].number;
    if (tensor.offset < 0) Fail(fmt::format("has a tensor at offset {}: must not be negative", tensor.offset));
    tensor.shape = Numbers(items[2], "shape");
    tensor.strides = Numbers(items[3], "strides");
    if (tensor.shape.size() != tensor.strides.size())
      Fail(fmt::format("has a tensor of {} dimensions with {} strides", tensor.shape.size(), tensor.strides.size()));
    tensors_.push_back(std::move(tensor));
    Push({Kind::kTensor, 0, static_cast<int64_t>(tensors_.size()) - 1});
  }

  std::vector<int64_t> Numbers(const Value& tuple, const char* what) {
    const auto items = Items(tuple);
    if (items.size() > kMaxDims) Fail(fmt::format("has {} of {} numbers: at most {}", what, items.size(), kMaxDims));
    std::vector<int64_t> numbers;
    numbers.reserve(items.size());
    for (const Value& item : items) {
      if (item.kind != Kind::kInt || item.number < 0)
        Fail(item.kind == Kind::kInt ? fmt::format("has {} in the {}: must not be negative", item.number, what)
                                     : fmt::format("has {} in the {}: must be a number", TextOf(item.kind), what));
      numbers.push_back(item.number);
    }
    return numbers;
  }

  // A module's state_dict carries versions of its parts as an attribute: nothing of it is a tensor.
  void SetAttributes() {
    (void)Pop(Kind::kDict);
    if (Top().kind != Kind::kDict) Fail(fmt::format("sets attributes of {}", TextOf(Top().kind)));
  }

  // ---- The result ----

  std::vector<PickledTensor> Tensors() {
    const Value result = Pop();
    if (result.kind != Kind::kDict)
      Fail(fmt::format("the file holds {}: must be a dictionary of tensors", TextOf(result.kind)));
    const std::vector<Value>& entries = containers_[static_cast<size_t>(result.number)];
    std::vector<PickledTensor> tensors;
    Charge(entries.size() / 2 * sizeof(PickledTensor));
    tensors.reserve(entries.size() / 2);
    for (size_t i = 0; i < entries.size(); i += 2) {
      const Value &key = entries[i], &value = entries[i + 1];
      if (key.kind != Kind::kText) Fail(fmt::format("has {} as a key: must be a text", TextOf(key.kind)));
      const std::string_view name = Text(key);
      if (ValidUtf8Prefix(name) != name.size()) Fail(fmt::format("has a key that is no UTF-8: {}", OneLine(name, 60)));
      if (value.kind != Kind::kTensor)
        throw Error(ErrorCode::kFormat,
                    fmt::format("{}: {}: is {}: must be a tensor", where_, OneLine(name, 120), TextOf(value.kind)));
      const PickledTensor& tensor = tensors_[static_cast<size_t>(value.number)];
      Charge(kDimsMemory);
      tensors.push_back(tensor);
      tensors.back().name = name;
    }
    CheckNames(tensors);
    return tensors;
  }

  void CheckNames(const std::vector<PickledTensor>& tensors) {
    std::vector<std::string_view> names;
    Charge(tensors.size() * sizeof(std::string_view));
    names.reserve(tensors.size());
    for (const PickledTensor& tensor : tensors) names.push_back(tensor.name);
    std::ranges::sort(names);
    const auto twice = std::ranges::adjacent_find(names);
    if (twice != names.end())
      throw Error(ErrorCode::kFormat, fmt::format("{}: {}: the tensor is there twice", where_, OneLine(*twice, 120)));
  }

  ByteReader in_;
  std::span<const std::byte> bytes_;
  const std::string& where_;
  uint64_t memory_, used_ = 0;
  uint64_t at_ = 0;  // the operation that is done
  bool done_ = false;
  std::vector<Value> stack_, memo_, tuples_;
  std::vector<size_t> marks_;                  // places of marks in the stack
  std::deque<std::vector<Value>> containers_;  // elements of lists; keys and values of dictionaries in turn
  std::vector<Storage> storages_;
  std::vector<PickledTensor> tensors_;  // without names: several keys may share one
};

}  // namespace

std::vector<PickledTensor> ReadStateDict(std::span<const std::byte> pickle, const std::string& where, uint64_t memory) {
  return Machine(pickle, where, memory).Run();
}

}  // namespace hydra
