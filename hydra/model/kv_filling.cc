// SPDX-License-Identifier: Apache-2.0
// The fillings of caches.
#include "hydra/model/kv_filling.h"

#include <algorithm>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/model/accounting.h"

namespace hydra {
namespace {

class All final : public KvFilling {
 public:
  [[nodiscard]] int64_t Rows(int64_t ctx) const override { return ctx; }
  [[nodiscard]] int64_t MostTokens(int64_t ctx) const override { return ctx; }
  [[nodiscard]] bool grows() const override { return true; }
  [[nodiscard]] int64_t RowOf(int64_t pos) const override { return pos; }
  void AddRanges(int64_t pos, std::vector<RowRange>& out) const override {
    if (pos > 0) out.push_back({0, pos, 0});
  }
  [[nodiscard]] int64_t window() const override { return INT64_MAX; }
  [[nodiscard]] int64_t sinks() const override { return 0; }
  [[nodiscard]] std::string Describe() const override { return "all"; }
};

// Sinks in the rows 0 .. S - 1, then position p in row S + (p - S) mod W.
class Ring : public KvFilling {
 public:
  Ring(int64_t window, int64_t sinks, std::vector<int64_t> own) : window_(window), sinks_(sinks), own_(std::move(own)) {
    if (window < 1 || window > kMaxSequenceTokens || sinks < 0 || sinks > kMaxSequenceTokens)
      throw Error(ErrorCode::kUsage, StrCat("a ring of ", window, " positions and ", sinks, " sinks: must be 1 to ",
                                            kMaxSequenceTokens, " and 0 to ", kMaxSequenceTokens));
    for (const int64_t w : own_) HYDRA_CHECK(1 <= w && w <= window, "a window of ", w, " in a ring of ", window);
  }
  [[nodiscard]] int64_t Rows(int64_t /*ctx*/) const override { return sinks_ + window_; }
  [[nodiscard]] int64_t MostTokens(int64_t /*ctx*/) const override { return INT64_MAX; }
  [[nodiscard]] bool grows() const override { return false; }
  [[nodiscard]] int64_t RowOf(int64_t pos) const override {
    return pos < sinks_ ? pos : sinks_ + (pos - sinks_) % window_;
  }
  void AddRanges(int64_t pos, std::vector<RowRange>& out) const override {
    const auto add = [&](int64_t row, int64_t n, int64_t first) {
      if (n > 0) out.push_back({row, n, first});
    };
    add(0, std::min(pos, sinks_), 0);
    const int64_t kept = std::clamp<int64_t>(pos - sinks_, 0, window_), first = pos - kept;
    if (kept == 0) return;
    const int64_t row = RowOf(first), to_end = std::min(kept, sinks_ + window_ - row);
    add(row, to_end, first);
    add(sinks_, kept - to_end, first + to_end);
  }
  [[nodiscard]] int64_t window() const override { return window_; }
  [[nodiscard]] int64_t sinks() const override { return sinks_; }
  [[nodiscard]] std::span<const int64_t> own_windows() const override { return own_; }
  [[nodiscard]] std::string Describe() const override {
    return sinks_ > 0 ? StrCat("ring ", window_, " + ", sinks_) : StrCat("ring ", window_);
  }

 private:
  int64_t window_, sinks_;
  std::vector<int64_t> own_;
};

class Span final : public Ring {
 public:
  using Ring::Ring;
  [[nodiscard]] int64_t MostTokens(int64_t ctx) const override { return ctx; }
  [[nodiscard]] int64_t UsedRows(int64_t pos, int64_t rows) const override { return std::min(pos, rows); }
};

class Pool final : public KvFilling {
 public:
  explicit Pool(int64_t rows) : rows_(rows) {}
  [[nodiscard]] int64_t Rows(int64_t /*ctx*/) const override { return rows_; }
  [[nodiscard]] int64_t MostTokens(int64_t /*ctx*/) const override { return INT64_MAX; }
  [[nodiscard]] bool grows() const override { return false; }
  [[nodiscard]] int64_t RowOf(int64_t /*pos*/) const override { HYDRA_CHECK(false, "a pool's rows are chosen"); }
  void AddRanges(int64_t /*pos*/, std::vector<RowRange>& /*out*/) const override {}
  [[nodiscard]] int64_t window() const override { return 0; }
  [[nodiscard]] int64_t sinks() const override { return 0; }
  [[nodiscard]] std::string Describe() const override { return StrCat("pool ", rows_); }

 private:
  int64_t rows_;
};

}  // namespace

std::shared_ptr<const KvFilling> KeepAll() { return std::make_shared<All>(); }
std::shared_ptr<const KvFilling> KeepRing(int64_t window, int64_t sinks, std::vector<int64_t> own_windows) {
  return std::make_shared<Ring>(window, sinks, std::move(own_windows));
}
std::shared_ptr<const KvFilling> KeepSpan(int64_t window, int64_t sinks, std::vector<int64_t> own_windows) {
  return std::make_shared<Span>(window, sinks, std::move(own_windows));
}
std::shared_ptr<const KvFilling> KeepPool(int64_t rows) { return std::make_shared<Pool>(rows); }

}  // namespace hydra
