// SPDX-License-Identifier: Apache-2.0
// The driver of products: which kernel a map takes, x prepared once, W cut into tasks, the tasks run in one region.
// Not here: the kernels (matmul_int8.cc, matmul_float.cc, matmul_narrow.cc), panels (matmul_pack.cc), the scalar twin
// (matmul_ref.cc).
//
// Four ways: float weights times few tokens are dot products straight from the rows, or sums of the vectors of narrow
// panels; quantised weights times int8 blocks go by panels; all the rest is a GEMM of f32 or of pairs of bf16 over
// slabs of W that are unpacked on the way.
#include "hydra/kernels/matmul.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "hydra/base/buffer.h"
#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/kernels/matmul_kernels.h"
#include "hydra/kernels/target.h"

namespace hydra::kernels {
namespace {

constexpr int64_t kLine = 16;           // floats of y in a cache line
constexpr int64_t kRowsOfStream = 4;    // of a task at least, where a thread reads rows in several places
constexpr int64_t kTasksOfThread = 32;  // several, so that one which loses its core for a while holds back little
constexpr int64_t kSlab = 256;          // columns of W at a time in the float GEMM: 32 KB, in the first-level cache
constexpr int64_t kPairSlab = 640;      // of pairs that are made of W's rows at once: 40 KB at most
constexpr int64_t kSlabFloats = std::max(kSlab, kPairSlab / 2);  // of each row of either
constexpr int64_t kGemmTokens = 512;        // tokens of a task there: their sums (64 KB) stay in the second-level cache
constexpr int64_t kInt8Tokens = 192;        // tokens that pass a panel pair before the next pair: x stays in that cache
constexpr int64_t kMostTokens = 16;         // of a tile, on any level
constexpr int64_t kSerialFloats = 1 << 15;  // x up to this is prepared by the caller: a region would cost more

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

enum class Way { kDot, kNarrow, kInt8, kGemm };

// Whether a way reads x as it is.
bool ReadsRows(Way way) { return way == Way::kDot || way == Way::kNarrow; }

// x in the form that a way wants, shared by the maps with the same rows.
struct Prepared {
  const MatMulArgs* map;
  Way way;
  bool pairs;                // of bf16
  int64_t x_stride, stride;  // stride: tokens of a tile
  int64_t offset;            // in the buffer of x
  int64_t rounded = -1;      // where rows come from that several maps gather; -1: from x itself
};

// Rows of one x that several maps with int8 products gather: each is rounded once, in [rows][K / 32] blocks.
struct Rounded {
  const MatMulArgs* map;  // one of them
  int64_t x_stride, K;
  int64_t rows = 0;    // up to the last one that is gathered
  int64_t offset = 0;  // in the buffer of x
};

struct Plan {
  const MatMulArgs* map;
  const float* y;  // of the caller's map: maps of one y are done together
  Way way;
  bool pairs = false;  // of bf16, in the GEMM
  Output out;
  PanelLayout layout;
  int64_t x_stride;
  int64_t prepared = -1;
  int64_t next = -1;  // map of the same y that comes after this one
  bool first = true;  // of its y
};

struct Task {
  int64_t plan, n0, n1, t0, t1;
  int64_t row_step = 0;  // where it is > 0, the rows n0 .. n1 - 1 of kStreams places so many rows apart
};

}  // namespace

struct MatMulScratch::Data {
  Buffer<std::byte> x, work;
  std::vector<MatMulArgs> split;  // of maps in which steps and other rows go different ways
  std::vector<Plan> plans;
  std::vector<Prepared> prepared;
  std::vector<Rounded> rounded;
  std::vector<uint8_t> wanted;  // of the rows of all in `rounded`, whether a map gathers it
  std::vector<Task> tasks;
};

MatMulScratch::MatMulScratch() : data_(std::make_unique<Data>()) {}
MatMulScratch::~MatMulScratch() = default;
MatMulScratch::MatMulScratch(MatMulScratch&&) noexcept = default;
MatMulScratch& MatMulScratch::operator=(MatMulScratch&&) noexcept = default;

int64_t MatMulScratch::bytes() const {
  const auto vector_bytes = [](const auto& v) { return static_cast<int64_t>(v.capacity() * sizeof(v[0])); };
  return data_->x.bytes() + data_->work.bytes() + vector_bytes(data_->split) + vector_bytes(data_->plans) +
         vector_bytes(data_->prepared) + vector_bytes(data_->rounded) + vector_bytes(data_->wanted) +
         vector_bytes(data_->tasks);
}

LevelKernels Kernels() {
  const Int8Kernels int8 = GetInt8Kernels();
  const FloatKernels f = GetFloatKernels();
  const Bf16Kernels bf16 = GetBf16Kernels();
  const NarrowKernels narrow = GetNarrowKernels();
  return {.lanes = f.lanes,
          .int8_tokens = int8.tokens,
          .f32_tokens = f.tokens,
          .q8_flip = int8.q8_flip,
          .round = f.round,
          .interleave = f.interleave,
          .int8 = int8.int8,
          .decode = int8.decode,
          .transpose = f.transpose,
          .gemm = f.gemm,
          .dot = f.dot,
          .pairs = bf16.pairs,
          .pair_slab = bf16.pair_slab,
          .gemm_pairs = bf16.gemm,
          .pair_tokens = bf16.tokens,
          .pair_tile = bf16.tile,
          .narrow = narrow.narrow,
          .narrow_slab = narrow.narrow_slab,
          .scaled_silu = narrow.scaled_silu};
}

bool GoesInPairs(WeightType type, ActType act) {
  return HasBf16Dots() && (act == ActType::kBF16 || (act == ActType::kQ8 && type == WeightType::kBF16));
}

namespace {

class Driver {
 public:
  Driver(std::span<const MatMulArgs> maps, const MatMulOptions& options, ThreadPool& pool, MatMulScratch::Data& data)
      : maps_(maps),
        act_(options.act),
        tuning_(options.tuning),
        times_(options.times),
        pool_(pool),
        data_(data),
        kernels_(Kernels()),
        unit_(std::max(kLine, 2 * kernels_.lanes)) {
    HYDRA_CHECK(std::max(kernels_.f32_tokens, kernels_.pair_tokens) <= kMostTokens);
  }

  void Run() {
    MakePlans();
    if (data_.plans.empty()) return;
    Prepare();
    MakeTasks();
    ReserveWork();
    pool_.ForRanges(
        static_cast<int64_t>(data_.tasks.size()),
        [this](int64_t task, int worker) { RunTask(data_.tasks[static_cast<size_t>(task)], worker); }, Threads());
  }

 private:
  [[nodiscard]] Way WayOf(const MatMulArgs& a) const {
    if (IsQuantised(a.w.type)) return act_ == ActType::kQ8 ? Way::kInt8 : Way::kGemm;
    if (a.T > kSmallBatch && a.steps < a.T) return Way::kGemm;
    return a.w.packed ? Way::kNarrow : Way::kDot;
  }

  // Of float weights, steps go as dot products while many rows beside them do not.
  static bool IsSplit(const MatMulArgs& a) {
    return !IsQuantised(a.w.type) && a.T > kSmallBatch && 0 < a.steps && a.steps < a.T;
  }
  // The rows [begin, end) of a map.
  static MatMulArgs RowsOf(const MatMulArgs& a, int64_t begin, int64_t end) {
    MatMulArgs part = a;
    part.T = end - begin;
    part.steps = begin == 0 ? part.T : 0;
    const int64_t x_stride = a.x_stride == 0 ? a.w.cols : a.x_stride,
                  y_stride = a.y_stride == 0 ? a.w.rows : a.y_stride;
    if (a.x_rows != nullptr)
      part.x_rows += begin;
    else
      part.x += begin * x_stride;
    if (a.y_rows != nullptr)
      part.y_rows += begin;
    else
      part.y += begin * y_stride;
    if (a.row_scale != nullptr) part.row_scale += begin;
    return part;
  }

  static void Check(const MatMulArgs& a) {
    HYDRA_CHECK(a.w.rows >= 0 && a.w.cols >= 0 && a.T >= 0, "W [", a.w.rows, ", ", a.w.cols, "], T ", a.T);
    HYDRA_CHECK(a.w.cols % Info(a.w.type).block == 0, Info(a.w.type).name, " row of ", a.w.cols);
    if (a.T == 0 || a.w.rows == 0) return;
    HYDRA_CHECK(a.w.data != nullptr && a.x != nullptr && a.y != nullptr);
    HYDRA_CHECK(!a.silu || !a.accumulate);
  }

  void MakePlans() {
    data_.plans.clear();
    data_.prepared.clear();
    data_.split.clear();
    data_.split.reserve(2 * maps_.size());  // plans point into it
    for (const MatMulArgs& a : maps_) {
      Check(a);
      if (a.T == 0 || a.w.rows == 0) continue;
      if (!IsSplit(a)) {
        AddPlan(a, a.y);
        continue;
      }
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, a.steps}, {a.steps, a.T}})
        AddPlan(data_.split.emplace_back(RowsOf(a, begin, end)), a.y);
    }
  }

  void AddPlan(const MatMulArgs& a, const float* y) {
    Plan plan{.map = &a,
              .y = y,
              .way = WayOf(a),
              .pairs = WayOf(a) == Way::kGemm && !a.f32 && GoesInPairs(a.w.type, act_),
              .out = {},
              .layout = {},
              .x_stride = a.x_stride == 0 ? a.w.cols : a.x_stride};
    plan.out = {.y = a.y,
                .y_stride = a.y_stride == 0 ? a.w.rows : a.y_stride,
                .y_rows = a.y_rows,
                .row_scale = a.silu ? nullptr : a.row_scale,
                .bias = a.bias,
                .accumulate = a.accumulate,
                .N = a.w.rows};
    if (IsQuantised(a.w.type)) plan.layout = LayoutOf(a.w.type, a.w.cols, kernels_.lanes);
    if (!ReadsRows(plan.way)) plan.prepared = PreparedOf(plan);
    for (size_t i = data_.plans.size(); i-- > 0;)
      if (data_.plans[i].y == y) {
        data_.plans[i].next = static_cast<int64_t>(data_.plans.size());
        plan.first = false;
        break;
      }
    data_.plans.push_back(plan);
  }

  // Row t of x.
  static const float* XRow(const MatMulArgs& a, int64_t x_stride, int64_t t) {
    return a.x + (a.x_rows != nullptr ? a.x_rows[t] : t) * x_stride;
  }
  // Whether x of two maps is the same by its addresses.
  static bool SameX(const MatMulArgs& a, const MatMulArgs& b, int64_t x_stride) {
    if (a.T != b.T) return false;
    return a.T == 1 ? XRow(a, x_stride, 0) == XRow(b, x_stride, 0) : a.x == b.x && a.x_rows == b.x_rows;
  }

  // The index of the plan's x, a new one where no map before had it.
  int64_t PreparedOf(const Plan& plan) {
    const MatMulArgs& a = *plan.map;
    for (size_t i = 0; i < data_.prepared.size(); ++i) {
      const Prepared& p = data_.prepared[i];
      if (p.x_stride == plan.x_stride && p.way == plan.way && p.pairs == plan.pairs && p.map->w.cols == a.w.cols &&
          SameX(*p.map, a, plan.x_stride))
        return static_cast<int64_t>(i);
    }
    // Few tokens are one tile, which the int8 kernels cut as they like.
    const int64_t tokens = plan.way != Way::kInt8 ? kernels_.f32_tokens
                           : a.T <= kSmallBatch   ? kSmallBatch
                                                  : kernels_.int8_tokens;
    const int64_t stride = plan.pairs ? kernels_.pair_tokens : std::min(tokens, a.T);
    data_.prepared.push_back({&a, plan.way, plan.pairs, plan.x_stride, stride, 0});
    return static_cast<int64_t>(data_.prepared.size()) - 1;
  }

  // ---- x ----

  void Prepare() {
    const int64_t of_rounded = ListRounded();
    int64_t bytes = of_rounded, floats = 0, tiles = 0;
    for (Prepared& p : data_.prepared) {
      const int64_t count = CeilDiv(p.map->T, p.stride), K = p.map->w.cols;
      p.offset = bytes;
      bytes += p.way == Way::kInt8 ? count * p.stride * (K / kBlock) * static_cast<int64_t>(sizeof(XBlock))
                                   : count * TileFloats(p) * 4;
      bytes = CeilDiv(bytes, 64) * 64;
      floats += p.map->T * K;
      tiles += CeilDiv(p.map->T, p.stride);
    }
    data_.x.Get(bytes);
    RoundShared();
    if (floats <= kSerialFloats) {
      for (const Prepared& p : data_.prepared)
        for (int64_t tile = 0; tile < CeilDiv(p.map->T, p.stride); ++tile) PrepareTile(p, tile);
      return;
    }
    constexpr int64_t kTilesOfTask = 4;
    pool_.For(CeilDiv(tiles, kTilesOfTask), [&](int64_t task, int worker) {
      int64_t begin = task * kTilesOfTask, end = std::min(tiles, begin + kTilesOfTask);
      for (const Prepared& p : data_.prepared) {
        const int64_t count = CeilDiv(p.map->T, p.stride);
        Time(worker, *p.map, [&] {
          for (; begin < std::min(end, count); ++begin) PrepareTile(p, begin);
        });
        begin = std::max<int64_t>(0, begin - count);
        end -= count;
        if (end <= 0) break;
      }
    });
  }

  // Of a tile of floats, or of pairs, which take half of them.
  static int64_t TileFloats(const Prepared& p) {
    return p.stride * (p.pairs ? CeilDiv(p.map->w.cols, kBlock) * kBlock : p.map->w.cols);
  }

  // Which rows several maps gather from one x, and the bytes that they take once rounded.
  int64_t ListRounded() {
    data_.rounded.clear();
    const auto gathers = [](const Prepared& p) {
      return p.way == Way::kInt8 && p.map->x_rows != nullptr && p.map->T > 1;
    };
    const auto same = [](const Prepared& p, const Prepared& q) {
      return p.map->x == q.map->x && p.x_stride == q.x_stride && p.map->w.cols == q.map->w.cols;
    };
    int64_t bytes = 0, rows = 0;
    for (size_t i = 0; i < data_.prepared.size(); ++i) {
      const Prepared& first = data_.prepared[i];
      if (!gathers(first) || first.rounded >= 0) continue;
      const auto of_first = [&](const Prepared& p) { return gathers(p) && same(p, first); };
      if (std::ranges::count_if(data_.prepared, of_first) < 2) continue;
      Rounded rounded{.map = first.map, .x_stride = first.x_stride, .K = first.map->w.cols, .offset = bytes};
      for (Prepared& p : data_.prepared) {
        if (!of_first(p)) continue;
        p.rounded = static_cast<int64_t>(data_.rounded.size());
        rounded.rows = std::max<int64_t>(rounded.rows, 1 + *std::max_element(p.map->x_rows, p.map->x_rows + p.map->T));
      }
      bytes += rounded.rows * (rounded.K / kBlock) * static_cast<int64_t>(sizeof(XBlock));
      bytes = CeilDiv(bytes, 64) * 64;
      rows += rounded.rows;
      data_.rounded.push_back(rounded);
    }
    data_.wanted.assign(static_cast<size_t>(rows), 0);
    return bytes;
  }

  [[nodiscard]] XBlock* RoundedRow(const Rounded& r, int64_t row) const {
    return reinterpret_cast<XBlock*>(data_.x.data() + r.offset) + row * (r.K / kBlock);
  }

  void RoundShared() {
    int64_t first = 0;
    for (size_t i = 0; i < data_.rounded.size(); ++i) {
      const Rounded& r = data_.rounded[i];
      uint8_t* wanted = data_.wanted.data() + first;
      first += r.rows;
      for (const Prepared& p : data_.prepared)
        for (int64_t t = 0; p.rounded == static_cast<int64_t>(i) && t < p.map->T; ++t) wanted[p.map->x_rows[t]] = 1;
      const auto round = [&](int64_t row) {
        if (wanted[row] != 0) kernels_.round(r.map->x + row * r.x_stride, r.K, RoundedRow(r, row), 1);
      };
      if (r.rows * r.K <= kSerialFloats) {
        for (int64_t row = 0; row < r.rows; ++row) round(row);
      } else {
        pool_.For(r.rows, [&](int64_t row, int worker) { Time(worker, *r.map, [&] { round(row); }); });
      }
    }
  }

  void PrepareTile(const Prepared& p, int64_t tile) const {
    const MatMulArgs& a = *p.map;
    const int64_t K = a.w.cols, t0 = tile * p.stride, t1 = std::min(a.T, t0 + p.stride);
    const auto row = [&](int64_t t) { return XRow(a, p.x_stride, t); };
    if (p.rounded >= 0) {
      auto* out = reinterpret_cast<XBlock*>(data_.x.data() + p.offset) + t0 * (K / kBlock);
      for (int64_t t = t0; t < t1; ++t) {
        const XBlock* from = RoundedRow(data_.rounded[static_cast<size_t>(p.rounded)], a.x_rows[t]);
        for (int64_t b = 0; b < K / kBlock; ++b) out[b * p.stride + t - t0] = from[b];
      }
    } else if (p.way == Way::kInt8) {
      auto* out = reinterpret_cast<XBlock*>(data_.x.data() + p.offset) + t0 * (K / kBlock);
      for (int64_t t = t0; t < t1; ++t) kernels_.round(row(t), K, out + (t - t0), p.stride);
    } else {
      std::array<const float*, kMostTokens> rows;
      for (int64_t t = t0; t < t1; ++t) rows[static_cast<size_t>(t - t0)] = row(t);
      float* tile_of_x = reinterpret_cast<float*>(data_.x.data() + p.offset) + tile * TileFloats(p);
      if (p.pairs && kernels_.pair_tile != nullptr) return kernels_.pair_tile(rows.data(), t1 - t0, K, tile_of_x);
      kernels_.interleave(rows.data(), t1 - t0, K, tile_of_x, p.stride);
      if (p.pairs) kernels_.pairs(tile_of_x, K, t1 - t0, p.stride);
    }
  }

  // ---- Tasks ----

  // Few rows in every map: the time is that of reading W.
  [[nodiscard]] bool IsFew() const {
    return std::ranges::all_of(data_.plans, [](const Plan& plan) { return plan.map->T <= kSmallBatch; });
  }
  // Whether a thread may read a map in several places at once: of one token, from memory, alone on its y.
  [[nodiscard]] bool HasStreams(const Plan& plan) const {
    const MatMulArgs& a = *plan.map;
    return tuning_.streams > 1 && a.T == 1 && plan.next < 0 &&
           (plan.way == Way::kDot || (plan.way == Way::kInt8 && a.w.packed));
  }
  [[nodiscard]] int Threads() const {
    const int all = pool_.threads();
    return tuning_.threads > 0 && IsFew() ? std::min(tuning_.threads, all) : all;
  }

  // Time of unit_ rows of one map, in a unit of its own: bytes of W for few tokens, products for many.
  [[nodiscard]] double UnitCost(const MatMulArgs& a) const {
    return static_cast<double>(unit_) * static_cast<double>(a.w.cols) * (4.0 + static_cast<double>(a.T)) + 1000.0;
  }

  void MakeTasks() {
    data_.tasks.clear();
    double total = 0;
    for (const Plan& plan : data_.plans)
      total += UnitCost(*plan.map) * static_cast<double>(CeilDiv(plan.map->w.rows, unit_));
    const double target = total / static_cast<double>(kTasksOfThread * Threads());
    const auto count = static_cast<int64_t>(data_.plans.size());
    // A thread's tasks lie side by side in the list. What is not read as streams goes to the threads in turn.
    const int64_t threads = tuning_.streams > 1 ? Threads() : 1;
    for (int64_t thread = 0; thread < threads; ++thread)
      for (int64_t i = 0; i < count; ++i) {
        const Plan& plan = data_.plans[static_cast<size_t>(i)];
        if (!plan.first) continue;
        const int64_t streamed = HasStreams(plan) ? AddStreams(i, thread, target) : 0;
        if (i % threads == thread) AddTasks(i, streamed, target);
      }
  }

  // A thread's streams of a map: kStreams places of equal lengths, in tasks. Returns the rows that are read as streams
  // by all threads.
  int64_t AddStreams(int64_t index, int64_t thread, double target) {
    const Plan& plan = data_.plans[static_cast<size_t>(index)];
    const MatMulArgs& a = *plan.map;
    const int64_t unit = plan.way == Way::kInt8 ? std::max(kLine, kernels_.lanes) : kRowsOfStream;
    const int64_t places = kStreams * Threads();
    const int64_t length = a.w.rows / unit / places;  // in units
    const double cost = UnitCost(a) * static_cast<double>(unit) / static_cast<double>(unit_) * kStreams;
    const int64_t step = std::clamp<int64_t>(static_cast<int64_t>(target / cost), 1, std::max<int64_t>(length, 1));
    const int64_t begin = thread * kStreams * length;
    for (int64_t u = 0; u < length; u += step)
      data_.tasks.push_back(
          {index, (begin + u) * unit, (begin + std::min(length, u + step)) * unit, 0, 1, length * unit});
    return places * length * unit;
  }

  // Of the rows from row `from` on.
  void AddTasks(int64_t first, int64_t from, double target) {
    const auto& plans = data_.plans;
    int64_t units = 0;
    double cost = 0;  // of one unit, all maps of this y
    for (int64_t i = first; i >= 0; i = plans[static_cast<size_t>(i)].next) {
      const MatMulArgs& a = *plans[static_cast<size_t>(i)].map;
      units = std::max(units, CeilDiv(a.w.rows, unit_));
      cost += UnitCost(a);
    }
    // Tokens are cut only where one map has this y: others may write the same rows of it.
    const Plan& plan = plans[static_cast<size_t>(first)];
    const int64_t T = plan.map->T;
    int64_t tokens = T;
    if (plan.next < 0 && !ReadsRows(plan.way) && T > kSmallBatch) {
      const double pieces = cost / target;  // wanted of one unit
      if (pieces > 1) tokens = CeilDiv(T, static_cast<int64_t>(pieces) + 1);
      const int64_t tile = plan.prepared < 0 ? 1 : data_.prepared[static_cast<size_t>(plan.prepared)].stride;
      const int64_t most = plan.way == Way::kGemm ? kGemmTokens : T;
      tokens = std::min(std::max<int64_t>(tokens, 64), most);
      tokens = CeilDiv(tokens, tile) * tile;
    }
    const int64_t step = std::clamp<int64_t>(static_cast<int64_t>(target / cost), 1, units);
    for (int64_t t = 0; t < T; t += tokens)
      for (int64_t row = from; row < units * unit_; row += step * unit_)
        data_.tasks.push_back({first, row, row + step * unit_, t, plan.next < 0 ? std::min(T, t + tokens) : -1});
  }

  // What one worker needs for any of the tasks: a slab and its sums, or two panels of weights that are not packed.
  void ReserveWork() {
    work_bytes_ = 0;
    for (const Plan& plan : data_.plans) {
      int64_t bytes = 0;
      const bool rows = IsQuantised(plan.map->w.type) && !plan.map->w.packed;
      if (plan.way == Way::kGemm) bytes = 4 * 2 * kernels_.lanes * (kSlabFloats + kGemmTokens + kMostTokens);
      if (rows) bytes += 2 * plan.layout.bytes;
      work_bytes_ = std::max(work_bytes_, bytes);
    }
    work_bytes_ = CeilDiv(work_bytes_, 4096) * 4096;
    data_.work.Get(work_bytes_ * pool_.threads());
  }

  // ---- One task ----

  void RunTask(const Task& task, int worker) const {
    for (int64_t i = task.plan; i >= 0; i = data_.plans[static_cast<size_t>(i)].next) {
      const Plan& plan = data_.plans[static_cast<size_t>(i)];
      Task part = task;
      part.n1 = std::min(task.n1, plan.map->w.rows);
      if (part.n0 >= part.n1) continue;
      if (task.t1 < 0) part.t0 = 0, part.t1 = plan.map->T;
      std::byte* work = data_.work.data() + worker * work_bytes_;
      Time(worker, *plan.map, [&] {
        switch (plan.way) {
          case Way::kDot: kernels_.dot(RowsCall(plan, part)); break;
          case Way::kNarrow: kernels_.narrow(RowsCall(plan, part)); break;
          case Way::kInt8: RunInt8(plan, part, work); break;
          case Way::kGemm: RunGemm(plan, part, work); break;
        }
        if (plan.map->silu) RunSilu(plan, part);
      });
    }
  }

  // f() is work of a map; its time is added up where that is wanted.
  template <class F>
  void Time(int worker, const MatMulArgs& map, F&& f) const {
    if (times_.seconds == nullptr) return f();
    const double start = Seconds();
    f();
    times_.seconds[worker * times_.owners + map.owner] += Seconds() - start;
  }

  [[nodiscard]] DotCall RowsCall(const Plan& plan, const Task& task) const {
    const MatMulArgs& a = *plan.map;
    return {.type = a.w.type,
            .w = a.w.data,
            .K = a.w.cols,
            .n0 = task.n0,
            .n1 = task.n1,
            .row_step = task.row_step,
            .x = a.x,
            .x_stride = plan.x_stride,
            .x_rows = a.x_rows,
            .T = a.T,
            .ahead = tuning_.ahead,
            .out = plan.out};
  }

  // Of the sums that the task has just stored, while they are in the first-level cache.
  void RunSilu(const Plan& plan, const Task& task) const {
    const Output& out = plan.out;
    const int64_t places = task.row_step > 0 ? kStreams : 1;
    for (int64_t t = task.t0; t < task.t1; ++t)
      for (int64_t place = 0; place < places; ++place)
        kernels_.scaled_silu(
            out.y + (out.y_rows != nullptr ? out.y_rows[t] : t) * out.y_stride + task.n0 + place * task.row_step,
            task.n1 - task.n0, plan.map->row_scale != nullptr ? plan.map->row_scale[t] : 1.0f);
  }

  // The panels of `count` * L rows from n on: W's own, or packed here.
  const std::byte* Panels(const Plan& plan, int64_t n, int64_t count, std::byte* work) const {
    const Matrix& w = plan.map->w;
    const int64_t lanes = kernels_.lanes;
    if (w.packed) return w.data + n / lanes * plan.layout.bytes;
    const int64_t row_bytes = RowBytes(w.type, w.cols);
    for (int64_t p = 0; p < count; ++p) {
      const int64_t row = n + p * lanes;
      PackPanel(w.type, w.data + row * row_bytes, std::min(lanes, w.rows - row), w.cols, lanes, kernels_.q8_flip,
                work + p * plan.layout.bytes);
    }
    return work;
  }

  void RunInt8(const Plan& plan, const Task& task, std::byte* work) const {
    const Matrix& w = plan.map->w;
    const Prepared& x = data_.prepared[static_cast<size_t>(plan.prepared)];
    const bool few = plan.map->T <= kSmallBatch;
    Int8Call call{.type = w.type,
                  .layout = plan.layout,
                  .blocks = w.cols / kBlock,
                  .x = reinterpret_cast<const XBlock*>(data_.x.data() + x.offset),
                  .stride = x.stride,
                  .few = few,
                  .ahead = few && w.packed ? tuning_.ahead : 0,
                  .out = plan.out};
    const int64_t lanes = kernels_.lanes;
    if (task.row_step > 0) return RunStreams(plan, task, call);
    call.panel_step = plan.layout.bytes;
    call.row_step = lanes;
    const int64_t tile = CeilDiv(kInt8Tokens, x.stride) * x.stride;
    // Packing a panel here is worth all the tokens at once.
    const int64_t tokens = w.packed ? tile : task.t1 - task.t0;
    for (int64_t t = task.t0; t < task.t1; t += tokens) {
      call.t0 = t;
      call.t1 = std::min(task.t1, t + tokens);
      for (call.n0 = task.n0; call.n0 < task.n1; call.n0 += 2 * lanes) {
        call.panels = call.n0 + lanes < task.n1 ? 2 : 1;
        call.panel = reinterpret_cast<const uint8_t*>(Panels(plan, call.n0, call.panels, work));
        kernels_.int8(call);
      }
    }
  }

  void RunStreams(const Plan& plan, const Task& task, Int8Call call) const {
    call.t1 = 1;
    call.panels = kStreams;
    call.row_step = task.row_step;
    call.panel_step = task.row_step / kernels_.lanes * plan.layout.bytes;
    for (call.n0 = task.n0; call.n0 < task.n1; call.n0 += kernels_.lanes) {
      call.panel = reinterpret_cast<const uint8_t*>(Panels(plan, call.n0, 1, nullptr));
      kernels_.int8(call);
    }
  }

  // Columns k0 .. k1 - 1 of 2 L rows as [k][2 L] floats.
  void Slab(const Plan& plan, int64_t n, int64_t k0, int64_t k1, const std::byte* panels, float* out) const {
    const Matrix& w = plan.map->w;
    const int64_t lanes = kernels_.lanes;
    if (!IsQuantised(w.type) && w.packed) return kernels_.narrow_slab(w.type, w.data, w.rows, w.cols, n, k0, k1, out);
    if (!IsQuantised(w.type)) {
      const std::byte* rows = w.data + n * RowBytes(w.type, w.cols);
      kernels_.transpose(w.type, rows, std::min(2 * lanes, w.rows - n), w.cols, k0, k1, out, 2 * lanes);
      return;
    }
    for (int64_t p = 0; p < 2; ++p) {
      if (n + p * lanes < w.rows) {
        const auto* panel = reinterpret_cast<const uint8_t*>(panels + p * plan.layout.bytes);
        kernels_.decode(w.type, panel, k0, k1, out + p * lanes, 2 * lanes);
      } else {
        for (int64_t k = 0; k < k1 - k0; ++k)
          std::memset(out + (2 * k + p) * lanes, 0, static_cast<size_t>(lanes) * sizeof(float));
      }
    }
  }

  void RunGemm(const Plan& plan, const Task& task, std::byte* work) const {
    const Matrix& w = plan.map->w;
    const Prepared& x = data_.prepared[static_cast<size_t>(plan.prepared)];
    const int64_t lanes = kernels_.lanes, K = w.cols;
    auto* slab = reinterpret_cast<float*>(work);
    float* sums = slab + 2 * lanes * kSlabFloats;
    auto* panel_work = reinterpret_cast<std::byte*>(sums + 2 * lanes * (kGemmTokens + kMostTokens));
    GemmCall call{.w = slab,
                  .x = reinterpret_cast<const float*>(data_.x.data() + x.offset),
                  .K = K,
                  .x_tile = TileFloats(x),
                  .stride = x.stride,
                  .sums = sums,
                  .out = plan.out};
    const int64_t tokens = CeilDiv(kGemmTokens, x.stride) * x.stride;
    for (int64_t t = task.t0; t < task.t1; t += tokens) {
      call.t0 = t;
      call.t1 = std::min(task.t1, t + tokens);
      for (call.n0 = task.n0; call.n0 < task.n1; call.n0 += 2 * lanes) {
        const int64_t count = call.n0 + lanes < w.rows ? 2 : 1;
        const std::byte* panels = IsQuantised(w.type) ? Panels(plan, call.n0, count, panel_work) : nullptr;
        const bool at_once = plan.pairs && kernels_.pair_slab != nullptr && !IsQuantised(w.type) && !w.packed;
        const int64_t most = at_once ? kPairSlab : kSlab;
        for (call.k0 = 0; call.k0 == 0 || call.k0 < K; call.k0 += most) {
          call.k1 = std::min(K, call.k0 + most);
          if (at_once) {
            const int64_t row_bytes = RowBytes(w.type, K), next = call.n0 + 2 * lanes;
            kernels_.pair_slab(w.type, w.data + call.n0 * row_bytes, w.rows - call.n0, K, call.k0, call.k1, slab);
            call.later = w.data + next * row_bytes;
            call.later_bytes = call.k1 == K ? std::clamp<int64_t>(w.rows - next, 0, 2 * lanes) * row_bytes : 0;
          } else {
            Slab(plan, call.n0, call.k0, call.k1, panels, slab);
            if (plan.pairs) kernels_.pairs(slab, call.k1 - call.k0, 2 * lanes, 2 * lanes);
          }
          plan.pairs ? kernels_.gemm_pairs(call) : kernels_.gemm(call);
        }
      }
    }
  }

  std::span<const MatMulArgs> maps_;
  ActType act_;
  Tuning tuning_;
  TaskTimes times_;
  ThreadPool& pool_;
  MatMulScratch::Data& data_;
  const LevelKernels kernels_;
  // Rows of W that a task takes at least: whole pairs of panels, since two panels are multiplied together whichever
  // task they are of, and whole cache lines of y.
  const int64_t unit_;
  int64_t work_bytes_ = 0;
};

}  // namespace

void MatMul(std::span<const MatMulArgs> maps, const MatMulOptions& options, ThreadPool& pool, MatMulScratch& scratch) {
  Driver(maps, options, pool, scratch.data()).Run();
}

}  // namespace hydra::kernels
