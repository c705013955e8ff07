// SPDX-License-Identifier: Apache-2.0
// The formulas of specs/hydra.md 8 and 10, each with its derivation beside it. Parameters and weight bytes are sums
// over the tensor table, so they cannot drift from what is allocated and written.
#include "hydra/model/accounting.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/model/state_layout.h"

namespace hydra {
namespace {

constexpr int64_t kPositionBytes = 8;

int64_t CountLayers(const ModelConfig& c, bool (*has)(const LayerConfig&)) {
  return std::count_if(c.layers.begin(), c.layers.end(), has);
}
int64_t SsmLayers(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.ssm; });
}
int64_t FullLayers(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.attention == AttentionKind::kFull; });
}
int64_t SparseLayers(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.attention == AttentionKind::kSparse; });
}
int64_t WorkspaceSites(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.workspace; });
}
int64_t PkmSites(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.pkm; });
}

bool IsExpert(TensorRole role) { return role == TensorRole::kExpertGateUp || role == TensorRole::kExpertDown; }

// Rows of the PKM table that one token reads: each head keeps kp of them, at each site.
int64_t PkmRowsPerToken(const ModelConfig& c) { return PkmSites(c) * c.pkm.n_heads * c.pkm.top_k; }

// Parameters of one tensor that one token uses.
int64_t ActiveSize(const ModelConfig& c, const TensorSpec& spec) {
  if (IsExpert(spec.role)) return spec.size() / c.moe.n_experts * c.moe.top_k;
  if (spec.role == TensorRole::kPkmTable) return PkmRowsPerToken(c) * c.pkm.d_value;
  // A look-up multiplies nothing: an untied model's active map is its head. Tied, embedding and head are one tensor.
  if (spec.role == TensorRole::kEmbedding && !c.tie_embeddings) return 0;
  return spec.size();
}

// 2 FLOPs for each weight that is multiplied. Hydra: 2 x active, norms included, as its golden numbers are. The
// other families: matrices and conv taps only, which is what is quoted for them elsewhere.
int64_t LinearFlops(const ModelConfig& c) {
  const TensorTable table(c);
  int64_t weights = 0;
  for (const TensorSpec& spec : table.specs())
    if (spec.parameter && (c.family == Family::kHydra || spec.shape.size() > 1)) weights += ActiveSize(c, spec);
  return 2 * weights;
}

// Per token and block. Scan: Cm.Bm inside a chunk 2 G Q N; times x 2 Q di; chunk state in and out 4 N di.
// Step: decay, write (2) and read (2) of h [H,P,N]: 5 N di. Diagonal, either form: the same 5 for its D channels.
int64_t ScanFlops(const ModelConfig& c, FlopForm form) {
  const SsmConfig& s = c.ssm;
  if (s.kind == SsmKind::kDiagonal) return SsmLayers(c) * 5 * c.d_model;
  if (form == FlopForm::kStep) return SsmLayers(c) * 5 * s.d_state * s.d_inner();
  return SsmLayers(c) *
         (2 * s.n_groups * s.scan_chunk * s.d_state + 2 * s.scan_chunk * s.d_inner() + 4 * s.d_state * s.d_inner());
}

// Score and weighted sum: 2 Dh each for every query head and key.
int64_t FlopsPerKey(const ModelConfig& c) { return 4 * c.attention.n_heads * c.attention.head_dim; }

// Read: scores against S slots and their sum, 2 S r each; write: the same for the token's share of every slot.
int64_t WorkspaceFlops(const ModelConfig& c) { return WorkspaceSites(c) * 8 * c.workspace.n_slots * c.workspace.rank; }

// Landmarks in the pool of a sequence with `chunks` closed chunks.
int64_t PoolSize(const ModelConfig& c, int64_t chunks) {
  if (c.attention.landmark_budget <= 0) return 0;
  return std::min(c.attention.landmark_budget, c.attention.landmarks_per_chunk * chunks);
}

// Landmarks that the token at position t sees: those of the pool at or before t - W. Which ones those are is the
// scorer's choice; with promoted positions spread evenly over the closed chunks their share is (t - W + 1) / (c C).
double VisibleLandmarks(const ModelConfig& c, int64_t t) {
  const int64_t chunk = t / c.chunk_len, old = t - c.attention.window + 1;
  if (old <= 0 || chunk == 0) return 0;
  return static_cast<double>(PoolSize(c, chunk)) * static_cast<double>(old) / static_cast<double>(chunk * c.chunk_len);
}

// Keys that the token at position t sees in a sparse layer.
double SparseKeys(const ModelConfig& c, int64_t t) {
  return static_cast<double>(std::min(t + 1, c.attention.window)) + VisibleLandmarks(c, t);
}

// Of a token in the scan form, attention left out.
double FlopsWithoutKeys(const ModelConfig& c) {
  return static_cast<double>(LinearFlops(c) + ScanFlops(c, FlopForm::kScan) + WorkspaceFlops(c));
}

// Numbers of the activations of one token while it passes the widest part of the model: residual, its norm and the
// part's own buffers. Head and query buffers of a piece are reused from part to part.
int64_t ScratchNumbers(const ModelConfig& c) {
  const AttentionConfig& a = c.attention;
  int64_t widest = 0;
  for (const LayerConfig& l : c.layers) {
    if (l.ssm && c.ssm.kind == SsmKind::kMamba2)  // projections in, convolved and gated copies
      widest = std::max(widest, c.ssm.in_proj_dim() + c.ssm.conv_dim() + c.ssm.d_inner());
    if (l.ssm && c.ssm.kind == SsmKind::kDiagonal) widest = std::max(widest, 6 * c.d_model);
    // q, output, k, v; scores of one tile of kPassTokens keys for each head.
    if (l.attention != AttentionKind::kNone)
      widest = std::max(widest, 2 * (a.n_heads + a.n_kv_heads) * a.head_dim + a.n_heads * kPassTokens);
    if (l.ffn == FfnKind::kDense) widest = std::max(widest, 3 * c.d_ff);
    if (l.ffn == FfnKind::kChunkMoe) widest = std::max(widest, c.moe.top_k * (3 * c.moe.d_expert + 2 * c.d_model));
    if (l.workspace) widest = std::max(widest, 4 * c.workspace.rank + 2 * c.workspace.n_slots);
    if (l.pkm)
      widest = std::max(
          widest, 2 * c.pkm.n_heads * (c.pkm.d_key + c.pkm.n_keys) + c.pkm.d_value * (1 + c.pkm.n_heads * c.pkm.top_k));
  }
  return 3 * c.d_model + widest;
}

// Numbers that one thread works in during a pass of `tokens` tokens. SSD over a chunk of Q tokens, as
// kernels/ops_ssd.cc lays it out: B three times (packed, transposed, and C), C_i B_j of all pairs, x and y of a head,
// its state twice, and some rows of Q. Widths are rounded up to a vector of 16.
int64_t ThreadScratchNumbers(const ModelConfig& c, int64_t tokens) {
  if (!c.HasSsm() || c.ssm.kind != SsmKind::kMamba2) return 0;
  constexpr int64_t kRows = 11;  // 6 of mixing weights; dt, both halves of its sums, decays, tails
  const auto up = [](int64_t n) { return (n + 15) / 16 * 16; };
  const int64_t Q = std::min(c.ssm.scan_chunk, tokens), P = c.ssm.head_dim, N = c.ssm.d_state;
  return N * up(Q) + 2 * Q * up(N) + Q * up(Q) + 2 * Q * up(P) + N * up(P) + P * N + kRows * up(Q);
}

int64_t RoundedShare(int64_t bytes, double share) {
  return static_cast<int64_t>(std::llround(static_cast<double>(bytes) * share));
}

}  // namespace

int64_t ParamCounts::Of(Component component) const {
  for (const ComponentParams& row : by_component)
    if (row.component == component) return row.total;
  return 0;
}

ParamCounts CountParams(const ModelConfig& config) {
  ParamCounts counts;
  const TensorTable table(config);
  for (const TensorSpec& spec : table.specs()) {
    if (!spec.parameter) {
      counts.buffers += spec.size();
      continue;
    }
    auto row = std::find_if(counts.by_component.begin(), counts.by_component.end(),
                            [&](const ComponentParams& r) { return r.component == spec.component; });
    if (row == counts.by_component.end()) row = counts.by_component.insert(row, {spec.component, 0, 0});
    const int64_t active = ActiveSize(config, spec);
    row->total += spec.size();
    row->active += active;
    counts.total += spec.size();
    counts.active += active;
  }
  return counts;
}

Flops FlopsPerToken(const ModelConfig& config, int64_t ctx, FlopForm form) {
  HYDRA_CHECK(ctx > 0, "ctx ", ctx);
  const int64_t sparse_keys = std::min(ctx, config.attention.window) + PoolSize(config, ctx / config.chunk_len);
  Flops flops;
  flops.linear = LinearFlops(config);
  flops.attention = FlopsPerKey(config) * (FullLayers(config) * ctx + SparseLayers(config) * sparse_keys);
  flops.scan = ScanFlops(config, form);
  flops.workspace = WorkspaceFlops(config);
  return flops;
}

double MeanForwardFlops(const ModelConfig& config, int64_t tokens) {
  HYDRA_CHECK(tokens > 0, "tokens ", tokens);
  const double full = static_cast<double>(tokens + 1) / 2;  // position t sees t + 1 keys
  double sparse = 0;
  if (SparseLayers(config) > 0)
    for (int64_t t = 0; t < tokens; ++t) sparse += SparseKeys(config, t);
  const double keys = static_cast<double>(FullLayers(config)) * full +
                      static_cast<double>(SparseLayers(config)) * sparse / static_cast<double>(tokens);
  return FlopsWithoutKeys(config) + keys * static_cast<double>(FlopsPerKey(config));
}

DocumentFlops::DocumentFlops(const ModelConfig& config, int64_t longest)
    : per_token_(FlopsWithoutKeys(config)),
      per_key_(static_cast<double>(FlopsPerKey(config))),
      full_layers_(static_cast<double>(FullLayers(config))),
      sparse_layers_(static_cast<double>(SparseLayers(config))),
      sparse_keys_(static_cast<size_t>(longest) + 1) {
  for (size_t t = 0; t + 1 < sparse_keys_.size() && sparse_layers_ > 0; ++t)
    sparse_keys_[t + 1] = sparse_keys_[t] + SparseKeys(config, static_cast<int64_t>(t));
}

double DocumentFlops::operator()(int64_t tokens) const {
  HYDRA_CHECK(tokens > 0 && static_cast<size_t>(tokens) < sparse_keys_.size(), "tokens ", tokens);
  const auto n = static_cast<double>(tokens);
  const double keys = full_layers_ * n * (n + 1) / 2 + sparse_layers_ * sparse_keys_[static_cast<size_t>(tokens)];
  return n * per_token_ + keys * per_key_;
}

StateBytes CountState(const ModelConfig& config, KvDtype kv, StateDtype state) {
  const StateLayout layout(config, kv, state, /*ctx_size=*/0, config.moe.top_k);
  StateBytes bytes;
  for (const auto& block : layout.buffers)
    for (const StateBuffer& buffer : block) switch (buffer.part) {
        case StatePart::kSsm: bytes.ssm += buffer.bytes; break;
        case StatePart::kConv: bytes.conv += buffer.bytes; break;
        case StatePart::kKv: bytes.kv += buffer.bytes; break;
        case StatePart::kLandmarks: bytes.landmarks += buffer.bytes; break;
        case StatePart::kMoe: bytes.moe += buffer.bytes; break;
        case StatePart::kWorkspace: bytes.workspace += buffer.bytes; break;
      }
  return bytes;
}

int64_t KvBytesPerToken(const ModelConfig& config, KvDtype kv) {
  const StateLayout layout(config, kv, StateDtype::kF32, /*ctx_size=*/1, config.moe.top_k);
  int64_t bytes = 0;
  for (const auto& block : layout.buffers)
    for (const StateBuffer& buffer : block) bytes += buffer.growing_bytes();
  return bytes;
}

int64_t DefaultTensorBytes(const TensorSpec& spec) { return spec.size() * DTypeSize(spec.dtype); }

int64_t WeightBytes(const TensorTable& table, const TensorBytes& bytes) {
  int64_t sum = 0;
  for (const TensorSpec& spec : table.specs()) sum += bytes(spec);
  return sum;
}

int64_t StepWeightBytes(const ModelConfig& config, const TensorTable& table, int64_t batch, const TensorBytes& bytes) {
  HYDRA_CHECK(batch > 0, "batch ", batch);
  const MoeConfig& moe = config.moe;
  const double unread =
      std::pow(1.0 - static_cast<double>(moe.top_k) / static_cast<double>(moe.n_experts), static_cast<double>(batch));
  int64_t sum = 0;
  for (const TensorSpec& spec : table.specs()) {
    if (IsExpert(spec.role)) {
      sum += RoundedShare(bytes(spec), 1.0 - unread);
    } else if (spec.role == TensorRole::kPkmTable) {
      const int64_t rows = spec.shape[0];
      sum += bytes(spec) / rows * std::min(rows, batch * PkmRowsPerToken(config));
    } else if (spec.role == TensorRole::kEmbedding && !config.tie_embeddings) {
      sum += bytes(spec) / spec.shape[0] * std::min(spec.shape[0], batch);
    } else {
      sum += bytes(spec);
    }
  }
  return sum;
}

RunBytes CountRun(const ModelConfig& config, const RunOptions& options, const TensorBytes& bytes) {
  const TensorTable table(config);
  const int64_t state = CountState(config, options.kv, options.state).total();
  RunBytes run;
  run.weights = WeightBytes(table, bytes);
  run.state = options.batch * state;
  run.kv_per_token = KvBytesPerToken(config, options.kv);
  run.kv = options.batch * options.ctx * run.kv_per_token;
  run.snapshot = state > 0 ? state + kPositionBytes : 0;
  const int64_t tokens = std::min(kPassTokens, options.ctx);
  run.scratch = (tokens * ScratchNumbers(config) + options.threads * ThreadScratchNumbers(config, tokens) +
                 options.batch * config.vocab_size) *
                kF32Bytes;
  run.read_per_token = (StepWeightBytes(config, table, options.batch, bytes) + run.state + run.kv) / options.batch;
  return run;
}

Fit CheckFit(const ModelConfig& config, const RunOptions& options, int64_t have, const TensorBytes& bytes) {
  const auto need = [&](const RunOptions& o) { return CountRun(config, o, bytes).total(o.batch); };
  Fit fit{.have = have, .need = need(options), .ok = false, .advice = {}};
  fit.ok = fit.need <= have;
  if (fit.ok) return fit;
  // One flag, the least painful first: a smaller KV type, then fewer tokens (multiples of 256), then fewer sequences.
  RunOptions other = options;
  other.kv = KvDtype::kQ8_0;
  if (KvRowBytes(options.kv, 32) > KvRowBytes(other.kv, 32) && need(other) <= have) {
    fit.advice = "--kv-dtype q8_0";
    return fit;
  }
  constexpr int64_t kCtxStep = 256;
  int64_t low = 0, high = options.ctx / kCtxStep;  // the longest ctx that fits lies in [low, high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    other = options;
    other.ctx = middle * kCtxStep;
    (need(other) <= have ? low : high) = middle;
  }
  if (low > 0) {
    fit.advice = StrCat("--ctx ", low * kCtxStep);
    return fit;
  }
  for (int64_t batch = options.batch - 1; batch > 0; --batch) {
    other = options;
    other.batch = batch;
    if (need(other) <= have) {
      fit.advice = StrCat("--batch ", batch);
      return fit;
    }
  }
  return fit;
}

}  // namespace hydra
