// SPDX-License-Identifier: Apache-2.0
// Which positions the cache of a KV head keeps, and in which rows: index arithmetic alone. A new kind of cache is one
// class here. Not here: the rows themselves (runtime/kv_cache.h), which head has which (state_layout.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace hydra {

// Rows that hold positions one after another.
struct RowRange {
  int64_t row, n, first;  // first row, how many, position of the first
  bool operator==(const RowRange&) const = default;
};

class KvFilling {
 public:
  virtual ~KvFilling() = default;
  // Rows of memory for a sequence of up to `ctx` tokens.
  [[nodiscard]] virtual int64_t Rows(int64_t ctx) const = 0;
  // Tokens that a sequence may have with those rows.
  [[nodiscard]] virtual int64_t MostTokens(int64_t ctx) const = 0;
  // Whether position p is always in row p, in memory that is taken as it fills.
  [[nodiscard]] virtual bool grows() const = 0;
  // How many of its `rows` rows, from the first one on, are in use once `pos` positions have come: no other is saved or
  // forked.
  [[nodiscard]] virtual int64_t UsedRows(int64_t pos, int64_t rows) const { return grows() ? pos : rows; }
  // Row where position `pos` goes.
  [[nodiscard]] virtual int64_t RowOf(int64_t pos) const = 0;
  // Appends what it holds once the positions 0 .. pos - 1 have come, ascending.
  virtual void AddRanges(int64_t pos, std::vector<RowRange>& out) const = 0;
  // A query at position t sees p <= t with p > t - window or p < sinks.
  [[nodiscard]] virtual int64_t window() const = 0;
  [[nodiscard]] virtual int64_t sinks() const = 0;
  // Windows of the query heads that share the cache, where they have some of their own, none wider than window().
  [[nodiscard]] virtual std::span<const int64_t> own_windows() const { return {}; }
  // For a person, and to compare plans: "all", "ring 256", "ring 1024 + 4".
  [[nodiscard]] virtual std::string Describe() const = 0;
  // Can what came after the first n of pos positions be forgotten, so that it holds what it held then? As long as no
  // row was used twice.
  [[nodiscard]] virtual bool CanTruncate(int64_t pos, int64_t n, int64_t ctx) const {
    return n == pos || grows() || pos <= Rows(ctx);
  }
};

// Every position: full attention.
[[nodiscard]] std::shared_ptr<const KvFilling> KeepAll();
// The last `window` positions, and the first `sinks` ones for good; own_windows: of the query heads, where some see
// less than the ring has. kUsage beyond kMaxSequenceTokens of either.
[[nodiscard]] std::shared_ptr<const KvFilling> KeepRing(int64_t window, int64_t sinks = 0,
                                                        std::vector<int64_t> own_windows = {});
// The same in the place of full attention: `ctx` bounds the sequence as it does there, and rows that are not filled yet
// are neither saved nor forked.
[[nodiscard]] std::shared_ptr<const KvFilling> KeepSpan(int64_t window, int64_t sinks,
                                                        std::vector<int64_t> own_windows = {});
// `rows` rows of chosen positions, in any order, which a list names: landmarks.
[[nodiscard]] std::shared_ptr<const KvFilling> KeepPool(int64_t rows);

// The filling of each layer and KV head with attention, in the place of what the config says; null: the config's own. A
// function is a plan, and so is nullptr, which is none.
struct KvPlan {
  using Of = std::function<std::shared_ptr<const KvFilling>(int layer, int64_t kv_head)>;
  KvPlan() = default;
  KvPlan(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  template <class F>
  requires std::is_invocable_v<F&, int, int64_t> KvPlan(F fillings)
      : of(std::move(fillings)) {}  // NOLINT(google-explicit-constructor)

  Of of;
  std::string name;    // what saved states call it; "": they list its fillings
  int64_t length = 0;  // the length that its spans are for; 0: no rule made them

  explicit operator bool() const { return of != nullptr; }
  [[nodiscard]] std::shared_ptr<const KvFilling> operator()(int layer, int64_t kv_head) const {
    return of(layer, kv_head);
  }
};

}  // namespace hydra
