// SPDX-License-Identifier: Apache-2.0
// AdamW against torch::optim::AdamW (dense) and a naive loop over rows (sparse), Adafactor against naive loops; saved
// state.
#include "hydra/train/optim.h"

#include <gtest/gtest.h>

#include <torch/optim/adamw.h>
#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/train/adafactor.h"
#include "hydra/train/testing.h"

namespace hydra::train {
namespace {

using torch::Tensor;

Tensor Leaf(const Tensor& value) { return value.clone().requires_grad_(true); }

void SetGrad(Tensor& tensor, const Tensor& grad) { tensor.mutable_grad() = grad; }

// One update is a handful of operations on numbers of size 1; torch does the same ones in another order.
double Tolerance(torch::Dtype dtype, int steps) { return steps * 16 * (dtype == torch::kFloat64 ? 2.3e-16 : 1.2e-7); }

TEST(AdamW, DenseMatchesTorch) {
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kFloat64}) {
    for (const bool decay : {false, true}) {
      torch::manual_seed(1);
      const Tensor start = torch::randn({37, 19}, dtype);
      Tensor ours = Leaf(start), theirs = Leaf(start);
      AdamW optim({{.name = "w", .tensor = ours, .weight_decay = decay}}, {.weight_decay = 0.1, .clip = 0});
      torch::optim::AdamW reference(
          {theirs}, torch::optim::AdamWOptions(1e-2).betas({0.9, 0.95}).eps(1e-8).weight_decay(decay ? 0.1 : 0));
      for (int step = 0; step < 20; ++step) {
        const Tensor grad = torch::randn({37, 19}, dtype);
        SetGrad(ours, grad.clone());
        SetGrad(theirs, grad.clone());
        EXPECT_NEAR(optim.GradNorm(), grad.norm().item<double>(), 1e-4);
        optim.Step(1e-2, optim.GradNorm());
        reference.step();
      }
      EXPECT_LT((ours - theirs).abs().max().item<double>(), Tolerance(dtype, 20)) << dtype << " decay " << decay;
    }
  }
}

TEST(AdamW, ClipsTheNormOfAllGradientsTogether) {
  torch::manual_seed(2);
  Tensor a = Leaf(torch::zeros({5}, torch::kFloat64)), b = Leaf(torch::zeros({3, 4}, torch::kFloat64));
  Tensor rows = Leaf(torch::zeros({6, 2}, torch::kFloat64));
  AdamW optim({{.name = "a", .tensor = a}, {.name = "b", .tensor = b}, {.name = "rows", .tensor = rows, .rows = true}},
              {.eps = 1, .clip = 0.5});
  const Tensor ga = torch::randn({5}, torch::kFloat64), gb = torch::randn({3, 4}, torch::kFloat64);
  SetGrad(a, ga.clone());
  SetGrad(b, gb.clone());
  const Tensor values = torch::randn({3, 2}, torch::kFloat64);
  SetGrad(rows, torch::sparse_coo_tensor(torch::tensor({{4, 1, 4}}), values, {6, 2}));
  const Tensor row4 = values[0] + values[2];
  const double norm = std::sqrt(ga.square().sum().item<double>() + gb.square().sum().item<double>() +
                                row4.square().sum().item<double>() + values[1].square().sum().item<double>());
  EXPECT_NEAR(optim.GradNorm(), norm, 1e-12);
  optim.Step(1.0, norm);
  // First step: m = 0.1 g / 0.1, v = 0.05 g^2 / 0.05, so w = -g / (|g| + eps) with the clipped g.
  const auto want = [&](const Tensor& grad) {
    const Tensor g = grad * (0.5 / norm);
    return -g / (g.abs() + 1);
  };
  EXPECT_LT((a - want(ga)).abs().max().item<double>(), 1e-7);  // the fused kernel takes the scale as a float
  EXPECT_LT((b - want(gb)).abs().max().item<double>(), 1e-7);
  EXPECT_LT((rows[4] - want(row4)).abs().max().item<double>(), 1e-12);
  EXPECT_LT((rows[1] - want(values[1])).abs().max().item<double>(), 1e-12);
  EXPECT_EQ(rows[0].abs().max().item<double>(), 0);
}

// Adam of one row at a time, in the obvious way.
struct NaiveRows {
  std::vector<std::vector<double>> w, m, v;
  std::vector<int> steps;
  NaiveRows(const Tensor& start) : steps(static_cast<size_t>(start.size(0)), 0) {
    for (int64_t r = 0; r < start.size(0); ++r) {
      w.emplace_back();
      for (int64_t i = 0; i < start.size(1); ++i) w.back().push_back(start[r][i].item<double>());
      m.emplace_back(w.back().size(), 0.0);
      v.emplace_back(w.back().size(), 0.0);
    }
  }
  void Step(size_t r, const std::vector<double>& g, double lr) {
    const double b1 = 0.9, b2 = 0.95, eps = 1e-8;
    ++steps[r];
    for (size_t i = 0; i < g.size(); ++i) {
      m[r][i] = b1 * m[r][i] + (1 - b1) * g[i];
      v[r][i] = b2 * v[r][i] + (1 - b2) * g[i] * g[i];
      w[r][i] -=
          lr * (m[r][i] / (1 - std::pow(b1, steps[r]))) / (std::sqrt(v[r][i] / (1 - std::pow(b2, steps[r]))) + eps);
    }
  }
};

TEST(AdamW, RowsMatchANaiveLoopSparseAndDense) {
  for (const bool sparse : {true, false}) {
    for (const uint64_t seed : {1, 2}) {
      SCOPED_TRACE(StrCat("sparse ", sparse, " seed ", seed));
      torch::manual_seed(seed);
      Rng rng(seed);
      constexpr int64_t kRows = 12, kDim = 5;
      const Tensor start = torch::randn({kRows, kDim}, torch::kFloat64);
      Tensor table = Leaf(start);
      NaiveRows naive(start);
      // weight_decay must not matter for rows.
      AdamW optim({{.name = "t", .tensor = table, .weight_decay = true, .lr_scale = 4, .rows = true}},
                  {.weight_decay = 0.5, .clip = 0});
      for (int step = 0; step < 30; ++step) {
        const int64_t n = static_cast<int64_t>(rng.Below(6));  // none, too
        Tensor index = torch::empty({1, n}, torch::kInt64), values = torch::randn({n, kDim}, torch::kFloat64);
        for (int64_t i = 0; i < n; ++i) index[0][i] = static_cast<int64_t>(rng.Below(kRows));  // twice, too
        const Tensor grad = torch::sparse_coo_tensor(index, values, {kRows, kDim});
        SetGrad(table, sparse ? grad : grad.to_dense());
        optim.Step(0.01, optim.GradNorm());
        for (int64_t r = 0; r < kRows; ++r) {
          std::vector<double> sum(kDim, 0.0);
          bool hit = false;
          for (int64_t i = 0; i < n; ++i) {
            if (index[0][i].item<int64_t>() != r) continue;
            hit = true;
            for (int64_t j = 0; j < kDim; ++j) sum[static_cast<size_t>(j)] += values[i][j].item<double>();
          }
          if (hit) naive.Step(static_cast<size_t>(r), sum, 0.04);
        }
      }
      int hit = 0;
      for (int64_t r = 0; r < kRows; ++r) {
        hit += naive.steps[static_cast<size_t>(r)] > 0;
        EXPECT_EQ(optim.State()[2].second[r].item<int64_t>(), naive.steps[static_cast<size_t>(r)]);
        for (int64_t i = 0; i < kDim; ++i)
          EXPECT_NEAR(table[r][i].item<double>(), naive.w[static_cast<size_t>(r)][static_cast<size_t>(i)], 1e-12);
      }
      EXPECT_DOUBLE_EQ(optim.RowsHit(), hit / static_cast<double>(kRows));
    }
  }
}

TEST(AdamW, WithoutAGradientNothingMoves) {
  Tensor on = Leaf(torch::ones({4})), off = Leaf(torch::ones({4}));
  AdamW optim({{.name = "on", .tensor = on}, {.name = "off", .tensor = off}}, {.weight_decay = 0.5});
  SetGrad(on, torch::ones({4}));
  optim.Step(0.1, optim.GradNorm());
  EXPECT_TRUE(torch::equal(off, torch::ones({4})));
  EXPECT_FALSE(torch::equal(on, torch::ones({4})));
  for (const auto& [name, tensor] : optim.State())
    if (name.rfind("off.", 0) == 0) {
      EXPECT_EQ(tensor.abs().sum().item<double>(), 0) << name;
    }
  optim.ZeroGrad();
  EXPECT_FALSE(on.grad().defined());
  EXPECT_EQ(optim.GradNorm(), 0);
}

TEST(AdamW, NamesTheFirstTensorThatIsNotFinite) {
  Tensor a = Leaf(torch::ones({4})), b = Leaf(torch::ones({4, 2}));
  AdamW optim({{.name = "a", .tensor = a}, {.name = "b", .tensor = b, .rows = true}}, {});
  SetGrad(a, torch::ones({4}));
  SetGrad(b, torch::sparse_coo_tensor(torch::tensor({{1}}), torch::full({1, 2}, NAN), {4, 2}));
  EXPECT_FALSE(std::isfinite(optim.GradNorm()));
  EXPECT_EQ(optim.FirstNonFinite(), "gradient of b");
  a.detach()[2] = INFINITY;
  EXPECT_EQ(optim.FirstNonFinite(), "a");
}

TEST(Optimizer, SavedStateGoesOnBitwise) {
  testing::TempDir dir;
  const auto run = [&](OptimizerKind kind, int steps, int save_at) {
    torch::manual_seed(3);
    Tensor w = Leaf(torch::randn({9, 7})), t = Leaf(torch::randn({6, 3}));
    const std::vector<OptimParam> params = {{.name = "w", .tensor = w}, {.name = "t", .tensor = t, .rows = true}};
    auto optim = MakeOptimizer(params, {.kind = kind});
    for (int step = 0; step < steps; ++step) {
      if (step == save_at) {
        std::vector<TensorView> views;
        for (const auto& [name, tensor] : optim->State())
          views.push_back({name, DTypeOf(tensor), tensor.sizes().vec(),
                           static_cast<const std::byte*>(tensor.data_ptr()), static_cast<int64_t>(tensor.nbytes())});
        WriteSafeTensors(dir / "o.safetensors", views, {});
        optim = MakeOptimizer(params, {.kind = kind});
        optim->LoadState(SafeTensors::Open(dir / "o.safetensors"));
      }
      SetGrad(w, torch::randn({9, 7}));
      SetGrad(t, torch::sparse_coo_tensor(torch::randint(6, {1, 4}, torch::kInt64), torch::randn({4, 3}), {6, 3}));
      optim->Step(1e-2, optim->GradNorm());
    }
    return std::pair(w, t);
  };
  for (const OptimizerKind kind : {OptimizerKind::kAdamW, OptimizerKind::kAdafactor}) {
    const auto a = run(kind, 12, -1), b = run(kind, 12, 5);
    EXPECT_TRUE(testing::SameBits(a.first, b.first));
    EXPECT_TRUE(testing::SameBits(a.second, b.second));
  }
}

// Adafactor of a matrix [R, C], entry by entry.
struct NaiveFactored {
  std::vector<double> row, col;
  int step = 0;
  NaiveFactored(int64_t R, int64_t C) : row(static_cast<size_t>(R), 0.0), col(static_cast<size_t>(C), 0.0) {}
  Tensor Step(const Tensor& w, const Tensor& g, double lr, double decay) {
    const size_t R = row.size(), C = col.size();
    const double keep = 1 - std::pow(++step, -0.8);
    const auto at = [](const Tensor& x, size_t r, size_t c) {
      return x[static_cast<int64_t>(r)][static_cast<int64_t>(c)].item<double>();
    };
    double mean = 0, squares = 0;
    for (size_t r = 0; r < R; ++r) {
      double sum = 0;
      for (size_t c = 0; c < C; ++c) sum += at(g, r, c) * at(g, r, c);
      row[r] = keep * row[r] + (1 - keep) * sum / static_cast<double>(C);
      mean += row[r] / static_cast<double>(R);
    }
    for (size_t c = 0; c < C; ++c) {
      double sum = 0;
      for (size_t r = 0; r < R; ++r) sum += at(g, r, c) * at(g, r, c);
      col[c] = keep * col[c] + (1 - keep) * sum / static_cast<double>(R);
    }
    Tensor update = torch::empty_like(g);
    for (size_t r = 0; r < R; ++r)
      for (size_t c = 0; c < C; ++c) {
        const double u = at(g, r, c) / std::sqrt(row[r] * col[c] / mean);
        update[static_cast<int64_t>(r)][static_cast<int64_t>(c)] = u;
        squares += u * u;
      }
    const double rms = std::sqrt(squares / static_cast<double>(R * C));
    return w * (1 - lr * decay) - lr * update / std::max(1.0, rms);
  }
};

TEST(Adafactor, MatricesMatchANaiveLoop) {
  torch::manual_seed(7);
  const Tensor start = torch::randn({2, 5, 3}, torch::kFloat64);  // two experts: each has its own rows and columns
  Tensor w = Leaf(start), single = Leaf(start[0]);
  const std::vector<OptimParam> params = {{.name = "w", .tensor = w}, {.name = "s", .tensor = single, .lr_scale = 2}};
  Adafactor optim(params, {.weight_decay = 0.1, .clip = 0});
  NaiveFactored naive(5, 3);
  Tensor want = start[0].clone();
  for (int step = 0; step < 12; ++step) {
    const Tensor grad = torch::randn({2, 5, 3}, torch::kFloat64) * (step == 6 ? 10 : 1);  // one that is clipped
    SetGrad(w, grad.clone());
    SetGrad(single, grad[0].clone());
    optim.Step(0.01, 1.0);
    want = naive.Step(want, grad[0], 0.02, 0.1);
    EXPECT_LT((single - want).abs().max().item<double>(), 1e-12) << step;
  }
  EXPECT_GT((w - start).abs().min().item<double>(), 0);
  EXPECT_EQ(optim.State().size(), 6U);
  EXPECT_EQ(optim.State()[0].second.sizes(), (std::vector<int64_t>{2, 5}));
  EXPECT_EQ(optim.State()[1].second.sizes(), (std::vector<int64_t>{2, 3}));
}

TEST(Adafactor, VectorsAndRowsMatchTheirFormula) {
  torch::manual_seed(8);
  Tensor v = Leaf(torch::zeros({6}, torch::kFloat64)), table = Leaf(torch::zeros({4, 3}, torch::kFloat64));
  Adafactor optim({{.name = "v", .tensor = v, .weight_decay = false}, {.name = "t", .tensor = table, .rows = true}},
                  {.clip = 0});
  Tensor second = torch::zeros({6}, torch::kFloat64), want = torch::zeros({6}, torch::kFloat64);
  double row_second = 0;
  Tensor row = torch::zeros({3}, torch::kFloat64);
  for (int step = 1; step <= 8; ++step) {
    const Tensor grad = torch::randn({6}, torch::kFloat64), values = torch::randn({1, 3}, torch::kFloat64);
    SetGrad(v, grad.clone());
    SetGrad(table, torch::sparse_coo_tensor(torch::tensor({{2}}), values, {4, 3}));
    optim.Step(0.1, optim.GradNorm());
    const double fresh = std::pow(step, -0.8);
    const auto clipped = [](const Tensor& u) { return u / std::max(1.0, u.square().mean().sqrt().item<double>()); };
    second = (1 - fresh) * second + fresh * grad.square();
    want = want - 0.1 * clipped(grad / second.sqrt());
    row_second = (1 - fresh) * row_second + fresh * values.square().mean().item<double>();
    row = row - 0.1 * clipped(values[0] / std::sqrt(row_second));
    EXPECT_LT((v - want).abs().max().item<double>(), 1e-12) << step;
    EXPECT_LT((table[2] - row).abs().max().item<double>(), 1e-12) << step;
  }
  EXPECT_EQ(table[0].abs().max().item<double>(), 0);
  EXPECT_EQ(optim.RowsHit(), 0.25);
}

TEST(AdamW, ThreadsDoNotChangeBits) {
  const int before = at::get_num_threads();
  std::vector<Tensor> results;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    torch::manual_seed(4);
    Tensor w = Leaf(torch::randn({300, 300}));
    AdamW optim({{.name = "w", .tensor = w}}, {});
    for (int step = 0; step < 3; ++step) {
      SetGrad(w, torch::randn({300, 300}));
      optim.Step(1e-2, 5.0);  // the norm's sum may depend on threads, the update may not
    }
    results.push_back(w.detach());
  }
  at::set_num_threads(before);
  EXPECT_TRUE(testing::SameBits(results[0], results[1]));
}

TEST(AdamW, ParametersOfAModelComeFromTheTable) {
  nn::Model model(testing::TinyConfig());
  int tables = 0, decayed = 0, slow = 0;
  for (const OptimParam& param : OptimParams(model, 4.0)) {
    EXPECT_EQ(param.name.find("balance_bias"), std::string::npos);
    EXPECT_EQ(param.weight_decay, model.table().FindName(param.name)->weight_decay);
    const bool gates = std::ranges::any_of(std::vector{"path_gates", "workspace.controller", "pkm.gate"},
                                           [&](auto* part) { return param.name.find(part) != std::string::npos; });
    EXPECT_EQ(param.lr_scale, param.rows ? 4.0 : gates ? 0.05 : 1.0);
    tables += param.rows;
    decayed += param.weight_decay;
    slow += gates;
  }
  EXPECT_GT(slow, 4);
  EXPECT_EQ(tables, 1);
  EXPECT_GT(decayed, 5);
}

}  // namespace
}  // namespace hydra::train
