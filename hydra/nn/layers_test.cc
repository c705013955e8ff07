// SPDX-License-Identifier: Apache-2.0
// Each layer against a slow form that follows the specification's sentences (specs/hydra.md 13, tests 4, 8, 9, 10, 11).
// Not here: numbers of the numpy oracle (golden_test.cc), gradients (functions_test.cc, gradient_test.cc).
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <tuple>

#include "hydra/nn/attention.h"
#include "hydra/nn/block.h"
#include "hydra/nn/functions.h"
#include "hydra/nn/memory.h"
#include "hydra/nn/model.h"
#include "hydra/nn/moe.h"
#include "hydra/nn/ssm.h"
#include "hydra/nn/testing.h"

namespace hydra::nn {
namespace {

using testing::Difference;
using testing::kTolF64;
using testing::Randn;
using testing::RandomModel;
using torch::Tensor;

Batch PackedBatch(const std::vector<int64_t>& lengths, int64_t chunk_len, int64_t row_len = 0) {
  return Batch::Pack(testing::RandomDocuments(lengths, 61, 1), chunk_len, row_len);
}

// ---- 4: SSD ----

struct SsdCase {
  Tensor x, dt, A, B, C, seq;
};

SsdCase MakeSsdCase(int64_t T, int64_t G, uint64_t seed) {
  constexpr int64_t kRows = 2, kHeads = 4, kHeadDim = 3, kState = 5;
  return {Randn({kRows, T, kHeads, kHeadDim}, seed), torch::rand({kRows, T, kHeads}, torch::kFloat64) + 0.01,
          -torch::exp(Randn({kHeads}, seed + 1)),    Randn({kRows, T, G, kState}, seed + 2),
          Randn({kRows, T, G, kState}, seed + 3),    {}};
}

// h_t = exp(dt A) h_{t-1} + dt x (x) B; y_t = h_t C. Section 2.2, a token at a time; h = `start` at first.
SsdOut Recurrence(const SsdCase& s, Tensor h) {
  const int64_t T = s.x.size(1), heads_per_group = s.x.size(2) / s.B.size(2);
  std::vector<Tensor> y;
  for (int64_t t = 0; t < T; ++t) {
    const auto heads = [&](const Tensor& v) {
      return v.select(1, t).repeat_interleave(heads_per_group, 1);
    };  // [B, H, N]
    if (s.seq.defined() && t > 0) {
      const Tensor same = (s.seq.select(1, t) == s.seq.select(1, t - 1)).to(h.dtype());
      h = h * same.view({-1, 1, 1, 1});
    }
    const Tensor dt = s.dt.select(1, t);  // [B, H]
    const Tensor write = (dt.unsqueeze(-1) * s.x.select(1, t)).unsqueeze(-1) * heads(s.B).unsqueeze(2);
    h = torch::exp(dt * s.A).view({h.size(0), -1, 1, 1}) * h + write;
    y.push_back((h * heads(s.C).unsqueeze(2)).sum(-1));
  }
  return {torch::stack(y, 1), h};
}

void ExpectSsdMatches(const SsdCase& s, const std::string& what) {
  const SsdOut want =
      Recurrence(s, torch::zeros({s.x.size(0), s.x.size(2), s.x.size(3), s.B.size(3)}, torch::kFloat64));
  for (const int64_t Q : {int64_t{1}, int64_t{4}, int64_t{16}, s.x.size(1)}) {
    const SsdOut got = SsdScan(s.x, s.dt, s.A, s.B, s.C, s.seq, Q);
    EXPECT_LT(Difference(got.y, want.y), kTolF64) << what << " Q " << Q;
    EXPECT_LT(Difference(got.state, want.state), kTolF64) << what << " Q " << Q << " state";
  }
}

TEST(Ssd, ChunksOfAnyLengthMatchTheRecurrence) {
  for (const uint64_t seed : {1, 2, 3})
    for (const int64_t G : {1, 2, 4})
      for (const int64_t T : {1, 15, 16, 17, 50}) {
        torch::manual_seed(seed);
        ExpectSsdMatches(MakeSsdCase(T, G, seed),
                         "seed " + std::to_string(seed) + " G " + std::to_string(G) + " T " + std::to_string(T));
      }
}

TEST(Ssd, DtAtBothEndsOfItsClampMatchesToo) {
  torch::manual_seed(4);
  SsdCase s = MakeSsdCase(37, 2, 4);
  s.dt = torch::where(torch::rand_like(s.dt) < 0.5, 0.0, 200.0).to(torch::kFloat64);  // exp(-200 |A|) underflows to 0
  ExpectSsdMatches(s, "0 or 200");
  s.dt.fill_(0);
  EXPECT_EQ(SsdScan(s.x, s.dt, s.A, s.B, s.C, {}, 4).y.abs().max().item<double>(), 0);
  s.dt.fill_(200);
  ExpectSsdMatches(s, "200");
}

TEST(Ssd, DocumentsStartFromNothing) {
  torch::manual_seed(5);
  SsdCase s = MakeSsdCase(43, 2, 5);
  s.seq = torch::tensor({0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
                         2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4},
                        torch::kInt64)
              .expand({2, 43});
  ExpectSsdMatches(s, "documents");
}

// A start state is what earlier tokens wrote: N tokens write its columns, decayed ahead of time by the later writers.
TEST(Ssd, AGivenStateGoesOn) {
  torch::manual_seed(6);
  const int64_t T = 29, N = 5;
  SsdCase s = MakeSsdCase(T, 1, 6);
  const Tensor start = Randn({2, 4, 3, N}, 60);
  const SsdOut want = Recurrence(s, start);
  const Tensor unit_dt = torch::ones({2, N, 4}, torch::kFloat64);
  std::vector<Tensor> writers;
  for (int64_t n = 0; n < N; ++n)
    writers.push_back(start.select(3, n) * torch::exp(-s.A * static_cast<double>(N - 1 - n)).view({1, 4, 1}));
  const Tensor columns = torch::eye(N, torch::kFloat64).view({1, N, 1, N}).expand({2, N, 1, N});
  const SsdOut got = SsdScan(torch::cat({torch::stack(writers, 1), s.x}, 1), torch::cat({unit_dt, s.dt}, 1), s.A,
                             torch::cat({columns, s.B}, 1), torch::cat({columns, s.C}, 1), {}, 7);
  EXPECT_LT(Difference(got.y.narrow(1, N, T), want.y), kTolF64);
  EXPECT_LT(Difference(got.state, want.state), kTolF64);
}

TEST(Ssd, DtIsClampedAfterSoftplus) {
  SsmConfig config;
  const Tensor raw = torch::tensor({-30.0, 0.0, 1.0, 25.0, 300.0}, torch::kFloat64),
               bias = torch::zeros({5}, torch::kFloat64);
  EXPECT_LT(Difference(SsmDt(config, raw, bias), torch::tensor({std::log1p(std::exp(-30.0)), std::log(2.0),
                                                                std::log1p(std::exp(1.0)), 25.0, 300.0},
                                                               torch::kFloat64)),
            1e-15);
  config.dt_limit = {0.5, 2.0};
  EXPECT_TRUE(torch::equal(SsmDt(config, raw, bias),
                           torch::tensor({0.5, std::log(2.0), std::log1p(std::exp(1.0)), 2.0, 2.0}, torch::kFloat64)));
}

// ---- 8: routing ----

TEST(Moe, GatheredProductsMatchALoopOverChunks) {
  const ModelConfig config = HydraNano();
  const int64_t C = config.chunk_len;
  for (const uint64_t seed : {1, 2}) {
    Model model = RandomModel(config, seed);
    const BlockWeights w = BlockWeights::Of(model, 0);
    const Batch batch = Batch::Stack(
        {PackedBatch({40, 7, 100}, C, 192), PackedBatch({190}, C, 192), PackedBatch({16, 16, 15}, C, 192)});
    const Layout layout = Layout::Make(batch, C);
    const Tensor u = Randn({3, 192, config.d_model}, seed);
    const Routes routes = Route(config, 0, w.moe, u, layout, {});
    const Tensor got = ApplyExperts(w.moe, u, routes, layout);
    std::set<double> distinct;
    int64_t n_weights = 0;
    Tensor want = torch::zeros_like(u);
    for (int64_t b = 0; b < 3; ++b)
      for (int64_t t = 0; t < 192; t += C) {
        if (batch.seq_idx[b][t].item<int64_t>() < 0) continue;
        const bool first = batch.pos[b][t].item<int64_t>() == 0;
        const Tensor m = first ? w.moe.init_summary : u[b].narrow(0, t - C, C).mean(0);
        const Tensor z = torch::mv(w.moe.prev_proj, m) + torch::mv(w.moe.first_proj, u[b][t]);
        const Tensor order =
            (z + w.moe.balance_bias).argsort(/*stable=*/true, 0, /*descending=*/true).narrow(0, 0, config.moe.top_k);
        const Tensor p = torch::softmax(z.index_select(0, order), 0);
        EXPECT_TRUE(torch::equal(routes.ids[b][t / C], order)) << b << " " << t;
        for (int64_t j = 0; j < config.moe.top_k; ++j, ++n_weights) {
          distinct.insert(p[j].item<double>());
          const int64_t e = order[j].item<int64_t>();
          for (int64_t i = t; i < t + C && batch.seq_idx[b][i].item<int64_t>() >= 0; ++i) {
            const Tensor h = torch::mv(w.moe.gate_up[e], u[b][i]);
            const Tensor mid = torch::silu(h.narrow(0, 0, config.moe.d_expert)) *
                               h.narrow(0, config.moe.d_expert, config.moe.d_expert);
            want[b][i] += p[j] * torch::mv(w.moe.down[e], mid);
          }
        }
      }
    EXPECT_EQ(static_cast<int64_t>(distinct.size()), n_weights);  // a swapped weight would show
    EXPECT_LT(Difference(got, want), kTolF64) << "seed " << seed;
    EXPECT_EQ(got.index({batch.seq_idx < 0}).abs().max().item<double>(), 0);
  }
}

TEST(Moe, RoundRobinFollowsItsFormula) {
  const ModelConfig config = HydraNano();
  Model model = RandomModel(config, 1);
  const Layout layout = Layout::Make(PackedBatch({100, 40}, config.chunk_len), config.chunk_len);
  const Tensor u = Randn({1, layout.T, config.d_model}, 1);
  for (const int layer : {0, 2, 4}) {
    const Routes routes =
        Route(config, layer, BlockWeights::Of(model, layer).moe, u, layout, {.router_mode = RouterMode::kRoundRobin});
    for (int64_t i = 0; i < layout.n_chunks; ++i) {
      const int64_t c = i < 7 ? i : i - 7;  // 100 tokens are 7 chunks
      EXPECT_EQ(routes.ids[0][i][0].item<int64_t>(), (c + layer) % 8);
      EXPECT_EQ(routes.ids[0][i][1].item<int64_t>(), (c + layer + 4) % 8);
    }
    EXPECT_EQ(routes.route_weights.min().item<double>(), 0.5);
    EXPECT_EQ(routes.route_weights.max().item<double>(), 0.5);
  }
}

TEST(Moe, SelectionObeysTiesAndControls) {
  MoeConfig config;
  config.n_experts = 5;
  config.top_k = 2;
  const Tensor z = torch::tensor({1.0, 3.0, 3.0, 0.0, 2.0}, torch::kFloat64), none = torch::zeros({5}, torch::kFloat64);
  const auto ids = [&](const Controls& controls, const Tensor& bias) {
    const Tensor chosen = SelectExperts(config, z, bias, controls).ids;
    return std::vector<int64_t>(chosen.data_ptr<int64_t>(), chosen.data_ptr<int64_t>() + chosen.numel());
  };
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(ids({}, none), (Ids{1, 2}));
  EXPECT_EQ(ids({.moe_top_k = 1}, none), (Ids{1}));
  EXPECT_EQ(ids({.ban_experts = {1}}, none), (Ids{2, 4}));
  EXPECT_EQ(ids({.ban_experts = {0, 1, 2, 4}}, none), (Ids{3}));  // min(k, experts left)
  EXPECT_EQ(ids({.force_experts = {3, 0, 4}}, none), (Ids{3, 0, 4}));
  EXPECT_EQ(ids({.expert_bias = {0, 0, 0, 9, 0}}, none), (Ids{3, 1}));
  EXPECT_EQ(ids({}, torch::tensor({5.0, 0.0, 0.0, 0.0, 0.0}, torch::kFloat64)), (Ids{0, 1}));
  // Biases select only: weights come from z, at the temperature given.
  const Tensor p =
      SelectExperts(config, z, none, {.router_temperature = 2.0, .expert_bias = {0, 0, 0, 9, 0}}).route_weights;
  EXPECT_NEAR(p[0].item<double>(), std::exp(0.0) / (std::exp(0.0) + std::exp(1.5)), 1e-15);
}

TEST(Moe, LossesCountRealChunks) {
  MoeConfig config;
  config.n_experts = 4;
  config.top_k = 1;
  const Layout layout = Layout::Make(PackedBatch({20, 3}, 8, 48), 8);  // 3 chunks, 1 chunk, 2 of pads
  Routes routes;
  routes.ids = torch::tensor({0, 1, 2, 3, 0, 0}, torch::kInt64).view({1, 6, 1});
  routes.route_weights = torch::ones({1, 6, 1}, torch::kFloat64);
  routes.router_logits = torch::zeros({1, 6, 4}, torch::kFloat64);
  RouterLosses losses = LossesOfRouter(config, routes, layout, {});
  EXPECT_NEAR(losses.terms[TermIndex(RouterTerm::kBalance)].item<double>(), 1, 1e-12);  // uniform
  EXPECT_NEAR(losses.terms[TermIndex(RouterTerm::kZ)].item<double>(), std::log(4.0) * std::log(4.0), 1e-12);
  EXPECT_EQ(losses.load.sum().item<double>(), 4);
  routes.ids.zero_();
  routes.router_logits = torch::tensor({100.0, 0.0, 0.0, 0.0}, torch::kFloat64).expand({1, 6, 4});
  losses = LossesOfRouter(config, routes, layout, {});
  EXPECT_NEAR(losses.terms[TermIndex(RouterTerm::kBalance)].item<double>(), 4, 1e-12);  // all on one expert: E
  EXPECT_NEAR(losses.terms[TermIndex(RouterTerm::kZ)].item<double>(), 1e4, 1e-6);
}

TEST(Moe, TheDomainLossIsOfLabelledChunks) {
  MoeConfig config;
  config.n_experts = 4;
  config.top_k = 2;
  config.temperature = 2;
  config.domains = {{.name = "a", .experts = {0, 1}}, {.name = "b", .experts = {1, 2, 3}}};
  Batch batch = PackedBatch({20, 3}, 8, 48);  // 3 chunks, 1 chunk, 2 of pads
  const auto labelled = [&](int64_t first, int64_t second) {
    batch.domain = torch::where(batch.seq_idx == 0, first, torch::where(batch.seq_idx == 1, second, -1));
    return Layout::Make(batch, 8);
  };
  Routes routes;
  routes.ids = torch::tensor({0, 1, 0, 2, 2, 3, 1, 2, 0, 1, 0, 1}, torch::kInt64).view({1, 6, 2});
  routes.route_weights = torch::full({1, 6, 2}, 0.5, torch::kFloat64);
  const Tensor z = Randn({1, 6, 4}, 8).requires_grad_(true);
  routes.router_logits = z;
  const auto inside = [&](int64_t chunk, const std::vector<int64_t>& experts) {
    const Tensor p = torch::softmax(z[0][chunk] / 2, -1);
    double sum = 0;
    for (const int64_t e : experts) sum += p[e].item<double>();
    return -std::log(sum);
  };
  RouterLosses losses = LossesOfRouter(config, routes, labelled(0, 1), {});
  const double want = inside(0, {0, 1}) + inside(1, {0, 1}) + inside(2, {0, 1}) + inside(3, {1, 2, 3});
  EXPECT_NEAR(losses.terms[TermIndex(RouterTerm::kDomain)].item<double>(), want / 4, 1e-12);
  EXPECT_EQ(losses.in_set[0].item<double>(), 2 + 1 + 0 + 2);
  EXPECT_EQ(losses.in_set[1].item<double>(), 8);
  losses.terms[TermIndex(RouterTerm::kDomain)].backward();
  EXPECT_TRUE(z.grad().isfinite().all().item<bool>());
  EXPECT_LT(z.grad()[0][0][0].item<double>(), 0);  // the set's own gain, the others lose
  EXPECT_GT(z.grad()[0][0][2].item<double>(), 0);
  EXPECT_EQ(z.grad()[0].slice(0, 4).abs().max().item<double>(), 0);  // pads
  // Chunks without a label add nothing.
  losses = LossesOfRouter(config, routes, labelled(-1, 1), {});
  EXPECT_NEAR(losses.terms[TermIndex(RouterTerm::kDomain)].item<double>(), inside(3, {1, 2, 3}) / 4, 1e-12);
  EXPECT_EQ(losses.in_set[1].item<double>(), 2);
  losses = LossesOfRouter(config, routes, labelled(-1, -1), {});
  EXPECT_EQ(losses.terms[TermIndex(RouterTerm::kDomain)].item<double>(), 0);
  batch.domain = Tensor();
  EXPECT_FALSE(
      LossesOfRouter(config, routes, Layout::Make(batch, 8), {}).terms[TermIndex(RouterTerm::kDomain)].defined());
}

// ---- 9: landmarks ----

// The training mask's words: p promoted, chunk(p) < c, (s_p, -p) >= theta_c; per chunk, without p <= t - W.
std::set<int64_t> PoolByTheta(const std::vector<double>& s, const Batch& batch, int64_t chunk, int64_t C, int64_t m,
                              int64_t budget) {
  const auto seq = [&](int64_t t) { return batch.seq_idx[0][t].item<int64_t>(); };
  std::vector<std::pair<double, int64_t>> promoted;  // (-s, p): the best first
  for (int64_t e = 0; e < chunk; ++e) {
    if (seq(e * C) != seq(chunk * C) || seq(e * C + C - 1) < 0) continue;  // another document, or never closed
    std::vector<std::pair<double, int64_t>> of_chunk;
    for (int64_t t = e * C; t < e * C + C; ++t) of_chunk.emplace_back(-s[static_cast<size_t>(t)], t);
    std::sort(of_chunk.begin(), of_chunk.end());
    promoted.insert(promoted.end(), of_chunk.begin(), of_chunk.begin() + m);
  }
  std::sort(promoted.begin(), promoted.end());
  std::set<int64_t> pool;
  const bool full = static_cast<int64_t>(promoted.size()) >= budget;
  for (const auto& entry : promoted)
    if (!full || entry <= promoted[static_cast<size_t>(budget) - 1]) pool.insert(entry.second);
  return pool;
}

TEST(Landmarks, ThetaMaskEqualsTheStreamedPool) {
  AttentionConfig config;
  config.landmark_budget = 5;
  config.landmarks_per_chunk = 2;
  constexpr int64_t C = 8;
  int64_t evicted = 0, ties = 0;
  for (const uint64_t seed : {1, 2, 3, 4})
    for (const bool coarse : {false, true}) {
      const Batch batch = PackedBatch({85, 8, 50, 7, 33}, C, 208);
      const Layout layout = Layout::Make(batch, C);
      Tensor scores = Randn({1, 208}, seed);
      if (coarse) scores = scores.round();  // equal scores everywhere
      std::vector<double> s(scores.data_ptr<double>(), scores.data_ptr<double>() + 208);
      const Tensor pools = LandmarkPools(config, scores, layout);
      std::vector<int64_t> streamed;  // as the decode state keeps it: append, then drop the worst
      for (int64_t c = 0; c < 208 / C; ++c) {
        if (batch.pos[0][c * C].item<int64_t>() == 0) streamed.clear();
        if (batch.seq_idx[0][c * C].item<int64_t>() < 0) continue;
        std::set<int64_t> got;
        for (int64_t j = 0; j < pools.size(2); ++j)
          if (const int64_t p = pools[0][c][j].item<int64_t>(); p >= 0) got.insert(p);
        EXPECT_EQ(got, PoolByTheta(s, batch, c, C, 2, 5)) << "seed " << seed << " chunk " << c;
        EXPECT_EQ(got, std::set<int64_t>(streamed.begin(), streamed.end())) << "seed " << seed << " chunk " << c;
        if (batch.seq_idx[0][c * C + C - 1].item<int64_t>() < 0) continue;  // never closes
        std::vector<int64_t> own;
        for (int64_t t = c * C; t < c * C + C; ++t) own.push_back(t);
        const auto better = [&](int64_t x, int64_t y) {
          return std::pair(-s[static_cast<size_t>(x)], x) < std::pair(-s[static_cast<size_t>(y)], y);
        };
        std::sort(own.begin(), own.end(), better);
        streamed.insert(streamed.end(), own.begin(), own.begin() + 2);
        std::sort(streamed.begin(), streamed.end(), better);
        for (; streamed.size() > 5; ++evicted) {
          ties += s[static_cast<size_t>(streamed.back())] == s[static_cast<size_t>(streamed[4])] ? 1 : 0;
          streamed.pop_back();
        }
      }
    }
  EXPECT_GT(evicted, 20);
  EXPECT_GT(ties, 5);
}

// softmax over an explicit T x T mask, as no product code may do it.
Tensor DenseSparseAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_sigma,
                            const Tensor& lambda, const Tensor& pools, const Batch& batch, int64_t C, int64_t W) {
  const int64_t B = q.size(0), T = q.size(1), A = q.size(2), R = A / k.size(2);
  Tensor out = torch::zeros_like(q);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t) {
      if (batch.seq_idx[b][t].item<int64_t>() < 0) continue;
      std::vector<int64_t> keys;
      std::vector<bool> landmark;
      for (int64_t p = std::max<int64_t>(0, t - W + 1); p <= t; ++p)
        if (torch::equal(batch.seq_idx[b][p], batch.seq_idx[b][t])) keys.push_back(p), landmark.push_back(false);
      for (int64_t j = 0; pools.defined() && j < pools.size(2); ++j)
        if (const int64_t p = pools[b][t / C][j].item<int64_t>(); p >= 0 && p - b * T <= t - W)
          keys.push_back(p - b * T), landmark.push_back(true);
      for (int64_t a = 0; a < A; ++a) {
        std::vector<Tensor> scores, values;
        for (size_t i = 0; i < keys.size(); ++i) {
          Tensor score = torch::dot(q[b][t][a], k[b][keys[i]][a / R]) / std::sqrt(static_cast<double>(q.size(3)));
          if (landmark[i]) score = score + lambda[a] * log_sigma[b][keys[i]];
          scores.push_back(score);
          values.push_back(v[b][keys[i]][a / R]);
        }
        out[b][t][a] = torch::matmul(torch::softmax(torch::stack(scores), 0), torch::stack(values));
      }
    }
  return out;
}

TEST(Attention, TilesMatchADenseMask) {
  constexpr int64_t C = 8, W = 11, A = 4, Dh = 6;
  AttentionConfig config;
  config.landmark_budget = 5;
  config.landmarks_per_chunk = 2;
  const Batch batch = Batch::Stack({PackedBatch({70, 3}, C, 88), PackedBatch({20, 40, 9}, C, 88)});
  const Layout layout = Layout::Make(batch, C);
  const Tensor real = batch.seq_idx >= 0;
  for (const int64_t Akv : {4, 2, 1})
    for (const bool landmarks : {true, false}) {
      const Tensor q = Randn({2, 88, A, Dh}, 1), k = Randn({2, 88, Akv, Dh}, 2), v = Randn({2, 88, Akv, Dh}, 3);
      const Tensor score = Randn({2, 88}, 4), lambda = torch::rand({A}, torch::kFloat64) + 0.5;
      const Tensor pools = landmarks ? LandmarkPools(config, score, layout) : Tensor();
      const Tensor log_sigma = landmarks ? torch::log_sigmoid(score) : Tensor();
      const Tensor got = SparseAttention(q, k, v, log_sigma, landmarks ? lambda : Tensor(), pools, layout, W);
      const Tensor want = DenseSparseAttention(q, k, v, log_sigma, lambda, pools, batch, C, W);
      EXPECT_LT(Difference(got.index({real}), want.index({real})), kTolF64)
          << Akv << " key heads, landmarks " << landmarks;
      // A window over everything is full attention.
      const Tensor full = FullAttention(q, k, v, layout), wide = SparseAttention(q, k, v, {}, {}, {}, layout, 1000);
      EXPECT_LT(Difference(full.index({real}), wide.index({real})), kTolF64) << Akv;
    }
}

TEST(Attention, RopeDependsOnDistanceOnly) {
  const Tensor q = Randn({1, 1, 1, 8}, 1), k = Randn({1, 1, 1, 8}, 2);
  const auto score = [&](int64_t at_q, int64_t at_k) {
    const auto pos = [](int64_t p) { return torch::full({1, 1}, p, torch::kInt64); };
    return (Rope(q, pos(at_q), 100.0) * Rope(k, pos(at_k), 100.0)).sum().item<double>();
  };
  EXPECT_NEAR(score(5, 2), score(1000003, 1000000), 1e-8);
  EXPECT_NEAR(score(0, 0), (q * k).sum().item<double>(), 1e-14);
  EXPECT_GT(std::abs(score(5, 2) - score(5, 3)), 1e-3);
}

// ---- 10: workspace ----

TEST(Workspace, ScanMatchesChunkAfterChunkAndOnlineSoftmax) {
  const ModelConfig config = HydraNano();
  const WorkspaceConfig& c = config.workspace;
  const int64_t C = config.chunk_len, S = c.n_slots, r = c.rank;
  for (const uint64_t seed : {1, 2}) {
    Model model = RandomModel(config, seed);
    const WorkspaceWeights w = BlockWeights::Of(model, 3).workspace;
    const Batch batch = PackedBatch({100, 16, 40}, C, 176);
    const Layout layout = Layout::Make(batch, C);
    const Tensor u = Randn({1, 176, config.d_model}, seed);
    const Tensor states = WorkspaceStates(config, w, u, layout);
    Tensor M, acc, sum, max;
    const auto open = [&] {
      acc = torch::zeros({S, r}, torch::kFloat64);
      sum = torch::zeros({S}, torch::kFloat64);
      max = torch::full({S}, -INFINITY, torch::kFloat64);
    };
    for (int64_t t = 0; t < 176; ++t) {
      if (batch.seq_idx[0][t].item<int64_t>() < 0) continue;
      const int64_t pos = batch.pos[0][t].item<int64_t>();
      if (pos == 0) M = w.init_state;
      if (pos % C == 0) {
        open();
        EXPECT_LT(Difference(states[0][t / C], M), kTolF64) << "seed " << seed << " t " << t;
      }
      const Tensor ut = u[0][t];
      const Tensor logit = torch::mv(w.slot_queries, torch::mv(w.write_k, ut)) / std::sqrt(static_cast<double>(r)) +
                           torch::dot(w.controller_w[1], ut) + w.controller_b[1];
      const Tensor top = torch::maximum(max, logit), old = torch::exp(max - top), now = torch::exp(logit - top);
      acc = acc * old.unsqueeze(1) + now.unsqueeze(1) * torch::mv(w.write_v, ut);
      sum = sum * old + now;
      max = top;
      if ((pos + 1) % C != 0) continue;
      const Tensor proposal = acc / sum.unsqueeze(1);
      const WorkspaceWrite write = WriteWorkspace(c, w, u[0].narrow(0, t + 1 - C, C));
      EXPECT_LT(Difference(write.proposal, proposal), kTolF64);
      // The gate, slot by slot: open for the write_slots largest, ties to the lower slot.
      const Tensor q = torch::mv(proposal, w.write_gate_w[0]) + w.write_gate_b;
      const Tensor order = q.argsort(/*stable=*/true, 0, /*descending=*/true);
      Tensor gate = torch::zeros({S}, torch::kFloat64);
      for (int64_t i = 0; i < c.write_slots; ++i) gate[order[i]] = torch::sigmoid(q[order[i]]);
      EXPECT_LT(Difference(write.gate.squeeze(-1), gate), kTolF64);
      EXPECT_EQ((write.gate != 0).sum().item<int64_t>(), c.write_slots);
      M = (1 - gate).unsqueeze(1) * M + gate.unsqueeze(1) * proposal;
    }
  }
}

// ---- 11: product keys ----

TEST(Pkm, ProductTopKIsTheTopKOfAllSums) {
  const ModelConfig config = HydraNano();
  const PkmConfig& c = config.pkm;
  for (const uint64_t seed : {1, 2, 3}) {
    Model model = RandomModel(config, seed);
    const PkmWeights w = BlockWeights::Of(model, 4).pkm;
    const Tensor u = Randn({200, config.d_model}, seed);
    const PkmRows rows = SelectRows(config, w, u);
    const Tensor raw = torch::linear(u, w.query_proj).view({200, c.n_heads, 2, c.d_key});
    const Tensor q = raw / torch::sqrt(raw.square().mean(-1, true) + config.norm_eps) * w.query_norm;
    const Tensor s = torch::einsum("thsd,hsnd->thsn", {q, w.sub_keys});
    const Tensor all = (s.select(2, 0).unsqueeze(-1) + s.select(2, 1).unsqueeze(-2)).reshape({200, c.n_heads, -1});
    const auto best = torch::topk(all, c.top_k, -1);
    EXPECT_LT(Difference(rows.scores, std::get<0>(best)), kTolF64);
    EXPECT_TRUE(torch::equal(rows.ids, std::get<1>(best))) << "seed " << seed;
  }
}

// Equal sums: the better rank in half 1 wins, then that in half 2; ranks break ties to the lower sub-key.
TEST(Pkm, TiesGoToTheBetterRank) {
  ModelConfig config = testing::Tiny();
  config.pkm.n_heads = 1, config.pkm.n_keys = 4, config.pkm.d_key = 1, config.pkm.top_k = 3;
  config.d_model = 2;
  config.norm_eps = 1e-12;
  PkmWeights w;
  w.query_proj = torch::eye(2, torch::kFloat64);
  w.query_norm = torch::ones({1, 2, 1}, torch::kFloat64);
  w.sub_keys = torch::tensor({2.0, 1.0, 2.0, 0.0, 5.0, 5.0, 4.0, 6.0}, torch::kFloat64).view({1, 2, 4, 1});
  const PkmRows rows = SelectRows(config, w, torch::ones({1, 2}, torch::kFloat64));
  // half 1: keys 0, 2 (2.0), 1; half 2: key 3 (6), 0, 1 (5). Sums: 8: (0,3), (2,3); 7: (0,0), (0,1), (2,0), ..., (1,3)
  EXPECT_EQ(rows.ids[0][0][0].item<int64_t>(), 0 * 4 + 3);
  EXPECT_EQ(rows.ids[0][0][1].item<int64_t>(), 2 * 4 + 3);
  EXPECT_EQ(rows.ids[0][0][2].item<int64_t>(), 0 * 4 + 0);
}

TEST(Pkm, OneTokenAtATimeGivesTheSame) {
  const ModelConfig config = HydraNano();
  Model model = RandomModel(config, 1);
  const BlockWeights w = BlockWeights::Of(model, 4);
  const Tensor x = Randn({2, 30, config.d_model}, 1);
  const Tensor all = Pkm(config, w.pkm, w.pkm_table, x, 0.7);
  for (const int64_t t : {0, 13, 29}) {
    const Tensor one = Pkm(config, w.pkm, w.pkm_table, x.narrow(1, t, 1), 0.7);
    EXPECT_LT(Difference(one, all.narrow(1, t, 1)), kTolF64);
  }
}

}  // namespace
}  // namespace hydra::nn
