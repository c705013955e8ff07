// SPDX-License-Identifier: Apache-2.0
// The feed-forward stack of a BlockFFN model alone, with planted activity: what lists of active experts cost beside all
// experts, beside other layouts and beside the limits. The sides of a number of tokens take turns. Prints a JSON line a
// side: milliseconds of each turn, bytes of weights read, products. Not here: whole models (hydralm bench --plant).
//   bench_blockffn [--mode decode|verify|thresholds] [--type bf16] [--layers 32] [--d 1536] [--experts 48]
//                  [--width 128] [--active 0.16] [--reuse 0.87] [--tokens 1] [--threads 2] [--reps 15]
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/measure.h"
#include "hydra/base/number.h"
#include "hydra/base/pages.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/blockffn.h"
#include "hydra/kernels/kernel_list_matmul.h"
#include "hydra/kernels/ops.h"
#include "hydra/runtime/routing_source.h"

namespace hydra::bench {
namespace {

using kernels::MatMulArgs;
using kernels::Matrix;

struct Sizes {
  WeightType type;
  int64_t layers, D, E, width, n;
};

// Matrices of one layer, all in memory of their own.
struct Layer {
  std::vector<Matrix> up, down;      // of each expert, as the layer reads them: slabs
  Matrix all_up, all_down;           // [E width, D], [D, E width] as a dense layer reads them
  const float* rows_down = nullptr;  // [D, E width] f32 as a file has it
};

// Weights at random, the same in each slab but each slab in its own memory.
class Stack {
 public:
  enum class With { kSlabs, kDense, kColumns };

  Stack(const Sizes& s, With with) : layers_(static_cast<size_t>(s.layers)) {
    const kernels::RandomWeights up(s.type, s.width, s.D, 1), down(s.type, s.D, s.width, 2);
    const Matrix up_slab = IsQuantised(s.type) ? up.packed : up.rows;
    const Matrix down_slab = IsQuantised(s.type) ? down.packed : down.narrow;
    for (Layer& layer : layers_)
      for (int64_t e = 0; e < s.E; ++e) layer.up.push_back(Copy(up_slab)), layer.down.push_back(Copy(down_slab));
    if (with == With::kDense) {
      const kernels::RandomWeights wide(s.type, s.E * s.width, s.D, 3), tall(s.type, s.D, s.E * s.width, 4);
      for (Layer& layer : layers_) layer.all_up = Copy(wide.packed), layer.all_down = Copy(tall.packed);
    }
    if (with == With::kColumns) {
      HYDRA_CHECK(s.type == WeightType::kF32);
      const kernels::RandomWeights tall(s.type, s.D, s.E * s.width, 4);
      for (Layer& layer : layers_) layer.rows_down = reinterpret_cast<const float*>(Copy(tall.rows).data);
    }
  }
  [[nodiscard]] const std::vector<Layer>& layers() const { return layers_; }

 private:
  Matrix Copy(Matrix m) {
    const int64_t bytes = kernels::MatrixBytes(m);
    constexpr int64_t kBlock = int64_t{64} << 20;
    if (left_ < bytes) {
      left_ = std::max(kBlock, (bytes + 63) / 64 * 64);
      memory_.push_back(MapPages(left_));
      next_ = memory_.back().get();
    }
    std::memcpy(next_, m.data, static_cast<size_t>(bytes));
    m.data = next_;
    const int64_t whole = (bytes + 63) / 64 * 64;
    next_ += whole, left_ -= whole;
    return m;
  }
  std::vector<std::shared_ptr<std::byte>> memory_;
  std::byte* next_ = nullptr;
  int64_t left_ = 0;
  std::vector<Layer> layers_;
};

// What a pass over the stack read and multiplied.
struct Work {
  int64_t bytes = 0;
  double macs = 0;
};

// Passes of n tokens through a stack, by lists of planted activity.
class Passes {
 public:
  Passes(const Sizes& s, const Stack& stack, ThreadPool& pool)
      : s_(s),
        stack_(stack),
        pool_(pool),
        words_((s.E + 31) / 32),
        x_(kernels::Normals(s.n * s.D, 5)),
        y_(static_cast<size_t>(s.n * s.D)),
        gates_(static_cast<size_t>(s.n * s.E)),
        active_(static_cast<size_t>(s.n * words_)) {}

  [[nodiscard]] const Work& work() const { return work_; }

  // Lists of each token's own experts; `all`: of the union of all tokens' for each token, masked by gates of 0.
  void Lists(const RoutingSource& routing, int64_t position, bool all, bool hot = false) {
    work_ = {};
    for (int64_t layer = 0; layer < s_.layers; ++layer) {
      Plant(routing, static_cast<int>(layer), position, all);
      products_.Begin({.gates = gates_.data(), .active = active_.data(), .n = s_.n, .E = s_.E}, s_.n);
      const Layer& w = stack_.layers()[static_cast<size_t>(layer)];
      if (hot)
        hot_up_.assign(static_cast<size_t>(s_.E), w.up[0]), hot_down_.assign(static_cast<size_t>(s_.E), w.down[0]);
      while (maps_.clear(), products_.AddUp(hot ? hot_up_ : w.up, x_.data(), maps_)) Multiply();
      maps_.clear();
      products_.AddDown(hot ? hot_down_ : w.down, y_.data(), maps_);
      Multiply();
    }
  }

  // All experts as two matrices.
  void Dense() {
    work_ = {};
    hidden_.resize(static_cast<size_t>(s_.n * s_.E * s_.width));
    for (const Layer& w : stack_.layers()) {
      maps_.assign(1, {.w = w.all_up, .x = x_.data(), .y = hidden_.data(), .T = s_.n, .silu = true, .steps = s_.n});
      Multiply();
      maps_.assign(
          1, {.w = w.all_down, .x = hidden_.data(), .y = y_.data(), .T = s_.n, .accumulate = true, .steps = s_.n});
      Multiply();
    }
  }

  // One token; the down matrix as a file has it: an expert's columns of each row.
  void Columns(const RoutingSource& routing, int64_t position) {
    work_ = {};
    for (int64_t layer = 0; layer < s_.layers; ++layer) {
      Plant(routing, static_cast<int>(layer), position, false);
      products_.Begin({.gates = gates_.data(), .active = active_.data(), .n = 1, .E = s_.E}, 1);
      const Layer& w = stack_.layers()[static_cast<size_t>(layer)];
      hidden_.assign(static_cast<size_t>(s_.E * s_.width), 0);
      maps_.clear();
      products_.lists().ForEach([&](int64_t e) {
        maps_.push_back({.w = w.up[static_cast<size_t>(e)],
                         .x = x_.data(),
                         .y = hidden_.data() + e * s_.width,
                         .T = 1,
                         .silu = true});
      });
      Multiply();
      constexpr int64_t kRows = 128;
      pool_.For((s_.D + kRows - 1) / kRows, [&](int64_t task, int) {
        for (int64_t d = task * kRows; d < std::min(s_.D, (task + 1) * kRows); ++d)
          products_.lists().ForEach([&](int64_t e) {
            const float* row = w.rows_down + (d * s_.E + e) * s_.width;
            y_[static_cast<size_t>(d)] += kernels::Dot(row, hidden_.data() + e * s_.width, s_.width);
          });
      });
    }
  }

 private:
  void Plant(const RoutingSource& routing, int layer, int64_t position, bool all) {
    std::vector<uint32_t> any(static_cast<size_t>(words_));
    for (int64_t t = 0; t < s_.n; ++t) {
      uint32_t* bits = active_.data() + t * words_;
      routing.Experts(layer, position + t, {bits, static_cast<size_t>(words_)});
      for (int64_t w = 0; w < words_; ++w) any[static_cast<size_t>(w)] |= bits[w];
      for (int64_t e = 0; e < s_.E; ++e)
        gates_[static_cast<size_t>(t * s_.E + e)] = (bits[e / 32] >> (e % 32) & 1) != 0 ? 0.01f : 0.0f;
    }
    for (int64_t t = 0; all && t < s_.n; ++t) std::ranges::copy(any, active_.begin() + t * words_);
  }
  void Multiply() {
    for (const MatMulArgs& map : maps_) {
      work_.bytes += kernels::MatrixBytes(map.w);
      work_.macs += static_cast<double>(map.w.rows * map.w.cols * map.T);
    }
    kernels::MatMul(maps_, IsQuantised(s_.type) ? kernels::ActType::kQ8 : kernels::ActType::kF32, pool_, scratch_);
  }

  const Sizes& s_;
  const Stack& stack_;
  ThreadPool& pool_;
  int64_t words_;
  std::vector<float> x_, y_, gates_, hidden_;
  std::vector<uint32_t> active_;
  std::vector<Matrix> hot_up_, hot_down_;
  std::vector<MatMulArgs> maps_;
  kernels::ExpertProducts products_;
  kernels::MatMulScratch scratch_;
  Work work_;
};

struct Side {
  std::string name;
  std::function<Work(int64_t turn)> pass;
  std::vector<double> ms{};
  Work work{};
};

// All sides in turn; then a line of each.
void TakeTurns(const Sizes& s, int threads, int64_t reps, std::vector<Side>& sides) {
  for (int64_t turn = -1; turn < reps; ++turn)  // the first turn warms up
    for (Side& side : sides) {
      const double start = Seconds();
      const Work work = side.pass(turn + 1);
      if (turn < 0) continue;
      side.ms.push_back((Seconds() - start) * 1e3);
      side.work.bytes += work.bytes, side.work.macs += work.macs;
    }
  for (const Side& side : sides) {
    std::printf("{\"side\":\"%s\",\"type\":\"%s\",\"n\":%lld,\"threads\":%d,\"mb\":%.3f,\"gmac\":%.4f,\"ms\":[",
                side.name.c_str(), Info(s.type).name, static_cast<long long>(s.n), threads,
                static_cast<double>(side.work.bytes) / static_cast<double>(reps) / 1e6,
                side.work.macs / static_cast<double>(reps) / 1e9);
    for (size_t i = 0; i < side.ms.size(); ++i) std::printf("%s%.4f", i > 0 ? "," : "", side.ms[i]);
    std::printf("]}\n");
    std::fflush(stdout);
  }
}

struct Traces {
  MarkovRouting sparse, dense;
};

void Decode(const Sizes& s, const Traces& traces, int64_t reps, ThreadPool& pool) {
  const bool columns = s.type == WeightType::kF32;
  const Stack stack(s, columns ? Stack::With::kColumns : Stack::With::kDense);
  Passes passes(s, stack, pool);
  std::vector<Side> sides{
      {"sparse", [&](int64_t turn) { return passes.Lists(traces.sparse, turn * s.n, false), passes.work(); }},
      {"dense", [&](int64_t turn) { return passes.Lists(traces.dense, turn * s.n, false), passes.work(); }}};
  if (!columns) sides.push_back({"dense, two matrices", [&](int64_t) { return passes.Dense(), passes.work(); }});
  if (columns)
    sides.push_back(
        {"column-sliced", [&](int64_t turn) { return passes.Columns(traces.sparse, turn * s.n), passes.work(); }});
  TakeTurns(s, pool.threads(), reps, sides);
}

void Verify(const Sizes& s, const Traces& traces, int64_t reps, ThreadPool& pool) {
  const Stack stack(s, Stack::With::kSlabs);
  Sizes one = s;
  one.n = 1;
  Passes passes(s, stack, pool), single(one, stack, pool);
  std::vector<Side> sides{
      {"one token", [&](int64_t turn) { return single.Lists(traces.sparse, turn * s.n, false), single.work(); }},
      {"lists", [&](int64_t turn) { return passes.Lists(traces.sparse, turn * s.n, false), passes.work(); }},
      {"all then mask", [&](int64_t turn) { return passes.Lists(traces.sparse, turn * s.n, true), passes.work(); }},
      {"lists, weights of one expert",
       [&](int64_t turn) { return passes.Lists(traces.sparse, turn * s.n, false, true), passes.work(); }}};
  TakeTurns(s, pool.threads(), reps, sides);
}

// Many tokens of which a share runs each expert: gathered, or all of them.
void Thresholds(Sizes s, int64_t reps, ThreadPool& pool) {
  s.layers = 1;
  const Stack stack(s, Stack::With::kSlabs);
  const Layer& w = stack.layers()[0];
  const std::vector<float> x = kernels::Normals(s.n * s.D, 6), gates(static_cast<size_t>(s.n), 0.01f);
  std::vector<float> hidden(static_cast<size_t>(s.n * s.E * s.width)), y(static_cast<size_t>(s.n * s.D));
  kernels::MatMulScratch scratch;
  const kernels::ActType act = IsQuantised(s.type) ? kernels::ActType::kQ8 : kernels::ActType::kF32;
  for (const double share : {0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95})
    for (const int64_t experts : {int64_t{1}, s.E}) {
      std::vector<std::vector<int32_t>> rows(static_cast<size_t>(experts));
      Rng rng(7);
      for (auto& list : rows)
        for (int32_t t = 0; t < s.n; ++t)
          if (rng.Uniform() < share) list.push_back(t);
      const auto pass = [&](bool gather) {
        Work work;
        std::vector<MatMulArgs> ups, downs;
        for (size_t e = 0; e < rows.size(); ++e) {
          const int64_t T = gather ? static_cast<int64_t>(rows[e].size()) : s.n;
          const int32_t* list = gather ? rows[e].data() : nullptr;
          float* h = hidden.data() + static_cast<int64_t>(e) * s.n * s.width;
          ups.push_back(
              {.w = w.up[e], .x = x.data(), .y = h, .T = T, .x_rows = list, .row_scale = gates.data(), .silu = true});
          downs.push_back({.w = w.down[e], .x = h, .y = y.data(), .T = T, .y_rows = list, .accumulate = true});
          work.macs += 2 * static_cast<double>(s.width * s.D * T);
        }
        kernels::MatMul(ups, act, pool, scratch);
        kernels::MatMul(downs, act, pool, scratch);
        return work;
      };
      char name[64];
      std::snprintf(name, sizeof name, "%s, share %.2f, ", experts == 1 ? "one expert" : "all experts", share);
      std::vector<Side> sides{{name + std::string("gathered"), [&](int64_t) { return pass(true); }},
                              {name + std::string("whole"), [&](int64_t) { return pass(false); }}};
      TakeTurns(s, pool.threads(), reps, sides);
    }
}

void Run(std::map<std::string, std::string> flags) {
  const auto number = [&](const char* flag, int64_t low, int64_t high) {
    return ParseWholeNumber(flags[flag], low, high, flag);
  };
  const auto type = ParseWeightType(flags["--type"]);
  if (!type || Info(*type).block > 32)
    throw Error(ErrorCode::kUsage,
                "--type " + flags["--type"] + ": must be f32, bf16, q8_0, q4_0 or another of blocks up to 32");
  constexpr int64_t kMost = 1 << 16;
  const Sizes s{.type = *type,
                .layers = number("--layers", 1, 1024),
                .D = number("--d", 32, kMost),
                .E = number("--experts", 1, 1024),
                .width = number("--width", 16, kMost),
                .n = number("--tokens", 1, kMost)};
  if (s.D % Info(*type).block != 0 || s.width % Info(*type).block != 0)
    throw Error(ErrorCode::kUsage, "--d and --width: must be whole blocks of --type " + flags["--type"]);
  const int64_t reps = number("--reps", 1, 100000);
  ThreadPool pool(static_cast<int>(number("--threads", 0, 1024)));
  const std::string mode = flags["--mode"];
  if (mode == "thresholds") return Thresholds(s, reps, pool);
  if (s.n > kernels::ExpertProducts::kFew)
    throw Error(ErrorCode::kUsage, "--tokens " + flags["--tokens"] + ": must be 32 at most");
  const int64_t positions = (reps + 2) * s.n;
  const Traces traces{
      MarkovRouting(s.layers, s.E, positions,
                    {.a = ParseNumber(flags["--active"], "--active"), .r = ParseNumber(flags["--reuse"], "--reuse")}),
      MarkovRouting(s.layers, s.E, positions, {})};
  if (mode == "decode") return Decode(s, traces, reps, pool);
  if (mode == "verify") return Verify(s, traces, reps, pool);
  throw Error(ErrorCode::kUsage, "--mode " + mode + ": must be decode, verify or thresholds");
}

}  // namespace
}  // namespace hydra::bench

int main(int argc, char** argv) {
  using namespace hydra;
  try {
    bench::Run(bench::ParseFlags(argc, argv,
                                 {{"--mode", "decode"},
                                  {"--type", "bf16"},
                                  {"--layers", "32"},
                                  {"--d", "1536"},
                                  {"--experts", "48"},
                                  {"--width", "128"},
                                  {"--active", "0.16"},
                                  {"--reuse", "0.87"},
                                  {"--tokens", "1"},
                                  {"--threads", "2"},
                                  {"--reps", "15"}}));
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "bench_blockffn: %s\n", e.what());
    return 2;
  }
}
