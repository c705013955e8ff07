// SPDX-License-Identifier: Apache-2.0
// The list's whole BlockFFN layers: every type of slabs, few tokens and many, widths and numbers of experts around the
// vectors. `size` is the number of tokens. Not here: int8 activations, whose second rounding makes errors of a quantum
// (blockffn_test.cc). Dims as in blockffn.h.
#include "hydra/kernels/kernel_list_blockffn.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/ops.h"

namespace hydra::kernels {

RandomBlockFfn::RandomBlockFfn(const BlockFfnShape& s, uint64_t seed)
    : shape(s),
      x(Normals(s.n * s.D, seed)),
      scale(Normals(s.E, seed + 1)),
      router(WeightType::kF32, s.E, s.D, seed + 2) {
  for (int64_t e = 0; e < s.E; ++e) {
    const auto number = seed + 3 + 2 * static_cast<uint64_t>(e);
    up.emplace_back(s.type, s.de, s.D, number);
    down.emplace_back(s.type, s.D, s.de, number + 1);
  }
  for (size_t e = 3; e < scale.size(); e += 7) scale[e] = 0;
  // Scores around the shift, so that about as many experts are active as it says.
  auto* r = reinterpret_cast<float*>(router.bytes.data());
  const auto D = static_cast<size_t>(s.D);
  for (size_t i = 0; i < router.bytes.size() / sizeof(float); ++i) r[i] /= std::sqrt(static_cast<float>(s.D));
  for (int64_t t = 0; t < s.n; ++t) x[static_cast<size_t>(t) * D] = 1;
  for (int64_t e = 0; e < s.E; ++e) r[static_cast<size_t>(e) * D] = static_cast<float>(s.shift);
}

void RandomBlockFfn::PackFor(ThreadPool& pool) {
  ups.clear(), downs.clear();
  for (size_t e = 0; e < up.size(); ++e) {
    up[e].PackFor(pool), down[e].PackFor(pool);
    ups.push_back(up[e].packed);  // rows of floats, panels of quants
    downs.push_back(IsQuantised(shape.type) ? down[e].packed : down[e].narrow);
  }
}

BlockFfnArgs RandomBlockFfn::Args(float* y, uint32_t* active, int64_t first, int64_t n) const {
  const int64_t words = (shape.E + 31) / 32;
  return {.x = x.data() + first * shape.D,
          .router = router.rows,
          .router_scale = scale.data(),
          .up = ups,
          .down = downs,
          .y = y == nullptr ? nullptr : y + first * shape.D,
          .active_bits = active == nullptr ? nullptr : active + first * words,
          .n = n,
          .D = shape.D,
          .E = shape.E};
}

namespace {

std::vector<float> Decoded(const Matrix& w) {
  std::vector<float> out(static_cast<size_t>(w.rows * w.cols));
  for (int64_t i = 0; i < w.rows; ++i) DecodeMatrixRow(w, i, out.data() + i * w.cols);
  return out;
}

// A row of W times x: the sum, and that of the terms' absolute values.
struct Sums {
  double sum = 0, terms = 0;
};
Sums SumsOf(const std::vector<float>& w, int64_t row, const float* x, int64_t K) {
  Sums s;
  for (int64_t k = 0; k < K; ++k) {
    const double term = double{w[static_cast<size_t>(row * K + k)]} * x[k];
    s.sum += term, s.terms += std::abs(term);
  }
  return s;
}

}  // namespace

double RandomBlockFfn::ErrorInRoundoffs() const {
  const int64_t n = shape.n, D = shape.D, E = shape.E, de = shape.de;
  const double of_row = static_cast<double>(D) / 4 + 8;  // four partial sums at least
  const std::vector<float> scores = Decoded(router.rows);
  std::vector<double> error(static_cast<size_t>(n * D)), inverse(static_cast<size_t>(n));
  for (int64_t t = 0; t < n; ++t) {
    double squares = 0;
    for (int64_t e = 0; e < E; ++e) squares += std::pow(std::max(SumsOf(scores, e, x.data() + t * D, D).sum, 0.0), 2);
    inverse[static_cast<size_t>(t)] = 1 / std::sqrt(squares / static_cast<double>(E) + 1e-5);
  }
  for (int64_t e = 0; e < E; ++e) {
    const std::vector<float> u = Decoded(up[static_cast<size_t>(e)].rows);
    const std::vector<float> d = Decoded(down[static_cast<size_t>(e)].rows);
    for (int64_t t = 0; t < n; ++t) {
      const Sums raw = SumsOf(scores, e, x.data() + t * D, D);
      constexpr double kRoundoff = 6e-8;
      if (raw.sum < -of_row * kRoundoff * raw.terms) continue;  // not active, however it is rounded
      const double factor = std::abs(double{scale[static_cast<size_t>(e)]}) * inverse[static_cast<size_t>(t)];
      const double gate = factor * std::max(raw.sum, 0.0), of_gate = factor * of_row * raw.terms;
      for (int64_t j = 0; j < de; ++j) {
        const Sums up_sums = SumsOf(u, j, x.data() + t * D, D);
        const double hidden = std::abs(up_sums.sum / (1 + std::exp(-up_sums.sum)));
        // Of the up product, of the gate, of SiLU and the down product. The offset of a quant makes terms as well.
        const double roundoffs = 3 * (1.1 * gate * of_row * up_sums.terms + of_gate * hidden) +
                                 3 * gate * (static_cast<double>(E * de) / 4 + 30) * hidden;
        for (int64_t i = 0; i < D; ++i)
          error[static_cast<size_t>(t * D + i)] += roundoffs * std::abs(d[static_cast<size_t>(i * de + j)]);
      }
    }
  }
  return std::ranges::max(error) + 1;
}

namespace {

KernelCase BlockFfnCase(const BlockFfnShape& s, uint64_t seed, bool bounded) {
  struct Inputs {
    RandomBlockFfn layer;
    BlockFfnScratch scratch;
  };
  const auto in = std::make_shared<Inputs>(Inputs{RandomBlockFfn(s, seed), {}});
  ThreadPool pool(1);
  in->layer.PackFor(pool);
  KernelCase c;
  c.text = StrCat(Info(s.type).name, " n ", s.n, " D ", s.D, " E ", s.E, " de ", s.de, " shift ", s.shift);
  c.written = {{.name = "y", .before = Blank(s.n * s.D), .scale = bounded ? in->layer.ErrorInRoundoffs() : 1}};
  c.prepare = [=](ThreadPool& p) { in->layer.PackFor(p); };
  c.simd = [=](Arrays& out, ThreadPool& p) {
    BlockFfn(in->layer.Args(out[0].data(), nullptr, 0, s.n), ActType::kF32, p, in->scratch);
  };
  c.ref = [=](Arrays& out) { ref::BlockFfn(in->layer.Args(out[0].data(), nullptr, 0, s.n), ActType::kF32); };
  return c;
}

BlockFfnShape RandomShape(WeightType type, int64_t n, uint64_t seed) {
  Rng rng(seed, static_cast<uint64_t>(n));
  const auto pick = [&](std::initializer_list<int64_t> of) { return of.begin()[rng.Below(of.size())]; };
  constexpr double kShifts[] = {-0.8, 0, 1.5};
  return {.type = type,
          .n = n,
          .D = IsQuantised(type) ? pick({32, 64}) : pick({16, 33, 40, 64}),
          .E = pick({1, 3, 6, 35}),
          .de = IsQuantised(type) ? 32 : pick({16, 48}),
          .shift = kShifts[rng.Below(3)]};
}

}  // namespace

std::vector<Kernel> BlockFfnKernels() {
  constexpr WeightType kTypes[] = {WeightType::kF32,  WeightType::kF16,  WeightType::kBF16,
                                   WeightType::kQ8_0, WeightType::kQ4_0, WeightType::kQ4_1};
  Kernel k{.name = "BlockFfn", .forms = {}, .max_size = 40, .at_random = {}, .bench = {}};
  for (const WeightType type : kTypes) k.forms.emplace_back(Info(type).name);
  k.at_random = [kTypes](size_t form, int64_t size, uint64_t seed) {
    return BlockFfnCase(RandomShape(kTypes[form], size, seed), seed, true);
  };
  for (const WeightType type : kTypes)  // a layer of the large preset at its published activity
    k.bench.push_back({"blockffn",
                       [type](uint64_t seed) {
                         return BlockFfnCase({type, 1, 1536, 48, 128, -1}, seed, false);
                       },
                       true});
  return {k};
}

}  // namespace hydra::kernels
